//! Two processors use the table at once.

use core::ffi::c_void;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};

use calltable::table::{self, Binding, SlotKey};
use calltable::{Callback, Convention, NotReleased, ReleaseError};

use super::{adding, address, repeat};
use crate::machine::{interrupt_second, paging};
use crate::smp::while_second_runs;
use crate::traps::{Frame, OTHER_PROCESSOR, set_hook};

type Unary = unsafe extern "efiapi" fn(isize) -> isize;

/// What both call, as an address.
static CODE: AtomicIsize = AtomicIsize::new(0);
/// Tells the second processor to stop.
static STOP: AtomicBool = AtomicBool::new(false);
/// What the second processor has counted.
static SUM: AtomicIsize = AtomicIsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

fn set(code: *const c_void) {
    CODE.store(code.addr() as isize, Ordering::SeqCst);
    STOP.store(false, Ordering::SeqCst);
    SUM.store(0, Ordering::SeqCst);
    CALLS.store(0, Ordering::SeqCst);
}

fn code() -> *const c_void {
    core::ptr::without_provenance(CODE.load(Ordering::SeqCst) as usize)
}

fn register(binding: &Binding) -> SlotKey {
    match table::register(binding) {
        Ok(key) => key,
        Err(error) => panic!("{error}"),
    }
}

const TIMES: isize = 100_000;

pub fn one_callback() {
    for binding in [adding(1), adding(1).tracked(), adding(1).saving()] {
        let slot = register(&binding);
        set(address(slot.code()));
        let sum = while_second_runs(|| SUM.store(repeat(code(), TIMES), Ordering::SeqCst), || repeat(code(), TIMES));
        let low = |sum: isize| sum as u32;
        let want = (0..TIMES).fold(TIMES as u32, |sum, value| sum.wrapping_add(value as u32));
        assert_eq!((low(sum), low(SUM.load(Ordering::SeqCst))), (want, want));
        assert_eq!(table::live_slot(slot.index()).and_then(|entry| entry.in_flight).unwrap_or(0), 0);
        assert_eq!(table::release(slot), Ok(()));
    }
}

/// Two handlers, each of which knows its own data.
unsafe extern "efiapi" fn odd(_: isize, data: usize) -> isize {
    assert_eq!(data % 2, 1, "the other handler's data");
    1
}
unsafe extern "efiapi" fn even(_: isize, data: usize) -> isize {
    assert_eq!(data % 2, 0, "the other handler's data");
    1
}

pub fn changing_hands() {
    fn call() {
        while !STOP.load(Ordering::SeqCst) {
            // A stale call's result is large (every_slot.rs).
            if repeat(code(), 1) == 1 {
                SUM.fetch_add(1, Ordering::SeqCst);
            } else {
                CALLS.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    const TURNS: usize = 2000;
    // All slots but one are taken, so that it is always the same one.
    let mut others = [const { None }; table::CAPACITY - 1];
    for slot in &mut others {
        *slot = Some(register(&adding(1)));
    }
    let key = register(&adding(1));
    let the_one = key.slot();
    set(address(the_one.code()));
    assert_eq!(table::release(key), Ok(()));
    while_second_runs(call, || {
        let mut turns = 0;
        // Until the other processor has met it live and stale.
        while turns < TURNS || SUM.load(Ordering::SeqCst) < 100 || CALLS.load(Ordering::SeqCst) < 100 {
            turns += 1;
            assert!(
                turns < 1000 * TURNS,
                "{} live and {} stale calls",
                SUM.load(Ordering::SeqCst),
                CALLS.load(Ordering::SeqCst)
            );
            let handler = if turns % 2 == 1 { odd } else { even } as unsafe extern "efiapi" fn(isize, usize) -> isize;
            let data = core::ptr::without_provenance_mut(turns);
            // SAFETY: the handlers take one word and any data.
            let binding = unsafe { Binding::direct(Convention::C, handler as *const c_void, 1, data) };
            let binding = if turns % 3 == 0 { binding.tracked() } else { binding };
            let slot = register(&binding);
            assert_eq!(slot.code(), the_one.code());
            for _ in 0..turns % 50 {
                spin_loop();
            }
            assert_eq!(table::release(slot), Ok(()));
        }
        STOP.store(true, Ordering::SeqCst);
    });
    for key in others.into_iter().flatten() {
        assert_eq!(table::release(key), Ok(()));
    }
}

pub fn registering() {
    fn work() {
        for turn in 0..10_000 {
            let slot = register(&adding(turn));
            let shared = table::share(&adding(-1)).expect("a slot");
            assert_eq!(repeat(address(slot.code()), 1), turn);
            assert_eq!(repeat(address(shared.code()), 2), -1);
            assert_eq!((table::release(slot), table::release(shared)), (Ok(()), Ok(())));
        }
    }
    while_second_runs(work, work);
    assert_eq!(table::list().count(), 0);
}

pub fn tracked() {
    static ENTERED: AtomicBool = AtomicBool::new(false);
    static GO_ON: AtomicBool = AtomicBool::new(false);
    static LEFT: AtomicBool = AtomicBool::new(false);
    unsafe extern "efiapi" fn slow(value: isize, _: *mut c_void) -> isize {
        ENTERED.store(true, Ordering::SeqCst);
        while !GO_ON.load(Ordering::SeqCst) {
            spin_loop();
        }
        for _ in 0..10_000 {
            spin_loop();
        }
        LEFT.store(true, Ordering::SeqCst);
        value
    }
    // SAFETY: the handler takes one word and any data.
    let binding = unsafe { Binding::direct(Convention::C, slow as *const c_void, 1, core::ptr::null_mut()) }.tracked();
    let slot = register(&binding);
    set(address(slot.code()));
    while_second_runs(
        || SUM.store(repeat(code(), 1), Ordering::SeqCst),
        || {
            while !ENTERED.load(Ordering::SeqCst) {
                spin_loop();
            }
            let Err(NotReleased { handle, error }) = table::try_release(slot) else { panic!("it is running") };
            assert_eq!(error, ReleaseError::InFlight);
            GO_ON.store(true, Ordering::SeqCst);
            assert_eq!(table::release(handle), Ok(()));
            assert!(LEFT.load(Ordering::SeqCst), "release has not waited");
        },
    );
}

pub fn exclusive() {
    const TURNS: isize = 50_000;
    fn call() -> (isize, isize) {
        let (mut entered, mut refused) = (0, 0);
        for _ in 0..TURNS {
            if repeat(code(), 1) == 1 { entered += 1 } else { refused += 1 }
        }
        (entered, refused)
    }
    let mut count = 0_isize;
    let mut closure = |_: isize| {
        count += 1;
        1
    };
    let callback = Callback::<Unary>::from_mut(&mut closure).expect("a slot");
    set(callback.code() as *const c_void);
    let (entered, refused) = while_second_runs(|| SUM.store(call().0, Ordering::SeqCst), call);
    drop(callback);
    assert_eq!(entered + refused, TURNS);
    assert_eq!(count, entered + SUM.load(Ordering::SeqCst), "no call is lost, none counted twice");
}

pub fn interrupted() {
    fn on_interrupt(frame: &Frame) {
        CALLS.fetch_add(1, Ordering::SeqCst);
        if paging::table().contains(&frame.ip) {
            SUM.fetch_add(1, Ordering::SeqCst);
        }
        assert_eq!(repeat(code(), 3), 3 * 9 + 3);
    }
    fn call() {
        while !STOP.load(Ordering::SeqCst) {
            assert_eq!(repeat(code(), 10), 10 * 9 + 45);
        }
    }
    const WANTED: isize = 20;
    let slot = register(&adding(9));
    set(address(slot.code()));
    set_hook(OTHER_PROCESSOR, Some(on_interrupt));
    while_second_runs(call, || {
        let mut sent = 0;
        while SUM.load(Ordering::SeqCst) < WANTED {
            let before = CALLS.load(Ordering::SeqCst);
            interrupt_second();
            sent += 1;
            assert!(sent < 1_000_000, "of {sent} interrupts {} came inside", SUM.load(Ordering::SeqCst));
            while CALLS.load(Ordering::SeqCst) == before {
                spin_loop();
            }
        }
        STOP.store(true, Ordering::SeqCst);
    });
    set_hook(OTHER_PROCESSOR, None);
    assert_eq!(table::release(slot), Ok(()));
}
