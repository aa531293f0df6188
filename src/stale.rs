//! Calls of entries that nobody may call now: never registered, released, exclusive and running already, or moved.
//!
//! A handler of these calls that returns makes up a result for a callback whose type it does not know: so it is unsafe
//! to set one. The default does not return. A handler that knows the type promises it, once more, when it asks for the
//! arguments: what has been refused is any call of any entry.

use core::ffi::{CStr, c_void};
use core::fmt::Write as _;
use core::sync::atomic::Ordering;

use crate::context::{Context, contexts};
use crate::entry;
use crate::error::Error;
use crate::frame::{Frame, RawFrame};
use crate::platform;
use crate::registry;
use crate::signature::Signature;
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
///
/// A handler that sets no result, neither by [`Self::set_result`] nor through a [frame](Self::frame), returns zero. The
/// last one that was set counts.
#[derive(Debug)]
#[non_exhaustive]
pub struct StaleCall<'a> {
    /// The slot's index; `None` if the entry was moved, and so nobody knows which it was.
    pub slot: Option<usize>,
    /// The entry that was called; if it was moved, the code after its CALL.
    pub code: *const c_void,
    /// Where in the foreign code the call would have returned to: a debugger's `info symbol` names the caller.
    pub caller: *const c_void,
    /// Why it was refused.
    pub reason: StaleReason,
    /// The [name](crate::table::Binding::named) of the slot's last registration, whose callback most likely was called.
    /// `None` if it has none, if the slot is live for somebody else by now, if the table is locked (a call does not
    /// wait for that), and always without the feature `names`.
    pub name: Option<&'static str>,
    frame: &'a mut RawFrame,
}

impl StaleCall<'_> {
    /// What the foreign caller receives, in the integer and in the floating-point result register; memory for a result
    /// stays as it is. Example: [`set_stale_handler`].
    ///
    /// On i686 the floating-point one is ST0, which must be empty unless the result belongs there: it gets the number,
    /// taken for the bits of a double, only if the signature of a [frame](Self::frame) says so, or that of the
    /// registration that runs ([`StaleReason::Running`]).
    pub fn set_result(&mut self, result: u64) {
        self.frame.set_result(Type::U64, result.into());
    }

    /// The arguments, and the place for a result of any type: as the handler of a [`Dynamic`](crate::Dynamic) sees a
    /// call. If the result goes through a hidden pointer, that memory is set to zero.
    ///
    /// So a message of a window whose procedure is gone can be given to `DefWindowProcW`:
    ///
    /// ```standalone_crate
    /// use calltable::{Callback, Convention, Signature, StaleCall, Type, set_stale_handler};
    /// # use std::ffi::c_void;
    /// # use std::sync::OnceLock;
    /// # unsafe extern "efiapi" fn def_window_proc(_: *mut c_void, message: u32, _: usize, l: isize) -> isize {
    /// #     message as isize + l
    /// # }
    ///
    /// type WindowProc = unsafe extern "efiapi" fn(*mut c_void, u32, usize, isize) -> isize;
    ///
    /// static WINDOW_PROC: OnceLock<Signature> = OnceLock::new();
    ///
    /// fn answer(call: &mut StaleCall<'_>) {
    ///     let signature = WINDOW_PROC.get().unwrap();
    ///     // SAFETY: every callback of this program is a window procedure, and nobody hooks their entries.
    ///     let mut frame = unsafe { call.frame(signature) };
    ///     let (window, message) = (frame.get(0).unwrap(), frame.get(1).unwrap());
    ///     let (w, l) = (frame.get(2).unwrap(), frame.get(3).unwrap());
    ///     // SAFETY: Windows passed all of them.
    ///     let result: isize = unsafe { def_window_proc(window, message, w, l) };
    ///     frame.set_result(result).unwrap();
    /// }
    ///
    /// let convention = Convention::NATIVE;
    /// # let convention = Convention::C;
    /// let parameters = [Type::Pointer, Type::U32, Type::USIZE, Type::ISIZE];
    /// WINDOW_PROC.set(Signature::new(convention, &parameters, Some(Type::ISIZE))?).unwrap();
    /// // SAFETY: an `isize` is what each callback of this program returns.
    /// unsafe { set_stale_handler(Some(answer))? };
    ///
    /// let callback = Callback::<WindowProc>::from_ref(&|_, _, _, _| 0)?;
    /// let code = callback.code();
    /// drop(callback);
    /// // SAFETY: nobody has registered since, so the call is stale.
    /// assert_eq!(unsafe { code(std::ptr::null_mut(), 2, 0, 40) }, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// The foreign code must have called as the signature says, and the entry must not have been moved
    /// ([`StaleReason::Moved`]): nobody knows what a hook has put on the stack.
    #[must_use]
    pub unsafe fn frame<'s>(&'s mut self, signature: &'s Signature) -> Frame<'s> {
        // SAFETY: the dispatcher of this call passed the frame, which is that of a call by this signature, as the
        // caller promises.
        unsafe {
            self.frame.return_as(signature);
            Frame::new(self.frame, signature)
        }
    }

    /// As [`Self::frame`], for the C interface.
    ///
    /// # Safety
    /// As for [`Self::frame`].
    #[doc(hidden)]
    pub unsafe fn raw_frame(&mut self, signature: &Signature) -> *mut RawFrame {
        // SAFETY: by the caller's promise.
        let _ = unsafe { self.frame(signature) };
        self.frame
    }
}

/// Runs in place of a handler when an entry cannot be called. Examples: [`set_stale_handler`], [`StaleCall::frame`].
pub type StaleHandler = fn(&mut StaleCall<'_>);

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
/// // SAFETY: each callback of this program returns nothing or a number.
/// unsafe {
///     set_stale_handler(Some(|call| {
///         assert_eq!(call.reason, StaleReason::Released);
///         eprintln!("slot {:?} is stale, called from {:p}", call.slot, call.caller);
///         call.set_result(7);
///     }))?;
/// }
/// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref(&|| 42)?;
/// let code = callback.code();
/// drop(callback);
/// // SAFETY: nobody has registered since, so the call is stale.
/// assert_eq!(unsafe { code() }, 7);
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Errors
/// [`Error::Sealed`]: the handler stays as it is.
///
/// # Safety
/// The result that the handler sets, or zero, must be a valid one of every callback whose call may be refused, or of
/// the one whose call this was, if the handler can tell. A live one is among them, if it is exclusive and may be called
/// while it runs. For a `bool` only 0 and 1 are valid, for a reference no number is; one in memory is set through a
/// [frame](StaleCall::frame) alone. A handler that does not return is always right.
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
    // SAFETY: by the caller's promise.
    let frame = unsafe { &mut *frame };
    let name =
        slot.and_then(|slot| registry::try_name(slot, matches!(reason, StaleReason::Running | StaleReason::Unbound)));
    let mut call = StaleCall { slot, code, caller, reason, name, frame };
    let handler = contexts().stale_handler.load(Ordering::Acquire);
    if handler.is_null() {
        stop(&call);
    }
    // SAFETY: it is nothing but null and what `set_stale_handler` was given.
    let handler = unsafe { core::mem::transmute::<*mut (), StaleHandler>(handler) };
    handler(&mut call);
}

/// Bytes of the message that 60 characters of a name take at most, with quotes and a space.
const NAME_BYTES: usize = if cfg!(feature = "names") { 60 * 4 + 3 } else { 0 };

fn stop(call: &StaleCall<'_>) -> ! {
    let StaleCall { code, caller, .. } = *call;
    let reason = match call.reason {
        StaleReason::NeverRegistered => "was never registered",
        StaleReason::Released => "has been released",
        StaleReason::Running => {
            "is exclusive and already running: if it calls itself, use cells, and new_here or from_local"
        }
        StaleReason::Unbound => "is reserved, and nothing is bound to it yet: rebind it before foreign code calls it",
        StaleReason::Moved => "is unknown, since a hook has moved its entry: hook the handler instead",
    };
    let mut message = heapless::String::<{ 192 + NAME_BYTES }>::new();
    // It fails only when the buffer is full, and then there is no zero at the end: the longest message fits.
    let _ = match call.slot {
        Some(slot) => write!(message, "calltable: stale call of slot {slot} "),
        None => write!(message, "calltable: stale call "),
    };
    if let Some(name) = call.name {
        let _ = write!(message, "\"{name:.60}\" ");
    }
    let _ = write!(message, "({code:p}) from {caller:p}: the callback {reason}\n\0");
    platform::stop(CStr::from_bytes_until_nul(message.as_bytes()).unwrap_or_default())
}
