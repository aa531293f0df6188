//! The registry, unchanged, with a dispatcher in Rust: what holds while slots change hands.
//!
//! With the feature `loom` a test tries one order of events after the other, and those of `flaws` show that it would
//! see a mistake.

#[cfg(feature = "loom")]
extern crate calltable_model as core;
#[cfg(feature = "loom")]
extern crate calltable_model as heapless;
#[cfg(feature = "loom")]
extern crate calltable_model as spin;

#[path = "../../../../src/context.rs"]
#[allow(dead_code, reason = "some of it is for other modules of the crate")]
mod context;
#[path = "../../../../src/convention.rs"]
#[allow(dead_code, reason = "one architecture has not all of them")]
mod convention;
mod dispatcher;
#[path = "../../../../src/error.rs"]
#[allow(dead_code, reason = "some of it is for other modules of the crate")]
mod error;
#[cfg(feature = "loom")]
mod flaws;
#[path = "../../../../src/layout.rs"]
mod layout;
#[path = "../../../../src/name.rs"]
#[allow(dead_code, reason = "some of it is for other modules of the crate")]
mod name;
mod neighbours;
#[path = "../../../../src/registry.rs"]
#[allow(dead_code, reason = "some of it is for other modules of the crate")]
mod registry;
mod scenarios;
#[path = "../../../../src/table.rs"]
#[allow(dead_code, unused_imports, reason = "some of it is for other modules of the crate")]
mod table;
#[path = "../../../../src/types.rs"]
#[allow(dead_code, reason = "some of it is for other modules of the crate")]
mod types;

/// Those that contexts are made of.
#[cfg(feature = "loom")]
#[allow(unused_imports, reason = "halves are for the feature `narrow`")]
mod core_atomics {
    pub use calltable_model::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
}
#[cfg(not(feature = "loom"))]
#[allow(unused_imports, reason = "as above")]
mod core_atomics {
    pub use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
}

use std::sync::atomic::Ordering;

use dispatcher::{Flaw, Outcome, call};
use neighbours::{abi, entry, frame, lock, own_call, platform, seh, signature, stale};
use scenarios::*;

/// Loom comes upon everything that can happen, real threads upon some of it.
#[track_caller]
fn expect(outcomes: &[Outcome], expected: &[Outcome]) {
    if cfg!(feature = "loom") {
        assert_eq!(outcomes, expected);
    } else {
        assert!(outcomes.iter().all(|outcome| expected.contains(outcome)), "{outcomes:?}");
    }
}

#[test]
fn a_call_sees_one_registration() {
    for make in LANES {
        expect(&one_registration(make, call), &[OLD, NEW, STALE]);
        expect(&handed_over(make, call), &[OLD, NEW, STALE]);
    }
}

#[test]
fn a_call_of_a_slot_that_is_rebound_sees_one_registration() {
    for make in LANES {
        expect(&rebound(make, call), &[OLD, NEW, STALE]);
    }
    expect(&rebound_to_another(call), &[OLD, NEW, STALE]);
}

#[test]
fn a_registration_that_its_call_ends_is_called_once() {
    expect(&once(1, call), &[OLD, STALE]);
    expect(&once(2, call), &[OLD, NEW, STALE]); // or both come at once, and the second one is told so
    expect(&left_slots_are_taken(call), &[OLD, NEW, STALE]);
}

#[test]
fn a_call_that_begins_after_a_release_is_stale() {
    for make in LANES {
        expect(&after_release(make, call), &[OLD, STALE]);
    }
}

#[test]
fn a_tracked_release_waits() {
    expect(&tracked_release(tracked, 1, call), &[OLD, STALE]);
    expect(&tracked_release(tracked, 2, call), &[OLD, STALE]);
    expect(&tracked_release(exclusive, 1, call), &[OLD, STALE]);
    expect(&tracked_release(exclusive_frame, 1, call), &[OLD, STALE]);
}

#[test]
fn a_late_call_does_not_disturb_the_next_registration() {
    expect(&late_call(call), &[OLD, NEW, STALE]);
}

#[test]
fn a_late_call_does_not_have_others_refused() {
    for make in [tracked, exclusive, exclusive_frame] {
        for is_call in [true, false] {
            expect(&late_caller(make, is_call, Flaw::None), &[OLD, STALE]);
        }
    }
}

#[cfg(feature = "loom")]
#[test]
fn a_slot_whose_generations_are_used_up_is_retired() {
    for make in LANES {
        expect(&retired(make, call), &[OLD, STALE]);
    }
}

#[test]
fn an_exclusive_handler_runs_once_at_a_time() {
    expect(&exclusive_calls(exclusive, call), &[OLD, REFUSED]);
    expect(&exclusive_calls(exclusive_frame, call), &[OLD, REFUSED]);
}

#[test]
fn no_call_is_counted_when_all_have_ended() {
    expect(&counted_to_the_end(tracked, call), &[OLD]);
    expect(&counted_to_the_end(exclusive, call), &[OLD, REFUSED]);
}

#[test]
fn the_last_release_of_a_shared_registration_releases() {
    shared();
}

#[test]
fn a_registration_is_complete_when_its_pointer_is_known() {
    for make in LANES {
        expect(&complete(make, Ordering::Release, call), &[NEW]);
    }
}

#[test]
fn a_call_during_the_very_first_registration() {
    expect(&first_use(0, call), &[OLD, STALE]);
}

#[test]
fn a_call_during_the_first_registration_of_its_slot() {
    expect(&first_use(1, call), &[OLD, STALE]);
}

#[test]
fn a_thread_that_goes_away_while_it_makes_a_context_leaves_the_slot_free() {
    left_in_the_middle();
}

#[test]
fn lists_show_whole_registrations() {
    listed();
}

#[test]
fn released_slots_wait_at_the_end_of_the_line() {
    line();
}

#[test]
fn forms_that_do_not_wait() {
    busy();
}
