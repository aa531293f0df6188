//! What an embedder's filter sees of an exception, and what it may say.

use core::ffi::c_void;
use core::mem::offset_of;

use static_assertions::const_assert_eq;

use crate::context::layout::*;
use crate::frame::RawFrame;

/// One exception, as Windows hands it to handlers (`EXCEPTION_RECORD`).
#[repr(C)]
#[derive(Debug)]
pub struct ExceptionRecord {
    /// What happened, such as [`ACCESS_VIOLATION`](super::ACCESS_VIOLATION).
    pub code: u32,
    /// Bit 0: execution cannot go on; bits 1 to 6: of an unwinding under way.
    pub flags: u32,
    /// An exception that was being handled when this one came.
    pub nested: *mut ExceptionRecord,
    /// Where it happened.
    pub address: *mut c_void,
    /// Number of `parameters` that are set, at most 15.
    pub parameter_count: u32,
    /// What they mean depends on the code.
    pub parameters: [usize; 15],
}

/// An exception and the processor's state when it happened (`EXCEPTION_POINTERS`).
#[repr(C)]
#[derive(Debug)]
pub struct Exception {
    pub(super) record: *mut ExceptionRecord,
    pub(super) context: *mut c_void,
}

impl Exception {
    /// What happened, such as [`ACCESS_VIOLATION`](super::ACCESS_VIOLATION).
    #[must_use]
    pub fn code(&self) -> u32 {
        self.record().code
    }

    /// Where.
    #[must_use]
    pub fn address(&self) -> *const c_void {
        self.record().address
    }

    /// The exception's parameters: for an access violation 0 (read), 1 (write) or 8 (execute), and the address; for
    /// `RaiseException` what was passed.
    #[must_use]
    pub fn parameters(&self) -> &[usize] {
        let record = self.record();
        record.parameters.get(..record.parameter_count as usize).unwrap_or(&record.parameters)
    }

    /// All that is known of it.
    #[must_use]
    pub fn record(&self) -> &ExceptionRecord {
        // SAFETY: whoever makes an `Exception` has it from the system, and lends it out for no longer than it lives.
        unsafe { &*self.record }
    }

    /// The processor's state, a `CONTEXT` of Windows: what a debugger or `MiniDumpWriteDump` wants. Null for
    /// [`GCC_THROW`](super::GCC_THROW) on i686, which is no exception of the system.
    #[must_use]
    pub fn context(&self) -> *mut c_void {
        self.context
    }
}

/// What a filter says of an exception; the numbers are those of `__except`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict(pub i32);

impl Verdict {
    /// Not ours: other handlers are asked, as if the dispatcher were not there.
    pub const SEARCH_ON: Self = Self(0);
    /// The exception ends here: the callback returns what the [`Answer`] says. So do all positive numbers.
    pub const RETURN: Self = Self(1);
    /// The filter has mended what was wrong: the handler goes on where the exception stopped it, or where the filter has
    /// made its context point to. So do all negative numbers.
    pub const CONTINUE: Self = Self(-1);
}

/// The call that an exception interrupted, and what it is to return.
#[repr(C)]
#[derive(Debug)]
pub struct Answer {
    /// The call's arguments as the foreign code passed them; and what it returns, if `handler` is null: on x86_64 in RAX
    /// and XMM0, on i686 in EDX:EAX, or in ST0 if the registration has a signature with such a result.
    pub frame: RawFrame,
    /// Null, or a handler of the registration's own kind (lane, convention, signature). It is called after the stack has
    /// been unwound, with the arguments and with the address of `room` as its data, and makes the result: one that needs
    /// a hidden pointer, for example.
    pub handler: *const c_void,
    /// Whatever the filter wants to tell `handler`.
    pub room: [u8; ANSWER_ROOM_SIZE],
}

const_assert_eq!(offset_of!(Answer, handler), ANSWER_HANDLER);
const_assert_eq!(offset_of!(Answer, room), ANSWER_ROOM);

/// Decides on an exception of a handler. It runs while the handler's frames are still there, on the same stack, and gets
/// the registration's data. An exception of its own goes to the other handlers.
///
/// `efiapi` is win64 on x86_64 and cdecl on i686.
pub type ExceptionFilter =
    unsafe extern "efiapi" fn(data: *mut c_void, exception: *const Exception, answer: *mut Answer) -> Verdict;
