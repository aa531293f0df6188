//! The registry against a model of it: any sequence of registrations, uses and releases, by any form, and what lists and
//! calls say after each. (The C interface, and what handlers do, are fuzzed: see `fuzz/`.)

use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_void;

use calltable::table::{self, CAPACITY, Registration, Slot};
use calltable::{Convention, Error, ReleaseError, StaleCall, StaleReason, set_stale_handler};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest_derive::Arbitrary;

unsafe extern "efiapi" fn sum(argument: isize, data: *mut c_void) -> isize {
    argument + data.addr() as isize
}

unsafe extern "efiapi" fn difference(argument: isize, data: *mut c_void) -> isize {
    argument - data.addr() as isize
}

/// Few enough that equal ones come up.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    is_sum: bool,
    #[proptest(strategy = "0..3_usize")]
    data: usize,
    is_saving: bool,
    is_tracked: bool,
}

impl Kind {
    fn registration(self) -> Registration {
        let handler = if self.is_sum { sum as *const c_void } else { difference as *const c_void };
        // SAFETY: both take one argument and any data.
        let mut registration = unsafe { Registration::direct(Convention::C, handler, 1, self.data as *mut c_void) };
        if self.is_saving {
            registration = registration.saving();
        }
        if self.is_tracked { registration.tracked() } else { registration }
    }

    fn result(self) -> isize {
        if self.is_sum { 1000 + self.data as isize } else { 1000 - self.data as isize }
    }
}

#[derive(Arbitrary, Clone, Debug)]
enum Step {
    #[proptest(weight = 6)]
    Register(Kind, bool),
    #[proptest(weight = 6)]
    Share(Kind, bool),
    /// One of all that were ever given away.
    #[proptest(weight = 8)]
    Release(Index, bool),
    /// Leaves so many free.
    Fill(#[proptest(strategy = "0..4_usize")] usize),
    #[proptest(weight = 4)]
    Call(#[proptest(strategy = "0..CAPACITY")] usize),
}

struct Model {
    /// The entry of slot 0; others follow 16 bytes apart.
    table: *const c_void,
    free: VecDeque<usize>,
    /// By index: the slot, its kind and uses, 0 for one that is not shared.
    live: BTreeMap<usize, (Slot, Kind, u32)>,
    given: Vec<Slot>,
    /// The last registration of each.
    last: BTreeMap<usize, Slot>,
}

impl Model {
    /// Empties the table, whatever a failed case has left, and has its slots come in order.
    fn new() -> Self {
        for entry in table::list() {
            (0..entry.uses.max(1)).for_each(|_| table::release(entry.slot).unwrap());
        }
        let any = Kind { is_sum: true, data: 0, is_saving: false, is_tracked: false }.registration();
        let mut all: Vec<Slot> = (0..CAPACITY).map(|_| table::register(&any).unwrap()).collect();
        all.sort_by_key(|slot| slot.index());
        all.iter().for_each(|slot| table::release(*slot).unwrap());
        let table = all.first().expect("there is a slot").code().as_ptr();
        Self { table, free: (0..CAPACITY).collect(), live: BTreeMap::new(), given: Vec::new(), last: BTreeMap::new() }
    }

    fn bind(&mut self, bound: Result<Slot, Error>, kind: Kind, uses: u32) {
        let Some(index) = self.free.pop_front() else { return assert_eq!(bound, Err(Error::TableFull)) };
        let slot = bound.unwrap();
        assert_eq!(slot.index(), index, "the one that was released first");
        assert_ne!(self.last.insert(index, slot), Some(slot), "told from the one before");
        self.live.insert(index, (slot, kind, uses));
        self.given.push(slot);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Register(kind, waits) => {
                let register = if *waits { table::register } else { table::try_register };
                self.bind(register(&kind.registration()), *kind, 0);
            }
            Step::Share(kind, waits) => {
                let share = if *waits { table::share } else { table::try_share };
                let shared = share(&kind.registration());
                match self.live.values_mut().find(|(_, other, uses)| other == kind && *uses > 0) {
                    Some((slot, _, uses)) => {
                        assert_eq!(shared, Ok(*slot));
                        *uses += 1;
                    }
                    None => self.bind(shared, *kind, 1),
                }
            }
            Step::Release(which, waits) if !self.given.is_empty() => {
                let slot = *which.get(&self.given);
                let release = if *waits { table::release } else { table::try_release };
                let index = slot.index();
                match self.live.get_mut(&index).filter(|(live, ..)| *live == slot) {
                    None => assert_eq!(release(slot), Err(ReleaseError::NotLive)),
                    Some((_, _, uses)) => {
                        assert_eq!(release(slot), Ok(()));
                        *uses = uses.saturating_sub(1);
                        if *uses == 0 {
                            self.live.remove(&index);
                            self.free.push_back(index);
                        }
                    }
                }
            }
            Step::Release(..) => {}
            Step::Fill(free) => {
                let kind = Kind { is_sum: true, data: 3, is_saving: false, is_tracked: false };
                while self.free.len() > *free {
                    self.bind(table::register(&kind.registration()), kind, 0);
                }
            }
            Step::Call(index) => {
                // Of one that is, or was, live; or of any.
                let index = self.given.get(*index).map_or(*index, |slot| slot.index());
                self.call(index);
            }
        }
        assert_eq!(table::live(), self.live.len());
    }

    fn call(&self, index: usize) {
        type Code = unsafe extern "efiapi" fn(isize) -> isize;
        let code = self.table.wrapping_byte_add(16 * index);
        assert_eq!(table::slot_of(code), Some(index));
        // SAFETY: an entry; its handler is one of the two, or the stale one, which returns.
        let result = unsafe { std::mem::transmute::<*const c_void, Code>(code)(1000) };
        assert_eq!(result, self.live.get(&index).map_or(index as isize, |(_, kind, _)| kind.result()));
    }

    fn compare_all(&self) {
        let listed: Vec<_> = table::list().map(|entry| (entry.slot, entry.data.addr(), entry.uses)).collect();
        let live: Vec<_> = self.live.values().map(|(slot, kind, uses)| (*slot, kind.data, *uses)).collect();
        assert_eq!(listed, live);
        for (slot, kind, _) in self.live.values() {
            let entry = table::try_entry(slot.index()).unwrap().unwrap();
            assert_eq!(entry.in_flight, kind.is_tracked.then_some(0));
            assert_eq!(table::slot_of(slot.code().as_ptr()), Some(slot.index()));
        }
    }
}

fn answer(call: &StaleCall) -> u64 {
    assert_eq!(call.reason, StaleReason::Released, "every slot was registered");
    call.slot as u64
}

/// The only test of this program, since the table is one.
#[test]
fn any_sequence_does_what_the_model_does() {
    set_stale_handler(Some(answer)).unwrap();
    proptest!(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() },
        |(steps in proptest::collection::vec(any::<Step>(), 0..120))| {
            let mut model = Model::new();
            steps.iter().for_each(|step| model.step(step));
            model.compare_all();
        }
    );
}
