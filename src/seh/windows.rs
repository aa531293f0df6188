//! 64-bit Windows: the system finds `calltable_contain` by its unwind data and calls the function here.

use core::ffi::c_void;
use core::hint::black_box;
use core::ptr::{null_mut, with_exposed_provenance_mut};
use core::sync::atomic::Ordering;

use super::GCC_THROW;
use super::ask::{CONTINUE_SEARCH, UNWINDING};
use super::call::Call;
use super::gcc::{GccException, destroy};
use super::policy::ExceptionRecord;
use crate::context::contexts;

/// What is used of `DISPATCHER_CONTEXT`.
#[repr(C)]
struct Dispatcher {
    before: [usize; 5],
    context: *mut c_void,
    _between: [usize; 2],
    history: *mut c_void,
}

/// How far a contained call is below what the system names as its frame: on x86_64 that is RSP in `calltable_contain`,
/// on AArch64 SP as it was when that was entered.
#[cfg(target_arch = "aarch64")]
const BELOW_FRAME: usize = crate::layout::CONTAINED_SIZE + crate::layout::LINK_SIZE;
#[cfg(target_arch = "x86_64")]
const BELOW_FRAME: usize = 0;

/// A flag of a record: the frame is the one that the unwinding goes to (EXCEPTION_TARGET_UNWIND).
const TARGET: u32 = 0x20;

type Unwind = unsafe extern "C" fn(
    frame: *mut c_void,
    resume: *const c_void,
    record: *mut ExceptionRecord,
    result: *mut c_void,
    context: *mut c_void,
    history: *mut c_void,
) -> !;

crate::platform::import! { "ntdll":
    /// An [`Unwind`]; only its address is used here.
    fn RtlUnwindEx() -> !;
}

unsafe extern "C" {
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_resume")]
    static RESUME: u8;
}

/// What a contained registration brings with it. A program that contains nothing, such as a driver, need not import it.
pub(crate) fn unwinder() -> *mut () {
    // Or the compiler would see that nothing else is ever stored, and import it for the load.
    black_box(RtlUnwindEx as *mut ())
}

/// Whether exceptions can be contained.
pub(crate) fn is_available() -> bool {
    true
}

/// Whether a counted call of the context is in this thread's chain: there is none.
pub(crate) fn counts_here(_context: *const crate::context::Context) -> bool {
    false
}

/// Called by the system when an exception leaves the handler of a contained call, and when its frame is unwound.
#[unsafe(export_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_exception"))]
unsafe extern "C" fn exception(
    record: *mut ExceptionRecord,
    frame: *mut c_void,
    context: *mut c_void,
    dispatcher: *const Dispatcher,
) -> i32 {
    // SAFETY: the system passes the frame of `calltable_contain` and an exception of code that it called; a filter that
    // was registered is asked, and what it ends is unwound to that frame, by the function that the registration has
    // brought.
    unsafe {
        let flags = (*record).flags;
        let is_gcc = (*record).code == GCC_THROW && (*record).parameter_count > 0;
        let gcc =
            if is_gcc { with_exposed_provenance_mut::<GccException>((*record).parameters[0]) } else { null_mut() };
        if flags & UNWINDING != 0 {
            if flags & TARGET != 0 && !gcc.is_null() {
                destroy(gcc);
            }
            return CONTINUE_SEARCH;
        }
        if let Some(disposition) = Call::consider(frame.byte_sub(BELOW_FRAME).cast(), record, context) {
            return disposition;
        }
        let resume = &raw const RESUME;
        if !gcc.is_null() {
            // Frames with destructors stop the unwinding, and afterwards start it again from what stands here.
            let target = [frame.addr(), resume.addr(), 0];
            (*gcc).target = target;
            (*record).parameter_count = 4;
            (&raw mut (*record).parameters[1]).cast::<[usize; 3]>().write(target);
        }
        let unwind = core::mem::transmute::<*mut (), Unwind>(contexts().unwind.load(Ordering::Relaxed));
        // The context is the one in which the system has searched. With that of the exception, AArch64 never comes to
        // an end: `DISPATCHER_CONTEXT` is the word of the system's own handlers there.
        let Dispatcher { context, history, .. } = *dispatcher;
        unwind(frame, resume.cast(), record, null_mut(), context, history)
    }
}
