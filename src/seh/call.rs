//! 64-bit processors: the frame of a call whose exceptions may end here.

use core::ffi::c_void;
use core::mem::offset_of;

use static_assertions::const_assert_eq;

use super::ask::{CONTINUE_SEARCH, ask};
use super::policy::{ExceptionRecord, Outcome};
use crate::layout::*;

/// What `calltable_contain` lays down first.
#[repr(C)]
pub(super) struct Call {
    outcome: Outcome,
    data: *mut c_void,
    state: usize,
    #[cfg(target_arch = "x86_64")]
    mxcsr: u32,
    #[cfg(target_arch = "x86_64")]
    x87: u16,
    #[cfg(target_arch = "aarch64")]
    slot: usize,
    /// Whether the filter is deciding or has ended an exception: then those that come are not its own.
    asked: Asked,
    #[cfg(target_arch = "x86_64")]
    flags: u32,
    #[cfg(target_arch = "aarch64")]
    fpcr: usize,
}

#[cfg(target_arch = "x86_64")]
type Asked = u16;
#[cfg(target_arch = "aarch64")]
type Asked = usize;

const_assert_eq!(offset_of!(Call, data), CONTAINED_DATA);
const_assert_eq!(offset_of!(Call, state), CONTAINED_STATE);
const_assert_eq!(offset_of!(Call, asked), CONTAINED_ASKED);
cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86_64")] {
        const_assert_eq!(offset_of!(Call, mxcsr), CONTAINED_MXCSR);
        const_assert_eq!(offset_of!(Call, x87), CONTAINED_X87);
        const_assert_eq!(offset_of!(Call, flags), CONTAINED_FLAGS);
    } else if #[cfg(target_arch = "aarch64")] {
        const_assert_eq!(offset_of!(Call, slot), CONTAINED_SLOT);
        const_assert_eq!(offset_of!(Call, fpcr), CONTAINED_FPCR);
        // One instruction stores data and state, one the slot and what says that nobody has been asked.
        const_assert_eq!(CONTAINED_STATE, CONTAINED_DATA + 8);
        const_assert_eq!(CONTAINED_SLOT, CONTAINED_STATE + 8);
        const_assert_eq!(CONTAINED_ASKED, CONTAINED_SLOT + 8);
        static_assertions::const_assert!(CONTAINED_SIZE % 16 == 0);
    }
}
const_assert_eq!(size_of::<Call>(), CONTAINED_SIZE);

impl Call {
    /// Asks the filter. Returns what to tell the system, or `None` if the exception ends here.
    ///
    /// # Safety
    /// The call must be one that runs, and the exception that of its handler.
    pub(super) unsafe fn consider(
        call: *mut Self,
        exception: *mut ExceptionRecord,
        context: *mut c_void,
    ) -> Option<i32> {
        // SAFETY: by the caller's promise; a registration that contains has promised a filter.
        unsafe {
            if (*call).asked != 0 {
                return Some(CONTINUE_SEARCH);
            }
            (*call).asked = 1;
            let frame = (*call).outcome.frame.without_result();
            let disposition = ask((*call).data, exception, context, &raw mut (*call).outcome, frame);
            if disposition.is_some() {
                (*call).asked = 0;
            } else {
                #[cfg(target_arch = "x86_64")]
                super::ask::restore_alignment_check((*call).flags);
            }
            disposition
        }
    }
}
