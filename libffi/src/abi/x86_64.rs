//! x86_64: win64, with `long double` as MinGW has it or as Microsoft's compilers do.

use core::ffi::c_void;

use calltable::{Convention, RawFrame};

use super::{Place, Places, Returned, Slot, Source, number, parameters};
use crate::run::Gathered;
use crate::types::{Cif, Status, kind};

/// `FFI_WIN64`, of which `FFI_EFI64` is another name, and `FFI_GNUW64`.
const WIN64: u32 = if cfg!(any(windows, target_os = "cygwin")) { 1 } else { 3 };
const GNUW64: u32 = WIN64 + 1;

/// Positions that floating-point arguments have registers for.
const FLOATS: usize = 4;

/// # Safety
/// As for [`super::Plan::new`].
pub(super) unsafe fn describe(cif: &Cif, places: &mut Places) -> Result<Slot, Status> {
    if cif.abi != WIN64 && cif.abi != GNUW64 {
        return Err(Status::BadAbi);
    }
    // SAFETY: by the caller's promise.
    let result = unsafe { &*cif.rtype };
    let first = Place { source: Source::Stack, is_address: true, offset: 0 };
    let returned = match (result.kind, result.size) {
        (kind::VOID, _) => Returned::Nothing,
        // Microsoft's is a double, which libffi calls one where it is.
        (kind::LONGDOUBLE, _) if cif.abi == WIN64 => return Err(Status::BadTypedef),
        (kind::STRUCT | kind::COMPLEX, 1 | 2 | 4 | 8) => Returned::Bytes(0),
        (kind::LONGDOUBLE | kind::STRUCT | kind::COMPLEX, _) => Returned::Hidden(first),
        (kind, size) => Returned::Number(number(kind, size)?, kind),
    };
    places.set_returned(returned);
    // SAFETY: by the caller's promise.
    for (ty, position) in unsafe { parameters(cif) }.zip(usize::from(matches!(returned, Returned::Hidden(_)))..) {
        let is_float = matches!(ty.kind, kind::FLOAT | kind::DOUBLE);
        let source = if is_float && position < FLOATS { Source::Floats } else { Source::Stack };
        places.push(source, 8 * position, !matches!(ty.size, 1 | 2 | 4 | 8))?;
    }
    Ok(Slot { convention: Convention::Win64, bytes: 0, result: None })
}

/// # Safety
/// The place must be one that [`describe`] has found, the frame that of such a call.
#[inline]
pub(crate) unsafe fn address(raw: *mut RawFrame, place: Place, _gathered: *mut Gathered) -> *mut c_void {
    // SAFETY: by the caller's promise.
    unsafe {
        let source = match place.source {
            Source::Floats => (&raw mut (*raw).floats).cast::<c_void>(),
            _ => (*raw).arguments.cast(),
        };
        place.after(source)
    }
}
