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

/// The foreign code takes one from the x87 stack if the function's result is a floating-point number.
#[cfg(target_arch = "x86")]
#[test]
fn a_refused_call_leaves_as_many_results_on_the_x87_stack_as_the_registration_would() {
    use std::cell::Cell;
    use std::ffi::c_void;

    use calltable::table::{self, Binding};
    use calltable::{Convention, RawFrame, Signature, Type, set_stale_handler};

    #[derive(Default)]
    struct Calls {
        code: Cell<usize>,
        refused: Cell<Option<u16>>,
    }

    /// The x87 registers that are in use after a call.
    ///
    /// # Safety
    /// `code` must be an entry whose call takes no argument.
    unsafe fn call(code: usize) -> u16 {
        let mut environment = [0_u16; 14];
        // SAFETY: by the caller's promise; the x87 stack is empty before and after.
        unsafe {
            std::arch::asm!("call eax", "fnstenv [edi]", "fldenv [edi]", "emms",
                inout("eax") code => _, in("edi") environment.as_mut_ptr(), clobber_abi("C"));
        }
        (0..8).map(|register| u16::from(environment[4] >> (2 * register) & 3 != 3)).sum()
    }

    unsafe extern "efiapi" fn again(calls: *mut c_void, _: *mut RawFrame) {
        // SAFETY: the registration's data, and its own entry.
        unsafe {
            let calls = &*calls.cast::<Calls>();
            calls.refused.set(Some(call(calls.code.get())));
        }
    }

    let _serial = SERIAL.lock();
    // SAFETY: nobody looks at the result of a refused call.
    unsafe { set_stale_handler(Some(|_| {})).unwrap() };
    for (result, count) in
        [(None, 0), (Some(Type::I64), 0), (Some(Type::F32), 1), (Some(Type::F64), 1), (Some(Type::F80), 1)]
    {
        let signature = Signature::new(Convention::Cdecl, &[], result).unwrap();
        let calls = Calls::default();
        // SAFETY: the handler takes that data, which lives longer.
        let binding = unsafe { Binding::frame(again, &signature, (&raw const calls).cast_mut().cast()) };
        let key = table::register(&binding.exclusive()).unwrap();
        calls.code.set(key.code().as_ptr().addr());
        // SAFETY: it is registered so.
        assert_eq!(unsafe { call(calls.code.get()) }, count, "{result:?}");
        assert_eq!(calls.refused.get(), Some(count), "{result:?}, refused");
        table::release(key).unwrap();
    }
}
