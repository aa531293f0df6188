//! i686: by the rules of GCC, which are others than Microsoft's in two places. In a thiscall or fastcall function the
//! address of a result takes the first register, and behind a 64-bit integer or a structure no argument takes one.

use core::ffi::c_void;

use calltable::{Convention, RawFrame, Type};

use super::{Place, Places, Returned, Slot, Source, number, parameters};
use crate::run::Gathered;
use crate::types::{self, Cif, Status, kind};

const IS_WINDOWS: bool = cfg!(any(windows, target_os = "cygwin"));
/// `FFI_SYSV` and the like.
const SYSV: u32 = 1;
const STDCALL: u32 = if IS_WINDOWS { 2 } else { 5 };
const THISCALL: u32 = 3;
const FASTCALL: u32 = 4;
const MS_CDECL: u32 = if IS_WINDOWS { 5 } else { 8 };

fn returned(result: &types::Type, hidden: Place) -> Result<Returned, Status> {
    Ok(match (result.kind, result.size) {
        (kind::VOID, _) => Returned::Nothing,
        (kind::LONGDOUBLE, _) => Returned::Bytes(0),
        (kind::STRUCT, 1 | 2 | 4 | 8) if IS_WINDOWS => Returned::Bytes(0),
        (kind::COMPLEX, ..=8) => Returned::Bytes(0),
        (kind::STRUCT | kind::COMPLEX, _) => Returned::Hidden(hidden),
        (kind, size) => Returned::Number(number(kind, size)?, kind),
    })
}

/// # Safety
/// As for [`super::Plan::new`].
pub(super) unsafe fn describe(cif: &Cif, places: &mut Places) -> Result<Slot, Status> {
    let (mut convention, all) = match cif.abi {
        SYSV | MS_CDECL => (Convention::Cdecl, 0),
        STDCALL => (Convention::Stdcall, 0),
        THISCALL => (Convention::Thiscall, 1),
        FASTCALL => (Convention::Fastcall, 2),
        _ => return Err(Status::BadAbi),
    };
    // SAFETY: by the caller's promise.
    let result = unsafe { &*cif.rtype };
    let mut registers = 0..all;
    let mut bytes = 0_usize;
    let source = if all > 0 { Source::Registers } else { Source::Stack };
    let returned = returned(result, Place { source, is_address: true, offset: 0 })?;
    places.set_returned(returned);
    // What the dispatcher has to know of it.
    let mut seen = match returned {
        Returned::Number(ty, _) => Some(ty),
        Returned::Bytes(_) if result.kind == kind::LONGDOUBLE => Some(Type::F80),
        _ => None,
    };
    if matches!(returned, Returned::Hidden(_)) {
        if cif.abi == SYSV {
            // The callee removes the address, and no more.
            convention = Convention::Sysv;
            seen = Some(super::structure(result)?);
        }
        bytes = if registers.next().is_some() { 0 } else { 4 };
    }
    // SAFETY: by the caller's promise.
    for ty in unsafe { parameters(cif) } {
        let is_small = ty.size <= 4 && ty.kind != kind::STRUCT && ty.kind != kind::FLOAT;
        if let Some(register) = if is_small { registers.next() } else { None } {
            places.push(Source::Registers, 4 * register, false)?;
            continue;
        }
        if matches!(ty.kind, kind::SINT64 | kind::UINT64 | kind::STRUCT) {
            registers = all..all;
        }
        if ty.kind == kind::STRUCT && ty.alignment >= 16 {
            bytes = bytes.next_multiple_of(16);
        }
        places.push(Source::Stack, bytes, false)?;
        bytes = bytes.saturating_add(ty.size.next_multiple_of(4));
    }
    let is_removed = matches!(convention, Convention::Stdcall | Convention::Thiscall | Convention::Fastcall);
    Ok(Slot { convention, bytes: if is_removed { bytes } else { 0 }, result: seen })
}

/// # Safety
/// The place must be one that [`describe`] has found, the frame that of such a call.
#[inline]
pub(crate) unsafe fn address(raw: *mut RawFrame, place: Place, _gathered: *mut Gathered) -> *mut c_void {
    // SAFETY: by the caller's promise.
    unsafe {
        let source = match place.source {
            Source::Registers => (&raw mut (*raw).registers).cast::<c_void>(),
            _ => (*raw).arguments.cast(),
        };
        place.after(source)
    }
}
