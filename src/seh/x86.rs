//! i686: the record of a call in the chain of SEH handlers, for as long as its handler runs.

use core::arch::asm;
use core::ffi::c_void;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use static_assertions::const_assert_eq;

use super::ask::{CONTINUE_SEARCH, UNWINDING, ask, restore_alignment_check};
use super::policy::{ExceptionRecord, Outcome};
use super::record::{Record, ThreadBlock};
use crate::context::{Context, contexts};
use crate::frame::RawFrame;
use crate::layout::*;

/// The dispatcher's locals; EBP points to what follows them.
#[repr(C)]
pub(super) struct Locals {
    outcome: Outcome,
    record: Record,
    x87: u32,
    /// Whether the filter is deciding or has ended an exception: then those that come are not its own.
    asked: u32,
    mxcsr: u32,
    shadow: u32,
    flags: u32,
    edi: u32,
    esi: u32,
    ebx: u32,
    handler: *const c_void,
    data: *mut c_void,
    cleanup: u32,
    state: usize,
    context: *const Context,
    registers: [u32; 2],
}

const_assert_eq!(offset_of!(Locals, record), LOCALS_RECORD);
const_assert_eq!(offset_of!(Locals, x87), LOCALS_X87);
const_assert_eq!(offset_of!(Locals, asked), LOCALS_ASKED);
const_assert_eq!(offset_of!(Locals, mxcsr), LOCALS_MXCSR);
const_assert_eq!(offset_of!(Locals, shadow), LOCALS_SHADOW);
const_assert_eq!(offset_of!(Locals, flags), LOCALS_FLAGS);
const_assert_eq!(offset_of!(Locals, edi), LOCALS_EDI);
const_assert_eq!(offset_of!(Locals, esi), LOCALS_ESI);
const_assert_eq!(offset_of!(Locals, ebx), LOCALS_EBX);
const_assert_eq!(offset_of!(Locals, handler), LOCALS_HANDLER);
const_assert_eq!(offset_of!(Locals, data), LOCALS_DATA);
const_assert_eq!(offset_of!(Locals, cleanup), LOCALS_CLEANUP);
const_assert_eq!(offset_of!(Locals, state), LOCALS_STATE);
const_assert_eq!(offset_of!(Locals, context), LOCALS_CONTEXT);
const_assert_eq!(offset_of!(Locals, registers), LOCALS_ECX);
const_assert_eq!(size_of::<Locals>(), LOCALS_SIZE);

/// `RtlUnwind`: calls all handlers before a frame's a last time and takes their records off the chain.
type Unwind = unsafe extern "stdcall" fn(
    frame: *mut c_void,
    resume: *const c_void,
    exception: *mut ExceptionRecord,
    result: *mut c_void,
);

unsafe extern "C" {
    /// Ends an exception: unwinds the stack to the frame, and continues at `calltable_resume`.
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_end")]
    fn end(frame: *mut Record, exception: *mut ExceptionRecord, unwind: Unwind) -> !;

    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_seh_handler")]
    fn seh_handler();
}

/// The handler of the dispatcher's records; by this function alone, as in `arch`.
#[inline(never)]
fn own_handler() -> *mut () {
    seh_handler as *mut ()
}

/// Reads a field of the thread information block.
///
/// # Safety
/// FS must point to one.
unsafe fn read<const OFFSET: usize>() -> *mut Record {
    let value;
    // SAFETY: by the caller's promise.
    unsafe {
        asm!("mov {}, fs:[{}]", out(reg) value, const OFFSET, options(nostack, preserves_flags, readonly));
    }
    value
}

/// # Safety
/// As for [`read`].
pub(super) unsafe fn block() -> ThreadBlock {
    // SAFETY: by the caller's promise.
    let (head, base, limit) = unsafe { (read::<0>(), read::<4>(), read::<8>()) };
    ThreadBlock { head, stack_base: base.addr(), stack_limit: limit.addr() }
}

/// # Safety
/// As for [`read`]; the chain from there on must be one that may be walked.
pub(super) unsafe fn set_head(record: *mut Record) {
    // SAFETY: by the caller's promise; 0 is the place of the chain's head.
    unsafe { asm!("mov fs:[0], {}", in(reg) record, options(nostack, preserves_flags)) };
}

/// Whether this record is that of a counted call of the context.
///
/// # Safety
/// The record must be one of the chain.
pub(super) unsafe fn counts(record: *const Record, context: *const Context) -> bool {
    // SAFETY: by the caller's promise; a dispatcher's lies in its locals.
    unsafe {
        context_of(record).is_some_and(|own| core::ptr::eq(own, context))
            && (*record.byte_sub(LOCALS_RECORD).cast::<Locals>()).state & STATE_COUNTED != 0
    }
}

/// The context whose call has put a record in the chain.
///
/// # Safety
/// The record must be one of the chain.
pub(super) unsafe fn context_of(record: *const Record) -> Option<*const Context> {
    // SAFETY: by the caller's promise; with that handler it lies in the dispatcher's locals.
    unsafe {
        let handler = (*record).handler.map(|handler| handler as usize);
        (handler == Some(own_handler() as usize)).then(|| (*record.byte_sub(LOCALS_RECORD).cast::<Locals>()).context)
    }
}

/// What the dispatcher would do after the handler that an unwinder ends.
///
/// # Safety
/// `context` must be what the unwinder passes of a lane's frame that is about to go.
#[cfg(dwarf_unwinder)]
pub(super) unsafe fn ended(context: *mut c_void) {
    unsafe extern "C" {
        /// The value of a register.
        #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_unwinder_register")]
        fn register(context: *mut c_void, number: i32) -> usize;
    }
    /// As unwinders number it ("System V ABI, Intel386 Architecture Processor Supplement").
    const EBP: i32 = 5;
    // SAFETY: by the caller's promise; EBP points to what follows the locals.
    unsafe {
        let frame = register(context, EBP);
        if frame != 0 {
            let locals = core::ptr::with_exposed_provenance_mut::<Locals>(frame - LOCALS_SIZE);
            if (*locals).record.handler.is_some() {
                set_head((*locals).record.next);
            }
            (*locals).uncount();
        }
    }
}

cfg_if::cfg_if! {
    if #[cfg(windows)] {
        crate::platform::import! { "ntdll":
            // An `Unwind`; only its address is used here.
            fn RtlUnwind(
                frame: *mut c_void,
                resume: *const c_void,
                exception: *mut ExceptionRecord,
                result: *mut c_void,
            );
        }

        /// What a contained registration brings with it. A program that contains nothing, such as a driver, need not
        /// import it.
        pub(crate) fn unwinder() -> *mut () {
            // Or the compiler would see that nothing else is ever stored, and import it for the load.
            core::hint::black_box(RtlUnwind as *mut ())
        }

        /// Whether exceptions can be contained.
        pub(crate) fn is_available() -> bool {
            true
        }
    } else {
        use crate::error::Error;
        use crate::registry;

        /// Says that FS points to a thread information block, as on Windows: from now on every call of an entry puts a
        /// record of the dispatcher first in the chain of SEH handlers while its handler runs, and registrations can
        /// [contain](crate::table::Binding::contained) exceptions.
        ///
        /// The block must begin with a [`ThreadBlock`].
        ///
        /// The example is not run: a test on Linux has an FS that leads to nothing.
        ///
        /// ```no_run
        /// use calltable::seh;
        ///
        /// // SAFETY: in each thread FS leads to a block of its own.
        /// unsafe { seh::declare()? };
        /// # Ok::<(), calltable::Error>(())
        /// ```
        ///
        /// # Errors
        /// [`Error::Sealed`]: nothing has changed.
        ///
        /// # Safety
        /// From now on FS must point to such a block, one for each thread, whenever a thread calls an entry, or waits
        /// in a release for calls to end.
        pub unsafe fn declare() -> Result<(), Error> {
            registry::unless_sealed(|| contexts().seh.store(own_handler(), Ordering::Release))
        }

        /// What a contained registration brings with it.
        pub(crate) fn unwinder() -> *mut () {
            unsafe extern "stdcall" fn unwind(
                frame: *mut c_void,
                _resume: *const c_void,
                exception: *mut ExceptionRecord,
                _result: *mut c_void,
            ) {
                // SAFETY: called in `end`, for a record that is in the chain.
                unsafe { super::unwind(frame.cast(), exception) };
            }
            let unwind: Unwind = unwind;
            unwind as *mut ()
        }

        /// Whether exceptions can be contained.
        pub(crate) fn is_available() -> bool {
            !contexts().seh.load(Ordering::Acquire).is_null()
        }
    }
}

/// Called by the system when an exception leaves a handler, and when the dispatcher's frame is unwound.
#[unsafe(export_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_exception"))]
unsafe extern "C" fn exception(
    exception: *mut ExceptionRecord,
    frame: *mut Record,
    context: *mut c_void,
    _dispatcher: *mut c_void,
) -> i32 {
    // SAFETY: the system passes the dispatcher's record, which lies in its locals, and an exception of code that it
    // called; what has been ended is unwound to that frame, by the function that the registration has brought.
    unsafe {
        let locals = frame.byte_sub(LOCALS_RECORD).cast::<Locals>();
        if (*exception).flags & UNWINDING != 0 {
            (*locals).uncount();
            return CONTINUE_SEARCH;
        }
        if let Some(disposition) = Locals::consider(locals, exception, context) {
            return disposition;
        }
        end(frame, exception, core::mem::transmute::<*mut (), Unwind>(contexts().unwind.load(Ordering::Relaxed)))
    }
}

impl Locals {
    /// A call that an exception ends is not running any more.
    ///
    /// # Safety
    /// The locals must be those of a call.
    pub(super) unsafe fn uncount(&mut self) {
        if self.state & STATE_COUNTED != 0 {
            self.state &= !STATE_COUNTED;
            // SAFETY: contexts are static.
            unsafe { (*self.context).leave() };
        }
    }

    /// Asks the filter, if there is one. Returns what to tell the system, or `None` if the exception ends here.
    ///
    /// # Safety
    /// The locals must be those of a call, and the exception that of its handler.
    pub(super) unsafe fn consider(
        locals: *mut Self,
        exception: *mut ExceptionRecord,
        context: *mut c_void,
    ) -> Option<i32> {
        // SAFETY: by the caller's promise; the arguments are that far from EBP. A registration that
        // contains has promised a filter.
        unsafe {
            if (*locals).state & STATE_CONTAIN == 0 || (*locals).asked != 0 {
                return Some(CONTINUE_SEARCH);
            }
            (*locals).asked = 1;
            let arguments = locals.byte_add(LOCALS_SIZE + FROM_EBP_ARGUMENTS).cast();
            let call = RawFrame { result: [0; 2], more_result: 0, arguments, registers: (*locals).registers };
            let disposition = ask((*locals).data, exception, context, &raw mut (*locals).outcome, call);
            match disposition {
                Some(_) => (*locals).asked = 0,
                None => restore_alignment_check((*locals).flags),
            }
            disposition
        }
    }
}
