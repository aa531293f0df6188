//! i686: the chain of SEH handlers before, during and after calls, however they end.
#![cfg(target_arch = "x86")]

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::null_mut;

use calltable::seh::{self, Exception, Outcome, Verdict};
use calltable::table::Binding;
use calltable::{Callback, Contained, Convention, Options, RawFrame, Signature, Type};

use crate::c_side::{LEVELS, function};
use crate::contained::{Data, Fault, Registered, assert_idle, fault};

/// Addresses of the records of this thread, innermost first; each has passed Windows' checks.
fn chain() -> Vec<usize> {
    // SAFETY: on Windows FS points to a thread information block.
    unsafe { seh::chain() }.map(|record| record.unwrap().addr()).collect()
}

thread_local! {
    static SEEN: RefCell<Vec<Vec<usize>>> = const { RefCell::new(Vec::new()) };
}

fn note() {
    SEEN.with_borrow_mut(|seen| seen.push(chain()));
}

unsafe extern "efiapi" fn frame_handler(_: *mut c_void, _: *mut RawFrame) {
    note();
}

unsafe extern "C" fn direct_handler(_: *mut c_void) {
    note();
}

#[test]
fn one_record_more_while_a_handler_runs() {
    let mut ways = Vec::new();
    // SAFETY: the handlers take any data.
    unsafe {
        for convention in [Convention::Stdcall, Convention::Cdecl, Convention::Thiscall, Convention::Fastcall] {
            let signature = Signature::new(convention, &[], None).unwrap();
            ways.push((true, Binding::frame(frame_handler, &signature, null_mut())));
        }
        ways.push((false, Binding::direct(Convention::Cdecl, direct_handler as *const c_void, 0, null_mut())));
    }
    let before = chain();
    for (has_record, way) in ways {
        let others = [way.framed(), way.saving(), way.saving_control_words(), way.tracked(), way.exclusive().saving()];
        for (has_record, binding) in [(has_record, way)].into_iter().chain(others.map(|other| (true, other))) {
            let registered = Registered::new(&binding);
            // SAFETY: without arguments all conventions are the same.
            unsafe { registered.0.code().cast::<unsafe extern "C" fn()>()() };
            assert_eq!(chain(), before, "{binding:?}");
            let [during] = SEEN.take().try_into().unwrap();
            if !has_record {
                assert_eq!(during, before, "{binding:?}");
                continue;
            }
            assert_eq!(during[1..], before, "{binding:?}");
            let here = 0_u8;
            assert!((&raw const here).addr().abs_diff(during[0]) < 0x1_0000, "in this stack: {during:x?}");
        }
    }
}

#[test]
fn records_of_nested_calls_ascend() {
    const DEPTH: usize = 50;
    type Nest = unsafe extern "stdcall" fn(usize, usize) -> usize;
    let before = chain();
    let closure = |depth: usize, code: usize| -> usize {
        note();
        if depth == 1 {
            return 0;
        }
        // SAFETY: the callback passes its own code pointer on.
        1 + unsafe { std::mem::transmute::<usize, Nest>(code)(depth - 1, code) }
    };
    let callback = Callback::<Nest>::from_ref_with(Options::new().framed(), &closure).unwrap();
    let code = callback.code();
    // SAFETY: it lives.
    assert_eq!(unsafe { code(DEPTH, code as usize) }, DEPTH - 1);
    assert_eq!(chain(), before);
    let seen = SEEN.take();
    for (depth, chain) in (1..).zip(&seen) {
        assert_eq!(chain.len(), before.len() + depth);
        assert!(chain.is_sorted());
    }
    assert_eq!(seen.len(), DEPTH);
}

/// Notes the chain, and ends nothing.
unsafe extern "efiapi" fn looks_on(_: *mut c_void, _: *const Exception, _: *mut Outcome) -> Verdict {
    note();
    Verdict::SEARCH_ON
}

#[test]
fn the_chain_is_whole_after_exceptions_that_end_and_that_pass() {
    type Int = unsafe extern "C" fn(i32) -> i32;
    let before = chain();
    for kind in [Fault::Read, Fault::Raised, Fault::Division] {
        let inner = |_: i32| {
            fault(kind);
            0
        };
        let inner = Callback::<Int>::from_ref_with(Options::new().framed(), &inner).unwrap();
        // SAFETY: it lives.
        let middle = |argument: i32| unsafe { inner.code()(argument) };
        let middle = Callback::<Int>::from_ref_with(Options::new().framed(), &middle).unwrap();
        // SAFETY: as above.
        let outer = Contained::new(
            |argument: i32| unsafe { middle.code()(argument) },
            |_| {
                note();
                Some(-1)
            },
        );
        // SAFETY: when the innermost closure faults, nothing on the way here must be dropped.
        let outer = unsafe { Callback::<Int>::from_contained(&outer).unwrap() };
        for _ in 0..50 {
            // SAFETY: as above.
            assert_eq!(unsafe { outer.code()(1) }, -1);
            assert_eq!(chain(), before, "{kind:?}");
        }
        // While the filter runs, the system has a record of its own before those of three calls.
        let seen = SEEN.take();
        assert_eq!(seen.len(), 50, "{kind:?}");
        assert!(seen.iter().all(|during| during.len() > before.len() + 3), "{kind:?}");
    }
}

#[test]
fn the_chain_is_whole_after_a_cpp_exception_that_passes() {
    type Catching = unsafe extern "C" fn(*const c_void, i64) -> i64;
    let before = chain();
    // SAFETY: that is its type in exceptions.cpp; of the handlers only the addresses are used.
    let (catching, handler, frame_handler) = unsafe {
        let catching: Catching = function("catching");
        (catching, function::<*const c_void>("throwing_handler"), function("throwing_handler_frame"))
    };
    let signature = Signature::new(Convention::Cdecl, &[Type::I64; 5], Some(Type::I64)).unwrap();
    let mut destroyed = 0_i32;
    let data = (&raw mut destroyed).cast();
    // SAFETY: the handlers serve these shapes; the data outlives the registrations.
    let ways = unsafe {
        let direct = Binding::direct(Convention::Cdecl, handler, 10, data);
        let frame = Binding::frame(frame_handler, &signature, data);
        [direct, direct.framed(), direct.saving(), direct.tracked(), frame, frame.saving(), frame.exclusive()]
    };
    for binding in ways {
        let registered = Registered::new(&binding);
        // SAFETY: written by the handler only.
        unsafe { data.cast::<i32>().write(0) };
        for _ in 0..200 {
            // SAFETY: the registration lives and takes five words of 64 bits.
            assert_eq!(unsafe { catching(registered.0.code().as_ptr(), 1) }, 54321, "{binding:?}");
            assert_eq!(chain(), before, "{binding:?}");
        }
        // SAFETY: as above.
        assert_eq!(unsafe { data.cast::<i32>().read() }, 200, "destructors ran on the way");
        assert_idle(registered.0);
    }
}

/// A handler that makes the result, and sees the chain as the dispatcher has left it.
unsafe extern "C" fn makes_five(_: i32, _: *mut c_void) -> i32 {
    note();
    5
}

unsafe extern "efiapi" fn ends_in_five(_: *mut c_void, _: *const Exception, outcome: *mut Outcome) -> Verdict {
    // SAFETY: the answer is the dispatcher's.
    unsafe { (*outcome).handler = makes_five as *const c_void };
    Verdict::RETURN
}

#[test]
fn a_record_that_a_cpp_frame_left_behind_is_gone_when_its_exception_has_ended() {
    let before = chain();
    for level in LEVELS {
        let data = Data::new(ends_in_five);
        // SAFETY: the handler takes one word and that data, which begins with a filter.
        let binding = unsafe {
            let handler = function::<*const c_void>(&format!("faulty_{level}"));
            Binding::direct(Convention::Cdecl, handler, 1, data.as_ptr()).contained()
        };
        let registered = Registered::new(&binding);
        for _ in 0..100 {
            // SAFETY: the registration lives; 11 leaves a record and throws.
            assert_eq!(unsafe { registered.0.code().cast::<unsafe extern "C" fn(i32) -> i32>()(11) }, 5);
            assert_eq!(chain(), before);
            let [during] = SEEN.take().try_into().unwrap();
            assert_eq!(during[1..], before, "the dispatcher's record is the first one");
        }
    }
}

#[test]
fn the_chain_is_whole_after_a_jump() {
    type Jumping = unsafe extern "C" fn(*const c_void, i32) -> i32;
    let before = chain();
    for level in LEVELS {
        let data = Data::new(looks_on);
        // SAFETY: that is its type in faults.cpp; the handler takes one word and that data.
        let (jumping, binding) = unsafe {
            let handler = function::<*const c_void>(&format!("faulty_{level}"));
            let jumping: Jumping = function(&format!("jumping_{level}"));
            (jumping, Binding::direct(Convention::Cdecl, handler, 1, data.as_ptr()))
        };
        // SAFETY: the data begins with a filter.
        let contained = unsafe { binding.contained() };
        for binding in [binding, binding.framed(), binding.tracked(), contained.exclusive()] {
            let registered = Registered::new(&binding);
            for _ in 0..100 {
                // SAFETY: the registration lives.
                assert_eq!(unsafe { jumping(registered.0.code().as_ptr(), 0) }, 100);
                // SAFETY: as above.
                assert_eq!(unsafe { jumping(registered.0.code().as_ptr(), 10) }, -2);
                assert_eq!(chain(), before);
                assert_idle(registered.0);
            }
        }
        assert!(SEEN.take().is_empty(), "a jump is no exception that a filter sees");
    }
}
