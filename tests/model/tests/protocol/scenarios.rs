//! What the threads of a test do. Each scenario leaves the table empty.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use calltable_model::{Cell, Flag, model, thread};

use crate::context::{self, Context};
use crate::convention::Convention;
use crate::dispatcher::{Flaw, Handler, Outcome};
use crate::error::{Error, NotReleased, ReleaseError};
use crate::layout::ENTRY_STRIDE;
use crate::lock::Recover as _;
use crate::registry;
use crate::signature::Signature;
use crate::table::{self, Binding, CAPACITY, CodePointer, SlotId, SlotKey};
use crate::{dispatcher, entry};

/// Names of registrations: their handlers return them.
pub const OLD: Outcome = Outcome::Ran(1);
pub const NEW: Outcome = Outcome::Ran(2);
pub const STALE: Outcome = Outcome::Stale;
pub const REFUSED: Outcome = Outcome::Refused;

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
pub const COUNT_NEW: Handler = counting::<2>;

pub fn data(name: Outcome) -> Arc<Data> {
    let Outcome::Ran(name) = name else { unreachable!("nobody has such data") };
    Arc::new(Data { name, cell: Cell::default() })
}

pub fn direct(handler: Handler, data: &Arc<Data>) -> Binding {
    // SAFETY: the dispatcher of these tests calls it as what it is.
    unsafe { Binding::direct(Convention::C, handler as *const c_void, 0, Arc::as_ptr(data).cast_mut().cast()) }
}

pub fn frame_lane(handler: Handler, data: &Arc<Data>) -> Binding {
    // SAFETY: as above.
    unsafe { Binding::frame_foreign(handler as *const c_void, &Signature, Arc::as_ptr(data).cast_mut().cast()) }
}

pub fn tracked(handler: Handler, data: &Arc<Data>) -> Binding {
    direct(handler, data).tracked()
}

pub fn exclusive(handler: Handler, data: &Arc<Data>) -> Binding {
    direct(handler, data).exclusive()
}

/// By way of the lane that counts all other calls.
pub fn exclusive_frame(handler: Handler, data: &Arc<Data>) -> Binding {
    frame_lane(handler, data).exclusive()
}

pub const LANES: [Make; 5] = [direct, frame_lane, tracked, exclusive, exclusive_frame];

pub type Call = fn(CodePointer) -> Outcome;
pub type Make = fn(Handler, &Arc<Data>) -> Binding;

/// Makes the contexts and leaves one slot free, which the next registrations will get one after the other.
pub fn take_all_but_one() -> Vec<SlotKey> {
    let data = data(OLD);
    let mut taken: Vec<_> = (0..CAPACITY).map(|_| table::register(&direct(READ_OLD, &data)).unwrap()).collect();
    touch(contexts());
    taken.pop().map(table::release).unwrap().unwrap();
    taken
}

pub fn give_back(keys: Vec<SlotKey>) {
    keys.into_iter().for_each(|key| table::release(key).unwrap());
    assert_eq!(table::live_count(), 0);
}

/// The key of a registration once more.
fn key(slot: SlotId) -> SlotKey {
    // SAFETY: the scenarios release with the first key, and see that the second one is of no use.
    unsafe { slot.key() }
}

fn contexts() -> [&'static Context; CAPACITY] {
    std::array::from_fn(|slot| dispatcher::context(entry::entry(slot)).expect("the table has been used"))
}

/// Uses each atomic that threads are going to share: Loom wants them made before.
fn touch(contexts: [&Context; CAPACITY]) {
    for context in contexts {
        context.load_state();
        context.handler.load(Ordering::Relaxed);
        context.data.load(Ordering::Relaxed);
        context.running();
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
        let (index, code) = (slot.index(), slot.code());
        let caller = thread::spawn(move || call(code));
        table::release(slot).unwrap();
        let second = table::register(&make(READ_NEW, &new)).unwrap();
        assert_eq!(second.index(), index);
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
            Err(error) => assert!(matches!(error, Error::TableFull { .. })),
        }
        give_back(taken);
    })
}

/// A call while its slot is rebound. Who has rebound a counted one changes what the old handler uses.
pub fn rebound(make: Make, call: Call) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let (old, new) = (data(OLD), data(NEW));
        let first = table::register(&make(READ_OLD, &old)).unwrap();
        let (slot, code) = (first.slot(), first.code());
        let is_counted = table::live_slot(slot.index()).unwrap().in_flight.is_some();
        let caller = thread::spawn(move || call(code));
        let second = table::rebind(first, &make(READ_NEW, &new)).unwrap();
        assert_eq!(second.code(), code);
        if is_counted {
            old.cell.increment();
        }
        outcomes.add(caller.join().unwrap());
        assert_eq!(call(code), NEW, "a call that begins after it");
        assert_eq!(table::release(key(slot)).unwrap_err().error, ReleaseError::NotLive, "the old key");
        table::release(second).unwrap();
        give_back(taken);
    })
}

/// A slot gets what another one is registered with, while both are called: the handler is alone.
pub fn rebound_to_another(call: Call) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        taken.into_iter().for_each(|key| table::release(key).unwrap());
        let (old, new) = (data(OLD), data(NEW));
        let first = table::register(&exclusive(COUNT_OLD, &old)).unwrap();
        let second = table::register(&exclusive(COUNT_NEW, &new)).unwrap();
        let callers = [first.code(), second.code()].map(|code| thread::spawn(move || call(code)));
        let slot = table::rebind_to(first.slot(), second.slot()).unwrap();
        assert_eq!(slot.code(), first.code());
        old.cell.increment();
        callers.into_iter().for_each(|caller| outcomes.add(caller.join().unwrap()));
        assert_eq!((call(first.code()), call(second.code())), (NEW, STALE));
        assert_eq!(table::release(second).unwrap_err().error, ReleaseError::NotLive);
        table::release(key(slot)).unwrap();
        assert_eq!(table::live_count(), 0);
    })
}

/// What a closure that is called once leaves in its box.
#[derive(Default)]
struct Single {
    slot: Mutex<Option<SlotId>>,
    is_taken: Flag,
    cell: Cell,
}

/// A registration that its first call ends, unless its handle does: whoever does has the data from then on.
pub fn once(callers: usize, call: Call) -> Vec<Outcome> {
    fn take(data: *mut c_void) -> usize {
        // SAFETY: the data lives until the threads have ended.
        let single = unsafe { &*data.cast::<Single>() };
        single.cell.get(); // the box is there
        if single.is_taken.swap(true, Ordering::Acquire) {
            return 2;
        }
        let slot = *single.slot.lock().unwrap();
        if table::leave_slot(slot.unwrap()).is_ok() {
            single.cell.increment(); // the box is dropped
        }
        1
    }
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let single = Arc::new(Single::default());
        let handler = take as Handler as *const c_void;
        // SAFETY: the dispatcher of these tests calls it as what it is.
        let binding =
            unsafe { Binding::direct(Convention::C, handler, 0, Arc::as_ptr(&single).cast_mut().cast()).tracked() };
        let tell = |slot| *single.slot.lock().unwrap() = Some(slot);
        let slot = table::register_as(&binding, false, tell).unwrap().slot();
        let code = slot.code();
        let mut callers: Vec<_> = (0..callers).map(|_| thread::spawn(move || call(code))).collect();
        // Of two calls one waits for the other: a third one that waits would be too much for the model.
        if callers.len() > 1 {
            callers.drain(..).for_each(|caller| outcomes.add(caller.join().unwrap()));
        }
        if table::release_slot(slot).is_err() {
            table::wait_for_left(slot).unwrap();
        }
        single.cell.increment(); // no call is running, whoever was first
        callers.into_iter().for_each(|caller| outcomes.add(caller.join().unwrap()));
        assert_eq!(call(code), STALE);
        give_back(taken);
    })
}

/// A slot that its call has left is free when the next one is wanted.
pub fn left_slots_are_taken(call: Call) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let (old, new) = (data(OLD), data(NEW));
        let slot = table::register(&tracked(READ_OLD, &old)).unwrap().slot();
        let code = slot.code();
        let caller = thread::spawn(move || call(code));
        table::leave_slot(slot).unwrap();
        let next = loop {
            match table::register(&direct(READ_NEW, &new)) {
                Ok(next) => break next,
                Err(error) => assert!(matches!(error, Error::TableFull { .. })),
            }
            thread::yield_now();
        };
        old.cell.increment();
        assert_eq!(next.index(), slot.index());
        outcomes.add(caller.join().unwrap());
        table::release(next).unwrap();
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
        let (index, code) = (slot.index(), slot.code());
        let caller = thread::spawn(move || call(code));
        table::release(slot).unwrap();
        old.cell.increment();
        let second = table::register(&tracked(READ_NEW, &new)).unwrap();
        assert_eq!(second.index(), index);
        table::release(second).unwrap();
        new.cell.increment();
        outcomes.add(caller.join().unwrap());
        let third = table::register(&tracked(READ_NEW, &new)).unwrap();
        assert_eq!(table::live_slot(third.index()).unwrap().in_flight, Some(0));
        table::release(third).unwrap();
        give_back(taken);
    })
}

/// A call that has seen its registration live, and no more, when that is released. The slot's next one is exclusive:
/// while nobody calls it, its own call runs (if there `is_call`), and its release need not wait.
pub fn late_caller(make: Make, is_call: bool, flaw: Flaw) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let (old, new) = (data(OLD), data(NEW));
        let first = table::register(&make(READ_OLD, &old)).unwrap();
        let (index, code) = (first.index(), first.code());
        let started = dispatcher::start(code);
        let caller = thread::spawn(move || started.finish(flaw));
        table::release(first).unwrap();
        old.cell.increment();
        let mut second = Some(table::register(&exclusive(READ_NEW, &new)).unwrap());
        assert_eq!(second.as_ref().map(SlotKey::index), Some(index));
        if is_call {
            assert_eq!(dispatcher::call(code), NEW, "a call of the new registration");
        } else {
            second.take().map(table::try_release).unwrap().expect("a release of the new registration");
        }
        outcomes.add(caller.join().unwrap());
        second.into_iter().for_each(|key| table::release(key).unwrap());
        give_back(taken);
    })
}

/// A slot that has been released as often as there are generations.
#[cfg(feature = "loom")]
pub fn retired(make: Make, call: Call) -> Vec<Outcome> {
    use crate::layout::LAST_GENERATION;
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let old = data(OLD);
        let register = || table::register(&make(READ_OLD, &old));
        let mut slots = Vec::new();
        let mut last = register().unwrap();
        for _ in 2..LAST_GENERATION {
            slots.push(last.slot());
            table::release(last).unwrap();
            last = register().unwrap();
            assert_eq!(last.index(), slots[0].index());
        }
        let code = last.code();
        let caller = thread::spawn(move || call(code));
        slots.push(last.slot());
        table::release(last).unwrap();
        assert!(matches!(register(), Err(Error::TableFull { .. })), "its generations are used up");
        outcomes.add(caller.join().unwrap());
        assert_eq!(call(code), STALE);
        for slot in slots {
            assert_eq!(table::release(key(slot)).unwrap_err().error, ReleaseError::NotLive);
        }
        assert_eq!(table::live_count(), CAPACITY - 1);
        give_back(taken);
        let others: Vec<_> = (1..CAPACITY).map(|_| register().unwrap()).collect();
        assert!(others.iter().all(|other| other.code() != code));
        assert!(matches!(register(), Err(Error::TableFull { .. })), "the others only");
        give_back(others);
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

/// Two calls at once; afterwards none is counted.
pub fn counted_to_the_end(make: Make, call: Call) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let old = data(OLD);
        let slot = table::register(&make(READ_OLD, &old)).unwrap();
        let code = slot.code();
        let callers = [(); 2].map(|()| thread::spawn(move || call(code)));
        callers.into_iter().for_each(|caller| outcomes.add(caller.join().unwrap()));
        assert_eq!(table::live_slot(slot.index()).unwrap().in_flight, Some(0), "the calls that have ended");
        table::release(slot).unwrap();
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
                let key = table::share(&direct(READ_OLD, &old)).unwrap();
                let slot = key.slot();
                assert_eq!(dispatcher::call(slot.code()), OLD);
                table::release(key).unwrap();
                slot
            })
        });
        let slots = users.map(|user| user.join().unwrap());
        assert_eq!(slots[0].index(), slots[1].index());
        assert_eq!(dispatcher::call(slots[0].code()), STALE);
        let again = slots.map(|slot| table::release(key(slot)).unwrap_err().error);
        assert_eq!(again, [ReleaseError::NotLive; 2]);
        give_back(taken);
    });
}

/// A call by a thread that has been told the pointer, with that ordering, of a slot that was another's before.
pub fn complete(make: Make, telling: Ordering, call: Call) -> Vec<Outcome> {
    explore(move |outcomes| {
        let taken = take_all_but_one();
        let (old, new, registered) = (data(OLD), data(NEW), Arc::new(Flag::new(false)));
        let slot = table::register(&make(READ_OLD, &old)).unwrap();
        let (index, code) = (slot.index(), slot.code());
        table::release(slot).unwrap();
        let caller = thread::spawn({
            let registered = Arc::clone(&registered);
            move || registered.load(Ordering::Acquire).then(|| call(code))
        });
        new.cell.increment();
        let second = table::register(&make(READ_NEW, &new)).unwrap();
        assert_eq!(second.index(), index);
        registered.store(true, telling);
        caller.join().unwrap().into_iter().for_each(|outcome| outcomes.add(outcome));
        table::release(second).unwrap();
        give_back(taken);
    })
}

/// A call of a slot while it is used for the first time, as many others having been used before.
pub fn first_use(used: usize, call: Call) -> Vec<Outcome> {
    // The contexts are always at the same place.
    let places = Arc::new(Mutex::new(None));
    model({
        let places = Arc::clone(&places);
        move || {
            give_back(take_all_but_one());
            *places.lock().unwrap() = Some(contexts());
        }
    });
    explore(move |outcomes| {
        let code = entry::entry(used);
        let old = data(OLD);
        let others = (0..used).map(|_| table::register(&direct(READ_OLD, &old)).unwrap()).collect();
        if cfg!(feature = "loom") {
            // Both words are read.
            let outcome = dispatcher::call_with(code, Flaw::FirstBeforeSpan);
            assert_eq!(outcome, STALE, "there is no context yet");
            touch(places.lock().unwrap().unwrap());
        }
        let caller = thread::spawn(move || call(code));
        let slot = table::register(&direct(READ_OLD, &old)).unwrap();
        outcomes.add(caller.join().unwrap());
        table::release(slot).unwrap();
        give_back(others);
    })
}

/// A thread goes away in the middle of its first registration: the context is made, and nobody has been told.
pub fn left_in_the_middle() {
    model(|| {
        let old = data(OLD);
        let first = table::register(&direct(READ_OLD, &old)).unwrap();
        {
            let mut registry = registry::lock();
            // SAFETY: under the lock; nothing is sealed.
            let made = unsafe { context::make() };
            if cfg!(feature = "loom") {
                assert_eq!(made, Some(1));
                // What the thread has not come to.
                dispatcher::set_span(ENTRY_STRIDE);
                assert!(dispatcher::context(entry::entry(1)).is_none());
            }
            registry.recover();
        }
        assert_eq!(table::live_count(), 1);
        assert_eq!(dispatcher::call(first.code()), OLD);
        let other = usize::from(first.index() == 0); // with Loom 1, whose context is made
        assert_eq!(dispatcher::call(entry::entry(other)), STALE);
        let mut all = vec![first];
        while all.len() < CAPACITY {
            let next = table::register(&direct(READ_OLD, &old)).unwrap();
            assert!(all.iter().all(|other| other.code() != next.code()));
            all.push(next);
        }
        assert!(matches!(table::register(&direct(READ_OLD, &old)), Err(Error::TableFull { .. })));
        assert!(all.iter().all(|key| dispatcher::call(key.code()) == OLD));
        give_back(all);
    });
}

/// A list while a slot changes hands.
pub fn listed() {
    model(|| {
        let taken = take_all_but_one();
        let (old, new) = (data(OLD), data(NEW));
        let first = table::register(&tracked(READ_OLD, &old)).unwrap();
        let slot = first.slot();
        let pair = |handler: Handler, data: &Arc<Data>| (handler as usize, Arc::as_ptr(data).addr());
        let pairs = [pair(READ_OLD, &old), pair(READ_NEW, &new)];
        let reader = thread::spawn(move || {
            for entry in table::list().filter(|entry| entry.slot.index() == slot.index()) {
                let is_new = entry.slot != slot;
                assert_eq!((entry.handler.addr(), entry.data.addr()), pairs[usize::from(is_new)]);
                assert_eq!((entry.uses, entry.in_flight), (0, (!is_new).then_some(0)));
            }
        });
        table::release(first).unwrap();
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
        let indices = all.each_ref().map(SlotKey::index);
        let [first, second, third] = all;
        table::release(first).unwrap();
        let releasing = thread::spawn(move || table::release(second).unwrap());
        table::release(third).unwrap();
        releasing.join().unwrap();
        let again = [(); CAPACITY].map(|()| register());
        assert_eq!(again[0].index(), indices[0], "it was free first");
        assert!(again[1..].iter().all(|key| indices[1..].contains(&key.index())));
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
        let released = table::try_register(&direct(READ_OLD, &old)).map(table::try_release);
        let mut left = vec![other.join().unwrap()];
        match released {
            Err(Error::Busy) | Ok(Ok(())) => {}
            Ok(Err(NotReleased { handle, error: ReleaseError::Busy })) => left.push(handle),
            other => panic!("{other:?}"),
        }
        assert_eq!(table::live_count(), left.len());
        give_back(left);
    });
}

fn explore(scenario: impl Fn(&Outcomes) + Send + Sync + 'static) -> Vec<Outcome> {
    let outcomes = Outcomes::default();
    let seen = outcomes.clone();
    model(move || scenario(&seen));
    outcomes.all()
}
