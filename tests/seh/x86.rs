//! x86: the chain between any two instructions of a call, and the processor after an exception has ended.

use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use calltable::Convention;
use calltable::seh::{self, CHAIN_END, Exception, ExceptionFilter, ExceptionRecord, Outcome, Record, Verdict};
use calltable::table::{self, Binding};
use calltable_callers::{
    Registers, calltable_call_with, calltable_has_frame, calltable_seen, calltable_wreck_volatile,
};

use super::moments::OWN;
use super::signals::{declare, raise};
use super::{EVERY_FRAME, SERIAL, head, registers};

/// As wide as a register.
#[cfg(target_arch = "x86_64")]
type Word = u64;
#[cfg(target_arch = "x86")]
type Word = u32;

const TRAP_FLAG: u32 = 1 << 8;
const DIRECTION_FLAG: Word = 1 << 10;

/// The slot whose call is looked at, how many instructions of it have been, and before how many of them its record was
/// in the chain.
static SLOT: AtomicUsize = AtomicUsize::new(0);
static STEPS: AtomicUsize = AtomicUsize::new(0);
static LINKED: AtomicUsize = AtomicUsize::new(0);
static RETURNED: AtomicBool = AtomicBool::new(false);

/// Runs before each instruction while the trap flag is set, as an interrupt might, and looks at the chain.
extern "C" fn on_trap(_: c_int, information: *const libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes both; the rest of the interrupted code runs without traps. This thread has a block.
    unsafe {
        if (*information).si_code != libc::TRAP_TRACE {
            std::process::abort(); // an `int3`, which stands where nothing may run
        }
        if RETURNED.load(Ordering::Relaxed) {
            let flags = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize];
            *flags &= !(TRAP_FLAG as libc::greg_t);
            return;
        }
        let step = STEPS.fetch_add(1, Ordering::Relaxed);
        for record in seh::chain() {
            let record = record.unwrap_or_else(|error| panic!("before instruction {step}: {error}"));
            let slot = seh::slot_of(record);
            assert_eq!(slot, Some(SLOT.load(Ordering::Relaxed)), "before instruction {step}: whose record");
            LINKED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Calls an entry with the registers of the pattern and these flags. Returns what they are after the call.
fn call(code: *const c_void, flags: u32) -> Registers {
    let mut before = registers::pattern();
    before.flags |= Word::from(flags);
    let mut after = before;
    // SAFETY: the handlers take any arguments and remove none; nobody else uses the static memory.
    unsafe {
        calltable_has_frame = 0;
        #[cfg(target_arch = "x86")]
        {
            calltable_callers::calltable_pops = 0;
        }
        calltable_call_with(code, &before, &mut after);
    }
    after
}

/// Leaves what is no record wherever the dispatcher's frame is going to be.
#[inline(never)]
fn wreck_the_stack() {
    black_box([0x5a5a_5a5a_usize; 1024]);
}

/// An interrupt may come before any instruction, and its handler may want to know whose calls are running.
#[test]
fn before_every_instruction_the_chain_can_be_walked() {
    let _serial = SERIAL.lock();
    declare();
    // SAFETY: a handler for a signal that nothing else here uses; zeros are an empty set of signals.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &action, null_mut()), 0);
    }
    let (handler, data) = (calltable_wreck_volatile as *const c_void, (&raw const RETURNS).cast_mut().cast());
    // SAFETY: the handler takes any arguments and any data, which begins with a filter.
    let (direct, contained) = unsafe {
        let direct = Binding::direct(Convention::C, handler, 0, data);
        (direct, direct.contained())
    };
    for (name, binding, is_linked) in [
        ("plain", direct, false),
        ("framed", direct.framed(), EVERY_FRAME),
        ("tracked", direct.tracked(), true),
        ("exclusive, saving", direct.saving().exclusive(), true),
        ("contained", contained, true),
        ("contained, tracked", contained.tracked(), true),
    ] {
        let slot = table::register(&binding).unwrap();
        let code = slot.code().as_ptr();
        SLOT.store(slot.index(), Ordering::Relaxed);
        for counter in [&STEPS, &LINKED] {
            counter.store(0, Ordering::Relaxed);
        }
        RETURNED.store(false, Ordering::Relaxed);
        wreck_the_stack();
        call(code, TRAP_FLAG);
        RETURNED.store(true, Ordering::Relaxed);
        table::release(slot).unwrap();
        assert_eq!(head(), CHAIN_END.addr(), "{name}");
        let (steps, linked) = (STEPS.load(Ordering::Relaxed), LINKED.load(Ordering::Relaxed));
        assert!(steps > 60, "{name}: only {steps} instructions were seen");
        assert_eq!(linked > 20, is_linked, "{name}: the record was seen {linked} times in {steps} instructions");
    }
}

/// Ends every exception with a result of zero.
static RETURNS: ExceptionFilter = {
    unsafe extern "efiapi" fn filter(_: *mut c_void, _: *const Exception, _: *mut Outcome) -> Verdict {
        Verdict::RETURN
    }
    filter
};

// A handler of the chain that, when it is unwound, leaves DF set and the x87 stack full, as no compiled code does.
macro_rules! wreck {
    ($load:literal, $test:literal) => {
        std::arch::global_asm!(
            ".pushsection .text",
            "calltable_tests_wreck:",
            $load,
            $test, // the exception's flags: whether frames are being unwound
            "jz 2f",
            ".rept 8",
            "fldpi",
            ".endr",
            "std",
            "2: mov eax, 1",
            "ret",
            ".popsection"
        );
    };
}
#[cfg(target_arch = "x86_64")]
wreck!("mov rax, rdi", "test byte ptr [rax + 4], 6");
#[cfg(target_arch = "x86")]
wreck!("mov eax, [esp + 4]", "test byte ptr [eax + 4], 6");

unsafe extern "C" {
    fn calltable_tests_wreck(_: *mut ExceptionRecord, _: *mut Record, _: *mut c_void, _: *mut c_void) -> i32;
}

unsafe extern "efiapi" fn raises_under_a_wrecking_record(_: *const c_void) -> usize {
    let mut record = Record { next: CHAIN_END, handler: Some(calltable_tests_wreck) };
    // SAFETY: it goes with the dispatcher's.
    unsafe { seh::push(&mut record) };
    raise(OWN, &[], null_mut());
    unreachable!("the filter ends it");
}

/// Signals do not show this: Linux clears both before it calls their handlers.
#[test]
fn whatever_is_unwound_last_the_call_goes_on_with_df_clear_and_an_empty_x87_stack() {
    const MAKES: ExceptionFilter = {
        unsafe extern "efiapi" fn filter(_: *mut c_void, _: *const Exception, outcome: *mut Outcome) -> Verdict {
            // SAFETY: the call's answer.
            unsafe { (*outcome).handler = calltable_wreck_volatile as *const c_void };
            Verdict::RETURN
        }
        filter
    };
    let _serial = SERIAL.lock();
    declare();
    for filter in [RETURNS, MAKES] {
        let (handler, data) = (raises_under_a_wrecking_record as *const c_void, (&raw const filter).cast_mut().cast());
        // SAFETY: the handler takes any data, which begins with a filter.
        let direct = unsafe { Binding::direct(Convention::C, handler, 0, data).contained() };
        for binding in [direct, direct.tracked()] {
            let slot = table::register(&binding).unwrap();
            // SAFETY: no other call uses the static memory.
            unsafe { calltable_seen.flags = 0 };
            let after = call(slot.code().as_ptr(), 0);
            let tags = registers::x87_tags();
            // SAFETY: as above. The rest of this program finds the stack empty.
            let seen = unsafe {
                std::arch::asm!("fninit");
                calltable_seen.flags
            };
            assert_eq!(
                (seen | after.flags) & DIRECTION_FLAG,
                0,
                "DF: {seen:#x} in the maker, {:#x} after",
                after.flags
            );
            assert_eq!(seen != 0, filter as usize == MAKES as usize, "who makes the result has run");
            assert_eq!(tags, 0xffff, "something is left on the x87 stack");
            table::release(slot).unwrap();
        }
    }
}
