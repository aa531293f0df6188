//! Callbacks for one call: of a thread's start, of an APC, of a wait that ends once.
//!
//! # Who drops what
//! The closure lies in a box, and calls are counted. A call takes the closure, and ends the registration before it
//! runs: no other call is let to the box then. One that had come at the same time finds the closure taken, and stops
//! the program: nobody knows what its caller should get. (Until then the first call waits with the box, which the other
//! one looks at.) The registry says who ends the registration, the call or the handle:
//! - The call: then it drops the box, and with the closure whatever that captured; the slot is free when the call has
//!   ended. The handle finds that the registration has ended, waits for the call, and touches nothing.
//! - The handle: then no call begins any more, and the release waits for one that had begun, which has taken the
//!   closure. The handle drops the box, with the closure if it is there.

use alloc::boxed::Box;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicBool, Ordering};

use super::owned::Owned;
use super::thunks::Holds;
use super::{Callback, FunctionPointer, HandledByOnce, Options, stop_unless_kept};
use crate::error::{Error, ReleaseError};
use crate::platform;
use crate::table::{self, SlotId};

/// A closure that foreign code can call once: [`Callback::once`] makes one. With the feature `alloc`.
///
/// A second call is stale (at the same moment as the first it stops the program), as is one that comes after the handle
/// was dropped. Dropping the handle before the call releases the slot and drops the closure; while the call runs it
/// waits, since the closure may borrow; after the call it does nothing. As a [tracked](Options::tracked) [`Callback`],
/// it must not be dropped in its own call.
#[derive(Debug)]
#[must_use = "dropping it before the call makes the code pointer stale"]
pub struct Once<'a, F: FunctionPointer> {
    slot: SlotId,
    owned: ManuallyDrop<Owned<'a>>,
    handler: PhantomData<F>,
}

/// A closure that is there until its call.
struct Single<C> {
    /// What it is registered as.
    slot: Option<SlotId>,
    is_taken: AtomicBool,
    closure: Option<C>,
}

impl<C, R> Holds<R> for Single<C> {
    type Closure = C;

    #[inline(always)]
    unsafe fn with(this: *mut Self, call: impl FnOnce(*mut C) -> R) -> R {
        // SAFETY: the call is counted, so the box is there until it has ended, or ended the registration.
        let is_taken = unsafe { (*this).is_taken.swap(true, Ordering::Acquire) };
        if is_taken {
            platform::stop(c"calltable: a callback that is called once was called by two threads at once\n");
        }
        // SAFETY: the closure is this call's; so is the box, if the call and not the handle ends the registration.
        let closure = unsafe {
            let closure = (*this).closure.take().unwrap_unchecked();
            if (*this).slot.is_some_and(|slot| table::leave_slot(slot).is_ok()) {
                drop(Box::from_raw(this));
            }
            closure
        };
        let mut closure = ManuallyDrop::new(closure); // `call` takes it
        call(&raw mut *closure)
    }
}

impl<F: FunctionPointer> Callback<'_, F> {
    /// Registers a closure that is called once, and keeps it: with the call the slot comes back by itself, and what the
    /// closure captured is dropped. With the feature `alloc`.
    ///
    /// ```
    /// use calltable::{Callback, Error};
    ///
    /// type Start = unsafe extern "efiapi" fn() -> u32;
    ///
    /// /// Stands for a foreign function that has a thread call the pointer, once.
    /// unsafe fn start_thread(start: Start) -> std::thread::JoinHandle<u32> {
    ///     // SAFETY: by the caller's promise.
    ///     std::thread::spawn(move || unsafe { start() })
    /// }
    ///
    /// let name = "worker".to_owned();
    /// let start = Callback::<Start>::once(move || name.into_bytes().len() as u32)?;
    /// // SAFETY: it is called once.
    /// let thread = unsafe { start_thread(start.into_code()) };
    /// assert_eq!(thread.join().unwrap(), 6);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`]; the closure is dropped.
    pub fn once<'a, C: Send + 'a, Ways>(closure: C) -> Result<Once<'a, F>, Error>
    where
        F: HandledByOnce<C, Ways>,
    {
        Self::once_with(Options::new(), closure)
    }

    /// As [`Self::once`], with options; [`Self::from_ref_with`] has an example of these. (Its calls are counted
    /// whatever they say.)
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`]; the closure is dropped.
    pub fn once_with<'a, C: Send + 'a, Ways>(options: Options, closure: C) -> Result<Once<'a, F>, Error>
    where
        F: HandledByOnce<C, Ways>,
    {
        let single = Single { slot: None, is_taken: AtomicBool::new(false), closure: Some(closure) };
        let (data, owned) = Owned::new(single);
        // SAFETY: the thunk takes the data, which lives until a call or the handle drops it, as the module's text says.
        let binding = unsafe { Self::direct(false, F::thunk::<Single<C>>, data.as_ptr()).tracked() };
        // SAFETY: no call has come yet, and the box is there.
        let key = options.register_as(binding, |slot| unsafe { (*data.as_ptr()).slot = Some(slot) })?;
        Ok(Once { slot: key.slot(), owned: ManuallyDrop::new(owned), handler: PhantomData })
    }
}

impl<F: FunctionPointer> Once<'_, F> {
    /// What foreign code calls, once, while this handle lives. [`Callback::code`] says why calling it is unsafe.
    ///
    /// ```
    /// use calltable::Callback;
    ///
    /// type Wait = unsafe extern "efiapi" fn(bool);
    ///
    /// let (sender, receiver) = std::sync::mpsc::channel();
    /// let wait = Callback::<Wait>::once(move |timed_out| sender.send(timed_out).unwrap())?;
    /// // SAFETY: the handle lives.
    /// unsafe { wait.code()(false) };
    /// assert_eq!(receiver.iter().collect::<Vec<bool>>(), [false]); // and the sender is gone
    /// # Ok::<(), calltable::Error>(())
    /// ```
    #[must_use]
    pub fn code(&self) -> F {
        // SAFETY: the slot was registered with a handler for `F`.
        unsafe { F::from_code(self.slot.code()) }
    }

    /// The registration, to look at; the call ends it. Example: [`Callback::slot`].
    #[must_use]
    pub fn slot(&self) -> SlotId {
        self.slot
    }
}

impl<F: FunctionPointer> Once<'static, F> {
    /// Keeps the closure until its call, which may come at any time. If none comes, the slot is never given back.
    /// Example: [`Callback::once`].
    #[must_use]
    pub fn into_code(self) -> F {
        ManuallyDrop::new(self).code()
    }
}

impl<F: FunctionPointer> Drop for Once<'_, F> {
    fn drop(&mut self) {
        let ended = match table::release_slot(self.slot) {
            // SAFETY: it is dropped once, here; the call was not first, and does not run.
            Ok(()) => return unsafe { ManuallyDrop::drop(&mut self.owned) },
            Err(ReleaseError::NotLive) => table::wait_for_left(self.slot), // the call was first
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            stop_unless_kept(error);
        }
    }
}
