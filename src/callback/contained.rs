//! Closures whose exceptions end in a policy.

use core::ffi::c_void;
use core::marker::PhantomData;

use super::thunks::Holds;
use super::{Callback, Dynamic, FunctionPointer, HandledBy, HandledByMut, Options};
use crate::entry::CodePointer;
use crate::error::Error;
use crate::frame::{Frame, RawFrame};
use crate::layout::OUTCOME_ROOM_SIZE;
use crate::seh::{Exception, ExceptionFilter, Outcome, Verdict};
use crate::table::Binding;

/// A closure and a policy for its exceptions: what [`Callback::from_contained`] takes.
///
/// The policy sees each exception that leaves the closure, on the stack of the exception. It may end it: then the
/// callback returns the policy's value. What that leaves behind, and what the closure must not hold at that moment:
/// [`seh`](crate::seh). A panic, which passes if the ABI of `F` ends in `-unwind`, is such an exception on Windows
/// alone. A policy returns `None` for it: one that is ended aborts the program.
///
/// ```
/// use calltable::seh::ACCESS_VIOLATION;
/// use calltable::{Callback, Contained, Error};
///
/// type Read = unsafe extern "efiapi" fn(*const u32) -> i64;
///
/// // SAFETY: not at all for any pointer; but a fault ends this callback, and not the program.
/// let read = |pointer: *const u32| i64::from(unsafe { pointer.read_volatile() });
/// let handler = Contained::new(read, |exception| (exception.code() == ACCESS_VIOLATION).then_some(-1));
/// // SAFETY: a read that faults leaves nothing that must be dropped.
/// match unsafe { Callback::<Read>::from_contained(&handler) } {
///     // SAFETY: the callback lives.
///     Ok(callback) => assert_eq!(unsafe { callback.code()(std::ptr::without_provenance(16)) }, -1),
///     Err(error) => assert_eq!(error, Error::NoExceptions), // not Windows, and nothing is declared
/// }
/// ```
#[repr(C)]
#[derive(Debug)]
pub struct Contained<F, C, X> {
    filter: ExceptionFilter,
    closure: C,
    policy: X,
    function: PhantomData<F>,
}

impl<F: FunctionPointer, C, X: Fn(&Exception) -> Option<F::Result>> Contained<F, C, X> {
    /// Joins a closure and a policy. The policy gives the value that the callback returns, or `None` for an exception
    /// that is none of its business. A result has at most 64 bytes; more do not compile.
    ///
    /// ```
    /// use calltable::seh::Exception;
    /// use calltable::{Callback, Contained, Error};
    ///
    /// type Double = unsafe extern "efiapi" fn(i32) -> i32;
    ///
    /// let handler = Contained::new(|number: i32| 2 * number, |_exception: &Exception| None); // it ends none
    /// // SAFETY: nothing ends within the closure.
    /// match unsafe { Callback::<Double>::from_contained(&handler) } {
    ///     // SAFETY: the callback lives.
    ///     Ok(callback) => assert_eq!(unsafe { callback.code()(21) }, 42),
    ///     Err(error) => assert_eq!(error, Error::NoExceptions), // not Windows, and nothing is declared
    /// }
    /// ```
    pub const fn new(closure: C, policy: X) -> Self {
        const {
            assert!(
                size_of::<F::Result>() <= OUTCOME_ROOM_SIZE,
                "calltable: a contained callback returns at most 64 bytes by value; return a pointer"
            );
        }
        unsafe extern "efiapi" fn filter<F: FunctionPointer, C, X: Fn(&Exception) -> Option<F::Result>>(
            data: *mut c_void,
            exception: *const Exception,
            outcome: *mut Outcome,
        ) -> Verdict {
            // SAFETY: the data is a `Contained`, whose closure may be in the middle of a change; of an answer the room
            // is large enough.
            unsafe {
                let policy = &raw const (*data.cast::<Contained<F, C, X>>()).policy;
                let Some(result) = (*policy)(&*exception) else { return Verdict::SEARCH_ON };
                (*outcome).handler = F::answering();
                (&raw mut (*outcome).room).cast::<F::Result>().write_unaligned(result);
            }
            Verdict::RETURN
        }
        Self { filter: filter::<F, C, X>, closure, policy, function: PhantomData }
    }
}

impl<F, C, X, R> Holds<R> for Contained<F, C, X> {
    type Closure = C;

    #[inline(always)]
    unsafe fn with(this: *mut Self, call: impl FnOnce(*mut C) -> R) -> R {
        // SAFETY: by the caller's promise it lives.
        call(unsafe { &raw mut (*this).closure })
    }
}

impl<'a, F: FunctionPointer> Callback<'a, F> {
    /// Registers a closure that may be called by several threads at once, and whose exceptions end here if its policy
    /// says so. Example: [`Contained`].
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::NoExceptions`].
    ///
    /// # Safety
    /// When the policy ends an exception, every frame between the fault and the dispatcher goes away as by `longjmp`.
    /// So nothing in these frames, whether of the closure or of what it has called, may have to be dropped, unlocked,
    /// joined or put back at that moment: [`seh`](crate::seh#what-an-ended-exception-leaves-behind) has examples of
    /// what that excludes.
    pub unsafe fn from_contained<C: Sync, X: Sync, Ways>(handler: &'a Contained<F, C, X>) -> Result<Self, Error>
    where
        F: HandledBy<C, Ways>,
    {
        // SAFETY: by the caller's promise.
        unsafe { Self::from_contained_with(Options::new(), handler) }
    }

    /// As [`Self::from_contained`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::NoExceptions`], [`Error::Busy`].
    ///
    /// # Safety
    /// As for [`Self::from_contained`].
    pub unsafe fn from_contained_with<C: Sync, X: Sync, Ways>(
        options: Options,
        handler: &'a Contained<F, C, X>,
    ) -> Result<Self, Error>
    where
        F: HandledBy<C, Ways>,
    {
        // SAFETY: the thunk takes a handler that is borrowed while the handle lives and begins with its filter; `C` and
        // `X` are `Sync`.
        unsafe {
            let binding = Self::direct(true, F::thunk::<Contained<F, C, X>>, &raw const *handler);
            Self::bind(options, binding.contained())
        }
    }

    /// As [`Self::from_contained`], which has an example, for a closure that changes what it captured; see
    /// [`Self::from_mut`]. After an exception has ended, the closure sees what it captured as the exception left it.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::NoExceptions`].
    ///
    /// # Safety
    /// As for [`Self::from_contained`]; and what the closure captured must be of use in the state in which any
    /// instruction of the closure leaves it.
    pub unsafe fn from_contained_mut<C: Send, X: Send, Ways>(handler: &'a mut Contained<F, C, X>) -> Result<Self, Error>
    where
        F: HandledByMut<C, Ways>,
    {
        // SAFETY: by the caller's promise.
        unsafe { Self::from_contained_mut_with(Options::new(), handler) }
    }

    /// As [`Self::from_contained_mut`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::NoExceptions`], [`Error::Busy`].
    ///
    /// # Safety
    /// As for [`Self::from_contained_mut`].
    pub unsafe fn from_contained_mut_with<C: Send, X: Send, Ways>(
        options: Options,
        handler: &'a mut Contained<F, C, X>,
    ) -> Result<Self, Error>
    where
        F: HandledByMut<C, Ways>,
    {
        // SAFETY: the thunk takes a handler that is borrowed while the handle lives and begins with its filter; `C` and
        // `X` are `Send`, and one call runs at a time.
        unsafe {
            let binding = Self::direct(true, F::thunk::<Contained<F, C, X>>, &raw mut *handler);
            Self::bind(options, binding.exclusive().contained())
        }
    }
}

impl<C> Dynamic<C> {
    /// Adds a policy for exceptions, for [`Callback::from_contained_dynamic`]. It gets a frame of the same call, and
    /// sets the result there for [`Verdict::RETURN`]; if it sets none, the callback returns zero. The bytes of a result
    /// in memory are as the closure has left them when the policy asks for them: with [`Verdict::CONTINUE`] the closure
    /// will continue with them.
    ///
    /// ```
    /// use calltable::seh::{ACCESS_VIOLATION, Verdict};
    /// use calltable::{Callback, Convention, Dynamic, Error, Signature, Type};
    /// use core::ffi::c_void;
    ///
    /// let signature = Signature::new(Convention::C, &[Type::Pointer], Some(Type::I32))?;
    /// let read = Dynamic::new(signature, |frame| {
    ///     let pointer = frame.get::<*const c_void>(0).unwrap().cast::<i32>();
    ///     // SAFETY: not at all for any pointer; but a fault ends this callback, and not the program.
    ///     let number = unsafe { pointer.read_volatile() };
    ///     frame.set_result(number).unwrap();
    /// });
    /// let handler = read.contained(|exception, frame| {
    ///     if exception.code() != ACCESS_VIOLATION {
    ///         return Verdict::SEARCH_ON;
    ///     }
    ///     frame.set_result(-1).unwrap();
    ///     Verdict::RETURN
    /// });
    /// // SAFETY: a read that faults leaves nothing that must be dropped.
    /// match unsafe { Callback::from_contained_dynamic(&handler) } {
    ///     Ok(callback) => {
    ///         // SAFETY: that is the signature.
    ///         let code = unsafe { callback.code().cast::<unsafe extern "efiapi" fn(*const i32) -> i32>() };
    ///         // SAFETY: the callback lives.
    ///         assert_eq!(unsafe { code(std::ptr::without_provenance(16)) }, -1);
    ///     }
    ///     Err(error) => assert_eq!(error, Error::NoExceptions), // not Windows, and nothing is declared
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn contained<X>(self, policy: X) -> Contained<CodePointer, Self, X>
    where
        X: Fn(&Exception, &mut Frame<'_>) -> Verdict,
    {
        unsafe extern "efiapi" fn filter<C, X: Fn(&Exception, &mut Frame<'_>) -> Verdict>(
            data: *mut c_void,
            exception: *const Exception,
            outcome: *mut Outcome,
        ) -> Verdict {
            let data = data.cast::<Contained<CodePointer, Dynamic<C>, X>>();
            // SAFETY: the data is a `Contained`, whose closure may be in the middle of a change; the answer has a frame
            // of the call.
            unsafe {
                let (signature, policy) = (&raw const (*data).closure.signature, &raw const (*data).policy);
                let mut frame = Frame::again(&mut (*outcome).frame, &*signature);
                let verdict = (*policy)(&*exception, &mut frame);
                if verdict.0 > 0 {
                    frame.clear_untouched();
                }
                verdict
            }
        }
        Contained { filter: filter::<C, X>, closure: self, policy, function: PhantomData }
    }
}

impl<'a> Callback<'a, CodePointer> {
    /// Registers a closure that may be called by several threads at once, and whose exceptions end here if its policy
    /// says so. Example: [`Dynamic::contained`].
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::NoExceptions`].
    ///
    /// # Safety
    /// When the policy ends an exception, every frame between the fault and the dispatcher goes away as by `longjmp`.
    /// So nothing in these frames, whether of the closure or of what it has called, may have to be dropped, unlocked,
    /// joined or put back at that moment: [`seh`](crate::seh#what-an-ended-exception-leaves-behind) has examples of
    /// what that excludes.
    pub unsafe fn from_contained_dynamic<C: Fn(&mut Frame<'_>) + Sync, X: Sync>(
        handler: &'a Contained<CodePointer, Dynamic<C>, X>,
    ) -> Result<Self, Error> {
        // SAFETY: by the caller's promise.
        unsafe { Self::from_contained_dynamic_with(Options::new(), handler) }
    }

    /// As [`Self::from_contained_dynamic`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::NoExceptions`], [`Error::Busy`].
    ///
    /// # Safety
    /// As for [`Self::from_contained_dynamic`].
    pub unsafe fn from_contained_dynamic_with<C: Fn(&mut Frame<'_>) + Sync, X: Sync>(
        options: Options,
        handler: &'a Contained<CodePointer, Dynamic<C>, X>,
    ) -> Result<Self, Error> {
        unsafe extern "efiapi" fn handle<C: Fn(&mut Frame<'_>), X>(data: *mut c_void, frame: *mut RawFrame) {
            // SAFETY: the data is the handler, borrowed while the registration lives; the frame is this call's own.
            unsafe {
                let Dynamic { signature, closure } = &(*data.cast::<Contained<CodePointer, Dynamic<C>, X>>()).closure;
                closure(&mut Frame::new(&mut *frame, signature));
            }
        }
        let data = (&raw const *handler).cast_mut().cast();
        let signature = &handler.closure.signature;
        // SAFETY: `handle` takes that data, which begins with its filter; `C` and `X` are `Sync`, and borrowed for as
        // long as the handle lives.
        unsafe { Self::bind(options, Binding::frame(handle::<C, X>, signature, data).contained()) }
    }
}
