//! Calls of entries that nobody may call now: never registered, released, exclusive and running already, or moved.
//!
//! A handler of these calls that returns makes up a result for a callback whose type it does not know: so it is unsafe
//! to set one. The default does not return.

use core::ffi::{CStr, c_void};
use core::fmt::Write as _;
use core::sync::atomic::Ordering;

use crate::context::{Context, contexts};
use crate::entry;
use crate::error::Error;
use crate::frame::RawFrame;
use crate::platform;
use crate::registry;
use crate::types::Type;

/// Why an entry could not be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StaleReason {
    /// Its slot has never been live.
    NeverRegistered,
    /// Its registration has been released; the slot may even be live again for somebody else by now.
    Released,
    /// It is exclusive (made from an `FnMut` closure), and a call of it was still running; or it is tracked, and as
    /// many calls of it are running as can be counted (2^24 - 1 on 64-bit targets).
    Running,
    /// It is reserved: nothing has been [bound](crate::table::Binding::unbound) to it yet.
    Unbound,
    /// The CALL instruction is not one of the table: somebody has moved the code of an entry, as inline hooks do. Hook
    /// the handler instead. (Not on AArch64, whose entries work wherever they are.)
    Moved,
}

/// A call that was refused, as the stale handler sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StaleCall {
    /// The slot's index; `None` if the entry was moved, and so nobody knows which it was.
    pub slot: Option<usize>,
    /// The entry that was called; if it was moved, the code after its CALL.
    pub code: *const c_void,
    /// Where in the foreign code the call would have returned to: a debugger's `info symbol` names the caller.
    pub caller: *const c_void,
    /// Why it was refused.
    pub reason: StaleReason,
}

/// Runs in place of a handler when an entry cannot be called. Example: [`set_stale_handler`].
///
/// The foreign caller receives what it returns in the integer and in the floating-point result register. On i686 the
/// latter is ST0, which must be empty unless the result belongs there: only a call refused as
/// [`StaleReason::Running`] gets it, if a dynamic signature says so. Memory for a result stays as it is.
pub type StaleHandler = fn(&StaleCall) -> u64;

/// Sets what runs when an entry is called that is not live, or, with `None`, sets back the default: a message and an
/// invalid instruction, which stops the program on the spot.
///
/// With the feature `os` the message goes to standard error on Linux, there and to a debugger on Windows; on other
/// targets there is none.
///
/// The handler may be called from any thread and, on bare machines, in any context in which foreign code runs. This
/// function waits for the table's lock.
///
/// ```standalone_crate
/// use calltable::{Callback, StaleReason, set_stale_handler};
///
/// // SAFETY: each callback of this program returns nothing or a number, for which 0 is a value.
/// unsafe {
///     set_stale_handler(Some(|call| {
///         assert_eq!(call.reason, StaleReason::Released);
///         eprintln!("slot {:?} is stale, called from {:p}", call.slot, call.caller);
///         0
///     }))?;
/// }
/// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref(&|| 42)?;
/// let code = callback.code();
/// drop(callback);
/// // SAFETY: nobody has registered since, so the call is stale.
/// assert_eq!(unsafe { code() }, 0);
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Errors
/// [`Error::Sealed`]: the handler stays as it is.
///
/// # Safety
/// What the handler returns must be a valid result of every callback whose call may be refused. A live one is among
/// them, if it is exclusive and may be called while it runs. For a `bool` only 0 and 1 are valid, for a reference or
/// for a result in memory no number is. A handler that does not return is always right.
pub unsafe fn set_stale_handler(handler: Option<StaleHandler>) -> Result<(), Error> {
    // SAFETY: by the caller's promise.
    unsafe { set_with_data(handler, core::ptr::null_mut()) }
}

/// As [`set_stale_handler`], with what [`data`] gives from then on if it is not null. Of a handler that is taken back
/// the data stays: a call that is on its way to it still finds it.
///
/// # Safety
/// As for [`set_stale_handler`].
pub unsafe fn set_with_data(handler: Option<StaleHandler>, data: *mut ()) -> Result<(), Error> {
    registry::unless_sealed(|| {
        if !data.is_null() {
            contexts().stale_data.store(data, Ordering::Release);
        }
        let handler = handler.map_or(core::ptr::null_mut(), |handler| handler as *mut ());
        contexts().stale_handler.store(handler, Ordering::Release);
    })
}

/// What was last set with a handler.
#[must_use]
pub fn data() -> *mut () {
    contexts().stale_data.load(Ordering::Acquire)
}

/// The frame handler of every stale call. Its data is the address of the slot's context, null if it has none; it is
/// odd, one more, if the call was refused since the registration is running.
#[unsafe(export_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_stale"))]
unsafe extern "efiapi" fn stale(context: *const Context, frame: *mut RawFrame) {
    let is_running = context.addr() % 2 != 0;
    // SAFETY: by the dispatcher's promise there is a context, or null.
    let context = unsafe { context.map_addr(|address| address & !1).as_ref() };
    // A slot whose generation is still the first one has never been released.
    let reason = match context.map(Context::load_state) {
        Some(_) if is_running => StaleReason::Running,
        Some(state) if state.generation != 0 => StaleReason::Released,
        _ => StaleReason::NeverRegistered,
    };
    // SAFETY: the dispatcher passes its own frame.
    unsafe { refuse(frame, reason) };
}

/// The frame handler of a slot that is reserved.
pub(crate) unsafe extern "efiapi" fn unbound(_data: *mut c_void, frame: *mut RawFrame) {
    // SAFETY: the dispatcher passes its own frame.
    unsafe { refuse(frame, StaleReason::Unbound) };
}

/// Has the embedder's stale handler make the call's result, or stops the program.
///
/// # Safety
/// The frame must be the one that the dispatcher gave to a handler, and nobody else may use it.
unsafe fn refuse(frame: *mut RawFrame, reason: StaleReason) {
    // SAFETY: by the caller's promise.
    let [returns_to, caller] = unsafe { (*frame).return_addresses() };
    let slot = entry::slot_returned_to(returns_to);
    let code = slot.map_or(returns_to, |slot| entry::entry(slot).as_ptr());
    let reason = if slot.is_some() { reason } else { StaleReason::Moved };
    let call = StaleCall { slot, code, caller, reason };
    let handler = contexts().stale_handler.load(Ordering::Acquire);
    let result = if handler.is_null() {
        stop(&call)
    } else {
        // SAFETY: it is nothing but null and what `set_stale_handler` was given.
        let handler = unsafe { core::mem::transmute::<*mut (), StaleHandler>(handler) };
        handler(&call)
    };
    // SAFETY: by the caller's promise.
    unsafe { (*frame).set_result(Type::U64, result.into()) };
}

fn stop(call: &StaleCall) -> ! {
    let StaleCall { code, caller, .. } = *call;
    let reason = match call.reason {
        StaleReason::NeverRegistered => "was never registered",
        StaleReason::Released => "has been released",
        StaleReason::Running => "is exclusive and already running",
        StaleReason::Unbound => "is reserved, and nothing is bound to it yet: rebind it before foreign code calls it",
        StaleReason::Moved => "is unknown, since a hook has moved its entry: hook the handler instead",
    };
    let mut message = heapless::String::<192>::new();
    // It fails only when the buffer is full, and then there is no zero at the end: the longest message fits.
    let _ = match call.slot {
        Some(slot) => write!(message, "calltable: stale call of slot {slot} "),
        None => write!(message, "calltable: stale call "),
    };
    let _ = write!(message, "({code:p}) from {caller:p}: the callback {reason}\n\0");
    platform::stop(CStr::from_bytes_until_nul(message.as_bytes()).unwrap_or_default())
}
