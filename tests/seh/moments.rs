//! The chain at single moments of a call: while frames are unwound, and when the result of a call that an exception has
//! ended is made.

use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::ptr::null_mut;

use calltable::Convention;
use calltable::seh::{self, CHAIN_END, Exception, ExceptionFilter, ExceptionRecord, Outcome, Record, Verdict};
use calltable::table::{self, Binding};

use super::signals::{declare, raise};
use super::{SERIAL, head, registers};

/// The same cases as without a chain: what puts a call in it keeps every register that a lane or a handler needs, the
/// upper halves of XMM0 to XMM3 (for `__vectorcall` and the like) as well, and on AArch64 X18.
#[test]
fn with_a_chain_handlers_get_every_register_as_without() {
    let _serial = SERIAL.lock();
    declare();
    registers::direct_lane();
    registers::frame_lane();
}

/// What a contained call's data points to: a filter, and what it and the handler are to do.
#[repr(C)]
struct Guarded {
    filter: ExceptionFilter,
    case: Case,
    /// How often the filter has been asked.
    asked: Cell<usize>,
}

/// What the filter says, and what raises an exception that is none of its business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    GoOnTwice,
    SearchOnTwice,
    FilterRaises,
    UnwindingRaises,
    MakerRaises,
}

/// Codes of exceptions.
pub const OWN: u32 = 5;
const FOREIGN: u32 = 7;

thread_local! {
    /// How often the record furthest out was asked about an exception of each code.
    static OUTERMOST: Cell<[usize; 2]> = const { Cell::new([0; 2]) };
}

/// Counts, and has what raised a `FOREIGN` exception continue.
unsafe extern "C" fn outermost(exception: *mut ExceptionRecord, _: *mut Record, _: *mut c_void, _: *mut c_void) -> i32 {
    // SAFETY: dispatch passes the exception.
    let code = unsafe { (*exception).code };
    let [own, foreign] = OUTERMOST.get();
    OUTERMOST.set(if code == OWN { [own + 1, foreign] } else { [own, foreign + 1] });
    i32::from(code != FOREIGN)
}

/// Raises when it is unwound.
unsafe extern "C" fn raises(exception: *mut ExceptionRecord, _: *mut Record, _: *mut c_void, _: *mut c_void) -> i32 {
    // SAFETY: as above.
    let flags = unsafe { (*exception).flags };
    if flags != 0 {
        assert!(raise(FOREIGN, &[], null_mut()), "the outermost continues");
    }
    1
}

unsafe extern "efiapi" fn raises_its_own(data: *const Guarded) -> usize {
    // SAFETY: the registration's data; so below.
    let Guarded { case, asked, .. } = unsafe { &*data };
    let mut record = Record { next: CHAIN_END, handler: Some(raises) };
    if *case == Case::UnwindingRaises {
        // SAFETY: it is taken off with the dispatcher's.
        unsafe { seh::push(&mut record) };
    }
    for time in 1..=2 {
        assert_eq!(raise(OWN, &[], null_mut()), *case == Case::GoOnTwice);
        assert_eq!(asked.get(), time, "{case:?}");
    }
    black_box(&record);
    1
}

unsafe extern "efiapi" fn makes(_: *const c_void) -> usize {
    assert!(raise(FOREIGN, &[], null_mut()), "the outermost continues");
    2
}

unsafe extern "efiapi" fn decides(data: *mut c_void, _: *const Exception, outcome: *mut Outcome) -> Verdict {
    // SAFETY: as above; the answer is that of the call.
    let (Guarded { case, asked, .. }, outcome) = unsafe { (&*data.cast::<Guarded>(), &mut *outcome) };
    asked.set(asked.get() + 1);
    match case {
        Case::GoOnTwice => return Verdict::CONTINUE,
        Case::SearchOnTwice => return Verdict::SEARCH_ON,
        // Once, or a filter that is asked about it would never end.
        Case::FilterRaises if asked.get() == 1 => assert!(raise(FOREIGN, &[], null_mut()), "the outermost continues"),
        Case::MakerRaises => outcome.handler = makes as *const c_void,
        _ => {}
    }
    outcome.frame.result[0] = 2;
    Verdict::RETURN
}

/// A filter is asked about each exception that leaves the handler, and about none that comes while it decides, while
/// frames are unwound or while the result is made.
#[test]
fn a_filter_is_asked_about_the_handler_s_exceptions_alone() {
    use Case::*;
    declare();
    let mut record = Record { next: CHAIN_END, handler: Some(outermost) };
    // SAFETY: it is taken off below.
    unsafe { seh::push(&mut record) };
    for (case, result, asked, outer) in [
        (GoOnTwice, 1, 2, [0, 0]),
        (SearchOnTwice, 1, 2, [2, 0]),
        (FilterRaises, 2, 1, [0, 1]),
        (UnwindingRaises, 2, 1, [0, 1]),
        (MakerRaises, 2, 1, [0, 1]),
    ] {
        let data = Guarded { filter: decides, case, asked: Cell::new(0) };
        let (handler, data_at) = (raises_its_own as *const c_void, (&raw const data).cast_mut().cast());
        // SAFETY: the handler takes that data, which begins with a filter.
        let direct = unsafe { Binding::direct(Convention::C, handler, 0, data_at).contained() };
        for binding in [direct, direct.tracked(), direct.saving()] {
            let slot = table::register(&binding).unwrap();
            for _ in 0..2 {
                data.asked.set(0);
                OUTERMOST.set([0; 2]);
                // SAFETY: the handler is of that type.
                let returned = unsafe { slot.code().cast::<unsafe extern "efiapi" fn() -> usize>()() };
                assert_eq!((returned, data.asked.get(), OUTERMOST.get()), (result, asked, outer), "{case:?}");
            }
            table::release(slot).unwrap();
        }
    }
    // SAFETY: it is the first one again.
    unsafe { seh::pop(&record) };
    assert_eq!(head(), CHAIN_END.addr());
}
