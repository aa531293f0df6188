//! x86_64: the Microsoft x64 convention.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use crate::context::layout::ENTRY_STRIDE;
use crate::convention::Convention;
use crate::table::CodePointer;

#[cfg(rustc_assembler)]
#[allow(bad_asm_style, reason = "the file says `.intel_syntax` itself, for the other assemblers")]
mod assembled {
    core::arch::global_asm!(include_str!(concat!(env!("OUT_DIR"), "/calltable.S")), options(raw));
}

unsafe extern "C" {
    /// The first entry of the CALL table.
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_table")]
    static TABLE: u8;
}

pub(crate) const NATIVE: Convention = Convention::Win64;

pub(crate) const fn is_available(convention: Convention) -> bool {
    matches!(convention, Convention::Win64)
}

/// The entry of a slot.
pub(crate) fn entry(slot: usize) -> CodePointer {
    CodePointer::new((&raw const TABLE).wrapping_add(slot * ENTRY_STRIDE).cast())
}

/// The slot whose entry starts at `code`, if any does, for a table of `capacity` entries.
pub(crate) fn slot_at(code: *const c_void, capacity: usize) -> Option<usize> {
    let offset = code.addr().wrapping_sub((&raw const TABLE).addr());
    (offset % ENTRY_STRIDE == 0 && offset / ENTRY_STRIDE < capacity).then_some(offset / ENTRY_STRIDE)
}

/// Whether a win64 function that returns an `R` receives the address for it as a hidden first argument.
///
/// By the convention, results of 1, 2, 4 or 8 bytes come in a register; of the others some do, too: vectors and
/// 128-bit integers in XMM0, and what is a mere wrapper of one. Rust has no name for that property, so the compiler
/// is asked by looking where it expects the first argument of a function that returns an `R`.
pub(crate) fn returns_through_pointer<R>() -> bool {
    if matches!(size_of::<R>(), 0 | 1 | 2 | 4 | 8) {
        return false;
    }
    /// Sets the byte that its first argument points to. `MaybeUninit<R>` is returned as `R` is.
    unsafe extern "win64" fn probe<R>(first: *mut bool) -> MaybeUninit<R> {
        // SAFETY: the only caller, below, passes writable memory as any argument that can be the first.
        unsafe { first.write(true) };
        MaybeUninit::uninit()
    }
    let mut result = MaybeUninit::<R>::uninit();
    let mut second = false;
    // SAFETY: `probe` writes one byte through RCX (memory of more than one byte, see above) or, if RCX is its hidden
    // result pointer, through RDX; its result has room behind RCX. 32 bytes of home space keep RSP a multiple of 16.
    unsafe {
        core::arch::asm!(
            "sub rsp, 32",
            "call rax",
            "add rsp, 32",
            in("rax") probe::<R> as *const (),
            in("rcx") &raw mut result,
            in("rdx") &raw mut second,
            clobber_abi("win64"),
        );
    }
    second
}

/// Stops the program on the spot.
pub(crate) fn trap() -> ! {
    // SAFETY: an invalid instruction; nothing runs after it.
    unsafe { core::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}

/// Writes to standard error, where the target has one that needs no library.
#[cfg(target_os = "linux")]
pub(crate) fn print(message: &[u8]) {
    const SYS_WRITE: usize = 1;
    const STDERR: usize = 2;
    // SAFETY: the system call reads the message and nothing else; it clobbers RCX and R11. That it may fail, or
    // write less than asked, does not matter to a program that is about to stop.
    unsafe {
        core::arch::asm!(
            "syscall",
            inout("rax") SYS_WRITE => _,
            in("rdi") STDERR,
            in("rsi") message.as_ptr(),
            in("rdx") message.len(),
            out("rcx") _,
            out("r11") _,
            options(nostack, readonly),
        );
    }
}

/// Writes to standard error, where the target has one that needs no library: this one has none.
#[cfg(not(target_os = "linux"))]
pub(crate) fn print(_message: &[u8]) {}
