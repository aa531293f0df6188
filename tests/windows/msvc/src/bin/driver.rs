//! What a driver makes of the crate: no feature, and no DLL of user mode.
#![no_std]
#![no_main]

#[path = "../guard.rs"]
mod guard;

use calltable::Callback;

/// Says to the linker that the program uses floating point.
#[unsafe(no_mangle)]
static _fltused: i32 = 0;

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
