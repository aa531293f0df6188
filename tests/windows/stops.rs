//! Callbacks that must stop the process.

use std::process::Command;

use calltable::Callback;

use crate::c_side::{Caller, Unary, caller};

/// Runs a test of this program again, in a child process that it must stop: `work` is what the child does with a C
/// caller and a code pointer whose closure panics.
fn assert_stops(test: &str, exit: u32, message: &str, work: impl FnOnce(Callback<'_, Unary>, Caller)) {
    const CHILD: &str = "CALLTABLE_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let closure = |_: isize| -> isize { panic!("out of the closure") };
        work(Callback::<Unary>::from_ref(&closure).unwrap(), caller("nest", "O2"));
        println!("the child came back");
        std::process::exit(0);
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child = child.args(["--exact", test, "--nocapture"]).env(CHILD, "").output().unwrap();
    let text = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.code().map(|code| code as u32), Some(exit), "{child:?}");
    assert!(text.contains(message), "no {message:?} in {text}");
}

#[test]
fn a_panic_does_not_leave_a_handler() {
    const STATUS_STACK_BUFFER_OVERRUN: u32 = 0xc000_0409; // what __fastfail ends with
    // On i686 table and dispatchers have no unwind data, so that it finds nowhere to go to in the first place.
    let message =
        if cfg!(target_arch = "x86") { "failed to initiate panic" } else { "in a function that cannot unwind" };
    let test = "stops::a_panic_does_not_leave_a_handler";
    assert_stops(test, STATUS_STACK_BUFFER_OVERRUN, message, |callback, nest| {
        // SAFETY: the callback lives; that the panic ends the process is what is tested.
        let _ = std::panic::catch_unwind(|| unsafe { nest(callback.code(), 1) });
    });
}

#[test]
fn a_released_entry_traps() {
    const STATUS_ILLEGAL_INSTRUCTION: u32 = 0xc000_001d;
    assert_stops("stops::a_released_entry_traps", STATUS_ILLEGAL_INSTRUCTION, "", |callback, nest| {
        let code = callback.code();
        drop(callback);
        // SAFETY: that this does no harm but stop the process is what is tested.
        unsafe { nest(code, 1) };
    });
}
