//! Panics that cross foreign frames: caught in the handler, resumed in the Rust code that made the foreign call.

use std::any::Any;
use std::boxed::Box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

/// Carries the first panic of one or more handlers past the foreign code that called them.
///
/// `Callback::scope` does all of it for typed callbacks; this is for others, such as dynamic ones.
///
/// ```
/// use calltable::{Callback, Caught, Convention, Dynamic, Signature, Type};
///
/// let caught = Caught::new();
/// let signature = Signature::new(Convention::C, &[Type::I32], Some(Type::I32))?;
/// let handler = Dynamic::new(signature, |frame| {
///     let result = caught.run(|| 10 / frame.get::<i32>(0).unwrap(), || -1);
///     frame.set_result(result).unwrap();
/// });
/// let callback = Callback::from_dynamic(&handler)?;
/// // SAFETY: that is the signature; `callback` lives.
/// let code = unsafe { callback.code().cast::<unsafe extern "efiapi" fn(i32) -> i32>() };
/// // SAFETY: as above.
/// let results = unsafe { [code(5), code(0), code(5)] };
/// assert_eq!(results, [2, -1, -1]); // after a panic, the fallback alone
/// # std::panic::set_hook(Box::new(|_| {}));
/// assert!(std::panic::catch_unwind(|| caught.resume()).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Caught {
    panic: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    panicked: bool,
    payload: Option<Box<dyn Any + Send>>,
}

impl Caught {
    /// Nothing is caught yet. Example: [`Self`].
    #[must_use]
    pub const fn new() -> Self {
        Self { panic: Mutex::new(State { panicked: false, payload: None }) }
    }

    /// Runs `work`; if it panics, keeps the panic and returns what `fallback` gives. Once something has panicked,
    /// `work` is not run any more, since it may see what the panic left half done: the result is the fallback's at
    /// once.
    ///
    /// ```
    /// use calltable::Caught;
    ///
    /// let caught = Caught::new();
    /// assert_eq!(caught.run(|| 42, || -1), 42);
    /// # std::panic::set_hook(Box::new(|_| {}));
    /// assert_eq!(caught.run(|| panic!("no such file"), || -1), -1);
    /// assert_eq!(caught.run(|| 42, || -1), -1); // not run any more
    /// ```
    pub fn run<R>(&self, work: impl FnOnce() -> R, fallback: impl FnOnce() -> R) -> R {
        if !self.state().panicked {
            // What `work` shares with others is seen again only by whoever resumes the panic, or after that.
            match catch_unwind(AssertUnwindSafe(work)) {
                Ok(result) => return result,
                Err(payload) => {
                    let mut state = self.state();
                    state.panicked = true;
                    state.payload.get_or_insert(payload);
                }
            }
        }
        fallback()
    }

    /// Continues the panic that was caught, if there was one: to be called when the foreign function has returned. The
    /// panic is kept no longer, but [`Self::run`] still runs nothing.
    ///
    /// ```
    /// use calltable::Caught;
    ///
    /// let caught = Caught::new();
    /// caught.resume(); // nothing was caught
    /// # std::panic::set_hook(Box::new(|_| {}));
    /// caught.run(|| panic!("no such file"), || ());
    /// let panic = std::panic::catch_unwind(|| caught.resume()).unwrap_err();
    /// assert_eq!(panic.downcast_ref(), Some(&"no such file"));
    /// ```
    ///
    /// # Panics
    /// If a panic was caught: with the same payload.
    pub fn resume(&self) {
        let payload = self.state().payload.take();
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
