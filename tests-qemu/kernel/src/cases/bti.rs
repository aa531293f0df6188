//! Branch target identification and pointer authentication: that both are on, and that the table keeps to their rules.

use core::ffi::c_void;
use core::hint::black_box;

use calltable::table::{self, CAPACITY};

use super::{adding, address, repeat};
use crate::traps::{Fault, catch, is_no_landing_pad, is_wrong_return};

unsafe extern "C" {
    fn wrong_return_address();
    #[link_name = "no_landing_pad"]
    fn not_a_target();
    /// Calls by a jump through X16, as a jump at a function's end or a linker's veneer does.
    fn jump(value: isize, code: *const c_void) -> isize;
}

fn fault(code: *const c_void) -> Fault {
    // SAFETY: the callers' take nothing; the fault ends it.
    match catch(|| unsafe { core::mem::transmute::<*const c_void, unsafe extern "C" fn()>(black_box(code))() }) {
        Err(fault) => fault,
        Ok(()) => panic!("no fault at {code:?}"),
    }
}

pub fn wrong_return() {
    let fault = fault(wrong_return_address as *const c_void);
    assert!(is_wrong_return(fault), "{fault:x?}");
}

pub fn no_landing_pad() {
    let fault = fault(not_a_target as *const c_void);
    assert!(is_no_landing_pad(fault), "{fault:x?}");
}

pub fn entries() {
    const INSTRUCTION: usize = 4; // bytes
    let mut slots = [const { None }; CAPACITY];
    for (number, slot) in slots.iter_mut().enumerate() {
        *slot = table::register(&adding(number as isize)).ok();
    }
    for (number, slot) in slots.iter().flatten().enumerate() {
        let code = address(slot.code());
        assert_eq!(repeat(code, 2), 2 * number as isize + 1);
        // SAFETY: it takes one word.
        assert_eq!(unsafe { jump(3, code) }, number as isize + 3);
        // Past its landing pad nobody comes in.
        let fault = fault(code.wrapping_byte_add(INSTRUCTION));
        assert!(is_no_landing_pad(fault), "{fault:x?}");
    }
    for key in slots.into_iter().flatten() {
        assert_eq!(table::release(key), Ok(()));
    }
}
