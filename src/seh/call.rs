//! x86_64: the frame of a call whose exceptions may end here.

use core::ffi::c_void;
use core::mem::offset_of;

use static_assertions::const_assert_eq;

use super::ask::{CONTINUE_SEARCH, ask, restore_alignment_check};
use super::policy::{ExceptionRecord, Outcome};
use crate::frame::RawFrame;
use crate::layout::*;

/// What `calltable_contain` lays down first.
#[repr(C)]
pub(super) struct Call {
    outcome: Outcome,
    data: *mut c_void,
    state: usize,
    mxcsr: u32,
    x87: u16,
    /// Whether the filter is deciding or has ended an exception: then those that come are not its own.
    asked: u16,
    flags: u32,
}

const_assert_eq!(offset_of!(Call, data), CONTAINED_DATA);
const_assert_eq!(offset_of!(Call, state), CONTAINED_STATE);
const_assert_eq!(offset_of!(Call, mxcsr), CONTAINED_MXCSR);
const_assert_eq!(offset_of!(Call, x87), CONTAINED_X87);
const_assert_eq!(offset_of!(Call, asked), CONTAINED_ASKED);
const_assert_eq!(offset_of!(Call, flags), CONTAINED_FLAGS);
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
            let RawFrame { arguments, floats, .. } = (*call).outcome.frame;
            let frame = RawFrame { result: [0; 2], arguments, floats };
            let disposition = ask((*call).data, exception, context, &raw mut (*call).outcome, frame);
            match disposition {
                Some(_) => (*call).asked = 0,
                None => restore_alignment_check((*call).flags),
            }
            disposition
        }
    }
}
