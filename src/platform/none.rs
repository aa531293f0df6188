//! No operating system, or none that may be asked.

use core::ffi::{CStr, c_void};
use core::sync::atomic::AtomicU32;

/// Writes a message: there is nowhere to.
pub(crate) fn print(_message: &CStr) {}

/// Sleeps: nobody can wake us.
pub(crate) fn sleep(_microseconds: u32) {
    core::hint::spin_loop();
}

/// Whether the process is ending, and all its other threads with it: there are no processes.
pub(crate) fn is_ending() -> bool {
    false
}

/// A word that is 0 in each new process: there is none.
pub(crate) fn process_mark() -> Option<&'static AtomicU32> {
    None
}

pub(crate) fn forget_mark_in_children() {}

/// Passes on the return addresses of this thread, innermost first: nobody knows them.
pub(crate) fn walk(_found: &mut dyn FnMut(*const c_void, *const c_void) -> bool) {}
