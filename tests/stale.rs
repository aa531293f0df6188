//! What stops a program, seen from outside: each case runs in a child process, which must die in the way promised.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "x86")))]

use std::ffi::c_void;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use calltable::table::{self, CAPACITY, Registration};
use calltable::{Callback, Convention};

type Nullary = unsafe extern "efiapi" fn() -> isize;

const CASE: &str = "CALLTABLE_TEST_CASE";

unsafe extern "C" {
    /// The first entry, by the name that the version 0.1.0 gives it.
    #[link_name = "calltable_0_1_0_table"]
    static TABLE: [u8; 16];
}

fn entry(slot: usize) -> Nullary {
    // SAFETY: the entries follow each other; each is a function, if perhaps a stale one.
    unsafe { std::mem::transmute::<*const [u8; 16], Nullary>((&raw const TABLE).wrapping_add(slot)) }
}

/// In the child: runs the case and does not come back, or comes back if the promise is broken.
fn run(case: &str) {
    // SAFETY: that calls of stale entries do no harm but stop the program is what is tested.
    match case {
        "released" => {
            let closure = || 1;
            let callback = Callback::<Nullary>::from_ref(&closure).unwrap();
            let code = callback.code();
            // SAFETY: it lives.
            assert_eq!(unsafe { code() }, 1);
            drop(callback);
            // SAFETY: as above.
            unsafe { code() };
        }
        // SAFETY: as above.
        "before anything was registered" => unsafe {
            entry(CAPACITY - 1)();
        },
        "never registered" => {
            let closure = || 1;
            let _callback = Callback::<Nullary>::from_ref(&closure).unwrap();
            // SAFETY: as above.
            unsafe { entry(CAPACITY - 1)() };
        }
        "entered again" => {
            let mut closure = || {
                // SAFETY: as above.
                unsafe { entry(0)() }
            };
            let callback = Callback::<Nullary>::from_mut(&mut closure).unwrap();
            assert_eq!(callback.slot().index(), 0);
            // SAFETY: it lives.
            unsafe { callback.code()() };
        }
        "released under full save" => {
            unsafe extern "efiapi" fn handler(_: *mut c_void) {}
            // SAFETY: the handler takes any data.
            let registration =
                unsafe { Registration::direct(Convention::NATIVE, handler as *const c_void, 0, std::ptr::null_mut()) };
            let slot = table::register(&registration.saving().tracked()).unwrap();
            table::release(slot).unwrap();
            // SAFETY: as above.
            unsafe { entry(slot.index())() };
        }
        "panic" => {
            let closure = || panic!("out of the closure");
            let callback = Callback::<Nullary>::from_ref(&closure).unwrap();
            // SAFETY: it lives.
            let _ = std::panic::catch_unwind(|| unsafe { callback.code()() });
        }
        other => panic!("no case {other}"),
    }
}

/// The child's side: this test does nothing unless it is told a case.
#[test]
fn child() {
    if let Ok(case) = std::env::var(CASE) {
        run(&case);
        println!("the case came back");
        std::process::exit(0);
    }
}

fn assert_stops(case: &str, signal: i32, message: &str) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CASE, case)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.signal(), Some(signal), "{case}: {child:?}");
    assert!(stderr.contains(message), "{case}: no {message:?} in {stderr}");
}

#[test]
fn a_released_entry_traps_and_says_so() {
    assert_stops("released", libc::SIGILL, "calltable: stale call of slot 0 (0x");
    assert_stops("released", libc::SIGILL, "the callback has been released\n");
    assert_stops("released under full save", libc::SIGILL, "the callback has been released\n");
}

#[test]
fn a_never_registered_entry_traps_and_says_so() {
    let message = format!("calltable: stale call of slot {} (0x", CAPACITY - 1);
    for case in ["before anything was registered", "never registered"] {
        assert_stops(case, libc::SIGILL, &message);
        assert_stops(case, libc::SIGILL, "the callback was never registered\n");
    }
}

#[test]
fn an_exclusive_callback_entered_again_traps_and_says_so() {
    assert_stops("entered again", libc::SIGILL, "the callback is exclusive and already running\n");
}

#[test]
fn a_panic_does_not_leave_a_handler() {
    assert_stops("panic", libc::SIGABRT, "panic in a function that cannot unwind");
}
