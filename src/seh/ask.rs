//! Asks the filter of a contained call, in the words of the system's handlers.

use core::ffi::c_void;

use super::policy::{Answer, Exception, ExceptionFilter, ExceptionRecord};
use crate::context::layout::ANSWER_ROOM_SIZE;
use crate::frame::RawFrame;

/// What a handler of the system's answers (`EXCEPTION_DISPOSITION`).
pub(super) const CONTINUE_EXECUTION: i32 = 0;
pub(super) const CONTINUE_SEARCH: i32 = 1;

/// Flags of a record: frames are being unwound (EXCEPTION_UNWINDING, EXCEPTION_EXIT_UNWIND).
pub(super) const UNWINDING: u32 = 2 | 4;

/// Asks the filter at the start of the data. Returns what to tell the system, or `None` if the exception ends here.
///
/// # Safety
/// The pointers must be those of one exception in a contained call; `frame` must be that of the call.
pub(super) unsafe fn ask(
    data: *mut c_void,
    record: *mut ExceptionRecord,
    context: *mut c_void,
    answer: *mut Answer,
    frame: RawFrame,
) -> Option<i32> {
    // SAFETY: the registration promised a filter at the start of its data; the others are as the filter expects.
    let verdict = unsafe {
        answer.write(Answer { frame, handler: core::ptr::null(), room: [0; ANSWER_ROOM_SIZE] });
        let filter = data.cast::<ExceptionFilter>().read();
        filter(data, &Exception { record, context }, answer)
    };
    match verdict.0 {
        0 => Some(CONTINUE_SEARCH),
        ..0 => Some(CONTINUE_EXECUTION),
        1.. => None,
    }
}
