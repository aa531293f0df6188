//! What an embedder's filter sees of an exception, and what it may say.
//!
//! A policy is safe code: it reads the exception, of which it has a shared reference while the system keeps it, and
//! gives a value. That the value ends an exception is what the unsafe registration of the filter has allowed.

use core::ffi::c_void;
use core::mem::offset_of;

use static_assertions::const_assert_eq;

use crate::frame::RawFrame;
use crate::layout::*;

/// One exception, as Windows hands it to handlers (`EXCEPTION_RECORD`). Elsewhere the embedder's trap handler fills it
/// in: [`seh`](super#without-windows).
#[repr(C)]
#[derive(Debug)]
pub struct ExceptionRecord {
    /// What happened, such as [`ACCESS_VIOLATION`](super::ACCESS_VIOLATION).
    pub code: u32,
    /// Bit 0: execution cannot continue. Bits 1 to 6 belong to an unwinding under way. 0 for a new exception.
    pub flags: u32,
    /// An exception that was being handled when this one came, or null.
    pub nested: *mut ExceptionRecord,
    /// Where it happened: the address of the instruction.
    pub address: *mut c_void,
    /// Number of `parameters` that are set, at most 15.
    pub parameter_count: u32,
    /// What they mean depends on the code: [`Exception::parameters`].
    pub parameters: [usize; 15],
}

/// An exception and the processor's state when it happened (`EXCEPTION_POINTERS`).
///
/// ```
/// use calltable::seh::{ACCESS_VIOLATION, Exception};
/// use calltable::{Callback, Contained, Error};
///
/// type Read = unsafe extern "efiapi" fn(*const u32) -> usize;
///
/// // SAFETY: not at all for any pointer; but a fault ends this callback, and not the program.
/// let read = |pointer: *const u32| unsafe { pointer.read_volatile() } as usize;
/// // The callback returns the address that could not be read.
/// let policy = |exception: &Exception| {
///     assert_eq!(exception.address(), exception.record().address.cast_const());
///     assert!(!exception.context().is_null());
///     match *exception.parameters() {
///         [0, address] if exception.code() == ACCESS_VIOLATION => Some(address),
///         _ => None,
///     }
/// };
/// let handler = Contained::new(read, policy);
/// // SAFETY: a read that faults leaves nothing that must be dropped.
/// match unsafe { Callback::<Read>::from_contained(&handler) } {
///     // SAFETY: the callback lives.
///     Ok(callback) => assert_eq!(unsafe { callback.code()(std::ptr::without_provenance(16)) }, 16),
///     Err(error) => assert_eq!(error, Error::NoExceptions), // not Windows, and nothing is declared
/// }
/// ```
#[repr(C)]
#[derive(Debug)]
pub struct Exception {
    pub(super) record: *mut ExceptionRecord,
    pub(super) context: *mut c_void,
}

impl Exception {
    /// What happened, such as [`ACCESS_VIOLATION`](super::ACCESS_VIOLATION). Example: [`Self`].
    #[must_use]
    pub fn code(&self) -> u32 {
        self.record().code
    }

    /// Where it happened: the address of the instruction. Example: [`Self`].
    #[must_use]
    pub fn address(&self) -> *const c_void {
        self.record().address
    }

    /// The exception's parameters, at most 15: for an access violation 0 (read), 1 (write) or 8 (execute), and the
    /// address; for `RaiseException` what was passed. Source: `EXCEPTION_RECORD`, Microsoft. Example: [`Self`].
    #[must_use]
    pub fn parameters(&self) -> &[usize] {
        let record = self.record();
        record.parameters.get(..record.parameter_count as usize).unwrap_or(&record.parameters)
    }

    /// All that is known of it. Example: [`Self`].
    #[must_use]
    pub fn record(&self) -> &ExceptionRecord {
        // SAFETY: whoever makes an `Exception` has it from the system, and lends it out for no longer than it lives.
        unsafe { &*self.record }
    }

    /// The processor's state: on Windows a `CONTEXT`, which a debugger or `MiniDumpWriteDump` wants; elsewhere what the
    /// embedder's trap handler has passed. Null for [`GCC_THROW`](super::GCC_THROW) on i686, which is no exception of
    /// the system. Example: [`Self`].
    #[must_use]
    pub fn context(&self) -> *mut c_void {
        self.context
    }
}

/// What a filter says of an exception; the numbers are those of `__except`. Examples:
/// [`Dynamic::contained`](crate::Dynamic::contained), [`Binding::contained`](crate::table::Binding::contained).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict(pub i32);

impl Verdict {
    /// Not ours: other handlers are asked, as if the dispatcher were not there.
    pub const SEARCH_ON: Self = Self(0);
    /// The exception ends here: the callback returns what the [`Outcome`] says. So do all positive numbers.
    pub const RETURN: Self = Self(1);
    /// The filter has fixed what was wrong: the handler continues where the exception stopped it, or where the filter
    /// has made its context point to. So do all negative numbers.
    pub const CONTINUE: Self = Self(-1);
}

/// The call that an exception interrupted, and what it is to return. Example:
/// [`Binding::contained`](crate::table::Binding::contained).
#[repr(C)]
#[derive(Debug)]
pub struct Outcome {
    /// The call's arguments as the foreign code passed them; and what it returns, if `handler` is null: on x86_64 in
    /// RAX and XMM0, on AArch64 in X0, X1 and V0 to V3, on i686 in EDX:EAX, or in ST0 if the registration has a
    /// signature with such a result.
    pub frame: RawFrame,
    /// Null, or a handler of the registration's own kind (lane, convention, signature). It is called after the stack
    /// has been unwound, with the arguments and with the address of `room` as its data, and makes the result: one that
    /// needs a hidden pointer, for example.
    pub handler: *const c_void,
    /// Whatever the filter wants to tell `handler`.
    pub room: [u8; OUTCOME_ROOM_SIZE],
}

const_assert_eq!(offset_of!(Outcome, handler), OUTCOME_HANDLER);
const_assert_eq!(offset_of!(Outcome, room), OUTCOME_ROOM);

/// Decides on an exception of a handler. It runs while the handler's frames are still there, on the same stack, and
/// gets the registration's data. An exception of its own goes to the other handlers. Example:
/// [`Binding::contained`](crate::table::Binding::contained).
///
/// `efiapi` is win64 on x86_64, cdecl on i686 and the C convention on AArch64.
pub type ExceptionFilter =
    unsafe extern "efiapi" fn(data: *mut c_void, exception: *const Exception, outcome: *mut Outcome) -> Verdict;
