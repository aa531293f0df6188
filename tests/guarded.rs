//! What AArch64's processors check of branches and returns, enforced: landing pads (BTI) on the pages of the table, and
//! a guarded control stack (GCS) while calls go through every lane. The suite `host` runs it under an emulator that
//! has both.
#![cfg(all(target_os = "linux", target_arch = "aarch64"))]

mod child;

use std::arch::asm;
use std::cell::UnsafeCell;
use std::env;
use std::ffi::{c_int, c_void};
use std::os::unix::process::ExitStatusExt as _;
use std::ptr::null_mut;

use calltable::seh::{self, CHAIN_END, Exception, ExceptionFilter, ExceptionRecord, Outcome, ThreadBlock, Verdict};
use calltable::table::{self, Binding, CAPACITY, ENTRY_STRIDE, SlotKey};
use calltable::{CodePointer, Convention, RawFrame, Signature, Type, set_stale_handler};

const PAGE: usize = 4096;
const PROT_BTI: c_int = 0x10;

/// What every handler returns, and what a stale call does.
const RESULT: u64 = 7;
const STALE: u64 = 9;

type Callback = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64) -> u64;

unsafe extern "C" fn handler() -> u64 {
    RESULT
}

unsafe extern "efiapi" fn frame_handler(_data: *mut c_void, frame: *mut RawFrame) {
    // SAFETY: the dispatcher passes its own frame.
    unsafe { (*frame).result = [RESULT, 0] }
}

fn call(code: CodePointer) -> u64 {
    // SAFETY: the handlers take any arguments.
    unsafe { code.cast::<Callback>()(1, 2, 3, 4, 5, 6, 7, 8, 9) }
}

fn direct(positions: usize) -> Binding {
    // SAFETY: the handler takes any arguments and ignores the data.
    unsafe { Binding::direct(Convention::C, handler as *const c_void, positions, null_mut()) }
}

/// Runs this test once more, in a process that does something wrong.
fn signal_of(test: &str) -> Option<c_int> {
    let output = child::this_program().args(["--exact", test]).env(WRONG, "1").output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    output.status.signal()
}

const WRONG: &str = "CALLTABLE_TEST_WRONG";

#[test]
fn entries_are_landing_pads() {
    let keys: Vec<SlotKey> = (0..CAPACITY).map(|_| table::register(&direct(2)).unwrap()).collect();
    let entry = |key: &SlotKey| key.code().as_ptr().addr();
    let base = entry(&keys[0]) - keys[0].index() * ENTRY_STRIDE;
    let pages = base.next_multiple_of(PAGE)..(base + CAPACITY * ENTRY_STRIDE) / PAGE * PAGE;
    assert!(pages.len() >= 6 * PAGE, "{pages:x?}");
    let first = std::ptr::with_exposed_provenance_mut(pages.start);
    // SAFETY: the pages hold entries and nothing else.
    let result = unsafe { libc::mprotect(first, pages.len(), libc::PROT_READ | libc::PROT_EXEC | PROT_BTI) };
    assert_eq!(result, 0, "the processor has no BTI");
    let guarded: Vec<_> = keys.iter().filter(|key| pages.contains(&entry(key))).collect();
    if env::var_os(WRONG).is_some() {
        let beside = guarded[0].code().as_ptr().wrapping_byte_add(4);
        // SAFETY: what runs there is the rest of an entry; but the processor is to refuse it.
        unsafe { std::mem::transmute::<*const c_void, Callback>(beside)(1, 2, 3, 4, 5, 6, 7, 8, 9) };
    }
    assert!(guarded.iter().all(|key| call(key.code()) == RESULT));
    assert_eq!(signal_of("entries_are_landing_pads"), Some(libc::SIGILL), "a branch beside a landing pad");
    keys.into_iter().for_each(|key| table::release(key).unwrap());
}

thread_local! {
    static BLOCK: UnsafeCell<ThreadBlock> =
        const { UnsafeCell::new(ThreadBlock { head: CHAIN_END, stack_base: 0, stack_limit: 0 }) };
}

unsafe extern "efiapi" fn block() -> *mut ThreadBlock {
    BLOCK.with(UnsafeCell::get)
}

static FILTER: ExceptionFilter = {
    unsafe extern "efiapi" fn filter(_: *mut c_void, _: *const Exception, outcome: *mut Outcome) -> Verdict {
        // SAFETY: the answer is that of the call.
        unsafe { (*outcome).frame.result = [RESULT, 0] };
        Verdict::RETURN
    }
    filter
};

/// Raises an exception, some frames down.
unsafe extern "C" fn raise() -> u64 {
    #[inline(never)]
    fn down(frames: u32) -> u64 {
        if frames > 0 {
            return std::hint::black_box(down(frames - 1)) + 1;
        }
        let parameters = [0; 15];
        let (nested, address) = (null_mut(), null_mut());
        let mut record = ExceptionRecord { code: 5, flags: 0, nested, address, parameter_count: 0, parameters };
        let here = (&raw const record).addr();
        // SAFETY: nobody else uses the block; the records lie further up in this stack, but not far.
        unsafe {
            ((*block()).stack_limit, (*block()).stack_base) = (here, here + 0x1_0000);
            seh::dispatch(&mut record, null_mut()).unwrap();
        }
        0
    }
    down(5)
}

/// A call in each lane.
extern "C" fn call_all() {
    let signature = Signature::new(Convention::C, &[Type::U64], Some(Type::U64)).unwrap();
    // SAFETY: the handler ignores the data.
    let frame = unsafe { Binding::frame(frame_handler, &signature, null_mut()) };
    // SAFETY: the data begins with a filter.
    let contained = |handler: *const c_void| unsafe {
        Binding::direct(Convention::C, handler, 2, (&raw const FILTER).cast_mut().cast()).contained()
    };
    let raising = contained(raise as *const c_void);
    let all = [
        ("in a register", direct(2)),
        ("on the stack", direct(9)),
        ("tracked", direct(9).tracked()),
        ("exclusive", direct(2).exclusive()),
        ("saving", direct(2).saving_control_words()),
        ("keeping X18", direct(2).keeping_x18()),
        ("frame", frame),
        ("frame, saving, tracked", frame.saving().tracked()),
        ("contained", contained(handler as *const c_void)),
        ("raising", raising),
        ("raising, tracked", raising.tracked()),
        ("raising, saving, exclusive", raising.saving().exclusive()),
    ];
    for (lane, binding) in all {
        let key = table::register(&binding).unwrap();
        let code = key.code();
        assert_eq!(call(code), RESULT, "{lane}");
        table::release(key).unwrap();
        assert_eq!(call(code), STALE, "{lane}, released");
    }
}

/// Returns to what nobody has pushed.
extern "C" fn return_elsewhere() {
    // SAFETY: without a guarded control stack it goes on at the label.
    unsafe { asm!("adr x30, 2f", "ret", "2:", out("x30") _) }
}

/// Runs a function with a guarded control stack. Returns what the system says to that, and how much is left on the
/// stack.
fn guarded(function: extern "C" fn()) -> (i64, u64) {
    let (status, left): (i64, u64);
    // SAFETY: PR_SET_SHADOW_STACK_STATUS (75) of prctl (167) takes PR_SHADOW_STACK_ENABLE (1) or nothing. No RET comes
    // in between but those of the function.
    unsafe {
        asm!(
            "mov x0, #75",
            "mov x1, #1",
            "svc #0",
            "mov x22, x0",
            "cbnz x0, 2f",
            "mrs x23, s3_3_c2_c5_1", // GCSPR_EL0
            "blr x21",
            "mrs x9, s3_3_c2_c5_1",
            "sub x23, x23, x9",
            "mov x8, #167",
            "mov x0, #75",
            "mov x1, #0",
            "mov x2, #0",
            "mov x3, #0",
            "mov x4, #0",
            "svc #0",
            "2:",
            in("x8") 167,
            in("x2") 0,
            in("x3") 0,
            in("x4") 0,
            in("x21") function,
            out("x22") status,
            out("x23") left,
            clobber_abi("C"),
        );
    }
    (status, left)
}

#[test]
fn returns_are_those_that_a_guarded_control_stack_has() {
    if env::var_os(WRONG).is_some() {
        guarded(return_elsewhere);
        return;
    }
    // SAFETY: each thread has a block of its own; every callback of this program returns a number.
    unsafe {
        seh::declare(block).unwrap();
        set_stale_handler(Some(|call| call.set_result(STALE))).unwrap();
    }
    assert_eq!(guarded(call_all), (0, 0), "what the system says (0: it has such stacks), what is left on the stack");
    let signal = signal_of("returns_are_those_that_a_guarded_control_stack_has");
    assert_eq!(signal, Some(libc::SIGSEGV), "a return to somewhere else");
}
