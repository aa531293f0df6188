//! With the feature `alloc`, callbacks that own their closures: when these are dropped, and when not.
#![cfg(feature = "alloc")]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;

use calltable::table::{self, CAPACITY};
use calltable::{Callback, Error, NotReleased, Options, ReleaseError, StaleReason, set_stale_handler};
use calltable_callers::REPEAT;

type Unary = unsafe extern "efiapi" fn(isize) -> isize;

/// The table is one for the whole program, and one of the tests fills it.
fn alone() -> MutexGuard<'static, ()> {
    static SERIAL: Mutex<()> = Mutex::new(());
    SERIAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sum of five calls by C code, with 0 to 4.
fn five(callback: &Callback<'_, Unary>) -> isize {
    // SAFETY: the callback lives.
    unsafe { REPEAT(callback.code() as *const _, 5) }
}

/// Part of a closure; counts when it is dropped, and how many callbacks are live then.
struct Part<'a> {
    dropped: &'a AtomicUsize,
    live: &'a AtomicUsize,
}

impl Part<'_> {
    fn add(&self, number: isize) -> isize {
        assert_eq!(self.dropped.load(Ordering::Relaxed), 0, "it was dropped");
        number + 1
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.live.store(table::live_count(), Ordering::Relaxed);
    }
}

#[test]
fn the_closure_is_dropped_once_and_after_the_release() {
    let _alone = alone();
    let ways: [fn(Callback<'_, Unary>); 3] =
        [|callback| drop(callback), |callback| callback.try_release().unwrap(), |callback| drop(callback.untyped())];
    for end in ways {
        for exclusive in [false, true] {
            let (dropped, live) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
            let part = Part { dropped: &dropped, live: &live };
            let closure = move |number| part.add(number);
            let callback = if exclusive { Callback::new_mut(closure) } else { Callback::new(closure) }.unwrap();
            let moved = Box::new(callback); // the handle may be anywhere
            assert_eq!(five(&moved), 15);
            assert_eq!(dropped.load(Ordering::Relaxed), 0);
            end(*moved);
            assert_eq!((dropped.load(Ordering::Relaxed), live.load(Ordering::Relaxed)), (1, 0));
        }
    }
}

#[test]
fn it_can_be_returned_and_stored_and_dropped_in_any_order() {
    fn adder(summand: isize, log: &Arc<Mutex<Vec<isize>>>) -> Callback<'static, Unary> {
        let log = Arc::clone(log);
        Callback::new(move |number| {
            log.lock().unwrap().push(number);
            number + summand
        })
        .unwrap()
    }
    let _alone = alone();
    let log = Arc::default();
    let mut all: Vec<_> = (0..9).map(|summand| adder(summand, &log)).collect();
    assert_eq!(all.iter().map(five).sum::<isize>(), 9 * 10 + 5 * 36);
    drop(all.remove(4));
    let rest = thread::spawn(move || all.iter().map(five).sum::<isize>()).join().unwrap(); // and drops them
    assert_eq!((rest, table::live_count()), (8 * 10 + 5 * 32, 0));
    assert_eq!(Arc::into_inner(log).map(|log| log.into_inner().unwrap().len()), Some(17 * 5));
}

#[test]
fn a_closure_that_finds_no_slot_is_dropped() {
    let _alone = alone();
    let all: Vec<Callback<'_, Unary>> = (0..CAPACITY).map(|_| Callback::new(|number| number).unwrap()).collect();
    let (dropped, live) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let part = Part { dropped: &dropped, live: &live };
    assert_eq!(Callback::<Unary>::new(move |number| part.add(number)).unwrap_err(), Error::TableFull);
    assert_eq!((dropped.into_inner(), live.into_inner()), (1, CAPACITY));
    drop(all);
}

#[test]
fn a_tracked_one_waits_before_the_closure_goes() {
    let _alone = alone();
    let (dropped, live) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (entered, leave) = (Barrier::new(2), Barrier::new(2));
    let part = Part { dropped: &dropped, live: &live };
    let closure = |number| {
        entered.wait();
        leave.wait();
        part.add(number)
    };
    let callback = Callback::<Unary>::new_with(Options::new().tracked(), closure).unwrap();
    let code = callback.code();
    thread::scope(|scope| {
        // SAFETY: it lives when the call begins, and is tracked.
        let call = scope.spawn(move || unsafe { code(41) });
        entered.wait();
        let NotReleased { handle, error } = callback.try_release().unwrap_err();
        assert_eq!((error, dropped.load(Ordering::Relaxed)), (ReleaseError::InFlight, 0));
        let release = scope.spawn(move || drop(handle));
        leave.wait();
        release.join().unwrap();
        assert_eq!((call.join().unwrap(), table::live_count()), (42, 0));
    });
}

#[test]
fn an_exclusive_one_refuses_a_call_within_its_call() {
    let _alone = alone();
    // SAFETY: each callback of this program returns a number.
    unsafe {
        set_stale_handler(Some(|call| {
            assert_eq!(call.reason, StaleReason::Running);
            100
        }))
        .unwrap();
    }
    let mut own: Option<Unary> = None;
    let shared = Arc::new(Mutex::new(None::<Unary>));
    let inner = Arc::clone(&shared);
    let callback = Callback::<Unary>::new_mut(move |number| {
        own = own.or(*inner.lock().unwrap());
        // SAFETY: it lives, and this call is refused.
        own.map_or(number, |code| number + unsafe { code(1) })
    })
    .unwrap();
    // SAFETY: it lives.
    assert_eq!(unsafe { callback.code()(7) }, 7);
    *shared.lock().unwrap() = Some(callback.code());
    // SAFETY: as above.
    assert_eq!(unsafe { callback.code()(7) }, 107);
}

#[test]
fn closures_of_one_thread_have_cells_and_are_called_within_themselves() {
    let _alone = alone();
    let state = Rc::new(RefCell::new((Vec::new(), None::<Unary>)));
    let own = Rc::clone(&state);
    let procedure = move |depth| {
        own.borrow_mut().0.push(depth);
        let code = own.borrow().1;
        // SAFETY: it lives.
        code.filter(|_| depth > 0).map_or(0, |code| depth + unsafe { code(depth - 1) })
    };
    // SAFETY: this thread alone calls it and drops it.
    let callback = unsafe { Callback::<Option<Unary>>::new_local(procedure) }.unwrap();
    state.borrow_mut().1 = callback.code();
    // SAFETY: it lives.
    assert_eq!(unsafe { callback.code().unwrap()(4) }, 10);
    drop(callback);
    assert_eq!(Rc::into_inner(state).unwrap().into_inner().0, [4, 3, 2, 1, 0]);

    let borrowed = RefCell::new(0);
    let add = |number| {
        *borrowed.borrow_mut() += number;
        0
    };
    // SAFETY: as above.
    let callback = unsafe { Callback::<Unary>::from_local(&add) }.unwrap();
    five(&callback);
    drop(callback);
    assert_eq!(borrowed.into_inner(), 10);
}

#[test]
fn leaked_ones_keep_their_closures() {
    let _alone = alone();
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    let part = Part { dropped: &DROPPED, live: &LIVE };
    let callback = Callback::<Unary>::new(move |number| part.add(number)).unwrap();
    let slot = callback.slot();
    let code = callback.leak();
    // SAFETY: it lives for ever.
    assert_eq!(unsafe { code(41) }, 42);
    // SAFETY: nobody calls it any more.
    table::release(unsafe { slot.key() }).unwrap();
    assert_eq!(DROPPED.load(Ordering::Relaxed), 0);
}
