//! The table as addresses: from a slot to its entry, from an address to the slot.

use core::ffi::c_void;
use core::ptr::NonNull;

use crate::layout::{CAPACITY, ENTRY_RETURN, ENTRY_STRIDE};

cfg_if::cfg_if! {
    if #[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(target_vendor = "apple")))] {
        mod x86_64;
        #[cfg(dwarf_unwinder)]
        pub(crate) use x86_64::returns_to_exclusive;
        pub(crate) use x86_64::{entry_before, returns_to_count};
    } else if #[cfg(all(target_arch = "x86", not(target_vendor = "apple")))] {
        mod x86;
        pub(crate) use x86::{entry_before, returns_to_count};
    } else if #[cfg(all(
        target_arch = "aarch64",
        target_pointer_width = "64",
        target_endian = "little",
        not(target_vendor = "apple"),
    ))] {
        mod aarch64;
        pub(crate) use aarch64::{entry_before, returns_to_count};
    } else {
        // The build script says so first, with the target's name.
        compile_error!(
            "calltable has no CALL table for this target: it has one for x86_64 (not x32), x86 and aarch64 \
             (little-endian), in ELF and COFF objects, which are those of Windows, UEFI, bare machines and all \
             Unix-like systems but Apple's"
        );
    }
}

/// The address of an entry: what foreign code calls. It is never null, and has the size of a pointer.
///
/// ```
/// use calltable::{Callback, CodePointer, table};
///
/// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref(&|| 42)?;
/// let code: CodePointer = callback.slot().code();
/// assert_eq!(table::slot_of(code.as_ptr()), Some(callback.slot().index()));
/// # Ok::<(), calltable::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct CodePointer(NonNull<c_void>);

// SAFETY: it points to code, which every thread may read and execute.
unsafe impl Send for CodePointer {}
// SAFETY: as above.
unsafe impl Sync for CodePointer {}

impl CodePointer {
    pub(crate) fn new(entry: *const c_void) -> Self {
        // SAFETY: an entry lies in the program's code, and nothing lies at address 0.
        Self(unsafe { NonNull::new_unchecked(entry.cast_mut()) })
    }

    /// The address. Example: [`Self`].
    #[must_use]
    pub fn as_ptr(self) -> *const c_void {
        self.0.as_ptr()
    }
}

/// Where in this crate's assembly an address lies: see [`locate`](crate::table::locate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// In the entry of a slot, live or not.
    Entry {
        /// Its index.
        slot: usize,
    },
    /// In a dispatcher.
    Dispatcher,
}

#[cfg(rustc_assembler)]
#[allow(bad_asm_style, reason = "the file says `.intel_syntax` itself, for the other assemblers")]
mod assembled {
    core::arch::global_asm!(include_str!(concat!(env!("OUT_DIR"), "/calltable.S")), options(raw));
}

unsafe extern "C" {
    /// The first entry of the CALL table.
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_table")]
    static TABLE: u8;
    /// The first byte after the dispatchers, which follow the table.
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_text_end")]
    static TEXT_END: u8;
}

// The two are no part of a shared object's interface: a program that uses this crate by way of a Rust dylib does not
// see them. So each is named by one function, which is never inlined into another crate, as small functions are.

/// Where the table begins.
#[inline(never)]
fn start() -> *const u8 {
    &raw const TABLE
}

/// Where the dispatchers end.
#[inline(never)]
fn end() -> *const u8 {
    &raw const TEXT_END
}

/// The entry of a slot.
#[inline]
pub(crate) fn entry(slot: usize) -> CodePointer {
    CodePointer::new(start().wrapping_add(slot * ENTRY_STRIDE).cast())
}

/// The slot whose entry starts at `code`, if any does.
pub(crate) fn slot_at(code: *const c_void) -> Option<usize> {
    let offset = code.addr().wrapping_sub(start().addr());
    (offset % ENTRY_STRIDE == 0 && offset / ENTRY_STRIDE < CAPACITY).then_some(offset / ENTRY_STRIDE)
}

/// The slot whose entry's CALL pushes this return address.
pub(crate) fn slot_returned_to(address: *const c_void) -> Option<usize> {
    let slot = address.addr().wrapping_sub(start().addr() + ENTRY_RETURN) / ENTRY_STRIDE;
    (slot < CAPACITY).then_some(slot)
}

/// Whether it is this slot's entry whose CALL pushes this return address.
pub(crate) fn returns_to(slot: usize, address: *const c_void) -> bool {
    address.addr() == entry(slot).as_ptr().addr() + ENTRY_RETURN
}

/// Where in the table and the dispatchers an address lies.
pub(crate) fn locate(code: *const c_void) -> Option<Location> {
    let start = start().addr();
    let offset = code.addr().wrapping_sub(start);
    if offset / ENTRY_STRIDE < CAPACITY {
        Some(Location::Entry { slot: offset / ENTRY_STRIDE })
    } else {
        (offset < end().addr() - start).then_some(Location::Dispatcher)
    }
}
