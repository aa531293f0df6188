//! Calls of entries that nobody may call now: never registered, released, or exclusive and running already.

use core::ffi::{CStr, c_void};
use core::fmt::Write as _;
use core::sync::atomic::Ordering;

use crate::arch;
use crate::context::layout::STATE_EXCLUSIVE;
use crate::context::{CONTEXTS, Context};
use crate::error::Error;
use crate::frame::RawFrame;
use crate::signature::Type;
use crate::table::{self, CodePointer};

/// Why an entry could not be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StaleReason {
    /// Its slot has never been live.
    NeverRegistered,
    /// Its registration has been released; the slot may even be live again for somebody else by now.
    Released,
    /// It is exclusive (made from an `FnMut` closure), and a call of it was still running. A call that was overtaken by a
    /// release is told the same if the slot is live and exclusive for somebody else by now.
    Running,
}

/// A call that was refused, as the stale handler sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StaleCall {
    /// The slot.
    pub slot: usize,
    /// The entry that was called.
    pub code: CodePointer,
    /// Where in the foreign code the call would have returned to: a debugger's `info symbol` names the caller.
    pub caller: *const c_void,
    /// Why it was refused.
    pub reason: StaleReason,
}

/// Runs in place of a handler when an entry cannot be called. What it returns, the foreign caller receives in the
/// integer and in the floating-point result register; on i686 the latter, ST0, must be empty unless the result belongs
/// there, so that only a call refused as [`StaleReason::Running`] gets it, if a dynamic signature says so.
pub type StaleHandler = fn(&StaleCall) -> u64;

/// Sets what runs when an entry is called that is not live, or, with `None`, sets back the default: a message and an
/// invalid instruction, which stops the program on the spot.
///
/// On Linux the message goes to standard error; on Windows, with the feature `message`, there and to a debugger; on other
/// targets there is none.
///
/// The handler may be called from any thread and, on bare machines, in any context in which foreign code runs. To set
/// it waits for the table's lock.
///
/// # Errors
/// [`Error::Sealed`]: the handler stays as it is.
pub fn set_stale_handler(handler: Option<StaleHandler>) -> Result<(), Error> {
    let handler = handler.map_or(core::ptr::null_mut(), |handler| handler as *mut ());
    table::unless_sealed(|| CONTEXTS.stale_handler.store(handler, Ordering::Release))
}

/// The frame handler of every stale call; its data is the slot's context, null as long as there are no contexts.
#[unsafe(export_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_stale"))]
unsafe extern "efiapi" fn stale(context: Option<&Context>, frame: *mut RawFrame) {
    // SAFETY: the dispatcher passes its own frame.
    let [entry, caller] = unsafe { (*frame).return_addresses() };
    let slot = arch::slot_returned_to(entry);
    let reason = context.map_or(StaleReason::NeverRegistered, reason);
    let call = StaleCall { slot, code: arch::entry(slot), caller, reason };
    let handler = CONTEXTS.stale_handler.load(Ordering::Acquire);
    let result = if handler.is_null() {
        stop(&call)
    } else {
        // SAFETY: it is nothing but null and what `set_stale_handler` was given.
        let handler = unsafe { core::mem::transmute::<*mut (), StaleHandler>(handler) };
        handler(&call)
    };
    // SAFETY: as above; nobody else has a reference to the frame.
    unsafe { (*frame).set_result(Type::U64, result.into()) };
}

fn reason(context: &Context) -> StaleReason {
    let state = context.load_state();
    match (state.is_live(), state.generation()) {
        (false, 0) => StaleReason::NeverRegistered,
        // The other call may have ended by now, so that it cannot be asked for.
        (true, _) if state.shape() & STATE_EXCLUSIVE != 0 => StaleReason::Running,
        _ => StaleReason::Released,
    }
}

fn stop(call: &StaleCall) -> ! {
    let reason = match call.reason {
        StaleReason::NeverRegistered => "was never registered",
        StaleReason::Released => "has been released",
        StaleReason::Running => "is exclusive and already running",
    };
    let mut message = heapless::String::<160>::new();
    // It fails only when the buffer is full, and then there is no zero at the end: the longest message fits.
    let _ = write!(
        message,
        "calltable: stale call of slot {} ({:p}) from {:p}: the callback {reason}\n\0",
        call.slot,
        call.code.as_ptr(),
        call.caller,
    );
    if let Ok(message) = CStr::from_bytes_until_nul(message.as_bytes()) {
        arch::print(message);
    }
    arch::trap()
}
