//! A call interface of libffi's as a signature of the table's.
//!
//! A file of this folder has for its architecture `describe`, which follows the rules of libffi's own closures there:
//! those of GCC, and of Microsoft's compilers where the two are the same. Where libffi's rule is another one than the
//! table's, the signature says it in other types: `Struct { size: 4 }` is a word on the stack whatever registers are
//! left, and a result's address is a parameter like any other.

use core::ffi::c_void;

use calltable::{Convention, MAX_PARAMETERS, Signature};

use crate::types::{Cif, Status, Type, kind};

cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86_64")] {
        mod x86_64;
        use x86_64::describe;
    } else if #[cfg(target_arch = "x86")] {
        mod x86;
        use x86::describe;
    } else if #[cfg(target_arch = "aarch64")] {
        mod aarch64;
        use aarch64::describe;
    }
}

/// How foreign code calls a closure.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) signature: Signature,
    /// For each argument of the closure its index in the signature.
    places: [u8; MAX_PARAMETERS],
    count: usize,
    /// The first parameter is the address for the result, which is returned, too.
    pub(crate) result_is_passed: bool,
    /// The kind of the result.
    pub(crate) result: u16,
}

impl Plan {
    /// Writes the plan for a call interface. (It is large: on the way through results it would be copied, and take more
    /// of the stack than Windows lets a function have without asking.)
    ///
    /// # Safety
    /// There must be room for it, and `ffi_prep_cif` or `ffi_prep_cif_var` must have filled the interface.
    pub(crate) unsafe fn write(at: *mut Self, cif: &Cif) -> Result<(), Status> {
        // SAFETY: by the caller's promise.
        let plan = unsafe { describe(at, cif) }?;
        plan.signature.check().map_err(|_| Status::BadTypedef)
    }

    /// One without parameters yet.
    ///
    /// # Safety
    /// There must be room for it.
    unsafe fn empty<'a>(
        at: *mut Self,
        convention: Convention,
        result: Option<calltable::Type>,
        kind: u16,
    ) -> Result<&'a mut Self, Status> {
        let signature = Signature::empty(convention, false, result).map_err(|_| Status::BadTypedef)?;
        // SAFETY: by the caller's promise; these are all fields.
        unsafe {
            (&raw mut (*at).signature).write(signature);
            (&raw mut (*at).places).write([0; MAX_PARAMETERS]);
            (&raw mut (*at).count).write(0);
            (&raw mut (*at).result_is_passed).write(false);
            (&raw mut (*at).result).write(kind);
            Ok(&mut *at)
        }
    }

    /// The next parameter of the signature, which is no argument of the closure's.
    #[cfg_attr(not(target_arch = "x86"), allow(dead_code, reason = "elsewhere the two are the same"))]
    fn skip(&mut self, ty: calltable::Type) -> Result<(), Status> {
        self.signature.push(ty).map_err(|_| Status::BadTypedef)
    }

    /// The next argument.
    fn push(&mut self, ty: calltable::Type) -> Result<(), Status> {
        let index = self.signature.parameters().len();
        self.signature.push(ty).map_err(|_| Status::BadTypedef)?;
        let place = self.places.get_mut(self.count).ok_or(Status::BadTypedef)?;
        *place = u8::try_from(index).map_err(|_| Status::BadTypedef)?;
        self.count += 1;
        Ok(())
    }

    /// The index in the signature of each argument.
    pub(crate) fn places(&self) -> impl Iterator<Item = usize> {
        self.places.iter().take(self.count).map(|place| usize::from(*place))
    }
}

/// The types of the parameters.
///
/// # Safety
/// As for [`Plan::write`].
unsafe fn parameters(cif: &Cif) -> impl Iterator<Item = &Type> {
    // SAFETY: by the caller's promise there are that many, and each is a type.
    (0..cif.nargs as usize).map(|index| unsafe { &**cif.arg_types.add(index) })
}

/// Some bytes in memory.
fn bytes(ty: &Type) -> Result<calltable::Type, Status> {
    let size = u32::try_from(ty.size).map_err(|_| Status::BadTypedef)?;
    Ok(calltable::Type::Struct { size })
}

/// A result that goes in integer registers.
#[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "every structure may be one there"))]
fn integer(ty: &Type) -> Result<calltable::Type, Status> {
    Ok(match ty.size {
        1 => calltable::Type::U8,
        2 => calltable::Type::U16,
        4 => calltable::Type::U32,
        8 => calltable::Type::U64,
        _ => return Err(Status::BadTypedef),
    })
}

/// A result as a register has it. A closure writes integers that are smaller than a register as a whole one.
///
/// # Safety
/// There must be 16 bytes.
pub(crate) unsafe fn result_in_registers(result: u16, ty: calltable::Type, at: *const c_void) -> u128 {
    // SAFETY: by the caller's promise.
    let bits = unsafe { at.cast::<u128>().read() };
    match result {
        kind::SINT8 => bits as i8 as u128,
        kind::SINT16 => bits as i16 as u128,
        kind::SINT32 => bits as i32 as u128,
        _ => bits & (u128::MAX >> (128 - 8 * ty.size())),
    }
}
