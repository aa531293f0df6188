//! C++ exceptions of GCC and Clang for Windows (`_Unwind_Exception`, Itanium C++ ABI).

/// The start of each.
#[repr(C)]
pub(super) struct GccException {
    class: u64,
    cleanup: Option<unsafe extern "C" fn(reason: i32, exception: *mut GccException)>,
    #[cfg(target_pointer_width = "64")]
    stop: usize,
    /// What the runtime library for SEH keeps here: the frame that catches it, where that continues, and RDX, or X1,
    /// there.
    #[cfg(target_pointer_width = "64")]
    pub(super) target: [usize; 3],
}

/// What `catch (...)` does in the end.
///
/// # Safety
/// The exception must be one that has arrived where it is caught.
pub(super) unsafe fn destroy(exception: *mut GccException) {
    const FOREIGN_EXCEPTION_CAUGHT: i32 = 1;
    // SAFETY: by the caller's promise; an exception brings the function that destroys it.
    unsafe {
        if let Some(cleanup) = (*exception).cleanup {
            cleanup(FOREIGN_EXCEPTION_CAUGHT, exception);
        }
    }
}
