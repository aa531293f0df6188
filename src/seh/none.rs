//! Where exceptions cannot be contained.

use core::ptr::null_mut;

use crate::context::Context;

/// What a contained registration brings with it: nothing.
pub(crate) fn unwinder() -> *mut () {
    null_mut()
}

/// Whether exceptions can be contained.
pub(crate) fn is_available() -> bool {
    false
}

/// Whether a counted call of the context is in this thread's chain: there is none.
pub(crate) fn counts_here(_context: *const Context) -> bool {
    false
}
