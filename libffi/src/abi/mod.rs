//! A call interface of libffi's as what the table asks of a slot, and as places in a frame.
//!
//! A file of this folder has for its architecture:
//! - `describe`: where each argument is, and the result, by the rules of libffi's own closures there. These are GCC's,
//!   where Microsoft's compilers have others.
//! - `address`: a place in a frame.

use core::ffi::c_void;

use calltable::{Convention, Signature};

use crate::types::{Cif, Status, Type, kind};
use crate::{free, malloc};

cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86_64")] {
        mod x86_64;
        use x86_64::describe;
        pub(crate) use x86_64::address;
    } else if #[cfg(target_arch = "x86")] {
        mod x86;
        use x86::describe;
        pub(crate) use x86::address;
    } else if #[cfg(target_arch = "aarch64")] {
        mod aarch64;
        use aarch64::describe;
        pub(crate) use aarch64::address;
    }
}

/// Where something is that the foreign code has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) source: Source,
    /// What is there is the address of it.
    pub(crate) is_address: bool,
    /// In bytes from where the source begins.
    pub(crate) offset: u32,
}

impl Place {
    /// # Safety
    /// There its source must begin.
    #[inline]
    unsafe fn after(self, source: *mut c_void) -> *mut c_void {
        // SAFETY: by the caller's promise.
        unsafe {
            let at = source.byte_add(self.offset as usize);
            if self.is_address { at.cast::<*mut c_void>().read() } else { at }
        }
    }
}

/// What a place counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "an architecture has some of them")]
pub(crate) enum Source {
    Stack,
    /// Integer registers, in the order in which the frame has them.
    Registers,
    Floats,
    /// Floating-point registers, so many of them, with so many bytes each of one structure.
    EachOf {
        count: u8,
        size: u8,
    },
    /// The register with the address for a result.
    Memory,
}

/// How a result goes back.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Returned {
    Nothing,
    /// In a register, as a number of that kind.
    Number(calltable::Type, u16),
    /// In registers, as it is in memory; the elements of a homogeneous structure have so many bytes, else 0.
    Bytes(usize),
    /// In memory, whose address was passed.
    Hidden(Place),
}

/// What the table asks of a slot.
pub(crate) struct Slot {
    pub(crate) convention: Convention,
    /// Those on the stack, where the callee removes them.
    pub(crate) bytes: usize,
    pub(crate) result: Option<calltable::Type>,
}

/// How foreign code calls a closure.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Plan {
    pub(crate) returned: Returned,
    count: usize,
    /// Behind this structure: of each argument.
    places: [Place; 0],
}

impl Plan {
    /// Makes the plan for a call interface, and the signature to register its slot by. [`Self::free`] frees both.
    ///
    /// # Safety
    /// `ffi_prep_cif` or `ffi_prep_cif_var` must have filled it.
    pub(crate) unsafe fn new(cif: &Cif) -> Result<(*mut Self, *mut Signature), Status> {
        // The signature is larger than what Windows lets a function have on the stack without asking.
        // SAFETY: functions of C.
        let (plan, signature) = unsafe {
            let places = (cif.nargs as usize).saturating_mul(size_of::<Place>());
            let plan = malloc(places.saturating_add(size_of::<Self>())).cast::<Self>();
            (plan, malloc(size_of::<Signature>()).cast::<Signature>())
        };
        let fill = || {
            if plan.is_null() || signature.is_null() {
                return Err(Status::BadAbi);
            }
            // SAFETY: by the caller's promise; the memory has room for the plan and each place.
            unsafe {
                plan.write(Self { returned: Returned::Nothing, count: 0, places: [] });
                let slot = describe(cif, &mut Places { plan, room: cif.nargs as usize })?;
                signature.write(Signature::empty(slot.convention, false, slot.result).map_err(|_| Status::BadTypedef)?);
                let size = u32::try_from(slot.bytes).map_err(|_| Status::BadTypedef)?;
                if size > 0 {
                    (*signature).push(calltable::Type::Struct { size }).map_err(|_| Status::BadTypedef)?;
                }
                (*signature).check().map_err(|_| Status::BadTypedef)
            }
        };
        if let Err(status) = fill() {
            // SAFETY: nobody has them.
            unsafe { (free(plan.cast()), free(signature.cast())) };
            return Err(status);
        }
        Ok((plan, signature))
    }

    /// Of each argument.
    ///
    /// # Safety
    /// [`Self::new`] must have made it.
    pub(crate) unsafe fn places<'a>(this: *const Self) -> &'a [Place] {
        // SAFETY: by the caller's promise that many have been written there.
        unsafe { core::slice::from_raw_parts((&raw const (*this).places).cast(), (*this).count) }
    }
}

/// A plan whose places are being found.
struct Places {
    plan: *mut Plan,
    room: usize,
}

impl Places {
    /// That of the next argument.
    fn push(&mut self, source: Source, offset: usize, is_address: bool) -> Result<(), Status> {
        let offset = u32::try_from(offset).map_err(|_| Status::BadTypedef)?;
        // SAFETY: `Plan::new` has made it, with room for as many.
        unsafe {
            if (*self.plan).count == self.room {
                return Err(Status::BadTypedef);
            }
            let places = (&raw mut (*self.plan).places).cast::<Place>();
            places.add((*self.plan).count).write(Place { source, is_address, offset });
            (*self.plan).count += 1;
        }
        Ok(())
    }

    fn set_returned(&mut self, returned: Returned) {
        // SAFETY: as above.
        unsafe { (*self.plan).returned = returned };
    }
}

/// The types of the parameters.
///
/// # Safety
/// As for [`Plan::new`].
unsafe fn parameters(cif: &Cif) -> impl Iterator<Item = &Type> {
    // SAFETY: by the caller's promise there are that many, and each is a type.
    (0..cif.nargs as usize).map(|index| unsafe { &**cif.arg_types.add(index) })
}

/// A result that is a structure in memory.
#[cfg_attr(not(target_arch = "x86"), allow(dead_code, reason = "elsewhere nobody asks"))]
fn structure(ty: &Type) -> Result<calltable::Type, Status> {
    Ok(calltable::Type::Struct { size: u32::try_from(ty.size).map_err(|_| Status::BadTypedef)? })
}

/// A result that is a number or an address.
fn number(kind: u16, size: usize) -> Result<calltable::Type, Status> {
    Ok(match (kind, size) {
        (kind::FLOAT, _) => calltable::Type::F32,
        (kind::DOUBLE, _) => calltable::Type::F64,
        (_, 1) => calltable::Type::U8,
        (_, 2) => calltable::Type::U16,
        (_, 4) => calltable::Type::U32,
        (_, 8) => calltable::Type::U64,
        (_, 16) if cfg!(target_pointer_width = "64") => calltable::Type::U128,
        _ => return Err(Status::BadTypedef),
    })
}

/// A number as a register has it. A closure writes integers that are smaller than a register as a whole one.
///
/// # Safety
/// There must be 16 bytes.
pub(crate) unsafe fn in_register(kind: u16, ty: calltable::Type, at: *const c_void) -> u128 {
    // SAFETY: by the caller's promise.
    let bits = unsafe { at.cast::<u128>().read() };
    match kind {
        kind::SINT8 => bits as i8 as u128,
        kind::SINT16 => bits as i16 as u128,
        kind::SINT32 => bits as i32 as u128,
        _ => bits & (u128::MAX >> (128 - 8 * ty.size())),
    }
}
