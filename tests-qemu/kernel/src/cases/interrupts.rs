//! Callbacks in interrupt handlers, while what was interrupted is inside the table, the dispatchers or the registry.

use core::ffi::c_void;
use core::ptr::without_provenance;
use core::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

use calltable::seh::{Exception, ExceptionFilter, Outcome, Verdict};
use calltable::table::{self, Binding, CAPACITY, ENTRY_RETURN, ENTRY_STRIDE, Location, SlotId};
use calltable::{Convention, Error, Frame, RawFrame, ReleaseError, Signature, Type};

use super::{adding, address, repeat};
use crate::machine::{ENTRY_INSTRUCTIONS, STEPS_ATOMICS, allow_interrupts, paging, set_timer, step, stop_timer};
use crate::traps::{self, Frame as Interrupted, STEP, TIMER, set_hook};

/// What an interrupt handler calls, as an address.
static CODE: AtomicIsize = AtomicIsize::new(0);
/// Interrupts; those that came upon the table or a dispatcher; answers of the `try_` forms.
static ALL: AtomicUsize = AtomicUsize::new(0);
static INSIDE: AtomicUsize = AtomicUsize::new(0);
static BUSY: AtomicUsize = AtomicUsize::new(0);
static FREE: AtomicUsize = AtomicUsize::new(0);

/// The slot whose call is interrupted at every instruction, or none.
static STEPPED: AtomicUsize = AtomicUsize::new(NONE);
const NONE: usize = usize::MAX;

const DATA: isize = 1000;

fn set(slot: SlotId) {
    CODE.store(address(slot.code()).addr() as isize, Ordering::SeqCst);
    for counter in [&ALL, &INSIDE, &BUSY, &FREE] {
        counter.store(0, Ordering::SeqCst);
    }
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

/// Calls a callback, and registers and releases another, if the lock is free.
pub fn work(interrupted: &Interrupted) {
    ALL.fetch_add(1, Ordering::SeqCst);
    let (table, ip) = (paging::table(), interrupted.ip);
    if table.contains(&ip) {
        INSIDE.fetch_add(1, Ordering::SeqCst);
    }
    let location = match table::locate(without_provenance(ip)) {
        // What runs in an entry is one of its instructions.
        Some(Location::Entry { slot }) => {
            assert!(ENTRY_INSTRUCTIONS.contains(&ENTRY_RETURN));
            let offset = ip - table.start - ENTRY_STRIDE * slot;
            assert!(ENTRY_INSTRUCTIONS.contains(&offset), "{ip:#x} is in the entry of slot {slot}");
            let stepped = STEPPED.load(Ordering::SeqCst);
            assert!(stepped == NONE || stepped == slot, "slot {stepped} is called, not {slot}");
            true
        }
        Some(Location::Dispatcher) => {
            assert!(ip >= table.start + ENTRY_STRIDE * CAPACITY, "{ip:#x} is in the table");
            true
        }
        None => false,
    };
    assert_eq!(location, table.contains(&ip), "{ip:#x}");
    if STEPPED.load(Ordering::SeqCst) != NONE && !location {
        return; // a handler or C code, in which nothing could be disturbed
    }
    let code = without_provenance(CODE.load(Ordering::SeqCst) as usize);
    assert_eq!(repeat(code, 2), 2 * DATA + 1);
    match table::try_register(&adding(7)) {
        Ok(slot) => {
            FREE.fetch_add(1, Ordering::SeqCst);
            assert_eq!(repeat(address(slot.code()), 1), 7);
            assert_eq!(table::try_release(slot), Ok(()), "what was interrupted does not hold the lock");
        }
        Err(error) => {
            BUSY.fetch_add(1, Ordering::SeqCst);
            assert_eq!(error, Error::Busy);
            assert_eq!(table::try_share(&adding(8)), Err(Error::Busy));
            assert!(matches!(table::try_live_slot(0), Err(Error::Busy)));
        }
    }
}

/// Runs `hook` before every instruction of `run`.
fn stepped<R>(hook: fn(&Interrupted), run: impl FnOnce() -> R) -> R {
    set_hook(STEP, Some(hook));
    step(true);
    let result = run();
    step(false);
    set_hook(STEP, None);
    result
}

/// Handlers that return their argument plus a multiple of their data.
unsafe extern "efiapi" fn direct<const FACTOR: isize>(value: isize, data: isize) -> isize {
    value + FACTOR * data
}

unsafe extern "efiapi" fn frame<const FACTOR: isize>(data: *mut c_void, frame: *mut RawFrame) {
    let Ok(signature) = Signature::new(Convention::C, &[Type::ISIZE], Some(Type::ISIZE)) else { panic!("signature") };
    // SAFETY: the entry was registered with that signature and is called by it.
    let mut frame = unsafe { Frame::new(&mut *frame, &signature) };
    let value = frame.get::<isize>(0);
    assert_eq!(frame.set_result(value.unwrap_or(0) + FACTOR * data.addr() as isize), Ok(()));
}

/// The data of a contained handler.
#[repr(C)]
struct Filtered {
    filter: ExceptionFilter,
    number: isize,
}

unsafe extern "efiapi" fn add_filtered(value: isize, data: *const Filtered) -> isize {
    // SAFETY: the data is such.
    value + unsafe { (*data).number }
}

unsafe extern "efiapi" fn pass(_: *mut c_void, _: *const Exception, _: *mut Outcome) -> Verdict {
    Verdict::SEARCH_ON
}

pub fn stepped_calls() {
    let Ok(signature) = Signature::new(Convention::C, &[Type::ISIZE], Some(Type::ISIZE)) else { panic!("signature") };
    let data = core::ptr::without_provenance_mut(5);
    // SAFETY: the handler takes any data.
    let (kept, foreign) = unsafe {
        (
            Binding::frame(frame::<1>, &signature, data),
            Binding::frame_foreign(frame::<1> as *const c_void, &signature, data),
        )
    };
    let data = Filtered { filter: pass, number: 5 };
    // SAFETY: it takes one word and that data, which begins with a filter.
    let contained = unsafe {
        let data = (&raw const data).cast_mut().cast();
        Binding::direct(Convention::C, add_filtered as *const c_void, 1, data).contained()
    };
    let inner = table::register(&adding(DATA)).expect("a slot");
    for (lane, binding) in [
        ("direct", adding(5)),
        ("tracked", adding(5).tracked()),
        ("exclusive", adding(5).exclusive()),
        ("saving", adding(5).saving()),
        ("saving control words", adding(5).saving_control_words()),
        ("frame", kept),
        ("frame, tracked", kept.tracked()),
        ("frame saving", foreign),
        ("frame saving control words", foreign.saving_control_words()),
        ("contained", contained),
        ("contained, tracked", contained.tracked()),
        ("contained, saving", contained.saving()),
    ] {
        let is_counted = lane.contains("tracked") || lane.contains("exclusive");
        if is_counted && !STEPS_ATOMICS {
            continue;
        }
        let slot = table::register(&binding).expect("a slot");
        set(inner.slot());
        STEPPED.store(slot.index(), Ordering::SeqCst);
        let sum = stepped(work, || repeat(address(slot.code()), 3));
        STEPPED.store(NONE, Ordering::SeqCst);
        assert_eq!(sum, 5 + 6 + 7, "{lane}");
        // An entry has 3 instructions, the shortest dispatcher more than 10.
        assert!(count(&INSIDE) > 3 * 13, "{lane}: only {} of {} traps inside", count(&INSIDE), count(&ALL));
        assert_eq!(count(&BUSY), 0, "{lane}");
        assert_eq!(table::live_slot(slot.index()).and_then(|entry| entry.in_flight).unwrap_or(0), 0, "{lane}");
        assert_eq!(table::release(slot), Ok(()), "{lane}");
    }
    assert_eq!(table::release(inner), Ok(()));
}

pub fn stepped_registration() {
    let inner = table::register(&adding(DATA)).expect("a slot");
    set(inner.slot());
    for _ in 0..3 {
        let slot = stepped(work, || table::register(&adding(1))).expect("a slot");
        assert_eq!(repeat(address(slot.code()), 1), 1);
        let shared = stepped(work, || table::share(&adding(2))).expect("a slot");
        assert_eq!(stepped(work, || table::release(shared)), Ok(()));
        // SAFETY: the same key once more, to see that it is of no use.
        let again = unsafe { slot.slot().key() };
        assert_eq!(stepped(work, || table::release(slot)), Ok(()));
        let released = stepped(work, || table::release(again));
        assert_eq!(released.map_err(|failed| failed.error), Err(ReleaseError::NotLive));
    }
    assert!(count(&BUSY) > 100 && count(&FREE) > 100, "{} busy, {} free", count(&BUSY), count(&FREE));
    assert_eq!(table::release(inner), Ok(()));
    assert_eq!(table::list().count(), 0);
}

/// Which slot changes hands, before which instruction of table and dispatchers, and in which lane.
static SLOT: AtomicUsize = AtomicUsize::new(0);
static LEFT: AtomicUsize = AtomicUsize::new(0);
static LANE: AtomicUsize = AtomicUsize::new(0);

const OLD: isize = 0x01d;
const NEW: isize = 0x4e3;
const LANES: [&str; 3] = ["direct", "saving", "frame"];

/// A registration that adds `FACTOR` times `data`.
fn owner<const FACTOR: isize>(lane: usize, data: isize) -> Binding {
    let data = core::ptr::without_provenance_mut(data as usize);
    let Ok(signature) = Signature::new(Convention::C, &[Type::ISIZE], Some(Type::ISIZE)) else { panic!("signature") };
    // SAFETY: the handlers take one word and any data.
    unsafe {
        let direct = Binding::direct(Convention::C, direct::<FACTOR> as *const c_void, 1, data);
        [direct, direct.saving(), Binding::frame(frame::<FACTOR>, &signature, data)][lane]
    }
}

fn hand_over(interrupted: &Interrupted) {
    if paging::table().contains(&interrupted.ip) && LEFT.fetch_sub(1, Ordering::SeqCst) == 0 {
        let Ok(Some(old)) = table::try_live_slot(SLOT.load(Ordering::SeqCst)) else { panic!("nobody holds the lock") };
        // SAFETY: `changing_hands` does not use its own key then.
        assert_eq!(table::try_release(unsafe { old.slot.key() }), Ok(()));
        assert!(table::try_register(&owner::<2>(LANE.load(Ordering::SeqCst), NEW)).is_ok());
    }
}

pub fn changing_hands() {
    // All slots but one are taken, so that this one is reused at once.
    let fillers: [_; CAPACITY - 1] = core::array::from_fn(|_| table::register(&adding(0)).expect("a slot"));
    for (lane, name) in LANES.iter().enumerate() {
        LANE.store(lane, Ordering::SeqCst);
        let (mut old, mut new, mut stale) = (0, 0, 0);
        for before in 0.. {
            let slot = table::register(&owner::<1>(lane, OLD)).expect("a slot");
            SLOT.store(slot.index(), Ordering::SeqCst);
            LEFT.store(before, Ordering::SeqCst);
            let result = stepped(hand_over, || repeat(address(slot.code()), 1));
            if LEFT.load(Ordering::SeqCst) <= before {
                assert_eq!(table::release(slot), Ok(()), "the call had fewer instructions");
                break;
            }
            let Some(entry) = table::live_slot(slot.index()) else { panic!("the new owner") };
            // SAFETY: `hand_over` has dropped its key.
            assert_eq!(table::release(unsafe { entry.slot.key() }), Ok(()));
            match result {
                OLD => old += 1,
                result if result == 2 * NEW => new += 1,
                result if result == 0x20_0000 + slot.index() as isize => stale += 1,
                other => {
                    panic!("{name}, before instruction {before}: handler of one owner, data of another: {other:#x}")
                }
            }
        }
        assert!(old > 0 && new > 0 && stale > 0, "{name}: {old} old, {new} new, {stale} stale");
    }
    for filler in fillers {
        assert_eq!(table::release(filler), Ok(()));
    }
}

/// The next tick comes after a time that never is the same.
fn tick(interrupted: &Interrupted) {
    static RANDOM: AtomicUsize = AtomicUsize::new(1);
    work(interrupted);
    let random = RANDOM.load(Ordering::SeqCst).wrapping_mul(1_103_515_245).wrapping_add(12345);
    RANDOM.store(random, Ordering::SeqCst);
    set_timer(2000 + (random >> 8) as u32 % 30_000);
}

pub fn timer() {
    const WANTED: usize = 20;
    const TURNS: usize = 3_000_000;
    let inner = table::register(&adding(DATA)).expect("a slot");
    let outer = table::register(&adding(3).tracked()).expect("a slot");
    set(inner.slot());
    traps::set_hook(TIMER, Some(tick));
    set_timer(10_000);
    allow_interrupts(true);
    let mut turns = 0;
    while (count(&INSIDE) < WANTED || count(&BUSY) < WANTED) && turns < TURNS {
        turns += 1;
        assert_eq!(repeat(address(outer.code()), 4), 12 + 6);
        let slot = table::register(&adding(1)).expect("a slot");
        assert_eq!(table::release(slot), Ok(()));
    }
    stop_timer();
    allow_interrupts(false);
    traps::set_hook(TIMER, None);
    assert_eq!(table::live_slot(outer.index()).and_then(|entry| entry.in_flight), Some(0));
    for slot in [outer, inner] {
        assert_eq!(table::release(slot), Ok(()));
    }
    assert!(
        count(&INSIDE) >= WANTED && count(&BUSY) >= WANTED,
        "{turns} turns: of {} interrupts {} inside, {} met a taken lock",
        count(&ALL),
        count(&INSIDE),
        count(&BUSY)
    );
}
