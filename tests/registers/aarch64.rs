//! Every register and stack word around a call on AArch64.

use core::ffi::c_void;
use core::fmt;

use calltable::seh::{Exception, ExceptionFilter, Outcome, Verdict};
use calltable::table::{self, Binding};
use calltable::{Convention, MAX_POSITIONS, RawFrame, Signature, StaleHandler, Type, set_stale_handler};
use calltable_callers::{
    Registers, calltable_call_with, calltable_has_frame, calltable_seen, calltable_wreck_and_fault,
    calltable_wreck_control, calltable_wreck_preserved, calltable_wreck_volatile, calltable_wreck_x18,
};

const DATA: u64 = 0xda7a_0000_0000_0001;
/// What the wrecking handlers return, in X0 and X1 and in both halves of V0.
const RESULT: [u64; 2] = [0x7e57_0000_0000_0001, 0x7e57_0000_0000_0002];

const X18: usize = 18;
const SP: usize = 31;
/// Registers for arguments of each class.
const REGISTERS: usize = 8;
/// Rounds up.
const FPCR: u64 = 1 << 22;
/// Else nobody touches these registers.
const HAS_FLOATS: bool = cfg!(target_feature = "neon");

/// Names what fails: lane, number of places, options.
#[derive(Clone, Copy)]
struct Case(&'static str, usize, &'static str);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} positions, {}", self.0, self.1, self.2)
    }
}

pub fn pattern() -> Registers {
    let word = |kind: u64, index: usize| kind << 56 | 0x00c0_ffee_0000_0000 | index as u64;
    let mut general = core::array::from_fn(|i| word(0x11, i));
    if cfg!(windows) {
        // The system's own, which must stay as it is.
        // SAFETY: reads a register.
        unsafe { core::arch::asm!("mov {}, x18", out(reg) general[X18], options(nomem, nostack, preserves_flags)) };
    }
    Registers {
        general,
        vectors: core::array::from_fn(|i| [word(0x22, i), word(0x23, i)]),
        stack: core::array::from_fn(|i| word(0x33, i)),
        fpcr: FPCR,
        frame: [0; 36],
    }
}

fn call_and_look(binding: &Binding) -> (Registers, Registers) {
    let slot = table::register(binding).expect("a slot");
    let (before, mut after) = (pattern(), pattern());
    // SAFETY: the handlers take any arguments; the assembly restores what this function's compiler relies on; no
    // other call uses the static memory.
    let seen = unsafe {
        calltable_call_with(slot.code().as_ptr(), &before, &mut after);
        calltable_seen
    };
    let running = table::live_slot(slot.index()).and_then(|entry| entry.in_flight).unwrap_or(0);
    assert_eq!(running, 0, "calls that are counted as running after the call"); // a release would wait for ever
    assert_eq!(table::release(slot), Ok(()));
    (seen, after)
}

/// Calls the registration and checks what the foreign caller may rely on. Returns what the handler saw.
fn call(case: Case, binding: Binding) -> Registers {
    let before = pattern();
    let (seen, after) = call_and_look(&binding);
    for register in X18..30 {
        let (got, want) = (after.general[register], before.general[register]);
        assert_eq!(got, want, "{case}: X{register} is {got:#x} after the call, was {want:#x}");
    }
    for register in 8..16 {
        let (got, want) = (after.vectors[register][0], before.vectors[register][0]);
        assert_eq!(got, want, "{case}: D{register} is {got:#x} after the call, was {want:#x}");
    }
    assert_eq!(after.fpcr, FPCR, "{case}: FPCR");
    assert_eq!(after.general[SP], 0, "{case}: SP after the call differs from before");
    assert_eq!(after.general[..2], RESULT, "{case}: X0 and X1, the result");
    assert!(!HAS_FLOATS || after.vectors[0] == RESULT, "{case}: V0, the result, is {:x?}", after.vectors[0]);
    assert_eq!(after.stack[64..], before.stack[64..], "{case}: stack words above the arguments");
    assert_eq!(seen.general[SP] % 16, 0, "{case}: SP at the handler's first instruction, modulo 16");
    seen
}

fn assert_direct(case: Case, seen: &Registers, positions: usize) {
    let before = pattern();
    for index in 0..=positions {
        let of = |registers: &Registers| match index.checked_sub(REGISTERS) {
            Some(word) => registers.stack[word],
            None => registers.general[index],
        };
        let want = if index == positions { DATA } else { of(&before) };
        assert_eq!(of(seen), want, "{case}: position {index} in the handler");
    }
    assert_eq!(seen.general[8], before.general[8], "{case}: X8 in the handler");
    if HAS_FLOATS {
        assert_eq!(seen.vectors[..8], before.vectors[..8], "{case}: V0 to V7 in the handler");
    }
}

type Handler = unsafe extern "C" fn();

fn direct(handler: Handler, positions: usize) -> Binding {
    // SAFETY: the handlers take any arguments and return.
    unsafe { Binding::direct(Convention::C, handler as *const c_void, positions, DATA as *mut c_void) }
}

pub fn direct_lane() {
    for positions in 0..=MAX_POSITIONS {
        let plain = direct(calltable_wreck_volatile, positions);
        let preserved = direct(calltable_wreck_preserved, positions);
        let keeping = direct(calltable_wreck_x18, positions).keeping_x18();
        for (name, binding) in [
            ("plain", plain),
            ("tracked", plain.tracked()),
            ("exclusive", plain.exclusive()),
            ("saving", preserved.saving()),
            ("saving control words", direct(calltable_wreck_control, positions).saving_control_words()),
            ("saving, tracked", preserved.saving().tracked()),
            ("keeping X18", keeping),
            ("keeping X18, tracked", keeping.tracked()),
            ("keeping X18, exclusive", keeping.exclusive()),
            ("keeping X18, saving, exclusive", preserved.keeping_x18().saving().exclusive()),
        ] {
            let case = Case("direct", positions, name);
            let seen = call(case, binding);
            assert_direct(case, &seen, positions);
            assert_eq!(seen.general[X18], pattern().general[X18], "{case}: X18 in the handler");
            if name == "plain" && positions < REGISTERS {
                assert_eq!(seen.general[18..30], pattern().general[18..30], "{case}: X18 to X29 in the handler");
                assert_eq!(seen.stack, pattern().stack, "{case}: the stack, where the handler looks");
            }
        }
    }
}

fn assert_frame(case: Case, seen: &Registers) {
    let before = pattern();
    assert_eq!(seen.general[0], DATA, "{case}: the data in the handler");
    // SAFETY: it has the bytes of one, and any are right.
    let frame = unsafe { (&raw const seen.frame).cast::<RawFrame>().read_unaligned() };
    assert_eq!((frame.result, frame.more_results), ([0; 2], [[0; 2]; 3]), "{case}: the result at first");
    assert_eq!(frame.registers, before.general[..8], "{case}: X0 to X7");
    assert_eq!(frame.memory, before.general[8], "{case}: X8");
    if HAS_FLOATS {
        assert_eq!(frame.floats, before.vectors[..8], "{case}: V0 to V7");
    }
}

pub fn frame_lane() {
    let Ok(signature) = Signature::new(Convention::C, &[Type::U64; 8], Some(Type::U64)) else { panic!("signature") };
    let native = |handler: Handler| {
        // SAFETY: the same address as a function that takes data and a frame, which it looks at.
        let handler = unsafe { core::mem::transmute::<*const (), table::FrameHandler>(handler as *const ()) };
        // SAFETY: the handler takes any data.
        unsafe { Binding::frame(handler, &signature, DATA as *mut c_void) }
    };
    let (plain, keeping) = (native(calltable_wreck_volatile), native(calltable_wreck_x18).keeping_x18());
    let foreign = |handler: Handler| {
        // SAFETY: the handler takes any data and the frame.
        unsafe { Binding::frame_foreign(handler as *const c_void, &signature, DATA as *mut c_void) }
    };
    // SAFETY: no other call uses the static memory.
    unsafe { calltable_has_frame = 1 };
    for (name, binding) in [
        ("plain", plain),
        ("tracked", plain.tracked()),
        ("saving", foreign(calltable_wreck_preserved)),
        ("saving control words", foreign(calltable_wreck_control).saving_control_words()),
        ("saving, exclusive", foreign(calltable_wreck_preserved).exclusive()),
        ("keeping X18", keeping),
        ("keeping X18, tracked", keeping.tracked()),
        ("keeping X18, saving", foreign(calltable_wreck_preserved).keeping_x18()),
    ] {
        let case = Case("frame", 8, name);
        assert_frame(case, &call(case, binding));
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
    let Ok(signature) = Signature::new(Convention::C, &[Type::U64; 8], Some(Type::U64)) else { panic!("signature") };
    let (handler, data) = (calltable_wreck_and_fault as *const (), (&raw const FILTER).cast_mut().cast());
    for positions in [0, 7, 8, 9, 32] {
        // SAFETY: the handler takes any arguments; the second is also a function that takes data and a frame, which it
        // does not look at. The data begins with a filter.
        let (direct, frame, foreign) = unsafe {
            let frame = core::mem::transmute::<*const (), table::FrameHandler>(handler);
            (
                Binding::direct(Convention::C, handler.cast(), positions, data).contained(),
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
            let seen = call(case, binding);
            if HAS_FLOATS {
                assert_eq!(seen.vectors[..8], pattern().vectors[..8], "{case}: V0 to V7 in the handler");
            }
        }
    }
}

/// Nobody knows whether Windows code makes a stale call.
pub fn stale_call() {
    // SAFETY: it may be called from anywhere, and looks at nothing.
    let wreck: StaleHandler = |call| unsafe {
        calltable_wreck_x18();
        call.set_result(RESULT[0]);
    };
    // SAFETY: nothing here calls an entry whose result is not a number.
    assert_eq!(unsafe { set_stale_handler(Some(wreck)) }, Ok(()));
    let key = table::register(&direct(calltable_wreck_volatile, 2)).expect("a slot");
    let code = key.code();
    assert_eq!(table::release(key), Ok(()));
    let (before, mut after) = (pattern(), pattern());
    // SAFETY: as in `call_and_look`; nobody else has got the slot.
    unsafe { calltable_call_with(code.as_ptr(), &before, &mut after) };
    assert_eq!(after.general[0], RESULT[0], "X0 after a stale call");
    assert_eq!(after.general[X18..30], before.general[X18..30], "X18 to X29 after a stale call");
    assert_eq!(after.general[SP], 0, "SP after a stale call differs from before");
    // SAFETY: as above.
    assert_eq!(unsafe { set_stale_handler(None) }, Ok(()));
}

/// The checks above would mean nothing if they passed without the save.
pub fn without_the_save() {
    let before = pattern();
    let (_, after) = call_and_look(&direct(calltable_wreck_x18, 4));
    assert_eq!(after.general[X18] == before.general[X18], cfg!(windows), "X18");
    let (_, after) = call_and_look(&direct(calltable_wreck_control, 4));
    let first = if cfg!(windows) { X18 + 1 } else { X18 };
    for register in first..30 {
        assert_ne!(after.general[register], before.general[register], "X{register}");
    }
    if HAS_FLOATS {
        for register in 8..16 {
            assert_ne!(after.vectors[register][0], before.vectors[register][0], "D{register}");
        }
        assert_ne!(after.fpcr, FPCR);
    }
}
