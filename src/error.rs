//! What can go wrong, each with a sentence that says what to do about it.

use core::fmt;

use crate::convention::Convention;
use crate::layout::{CAPACITY, MAX_POSITIONS};
use crate::name::Users;
use crate::types::{MAX_BYTES, MAX_PARAMETERS, Type};

/// Why a registration, or another change of the table, was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Every slot is live, or waits for running calls after its release.
    ///
    /// With the feature `names` the error says whose they are:
    ///
    /// ```standalone_crate
    /// use calltable::{CAPACITY, Callback, Error, Options};
    ///
    /// let options = Options::new().named("leaks");
    /// let register = || Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref_with(options, &|| 42);
    /// let all: Vec<_> = (0..CAPACITY).map_while(|_| register().ok()).collect();
    /// let error = register().unwrap_err();
    /// let Error::TableFull { users } = error else { panic!("{error}") };
    /// if cfg!(feature = "names") {
    ///     assert!(users.largest().eq([("leaks", CAPACITY)]));
    ///     assert!(error.to_string().contains(&format!("{CAPACITY} are of \"leaks\", 0 have no name")));
    /// } else {
    ///     assert_eq!(users.unnamed(), CAPACITY);
    /// }
    /// ```
    TableFull {
        /// Who has them.
        users: Users,
    },
    /// Another registration, release or listing is under way, or with the feature `names` a refused call that looks for
    /// its name, and the caller asked not to wait for it.
    Busy,
    /// The handler is a null pointer.
    NullHandler,
    /// The direct lane was asked to pass on more argument positions than it copies.
    TooManyPositions {
        /// The number asked for.
        positions: usize,
    },
    /// The target has no such convention.
    ConventionUnavailable(Convention),
    /// A shared registration has been counted `u32::MAX` times.
    TooManyUses,
    /// A registration is to contain exceptions, and on systems other than Windows nobody has said where their chain is:
    /// `calltable::seh::declare` does. Or the target cannot contain any: AArch64.
    NoExceptions,
    /// A registration is to contain exceptions, and its data, which should begin with a filter, is a null pointer.
    NullFilter,
    /// The table is [sealed](crate::table::seal).
    Sealed,
    /// The table cannot be sealed: calls of this slot are counted, or one that was counted still runs.
    Counted {
        /// The slot.
        slot: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableFull { users } => {
                write!(f, "no slot of {CAPACITY} is free")?;
                if cfg!(feature = "names") {
                    write!(f, " ({users})")?;
                }
                f.write_str(
                    ": release callbacks that are no longer called (calltable::table::list shows them, by name with \
                     the feature `names`), or build with more slots: by the variable CALLTABLE_CAPACITY, or, in a \
                     library's manifest, by one of calltable's features slots-4000 to slots-65536",
                )
            }
            Self::Busy => f.write_str(
                "the table is locked by a registration or release under way: try again after it, or use a form that \
                 waits",
            ),
            Self::NullHandler => f.write_str("the handler is a null pointer: give the address of a function"),
            Self::TooManyPositions { positions } => write!(
                f,
                "the direct lane passes on at most {MAX_POSITIONS} argument positions, not {positions}: use a frame \
                 handler"
            ),
            Self::ConventionUnavailable(convention) => write_unavailable(f, *convention),
            Self::TooManyUses => {
                f.write_str("this registration is shared 4294967295 times: release uses that have ended")
            }
            Self::NoExceptions => f.write_str(NO_EXCEPTIONS),
            Self::NullFilter => f.write_str(
                "the data of a registration that contains exceptions is a null pointer: give the address of a structure \
                 that begins with the filter",
            ),
            Self::Sealed => f.write_str(SEALED),
            Self::Counted { slot } => write!(
                f,
                "slot {slot} is tracked or exclusive, or such a call of it still runs: release it and let its calls \
                 return before sealing, or register it without counting"
            ),
        }
    }
}

impl core::error::Error for Error {}

const SEALED: &str = "the table is sealed, and stays as it is: do this before calltable::table::seal";

const NO_EXCEPTIONS: &str = if cfg!(target_arch = "x86") {
    "exceptions can be contained only where FS points to a thread information block: say so with calltable::seh::declare \
     first, or register without containing"
} else {
    "exceptions can be contained only where each thread has a block with their chain: say how to find it with \
     calltable::seh::declare first, or register without containing"
};

/// Why a release did not happen, or has not yet come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The slot is not live under this registration: it was released before.
    NotLive,
    /// Another registration, release or listing is under way, or with the feature `names` a refused call that looks for
    /// its name; nothing has changed.
    Busy,
    /// The entry takes no new calls, but calls that began before still run. Releasing again ends the release.
    InFlight,
    /// As [`Self::InFlight`], and one of the calls is this thread's own: a release that waits, from within the call
    /// that it waits for, could not end.
    OwnCall,
    /// The table is [sealed](crate::table::seal): the registration stays live for ever.
    Sealed,
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotLive => "this registration was released before: release each registration once",
            Self::Busy => {
                "the table is locked by a registration or release under way: try again after it, or use a form that \
                 waits"
            }
            Self::InFlight => "calls of this callback are still running: release it again when they have returned",
            Self::OwnCall => {
                "this release would wait for the call that it is made in: let the handler return first and release then, or \
                 use a form that does not wait and release again when the call has returned"
            }
            Self::Sealed => SEALED,
        })
    }
}

impl core::error::Error for ReleaseError {}

/// A release that did not happen, or has not yet come to its end, and the handle for another one.
///
/// ```
/// use calltable::{Callback, Error, NotReleased, ReleaseError};
///
/// let mut kept = Vec::new();
/// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref(&|| 1)?;
/// match callback.try_release() {
///     Ok(()) => {}
///     Err(NotReleased { handle, error }) => {
///         assert!(matches!(error, ReleaseError::Busy | ReleaseError::InFlight | ReleaseError::Sealed));
///         kept.push(handle); // to be released later
///     }
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotReleased<H> {
    /// What was to be released.
    pub handle: H,
    /// Why it was not.
    pub error: ReleaseError,
}

impl<H> From<NotReleased<H>> for ReleaseError {
    fn from(not_released: NotReleased<H>) -> Self {
        not_released.error
    }
}

impl<H> fmt::Display for NotReleased<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<H: fmt::Debug> core::error::Error for NotReleased<H> {}

/// Why a slot was not given another registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RebindError {
    /// The new registration was refused. Nothing has changed.
    Refused(Error),
    /// The old registration has not ended. After [`ReleaseError::InFlight`] and [`ReleaseError::OwnCall`] the entry
    /// takes no new calls; rebinding again continues.
    NotEnded(ReleaseError),
    /// The old registration is [shared](crate::table::share), and others rely on it. Nothing has changed.
    Shared {
        /// How many releases it takes.
        uses: u32,
    },
    /// The slot has had as many registrations as it can have but for this one. Nothing has changed.
    UsedUp,
}

impl From<ReleaseError> for RebindError {
    fn from(error: ReleaseError) -> Self {
        Self::NotEnded(error)
    }
}

impl fmt::Display for RebindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::NotEnded(ReleaseError::InFlight) => {
                f.write_str("calls of this callback are still running: rebind it again when they have returned")
            }
            Self::NotEnded(error) => error.fmt(f),
            Self::Shared { uses } => write!(
                f,
                "this registration is shared {uses} times: release the other uses first, or register the new handler \
                 in a slot of its own"
            ),
            Self::UsedUp => f.write_str(
                "this slot cannot be rebound any more: register the new handler in another slot, and release this one",
            ),
        }
    }
}

impl core::error::Error for RebindError {}

/// A slot that was not given another registration, and the handle of the one that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRebound<H> {
    /// What was to be rebound.
    pub handle: H,
    /// Why it was not.
    pub error: RebindError,
}

impl<H> From<NotRebound<H>> for RebindError {
    fn from(not_rebound: NotRebound<H>) -> Self {
        not_rebound.error
    }
}

impl<H> fmt::Display for NotRebound<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<H: fmt::Debug> core::error::Error for NotRebound<H> {}

/// Why a signature built at run time was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignatureError {
    /// The target has no such convention.
    ConventionUnavailable(Convention),
    /// More parameters than a signature holds.
    TooManyParameters {
        /// The number given.
        parameters: usize,
    },
    /// On i686 the arguments take more bytes of the stack than a callee can remove.
    TooManyBytes {
        /// What they take.
        bytes: usize,
    },
    /// A method's first parameter is no pointer, or its convention is [`Convention::Sysv`].
    NotAMethod,
    /// A function of this convention removes its arguments, so their number is fixed.
    NotVariadic(Convention),
    /// The parameter with this index (or, where it is `None`, the result) is a structure of no bytes.
    ZeroSized {
        /// Index of the parameter.
        parameter: Option<usize>,
    },
    /// The parameter with this index (or, where it is `None`, the result) is a [homogeneous](Type::Homogeneous)
    /// structure of no or of more than four elements, or an [aligned](Type::Aligned) one of another size than a
    /// multiple of 16.
    NoSuchStructure {
        /// Index of the parameter.
        parameter: Option<usize>,
    },
    /// The parameter with this index (or, where it is `None`, the result) cannot be passed: it would be in a
    /// floating-point register, and this is a build that touches none; or i686 has no such type, or none that compilers
    /// agree on; or it is that of a [variadic](crate::Signature::variadic) function of AArch64 Windows.
    TypeUnavailable {
        /// Index of the parameter.
        parameter: Option<usize>,
    },
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |f: &mut fmt::Formatter<'_>, parameter: &Option<usize>| match parameter {
            Some(index) => write!(f, "parameter {index}"),
            None => f.write_str("the result"),
        };
        match self {
            Self::ConventionUnavailable(convention) => write_unavailable(f, *convention),
            Self::TooManyParameters { parameters } => write!(
                f,
                "a signature holds at most {MAX_PARAMETERS} parameters, not {parameters}: pass a pointer to a structure \
                 instead"
            ),
            Self::TooManyBytes { bytes } => write!(
                f,
                "the arguments take {bytes} bytes of the stack, and a callee can remove at most {MAX_BYTES}: pass a \
                 pointer to a structure instead"
            ),
            Self::NotAMethod => f.write_str(
                "a method's first parameter is `this`, a pointer, and its convention one of Microsoft's: give \
                 Type::Pointer first, or describe it as a function, by Signature::new",
            ),
            Self::NotVariadic(convention) => write!(
                f,
                "a function of the convention {convention} has a fixed number of arguments: give Convention::C, which \
                 variadic functions follow"
            ),
            Self::ZeroSized { parameter } => {
                name(f, parameter)?;
                f.write_str(" has no bytes: leave it out, C has no such type")
            }
            Self::NoSuchStructure { parameter } => {
                name(f, parameter)?;
                f.write_str(
                    " is no structure that C has: give a homogeneous one 1 to 4 elements, an aligned one a multiple of \
                     16 bytes, or ask Type::structure",
                )
            }
            Self::TypeUnavailable { parameter } => {
                name(f, parameter)?;
                f.write_str(" has a type that this target cannot pass by value: pass a pointer to it")
            }
        }
    }
}

impl core::error::Error for SignatureError {}

fn write_unavailable(f: &mut fmt::Formatter<'_>, convention: Convention) -> fmt::Result {
    write!(f, "this target has no {convention} convention: use {}", Convention::NATIVE)
}

/// Why a [`Frame`](crate::Frame) could not give an argument or take a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The signature has no parameter with this index.
    NoSuchParameter {
        /// The index asked for.
        index: usize,
        /// The number of parameters.
        parameters: usize,
    },
    /// The signature declares another type for the argument or result.
    OtherType {
        /// The type the signature declares; `None` for a function without result.
        declared: Option<Type>,
    },
    /// The signature has nothing after its parameters.
    NotVariadic,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchParameter { index, parameters } => {
                write!(f, "there is no argument {index}: the signature has {parameters} parameters, counted from 0")
            }
            Self::OtherType { declared: Some(declared) } => {
                write!(f, "the signature declares the type {declared:?} here: use that")
            }
            Self::OtherType { declared: None } => f.write_str("the signature declares no result: set none"),
            Self::NotVariadic => f.write_str(
                "the signature has a fixed number of arguments: make it by Signature::variadic if more may follow",
            ),
        }
    }
}

impl core::error::Error for FrameError {}
