//! What the threads of a test do. Each scenario leaves the table empty.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use calltable_model::{Cell, Flag, model, thread};

use crate::context::Context;
use crate::dispatcher::{Handler, Outcome};
use crate::error::{Error, ReleaseError};
use crate::table::{self, CAPACITY, CodePointer, Registration, Slot};
use crate::{Signature, arch, dispatcher};

/// Names of registrations: their handlers return them.
pub const OLD: Outcome = Outcome::Ran(1);
pub const NEW: Outcome = Outcome::Ran(2);
pub const STALE: Outcome = Outcome::Stale;

/// What a registration's data point to.
pub struct Data {
    name: usize,
    /// What the handler uses, and the program once the handler cannot be running any more.
    pub cell: Cell,
}

/// Looks whether the data are its own.
fn reading<const NAME: usize>(data: *mut c_void) -> usize {
    // SAFETY: the data of each scenario live until its threads have ended.
    let data = unsafe { &*data.cast::<Data>() };
    assert_eq!(data.name, NAME, "the handler of one registration with the data of another");
    data.cell.get();
    NAME
}

/// The same, and changes them: it must be alone.
fn counting<const NAME: usize>(data: *mut c_void) -> usize {
    // SAFETY: as above.
    let data = unsafe { &*data.cast::<Data>() };
    assert_eq!(data.name, NAME, "the handler of one registration with the data of another");
    data.cell.increment();
    NAME
}

pub const READ_OLD: Handler = reading::<1>;
pub const READ_NEW: Handler = reading::<2>;
pub const COUNT_OLD: Handler = counting::<1>;

pub fn data(name: Outcome) -> Arc<Data> {
    let Outcome::Ran(name) = name else { unreachable!("nobody has such data") };
    Arc::new(Data { name, cell: Cell::default() })
}

pub fn direct(handler: Handler, data: &Arc<Data>) -> Registration {
    // SAFETY: the dispatcher of these tests calls it as what it is.
    unsafe { Registration::direct(arch::C, handler as *const c_void, 0, Arc::as_ptr(data).cast_mut().cast()) }
}

pub fn frame_lane(handler: Handler, data: &Arc<Data>) -> Registration {
    // SAFETY: as above.
    unsafe { Registration::frame_foreign(handler as *const c_void, &Signature, Arc::as_ptr(data).cast_mut().cast()) }
}

pub fn tracked(handler: Handler, data: &Arc<Data>) -> Registration {
    direct(handler, data).tracked()
}

pub fn exclusive(handler: Handler, data: &Arc<Data>) -> Registration {
    direct(handler, data).exclusive()
}

pub const LANES: [Make; 3] = [direct, frame_lane, tracked];

pub type Call = fn(CodePointer) -> Outcome;
pub type Make = fn(Handler, &Arc<Data>) -> Registration;

/// Makes the contexts and leaves one slot free, which the next registrations will get one after the other.
pub fn take_all_but_one() -> Vec<Slot> {
    let data = data(OLD);
    let taken = (1..CAPACITY).map(|_| table::register(&direct(READ_OLD, &data)).unwrap()).collect();
    touch(contexts());
    taken
}

pub fn give_back(slots: Vec<Slot>) {
    slots.into_iter().for_each(|slot| table::release(slot).unwrap());
    assert_eq!(table::live(), 0);
}

fn contexts() -> [&'static Context; CAPACITY] {
    std::array::from_fn(|slot| dispatcher::context(arch::entry(slot)).expect("the table has been used"))
}

/// Uses each atomic that threads are going to share: Loom wants them made before.
fn touch(contexts: [&Context; CAPACITY]) {
    for context in contexts {
        context.load_state();
        context.handler.load(Ordering::Relaxed);
        context.data.load(Ordering::Relaxed);
        context.in_flight.load(Ordering::Relaxed);
    }
}

/// Collects what happened in some execution.
#[derive(Clone, Default)]
pub struct Outcomes(Arc<Mutex<BTreeSet<Outcome>>>);

impl Outcomes {
    pub fn add(&self, outcome: Outcome) {
        self.0.lock().unwrap().insert(outcome);
    }

    pub fn all(self) -> Vec<Outcome> {
        self.0.lock().unwrap().iter().copied().collect()
    }
}

/// A call while its slot is released and given to somebody else.
pub fn one_registration(make: Make, call: Call) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let (old, new) = (data(OLD), data(NEW));
        let slot = table::register(&make(READ_OLD, &old)).unwrap();
        let code = slot.code();
        let caller = thread::spawn(move || call(code));
        table::release(slot).unwrap();
        let second = table::register(&make(READ_NEW, &new)).unwrap();
        assert_eq!(second.index(), slot.index());
        outcomes.add(caller.join().unwrap());
        table::release(second).unwrap();
        give_back(taken);
    })
}

/// The same, where the slot is given to somebody else by another thread than released it.
pub fn handed_over(make: Make, call: Call) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let (old, new) = (data(OLD), data(NEW));
        let slot = table::register(&make(READ_OLD, &old)).unwrap();
        let code = slot.code();
        let caller = thread::spawn(move || call(code));
        let next = thread::spawn({
            let new = Arc::clone(&new);
            move || table::register(&make(READ_NEW, &new))
        });
        table::release(slot).unwrap();
        outcomes.add(caller.join().unwrap());
        match next.join().unwrap() {
            Ok(second) => table::release(second).unwrap(),
            Err(error) => assert_eq!(error, Error::TableFull),
        }
        give_back(taken);
    })
}

/// A call that may know that the slot has been released.
pub fn after_release(make: Make, call: Call) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let (old, released) = (data(OLD), Arc::new(Flag::new(false)));
        let slot = table::register(&make(READ_OLD, &old)).unwrap();
        let code = slot.code();
        let caller = thread::spawn({
            let released = Arc::clone(&released);
            move || {
                let late = released.load(Ordering::Acquire);
                let outcome = call(code);
                assert!(!late || outcome == STALE, "called after the release: {outcome:?}");
                outcome
            }
        });
        table::release(slot).unwrap();
        released.store(true, Ordering::Release);
        outcomes.add(caller.join().unwrap());
        give_back(taken);
    })
}

/// Who has released changes what the handler uses.
pub fn tracked_release(make: Make, callers: usize, call: Call) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let old = data(OLD);
        let slot = table::register(&make(READ_OLD, &old)).unwrap();
        let code = slot.code();
        let callers: Vec<_> = (0..callers).map(|_| thread::spawn(move || call(code))).collect();
        table::release(slot).unwrap();
        old.cell.increment();
        callers.into_iter().for_each(|caller| outcomes.add(caller.join().unwrap()));
        give_back(taken);
    })
}

/// A counted call that finds its slot released, and live for somebody else, who releases it, too.
pub fn late_call(call: Call) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let (old, new) = (data(OLD), data(NEW));
        let slot = table::register(&tracked(READ_OLD, &old)).unwrap();
        let code = slot.code();
        let caller = thread::spawn(move || call(code));
        table::release(slot).unwrap();
        old.cell.increment();
        let second = table::register(&tracked(READ_NEW, &new)).unwrap();
        assert_eq!(second.index(), slot.index());
        table::release(second).unwrap();
        new.cell.increment();
        outcomes.add(caller.join().unwrap());
        let third = table::register(&tracked(READ_NEW, &new)).unwrap();
        assert_eq!(table::entry(third.index()).unwrap().in_flight, Some(0));
        table::release(third).unwrap();
        give_back(taken);
    })
}

/// Two calls of a handler that changes its data.
pub fn exclusive_calls(make: Make, call: Call) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let old = data(OLD);
        let slot = table::register(&make(COUNT_OLD, &old)).unwrap();
        let code = slot.code();
        let callers = [(); 2].map(|()| thread::spawn(move || call(code)));
        let came = callers.map(|caller| caller.join().unwrap());
        assert!(came.contains(&OLD), "both were refused");
        assert_eq!(call(code), OLD, "refused though none was running");
        table::release(slot).unwrap();
        assert_eq!(old.cell.get(), 1 + came.iter().filter(|outcome| **outcome == OLD).count());
        came.into_iter().for_each(|outcome| outcomes.add(outcome));
        give_back(taken);
    })
}

/// Two threads share a registration: while either has it, its calls run.
pub fn shared() {
    model(|| {
        let taken = take_all_but_one();
        let old = data(OLD);
        let users = [(); 2].map(|()| {
            let old = Arc::clone(&old);
            thread::spawn(move || {
                let slot = table::share(&direct(READ_OLD, &old)).unwrap();
                assert_eq!(dispatcher::call(slot.code()), OLD);
                table::release(slot).unwrap();
                slot
            })
        });
        let slots = users.map(|user| user.join().unwrap());
        assert_eq!(slots[0].index(), slots[1].index());
        assert_eq!(dispatcher::call(slots[0].code()), STALE);
        slots.iter().for_each(|slot| assert_eq!(table::release(*slot), Err(ReleaseError::NotLive)));
        give_back(taken);
    });
}

/// A call by a thread that has been told the pointer, of a slot that was another's before.
pub fn complete(make: Make, call: Call) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let (old, new, registered) = (data(OLD), data(NEW), Arc::new(Flag::new(false)));
        let slot = table::register(&make(READ_OLD, &old)).unwrap();
        let code = slot.code();
        table::release(slot).unwrap();
        let caller = thread::spawn({
            let registered = Arc::clone(&registered);
            move || registered.load(Ordering::Acquire).then(|| call(code))
        });
        new.cell.increment();
        let second = table::register(&make(READ_NEW, &new)).unwrap();
        assert_eq!(second.index(), slot.index());
        registered.store(true, Ordering::Release);
        caller.join().unwrap().into_iter().for_each(|outcome| outcomes.add(outcome));
        table::release(second).unwrap();
        give_back(taken);
    })
}

/// A call of a slot while the table is used for the first time.
pub fn first_use(call: Call) -> Vec<Outcome> {
    // The contexts are always at the same place.
    let places = Arc::new(Mutex::new(None));
    model({
        let places = Arc::clone(&places);
        move || {
            assert_eq!(table::live(), 0);
            *places.lock().unwrap() = Some(contexts());
        }
    });
    explore(move |outcomes| {
        if cfg!(feature = "loom") {
            assert_eq!(call(arch::entry(0)), STALE, "there is no context yet");
            touch(places.lock().unwrap().unwrap());
        }
        let old = data(OLD);
        let caller = thread::spawn(move || call(arch::entry(0)));
        let slot = table::register(&direct(READ_OLD, &old)).unwrap();
        outcomes.add(caller.join().unwrap());
        table::release(slot).unwrap();
    })
}

/// A list while a slot changes hands.
pub fn listed() {
    model(|| {
        let taken = take_all_but_one();
        let (old, new) = (data(OLD), data(NEW));
        let slot = table::register(&tracked(READ_OLD, &old)).unwrap();
        let pair = |handler: Handler, data: &Arc<Data>| (handler as usize, Arc::as_ptr(data).addr());
        let pairs = [pair(READ_OLD, &old), pair(READ_NEW, &new)];
        let reader = thread::spawn(move || {
            for entry in table::list().filter(|entry| entry.slot.index() == slot.index()) {
                let is_new = entry.slot != slot;
                assert_eq!((entry.handler.addr(), entry.data.addr()), pairs[usize::from(is_new)]);
                assert_eq!((entry.uses, entry.in_flight), (0, (!is_new).then_some(0)));
            }
        });
        table::release(slot).unwrap();
        let second = table::register(&direct(READ_NEW, &new)).unwrap();
        reader.join().unwrap();
        table::release(second).unwrap();
        give_back(taken);
    });
}

/// Two slots are released at the same time, while a third one has long been free.
pub fn line() {
    model(|| {
        let old = data(OLD);
        let register = move || table::register(&direct(READ_OLD, &old)).unwrap();
        let all = [(); CAPACITY].map(|()| register());
        table::release(all[0]).unwrap();
        let releasing = thread::spawn(move || table::release(all[1]).unwrap());
        table::release(all[2]).unwrap();
        releasing.join().unwrap();
        let again = [(); CAPACITY].map(|()| register());
        assert_eq!(again[0].index(), all[0].index(), "it was free first");
        assert!(again[1..].iter().all(|slot| all[1..].iter().any(|free| free.index() == slot.index())));
        assert_ne!(again[1].index(), again[2].index());
        give_back(again.into());
    });
}

/// Forms that do not wait, while another thread registers.
pub fn busy() {
    model(|| {
        let old = data(OLD);
        give_back(vec![table::register(&direct(READ_OLD, &old)).unwrap()]);
        let other = thread::spawn({
            let old = Arc::clone(&old);
            move || table::register(&direct(READ_OLD, &old)).unwrap()
        });
        let slot = table::try_register(&direct(READ_OLD, &old));
        let released = slot.map(table::try_release);
        let mut left = vec![other.join().unwrap()];
        match (slot, released) {
            (Err(Error::Busy), _) | (_, Ok(Ok(()))) => {}
            (Ok(slot), Ok(Err(ReleaseError::Busy))) => left.push(slot),
            other => panic!("{other:?}"),
        }
        assert_eq!(table::live(), left.len());
        give_back(left);
    });
}

fn explore(scenario: impl Fn(&Outcomes) + Send + Sync + 'static) -> Vec<Outcome> {
    let outcomes = Outcomes::default();
    let seen = outcomes.clone();
    model(move || scenario(&seen));
    outcomes.all()
}
