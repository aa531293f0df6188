//! Typed handles: closures and functions with data as function pointers.
//!
//! # Why safe code cannot misuse them
//! To call a code pointer is unsafe, so whoever does it has to know that the handle lives. All that a handler relies on
//! beyond that follows from what safe code cannot change:
//! - The closure, the data and the function are there: the handle borrows the first two (`'a`) or owns the closure
//!   (`owned`), and what the function's type holds outlives `'a`, too. `leak` and a handle that is stored for ever want
//!   `'static`.
//! - Threads: foreign code may call from any. What several calls may use at once is `Sync`; what one call at a time
//!   changes is `Send`, and its registration is exclusive.
//! - Nobody else ends or changes the registration: its [`SlotKey`](table::SlotKey) never leaves the handle, and a
//!   [`SlotId`] only looks.
//! - A handle that is rebound is consumed, as by a drop: its registration ends before its closure is dropped, and that
//!   of the other handle before its closure is called by the new code pointer. So no closure is called by two
//!   registrations, and an exclusive one runs once at a time. The code pointer keeps its type.
//! - Drop releases before the borrow ends, and before a closure that the handle owns is dropped. An exclusive or
//!   tracked callback waits there for its running calls. For any other one the caller of the code pointer has promised
//!   that none runs.
//! - A panic does not unwind into foreign frames: the handlers are functions of an ABI that aborts. Where the function
//!   pointer's own ABI says that it does (`-unwind`), so does the handler's. That the frames further out can be
//!   unwound, whoever calls has to know. Nothing of the registration is left half done: a counted call is taken off the
//!   count on the way (`seh::unwound`, on Windows the dispatcher's own handlers). Where that cannot be (see "Limits and
//!   other tools"), it counts for ever: an exclusive callback refuses further calls, and a drop waits, so the closure
//!   stays.
//! - What could drop frames of safe code, a contained exception, or make up results, the stale handler, is unsafe to
//!   set up.

mod contained;
mod dynamic;
#[cfg(feature = "std")]
mod here;
#[cfg(feature = "alloc")]
mod once;
mod options;
#[cfg(feature = "alloc")]
mod owned;
#[cfg(not(feature = "alloc"))]
mod owned {
    /// There is none.
    pub(super) type Owned<'a> = core::convert::Infallible;
}
mod pointer;
#[cfg(feature = "std")]
mod scope;
mod thunks;
mod typed;

use core::marker::PhantomData;
use core::mem::ManuallyDrop;

use crate::entry::CodePointer;
use crate::error::{Error, NotRebound, NotReleased, ReleaseError};
use crate::platform;
use crate::table::{self, Binding, SlotId};

pub use contained::Contained;
pub use dynamic::Dynamic;
#[cfg(feature = "std")]
pub use here::Here;
#[cfg(feature = "alloc")]
pub use once::Once;
pub use options::Options;
use owned::Owned;
pub use pointer::{FunctionPointer, Method};
pub use thunks::{HandledBy, HandledByMut, HandledByOnce, HandledWith};

/// A closure, or a function with data, that foreign code can call through a bare function pointer of type `F`.
///
/// It owns a slot of the table, and borrows the closure or, with the feature `alloc`, owns it, too (`new`, `new_mut`):
/// dropping it gives the slot back, then the closure. Dropping waits for the table's lock and, if the callback is
/// exclusive or tracked, until no call of it is running. Such a callback must not be dropped in its own call: that
/// stops the program with a message, or, where it cannot be seen, waits for ever ("Limits and other tools" in the
/// guides). If such a callback ran in the parent when it forked, and the child drops it, that stops the child after a
/// second.
///
/// ```
/// use calltable::Callback;
///
/// type Visit = unsafe extern "efiapi" fn(u32, *const u8) -> i32;
///
/// /// Stands for a foreign function that takes a callback and nothing else.
/// unsafe fn enumerate(callback: Visit) -> i32 {
///     // SAFETY: by the caller's promise.
///     (0..3).map(|window| unsafe { callback(window, std::ptr::null()) }).sum()
/// }
///
/// let mut seen = Vec::new();
/// let mut closure = |window, _parameter| {
///     seen.push(window);
///     1
/// };
/// let callback = Callback::<Visit>::from_mut(&mut closure)?;
/// // SAFETY: `callback` lives until `enumerate` has returned, and `enumerate` keeps no copy of the pointer.
/// assert_eq!(unsafe { enumerate(callback.code()) }, 3);
/// drop(callback);
/// assert_eq!(seen, [0, 1, 2]);
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Panics in a closure
/// A panic does not leave a handler into foreign frames: it aborts the program. With the feature `std`,
/// `scope` and `scope_mut` carry it past them.
///
/// A function pointer whose ABI ends in `-unwind` says that they can be unwound. Then a panic, or an exception of C++
/// that the closure's own calls throw, passes through them; destructors run, those of the closure and those of the
/// foreign code. The callback is as before: the call is not counted any more, and the next one runs the same closure,
/// with what the panic has left in it. Whoever calls the pointer, or passes it on, has to know that every frame up to
/// the one that catches lets exceptions pass: a Rust function that is `extern "C"` without `-unwind` aborts, and code
/// in C wants unwind data (`-fexceptions`). On x86_64 systems other than Windows, the frame that makes the call must
/// not itself drop or catch anything then: compilers and unwinders have a fault there ("Limits and other tools").
///
/// ```
/// use std::panic::catch_unwind;
///
/// use calltable::Callback;
///
/// # #[cfg(target_arch = "x86_64")]
/// type Divide = unsafe extern "win64-unwind" fn(i32, i32) -> i32;
/// # #[cfg(not(target_arch = "x86_64"))]
/// # type Divide = unsafe extern "C-unwind" fn(i32, i32) -> i32;
///
/// /// Stands for foreign code.
/// #[inline(never)]
/// unsafe fn foreign(divide: Divide, left: i32, right: i32) -> i32 {
///     // SAFETY: by the caller's promise.
///     unsafe { divide(left, right) }
/// }
///
/// let mut calls = 0;
/// let mut divide = |left: i32, right: i32| {
///     calls += 1;
///     left / right
/// };
/// let callback = Callback::<Divide>::from_mut(&mut divide)?;
/// let code = callback.code();
/// # std::panic::set_hook(Box::new(|_| {}));
/// // SAFETY: the callback lives, and a panic may pass.
/// assert!(catch_unwind(|| unsafe { foreign(code, 84, 0) }).is_err());
/// // SAFETY: as above.
/// assert_eq!(unsafe { foreign(code, 84, 2) }, 42); // the call before does not count as running
/// drop(callback);
/// assert_eq!(calls, 2);
/// # Ok::<(), calltable::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping it makes the code pointer stale"]
pub struct Callback<'a, F: FunctionPointer> {
    slot: SlotId,
    /// Dropped after the release.
    owned: Option<Owned<'a>>,
    handler: PhantomData<(&'a (), F)>,
}

impl<F: FunctionPointer> Callback<'_, F> {
    /// What foreign code calls: a bare function pointer.
    ///
    /// Calling it is unsafe since the compiler cannot see how long foreign code keeps it. When this handle is dropped,
    /// no call may be running or begin: one that is running would lose its closure, unless the callback is
    /// [tracked](Options::tracked) or exclusive. (One that begins later is caught: [`crate::set_stale_handler`].) If
    /// the handle is forgotten instead, no call may come after the closure is gone.
    ///
    /// ```
    /// use calltable::Callback;
    ///
    /// type Compare = unsafe extern "efiapi" fn(i32, i32) -> i32;
    ///
    /// let origin = 40;
    /// let by_distance = |left: i32, right: i32| (left - origin).abs() - (right - origin).abs();
    /// let callback = Callback::<Compare>::from_ref(&by_distance)?;
    /// let code: Compare = callback.code();
    /// // SAFETY: the callback lives.
    /// assert_eq!(unsafe { code(38, 43) }, -1);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    #[must_use]
    pub fn code(&self) -> F {
        // SAFETY: the slot was registered with a handler for `F`.
        unsafe { F::from_code(self.slot.code()) }
    }

    /// The callback's registration, to look at: [`table::live_slot`] and [`table::list`] know it.
    ///
    /// ```
    /// use calltable::{Callback, table};
    ///
    /// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref(&|| 42)?;
    /// let slot = callback.slot();
    /// assert!(table::list().any(|live| live.slot == slot));
    /// drop(callback);
    /// assert!(!table::list().any(|live| live.slot == slot));
    /// # Ok::<(), calltable::Error>(())
    /// ```
    #[must_use]
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// Gives the slot back without waiting, where a drop would wait.
    ///
    /// ```
    /// use calltable::{Callback, NotReleased, ReleaseError};
    ///
    /// let mut callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref(&|| 42)?;
    /// while let Err(NotReleased { handle, error }) = callback.try_release() {
    ///     assert_eq!(error, ReleaseError::Busy);
    ///     callback = handle; // an interrupt handler would keep it for the next interrupt
    /// }
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// The handle comes back with [`ReleaseError::Busy`] or [`ReleaseError::Sealed`] (nothing has changed) or
    /// [`ReleaseError::InFlight`] (new calls are refused already, running ones continue).
    pub fn try_release(self) -> Result<(), NotReleased<Self>> {
        match table::try_release_slot(self.slot) {
            Err(error @ (ReleaseError::Busy | ReleaseError::InFlight | ReleaseError::Sealed)) => {
                Err(NotReleased { handle: self, error })
            }
            _ => {
                ManuallyDrop::new(self).owned = None;
                Ok(())
            }
        }
    }
}

impl<'a, F: FunctionPointer> Callback<'a, F> {
    /// The same callback without its type, so that callbacks of different types fit in one list.
    ///
    /// ```
    /// use calltable::{Callback, CodePointer};
    ///
    /// let add = |left: i32, right: i32| left + right;
    /// let callbacks: Vec<Callback<'_, CodePointer>> = vec![
    ///     Callback::<unsafe extern "efiapi" fn(i32, i32) -> i32>::from_ref(&add)?.untyped(),
    ///     Callback::<unsafe extern "efiapi" fn() -> usize>::from_ref(&|| 42)?.untyped(),
    /// ];
    /// // SAFETY: that is the type of the first one, which lives.
    /// let sum = unsafe { callbacks[0].code().cast::<unsafe extern "efiapi" fn(i32, i32) -> i32>()(40, 2) };
    /// assert_eq!(sum, 42);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    pub fn untyped(self) -> Callback<'a, CodePointer> {
        let mut typed = ManuallyDrop::new(self);
        Callback { slot: typed.slot, owned: typed.owned.take(), handler: PhantomData }
    }
}

impl<'a, F: FunctionPointer> Callback<'a, F> {
    /// Gives this callback's code pointer to another callback, whose own one becomes stale: foreign code that has the
    /// pointer calls the other's closure from now on. What is dropped of this one is dropped when its registration has
    /// ended, and waits as a drop does.
    ///
    /// A call that begins while this function runs is served by the one or the other, or is stale.
    ///
    /// ```
    /// use calltable::Callback;
    ///
    /// type Scale = unsafe extern "efiapi" fn(i32) -> i32;
    ///
    /// let callback = Callback::<Scale>::from_ref(&|number| 2 * number)?;
    /// let code = callback.code(); // foreign code has stored it
    /// let callback = callback.rebind(Callback::from_ref(&|number| 3 * number)?).unwrap();
    /// // SAFETY: the callback lives.
    /// assert_eq!(unsafe { code(14) }, 42);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// Both handles come back, this one first. This one's code pointer is as it was, but takes no calls after
    /// [`ReleaseError::InFlight`] and [`ReleaseError::OwnCall`]; the other's has become stale if it says
    /// [`NotEnded`](crate::RebindError::NotEnded).
    #[allow(clippy::result_large_err, reason = "it has both handles")]
    pub fn rebind<'b>(self, other: Callback<'b, F>) -> Result<Callback<'b, F>, NotRebound<(Self, Callback<'b, F>)>> {
        let mut other = other;
        match table::rebind_to(self.slot, other.slot) {
            Ok(slot) => {
                let mut other = ManuallyDrop::new(other);
                ManuallyDrop::new(self).owned = None;
                Ok(Callback { slot, owned: other.owned.take(), handler: PhantomData })
            }
            Err((error, slot)) => {
                other.slot = slot;
                Err(NotRebound { handle: (self, other), error })
            }
        }
    }
}

impl<F: FunctionPointer> Callback<'static, F> {
    /// Reserves a slot: its code pointer can be stored where foreign code will look for it, before there is a closure.
    /// [`Self::rebind`] gives it one; until then its calls are stale
    /// ([`StaleReason::Unbound`](crate::StaleReason::Unbound)).
    ///
    /// ```
    /// use calltable::Callback;
    ///
    /// type Answer = unsafe extern "efiapi" fn() -> i32;
    ///
    /// let reserved = Callback::<Answer>::unbound()?;
    /// let code = reserved.code();
    /// let closure = move || code as usize as i32; // it knows its own code pointer
    /// let callback = reserved.rebind(Callback::from_ref(&closure)?).unwrap();
    /// // SAFETY: the callback lives.
    /// assert_eq!(unsafe { callback.code()() }, code as usize as i32);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`].
    pub fn unbound() -> Result<Self, Error>
    where
        F: pointer::sealed::Typed,
    {
        // SAFETY: every call is refused.
        unsafe { Self::bind(Options::new(), Binding::unbound_in_shape(F::shape(false))) }
    }

    /// Keeps the callback for the rest of the program: the code pointer can be called for ever, and the slot is never
    /// given back.
    ///
    /// ```
    /// use calltable::Callback;
    ///
    /// type Double = unsafe extern "efiapi" fn(i32) -> i32;
    ///
    /// let double: Double = Callback::<Double>::from_ref(&|number| 2 * number)?.leak();
    /// // SAFETY: it lives for ever.
    /// assert_eq!(unsafe { double(21) }, 42);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    #[must_use]
    pub fn leak(self) -> F {
        ManuallyDrop::new(self).code()
    }
}

impl<F: FunctionPointer> Drop for Callback<'_, F> {
    fn drop(&mut self) {
        // The slot is this handle's own, so it cannot have been released by anybody else.
        if let Err(error) = table::release_slot(self.slot) {
            stop_unless_kept(error);
            _ = ManuallyDrop::new(self.owned.take()); // it may still be called, or run
        }
    }
}

/// What a drop does whose registration has not ended. It may return if the program keeps whatever a closure borrows.
fn stop_unless_kept(error: ReleaseError) {
    match error {
        ReleaseError::OwnCall => platform::stop(
            c"calltable: a callback that is exclusive or tracked was dropped in its own call, for whose end it would \
              wait: drop it after the call, or use try_release\n",
        ),
        // The closure may be in use.
        ReleaseError::InFlight if !platform::is_ending() => platform::stop(
            c"calltable: a child of fork dropped a callback that ran in the parent when it forked, and may never return \
              here: forget it, or use try_release\n",
        ),
        // In a sealed table it stays live: whoever sealed it has promised that what the slot refers to stays valid. Or
        // other threads are gone, and what they ran does not run any more, but has not ended.
        _ => {}
    }
}

impl<F: FunctionPointer> Callback<'_, F> {
    /// # Safety
    /// The registration must serve calls of type `F`, with data that lives as long as the handle.
    unsafe fn bind(options: Options, binding: Binding) -> Result<Self, Error> {
        Ok(Self { slot: options.register(binding)?.slot(), owned: None, handler: PhantomData })
    }
}
