//! Closures of one thread, which each call is checked against.
//!
//! # Why this is safe
//! The closure may be of any type: it is called, and dropped, by the thread that has made it and no other one. A call
//! looks at the thread before it touches the closure; the handle is neither `Send` nor `Sync`. If a thread ends and
//! leaves the closure to nobody (the handle was leaked), a later thread may be taken for it: then nobody else is left
//! that could use the closure at the same time.

use core::marker::PhantomData;
use core::ops::Deref;

use super::thunks::Holds;
use super::{Callback, FunctionPointer, HandledBy, Options};
use crate::error::Error;
use crate::platform;

std::thread_local! {
    /// Its address tells threads apart.
    static HERE: u8 = const { 0 };
}

fn here() -> *const u8 {
    HERE.with(|here| &raw const *here)
}

/// A closure and the thread that it belongs to.
struct OfThread<C> {
    thread: *const u8,
    closure: C,
}

impl<C, R> Holds<R> for OfThread<C> {
    type Closure = C;

    #[inline(always)]
    unsafe fn with(this: *mut Self, call: impl FnOnce(*mut C) -> R) -> R {
        // SAFETY: by the caller's promise it lives; the field does not change.
        if unsafe { (*this).thread } != here() {
            platform::stop(c"calltable: another thread than its own has called a callback of one thread\n");
        }
        // SAFETY: by the caller's promise it lives.
        call(unsafe { &raw mut (*this).closure })
    }
}

/// A callback whose closure one thread alone may call and drop: [`Callback::new_here`] makes one. With the feature
/// `std`.
///
/// ```compile_fail
/// use calltable::{Callback, Here};
///
/// fn send(_: impl Send) {}
/// send(Callback::<unsafe extern "efiapi" fn() -> i32>::new_here(|| 42).unwrap());
/// ```
#[derive(Debug)]
#[must_use = "dropping it makes the code pointer stale"]
pub struct Here<'a, F: FunctionPointer>(Callback<'a, F>, PhantomData<*const ()>);

impl<'a, F: FunctionPointer> Deref for Here<'a, F> {
    type Target = Callback<'a, F>;

    fn deref(&self) -> &Callback<'a, F> {
        &self.0
    }
}

impl<F: FunctionPointer> Here<'static, F> {
    /// As [`Callback::leak`]. The code pointer can be called for ever, by this thread.
    #[must_use]
    pub fn leak(self) -> F {
        self.0.leak()
    }
}

impl<'a, F: FunctionPointer> Callback<'a, F> {
    /// As [`Self::new`], for a closure of this thread: it may capture window handles, `Rc`, `Cell` and `RefCell`. A
    /// call may come while another one runs, as window procedures are called. If another thread calls the code pointer,
    /// that stops the program with a message. [`Self::new_local`] does not look, and promises instead. With the feature
    /// `std`.
    ///
    /// ```
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// use calltable::Callback;
    ///
    /// type Procedure = unsafe extern "efiapi" fn(usize, u32, usize, isize) -> isize;
    ///
    /// let messages = Rc::new(Cell::new(0));
    /// let seen = Rc::clone(&messages);
    /// let procedure = move |_window, _message, _, _| {
    ///     seen.set(seen.get() + 1);
    ///     0
    /// };
    /// let callback = Callback::<Procedure>::new_here(procedure)?;
    /// // SAFETY: the callback lives.
    /// unsafe { callback.code()(0, 15, 0, 0) };
    /// assert_eq!(messages.get(), 1);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`]; the closure is dropped.
    pub fn new_here<C: 'a, Ways>(closure: C) -> Result<Here<'a, F>, Error>
    where
        F: HandledBy<C, Ways>,
    {
        Self::new_here_with(Options::new(), closure)
    }

    /// As [`Self::new_here`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`]; the closure is dropped.
    pub fn new_here_with<C: 'a, Ways>(options: Options, closure: C) -> Result<Here<'a, F>, Error>
    where
        F: HandledBy<C, Ways>,
    {
        let closure = OfThread { thread: here(), closure };
        let bind = |data| {
            // SAFETY: the thunk takes a closure, which no other thread comes to.
            unsafe { Self::direct(false, F::thunk::<OfThread<C>>, data) }
        };
        // SAFETY: as above; the handle stays on this thread.
        Ok(Here(unsafe { Self::own(options, closure, bind)? }, PhantomData))
    }
}
