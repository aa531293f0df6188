//! The registry against a model of it: any sequence of registrations, uses, rebindings and releases, by any form, and
//! what lists and calls say after each. (The C interface, and what handlers do, are fuzzed: see `fuzz/`.)

use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_void;

use arbtest::arbitrary::{self, Unstructured};
use arbtest::arbtest;
use calltable::table::{self, Binding, CAPACITY, SlotId, SlotKey};
use calltable::{
    Convention, Error, NotRebound, NotReleased, RebindError, ReleaseError, StaleCall, StaleReason, set_stale_handler,
};

unsafe extern "efiapi" fn sum(argument: isize, data: *mut c_void) -> isize {
    argument + data.addr() as isize
}

unsafe extern "efiapi" fn difference(argument: isize, data: *mut c_void) -> isize {
    argument - data.addr() as isize
}

/// Few enough that equal ones come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    is_sum: bool,
    /// 0 to 2.
    data: usize,
    is_saving: bool,
    is_tracked: bool,
}

impl Kind {
    fn any(u: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        let (is_sum, data) = (u.arbitrary()?, u.int_in_range(0..=2)?);
        Ok(Self { is_sum, data, is_saving: u.arbitrary()?, is_tracked: u.arbitrary()? })
    }

    fn binding(self) -> Binding {
        let handler = if self.is_sum { sum as *const c_void } else { difference as *const c_void };
        // SAFETY: both take one argument and any data.
        let mut binding = unsafe { Binding::direct(Convention::C, handler, 1, self.data as *mut c_void) };
        if self.is_saving {
            binding = binding.saving();
        }
        if self.is_tracked { binding.tracked() } else { binding }
    }

    fn result(self) -> isize {
        if self.is_sum { 1000 + self.data as isize } else { 1000 - self.data as isize }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Register(Kind, bool),
    Share(Kind, bool),
    /// One of all that were ever given away, by its place among them.
    Release(usize, bool),
    /// The same, to another kind.
    Rebind(usize, Kind, bool),
    /// Leaves so many free.
    Fill(usize),
    Call(usize),
}

impl Step {
    /// One of six kinds, as often as this says; one that is released is one of `given`.
    fn any(u: &mut Unstructured<'_>, given: usize) -> arbitrary::Result<Self> {
        Ok(match u.int_in_range(0..=28)? {
            0..6 => Self::Register(Kind::any(u)?, u.arbitrary()?),
            6..12 => Self::Share(Kind::any(u)?, u.arbitrary()?),
            12..20 if given > 0 => Self::Release(u.choose_index(given)?, u.arbitrary()?),
            24..28 if given > 0 => Self::Rebind(u.choose_index(given)?, Kind::any(u)?, u.arbitrary()?),
            20 => Self::Fill(u.int_in_range(0..=3)?),
            _ => Self::Call(u.choose_index(CAPACITY)?),
        })
    }
}

struct Model {
    /// The entry of slot 0; others follow, ENTRY_STRIDE bytes apart.
    table: *const c_void,
    free: VecDeque<usize>,
    /// By index: the slot, its kind and uses, 0 for one that is not shared.
    live: BTreeMap<usize, (SlotId, Kind, u32)>,
    /// Keys that are used again and again.
    given: Vec<SlotId>,
    /// The last registration of each.
    last: BTreeMap<usize, SlotId>,
}

/// A key once more.
fn key(slot: SlotId) -> SlotKey {
    // SAFETY: nobody but this test registers, and the handlers need nothing; that a key works once is what is tested.
    unsafe { slot.key() }
}

impl Model {
    /// Empties the table, whatever a failed case has left, and has its slots come in order.
    fn new() -> Self {
        for entry in table::list() {
            (0..entry.uses.max(1)).for_each(|_| table::release(key(entry.slot)).unwrap());
        }
        let any = Kind { is_sum: true, data: 0, is_saving: false, is_tracked: false }.binding();
        let mut all: Vec<_> = (0..CAPACITY).map(|_| table::register(&any).unwrap()).collect();
        all.sort_by_key(|key| key.index());
        let table = all.first().expect("there is a slot").code().as_ptr();
        all.into_iter().for_each(|key| table::release(key).unwrap());
        Self { table, free: (0..CAPACITY).collect(), live: BTreeMap::new(), given: Vec::new(), last: BTreeMap::new() }
    }

    fn bind(&mut self, bound: Result<SlotKey, Error>, kind: Kind, uses: u32) {
        let Some(index) = self.free.pop_front() else { return assert!(matches!(bound, Err(Error::TableFull { .. }))) };
        let slot = bound.unwrap().slot();
        assert_eq!(slot.index(), index, "the one that was released first");
        assert_ne!(self.last.insert(index, slot), Some(slot), "told from the one before");
        self.live.insert(index, (slot, kind, uses));
        self.given.push(slot);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Register(kind, waits) => {
                let register = if *waits { table::register } else { table::try_register };
                self.bind(register(&kind.binding()), *kind, 0);
            }
            Step::Share(kind, waits) => {
                let share = if *waits { table::share } else { table::try_share };
                let shared = share(&kind.binding());
                match self.live.values_mut().find(|(_, other, uses)| other == kind && *uses > 0) {
                    Some((slot, _, uses)) => {
                        assert_eq!(shared.unwrap().slot(), *slot);
                        *uses += 1;
                    }
                    None => self.bind(shared, *kind, 1),
                }
            }
            Step::Release(which, waits) => {
                let slot = self.given[*which];
                let release = if *waits { table::release } else { table::try_release };
                let index = slot.index();
                match self.live.get_mut(&index).filter(|(live, ..)| *live == slot) {
                    None => {
                        let error = ReleaseError::NotLive;
                        assert_eq!(release(key(slot)), Err(NotReleased { handle: key(slot), error }));
                    }
                    Some((_, _, uses)) => {
                        assert_eq!(release(key(slot)), Ok(()));
                        *uses = uses.saturating_sub(1);
                        if *uses == 0 {
                            self.live.remove(&index);
                            self.free.push_back(index);
                        }
                    }
                }
            }
            Step::Rebind(which, kind, waits) => {
                let slot = self.given[*which];
                let rebind = if *waits { table::rebind } else { table::try_rebind };
                let error = match self.live.get_mut(&slot.index()).filter(|(live, ..)| *live == slot) {
                    None => RebindError::NotEnded(ReleaseError::NotLive),
                    Some((_, _, uses @ 2..)) => RebindError::Shared { uses: *uses },
                    Some(live) => {
                        let rebound = rebind(key(slot), &kind.binding()).unwrap().slot();
                        assert_eq!(rebound.code(), slot.code());
                        assert_ne!(rebound, slot, "told from the one before");
                        self.last.insert(slot.index(), rebound);
                        self.given.push(rebound);
                        *live = (rebound, *kind, 0);
                        return;
                    }
                };
                assert_eq!(rebind(key(slot), &kind.binding()), Err(NotRebound { handle: key(slot), error }));
            }
            Step::Fill(free) => {
                let kind = Kind { is_sum: true, data: 3, is_saving: false, is_tracked: false };
                while self.free.len() > *free {
                    self.bind(table::register(&kind.binding()), kind, 0);
                }
            }
            Step::Call(index) => {
                // Of one that is, or was, live; or of any.
                let index = self.given.get(*index).map_or(*index, |slot| slot.index());
                self.call(index);
            }
        }
        assert_eq!(table::live_count(), self.live.len());
    }

    fn call(&self, index: usize) {
        type Code = unsafe extern "efiapi" fn(isize) -> isize;
        let code = self.table.wrapping_byte_add(table::ENTRY_STRIDE * index);
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
            let entry = table::try_live_slot(slot.index()).unwrap().unwrap();
            assert_eq!(entry.in_flight, kind.is_tracked.then_some(0));
            assert_eq!(table::slot_of(slot.code().as_ptr()), Some(slot.index()));
        }
    }
}

fn answer(call: &mut StaleCall<'_>) {
    assert_eq!(call.reason, StaleReason::Released, "every slot was registered");
    call.set_result(call.slot.unwrap() as u64);
}

/// The only test of this program, since the table is one.
#[test]
fn any_sequence_does_what_the_model_does() {
    // SAFETY: every callback of this program returns a number.
    unsafe { set_stale_handler(Some(answer)).unwrap() };
    arbtest(|u| {
        let mut model = Model::new();
        while !u.is_empty() {
            let step = Step::any(u, model.given.len())?;
            model.step(&step);
        }
        model.compare_all();
        Ok(())
    })
    .size_max(1000)
    .budget_ms(2000);
}
