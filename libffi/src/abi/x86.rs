//! i686: by the rules of GCC, which are others than Microsoft's in two places. In a thiscall or fastcall function the
//! address of a result takes the first register, and behind a 64-bit integer or a structure no argument takes one.

use calltable::{Convention, Type};

use super::{Plan, bytes, integer, parameters};
use crate::types::{self, Cif, Status, kind};

const IS_WINDOWS: bool = cfg!(any(windows, target_os = "cygwin"));
/// `FFI_SYSV` and the like.
const SYSV: u32 = 1;
const STDCALL: u32 = if IS_WINDOWS { 2 } else { 5 };
const THISCALL: u32 = 3;
const FASTCALL: u32 = 4;
const MS_CDECL: u32 = if IS_WINDOWS { 5 } else { 8 };

/// A result.
enum Returned {
    Nothing,
    Directly(Type),
    /// Through memory.
    Hidden,
}

fn returned(result: &types::Type) -> Result<Returned, Status> {
    Ok(match result.kind {
        kind::VOID => Returned::Nothing,
        kind::FLOAT => Returned::Directly(Type::F32),
        kind::DOUBLE => Returned::Directly(Type::F64),
        kind::LONGDOUBLE => Returned::Directly(Type::F80),
        kind::STRUCT if IS_WINDOWS && matches!(result.size, 1 | 2 | 4 | 8) => Returned::Directly(bytes(result)?),
        kind::COMPLEX if result.size <= 8 => Returned::Directly(bytes(result)?),
        kind::STRUCT | kind::COMPLEX => Returned::Hidden,
        _ => Returned::Directly(integer(result)?),
    })
}

/// # Safety
/// As for [`Plan::write`].
pub(super) unsafe fn describe<'a>(at: *mut Plan, cif: &Cif) -> Result<&'a mut Plan, Status> {
    let (convention, mut registers) = match cif.abi {
        SYSV | MS_CDECL => (Convention::Cdecl, 0),
        STDCALL => (Convention::Stdcall, 0),
        THISCALL => (Convention::Thiscall, 1),
        FASTCALL => (Convention::Fastcall, 2),
        _ => return Err(Status::BadAbi),
    };
    // SAFETY: by the caller's promise.
    let result = unsafe { &*cif.rtype };
    let returned = returned(result)?;
    let is_hidden = matches!(returned, Returned::Hidden);
    let is_passed = is_hidden && cif.abi != SYSV;
    let (convention, ty) = match returned {
        Returned::Nothing => (convention, None),
        Returned::Directly(ty) => (convention, Some(ty)),
        Returned::Hidden if is_passed => (convention, Some(Type::Pointer)),
        Returned::Hidden => (Convention::Sysv, Some(bytes(result)?)),
    };
    // SAFETY: as above.
    let plan = unsafe { Plan::empty(at, convention, ty, result.kind) }?;
    // Those on the stack.
    let mut words = usize::from(is_hidden && registers == 0);
    if is_passed {
        plan.result_is_passed = true;
        plan.skip(Type::Pointer)?;
        registers = usize::saturating_sub(registers, 1);
    }
    // SAFETY: by the caller's promise.
    for ty in unsafe { parameters(cif) } {
        if ty.size <= 4 && ty.kind != kind::STRUCT && ty.kind != kind::FLOAT && registers > 0 {
            registers -= 1;
            plan.push(Type::U32)?;
            continue;
        }
        if matches!(ty.kind, kind::SINT64 | kind::UINT64 | kind::STRUCT) {
            registers = 0;
        }
        if ty.kind == kind::STRUCT && ty.alignment >= 16 && words % 4 != 0 {
            plan.skip(Type::Struct { size: 4 * (4 - words as u32 % 4) })?;
            words = words.next_multiple_of(4);
        }
        words += ty.size.div_ceil(4);
        plan.push(bytes(ty)?)?;
    }
    Ok(plan)
}
