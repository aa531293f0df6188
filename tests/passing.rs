//! A panic, or an exception of C++, passes through callbacks of types whose ABI ends in "-unwind": what is on its way
//! is dropped, and the registration is as before.
#![cfg(feature = "std")]

use std::ffi::c_void;
use std::mem::transmute;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use calltable::{Callback, FunctionPointer, Method, Options, table};
use calltable_callers::{NEST, REPEAT};

/// Counts when it is dropped.
struct Part<'a>(&'a AtomicUsize);

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the closures do: of a number below 0 they make a panic (without the hook's message).
fn twice(number: isize, dropped: &AtomicUsize) -> isize {
    let _part = Part(dropped);
    if number < 0 {
        resume_unwind(Box::new(number));
    }
    2 * number
}

/// More than any convention returns in registers.
#[repr(C)]
struct Large([isize; 9]);

/// Has panics pass, and calls after them. `call` calls with a number, and gives what `twice` makes of it.
fn check<F: FunctionPointer>(
    what: &str,
    callback: Callback<'_, F>,
    dropped: &AtomicUsize,
    is_counted: bool,
    call: impl Fn(F, isize) -> isize,
) {
    let (code, slot) = (callback.code(), callback.slot());
    let before = dropped.load(Ordering::Relaxed);
    for round in 1..50 {
        let payload = catch_unwind(AssertUnwindSafe(|| call(code, -round))).expect_err(what);
        assert_eq!(payload.downcast_ref(), Some(&-round), "{what}");
        let live = table::live_slot(slot.index()).unwrap();
        if live.in_flight != is_counted.then_some(0) {
            std::mem::forget(callback); // its end would be waited for
            panic!("{what}: after a panic {:?} calls are running", live.in_flight);
        }
        assert_eq!(call(code, round), 2 * round, "{what}: after a panic");
    }
    assert_eq!(dropped.load(Ordering::Relaxed) - before, 98, "{what}: what was dropped");
    drop(callback);
    assert!(table::live_slot(slot.index()).is_none_or(|live| live.slot != slot));
}

macro_rules! conventions {
    ($($name:ident $abi:literal)*) => { $(
        mod $name {
            use super::*;

            type One = unsafe extern $abi fn(isize) -> isize;
            type Seven = unsafe extern $abi fn(u8, f64, isize, isize, isize, isize, isize) -> isize;
            type Returning = unsafe extern $abi fn(isize) -> Large;
            type OfMethod = Method<unsafe extern $abi fn(*const isize, isize) -> Large>;

            // Each is a function of its own, with nothing to drop: on x86_64 Linux a frame that does more when a panic
            // comes out of the very call finds wrong values in RSI, RDI and XMM6 to XMM15 (docs/limits.md).
            #[inline(never)]
            fn one(code: One, number: isize) -> isize {
                // SAFETY: whoever calls has a callback that lives; so below.
                unsafe { code(number) }
            }

            #[inline(never)]
            fn seven(code: Seven, number: isize) -> isize {
                // SAFETY: as above.
                unsafe { code(1, 2.0, 3, 4, 5, 6, number) }
            }

            #[inline(never)]
            fn returning(code: Returning, number: isize) -> isize {
                // SAFETY: as above.
                unsafe { code(number) }.0[8]
            }

            #[inline(never)]
            fn method(code: OfMethod, number: isize) -> isize {
                type Called = unsafe extern $abi fn(*const isize, *mut Large, isize) -> *mut Large;
                let mut result = Large([0; 9]);
                // SAFETY: that is how a method is called; as above.
                unsafe { (*transmute::<*const c_void, Called>(code.as_ptr())(&1, &mut result, number)).0[8] }
            }

            #[test]
            fn a_panic_passes_through_every_lane() {
                every_lane();
            }

            pub fn every_lane() {
                let dropped = &AtomicUsize::new(0);
                let serve = |number| twice(number, dropped);
                check("shared", Callback::from_ref(&serve).unwrap(), dropped, false, one);
                check("of a copy", Callback::from_copy(serve).unwrap(), dropped, false, one);
                let with_data = |dropped: &AtomicUsize, number| twice(number, dropped);
                check("with data", Callback::from_fn(dropped, with_data).unwrap(), dropped, false, one);
                for (what, options) in [("tracked", Options::new().tracked()), ("framed", Options::new().framed())] {
                    let is_counted = what == "tracked";
                    check(what, Callback::from_ref_with(options, &serve).unwrap(), dropped, is_counted, one);
                }
                let mut calls = 0;
                let mut exclusive = |number| {
                    calls += 1;
                    twice(number, dropped)
                };
                check("exclusive", Callback::from_mut(&mut exclusive).unwrap(), dropped, true, one);
                assert_eq!(calls, 98);
                check("owned", Callback::new(serve).unwrap(), dropped, false, one);
                check("owned and exclusive", Callback::new_mut(serve).unwrap(), dropped, true, one);
                let or_null = |code: Option<One>, number| one(code.unwrap(), number);
                check("or null", Callback::from_mut(&mut { serve }).unwrap(), dropped, true, or_null);

                let seventh = |a, b, c, d, e, f, number| {
                    assert_eq!((a, b, c, d, e, f), (1, 2.0, 3, 4, 5, 6));
                    twice(number, dropped)
                };
                check("long", Callback::<Seven>::from_ref(&seventh).unwrap(), dropped, false, seven);
                check("long, exclusive", Callback::from_mut(&mut { seventh }).unwrap(), dropped, true, seven);
                let tracked = Options::new().tracked();
                check("long, tracked", Callback::from_ref_with(tracked, &seventh).unwrap(), dropped, true, seven);

                let large = |number| Large([twice(number, dropped); 9]);
                check("returning", Callback::from_ref(&large).unwrap(), dropped, false, returning);
                check("returning, exclusive", Callback::from_mut(&mut { large }).unwrap(), dropped, true, returning);

                let of_method = |_: *const isize, number| Large([twice(number, dropped); 9]);
                check("method", Callback::from_ref(&of_method).unwrap(), dropped, false, method);
                check("method, exclusive", Callback::from_mut(&mut { of_method }).unwrap(), dropped, true, method);
            }

            #[test]
            fn a_scope_catches_as_for_other_types() {
                let dropped = &AtomicUsize::new(0);
                let serve = |number| twice(number, dropped);
                let result = catch_unwind(|| {
                    Callback::<One>::scope(serve, || 7, |code| assert_eq!(one(code, -3), 7))
                });
                assert_eq!(result.unwrap_err().downcast_ref(), Some(&-3_isize));
                // A panic of the fallback passes, and nothing is left of the callback.
                let result = catch_unwind(|| {
                    Callback::<One>::scope_mut(serve, || resume_unwind(Box::new("no value")), |code| one(code, -3))
                });
                assert_eq!(result.unwrap_err().downcast_ref(), Some(&"no value"));
                assert_eq!(dropped.load(Ordering::Relaxed), 2);
            }
        }
    )* };
}

#[cfg(target_arch = "x86_64")]
conventions! { win64 "win64-unwind" }
#[cfg(all(windows, target_arch = "x86_64"))]
conventions! { c "C-unwind" system "system-unwind" }
#[cfg(target_arch = "x86")]
conventions! {
    stdcall "stdcall-unwind" cdecl "cdecl-unwind" thiscall "thiscall-unwind" fastcall "fastcall-unwind" c "C-unwind"
    system "system-unwind"
}
#[cfg(target_arch = "aarch64")]
conventions! { c "C-unwind" system "system-unwind" }

/// What `REPEAT` and `NEST` call.
#[cfg(target_arch = "x86_64")]
type Plain = unsafe extern "win64-unwind" fn(isize) -> isize;
#[cfg(not(target_arch = "x86_64"))]
type Plain = unsafe extern "C-unwind" fn(isize) -> isize;

/// Panics pass through frames of C, on each of which a counted call runs.
#[test]
fn a_panic_passes_through_nested_calls() {
    type Caller = unsafe extern "C-unwind" fn(*const c_void, isize) -> isize;
    // SAFETY: they differ in what passes through, of which C knows nothing.
    let (repeat, nest) = unsafe {
        (transmute::<calltable_callers::Caller, Caller>(REPEAT), transmute::<calltable_callers::Caller, Caller>(NEST))
    };
    let dropped = AtomicUsize::new(0);
    let descend = |depth| {
        let inner = |depth| twice(if depth == 7 { -7 } else { depth }, &dropped);
        let inner = Callback::<Plain>::new_mut(inner).unwrap();
        let outer = Options::new().tracked();
        // SAFETY: the C functions call with that type, and keep nothing; the callbacks live.
        let outer = Callback::<Plain>::new_with(outer, |count| unsafe { repeat(inner.code() as _, count) }).unwrap();
        // SAFETY: as above.
        unsafe { nest(outer.code() as _, depth) }
    };
    assert_eq!(descend(7), 42);
    // More than there are slots: those of each round were released as the panic passed.
    for _ in 0..1000 {
        assert_eq!(catch_unwind(AssertUnwindSafe(|| descend(8))).unwrap_err().downcast_ref(), Some(&-7_isize));
    }
    assert_eq!(dropped.load(Ordering::Relaxed), 7 + 8 * 1000);
}

/// On Windows `windows` tests that.
#[cfg(all(target_os = "linux", not(target_arch = "aarch64")))]
#[test]
fn an_exception_of_cpp_passes_and_a_panic_passes_through_cpp() {
    use calltable_callers::{calltable_catching, calltable_throw};

    let dropped = &AtomicUsize::new(0);
    let mut throws = |number: isize| {
        let _part = Part(dropped);
        if number % 3 == 0 {
            // SAFETY: it may be called anywhere; the exception passes through functions that let it.
            unsafe { calltable_throw(2 * number) };
        }
        twice(number, dropped)
    };
    let tracked = Options::new().tracked();
    for exclusive in [false, true] {
        let callback = if exclusive {
            Callback::<Plain>::from_mut(&mut throws).unwrap()
        } else {
            Callback::<Plain>::from_ref_with(tracked, &throws).unwrap()
        };
        let code = callback.code() as *const c_void;
        let mut destroyed = 0;
        for number in 1..100 {
            // SAFETY: the callback lives.
            let mut call = |number| unsafe { calltable_catching(code, number, &raw mut destroyed) };
            assert_eq!(call(number), 2 * number);
            if number % 3 != 0 {
                let payload = catch_unwind(AssertUnwindSafe(|| call(-number))).unwrap_err();
                assert_eq!(payload.downcast_ref(), Some(&-number));
            }
        }
        assert_eq!(destroyed, 99 + 66);
        let live = table::live_slot(callback.slot().index()).unwrap();
        if live.in_flight != Some(0) {
            std::mem::forget(callback); // its end would be waited for
            panic!("after an exception {:?} calls are running", live.in_flight);
        }
    }
    assert_eq!(dropped.load(Ordering::Relaxed), 2 * (33 + 2 * (66 + 66)));
}
