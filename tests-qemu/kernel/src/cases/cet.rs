//! Shadow stacks and indirect-branch tracking: that both are on, and that the table keeps to their rules.

use core::arch::asm;

use calltable::Callback;
use calltable::table::{self, CAPACITY};

use super::{adding, address, repeat};
use crate::traps::{Fault, catch, is_no_landing_pad, is_wrong_return};

unsafe extern "C" {
    fn wrong_entry();
    #[link_name = "no_landing_pad"]
    fn not_a_target();
}

fn fault(function: unsafe extern "C" fn()) -> Fault {
    let function = core::hint::black_box(function);
    // SAFETY: it takes nothing; the fault ends it.
    match catch(|| unsafe { function() }) {
        Err(fault) => fault,
        Ok(()) => panic!("no fault"),
    }
}

pub fn wrong_return() {
    let fault = fault(wrong_entry);
    assert!(is_wrong_return(fault), "{fault:x?}");
}

pub fn no_landing_pad() {
    let fault = fault(not_a_target);
    assert!(is_no_landing_pad(fault), "{fault:x?}");
}

fn shadow_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads a register.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!("rdsspq {}", inout(reg) 0_usize => pointer, options(nostack, nomem, preserves_flags));
        #[cfg(target_arch = "x86")]
        asm!("rdsspd {}", inout(reg) 0_usize => pointer, options(nostack, nomem, preserves_flags));
    }
    pointer
}

pub fn entries() {
    type Unary = unsafe extern "efiapi" fn(isize) -> isize;
    let before = shadow_pointer();
    assert_ne!(before, 0, "there is no shadow stack");
    let mut slots = [const { None }; CAPACITY];
    for (number, slot) in slots.iter_mut().enumerate() {
        *slot = table::register(&adding(number as isize)).ok();
    }
    for (number, slot) in slots.iter().flatten().enumerate() {
        assert_eq!(repeat(address(slot.code()), 2), 2 * number as isize + 1);
        assert_eq!(shadow_pointer(), before);
    }
    for key in slots.into_iter().flatten() {
        assert_eq!(table::release(key), Ok(()));
    }
    // Inside a handler it holds what is still to be answered: the CALL of the entry, and the entry's own, for the
    // dispatcher of x86_64 jumps; on i686 that is answered, and the dispatcher's is not.
    let calls = 2;
    let closure = |_: isize| shadow_pointer() as isize;
    let callback = Callback::<Unary>::from_ref(&closure).expect("a slot");
    // SAFETY: it lives.
    let inside = unsafe { callback.code()(0) } as usize;
    assert!(inside + calls * size_of::<usize>() <= before, "{inside:#x}, {before:#x}");
}
