//! Callbacks that own their closures.

use alloc::boxed::Box;
use core::panic::{RefUnwindSafe, UnwindSafe};
use core::ptr::NonNull;

use super::thunks::Plain;
use super::{Callback, FunctionPointer, HandledBy, HandledByMut, Options};
use crate::error::Error;
use crate::table::Binding;

/// Of any type.
trait Anything {}
impl<T> Anything for T {}

/// A closure in a box, which calls use by its address; so it is no `Box` as long as there may be calls.
#[derive(Debug)]
pub(super) struct Owned<'a>(NonNull<dyn Anything + 'a>);

impl<'a> Owned<'a> {
    /// Puts a closure into a box, and says where it is. It is dropped whatever comes.
    pub(super) fn new<C: 'a>(closure: C) -> (NonNull<C>, Self) {
        let data = NonNull::from(Box::leak(Box::new(closure)));
        (data, Self(data))
    }
}

// SAFETY: nothing but dropping it uses the closure, which is `Send`, or whose maker has promised where it is dropped.
unsafe impl Send for Owned<'_> {}
// SAFETY: nothing can be done with a shared reference to it.
unsafe impl Sync for Owned<'_> {}

// A panic that passes a handle leaves nothing of the closure to be seen through it.
impl UnwindSafe for Owned<'_> {}
impl RefUnwindSafe for Owned<'_> {}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        // SAFETY: it came from a box, and no call uses it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl<'a, F: FunctionPointer> Callback<'a, F> {
    /// Registers a closure that may be called by several threads at once, and keeps it: the handle can be stored,
    /// returned and moved. With the feature `alloc`; the closure is put into a box, the table allocates nothing.
    ///
    /// ```
    /// use calltable::{Callback, Error};
    ///
    /// type Hook = unsafe extern "efiapi" fn(i32, usize, isize) -> isize;
    ///
    /// struct Logger {
    ///     hook: Callback<'static, Hook>,
    /// }
    ///
    /// fn logger(name: String) -> Result<Logger, Error> {
    ///     let hook = Callback::new(move |code, _, _| name.len() as isize + code as isize)?;
    ///     Ok(Logger { hook })
    /// }
    ///
    /// let logger = logger("keys".to_owned())?;
    /// // SAFETY: it lives.
    /// assert_eq!(unsafe { logger.hook.code()(38, 0, 0) }, 42);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`]; the closure is dropped.
    pub fn new<C: Send + Sync + 'a, Ways>(closure: C) -> Result<Self, Error>
    where
        F: HandledBy<C, Ways>,
    {
        Self::new_with(Options::new(), closure)
    }

    /// As [`Self::new`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`]; the closure is dropped.
    pub fn new_with<C: Send + Sync + 'a, Ways>(options: Options, closure: C) -> Result<Self, Error>
    where
        F: HandledBy<C, Ways>,
    {
        // SAFETY: the closure is `Sync`, and may be dropped by whatever thread has the handle.
        unsafe { Self::new_local_with(options, closure) }
    }

    /// Registers a closure that may run only once at a time, as [`Self::from_mut`] does, and keeps it, as [`Self::new`]
    /// does.
    ///
    /// ```
    /// use calltable::Callback;
    ///
    /// let mut calls = 0;
    /// let count = move || {
    ///     calls += 1;
    ///     calls
    /// };
    /// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::new_mut(count)?;
    /// // SAFETY: the callback lives.
    /// assert_eq!(unsafe { [callback.code()(), callback.code()()] }, [1, 2]);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`]; the closure is dropped.
    pub fn new_mut<C: Send + 'a, Ways>(closure: C) -> Result<Self, Error>
    where
        F: HandledByMut<C, Ways>,
    {
        Self::new_mut_with(Options::new(), closure)
    }

    /// As [`Self::new_mut`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`]; the closure is dropped.
    pub fn new_mut_with<C: Send + 'a, Ways>(options: Options, closure: C) -> Result<Self, Error>
    where
        F: HandledByMut<C, Ways>,
    {
        // SAFETY: the thunk takes a closure; it is `Send`, and one call runs at a time.
        unsafe { Self::own(options, closure, |data| Self::direct(false, F::thunk::<Plain<C>>, data).exclusive()) }
    }

    /// As [`Self::new`], for a closure of one thread: it may capture window handles, `Rc`, `Cell` and `RefCell`. A call
    /// may come while another one runs, as window procedures are called.
    ///
    /// ```
    /// use std::cell::RefCell;
    /// use std::rc::Rc;
    ///
    /// use calltable::Callback;
    ///
    /// type Procedure = unsafe extern "efiapi" fn(usize, u32, usize, isize) -> isize;
    ///
    /// let messages = Rc::new(RefCell::new(Vec::new()));
    /// let seen = Rc::clone(&messages);
    /// let procedure = move |_window, message, _, _| {
    ///     seen.borrow_mut().push(message);
    ///     0
    /// };
    /// // SAFETY: a window's messages come to the thread that has made it, which drops the callback, too.
    /// let callback = unsafe { Callback::<Procedure>::new_local(procedure)? };
    /// // SAFETY: the callback lives.
    /// unsafe { callback.code()(0, 15, 0, 0) };
    /// drop(callback);
    /// assert_eq!(Rc::into_inner(messages).map(RefCell::into_inner), Some(vec![15]));
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`]; the closure is dropped.
    ///
    /// # Safety
    /// If the closure is not `Sync`, no thread but this one may call the code pointer. If it is not `Send`, no other
    /// one may drop the handle.
    pub unsafe fn new_local<C: 'a, Ways>(closure: C) -> Result<Self, Error>
    where
        F: HandledBy<C, Ways>,
    {
        // SAFETY: by the caller's promise.
        unsafe { Self::new_local_with(Options::new(), closure) }
    }

    /// As [`Self::new_local`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`]; the closure is dropped.
    ///
    /// # Safety
    /// As for [`Self::new_local`].
    pub unsafe fn new_local_with<C: 'a, Ways>(options: Options, closure: C) -> Result<Self, Error>
    where
        F: HandledBy<C, Ways>,
    {
        // SAFETY: the thunk takes a closure, which by the caller's promise is used by threads that may.
        unsafe { Self::own(options, closure, |data| Self::direct(false, F::thunk::<Plain<C>>, data)) }
    }

    /// # Safety
    /// `bind` must make a registration that serves calls of type `F` with that data, a closure, on whatever thread it
    /// may be called; and any thread that has the handle may drop the closure.
    pub(super) unsafe fn own<C: 'a>(
        options: Options,
        closure: C,
        bind: impl FnOnce(*const C) -> Binding,
    ) -> Result<Self, Error> {
        let (data, owned) = Owned::new(closure);
        // SAFETY: the closure lives as long as the handle that gets it, which is dropped after the release.
        let mut callback = unsafe { Self::bind(options, bind(data.as_ptr()))? };
        callback.owned = Some(owned);
        Ok(callback)
    }
}
