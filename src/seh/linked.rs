//! 64-bit processors on systems other than Windows: contained and counted calls are in a chain, in which the embedder's
//! trap handler asks.

use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::null_mut;
use core::sync::atomic::{Ordering, compiler_fence};

use static_assertions::{const_assert, const_assert_eq};

use super::ask::{CONTINUE_SEARCH, UNWINDING};
use super::call::Call;
use super::policy::ExceptionRecord;
use super::record::{CHAIN_END, Record, RecordHandler, ThreadBlock, unwind};
use crate::context::{Context, contexts};
use crate::error::Error;
use crate::layout::*;
use crate::registry;

/// Gives the block of the thread that calls it, or null where there is none. Example: [`declare`].
pub type FindBlock = unsafe extern "efiapi" fn() -> *mut ThreadBlock;

/// What puts a call in the chain; in the frames of `calltable_contain` and `calltable_count`.
#[repr(C)]
struct ChainRecord {
    record: Record,
    block: *mut ThreadBlock,
    context: *const Context,
}

/// The frame of `calltable_contain`.
#[repr(C)]
struct LinkedCall {
    call: Call,
    record: ChainRecord,
    shadow: usize,
    _aligned: usize,
}

const_assert_eq!(offset_of!(ChainRecord, record), 0);
const_assert_eq!(offset_of!(Record, next), 0);
const_assert_eq!(offset_of!(ThreadBlock, head), 0);
const_assert_eq!(offset_of!(ChainRecord, block), CHAIN_RECORD_BLOCK);
const_assert_eq!(offset_of!(ChainRecord, context), CHAIN_RECORD_CONTEXT);
const_assert_eq!(size_of::<ChainRecord>(), CHAIN_RECORD_SIZE);
const_assert_eq!(offset_of!(LinkedCall, record), LINKED_RECORD);
const_assert_eq!(offset_of!(LinkedCall, shadow), LINKED_SHADOW);
const_assert_eq!(size_of::<LinkedCall>(), LINKED_SIZE);
const_assert!(LINKED_SIZE % 16 == 0);

unsafe extern "efiapi" {
    /// Where a contained call continues, from whatever stack.
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_resume")]
    fn resume(call: *mut c_void) -> !; // a `LinkedCall`
}

/// Says how to find the thread's [`ThreadBlock`]: from now on registrations can
/// [contain](crate::table::Binding::contained) exceptions, and each contained or counted call of an entry puts a
/// record first in that block's chain while its handler runs. Whoever sees an exception (a trap handler, a signal
/// handler) asks the chain by [`dispatch`](super::dispatch).
///
/// A kernel keeps the block with its thread, and the function finds it through what says which thread runs.
///
/// ```standalone_crate
/// use calltable::seh::{self, CHAIN_END, ThreadBlock};
/// use calltable::{Callback, Contained, Error};
/// use std::cell::UnsafeCell;
///
/// thread_local! {
///     // The bounds of the stack are filled in when the thread starts.
///     static BLOCK: UnsafeCell<ThreadBlock> =
///         const { UnsafeCell::new(ThreadBlock { head: CHAIN_END, stack_base: 0, stack_limit: 0 }) };
/// }
///
/// unsafe extern "efiapi" fn block() -> *mut ThreadBlock {
///     BLOCK.with(UnsafeCell::get)
/// }
///
/// let handler = Contained::new(|number: i32| 2 * number, |_: &seh::Exception| None);
/// // SAFETY: no exception ends within the closure.
/// let register = || unsafe { Callback::<unsafe extern "efiapi" fn(i32) -> i32>::from_contained(&handler) };
/// assert_eq!(register().err(), Some(Error::NoExceptions));
/// // SAFETY: each thread has a block of its own, whose address does not change.
/// unsafe { seh::declare(block)? };
/// let callback = register()?;
/// // SAFETY: the callback lives.
/// assert_eq!(unsafe { callback.code()(21) }, 42);
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// [`Error::Sealed`]: nothing has changed.
///
/// # Safety
/// The function must give the same block whenever the same thread calls it while calls of entries run in that thread,
/// and no other thread may use the block meanwhile. It is called before handlers, with the foreign code's registers
/// saved, and by releases that wait for calls to end: where none run on the thread, it gives null or a block whose
/// chain is empty.
pub unsafe fn declare(block: FindBlock) -> Result<(), Error> {
    registry::unless_sealed(|| contexts().seh.store(block as *mut (), Ordering::Release))
}

/// What a contained registration brings with it: nothing.
pub(crate) fn unwinder() -> *mut () {
    null_mut()
}

/// Whether exceptions can be contained.
pub(crate) fn is_available() -> bool {
    !contexts().seh.load(Ordering::Acquire).is_null()
}

/// This thread's block, or null.
fn find() -> *mut ThreadBlock {
    let find = contexts().seh.load(Ordering::Acquire);
    if find.is_null() {
        return null_mut();
    }
    // SAFETY: only `declare` stores, whose caller has promised that it may be called.
    unsafe { core::mem::transmute::<*mut (), FindBlock>(find)() }
}

/// # Safety
/// What the function that was declared gives must be a block.
pub(super) unsafe fn block() -> ThreadBlock {
    let block = find();
    if block.is_null() {
        return ThreadBlock { head: CHAIN_END, stack_base: 0, stack_limit: 0 };
    }
    // SAFETY: by the caller's promise.
    unsafe { block.read() }
}

/// # Safety
/// As for [`block`]; the chain from there on must be one that may be walked.
pub(super) unsafe fn set_head(head: *mut Record) {
    let block = find();
    if !block.is_null() {
        // SAFETY: by the caller's promise.
        unsafe { (*block).head = head };
    }
}

/// Called by the dispatchers: puts a call's record first in the chain.
#[unsafe(export_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_push_record"))]
unsafe extern "efiapi" fn push_record(record: *mut ChainRecord, contains: bool) {
    let block = find();
    // SAFETY: the record is in the frame of the caller, which takes it off; the block is this thread's.
    unsafe {
        (*record).block = block;
        if !block.is_null() {
            (*record).record =
                Record { next: (*block).head, handler: Some(if contains { exception } else { uncount }) };
            // An interrupt of this thread may walk the chain before the next instruction.
            compiler_fence(Ordering::Release);
            (*block).head = record.cast();
        }
    }
}

/// Called when an exception leaves the handler of a contained call, and when its frame is unwound.
///
/// Never inlined, like `uncount`: a copy of it in each part of the program that the compiler makes by itself would have
/// an address of its own, and by the address [`context_of`] and [`counts`] know the records.
#[inline(never)]
unsafe extern "C" fn exception(
    exception: *mut ExceptionRecord,
    record: *mut Record,
    context: *mut c_void,
    _dispatcher: *mut c_void,
) -> i32 {
    // SAFETY: the record is that of a linked call in the chain, and the exception one of code that it called.
    unsafe {
        if (*exception).flags & UNWINDING != 0 {
            return CONTINUE_SEARCH;
        }
        let call = record.byte_sub(LINKED_RECORD).cast::<LinkedCall>();
        if let Some(disposition) = Call::consider(call.cast(), exception, context) {
            return disposition;
        }
        unwind(record, exception);
        resume(call.cast())
    }
}

/// The same for a counted call, which is not running any more when it is unwound.
#[inline(never)]
unsafe extern "C" fn uncount(
    exception: *mut ExceptionRecord,
    record: *mut Record,
    _context: *mut c_void,
    _dispatcher: *mut c_void,
) -> i32 {
    // SAFETY: the record is that of a counted call; contexts are static.
    unsafe {
        if (*exception).flags & UNWINDING != 0 {
            (*(*record.cast::<ChainRecord>()).context).leave();
        }
    }
    CONTINUE_SEARCH
}

#[cfg(dwarf_unwinder)]
impl ChainRecord {
    /// Takes it off the chain, as the dispatcher does, and with it whatever the handler has left before it.
    ///
    /// # Safety
    /// It must be that of a call whose handler's frames are gone.
    unsafe fn take_off(&self) {
        if !self.block.is_null() {
            // SAFETY: by the caller's promise it is in that chain.
            unsafe { (*self.block).head = self.record.next };
        }
    }
}

/// What the dispatcher would do after the handler that an unwinder ends. Only where the handler was called is there
/// something to do: nothing else of the dispatcher's raises exceptions.
///
/// # Safety
/// `context` must be what the unwinder passes of a dispatcher's frame that is about to go.
#[cfg(dwarf_unwinder)]
pub(super) unsafe fn ended(context: *mut c_void) {
    use core::ptr::{with_exposed_provenance, without_provenance};

    use crate::entry;

    unsafe extern "C" {
        /// The address where the frame would continue.
        #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_unwinder_place")]
        fn place(context: *mut c_void) -> usize;
        /// The stack pointer that it would have there.
        #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_unwinder_stack")]
        fn stack(context: *mut c_void) -> usize;
        /// Where the handler of a contained call returns to.
        #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_containing")]
        static CONTAINING: u8;
    }
    // SAFETY: by the caller's promise. At those places the frame is what the dispatcher has laid down, a counted call
    // is counted, and contexts are static.
    unsafe {
        let (place, stack) = (without_provenance(place(context)), with_exposed_provenance::<u8>(stack(context)));
        #[cfg(target_arch = "x86_64")]
        if entry::returns_to_exclusive(place) {
            return (*stack.add(EXCLUSIVE_CONTEXT).cast::<*const Context>().read()).leave();
        }
        if entry::returns_to_count(place) {
            let record = &*stack.cast::<ChainRecord>();
            record.take_off();
            (*record.context).leave();
        } else if (&raw const CONTAINING).addr() == place.addr() {
            (*stack.add(LINKED_RECORD).cast::<ChainRecord>()).take_off();
        }
    }
}

/// Whether this record is that of a counted call of the context.
///
/// # Safety
/// The record must be one of the chain.
pub(super) unsafe fn counts(record: *const Record, context: *const Context) -> bool {
    // SAFETY: by the caller's promise; with that handler it is the start of a `ChainRecord`.
    unsafe {
        (*record).handler.is_some_and(|handler| handler as usize == uncount as RecordHandler as usize)
            && core::ptr::eq((*record.cast::<ChainRecord>()).context, context)
    }
}

/// The context whose call has put a record in the chain.
///
/// # Safety
/// The record must be one of the chain.
pub(super) unsafe fn context_of(record: *const Record) -> Option<*const Context> {
    let ours: [RecordHandler; 2] = [exception, uncount];
    // SAFETY: by the caller's promise; with such a handler it is the start of a `ChainRecord`.
    unsafe {
        let handler = (*record).handler.map(|handler| handler as usize);
        ours.iter().any(|&own| handler == Some(own as usize)).then(|| (*record.cast::<ChainRecord>()).context)
    }
}
