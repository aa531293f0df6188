//! What the page tables allow, and that the processor heeds them.

use core::ffi::c_void;
use core::hint::black_box;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicIsize, AtomicPtr, Ordering};

use calltable::table::{self, CAPACITY, ENTRY_STRIDE, Location};
use calltable::{Callback, Contained, Error, ReleaseError, set_stale_handler};

use super::every_slot::{call_uncounted, register_uncounted};
use super::{adding, address, repeat, seh};
use crate::machine::RETURN;
use crate::machine::paging::{self, PAGE};
use crate::smp;
use crate::traps::{Fault, catch, is_execute_fault, is_write_fault};

/// Whether something that must fault has, where and as it must.
fn assert_fault(ended: Result<(), Fault>, is_it: fn(Fault) -> bool, address: usize) {
    assert!(ended.is_err_and(|fault| is_it(fault) && fault.address == address), "{ended:x?}, not at {address:#x}");
}

pub fn rights() {
    let table = paging::table();
    assert!(table.len() > ENTRY_STRIDE * CAPACITY, "the table has {} bytes", table.len());
    // What fills the last page up is no code; what comes before that is the last dispatcher's.
    let at = core::ptr::with_exposed_provenance::<u8>;
    // SAFETY: code can be read.
    let is_code = |address: &usize| !matches!(unsafe { at(*address).read() }, 0 | 0x90 | 0xcc);
    let last = table.clone().rev().find(is_code).expect("dispatchers");
    assert_eq!(table::locate(at(last).cast()), Some(Location::Dispatcher), "{last:#x}");
    assert_eq!(table::locate(at(table.end).cast()), None);
    let (mut code, mut data) = (0, 0);
    for page in paging::pages() {
        let Some((writable, executable)) = paging::rights(page) else {
            assert!(!paging::code().contains(&page));
            continue;
        };
        let is_code = paging::is_code(page);
        assert_eq!(executable, is_code, "{page:#x} executable");
        assert!(!(writable && executable), "{page:#x} writable and executable");
        *(if is_code { &mut code } else { &mut data }) += 1;
    }
    assert!(code > CAPACITY * ENTRY_STRIDE / PAGE && data > 0, "{code} pages of code, {data} of data");
    assert_eq!(paging::rights(0), None);
    for address in [table.start, table.end - 1] {
        assert_eq!(paging::rights(address), Some((false, true)), "the table at {address:#x}");
    }
}

pub fn write_to_the_table() {
    let slot = table::register(&adding(2)).expect("a slot");
    let entry = address(slot.code()).cast_mut().cast::<u8>();
    // SAFETY: it faults, which ends it.
    let fault = catch(|| unsafe { black_box(entry).write_volatile(0xc3) });
    assert_fault(fault, is_write_fault, entry.addr());
    assert_eq!(repeat(entry.cast(), 1), 2);
    assert_eq!(table::release(slot), Ok(()));
}

pub fn run_data() {
    static CONSTANT: [u32; 2] = RETURN;
    static mut VARIABLE: [u32; 2] = RETURN;
    let on_stack = black_box(RETURN);
    let variable = (&raw const VARIABLE).cast::<c_void>();
    for place in [(&raw const CONSTANT).cast(), variable, (&raw const on_stack).cast()] {
        let place: *const c_void = black_box(place);
        // SAFETY: it faults, which ends it; else it would return.
        let fault = catch(|| unsafe { core::mem::transmute::<*const c_void, extern "C" fn()>(place)() });
        assert_fault(fault, is_execute_fault, place.addr());
    }
}

pub fn sealed() {
    static SUM: AtomicIsize = AtomicIsize::new(0);
    static CODE: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
    let repeat_kept = || repeat(CODE.load(Ordering::SeqCst), 3);
    let (kept, uncounted) = (table::register(&adding(2)).expect("a slot"), register_uncounted());
    CODE.store(address(kept.code()).cast_mut(), Ordering::SeqCst);
    // The cases before this one have set a handler that answers.
    let key = table::register(&adding(2)).expect("a slot");
    let released = key.slot();
    assert_eq!(table::release(key), Ok(()));
    let stale = repeat(address(released.code()), 3);
    let faulty = |kind: isize| {
        seh::fault(kind as i32);
        kind
    };
    let faulty = Contained::new(faulty, |_| Some(-1));
    // SAFETY: when the closure faults it holds nothing that must be dropped.
    let contained = unsafe { Callback::<unsafe extern "efiapi" fn(isize) -> isize>::from_contained(&faulty) };
    let contained = contained.expect("a slot");
    let tracked = table::register(&adding(2).tracked()).expect("a slot");
    let live = table::live_count();
    // SAFETY: no call is running, and none begins when what it needs has gone.
    let seal = || unsafe { table::seal() };
    assert_eq!(seal(), Err(Error::Counted { slot: tracked.index() }));
    assert_eq!(table::release(tracked), Ok(()));

    assert_eq!(seal(), Ok(paging::contexts()));
    paging::make_read_only(paging::contexts());
    if smp::is_up() {
        smp::while_second_runs(paging::forget, || ());
    }
    call_uncounted(&uncounted);
    assert_eq!((repeat_kept(), repeat(address(released.code()), 3)), (3 + 3 * 2, stale));
    // 0 and 5 are no faults.
    assert_eq!(repeat(contained.code() as *const c_void, 6), 5 - 4);
    if smp::is_up() {
        let work = || SUM.store(repeat(CODE.load(Ordering::SeqCst), 3), Ordering::SeqCst);
        assert_eq!(smp::while_second_runs(work, repeat_kept), 9);
        assert_eq!(SUM.load(Ordering::SeqCst), 9);
    }
    for page in (paging::contexts().start.addr()..paging::contexts().end.addr()).step_by(PAGE) {
        assert_eq!(paging::rights(page), Some((false, false)));
        let byte = core::ptr::with_exposed_provenance_mut::<u8>(page);
        // SAFETY: it faults, which ends it.
        let fault = catch(|| unsafe { black_box(byte).write_volatile(0) });
        assert_fault(fault, is_write_fault, page);
    }
    assert_eq!(table::register(&adding(2)), Err(Error::Sealed));
    assert_eq!(table::share(&adding(2)), Err(Error::Sealed));
    // SAFETY: it is refused.
    assert_eq!(unsafe { set_stale_handler(None) }, Err(Error::Sealed));
    assert_eq!(seh::declare(), Err(Error::Sealed));
    assert_eq!(table::release(kept).map_err(|failed| failed.error), Err(ReleaseError::Sealed));
    assert_eq!((table::live_count(), repeat_kept()), (live - 1, 9));
}
