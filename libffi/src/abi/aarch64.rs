//! AArch64: the Procedure Call Standard, which Windows follows, too, but for variadic functions.

use calltable::{Convention, Element, Type};

use super::{Plan, bytes, parameters};
use crate::types::{self, Cif, Status, kind};

/// `FFI_SYSV` and `FFI_WIN64`.
const SYSV: u32 = 1;
const WIN64: u32 = 2;

/// # Safety
/// As for [`Plan::write`].
pub(super) unsafe fn describe<'a>(at: *mut Plan, cif: &Cif) -> Result<&'a mut Plan, Status> {
    if cif.abi != SYSV && cif.abi != WIN64 {
        return Err(Status::BadAbi);
    }
    // SAFETY: by the caller's promise.
    let result = unsafe { &*cif.rtype };
    let ty = match result.kind {
        kind::VOID => None,
        // SAFETY: as above.
        _ => Some(unsafe { type_of(result) }?),
    };
    // SAFETY: as above.
    let plan = unsafe { Plan::empty(at, Convention::Aapcs64, ty, result.kind) }?;
    #[cfg(windows)]
    if cif.is_variadic != 0 {
        plan.signature.set_variadic();
    }
    // SAFETY: by the caller's promise.
    for ty in unsafe { parameters(cif) } {
        // SAFETY: as above.
        let described = unsafe { type_of(ty) }?;
        let is_in_one_register = plan.signature.is_variadic() && described.is_structure() && ty.size <= 8;
        plan.push(if is_in_one_register { bytes(ty)? } else { described })?;
    }
    Ok(plan)
}

/// # Safety
/// As for [`Plan::write`].
unsafe fn type_of(ty: &types::Type) -> Result<Type, Status> {
    Ok(match (ty.kind, ty.size) {
        (kind::FLOAT, _) => Type::F32,
        (kind::DOUBLE, _) => Type::F64,
        (kind::LONGDOUBLE, _) => Type::Homogeneous { element: Element::Vector16, count: 1 },
        (kind::UINT128 | kind::SINT128, _) => Type::U128,
        (kind::STRUCT | kind::COMPLEX, size) => {
            let mut member = None;
            // SAFETY: by the caller's promise.
            let is_homogeneous = unsafe { has_one_kind(ty, &mut member) };
            let element = member.filter(|_| is_homogeneous).and_then(element_of);
            match element {
                // Their number says whether there is padding, and, of a union, how many lie side by side.
                Some(element) if size % element.size() == 0 && size / element.size() <= 4 => {
                    Type::Homogeneous { element, count: (size / element.size()) as u8 }
                }
                _ if ty.alignment >= 16 => Type::Aligned { size: u32::try_from(size).map_err(|_| Status::BadTypedef)? },
                _ => bytes(ty)?,
            }
        }
        (_, 1) => Type::U8,
        (_, 2) => Type::U16,
        (_, 4) => Type::U32,
        (_, 8) => Type::U64,
        _ => return Err(Status::BadTypedef),
    })
}

fn element_of(member: u16) -> Option<Element> {
    match member {
        kind::FLOAT => Some(Element::F32),
        kind::DOUBLE => Some(Element::F64),
        kind::LONGDOUBLE => Some(Element::Vector16),
        _ => None,
    }
}

/// Whether all members, however they are nested, are of one kind, which is that of `member` if there is one already.
///
/// # Safety
/// As for [`Plan::write`].
unsafe fn has_one_kind(ty: &types::Type, member: &mut Option<u16>) -> bool {
    if ty.kind != kind::STRUCT && ty.kind != kind::COMPLEX {
        return *member.get_or_insert(ty.kind) == ty.kind;
    }
    let mut at = ty.elements;
    // SAFETY: by the caller's promise there are elements, up to null.
    while let Some(element) = unsafe { (*at).as_ref() } {
        // SAFETY: as above.
        if !unsafe { has_one_kind(element, member) } {
            return false;
        }
        // SAFETY: this one was not the last.
        at = unsafe { at.add(1) };
    }
    true
}
