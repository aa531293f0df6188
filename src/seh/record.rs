//! The chain of exception registration records: that of Windows on i686, whose head is at FS:0, and one like it on x86_64
//! outside of Windows.
//!
//! On Windows the system walks it. Where there is no system (firmware, kernels, loaders that host Windows code), this is
//! what walks it: [`dispatch`] when an exception has come, [`unwind`] when a handler wants to go on in its own frame.

use core::ffi::c_void;
use core::fmt;

use super::ask::{CONTINUE_EXECUTION, UNWINDING};
use super::policy::ExceptionRecord;
use super::{block, context_of, set_head};

/// An exception registration record (`EXCEPTION_REGISTRATION_RECORD`): part of a stack frame.
#[repr(C)]
#[derive(Debug)]
pub struct Record {
    /// The record of a frame further out, or [`END`].
    pub next: *mut Record,
    /// What is called for an exception of this frame or of those that it called.
    pub handler: Option<RecordHandler>,
}

/// A handler of the chain. Its result: 0 to continue execution, 1 to continue the search.
///
/// The dispatcher's context, its last argument, is the system's own affair.
pub type RecordHandler = unsafe extern "C" fn(
    exception: *mut ExceptionRecord,
    record: *mut Record,
    context: *mut c_void,
    dispatcher: *mut c_void,
) -> i32;

/// What must be known of a thread whose exceptions are asked about: the beginning of Windows' thread information block
/// (`NT_TIB`). On i686 it is at FS:0, on x86_64 outside of Windows where `declare` has been told.
#[repr(C)]
#[derive(Debug)]
pub struct Block {
    /// The first record of the chain, or [`END`].
    pub head: *mut Record,
    /// The address behind the stack (`StackBase`).
    pub stack_base: usize,
    /// The stack's lowest address (`StackLimit`).
    pub stack_limit: usize,
}

/// Ends the chain.
pub const END: *mut Record = core::ptr::without_provenance_mut(!0);

/// A record that Windows would not accept, and the first check that it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChainError {
    /// It is not aligned as a pointer is.
    Unaligned(*const Record),
    /// It does not lie in the thread's stack.
    OutsideStack(*const Record),
    /// It lies deeper in the stack than the record before it.
    NotAscending(*const Record),
    /// Its handler lies in the thread's stack, or there is none.
    BadHandler(*const Record),
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (record, what) = match self {
            Self::Unaligned(record) => (record, "is not aligned as a pointer is"),
            Self::OutsideStack(record) => (record, "lies outside of the thread's stack"),
            Self::NotAscending(record) => (record, "lies deeper in the stack than the one before it"),
            Self::BadHandler(record) => (record, "has a handler in the stack, or none"),
        };
        write!(f, "the exception registration record at {record:p} {what}: a frame has left without taking it off")
    }
}

impl core::error::Error for ChainError {}

/// Puts a record first in this thread's chain, and sets its `next`.
///
/// # Safety
/// The thread must have a [`Block`]. The record must lie in this thread's stack, in a frame that calls [`pop`]
/// before it returns, and must not move meanwhile.
pub unsafe fn push(record: *mut Record) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*record).next = block().head;
        set_head(record);
    }
}

/// Takes a record off this thread's chain, and all that stand before it.
///
/// # Safety
/// The record must have been put there by [`push`].
pub unsafe fn pop(record: *const Record) {
    // SAFETY: by the caller's promise.
    unsafe { set_head((*record).next) };
}

/// The records of one thread, innermost first; after an error nothing more comes.
#[derive(Debug)]
pub struct Chain {
    next: *mut Record,
    /// The next record may not lie below this.
    lowest: usize,
    stack: core::ops::Range<usize>,
}

/// Walks this thread's chain with the checks of Windows: each record is aligned as a pointer is, lies in the thread's stack
/// and further out than the one before, and its handler does not lie in the stack.
///
/// # Safety
/// The thread must have a [`Block`] with the bounds of the stack that the records lie in, and no record may be taken off
/// during the walk, other than the one that was given out last.
pub unsafe fn chain() -> Chain {
    // SAFETY: by the caller's promise.
    let Block { head, stack_base, stack_limit } = unsafe { block() };
    Chain { next: head, lowest: stack_limit, stack: stack_limit..stack_base }
}

impl Iterator for Chain {
    type Item = Result<*mut Record, ChainError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.next;
        if record == END {
            return None;
        }
        self.next = END;
        let place = record.addr();
        Some(if place % align_of::<Record>() != 0 {
            Err(ChainError::Unaligned(record))
        } else if place < self.stack.start || place > self.stack.end.saturating_sub(size_of::<Record>()) {
            Err(ChainError::OutsideStack(record))
        } else if place < self.lowest {
            Err(ChainError::NotAscending(record))
        } else {
            // SAFETY: it lies in the stack, and by the promise of `chain` it is a record.
            let Record { next, handler } = unsafe { record.read() };
            if handler.is_none_or(|handler| self.stack.contains(&(handler as usize))) {
                Err(ChainError::BadHandler(record))
            } else {
                self.lowest = place + size_of::<Record>();
                self.next = next;
                Ok(record)
            }
        })
    }
}

/// Flags of an exception: execution cannot go on (EXCEPTION_NONCONTINUABLE); the chain is not as it should be
/// (EXCEPTION_STACK_INVALID).
const NONCONTINUABLE: u32 = 1;
const STACK_INVALID: u32 = 8;

/// Asks the handlers of this thread's chain about an exception, as Windows does. Returns whether one of them wants
/// execution to go on where `context` says.
///
/// A handler that goes on in its own frame does not return from here: it calls [`unwind`] and leaves.
///
/// # Errors
/// The first record that Windows would not accept; those before it have been asked, and those behind it have not.
///
/// # Safety
/// As for [`chain`]. The exception must be this thread's, and `context` what the chain's handlers expect.
pub unsafe fn dispatch(exception: *mut ExceptionRecord, context: *mut c_void) -> Result<bool, ChainError> {
    // SAFETY: by the caller's promise.
    unsafe {
        for record in chain() {
            let record = record.inspect_err(|_| (*exception).flags |= STACK_INVALID)?;
            let disposition = call(record, exception, context);
            if disposition == CONTINUE_EXECUTION && (*exception).flags & NONCONTINUABLE == 0 {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Calls every handler before `target` a last time, with the flag that says so, and takes its record off this thread's
/// chain. `target` is then the first one. A target of [`END`] unwinds all.
///
/// It stops at a record that Windows would not accept, which is then the first one.
///
/// # Safety
/// As for [`dispatch`]. `target` must be in the chain, and the caller must be about to leave all frames before its.
pub unsafe fn unwind(target: *mut Record, exception: *mut ExceptionRecord) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*exception).flags |= if target == END { UNWINDING } else { UNWINDING_TO_FRAME };
        for record in chain() {
            let Ok(record) = record else { return };
            if record == target {
                return;
            }
            call(record, exception, core::ptr::null_mut());
            set_head((*record).next);
        }
    }
}

/// The slot whose call has put a record in the chain; `None` for records that are not a dispatcher's.
///
/// The first such record of the [`chain`] belongs to the innermost call; on x86_64 to the innermost of those that are
/// contained or counted. A call that is both has two.
///
/// # Safety
/// The record must be one that [`chain`] has given out, and still be in the chain.
#[must_use]
pub unsafe fn slot_of(record: *const Record) -> Option<usize> {
    // SAFETY: by the caller's promise.
    unsafe { context_of(record) }.map(crate::context::index_of)
}

/// The one of the two flags in [`UNWINDING`] that says that a frame will go on (EXCEPTION_UNWINDING).
const UNWINDING_TO_FRAME: u32 = 2;

/// # Safety
/// The record must be one of the chain, with a handler.
unsafe fn call(record: *mut Record, exception: *mut ExceptionRecord, context: *mut c_void) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe { (*record).handler.map_or(1, |handler| handler(exception, record, context, core::ptr::null_mut())) }
}
