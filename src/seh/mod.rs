//! Structured exception handling (SEH) of Windows: what happens when a handler raises an exception or faults.
//!
//! By default an exception passes through table and dispatchers as if they were not there: debuggers, vectored
//! handlers and `__except` blocks of foreign callers see it, and a tracked call is no longer counted. A registration may ask for
//! more: with [`Registration::contained`](crate::table::Registration::contained), or typed with
//! [`Contained`](crate::Contained), an embedder's filter sees the exception and may end it: then the stack is unwound
//! to the dispatcher and the callback returns what the filter says.
//!
//! # What an ended exception leaves behind
//! - The foreign caller gets every register that its convention preserves, DF clear, the x87 stack empty and both
//!   floating-point control words as they were.
//! - Frames between the fault and the dispatcher are dropped as by `longjmp`. Of Rust frames nothing is dropped or
//!   unlocked, so a handler must hold nothing at that moment that has to be (this is what Rust calls a plain old frame);
//!   `__finally` blocks and, for their own exceptions, destructors of C++ do run.
//! - A C++ exception of GCC or Clang for Windows ([`GCC_THROW`]) is destroyed, as by `catch (...)`, but
//!   `std::uncaught_exceptions` goes on counting it. If it meets a Rust function that is not `extern "..-unwind"` on its
//!   way, Rust aborts. Those of Microsoft's compilers are not destroyed.
//! - After a [`STACK_OVERFLOW`] the thread's guard page is gone until the program calls `_resetstkoflw` of its C library;
//!   another overflow before that ends the process. The filter runs on what is left of the stack, about a page or two
//!   unless the program has called `SetThreadStackGuarantee`: it should decide, and do its work later.
//!
//! Sources: "Structured Exception Handling" and "x64 exception handling", Microsoft; `_Unwind_Exception`, Itanium C++ ABI.

mod policy;

pub use policy::{Answer, Exception, ExceptionFilter, ExceptionRecord, Verdict};

cfg_if::cfg_if! {
    if #[cfg(all(windows, target_arch = "x86_64"))] {
        mod ask;
        mod gcc;
        mod x86_64;
        pub(crate) use x86_64::{is_available, prepare};
    } else if #[cfg(target_arch = "x86")] {
        mod ask;
        #[cfg(all(windows, target_env = "gnu"))]
        mod dwarf;
        #[cfg(all(windows, target_env = "gnu"))]
        mod gcc;
        mod record;
        mod x86;
        #[cfg(not(windows))]
        pub use x86::declare;
        pub use record::{Chain, ChainError, END, Record, RecordHandler, chain, dispatch, pop, push, unwind};
        pub(crate) use x86::{is_available, prepare};
    } else {
        /// To be called before the first contained registration.
        pub(crate) fn prepare() {}

        /// Whether exceptions can be contained.
        pub(crate) fn is_available() -> bool {
            false
        }
    }
}

/// Exception code: memory that may not be read, written or executed.
pub const ACCESS_VIOLATION: u32 = 0xC000_0005;
/// Exception code: an instruction that the processor does not know, such as a trap.
pub const ILLEGAL_INSTRUCTION: u32 = 0xC000_001D;
/// Exception code: an integer divided by zero.
pub const INTEGER_DIVISION_BY_ZERO: u32 = 0xC000_0094;
/// Exception code: a quotient that its register cannot hold.
pub const INTEGER_OVERFLOW: u32 = 0xC000_0095;
/// Exception code: the thread's stack is used up.
pub const STACK_OVERFLOW: u32 = 0xC000_00FD;
/// Exception code: a C++ exception of GCC or Clang for Windows; the first parameter is its `_Unwind_Exception`.
pub const GCC_THROW: u32 = 0x2047_4343;
