//! Structured exception handling (SEH) of Windows: what happens when a handler raises an exception or faults.
//!
//! By default an exception passes through table and dispatchers as if they were not there: debuggers, vectored handlers
//! and `__except` blocks of foreign callers see it, and a tracked call is no longer counted. A registration may ask for
//! more: with [`Binding::contained`](crate::table::Binding::contained), or typed with
//! [`Contained`](crate::Contained), an embedder's filter sees the exception and may end it: then the stack is unwound
//! to the dispatcher and the callback returns what the filter says.
//!
//! # What an ended exception leaves behind
//! - The foreign caller gets every register that its convention preserves, DF clear, AC as it was, the x87 stack empty
//!   and both floating-point control words as they were; on AArch64 FPCR, while the flags of FPSR, which are nobody's
//!   by the convention, stay as the fault left them.
//! - Frames between the fault and the dispatcher go away as by `longjmp`. No value in a Rust frame is dropped, and
//!   nothing is unlocked, so a handler must hold nothing at that moment that has to be (this is what Rust calls a plain
//!   old frame); `__finally` blocks and, for their own exceptions, destructors of C++ do run. That is why
//!   `from_contained` is unsafe: a stack overflow in the comparison that `sort_by` calls leaves a vector that owns a
//!   value twice; one within `thread::scope` leaves threads that write to a frame which is gone; one under a lock
//!   leaves it locked.
//! - A C++ exception of GCC or Clang for Windows ([`GCC_THROW`]) is destroyed, as by `catch (...)`, but
//!   `std::uncaught_exceptions` continues to count it. If it meets a Rust function that is not `extern "..-unwind"` on
//!   its way, Rust aborts. Those of Microsoft's compilers are not destroyed.
//! - A panic of Rust passes only where a function pointer's ABI ends in `-unwind`. On Windows it comes to the filter as
//!   an exception of C++ then, and must pass: with GNU targets Rust aborts where one is ended, and with MSVC the thread
//!   is taken for panicking ever after. Elsewhere no filter is asked.
//! - After a [`STACK_OVERFLOW`] the thread's guard page is gone until the program calls `_resetstkoflw` of its C
//!   library; another overflow before that ends the process. The filter runs on what is left of the stack, about a page
//!   or two unless the program has called `SetThreadStackGuarantee`: it should decide, and do its work later.
//!
//! # Without Windows
//! In a kernel, in firmware or in a host of Windows code nobody hands out exceptions, so it is the embedder who does,
//! in these steps:
//!
//! 1. It gives each thread a `ThreadBlock`: where the chain of that thread's calls begins, and where its stack lies.
//!    `declare` says how the block is found: on i686 FS leads to it, elsewhere a function returns its address. A
//!    scheduler switches the block with the thread.
//! 2. From then on calls put a record first in the chain while their handler runs (contained and
//!    counted ones; on i686 those of the frame lane, too, saving ones, and whoever
//!    [asks for it](crate::table::Binding::framed)), and contained registrations are accepted.
//! 3. When the processor reports a fault, the trap handler (on Linux a signal handler) fills in an [`ExceptionRecord`]
//!    and calls `dispatch` with it and with whatever describes the interrupted state, which filters get as
//!    [`Exception::context`].
//! 4. `dispatch` asks the filters from the innermost call outwards. It returns `Ok(true)` if one has removed the cause
//!    ([`Verdict::CONTINUE`]): the trap handler returns to the state that it was called with, as the filter has left
//!    it. It returns `Ok(false)` if nobody wants the exception: it is the embedder's own. If a filter ends it,
//!    `dispatch` does not return: counted calls further in are no longer counted, their records are taken off, and
//!    the stack pointer goes back to the call that returns the value.
//!
//! What the embedder must know of that last way: the trap handler's frames are dropped like those of the handler, on
//! whatever stack they are. What the processor or the system changed when it reported the fault stays as it is: the
//! trap handler sets the interrupt flag back first if the gate has cleared it, and a signal handler is installed with
//! `SA_NODEFER` or unblocks its signal. Its privilege must be that of the code that faulted, and so must its shadow
//! stack, if there is one: the words on it that belong to dropped frames are dropped, too. A non-maskable interrupt or
//! a machine check should not end in a filter.
//!
//! On AArch64 `dispatch` leaves PSTATE alone, too: the trap handler sets DAIF back first, and PAN, where the handler
//! had opened memory of user mode, and selects the stack pointer (SPSel) that the code which faulted has used. The
//! shadow stack is the guarded control stack of user mode: it follows where CHKFEAT says that there is one; a kernel's
//! own is not known. [`Exception::context`] is what the trap handler passes: with signals a `ucontext_t`, which has X0
//! to X30, SP, PC and PSTATE. A division by zero raises nothing there; compilers for Windows have `brk #0xf004` in its
//! place.
//!
//! ```no_run
//! # #[cfg(all(not(windows), target_pointer_width = "64"))]
//! # mod kernel {
//! use calltable::seh::{self, ThreadBlock, CHAIN_END, ExceptionRecord};
//! use std::cell::UnsafeCell;
//! use std::ffi::c_void;
//!
//! thread_local! {
//!     // The bounds of the stack are filled in when the thread starts.
//!     static BLOCK: UnsafeCell<ThreadBlock> =
//!         const { UnsafeCell::new(ThreadBlock { head: CHAIN_END, stack_base: 0, stack_limit: 0 }) };
//! }
//!
//! unsafe extern "efiapi" fn block() -> *mut ThreadBlock {
//!     BLOCK.with(UnsafeCell::get)
//! }
//!
//! pub fn start() -> Result<(), calltable::Error> {
//!     // SAFETY: each thread has a block of its own, whose address does not change.
//!     unsafe { seh::declare(block) }
//! }
//!
//! /// Returns whether what has faulted is to continue.
//! pub unsafe fn trap(code: u32, address: *mut c_void, frame: *mut c_void) -> bool {
//!     let mut record = ExceptionRecord {
//!         code,
//!         flags: 0,
//!         nested: std::ptr::null_mut(),
//!         address,
//!         parameter_count: 0,
//!         parameters: [0; 15],
//!     };
//!     // SAFETY: the exception is this thread's.
//!     unsafe { seh::dispatch(&mut record, frame) }.unwrap_or(false)
//! }
//! # }
//! ```
//!
//! Sources: "Structured Exception Handling" and "x64 exception handling", Microsoft; `_Unwind_Exception`, Itanium C++
//! ABI.

mod ask;
mod policy;
#[cfg(dwarf_unwinder)]
mod unwound;

pub use policy::{Exception, ExceptionFilter, ExceptionRecord, Outcome, Verdict};

cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86")] {
        #[cfg(all(windows, target_env = "gnu"))]
        mod dwarf;
        #[cfg(all(windows, target_env = "gnu"))]
        mod gcc;
        mod record;
        mod x86;
        #[cfg(not(windows))]
        pub use x86::declare;
        #[cfg(dwarf_unwinder)]
        use x86::ended;
        use x86::{block, context_of, counts, set_head};
        pub(crate) use x86::{is_available, unwinder};
    } else if #[cfg(all(windows, target_pointer_width = "64"))] {
        mod call;
        mod gcc;
        mod windows;
        pub(crate) use windows::{counts_here, is_available, unwinder};
    } else if #[cfg(target_pointer_width = "64")] {
        mod call;
        mod linked;
        mod record;
        #[cfg(dwarf_unwinder)]
        use linked::ended;
        use linked::{block, context_of, counts, set_head};
        pub use linked::{FindBlock, declare};
        pub(crate) use linked::{is_available, unwinder};
    }
}

#[cfg(any(not(windows), target_arch = "x86"))]
pub(crate) use record::counts_here;
#[cfg(any(not(windows), target_arch = "x86"))]
pub use record::{
    CHAIN_END, Chain, ChainError, Record, RecordHandler, ThreadBlock, chain, dispatch, pop, push, slot_of, unwind,
};

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
