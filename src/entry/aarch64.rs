//! AArch64: what a walk along the stack finds above the handler of a counted call.

use core::ffi::c_void;

use crate::layout::{LINK_ENTRY, LINK_SIZE};

unsafe extern "C" {
    /// Where the lane of a counted call returns to.
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_counting")]
    static COUNTING: u8;
}

/// Whether this is the return address of a lane in the dispatcher of a counted call. Never inlined, as in `entry`.
#[inline(never)]
pub(crate) fn returns_to_count(address: *const c_void) -> bool {
    (&raw const COUNTING).addr() == address.addr()
}

/// What stands for the entry's return address, of a dispatcher's frame that ends at `stack`: entries push none, so it
/// is in the frame's link.
///
/// # Safety
/// A dispatcher's frame must end there.
pub(crate) unsafe fn entry_before(_found: *const c_void, stack: *const c_void) -> *const c_void {
    // SAFETY: by the caller's promise a link is there.
    unsafe { stack.byte_sub(LINK_SIZE - LINK_ENTRY).cast::<*const c_void>().read() }
}
