//! With the feature `std`, a panic continues in the Rust code that made the foreign call.
#![cfg(feature = "std")]

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use calltable::{Callback, Caught, Error, table};
use calltable_callers::{NEST, REPEAT};

type Unary = unsafe extern "efiapi" fn(isize) -> isize;

/// The table is one for the whole program, and one of the tests fills it.
fn alone() -> MutexGuard<'static, ()> {
    static SERIAL: Mutex<()> = Mutex::new(());
    SERIAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The message of the panic in `work`.
fn panic_of<T>(work: impl FnOnce() -> T) -> String {
    let payload = catch_unwind(AssertUnwindSafe(work)).err().expect("it panics");
    *payload.downcast::<String>().expect("with a formatted message")
}

#[test]
fn a_panic_goes_on_when_the_foreign_function_has_returned() {
    let _alone = alone();
    let (mut ran, mut sum) = (0, None);
    let message = panic_of(|| {
        let closure = |value: isize| {
            ran += 1;
            assert!(value < 3, "at {value}");
            value
        };
        Callback::<Unary>::scope_mut(
            closure,
            || 100,
            |code| {
                // SAFETY: the C function calls with that type, and keeps nothing.
                sum = Some(unsafe { REPEAT(code as *const c_void, 10) });
            },
        )
    });
    assert_eq!(message, "at 3");
    assert_eq!(sum, Some(1 + 2 + 7 * 100), "the foreign function ran to its end");
    assert_eq!(ran, 4, "after a panic the closure is not run any more");
}

#[test]
fn without_a_panic_nothing_happens() {
    let _alone = alone();
    // SAFETY: the C function calls with that type, and keeps nothing.
    let sum = Callback::<Unary>::scope(|value| value, || 100, |code| unsafe { REPEAT(code as *const c_void, 10) });
    assert_eq!(sum, Ok::<_, Error>(45));
}

/// The panic crosses several foreign frames each time, and leaves neither stack nor slots behind.
#[test]
fn many_panics_leave_nothing_behind() {
    fn descend(depth: isize) -> isize {
        if depth == 0 {
            let here = 0_u8;
            // Without the hook's message and backtrace.
            std::panic::resume_unwind(Box::new((&raw const here).addr()));
        }
        // SAFETY: the C function calls with that type, and keeps nothing.
        let nest = |code: Unary| unsafe { NEST(code as *const c_void, depth - 1) };
        Callback::<Unary>::scope(descend, || -1, nest).unwrap()
    }
    let _alone = alone();
    let stack = || *catch_unwind(|| descend(2)).unwrap_err().downcast::<usize>().unwrap();
    let first = stack();
    // The table would be full after some thousand. An exception of Windows takes milliseconds in an emulator.
    let rounds = if cfg!(all(windows, target_arch = "aarch64")) { 300 } else { 10_000 };
    for round in 0..rounds {
        assert_eq!(stack(), first, "the stack has moved in round {round}");
    }
    assert_eq!(table::live_count(), 0);
}

#[test]
fn the_first_of_several_threads_panics_is_kept() {
    let _alone = alone();
    let caught = Caught::new();
    let ran = AtomicUsize::new(0);
    let closure = |value: isize| {
        caught.run(
            || {
                ran.fetch_add(1, Ordering::Relaxed);
                panic!("on value {value}")
            },
            || 7,
        )
    };
    let callback = Callback::<Unary>::from_ref(&closure).unwrap();
    let code = callback.code();
    thread::scope(|scope| {
        for _ in 0..4 {
            // SAFETY: the callback lives until the scope ends.
            scope.spawn(move || assert_eq!(unsafe { REPEAT(code as *const c_void, 1000) }, 7000));
        }
    });
    assert!((1..=4).contains(&ran.load(Ordering::Relaxed)));
    assert!(panic_of(|| caught.resume()).starts_with("on value "));
    caught.resume(); // once only
}

#[test]
fn a_full_table_is_said_before_anything_is_called() {
    let _alone = alone();
    let closure = |value: isize| value;
    let mut all = Vec::new();
    while let Ok(callback) = Callback::<Unary>::from_ref(&closure) {
        all.push(callback);
    }
    let result = Callback::<Unary>::scope(|value| value, || 0, |_| unreachable!("there is no code pointer"));
    assert!(matches!(result, Err(Error::TableFull { .. })));
}
