//! What differs by architecture: the conventions that entries can have, where a compiler passes things, frames.

use core::ffi::c_void;

use crate::context::layout::{CAPACITY, ENTRY_RETURN, ENTRY_STRIDE};
use crate::table::{CodePointer, Location};

cfg_if::cfg_if! {
    if #[cfg(all(target_arch = "x86_64", not(target_vendor = "apple")))] {
        mod x86_64;
        pub use x86_64::RawFrame;
        pub(crate) use x86_64::*;
    } else if #[cfg(all(target_arch = "x86", not(target_vendor = "apple")))] {
        mod x86;
        pub use x86::RawFrame;
        pub(crate) use x86::*;
    } else {
        compile_error!("calltable has a CALL table for ELF and COFF targets only; this target has another object format");
    }
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
    /// Behind the dispatchers, which follow the table.
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_text_end")]
    static TEXT_END: u8;
}

/// How a call gets at its arguments and the handler at its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Argument positions; on i686 words on the stack.
    pub(crate) positions: usize,
    /// Bits of the context's state.
    pub(crate) flags: usize,
    /// Bytes of arguments that the entry removes from the stack.
    pub(crate) cleanup: u32,
}

/// The entry of a slot.
pub(crate) fn entry(slot: usize) -> CodePointer {
    CodePointer::new((&raw const TABLE).wrapping_add(slot * ENTRY_STRIDE).cast())
}

/// The slot whose entry starts at `code`, if any does.
pub(crate) fn slot_at(code: *const c_void) -> Option<usize> {
    let offset = code.addr().wrapping_sub((&raw const TABLE).addr());
    (offset % ENTRY_STRIDE == 0 && offset / ENTRY_STRIDE < CAPACITY).then_some(offset / ENTRY_STRIDE)
}

/// The slot whose entry's CALL pushes this return address.
pub(crate) fn slot_returned_to(address: *const c_void) -> usize {
    address.addr().wrapping_sub((&raw const TABLE).addr() + ENTRY_RETURN) / ENTRY_STRIDE
}

/// Where in the table and the dispatchers an address lies.
pub(crate) fn locate(code: *const c_void) -> Option<Location> {
    let start = (&raw const TABLE).addr();
    let offset = code.addr().wrapping_sub(start);
    if offset / ENTRY_STRIDE < CAPACITY {
        Some(Location::Entry { slot: offset / ENTRY_STRIDE })
    } else {
        (offset < (&raw const TEXT_END).addr() - start).then_some(Location::Dispatcher)
    }
}

/// Stops the program on the spot.
pub(crate) fn trap() -> ! {
    // SAFETY: an invalid instruction; nothing runs after it.
    unsafe { core::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}

cfg_if::cfg_if! {
    if #[cfg(all(windows, feature = "message"))] {
        mod windows;
        pub(crate) use windows::print;
    } else if #[cfg(not(target_os = "linux"))] {
        /// Writes to standard error: there is none here, or none that may be used.
        pub(crate) fn print(_message: &core::ffi::CStr) {}
    }
}
