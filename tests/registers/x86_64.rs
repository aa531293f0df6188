//! Every register, flag and stack word around a call on x86_64. A kernel that has switched SSE off leaves out the
//! registers that it has not.

use core::ffi::c_void;
use core::fmt;

use calltable::seh::{Exception, ExceptionFilter, Outcome, Verdict};
use calltable::table::{self, Binding};
use calltable::{Convention, Signature, Type};
use calltable_callers::{
    Registers, calltable_call_with, calltable_has_frame, calltable_seen, calltable_wreck_and_fault,
    calltable_wreck_control, calltable_wreck_preserved, calltable_wreck_volatile,
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
const ALIGNMENT_CHECK: u64 = 1 << 18;
/// Rounds up, all exceptions masked; the x87 control word: rounds up, double precision, invalid
/// operations not masked. Neither is what a thread
/// starts with, nor what the wrecking handler leaves.
const MXCSR: u64 = 0x5f80;
const X87: u64 = 0x0a7e;
/// The bits of MXCSR that the convention preserves.
const MXCSR_CONTROL: u64 = 0xffc0;

/// Names what fails: lane, number of positions, options.
#[derive(Clone, Copy)]
struct Case(&'static str, usize, &'static str);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} positions, {}", self.0, self.1, self.2)
    }
}

pub fn pattern() -> Registers {
    let word = |kind: u64, index: usize| kind << 56 | 0x00c0_ffee_0000_0000 | index as u64;
    Registers {
        general: core::array::from_fn(|i| word(0x11, i)),
        xmm: core::array::from_fn(|i| [word(0x22, i), word(0x23, i)]),
        stack: core::array::from_fn(|i| word(0x33, i)),
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
fn call(case: Case, binding: Binding, flags: u64) -> Registers {
    let slot = table::register(&binding).expect("a slot");
    let mut before = pattern();
    before.flags |= flags;
    let mut after = pattern();
    // SAFETY: the handlers take any arguments; the assembly restores what this function's compiler relies on; no
    // other call uses the static memory.
    let seen = unsafe {
        calltable_call_with(slot.code().as_ptr(), &before, &mut after);
        calltable_seen
    };
    let running = table::live_slot(slot.index()).and_then(|entry| entry.in_flight).unwrap_or(0);
    assert_eq!(running, 0, "{case}: calls that are counted as running after the call"); // a release would wait for ever
    assert_eq!(table::release(slot), Ok(()));

    for register in PRESERVED {
        let (got, want) = (after.general[register], before.general[register]);
        assert_eq!(got, want, "{case}: {} is {got:#x} after the call, was {want:#x}", NAMES[register]);
    }
    if cfg!(target_feature = "sse2") {
        for register in 6..16 {
            assert_eq!(after.xmm[register], before.xmm[register], "{case}: XMM{register} after the call");
        }
        assert_eq!(after.mxcsr as u32 & MXCSR_CONTROL as u32, MXCSR as u32, "{case}: MXCSR's control bits");
        assert_eq!(after.x87_control as u16, X87 as u16, "{case}: x87 control word");
        assert_eq!(after.xmm[0], RESULT, "{case}: XMM0, the result");
    }
    assert_eq!(after.general[RSP], 0, "{case}: RSP after the call differs from before");
    assert_eq!(after.flags & DIRECTION_FLAG, 0, "{case}: DF after the call");
    assert_eq!(after.flags & ALIGNMENT_CHECK, flags & ALIGNMENT_CHECK, "{case}: AC after the call");
    assert_eq!(after.general[0], RESULT[0], "{case}: RAX, the result");
    assert_eq!(after.stack[62..64], before.stack[62..64], "{case}: stack words above the arguments");

    assert_eq!(seen.general[RSP] % 16, 8, "{case}: RSP at the handler's first instruction, modulo 16");
    assert_eq!(seen.flags & DIRECTION_FLAG, 0, "{case}: DF in the handler");
    seen
}

fn assert_direct(case: Case, seen: &Registers, positions: usize) {
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
    if cfg!(target_feature = "sse2") {
        // Floating-point arguments pass through where they are.
        assert_eq!(seen.xmm[..4], before.xmm[..4], "{case}: XMM0 to XMM3 in the handler");
    }
}

type Handler = unsafe extern "C" fn();

fn direct(handler: Handler, positions: usize) -> Binding {
    // SAFETY: the handlers take any arguments and return.
    unsafe { Binding::direct(Convention::Win64, handler as *const c_void, positions, DATA as *mut c_void) }
}

pub fn direct_lane() {
    for positions in 0..=calltable::MAX_POSITIONS {
        let plain = direct(calltable_wreck_volatile, positions);
        let preserved = direct(calltable_wreck_preserved, positions);
        for (name, binding, flags) in [
            ("plain", plain, 0),
            ("tracked", plain.tracked(), 0),
            ("exclusive", plain.exclusive(), 0),
            // A foreign caller that forgot to clear DF is no trouble for a handler under full save.
            ("saving", preserved.saving(), DIRECTION_FLAG),
            ("saving control words", direct(calltable_wreck_control, positions).saving_control_words(), 0),
            ("saving, tracked", preserved.saving().tracked(), 0),
        ] {
            let case = Case("direct", positions, name);
            assert_direct(case, &call(case, binding, flags), positions);
        }
    }
}

fn assert_frame(case: Case, seen: &Registers) {
    let before = pattern();
    assert_eq!(seen.general[RCX], DATA, "{case}: the data in the handler");
    assert_eq!(seen.frame[..2], [0, 0], "{case}: the result at first");
    if cfg!(target_feature = "sse2") {
        for index in 0..4 {
            assert_eq!(seen.frame[3 + index], before.xmm[index][0], "{case}: float {index} of the frame");
        }
    }
}

pub fn frame_lane() {
    let Ok(signature) = Signature::new(Convention::Win64, &[Type::U64; 8], Some(Type::U64)) else {
        panic!("signature")
    };
    let handler = calltable_wreck_volatile as *const ();
    // SAFETY: the same address as a function that takes data and a frame, which it looks at.
    let handler = unsafe { core::mem::transmute::<*const (), table::FrameHandler>(handler) };
    // SAFETY: the handler takes any data.
    let plain = unsafe { Binding::frame(handler, &signature, DATA as *mut c_void) };
    let foreign = |handler: Handler| {
        // SAFETY: the handler takes any data and the frame.
        unsafe { Binding::frame_foreign(handler as *const c_void, &signature, DATA as *mut c_void) }
    };
    // SAFETY: no other call uses the static memory.
    unsafe { calltable_has_frame = 1 };
    for (name, binding, flags) in [
        ("plain", plain, 0),
        ("tracked", plain.tracked(), 0),
        ("saving", foreign(calltable_wreck_preserved), DIRECTION_FLAG),
        ("saving control words", foreign(calltable_wreck_control).saving_control_words(), 0),
        ("saving, exclusive", foreign(calltable_wreck_preserved).exclusive(), 0),
    ] {
        let case = Case("frame", 8, name);
        let seen = call(case, binding, flags);
        assert_frame(case, &seen);
        if name.starts_with("saving") {
            assert_eq!(seen.general[RDI], seen.general[RCX], "{case}: the data for a System V handler");
            assert_eq!(seen.general[RSI], seen.general[RDX], "{case}: the frame for a System V handler");
        }
    }
    // SAFETY: as above.
    unsafe { calltable_has_frame = 0 };
}

/// Data that begins with a filter, which ends every exception with the result that the wrecking handlers return.
static FILTER: ExceptionFilter = {
    unsafe extern "efiapi" fn filter(_: *mut c_void, _: *const Exception, outcome: *mut Outcome) -> Verdict {
        // SAFETY: the call's answer.
        unsafe { (*outcome).frame.result = RESULT };
        Verdict::RETURN
    }
    filter
};

/// A handler that wrecks all that there is and then faults, in each lane, even in those that rely on the handler.
#[allow(dead_code, reason = "for where somebody makes exceptions of faults")]
pub fn after_a_fault() {
    let Ok(signature) = Signature::new(Convention::Win64, &[Type::U64; 8], Some(Type::U64)) else {
        panic!("signature")
    };
    let (handler, data) = (calltable_wreck_and_fault as *const (), (&raw const FILTER).cast_mut().cast());
    for positions in [0, 3, 4, 5, 32] {
        // SAFETY: the handler takes any arguments; the second is also a function that takes data and a frame, which it
        // does not look at. The data begins with a filter.
        let (direct, frame, foreign) = unsafe {
            let frame = core::mem::transmute::<*const (), table::FrameHandler>(handler);
            (
                Binding::direct(Convention::Win64, handler.cast(), positions, data).contained(),
                Binding::frame(frame, &signature, data).contained(),
                Binding::frame_foreign(handler.cast(), &signature, data).contained(),
            )
        };
        for (name, binding) in [
            ("direct", direct),
            ("direct, saving", direct.saving()),
            ("direct, saving control words, tracked", direct.saving_control_words().tracked()),
            ("direct, exclusive", direct.exclusive()),
            ("frame", frame),
            ("frame, tracked", frame.tracked()),
            ("frame, foreign", foreign),
            ("frame, foreign, control words, exclusive", foreign.saving_control_words().exclusive()),
        ] {
            let case = Case("after a fault", positions, name);
            for &flags in flags_before() {
                let seen = call(case, binding, flags);
                if cfg!(target_feature = "sse2") {
                    assert_eq!(seen.xmm[..4], pattern().xmm[..4], "{case}: XMM0 to XMM3 in the handler");
                }
                #[cfg(target_feature = "sse2")]
                assert_eq!(x87_tags(), 0xffff, "{case}: something is left on the x87 stack");
            }
        }
    }
}

/// In a kernel, AC as well: elsewhere accesses that are not aligned would fault.
fn flags_before() -> &'static [u64] {
    let segment: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, cs", out(reg) segment, options(nomem, nostack, preserves_flags)) };
    if segment % 4 == 0 { &[0, ALIGNMENT_CHECK] } else { &[0] }
}

/// Two bits for each x87 register, 3 for an empty one.
#[cfg(target_feature = "sse2")]
pub fn x87_tags() -> u16 {
    let mut environment = [0_u16; 14];
    // SAFETY: stores what is loaded again.
    unsafe { core::arch::asm!("fnstenv [{0}]", "fldenv [{0}]", in(reg) environment.as_mut_ptr()) };
    environment[4]
}

/// The checks above would mean nothing if they passed without the save.
pub fn without_the_save() {
    let slot = table::register(&direct(calltable_wreck_control, 4)).expect("a slot");
    let (before, mut after) = (pattern(), pattern());
    // SAFETY: as in `call`; the assembly restores what this function relies on.
    unsafe { calltable_call_with(slot.code().as_ptr(), &before, &mut after) };
    assert_eq!(table::release(slot), Ok(()));
    for register in PRESERVED {
        assert_ne!(after.general[register], before.general[register], "{}", NAMES[register]);
    }
    if cfg!(target_feature = "sse2") {
        for register in 6..16 {
            assert_ne!(after.xmm[register], before.xmm[register], "XMM{register}");
        }
        assert_ne!(after.mxcsr as u32 & MXCSR_CONTROL as u32, MXCSR as u32);
        assert_ne!(after.x87_control as u16, X87 as u16);
    }
    assert_ne!(after.flags & DIRECTION_FLAG, 0);
}
