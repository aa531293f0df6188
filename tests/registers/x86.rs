//! Every register, flag and stack word around a call on i686.

use core::ffi::c_void;
use core::fmt;

use calltable::seh::{Exception, ExceptionFilter, Outcome, Verdict};
use calltable::table::{self, Binding};
use calltable::{Convention, Signature, Type};
use calltable_callers::{
    Registers, calltable_call_with, calltable_has_frame, calltable_pops, calltable_seen, calltable_wreck_and_fault,
    calltable_wreck_control, calltable_wreck_preserved, calltable_wreck_volatile,
};

pub const DATA: u32 = 0xda7a_0001;
/// What the wrecking handlers return in EAX and EDX.
const RESULT: [u32; 2] = [0x7e57_0001, 0x7e57_0002];

const NAMES: [&str; 8] = ["EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI"];
const PRESERVED: [usize; 4] = [3, 5, 6, 7];
const ECX: usize = 1;
const EDX: usize = 2;
const ESP: usize = 4;

const DIRECTION_FLAG: u32 = 1 << 10;
const ALIGNMENT_CHECK: u32 = 1 << 18;
const MXCSR: u32 = 0x5f80;
const X87: u32 = 0x0a7e;
const MXCSR_CONTROL: u32 = 0xffc0;

const CONVENTIONS: [Convention; 5] =
    [Convention::Stdcall, Convention::Cdecl, Convention::Thiscall, Convention::Fastcall, Convention::Sysv];

/// Bytes that a callee removes, of so many words; the first of them may be the address of a result.
fn removed(convention: Convention, words: usize, is_result_in_memory: bool) -> u32 {
    match convention {
        Convention::Cdecl => 0,
        Convention::Sysv => 4 * u32::from(is_result_in_memory),
        _ => 4 * words as u32,
    }
}

/// A case for each convention, number of words, and whether the first is the address of a result.
fn each_place(most_words: usize, case: impl Fn(Convention, usize, bool)) {
    for convention in CONVENTIONS {
        for words in 0..=most_words {
            case(convention, words, false);
            if words > 0 {
                case(convention, words, true);
            }
        }
    }
}

/// One that takes so many words on the stack, and all registers.
fn signature(convention: Convention, words: usize, is_result_in_memory: bool) -> Signature {
    let registers = match convention {
        Convention::Thiscall => 1,
        Convention::Fastcall => 2,
        _ => 0,
    };
    let types = &[Type::U32; 130][usize::from(is_result_in_memory)..words + registers];
    let result = if is_result_in_memory { Type::Struct { size: 12 } } else { Type::U64 };
    let Ok(signature) = Signature::new(convention, types, Some(result)) else { panic!("signature") };
    signature
}

/// Names what fails: lane, convention, number of words or parameters, options.
#[derive(Clone, Copy)]
struct Case(&'static str, Convention, usize, &'static str);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}, {}", self.0, self.1, self.2, self.3)
    }
}

pub fn pattern() -> Registers {
    Registers {
        general: core::array::from_fn(|i| 0x1100_c0de + ((i as u32) << 16)),
        stack: core::array::from_fn(|i| 0x3300_0000 + i as u32),
        flags: 2,
        mxcsr: MXCSR,
        x87_control: X87,
        frame: [0; 6],
    }
}

/// Calls the registration and checks what the foreign caller may rely on. Returns what the handler saw.
fn call(case: Case, binding: Binding, pops: [u32; 2], flags: u32, has_frame: bool) -> Registers {
    let [handler_pops, entry_pops] = pops;
    let slot = table::register(&binding).expect("a slot");
    let mut before = pattern();
    before.flags |= flags;
    let mut after = pattern();
    // SAFETY: the handlers take any arguments; the assembly restores what this function's compiler relies on; no other
    // call uses the static memory.
    let seen = unsafe {
        calltable_has_frame = has_frame.into();
        calltable_pops = handler_pops;
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
    assert_eq!(after.general[ESP], entry_pops, "{case}: bytes of arguments removed");
    assert_eq!(after.mxcsr & MXCSR_CONTROL, MXCSR, "{case}: MXCSR's control bits");
    assert_eq!(after.x87_control & 0xffff, X87, "{case}: x87 control word");
    assert_eq!(after.flags & DIRECTION_FLAG, 0, "{case}: DF after the call");
    assert_eq!(after.flags & ALIGNMENT_CHECK, flags & ALIGNMENT_CHECK, "{case}: AC after the call");
    assert_eq!([after.general[0], after.general[EDX]], RESULT, "{case}: EDX:EAX, the result");
    let arguments = entry_pops as usize / 4;
    assert_eq!(after.stack[arguments..], before.stack[arguments..], "{case}: stack words above the arguments");

    assert_eq!((seen.general[ESP] + 4) % 16, 0, "{case}: address of the handler's first argument, modulo 16");
    assert_eq!(seen.flags & DIRECTION_FLAG, 0, "{case}: DF in the handler");
    seen
}

type Handler = unsafe extern "C" fn();

pub fn direct_lane() {
    each_place(calltable::MAX_POSITIONS, |convention, words, is_result_in_memory| {
        let signature = signature(convention, words, is_result_in_memory);
        let direct = |handler: Handler| {
            let (handler, data) = (handler as *const c_void, DATA as *mut c_void);
            // SAFETY: the handlers take any arguments and remove what they are told.
            unsafe {
                if is_result_in_memory {
                    Binding::direct_as(handler, &signature, data)
                } else {
                    Binding::direct(convention, handler, words, data)
                }
            }
        };
        let pops = [words + 1, words].map(|words| removed(convention, words, is_result_in_memory));
        for (name, binding, flags) in [
            ("plain", direct(calltable_wreck_volatile), 0),
            ("tracked", direct(calltable_wreck_volatile).tracked(), 0),
            ("exclusive", direct(calltable_wreck_volatile).exclusive(), 0),
            ("saving", direct(calltable_wreck_preserved).saving(), DIRECTION_FLAG),
            ("saving control words", direct(calltable_wreck_control).saving_control_words().tracked(), 0),
        ] {
            let case = Case("direct", convention, words, name);
            let before = pattern();
            let seen = call(case, binding, pops, flags, false);
            assert_eq!(seen.stack[..words], before.stack[..words], "{case}: words in the handler");
            assert_eq!(seen.stack[words], DATA, "{case}: the data");
            assert_eq!(seen.general[ECX..=EDX], before.general[ECX..=EDX], "{case}: ECX and EDX in the handler");
        }
    });
}

pub fn frame_lane() {
    for convention in CONVENTIONS {
        for parameters in 0..20 {
            let types = &[Type::U32; 20][..parameters];
            let Ok(signature) = Signature::new(convention, types, Some(Type::U64)) else { panic!("signature") };
            let registers = match convention {
                Convention::Thiscall => 1,
                Convention::Fastcall => 2,
                _ => 0,
            };
            let words = parameters.saturating_sub(registers);
            let pops = [0, removed(convention, words, false)];
            let frame = |handler: Handler| {
                // SAFETY: the handler takes any data and the frame.
                unsafe { Binding::frame_foreign(handler as *const c_void, &signature, DATA as *mut c_void) }
            };
            // SAFETY: the same address as a function that takes data and a frame, which it looks at.
            let plain = unsafe {
                let handler =
                    core::mem::transmute::<*const (), table::FrameHandler>(calltable_wreck_volatile as *const ());
                Binding::frame(handler, &signature, DATA as *mut c_void)
            };
            for (name, binding, flags) in [
                ("plain", plain, 0),
                ("tracked", plain.tracked(), 0),
                ("saving", frame(calltable_wreck_preserved), DIRECTION_FLAG),
                ("saving control words", frame(calltable_wreck_control).saving_control_words().exclusive(), 0),
            ] {
                let case = Case("frame", convention, parameters, name);
                let seen = call(case, binding, pops, flags, true);
                assert_eq!(seen.stack[0], DATA, "{case}: the data");
                assert_eq!(seen.frame[..3], [0; 3], "{case}: the result at first");
                assert_eq!(seen.frame[4..], pattern().general[ECX..=EDX], "{case}: the frame's registers");
            }
        }
    }
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

/// A handler that wrecks all that there is and then faults, in each lane, even in those that rely on the handler; with
/// 0 to 64 bytes of arguments that the entry removes.
#[allow(dead_code, reason = "for where somebody makes exceptions of faults")]
pub fn after_a_fault() {
    let (handler, data) = (calltable_wreck_and_fault as *const (), (&raw const FILTER).cast_mut().cast());
    each_place(16, |convention, words, is_result_in_memory| {
        let signature = signature(convention, words, is_result_in_memory);
        // SAFETY: the handler takes any arguments; the second is also a function that takes data and a frame, which
        // it does not look at. The data begins with a filter.
        let (direct, frame, foreign) = unsafe {
            let frame = core::mem::transmute::<*const (), table::FrameHandler>(handler);
            (
                Binding::direct_as(handler.cast(), &signature, data).contained(),
                Binding::frame(frame, &signature, data).contained(),
                Binding::frame_foreign(handler.cast(), &signature, data).contained(),
            )
        };
        let entry_pops = removed(convention, words, is_result_in_memory);
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
            let case = Case("after a fault", convention, words, name);
            for &flags in flags_before() {
                call(case, binding, [0, entry_pops], flags, false);
                assert_eq!(x87_tags(), 0xffff, "{case}: something is left on the x87 stack");
            }
        }
    });
}

/// In a kernel, AC as well: elsewhere accesses that are not aligned would fault.
fn flags_before() -> &'static [u32] {
    let segment: u32;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {:e}, cs", out(reg) segment, options(nomem, nostack, preserves_flags)) };
    if segment % 4 == 0 { &[0, ALIGNMENT_CHECK] } else { &[0] }
}

/// Two bits for each x87 register, 3 for an empty one.
pub fn x87_tags() -> u16 {
    let mut environment = [0_u16; 14];
    // SAFETY: stores what is loaded again.
    unsafe { core::arch::asm!("fnstenv [{0}]", "fldenv [{0}]", in(reg) environment.as_mut_ptr()) };
    environment[4]
}
