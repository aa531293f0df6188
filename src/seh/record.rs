//! The chain of exception registration records: that of Windows on i686, whose head is at FS:0, and one like it on
//! 64-bit processors on systems other than Windows.
//!
//! On Windows the system walks it. Where there is no system (firmware, kernels, loaders that host Windows code), this
//! is what walks it: [`dispatch`] when an exception has come, [`unwind`] when a handler wants to continue in its own
//! frame.

use core::ffi::c_void;
use core::fmt;

use super::ask::{CONTINUE_EXECUTION, UNWINDING};
use super::policy::ExceptionRecord;
use super::{block, context_of, set_head};
use crate::context::Context;

/// An exception registration record (`EXCEPTION_REGISTRATION_RECORD`): part of a stack frame. Example: [`push`].
#[repr(C)]
#[derive(Debug)]
pub struct Record {
    /// The record of a frame further out, or [`CHAIN_END`].
    pub next: *mut Record,
    /// What is called for an exception of this frame or of those that it called.
    pub handler: Option<RecordHandler>,
}

/// A handler of the chain. Its result: 0 to continue execution, 1 to continue the search. Example: [`dispatch`].
///
/// The last argument is for the system's own use, and null here.
pub type RecordHandler = unsafe extern "C" fn(
    exception: *mut ExceptionRecord,
    record: *mut Record,
    context: *mut c_void,
    dispatcher: *mut c_void,
) -> i32;

/// What must be known of a thread to walk its chain: the beginning of Windows' thread information block (`NT_TIB`). On
/// i686 it is at FS:0; on 64-bit systems other than Windows, where the function that `declare` got says.
#[repr(C)]
#[derive(Debug)]
pub struct ThreadBlock {
    /// The first record of the chain, or [`CHAIN_END`].
    pub head: *mut Record,
    /// The address after the stack (`StackBase`).
    pub stack_base: usize,
    /// The stack's lowest address (`StackLimit`).
    pub stack_limit: usize,
}

/// Ends the chain.
pub const CHAIN_END: *mut Record = core::ptr::without_provenance_mut(!0);

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
/// ```standalone_crate
/// use calltable::seh::{self, ExceptionRecord, Record};
/// use core::ffi::c_void;
/// use core::ptr::null_mut;
/// # use calltable::seh::{CHAIN_END, ThreadBlock};
/// # use std::cell::UnsafeCell;
/// # thread_local!(static BLOCK: UnsafeCell<ThreadBlock> = const {
/// #     UnsafeCell::new(ThreadBlock { head: CHAIN_END, stack_base: 0, stack_limit: 0 })
/// # });
/// # unsafe extern "efiapi" fn block() -> *mut ThreadBlock { BLOCK.with(UnsafeCell::get) }
/// # let here = { let local = 0_u8; (&raw const local).addr() };
/// # unsafe { ((*block()).stack_limit, (*block()).stack_base) = (here - 0x10000, here + 0x1000) };
/// # #[cfg(target_pointer_width = "64")]
/// # unsafe { seh::declare(block)? };
/// # if cfg!(all(target_arch = "x86", not(windows))) { return Ok(()); } // FS does not lead to a block
///
/// unsafe extern "C" fn search_on(_: *mut ExceptionRecord, _: *mut Record, _: *mut c_void, _: *mut c_void) -> i32 {
///     1
/// }
///
/// let mut record = Record { next: null_mut(), handler: Some(search_on) };
/// let record = &raw mut record;
/// // SAFETY: the thread has a block; the record is in this frame, which takes it off.
/// unsafe { seh::push(record) };
/// // SAFETY: as above; nothing is taken off during the walk.
/// assert_eq!(unsafe { seh::chain() }.next(), Some(Ok(record)));
/// // SAFETY: it was put there above.
/// unsafe { seh::pop(record) };
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Safety
/// The thread must have a [`ThreadBlock`]. The record must lie in this thread's stack, in a frame that calls [`pop`]
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
/// ```standalone_crate
/// # use calltable::seh::{self, ExceptionRecord, Record};
/// # use core::ffi::c_void;
/// # use core::ptr::null_mut;
/// # use calltable::seh::{CHAIN_END, ThreadBlock};
/// # use std::cell::UnsafeCell;
/// # thread_local!(static BLOCK: UnsafeCell<ThreadBlock> = const {
/// #     UnsafeCell::new(ThreadBlock { head: CHAIN_END, stack_base: 0, stack_limit: 0 })
/// # });
/// # unsafe extern "efiapi" fn block() -> *mut ThreadBlock { BLOCK.with(UnsafeCell::get) }
/// # let here = { let local = 0_u8; (&raw const local).addr() };
/// # unsafe { ((*block()).stack_limit, (*block()).stack_base) = (here - 0x10000, here + 0x1000) };
/// # #[cfg(target_pointer_width = "64")]
/// # unsafe { seh::declare(block)? };
/// # if cfg!(all(target_arch = "x86", not(windows))) { return Ok(()); } // FS does not lead to a block
/// # unsafe extern "C" fn search_on(_: *mut ExceptionRecord, _: *mut Record, _: *mut c_void, _: *mut c_void) -> i32 {
/// #     1
/// # }
/// # let mut records = [(); 2].map(|()| Record { next: null_mut(), handler: Some(search_on) });
/// # let [inner, outer] = records.each_mut().map(|record| &raw mut *record);
/// # // SAFETY: the thread has a block.
/// # let before = unsafe { seh::chain() }.next();
/// // SAFETY: the thread has a block; the records are in this frame, which takes them off.
/// unsafe {
///     seh::push(outer);
///     seh::push(inner);
///     seh::pop(outer); // and the inner one with it
/// }
/// // SAFETY: as above.
/// assert_eq!(unsafe { seh::chain() }.next(), before);
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Safety
/// The record must have been put there by [`push`].
pub unsafe fn pop(record: *const Record) {
    // SAFETY: by the caller's promise.
    unsafe { set_head((*record).next) };
}

/// The records of one thread, innermost first; after an error nothing more comes. Example: [`chain`].
#[derive(Debug)]
pub struct Chain {
    next: *mut Record,
    /// The next record may not lie below this.
    lowest: usize,
    stack: core::ops::Range<usize>,
}

/// Walks this thread's chain with the checks of Windows: each record is aligned as a pointer is, lies in the thread's
/// stack and further out than the one before, and its handler does not lie in the stack.
///
/// ```standalone_crate
/// use calltable::{Callback, Options, seh};
/// # use calltable::seh::{CHAIN_END, ThreadBlock};
/// # use std::cell::UnsafeCell;
/// # thread_local!(static BLOCK: UnsafeCell<ThreadBlock> = const {
/// #     UnsafeCell::new(ThreadBlock { head: CHAIN_END, stack_base: 0, stack_limit: 0 })
/// # });
/// # unsafe extern "efiapi" fn block() -> *mut ThreadBlock { BLOCK.with(UnsafeCell::get) }
/// # let here = { let local = 0_u8; (&raw const local).addr() };
/// # unsafe { ((*block()).stack_limit, (*block()).stack_base) = (here - 0x10000, here + 0x1000) };
/// # #[cfg(target_pointer_width = "64")]
/// # unsafe { seh::declare(block)? };
/// # if cfg!(all(target_arch = "x86", not(windows))) { return Ok(()); } // FS does not lead to a block
/// use std::sync::Mutex;
///
/// let seen = Mutex::new(0);
/// // SAFETY: the thread has a block, and nothing is taken off during the walk.
/// let count = || *seen.lock().unwrap() = unsafe { seh::chain() }.map(|record| record.unwrap()).count();
/// let options = Options::new().tracked(); // such a call has a record in the chain
/// let callback = Callback::<unsafe extern "efiapi" fn()>::from_ref_with(options, &count)?;
/// // SAFETY: as above.
/// let before = unsafe { seh::chain() }.count();
/// // SAFETY: the callback lives.
/// unsafe { callback.code()() };
/// assert_eq!(*seen.lock().unwrap(), before + 1);
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Safety
/// The thread must have a [`ThreadBlock`] with the bounds of the stack that the records lie in; no record may be taken
/// off during the walk, other than the one that was given out last.
pub unsafe fn chain() -> Chain {
    // SAFETY: by the caller's promise.
    let ThreadBlock { head, stack_base, stack_limit } = unsafe { block() };
    Chain { next: head, lowest: stack_limit, stack: stack_limit..stack_base }
}

impl Iterator for Chain {
    type Item = Result<*mut Record, ChainError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.next;
        if record == CHAIN_END {
            return None;
        }
        self.next = CHAIN_END;
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

/// Flags of an exception: execution cannot continue (EXCEPTION_NONCONTINUABLE); the chain is not as it should be
/// (EXCEPTION_STACK_INVALID).
const NONCONTINUABLE: u32 = 1;
const STACK_INVALID: u32 = 8;

/// Asks the handlers of this thread's chain about an exception, as Windows does. Returns whether one of them wants
/// execution to continue where `context` says.
///
/// If a handler continues in its own frame, this does not return: the handler calls [`unwind`] and leaves. A contained
/// callback whose filter ends the exception does so.
///
/// ```standalone_crate
/// use calltable::seh::{self, ExceptionRecord, Record};
/// use core::ffi::c_void;
/// use core::ptr::null_mut;
/// # use calltable::seh::{CHAIN_END, ThreadBlock};
/// # use std::cell::UnsafeCell;
/// # thread_local!(static BLOCK: UnsafeCell<ThreadBlock> = const {
/// #     UnsafeCell::new(ThreadBlock { head: CHAIN_END, stack_base: 0, stack_limit: 0 })
/// # });
/// # unsafe extern "efiapi" fn block() -> *mut ThreadBlock { BLOCK.with(UnsafeCell::get) }
/// # let here = { let local = 0_u8; (&raw const local).addr() };
/// # unsafe { ((*block()).stack_limit, (*block()).stack_base) = (here - 0x10000, here + 0x1000) };
/// # #[cfg(target_pointer_width = "64")]
/// # unsafe { seh::declare(block)? };
/// # if cfg!(all(target_arch = "x86", not(windows))) { return Ok(()); } // FS does not lead to a block
///
/// /// Stands for one that removes the cause of a division by zero.
/// unsafe extern "C" fn fix(
///     exception: *mut ExceptionRecord,
///     _record: *mut Record,
///     _context: *mut c_void,
///     _dispatcher: *mut c_void,
/// ) -> i32 {
///     // SAFETY: a handler gets an exception that it may read.
///     if unsafe { (*exception).code } == seh::INTEGER_DIVISION_BY_ZERO { 0 } else { 1 }
/// }
///
/// let mut record = Record { next: null_mut(), handler: Some(fix) };
/// let record = &raw mut record;
/// let mut exception = ExceptionRecord {
///     code: seh::INTEGER_DIVISION_BY_ZERO,
///     flags: 0,
///     nested: null_mut(),
///     address: null_mut(), // of the instruction
///     parameter_count: 0,
///     parameters: [0; 15],
/// };
/// // SAFETY: the thread has a block, and the exception is its own; the record is in this frame, which takes it off.
/// let continues = unsafe {
///     seh::push(record);
///     let continues = seh::dispatch(&mut exception, null_mut()); // a trap handler passes its frame
///     seh::pop(record);
///     continues
/// };
/// assert_eq!(continues, Ok(true));
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Errors
/// The first record that Windows would not accept; those before it have been asked, and those after it have not.
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
/// chain. `target` is then the first one. A target of [`CHAIN_END`] unwinds all.
///
/// It stops at a record that Windows would not accept, which is then the first one.
///
/// ```standalone_crate
/// # use calltable::seh::{self, ExceptionRecord, Record};
/// # use core::ffi::c_void;
/// # use core::ptr::null_mut;
/// # use calltable::seh::{CHAIN_END, ThreadBlock};
/// # use std::cell::UnsafeCell;
/// # thread_local!(static BLOCK: UnsafeCell<ThreadBlock> = const {
/// #     UnsafeCell::new(ThreadBlock { head: CHAIN_END, stack_base: 0, stack_limit: 0 })
/// # });
/// # unsafe extern "efiapi" fn block() -> *mut ThreadBlock { BLOCK.with(UnsafeCell::get) }
/// # let here = { let local = 0_u8; (&raw const local).addr() };
/// # unsafe { ((*block()).stack_limit, (*block()).stack_base) = (here - 0x10000, here + 0x1000) };
/// # #[cfg(target_pointer_width = "64")]
/// # unsafe { seh::declare(block)? };
/// # if cfg!(all(target_arch = "x86", not(windows))) { return Ok(()); } // FS does not lead to a block
/// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
///
/// static LEFT: AtomicU32 = AtomicU32::new(0);
///
/// unsafe extern "C" fn leave(_: *mut ExceptionRecord, _: *mut Record, _: *mut c_void, _: *mut c_void) -> i32 {
///     LEFT.fetch_add(1, Relaxed); // here a frame gives back what it holds
///     1
/// }
/// # let mut records = [(); 2].map(|()| Record { next: null_mut(), handler: Some(leave) });
/// # let [inner, outer] = records.each_mut().map(|record| &raw mut *record);
/// # let (address, nested) = (null_mut(), null_mut());
/// # let mut exception =
/// #     ExceptionRecord { code: 0xE000_0001, flags: 0, nested, address, parameter_count: 0, parameters: [0; 15] };
///
/// // SAFETY: the thread has a block; the records are in this frame, which takes them off.
/// unsafe {
///     seh::push(outer);
///     seh::push(inner);
///     seh::unwind(outer, &mut exception);
/// }
/// assert_eq!(LEFT.load(Relaxed), 1); // the inner one
/// // SAFETY: as above.
/// assert_eq!(unsafe { seh::chain() }.next(), Some(Ok(outer)));
/// # unsafe { seh::pop(outer) };
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Safety
/// As for [`dispatch`]. `target` must be in the chain, and the caller must be about to leave all frames before its.
pub unsafe fn unwind(target: *mut Record, exception: *mut ExceptionRecord) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*exception).flags |= if target == CHAIN_END { UNWINDING } else { UNWINDING_TO_FRAME };
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
/// The first such record of the [`chain`] belongs to the innermost call that has one; on 64-bit systems those are the
/// contained and the counted ones. A call that is both has two.
///
/// ```standalone_crate
/// use calltable::{Callback, Options, seh};
/// # use calltable::seh::{CHAIN_END, ThreadBlock};
/// # use std::cell::UnsafeCell;
/// # thread_local!(static BLOCK: UnsafeCell<ThreadBlock> = const {
/// #     UnsafeCell::new(ThreadBlock { head: CHAIN_END, stack_base: 0, stack_limit: 0 })
/// # });
/// # unsafe extern "efiapi" fn block() -> *mut ThreadBlock { BLOCK.with(UnsafeCell::get) }
/// # let here = { let local = 0_u8; (&raw const local).addr() };
/// # unsafe { ((*block()).stack_limit, (*block()).stack_base) = (here - 0x10000, here + 0x1000) };
/// # #[cfg(target_pointer_width = "64")]
/// # unsafe { seh::declare(block)? };
/// # if cfg!(all(target_arch = "x86", not(windows))) { return Ok(()); } // FS does not lead to a block
/// use std::sync::Mutex;
///
/// let innermost = Mutex::new(None);
/// let look = || {
///     // SAFETY: the thread has a block, and nothing is taken off meanwhile.
///     *innermost.lock().unwrap() = unsafe { seh::chain().find_map(|record| seh::slot_of(record.unwrap())) };
/// };
/// let options = Options::new().tracked(); // such a call has a record in the chain
/// let callback = Callback::<unsafe extern "efiapi" fn()>::from_ref_with(options, &look)?;
/// // SAFETY: the callback lives.
/// unsafe { callback.code()() };
/// assert_eq!(*innermost.lock().unwrap(), Some(callback.slot().index()));
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Safety
/// The record must be one that [`chain`] has given out, and still be in the chain.
#[must_use]
pub unsafe fn slot_of(record: *const Record) -> Option<usize> {
    // SAFETY: by the caller's promise.
    unsafe { context_of(record) }.map(crate::context::index_of)
}

/// Whether a counted call of the context is in this thread's chain. Where none is declared, nobody knows.
pub(crate) fn counts_here(context: *const Context) -> bool {
    // SAFETY: whoever has declared the chain has promised that it may be walked wherever a thread releases; on Windows
    // the system has.
    super::is_available() && unsafe { chain().map_while(Result::ok).any(|record| super::counts(record, context)) }
}

/// The one of the two flags in [`UNWINDING`] that says that a frame will continue (EXCEPTION_UNWINDING).
const UNWINDING_TO_FRAME: u32 = 2;

/// # Safety
/// The record must be one of the chain, with a handler.
unsafe fn call(record: *mut Record, exception: *mut ExceptionRecord, context: *mut c_void) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe { (*record).handler.map_or(1, |handler| handler(exception, record, context, core::ptr::null_mut())) }
}
