//! Callbacks for as long as one foreign call takes; a panic passes the foreign frames.

use super::thunks::Holds;
use super::{Callback, FunctionPointer, HandledBy, HandledByMut, Options};
use crate::caught::Caught;
use crate::error::Error;

/// A closure whose panics are caught, and what is returned then.
struct Guarded<C, R> {
    closure: C,
    fallback: fn() -> R,
    caught: Caught,
}

impl<C, R> Holds<R> for Guarded<C, R> {
    type Closure = C;

    unsafe fn with(this: *mut Self, call: impl FnOnce(*mut C) -> R) -> R {
        // SAFETY: by the caller's promise it lives, and the closure is used as it may be; the other two are shared.
        unsafe { (*this).caught.run(|| call(&raw mut (*this).closure), (*this).fallback) }
    }
}

impl<F: FunctionPointer> Callback<'_, F> {
    /// Registers a closure, gives its code pointer to `foreign`, and releases it when that returns. If the closure
    /// panics, the callback returns what `fallback` gives, then and in every later call, and the panic continues when
    /// `foreign` has returned. So it is with a type whose ABI ends in `-unwind`, too: none of the closure's panics
    /// passes through the foreign code. (One of `fallback` does. An exception of C++ stops the program: Rust cannot
    /// catch it.)
    ///
    /// ```
    /// use calltable::Callback;
    ///
    /// type Compare = unsafe extern "efiapi" fn(i32, i32) -> i32;
    ///
    /// /// Stands for a foreign function that takes a callback and nothing else.
    /// unsafe fn largest(of: &[i32], compare: Compare) -> Option<i32> {
    ///     // SAFETY: by the caller's promise.
    ///     of.iter().copied().reduce(|a, b| if unsafe { compare(a, b) } < 0 { b } else { a })
    /// }
    ///
    /// let distance = 40;
    /// let compare = |a: i32, b: i32| (b - distance).abs() - (a - distance).abs();
    /// // SAFETY: the function keeps no copy of the pointer.
    /// let nearest = Callback::<Compare>::scope(compare, || 0, |code| unsafe { largest(&[7, 38, 99], code) })?;
    /// assert_eq!(nearest, Some(38));
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`]; `foreign` has not been called then.
    ///
    /// # Panics
    /// If the closure did.
    pub fn scope<C: Sync, T, Ways>(
        closure: C,
        fallback: fn() -> F::Result,
        foreign: impl FnOnce(F) -> T,
    ) -> Result<T, Error>
    where
        F: HandledBy<C, Ways>,
    {
        let guarded = Guarded { closure, fallback, caught: Caught::new() };
        let thunk = <F as HandledBy<C, Ways>>::thunk::<Guarded<C, F::Result>>;
        // SAFETY: the thunk takes what is released before it goes away; the closure is `Sync`.
        let callback = unsafe { Callback::bind(Options::new(), Self::direct(false, thunk, &raw const guarded))? };
        Ok(guarded.caught.pass(callback, foreign))
    }

    /// As [`Self::scope`], which has an example, for a closure that changes what it captured; see [`Self::from_mut`].
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`]; `foreign` has not been called then.
    ///
    /// # Panics
    /// If the closure did.
    pub fn scope_mut<C: Send, T, Ways>(
        closure: C,
        fallback: fn() -> F::Result,
        foreign: impl FnOnce(F) -> T,
    ) -> Result<T, Error>
    where
        F: HandledByMut<C, Ways>,
    {
        let mut guarded = Guarded { closure, fallback, caught: Caught::new() };
        let thunk = <F as HandledByMut<C, Ways>>::thunk::<Guarded<C, F::Result>>;
        // SAFETY: the thunk takes what is released before it goes away; the closure is `Send`, one call at a time.
        let callback =
            unsafe { Callback::bind(Options::new(), Self::direct(false, thunk, &raw mut guarded).exclusive())? };
        Ok(guarded.caught.pass(callback, foreign))
    }
}

impl Caught {
    /// Gives the code pointer to `foreign`, releases the callback, and continues with a panic that was caught.
    fn pass<F: FunctionPointer, T>(&self, callback: Callback<'_, F>, foreign: impl FnOnce(F) -> T) -> T {
        let result = foreign(callback.code());
        drop(callback);
        self.resume();
        result
    }
}
