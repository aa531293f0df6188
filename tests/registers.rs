//! Every register, flag and stack word around a call, with handlers that wreck whatever they may.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::ffi::c_void;
use std::sync::Mutex;

use calltable::table::{self, Registration};
use calltable::{Convention, Signature, Type};
use calltable_callers::{
    Registers, calltable_call_with, calltable_has_frame, calltable_seen, calltable_wreck_control,
    calltable_wreck_preserved, calltable_wreck_volatile,
};

const DATA: u64 = 0xda7a_0000_0000_0001;
/// What the wrecking handlers return, in RAX and in both halves of XMM0.
const RESULT: [u64; 2] = [0x7e57_0000_0000_0001, 0x7e57_0000_0000_0002];

const NAMES: [&str; 16] =
    ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];
const PRESERVED: [usize; 8] = [3, 5, 6, 7, 12, 13, 14, 15];
const RCX: usize = 1;
const RDX: usize = 2;
const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;
const R8: usize = 8;
const R9: usize = 9;

const DIRECTION_FLAG: u64 = 1 << 10;
/// Rounds up, all exceptions masked; the x87 control word: rounds up, double precision. Neither is what a thread
/// starts with, nor what the wrecking handler leaves.
const MXCSR: u64 = 0x5f80;
const X87: u64 = 0x0a7f;
/// The bits of MXCSR that the convention preserves.
const MXCSR_CONTROL: u64 = 0xffc0;

/// The assembly keeps what it sees in static memory.
static SERIAL: Mutex<()> = Mutex::new(());

fn pattern() -> Registers {
    let word = |kind: u64, index: usize| kind << 56 | 0x00c0_ffee_0000_0000 | index as u64;
    Registers {
        general: std::array::from_fn(|i| word(0x11, i)),
        xmm: std::array::from_fn(|i| [word(0x22, i), word(0x23, i)]),
        stack: std::array::from_fn(|i| word(0x33, i)),
        flags: 2,
        mxcsr: MXCSR,
        x87_control: X87,
        frame: [0; 7],
    }
}

/// The argument positions of `pattern`'s call, as integers.
fn position(before: &Registers, index: usize) -> u64 {
    match index {
        0 => before.general[RCX],
        1 => before.general[RDX],
        2 => before.general[R8],
        3 => before.general[R9],
        _ => before.stack[index - 4],
    }
}

/// Calls the registration and checks what the foreign caller may rely on. Returns what the handler saw.
fn call(case: &str, registration: Registration, flags: u64) -> Registers {
    let slot = table::register(&registration).unwrap();
    let mut before = pattern();
    before.flags |= flags;
    let mut after = pattern();
    // SAFETY: the handlers take any arguments; the assembly restores what this function's compiler relies on; `SERIAL`
    // is held, so the static memory is this call's own.
    let seen = unsafe {
        calltable_call_with(slot.code().as_ptr(), &before, &mut after);
        calltable_seen
    };
    let running = table::entry(slot.index()).unwrap().in_flight.unwrap_or(0);
    assert_eq!(running, 0, "{case}: calls that are counted as running after the call"); // a release would wait for ever
    table::release(slot).unwrap();

    for register in PRESERVED {
        let (got, want) = (after.general[register], before.general[register]);
        assert_eq!(got, want, "{case}: {} is {got:#x} after the call, was {want:#x}", NAMES[register]);
    }
    for register in 6..16 {
        assert_eq!(after.xmm[register], before.xmm[register], "{case}: XMM{register} after the call");
    }
    assert_eq!(after.general[RSP], 0, "{case}: RSP after the call differs from before");
    assert_eq!(after.mxcsr as u32 & MXCSR_CONTROL as u32, MXCSR as u32, "{case}: MXCSR's control bits");
    assert_eq!(after.x87_control as u16, X87 as u16, "{case}: x87 control word");
    assert_eq!(after.flags & DIRECTION_FLAG, 0, "{case}: DF after the call");
    assert_eq!(after.general[0], RESULT[0], "{case}: RAX, the result");
    assert_eq!(after.xmm[0], RESULT, "{case}: XMM0, the result");
    assert_eq!(after.stack[30..32], before.stack[30..32], "{case}: stack words above the arguments");

    assert_eq!(seen.general[RSP] % 16, 8, "{case}: RSP at the handler's first instruction, modulo 16");
    assert_eq!(seen.flags & DIRECTION_FLAG, 0, "{case}: DF in the handler");
    seen
}

fn assert_direct(case: &str, seen: &Registers, positions: usize) {
    let before = pattern();
    for index in 0..=positions {
        let got = match index {
            0 => seen.general[RCX],
            1 => seen.general[RDX],
            2 => seen.general[R8],
            3 => seen.general[R9],
            _ => seen.stack[index], // above the return address: four words of home space, then position 4
        };
        let want = if index == positions { DATA } else { position(&before, index) };
        assert_eq!(got, want, "{case}: position {index} in the handler");
    }
    // Floating-point arguments pass through where they are.
    assert_eq!(seen.xmm[..4], before.xmm[..4], "{case}: XMM0 to XMM3 in the handler");
}

type Handler = unsafe extern "C" fn();

fn direct(handler: Handler, positions: usize) -> Registration {
    // SAFETY: the handlers take any arguments and return.
    unsafe { Registration::direct(Convention::Win64, handler as *const c_void, positions, DATA as *mut c_void) }
}

#[test]
fn direct_lane() {
    let _serial = SERIAL.lock().unwrap();
    for positions in 0..=calltable::MAX_POSITIONS {
        for (name, options) in [("plain", 0), ("tracked", 1), ("exclusive", 2)] {
            let case = format!("direct, {positions} positions, {name}");
            let registration = direct(calltable_wreck_volatile, positions);
            let registration = match options {
                0 => registration,
                1 => registration.tracked(),
                _ => registration.exclusive(),
            };
            assert_direct(&case, &call(&case, registration, 0), positions);
        }
    }
}

#[test]
fn direct_lane_for_handlers_that_keep_nothing() {
    let _serial = SERIAL.lock().unwrap();
    for positions in 0..=calltable::MAX_POSITIONS {
        let case = format!("direct saving, {positions} positions");
        // A foreign caller that forgot to clear DF is no trouble for a handler under full save.
        let seen = call(&case, direct(calltable_wreck_preserved, positions).saving(), DIRECTION_FLAG);
        assert_direct(&case, &seen, positions);
        let case = format!("direct saving control words, {positions} positions");
        let seen = call(&case, direct(calltable_wreck_control, positions).saving_control_words(), 0);
        assert_direct(&case, &seen, positions);
        let case = format!("direct saving, tracked, {positions} positions");
        let seen = call(&case, direct(calltable_wreck_preserved, positions).saving().tracked(), 0);
        assert_direct(&case, &seen, positions);
    }
}

/// Runs `test` while the handlers look at the frame they are given.
fn with_frame(test: impl FnOnce(Signature)) {
    let _serial = SERIAL.lock().unwrap();
    // SAFETY: `SERIAL` is held.
    unsafe { calltable_has_frame = 1 };
    test(Signature::new(Convention::Win64, &[Type::U64; 8], Some(Type::U64)).unwrap());
    // SAFETY: as above.
    unsafe { calltable_has_frame = 0 };
}

fn assert_frame(case: &str, seen: &Registers) {
    let before = pattern();
    assert_eq!(seen.general[RCX], DATA, "{case}: the data in the handler");
    assert_eq!(seen.frame[..2], [0, 0], "{case}: the result at first");
    for index in 0..4 {
        assert_eq!(seen.frame[3 + index], before.xmm[index][0], "{case}: float {index} of the frame");
    }
}

#[test]
fn frame_lane() {
    with_frame(|signature| {
        let handler = calltable_wreck_volatile as *const ();
        // SAFETY: the same address as a function that takes data and a frame, which it looks at.
        let handler = unsafe { std::mem::transmute::<*const (), table::FrameHandler>(handler) };
        // SAFETY: the handler takes any data.
        let registration = unsafe { Registration::frame(handler, &signature, DATA as *mut c_void) };
        assert_frame("frame", &call("frame", registration, 0));
        assert_frame("frame, tracked", &call("frame, tracked", registration.tracked(), 0));
    });
}

#[test]
fn frame_lane_for_handlers_that_keep_nothing() {
    with_frame(|signature| {
        let frame = |handler: Handler| {
            // SAFETY: the handler takes any data and the frame.
            unsafe { Registration::frame_foreign(handler as *const c_void, &signature, DATA as *mut c_void) }
        };
        for (case, registration, flags) in [
            ("frame saving", frame(calltable_wreck_preserved), DIRECTION_FLAG),
            ("frame saving control words", frame(calltable_wreck_control).saving_control_words(), 0),
            ("frame saving, exclusive", frame(calltable_wreck_preserved).exclusive(), 0),
        ] {
            let seen = call(case, registration, flags);
            assert_frame(case, &seen);
            assert_eq!(seen.general[RDI], seen.general[RCX], "{case}: the data for a System V handler");
            assert_eq!(seen.general[RSI], seen.general[RDX], "{case}: the frame for a System V handler");
        }
    });
}

/// The checks above would mean nothing if they passed without the save.
#[test]
fn without_the_save_wrecked_registers_show() {
    let _serial = SERIAL.lock().unwrap();
    let slot = table::register(&direct(calltable_wreck_control, 4)).unwrap();
    let (before, mut after) = (pattern(), pattern());
    // SAFETY: as in `call`; the assembly restores what this function relies on.
    unsafe { calltable_call_with(slot.code().as_ptr(), &before, &mut after) };
    table::release(slot).unwrap();
    for register in PRESERVED {
        assert_ne!(after.general[register], before.general[register], "{}", NAMES[register]);
    }
    for register in 6..16 {
        assert_ne!(after.xmm[register], before.xmm[register], "XMM{register}");
    }
    assert_ne!(after.mxcsr as u32 & MXCSR_CONTROL as u32, MXCSR as u32);
    assert_ne!(after.x87_control as u16, X87 as u16);
    assert_ne!(after.flags & DIRECTION_FLAG, 0);
}
