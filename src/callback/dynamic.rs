//! Closures for signatures known only at run time.

use core::ffi::c_void;

use super::{Callback, Options};
use crate::entry::CodePointer;
use crate::error::Error;
use crate::frame::{Frame, RawFrame};
use crate::signature::Signature;
use crate::table::Binding;

/// A closure for a signature known only at run time: what [`Callback::from_dynamic`] takes.
#[derive(Debug)]
pub struct Dynamic<C> {
    pub(super) signature: Signature,
    pub(super) closure: C,
}

impl<C> Dynamic<C> {
    /// Joins a signature and a closure, for [`Callback::from_dynamic`].
    ///
    /// ```
    /// use calltable::{Callback, Convention, Dynamic, Signature, Type};
    ///
    /// let signature = Signature::new(Convention::C, &[Type::I32], Some(Type::I32))?;
    /// let double = Dynamic::new(signature, |frame| {
    ///     let number = frame.get::<i32>(0).unwrap();
    ///     frame.set_result(2 * number).unwrap();
    /// });
    /// let callback = Callback::from_dynamic(&double)?;
    /// // SAFETY: that is the signature.
    /// let code = unsafe { callback.code().cast::<unsafe extern "efiapi" fn(i32) -> i32>() };
    /// // SAFETY: the callback lives.
    /// assert_eq!(unsafe { code(21) }, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn new(signature: Signature, closure: C) -> Self
    where
        C: Fn(&mut Frame<'_>),
    {
        Self { signature, closure }
    }

    /// Joins a signature and a closure that changes what it captured, for [`Callback::from_dynamic_mut`].
    ///
    /// ```
    /// use calltable::{Callback, Convention, Dynamic, Signature, Type};
    ///
    /// let mut seen = Vec::new();
    /// let signature = Signature::new(Convention::C, &[Type::I32], None)?;
    /// let mut keep = Dynamic::new_mut(signature, |frame| seen.push(frame.get::<i32>(0)));
    /// let callback = Callback::from_dynamic_mut(&mut keep)?;
    /// // SAFETY: that is the signature.
    /// let code = unsafe { callback.code().cast::<unsafe extern "efiapi" fn(i32)>() };
    /// // SAFETY: the callback lives.
    /// unsafe { code(42) };
    /// drop(callback);
    /// assert_eq!(seen, [Ok(42)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn new_mut(signature: Signature, closure: C) -> Self
    where
        C: FnMut(&mut Frame<'_>),
    {
        Self { signature, closure }
    }
}

/// For a signature known only at run time; the code pointer is [cast](CodePointer::cast) to the type that it has.
impl<'a> Callback<'a, CodePointer> {
    /// Registers a closure that may be called by several threads at once.
    ///
    /// ```
    /// use calltable::{Callback, Convention, Dynamic, Signature, Type};
    ///
    /// // What a language runtime might have read from a declaration: double f(double, int)
    /// let signature = Signature::new(Convention::C, &[Type::F64, Type::I32], Some(Type::F64))?;
    /// let power = Dynamic::new(signature, |frame| {
    ///     let (base, exponent) = (frame.get::<f64>(0).unwrap(), frame.get::<i32>(1).unwrap());
    ///     frame.set_result(base.powi(exponent)).unwrap();
    /// });
    /// let callback = Callback::from_dynamic(&power)?;
    /// // SAFETY: that is the signature; `callback` lives.
    /// let result = unsafe { callback.code().cast::<unsafe extern "efiapi" fn(f64, i32) -> f64>()(1.5, 2) };
    /// assert_eq!(result, 2.25);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`].
    pub fn from_dynamic<C: Fn(&mut Frame<'_>) + Sync>(handler: &'a Dynamic<C>) -> Result<Self, Error> {
        Self::from_dynamic_with(Options::new(), handler)
    }

    /// As [`Self::from_dynamic`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`].
    pub fn from_dynamic_with<C: Fn(&mut Frame<'_>) + Sync>(
        options: Options,
        handler: &'a Dynamic<C>,
    ) -> Result<Self, Error> {
        unsafe extern "efiapi" fn handle<C: Fn(&mut Frame<'_>)>(data: *mut c_void, frame: *mut RawFrame) {
            // SAFETY: the data is the handler, borrowed while the registration lives; the frame is this call's own.
            unsafe {
                let Dynamic { signature, closure } = &*data.cast::<Dynamic<C>>();
                closure(&mut Frame::new(&mut *frame, signature));
            }
        }
        let data = (&raw const *handler).cast_mut().cast();
        // SAFETY: `handle` takes that data; `C` is `Sync`, and borrowed for as long as the handle lives.
        unsafe { Self::bind(options, Binding::frame(handle::<C>, &handler.signature, data)) }
    }

    /// Registers a closure that may run only once at a time: a call that comes while it runs, on this thread or
    /// another, is stale ([`StaleReason::Running`](crate::StaleReason::Running)). Example: [`Dynamic::new_mut`].
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`].
    pub fn from_dynamic_mut<C: FnMut(&mut Frame<'_>) + Send>(handler: &'a mut Dynamic<C>) -> Result<Self, Error> {
        Self::from_dynamic_mut_with(Options::new(), handler)
    }

    /// As [`Self::from_dynamic_mut`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`].
    pub fn from_dynamic_mut_with<C: FnMut(&mut Frame<'_>) + Send>(
        options: Options,
        handler: &'a mut Dynamic<C>,
    ) -> Result<Self, Error> {
        unsafe extern "efiapi" fn handle<C: FnMut(&mut Frame<'_>)>(data: *mut c_void, frame: *mut RawFrame) {
            // SAFETY: the data is the handler, borrowed while the registration lives, and no other call runs: the
            // registration is exclusive; the frame is this call's own.
            unsafe {
                let Dynamic { signature, closure } = &mut *data.cast::<Dynamic<C>>();
                closure(&mut Frame::new(&mut *frame, signature));
            }
        }
        let data = (&raw mut *handler).cast();
        // SAFETY: `handle` takes that data; `C` is `Send`, and borrowed for as long as the handle lives.
        unsafe { Self::bind(options, Binding::frame(handle::<C>, &handler.signature, data).exclusive()) }
    }
}
