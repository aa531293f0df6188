//! What the C program of `tests/embed` cannot see of the C interface, or not on one target.

use std::mem::MaybeUninit;
use std::sync::Mutex;

use calltable::{CAPACITY, RawFrame};
use calltable_capi::{self as capi, Binding, Signature, Status};

unsafe extern "C" fn handler() {}

/// A registration in the direct lane.
fn plain() -> Binding {
    Binding {
        version: capi::VERSION,
        options: 0,
        handler: Some(handler),
        data: std::ptr::null_mut(),
        signature: std::ptr::null(),
        convention: capi::C,
        positions: 0,
        name: std::ptr::null(),
    }
}

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
        let is_known = match name {
            "NATIVE" | "C" => true,
            "WIN64" => cfg!(target_arch = "x86_64"),
            "AAPCS64" => cfg!(target_arch = "aarch64"),
            _ => cfg!(target_arch = "x86"),
        };
        let status = if is_known { capi::OK } else { capi::CONVENTION_UNAVAILABLE };
        assert_eq!(signature(number as u32, capi::VOID).0, status, "{name}");
    }
    assert_eq!(signature(9, capi::VOID).0, capi::UNKNOWN_CONVENTION);
}

/// For tests that look at the whole table or fill it.
static TABLE: Mutex<()> = Mutex::new(());

#[test]
fn a_slot_that_is_not_live_is_not_one_that_is_none() {
    let _alone = TABLE.lock();
    let mut entry = MaybeUninit::uninit();
    // SAFETY: room for an entry.
    let mut status = |index: usize| unsafe { capi::calltable_live_slot_at(index as u32, entry.as_mut_ptr()) };
    assert_eq!(status(CAPACITY - 1), capi::NOT_LIVE);
    assert_eq!(status(CAPACITY), capi::NO_SUCH_SLOT);
    let number = |index: usize| index as u64 + 1;
    assert!(capi::calltable_code(number(CAPACITY - 1)).is_some());
    assert!(capi::calltable_code(number(CAPACITY)).is_none());
}

#[test]
fn who_gets_no_slot_gets_the_number_of_none() {
    let _alone = TABLE.lock();
    type Giver = unsafe extern "C" fn(*const Binding, *mut u64) -> Status;
    let givers: [(&str, Giver); 4] = [
        ("register", capi::calltable_register),
        ("try_register", capi::calltable_try_register),
        ("share", capi::calltable_share),
        ("try_share", capi::calltable_try_share),
    ];
    let unfilled = Signature { mark: 0, words: MaybeUninit::uninit() };
    // On i686, too, as many words as the direct lane does not pass on.
    let mut long = Signature { mark: 0, words: MaybeUninit::uninit() };
    // SAFETY: room for a signature, and as many parameters.
    let status =
        unsafe { capi::calltable_signature_init(&mut long, capi::C, [capi::I32; 200].as_ptr(), 200, capi::VOID) };
    assert_eq!(status, capi::OK);
    let refused = [
        (None, capi::NULL_POINTER),
        (Some(Binding { version: capi::VERSION + 1, ..plain() }), capi::OTHER_VERSION),
        (Some(Binding { options: 1 << 31, ..plain() }), capi::UNKNOWN_OPTION),
        (Some(Binding { handler: None, ..plain() }), capi::NULL_HANDLER),
        (Some(Binding { convention: 99, ..plain() }), capi::UNKNOWN_CONVENTION),
        (Some(Binding { signature: &unfilled, ..plain() }), capi::BAD_SIGNATURE),
        (Some(Binding { positions: u32::MAX, ..plain() }), capi::TOO_MANY_POSITIONS),
        (Some(Binding { options: capi::CONTAINED, ..plain() }), capi::NULL_FILTER),
        (Some(Binding { options: capi::DIRECT_LANE, ..plain() }), capi::NULL_POINTER),
        (Some(Binding { options: capi::DIRECT_LANE, signature: &long, ..plain() }), capi::TOO_MANY_POSITIONS),
    ];
    for (name, give) in givers {
        let give = |binding: &Option<Binding>, expected: Status| {
            let mut slot = !capi::NO_SLOT;
            let binding = binding.as_ref().map_or(std::ptr::null(), |it| &raw const *it);
            // SAFETY: null or a registration whose handler takes anything; room for the slot.
            let status = unsafe { give(binding, &mut slot) };
            assert_eq!((status, slot), (expected, capi::NO_SLOT), "{name}");
        };
        for (binding, status) in &refused {
            give(binding, *status);
        }
        let filler = Some(plain());
        let slots: Vec<_> = (0..CAPACITY)
            .map(|_| {
                let mut slot = 0;
                // SAFETY: as above.
                assert_eq!(unsafe { capi::calltable_register(filler.as_ref().unwrap(), &mut slot) }, capi::OK);
                slot
            })
            .collect();
        give(&Some(Binding { options: capi::TRACKED, ..plain() }), capi::TABLE_FULL);
        // SAFETY: they are this test's own.
        slots.iter().for_each(|slot| assert_eq!(unsafe { capi::calltable_release(*slot) }, capi::OK));
    }
}

#[test]
fn of_a_name_that_is_too_long_or_no_text_the_beginning_counts() {
    let _alone = TABLE.lock();
    const LONG: [u8; 300] = [b'n'; 300];
    let long = std::ffi::CString::new(LONG).unwrap();
    let cases = [
        (c"a name", Some(&b"a name"[..])),
        (c"", None),
        (c"na\xc3\xafve", Some(b"na\xc3\xafve")),
        (c"half \xc3", Some(b"half ")),
        (c"\xff", None),
        (&long, Some(&LONG[..255])),
    ];
    for (name, shown) in cases {
        let binding = Binding { name: name.as_ptr(), ..plain() };
        let (mut slot, mut index, mut live) = (0, 0, MaybeUninit::uninit());
        // SAFETY: the handler takes anything, there is room for each result, and the names outlive their slots' use.
        let live = unsafe {
            assert_eq!(capi::calltable_register(&binding, &mut slot), capi::OK);
            assert_eq!(capi::calltable_index_of(capi::calltable_code(slot), &mut index), capi::OK);
            assert_eq!(capi::calltable_live_slot_at(index, live.as_mut_ptr()), capi::OK);
            live.assume_init()
        };
        // SAFETY: that many bytes are there if there is a name.
        let found = (!live.name.is_null())
            .then(|| unsafe { std::slice::from_raw_parts(live.name.cast::<u8>(), live.name_size) });
        assert_eq!(found, if cfg!(feature = "names") { shown } else { None }, "{name:?}");
        // SAFETY: it is this test's own.
        assert_eq!(unsafe { capi::calltable_release(slot) }, capi::OK);
    }
}
