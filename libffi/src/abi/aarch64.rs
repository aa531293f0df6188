//! AArch64: the Procedure Call Standard, which Windows follows, too, but for variadic functions.

use core::ffi::c_void;

use calltable::{Convention, RawFrame};

use super::{Place, Places, Returned, Slot, Source, number, parameters};
use crate::run::Gathered;
use crate::types::{self, Cif, Status, kind};

/// `FFI_SYSV` and `FFI_WIN64`.
const SYSV: u32 = 1;
const WIN64: u32 = 2;

/// `AARCH64_FLAG_VARARG` of `ffi_cif::flags`.
const VARIADIC: u32 = 1 << 8;

/// X0 to X7, and V0 to V7.
const REGISTERS: usize = 8;

/// Registers and bytes on the stack that are taken.
#[derive(Default)]
struct Taken {
    integers: usize,
    floats: usize,
    bytes: usize,
}

impl Taken {
    /// All of the registers that a value wants, or none, and then no later one of their kind (C.3, C.11).
    fn registers(taken: &mut usize, count: usize, align: usize) -> Option<usize> {
        let first = taken.next_multiple_of(align);
        let is_room = first + count <= REGISTERS;
        *taken = if is_room { first + count } else { REGISTERS };
        is_room.then_some(first)
    }

    fn stack(&mut self, size: usize, align: usize) -> usize {
        let first = self.bytes.next_multiple_of(align.clamp(8, 16));
        self.bytes = first.saturating_add(size.next_multiple_of(8));
        first
    }

    fn integer(&mut self, size: usize, align: usize) -> (Source, usize) {
        match Self::registers(&mut self.integers, size.div_ceil(8), align.div_ceil(8).max(1)) {
            Some(first) => (Source::Registers, 8 * first),
            None => (Source::Stack, self.stack(size, align)),
        }
    }
}

/// # Safety
/// As for [`super::Plan::new`].
pub(super) unsafe fn describe(cif: &Cif, places: &mut Places) -> Result<Slot, Status> {
    if cif.abi != SYSV && cif.abi != WIN64 {
        return Err(Status::BadAbi);
    }
    let is_variadic = cif.abi == WIN64 && cif.flags & VARIADIC != 0;
    // SAFETY: by the caller's promise; so below.
    let result = unsafe { &*cif.rtype };
    // SAFETY: as above.
    let elements = unsafe { homogeneous(result) };
    places.set_returned(match (result.kind, elements) {
        (kind::VOID, _) => Returned::Nothing,
        (kind::FLOAT | kind::DOUBLE, _) => Returned::Number(number(result.kind, result.size)?, result.kind),
        (_, Some((_, size))) => Returned::Bytes(size.into()),
        (kind::STRUCT | kind::COMPLEX, None) if result.size <= 16 => Returned::Bytes(0),
        (kind::STRUCT | kind::COMPLEX, None) => {
            Returned::Hidden(Place { source: Source::Memory, is_address: true, offset: 0 })
        }
        (kind, _) => Returned::Number(number(kind, result.size)?, kind),
    });
    let mut taken = Taken::default();
    // SAFETY: as above.
    for ty in unsafe { parameters(cif) } {
        // SAFETY: as above.
        let elements = unsafe { homogeneous(ty) }.filter(|_| !is_variadic);
        let is_structure = matches!(ty.kind, kind::STRUCT | kind::COMPLEX);
        let align = if is_structure || ty.size > 8 { ty.alignment.into() } else { 8 };
        let (place, is_address) = match elements {
            Some((count, size)) => match Taken::registers(&mut taken.floats, count.into(), 1) {
                Some(first) if is_structure => ((Source::EachOf { count, size }, 16 * first), false),
                Some(first) => ((Source::Floats, 16 * first), false),
                None => ((Source::Stack, taken.stack(ty.size, align)), false),
            },
            None if ty.size > 16 => (taken.integer(8, 8), true),
            // Windows code has half of it in X7 and half on the stack.
            None if is_variadic && ty.size > 8 && taken.integers == REGISTERS - 1 => return Err(Status::BadTypedef),
            None => (taken.integer(ty.size, align), false),
        };
        places.push(place.0, place.1, is_address)?;
    }
    Ok(Slot { convention: Convention::Aapcs64, bytes: 0, result: None })
}

/// Of a floating-point number or a structure of 1 to 4 of one kind alone: how many they are, and the bytes of each.
///
/// # Safety
/// As for [`super::Plan::new`].
unsafe fn homogeneous(ty: &types::Type) -> Option<(u8, u8)> {
    let mut member = None;
    // SAFETY: by the caller's promise.
    if !unsafe { has_one_kind(ty, &mut member) } {
        return None;
    }
    let size = match member? {
        kind::FLOAT => 4,
        kind::DOUBLE => 8,
        kind::LONGDOUBLE => 16,
        _ => return None,
    };
    // Their number says whether there is padding, and, of a union, how many lie side by side.
    let count = ty.size / size;
    (ty.size % size == 0 && (1..=4).contains(&count)).then_some((count as u8, size as u8))
}

/// Whether all members, however they are nested, are of one kind, which is that of `member` if there is one already.
///
/// # Safety
/// As for [`super::Plan::new`].
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

/// # Safety
/// The place must be one that [`describe`] has found, the frame that of such a call. `gathered` must have room.
#[inline]
pub(crate) unsafe fn address(raw: *mut RawFrame, place: Place, gathered: *mut Gathered) -> *mut c_void {
    // SAFETY: by the caller's promise. The elements of a structure take no more room than their registers.
    unsafe {
        let floats = (&raw mut (*raw).floats).cast::<c_void>();
        let source = match place.source {
            Source::Registers => (&raw mut (*raw).registers).cast(),
            Source::Floats => floats,
            Source::Memory => (&raw mut (*raw).memory).cast(),
            Source::EachOf { count, size } => {
                let to = gathered.cast::<c_void>().byte_add(place.offset as usize);
                for element in 0..usize::from(count) {
                    let from = floats.byte_add(place.offset as usize + 16 * element).cast::<u8>();
                    from.copy_to(to.byte_add(element * usize::from(size)).cast(), size.into());
                }
                return to;
            }
            Source::Stack => (*raw).arguments.cast(),
        };
        place.after(source)
    }
}
