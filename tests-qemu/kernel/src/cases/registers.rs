//! The cases of `tests/registers.rs` on a machine without an operating system.

#[cfg_attr(target_arch = "x86_64", path = "../../../../tests/registers/x86_64.rs")]
#[cfg_attr(target_arch = "x86", path = "../../../../tests/registers/x86.rs")]
#[cfg_attr(target_arch = "aarch64", path = "../../../../tests/registers/aarch64.rs")]
mod cases;

pub use cases::*;

/// The checks would mean nothing if they passed without the save.
#[cfg(target_arch = "x86")]
pub fn without_the_save() {
    use calltable::Convention;
    use calltable::table::{self, Binding};
    use calltable_callers::{calltable_call_with, calltable_pops, calltable_wreck_preserved};
    use core::ffi::c_void;

    // SAFETY: the handler takes any arguments and, being told so, removes its four words.
    let binding = unsafe {
        calltable_pops = 16;
        Binding::direct(Convention::Stdcall, calltable_wreck_preserved as *const c_void, 3, DATA as *mut c_void)
    };
    let slot = table::register(&binding).expect("a slot");
    let (before, mut after) = (pattern(), pattern());
    // SAFETY: the assembly restores what this function relies on; the dispatcher has lost its frame, and faults.
    let fault = crate::traps::catch(|| unsafe { calltable_call_with(slot.code().as_ptr(), &before, &mut after) });
    assert!(fault.is_err(), "a handler that loses EBP has no way back");
    assert_eq!(table::release(slot), Ok(()));
}
