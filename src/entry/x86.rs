//! i686: what a walk along the stack finds above the handler of a counted call.

use core::ffi::c_void;

/// Whether what pushes this return address may be the dispatcher of a counted call: here all lanes are one function.
pub(crate) fn returns_to_count(address: *const c_void) -> bool {
    matches!(super::locate(address), Some(super::Location::Dispatcher))
}

/// The return address in the entry, which is what a walk finds after the dispatcher's.
///
/// # Safety
/// A dispatcher's frame must end there.
pub(crate) unsafe fn entry_before(found: *const c_void, _stack: *const c_void) -> *const c_void {
    found
}
