//! x86_64 outside of Windows: contained and counted calls are in a chain, in which the embedder's trap handler asks.

use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::null_mut;
use core::sync::atomic::Ordering;

use static_assertions::{const_assert, const_assert_eq};

use super::ask::{CONTINUE_SEARCH, UNWINDING};
use super::call::Call;
use super::policy::ExceptionRecord;
use super::record::{Block, END, Record, RecordHandler, unwind};
use crate::context::layout::*;
use crate::context::{CONTEXTS, Context};
use crate::error::Error;
use crate::table;

/// Gives the block of the thread that calls it, or null where there is none; for [`declare`].
pub type FindBlock = unsafe extern "efiapi" fn() -> *mut Block;

/// What puts a call in the chain; in the frames of `calltable_contain` and `calltable_count`.
#[repr(C)]
struct Link {
    record: Record,
    block: *mut Block,
    context: *const Context,
}

/// The frame of `calltable_contain`.
#[repr(C)]
struct LinkedCall {
    call: Call,
    link: Link,
    shadow: usize,
}

const_assert_eq!(offset_of!(Link, record), 0);
const_assert_eq!(offset_of!(Record, next), 0);
const_assert_eq!(offset_of!(Block, head), 0);
const_assert_eq!(offset_of!(Link, block), LINK_BLOCK);
const_assert_eq!(offset_of!(Link, context), LINK_CONTEXT);
const_assert_eq!(size_of::<Link>(), LINK_SIZE);
const_assert_eq!(offset_of!(LinkedCall, link), LINKED_LINK);
const_assert_eq!(offset_of!(LinkedCall, shadow), LINKED_SHADOW);
const_assert_eq!(size_of::<LinkedCall>(), LINKED_SIZE);
const_assert!(LINKED_SIZE % 16 == 0);

unsafe extern "efiapi" {
    /// Where a contained call goes on, from whatever stack.
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_resume")]
    fn resume(call: *mut LinkedCall) -> !;
}

/// Says how to find the thread's [`Block`]: from now on registrations can
/// [contain](crate::table::Registration::contained) exceptions, and each contained or counted call of an entry puts a
/// record first in that block's chain while its handler runs. Whoever sees an exception (a trap handler, a signal handler)
/// asks the chain by [`dispatch`](super::dispatch).
///
/// A kernel keeps the block with its thread, and the function finds it through what says which thread runs.
///
/// # Safety
/// The function must give the same block whenever the same thread calls it while calls of entries run in that thread, and
/// no other thread may use the block meanwhile. It is called before handlers, with the foreign code's registers saved.
///
/// # Errors
/// [`Error::Sealed`]: nothing has changed.
pub unsafe fn declare(block: FindBlock) -> Result<(), Error> {
    table::unless_sealed(|| CONTEXTS.seh.store(block as *mut (), Ordering::Release))
}

/// What a contained registration brings with it: nothing.
pub(crate) fn unwinder() -> *mut () {
    null_mut()
}

/// Takes it, under the registry's lock.
pub(crate) fn prepare(_unwinder: *mut ()) {}

/// Whether exceptions can be contained.
pub(crate) fn is_available() -> bool {
    !CONTEXTS.seh.load(Ordering::Acquire).is_null()
}

/// This thread's block, or null.
fn find() -> *mut Block {
    let find = CONTEXTS.seh.load(Ordering::Acquire);
    if find.is_null() {
        return null_mut();
    }
    // SAFETY: only `declare` stores, whose caller has promised that it may be called.
    unsafe { core::mem::transmute::<*mut (), FindBlock>(find)() }
}

/// # Safety
/// What the function that was declared gives must be a block.
pub(super) unsafe fn block() -> Block {
    let block = find();
    if block.is_null() {
        return Block { head: END, stack_base: 0, stack_limit: 0 };
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

/// Called by the dispatchers: puts a link first in the chain.
#[unsafe(export_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_link"))]
unsafe extern "efiapi" fn link(link: *mut Link, contains: bool) {
    let block = find();
    // SAFETY: the link is in the frame of the caller, which takes it off; the block is this thread's.
    unsafe {
        (*link).block = block;
        if !block.is_null() {
            (*link).record = Record { next: (*block).head, handler: Some(if contains { exception } else { uncount }) };
            (*block).head = link.cast();
        }
    }
}

/// Called when an exception leaves the handler of a contained call, and when its frame is unwound.
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
        let call = record.byte_sub(LINKED_LINK).cast::<LinkedCall>();
        if let Some(disposition) = Call::consider(call.cast(), exception, context) {
            return disposition;
        }
        unwind(record, exception);
        resume(call)
    }
}

/// The same for a counted call, which is not running any more when it is unwound.
unsafe extern "C" fn uncount(
    exception: *mut ExceptionRecord,
    record: *mut Record,
    _context: *mut c_void,
    _dispatcher: *mut c_void,
) -> i32 {
    // SAFETY: the record is that of a counted call; contexts are static.
    unsafe {
        if (*exception).flags & UNWINDING != 0 {
            (*(*record.cast::<Link>()).context).in_flight.fetch_sub(1, Ordering::Release);
        }
    }
    CONTINUE_SEARCH
}

/// The context whose call has put a record in the chain.
///
/// # Safety
/// The record must be one of the chain.
pub(super) unsafe fn context_of(record: *const Record) -> Option<*const Context> {
    let ours: [RecordHandler; 2] = [exception, uncount];
    // SAFETY: by the caller's promise; with such a handler it is the start of a link.
    unsafe {
        let handler = (*record).handler.map(|handler| handler as usize);
        ours.iter().any(|&own| handler == Some(own as usize)).then(|| (*record.cast::<Link>()).context)
    }
}
