//! With the feature `alloc`, callbacks that own their closures: when these are dropped, and when not.
#![cfg(feature = "alloc")]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;

use calltable::table::{self, CAPACITY};
use calltable::{
    Callback, Error, NotRebound, NotReleased, Options, RebindError, ReleaseError, StaleReason, set_stale_handler,
};
use calltable_callers::REPEAT;

type Unary = unsafe extern "efiapi" fn(isize) -> isize;

/// The table is one for the whole program, and one of the tests fills it.
fn alone() -> MutexGuard<'static, ()> {
    static SERIAL: Mutex<()> = Mutex::new(());
    SERIAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has stale calls return 100.
fn expect_stale(reason: StaleReason) {
    static REASON: Mutex<StaleReason> = Mutex::new(StaleReason::Running);
    *REASON.lock().unwrap() = reason;
    // SAFETY: each callback of this program returns a number.
    unsafe {
        set_stale_handler(Some(|call| {
            assert_eq!(call.reason, *REASON.lock().unwrap());
            call.set_result(100);
        }))
        .unwrap();
    }
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
    let refused = Callback::<Unary>::new(move |number| part.add(number)).unwrap_err();
    assert!(matches!(refused, Error::TableFull { .. }));
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
    expect_stale(StaleReason::Running);
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

#[test]
fn a_closure_that_is_called_once_is_dropped_by_its_call_and_the_slot_comes_back() {
    let _alone = alone();
    expect_stale(StaleReason::Released);
    let (dropped, live) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    for round in 1..=3 {
        dropped.store(0, Ordering::Relaxed);
        let part = Part { dropped: &dropped, live: &live };
        let once = Callback::<Unary>::once(move |number| part.add(number)).unwrap();
        assert_eq!((table::live_count(), dropped.load(Ordering::Relaxed)), (1, 0));
        let code = once.code();
        // SAFETY: the handle lives; the second call is refused.
        assert_eq!(unsafe { REPEAT(code as *const _, 2) }, 1 + 100, "round {round}");
        assert_eq!(dropped.load(Ordering::Relaxed), 1, "after the call, not with the handle");
        assert_eq!(table::live_count(), 0, "the slot is free");
        drop(once);
        // SAFETY: as above.
        assert_eq!(unsafe { code(1) }, 100);
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn one_that_is_not_called_is_dropped_with_its_handle() {
    let _alone = alone();
    expect_stale(StaleReason::Released);
    let (dropped, live) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let part = Part { dropped: &dropped, live: &live };
    let once = Callback::<Option<Unary>>::once(move |number| part.add(number)).unwrap();
    let code = once.code().unwrap();
    let slot = once.slot();
    assert!(table::list().any(|live| live.slot == slot));
    drop(Box::new(once));
    assert_eq!((dropped.load(Ordering::Relaxed), live.load(Ordering::Relaxed)), (1, 0));
    // SAFETY: the call is refused.
    assert_eq!(unsafe { code(1) }, 100);
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn a_handle_of_a_running_call_waits_for_what_the_closure_borrows() {
    let _alone = alone();
    let (entered, leave) = (Barrier::new(2), Barrier::new(2));
    let ended = AtomicUsize::new(0);
    let closure = |number| {
        entered.wait();
        leave.wait();
        thread::sleep(std::time::Duration::from_millis(50));
        ended.store(1, Ordering::Relaxed);
        number
    };
    let once = Callback::<Unary>::once(closure).unwrap();
    let code = once.code();
    thread::scope(|scope| {
        // SAFETY: it lives when the call begins.
        let call = scope.spawn(move || unsafe { code(41) });
        entered.wait();
        assert_eq!(table::live_count(), 1, "it has not come back yet");
        assert!(table::list().next().is_none(), "and takes no more calls");
        leave.wait();
        drop(once);
        assert_eq!(ended.load(Ordering::Relaxed), 1);
        assert_eq!(call.join().unwrap(), 41);
    });
    assert_eq!(table::live_count(), 0);
}

#[test]
fn slots_that_were_left_are_taken_when_no_other_is_free() {
    let _alone = alone();
    for _ in 0..3 {
        let codes: Vec<Unary> =
            (0..CAPACITY).map(|_| Callback::<Unary>::once(|number| number).unwrap().into_code()).collect();
        let full = Callback::<Unary>::once(|number| number).unwrap_err();
        assert!(matches!(full, Error::TableFull { .. }), "{full}");
        // SAFETY: each lives until its call.
        let sum: isize = codes.iter().map(|code| unsafe { code(2) }).sum();
        assert_eq!(sum, 2 * CAPACITY as isize);
    }
    assert_eq!(table::live_count(), 0);
}

#[test]
fn what_is_rebound_owns_the_other_closure() {
    let _alone = alone();
    expect_stale(StaleReason::Released);
    let counters = [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; 2];
    let [first, second] = counters.each_ref().map(|(dropped, live)| {
        let part = Part { dropped, live };
        Callback::<Unary>::new_mut(move |number| part.add(number)).unwrap()
    });
    let (code, other) = (first.code(), second.code());
    let callback = first.rebind(second).unwrap();
    assert_eq!((callback.code() as usize, table::live_count()), (code as usize, 1));
    assert_eq!(counters[0].0.load(Ordering::Relaxed), 1, "the first closure is dropped");
    assert_eq!(counters[0].1.load(Ordering::Relaxed), 1, "when the slot is the other's");
    assert_eq!(five(&callback), 15);
    // SAFETY: the call is refused.
    assert_eq!(unsafe { other(1) }, 100, "its own code pointer has become stale");
    drop(callback);
    assert_eq!((counters[1].0.load(Ordering::Relaxed), table::live_count()), (1, 0));
}

#[test]
fn handles_come_back_if_a_call_that_rebinds_would_wait_for_itself() {
    let _alone = alone();
    type Handles = Mutex<Option<(Callback<'static, Unary>, Callback<'static, Unary>)>>;
    let (handles, result) = (Arc::new(Handles::default()), Arc::new(AtomicUsize::new(0)));
    let (inner, inner_result) = (Arc::clone(&handles), Arc::clone(&result));
    let closure = move |number| {
        let Some((own, other)) = inner.lock().unwrap().take() else { return number };
        let other_code = other.slot().code();
        let NotRebound { handle: (own, other), error } = own.rebind(other).unwrap_err();
        assert_eq!(error, RebindError::NotEnded(ReleaseError::OwnCall));
        // SAFETY: it lives.
        inner_result.store(unsafe { other.code()(41) } as usize, Ordering::Relaxed);
        assert_eq!(other.slot().code(), other_code);
        *inner.lock().unwrap() = Some((own, other));
        number
    };
    let own = Callback::<Unary>::new_with(Options::new().tracked(), closure).unwrap();
    let code = own.code();
    *handles.lock().unwrap() = Some((own, Callback::new(|number| number + 1).unwrap()));
    // SAFETY: it lives.
    assert_eq!(unsafe { code(7) }, 7);
    assert_eq!(result.load(Ordering::Relaxed), 42, "the other one is registered as it was");
    let (own, other) = handles.lock().unwrap().take().unwrap();
    let callback = own.rebind(other).unwrap(); // the call has ended
    // SAFETY: it lives.
    assert_eq!((callback.code() as usize, unsafe { code(7) }), (code as usize, 8));
}

#[cfg(feature = "std")]
#[test]
fn closures_of_this_thread_are_safe_to_make() {
    let _alone = alone();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let inner = Rc::clone(&seen);
    let callback = Callback::<Option<Unary>>::new_here(move |number| {
        inner.borrow_mut().push(number);
        number
    })
    .unwrap();
    let (code, other) = (callback.code().unwrap(), Callback::<Unary>::new_here(|number| number + 1).unwrap());
    // SAFETY: both live.
    let sum = unsafe { code(3) + other.code()(4) };
    assert_eq!((sum, callback.slot().code().as_ptr().addr()), (8, code as usize));
    // Others may look at it.
    let live = thread::scope(|scope| {
        let callback: &Callback<'_, _> = &callback;
        scope.spawn(|| table::live_slot(callback.slot().index()).is_some()).join().unwrap()
    });
    assert!(live);
    drop((callback, other));
    assert_eq!((Rc::into_inner(seen).unwrap().into_inner(), table::live_count()), (vec![3], 0));
}
