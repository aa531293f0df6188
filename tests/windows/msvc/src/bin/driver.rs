//! What a driver makes of the crate: no feature, and no DLL of user mode.
#![no_std]
#![no_main]

#[path = "../guard.rs"]
mod guard;

use calltable::Callback;

/// Says to the linker that the program uses floating point.
#[unsafe(no_mangle)]
static _fltused: i32 = 0;

// What compilers call for a frame of more than a page, of X15 times 16 bytes: it reads of each page. Drivers have it of
// the kernel's libraries.
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl __chkstk",
    ".def __chkstk; .scl 2; .type 32; .endef",
    "__chkstk:",
    "mov x16, sp",
    "sub x17, sp, x15, uxtx #4",
    "1: sub x16, x16, #4096",
    "ldr xzr, [x16]",
    "cmp x16, x17",
    "b.hi 1b",
    "ret",
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Calls a closure through the table. Windows would call this by another name; here it is only linked.
#[unsafe(no_mangle)]
pub extern "C" fn mainCRTStartup() -> i32 {
    let base = core::hint::black_box(40);
    let closure = |value: i32| base + value;
    match Callback::<unsafe extern "system" fn(i32) -> i32>::from_ref(&closure) {
        // SAFETY: the callback lives.
        Ok(callback) => unsafe { callback.code()(2) },
        Err(_) => 1,
    }
}
