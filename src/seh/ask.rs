//! Asks the filter of a contained call, in the words of the system's handlers.

use core::ffi::c_void;

use super::policy::{Exception, ExceptionFilter, ExceptionRecord, Outcome};
use crate::frame::RawFrame;
use crate::layout::OUTCOME_ROOM_SIZE;

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
    outcome: *mut Outcome,
    frame: RawFrame,
) -> Option<i32> {
    // SAFETY: the registration promised a filter at the start of its data; the others are as the filter expects.
    let verdict = unsafe {
        outcome.write(Outcome { frame, handler: core::ptr::null(), room: [0; OUTCOME_ROOM_SIZE] });
        let filter = data.cast::<ExceptionFilter>().read();
        filter(data, &Exception { record, context }, outcome)
    };
    match verdict.0 {
        0 => Some(CONTINUE_SEARCH),
        ..0 => Some(CONTINUE_EXECUTION),
        1.. => None,
    }
}

/// x86: sets the flag AC as it was when the foreign code called; the fault may have come while the handler had set it,
/// and then memory of user mode would stay open to the kernel (SMAP), or accesses that are not aligned would fault.
///
/// # Safety
/// To be called when the handler that has set the flag does not run any more.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
pub(super) unsafe fn restore_alignment_check(flags: u32) {
    const AC: usize = 1 << 18;
    let wanted = flags as usize & AC;
    macro_rules! set {
        ($push:literal, $word:literal, $pop:literal) => {
            core::arch::asm!(
                $push,
                concat!("and ", $word, ", {others}"),
                concat!("or ", $word, ", {wanted}"),
                $pop,
                others = const !(AC as isize),
                wanted = in(reg) wanted,
            )
        };
    }
    // SAFETY: by the caller's promise; no other flag changes.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        set!("pushfq", "qword ptr [rsp]", "popfq");
        #[cfg(target_arch = "x86")]
        set!("pushfd", "dword ptr [esp]", "popfd");
    }
}
