//! What the C program of `tests/embed` cannot see of the C interface, or not on one target.
#![cfg(feature = "capi")]

use std::mem::MaybeUninit;

use calltable::capi::{self, Signature, Status};
use calltable::{CAPACITY, RawFrame};

fn signature(convention: u32, result: u32) -> (Status, Signature) {
    let mut signature = Signature { mark: 0, words: MaybeUninit::uninit() };
    // SAFETY: room for a signature, and no parameters.
    let status = unsafe { capi::calltable_signature_init(&mut signature, convention, std::ptr::null(), 0, result) };
    (status, signature)
}

#[test]
fn small_negative_results_fill_their_register() {
    for ty in [capi::I8, capi::I16, capi::I32] {
        let (status, signature) = signature(capi::C, ty);
        assert_eq!(status, capi::OK);
        // SAFETY: zeros are a frame, whose arguments nobody reads; the value is as large as any.
        let frame = unsafe {
            let mut frame: RawFrame = std::mem::zeroed();
            assert_eq!(capi::calltable_set(&mut frame, &signature, ty, (&raw const MINUS_TWO).cast()), capi::OK);
            frame
        };
        assert_eq!(frame.result[0] as isize, -2, "type {ty}");
    }
    static MINUS_TWO: i64 = -2;
}

#[test]
fn every_convention_has_its_number() {
    for &(name, number) in capi::CONVENTIONS {
        let is_known =
            if cfg!(target_arch = "x86_64") { matches!(name, "NATIVE" | "C" | "WIN64") } else { name != "WIN64" };
        let status = if is_known { capi::OK } else { capi::CONVENTION_UNAVAILABLE };
        assert_eq!(signature(number as u32, capi::VOID).0, status, "{name}");
    }
    assert_eq!(signature(7, capi::VOID).0, capi::UNKNOWN_CONVENTION);
}

#[test]
fn a_slot_that_is_not_live_is_not_one_that_is_none() {
    let mut entry = MaybeUninit::uninit();
    // SAFETY: room for an entry.
    let mut status = |index: usize| unsafe { capi::calltable_entry_at(index as u32, entry.as_mut_ptr()) };
    assert_eq!(status(CAPACITY - 1), capi::NOT_LIVE);
    assert_eq!(status(CAPACITY), capi::NO_SUCH_SLOT);
    let number = |index: usize| index as u64 + 1;
    assert!(capi::calltable_code(number(CAPACITY - 1)).is_some());
    assert!(capi::calltable_code(number(CAPACITY)).is_none());
}
