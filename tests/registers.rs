//! Every register, flag and stack word around a call, with handlers that wreck whatever they may.
#![cfg(any(target_os = "linux", all(windows, target_env = "gnu", not(target_arch = "x86_64"))))]

use std::sync::Mutex;

/// The cases, which the kernel of `tests-qemu` runs, too.
#[cfg_attr(target_arch = "x86_64", path = "registers/x86_64.rs")]
#[cfg_attr(target_arch = "x86", path = "registers/x86.rs")]
#[cfg_attr(target_arch = "aarch64", path = "registers/aarch64.rs")]
mod cases;

/// The assembly keeps what it sees in static memory.
static SERIAL: Mutex<()> = Mutex::new(());

#[test]
fn direct_lane() {
    let _serial = SERIAL.lock();
    cases::direct_lane();
}

#[test]
fn frame_lane() {
    let _serial = SERIAL.lock();
    cases::frame_lane();
}

#[cfg(target_arch = "aarch64")]
#[test]
fn stale_call() {
    let _serial = SERIAL.lock();
    cases::stale_call();
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn without_the_save_wrecked_registers_show() {
    let _serial = SERIAL.lock();
    cases::without_the_save();
}

/// One that the handler has masked, and left pending, would be raised by the foreign code's next x87 instruction if
/// that does not mask it.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[test]
fn an_x87_exception_that_a_handler_leaves_is_cleared_only_if_the_foreign_code_would_meet_it() {
    use std::arch::asm;

    use calltable::Convention;
    use calltable::table::{self, Binding};

    unsafe extern "efiapi" fn divide(_: *mut std::ffi::c_void) {
        // SAFETY: the dispatcher puts the control word back; the x87 stack is left empty.
        unsafe { asm!("fninit", "fldz", "fldz", "fdivp", "fstp st(0)") };
    }
    const ALL_MASKED: u16 = 0x037f;
    const INVALID: u16 = 1;
    // SAFETY: the handler takes no position and any data.
    let binding = unsafe { Binding::direct(Convention::C, divide as *const _, 0, std::ptr::null_mut()) };
    let key = table::register(&binding.saving_control_words()).unwrap();
    // SAFETY: that is its type.
    let code = unsafe { key.code().cast::<unsafe extern "efiapi" fn()>() };
    for (control, left) in [(ALL_MASKED, INVALID), (ALL_MASKED & !INVALID, 0)] {
        let (mut status, mut after) = (0_u16, 0_u16);
        // SAFETY: the callback lives; compiled code leaves the x87 registers alone between these, and finds them as
        // they are at a program's start.
        unsafe {
            asm!("fninit", "fldcw [{}]", in(reg) &control);
            code();
            asm!("fnstsw [{}]", "fnstcw [{}]", "fninit", in(reg) &mut status, in(reg) &mut after);
        }
        assert_eq!((status & 0x3f, after), (left, control));
    }
    table::release(key).unwrap();
}
