//! x86_64: win64, with `long double` as MinGW has it or as Microsoft's compilers do.

use calltable::{Convention, Type};

use super::{Plan, bytes, integer, parameters};
use crate::types::{Cif, Status, kind};

/// `FFI_WIN64`, of which `FFI_EFI64` is another name, and `FFI_GNUW64`.
const WIN64: u32 = if cfg!(any(windows, target_os = "cygwin")) { 1 } else { 3 };
const GNUW64: u32 = WIN64 + 1;

/// # Safety
/// As for [`Plan::write`].
pub(super) unsafe fn describe<'a>(at: *mut Plan, cif: &Cif) -> Result<&'a mut Plan, Status> {
    if cif.abi != WIN64 && cif.abi != GNUW64 {
        return Err(Status::BadAbi);
    }
    // SAFETY: by the caller's promise.
    let result = unsafe { &*cif.rtype };
    let ty = match result.kind {
        kind::VOID => None,
        kind::FLOAT => Some(Type::F32),
        kind::DOUBLE => Some(Type::F64),
        // Microsoft's is a double, which libffi calls one where it is.
        kind::LONGDOUBLE if cif.abi == WIN64 => return Err(Status::BadTypedef),
        kind::LONGDOUBLE | kind::STRUCT | kind::COMPLEX => Some(bytes(result)?),
        kind::UINT128 | kind::SINT128 => Some(Type::U128),
        _ => Some(integer(result)?),
    };
    // SAFETY: as above.
    let plan = unsafe { Plan::empty(at, Convention::Win64, ty, result.kind) }?;
    // SAFETY: by the caller's promise.
    for ty in unsafe { parameters(cif) } {
        plan.push(match ty.kind {
            kind::FLOAT => Type::F32,
            kind::DOUBLE => Type::F64,
            _ => bytes(ty)?, // in its position, if there is room
        })?;
    }
    Ok(plan)
}
