//! x86_64: what a walk along the stack finds above the handler of a counted call.

use core::ffi::c_void;

unsafe extern "C" {
    /// Where the lane of a counted call returns to.
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_counting")]
    static COUNTING: u8;
    /// Where the handler of an exclusive call with 4 positions returns to.
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_counting_exclusive")]
    static COUNTING_EXCLUSIVE: u8;
}

/// Whether what pushes this return address is the dispatcher of a counted call. Never inlined, as in `entry`.
#[inline(never)]
pub(crate) fn returns_to_count(address: *const c_void) -> bool {
    (&raw const COUNTING).addr() == address.addr() || returns_to_exclusive(address)
}

/// Whether it is that of exclusive calls with 4 positions.
#[inline(never)]
pub(crate) fn returns_to_exclusive(address: *const c_void) -> bool {
    (&raw const COUNTING_EXCLUSIVE).addr() == address.addr()
}

/// The return address in the entry, which is what a walk finds after the dispatcher's.
///
/// # Safety
/// A dispatcher's frame must end there.
pub(crate) unsafe fn entry_before(found: *const c_void, _stack: *const c_void) -> *const c_void {
    found
}
