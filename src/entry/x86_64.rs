//! x86_64: what a walk along the stack finds above the handler of a counted call.

use core::ffi::c_void;

unsafe extern "C" {
    /// Where the lane of a counted call returns to.
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_counting")]
    static COUNTING: u8;
}

/// Whether what pushes this return address is the dispatcher of a counted call. Never inlined, as in `entry`.
#[inline(never)]
pub(crate) fn returns_to_count(address: *const c_void) -> bool {
    address.addr() == (&raw const COUNTING).addr()
}
