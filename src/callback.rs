//! Typed handles: closures and functions with data as function pointers.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use crate::arch;
use crate::context::layout::ANSWER_ROOM_SIZE;
use crate::error::{Error, ReleaseError};
use crate::frame::{Frame, RawFrame};
use crate::seh::{Answer, Exception, ExceptionFilter, Verdict};
use crate::signature::Signature;
use crate::table::{self, CodePointer, Registration, Slot};

/// A type of function pointer that foreign code can be given.
///
/// These are `unsafe` function pointers with 0 to 16 parameters, and [`CodePointer`], for a signature known only at run
/// time. They are `unsafe` since the code behind them goes away with its [`Callback`].
///
/// | target | conventions |
/// | --- | --- |
/// | x86_64 | `extern "win64"`, `extern "efiapi"`; on Windows and UEFI also `extern "C"` and `extern "system"` |
/// | i686 | `extern "stdcall"`, `"cdecl"`, `"thiscall"`, `"fastcall"`, `"C"`, `"system"`, `"efiapi"` |
///
/// On x86_64 all of them are the Microsoft x64 convention to the foreign code. Rust itself, up to the 1.95 that this was
/// tried with, calls an `"efiapi"` pointer on targets other than Windows and UEFI with structures passed by System V
/// rules: write `"win64"` there if Rust code is to call it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no function pointer that this target's foreign code can be given",
    label = "not a callback's type",
    note = "write `unsafe extern` and, on x86_64, \"win64\" or \"efiapi\" (on Windows and UEFI also \"system\" or \"C\"); on \
            i686 \"stdcall\", \"cdecl\", \"thiscall\", \"fastcall\", \"C\" or \"system\"",
    note = "a callback has at most 16 parameters, and none of them is a reference with a lifetime of its own: pass \
            a raw pointer"
)]
pub trait FunctionPointer: Copy + sealed::Sealed {
    /// What it returns; nothing for a [`CodePointer`], whose result depends on its signature.
    type Result;
    #[doc(hidden)]
    unsafe fn from_code(code: CodePointer) -> Self;
    /// A handler of this type, plus its data, that returns what the data points to.
    #[doc(hidden)]
    fn answering() -> *const c_void;
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for CodePointer {}
impl FunctionPointer for CodePointer {
    type Result = ();
    unsafe fn from_code(code: CodePointer) -> Self {
        code
    }
    fn answering() -> *const c_void {
        core::ptr::null()
    }
}

/// How to register.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Options {
    tracked: bool,
    no_wait: bool,
}

impl Options {
    /// Not tracked; waits for the table's lock.
    pub const fn new() -> Self {
        Self { tracked: false, no_wait: false }
    }

    /// Counts the calls that are running, so that release and drop wait until there are none. What that costs a call,
    /// and what it does not cover: [`Registration::tracked`].
    pub const fn tracked(self) -> Self {
        Self { tracked: true, ..self }
    }

    /// Fails with [`Error::Busy`] at once if the table's lock is taken; for interrupt handlers.
    pub const fn no_wait(self) -> Self {
        Self { no_wait: true, ..self }
    }

    fn register(self, registration: Registration) -> Result<Slot, Error> {
        let registration = if self.tracked { registration.tracked() } else { registration };
        if self.no_wait { table::try_register(&registration) } else { table::register(&registration) }
    }
}

/// A closure, or a function with data, that foreign code can call through a bare function pointer of type `F`.
///
/// It borrows the closure and owns a slot of the table; dropping it gives both back. Dropping waits for the table's
/// lock and, if the callback is exclusive or tracked, until no call of it is running: such a callback must not be
/// dropped by its own handler.
///
/// ```
/// use calltable::Callback;
///
/// /// Stands for a foreign function that takes a callback and nothing else.
/// unsafe fn enumerate(callback: unsafe extern "win64" fn(u32, *const u8) -> i32) -> i32 {
///     (0..3).map(|window| unsafe { callback(window, std::ptr::null()) }).sum()
/// }
///
/// let mut seen = Vec::new();
/// let mut closure = |window, _parameter| {
///     seen.push(window);
///     1
/// };
/// let callback = Callback::<unsafe extern "win64" fn(u32, *const u8) -> i32>::from_mut(&mut closure)?;
/// // SAFETY: `callback` lives until `enumerate` has returned, and `enumerate` keeps no copy of the pointer.
/// assert_eq!(unsafe { enumerate(callback.code()) }, 3);
/// drop(callback);
/// assert_eq!(seen, [0, 1, 2]);
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Panics in a closure
/// A panic never leaves a handler into foreign frames: it aborts the program. With the feature `std`,
/// `scope` and `scope_mut` carry it past them.
#[derive(Debug)]
#[must_use = "dropping it makes the code pointer stale"]
pub struct Callback<'a, F: FunctionPointer> {
    slot: Slot,
    handler: PhantomData<(&'a (), F)>,
}

impl<F: FunctionPointer> Callback<'_, F> {
    /// What foreign code calls.
    ///
    /// Calling it is unsafe since the compiler cannot see how long foreign code keeps it: no call may begin or be
    /// running when this handle is dropped (one that begins later is caught, see [`crate::set_stale_handler`]; one
    /// that is running would lose its closure, unless the callback is [tracked](Options::tracked) or exclusive). If a
    /// handle is forgotten instead, no call may come after the closure is gone.
    #[must_use]
    pub fn code(&self) -> F {
        // SAFETY: the slot was registered with a handler for `F`.
        unsafe { F::from_code(self.slot.code()) }
    }

    /// The slot, for [`table::entry`].
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Gives the slot back without waiting.
    ///
    /// # Errors
    /// The handle comes back with [`ReleaseError::Busy`] or [`ReleaseError::Sealed`] (nothing has changed) or
    /// [`ReleaseError::InFlight`] (new calls are refused already, running ones go on).
    pub fn try_release(self) -> Result<(), (Self, ReleaseError)> {
        match table::try_release(self.slot) {
            Err(error @ (ReleaseError::Busy | ReleaseError::InFlight | ReleaseError::Sealed)) => Err((self, error)),
            _ => {
                let _released = ManuallyDrop::new(self);
                Ok(())
            }
        }
    }
}

impl<'a, F: FunctionPointer> Callback<'a, F> {
    /// The same callback without its type: callbacks of different types fit in one list then.
    pub fn untyped(self) -> Callback<'a, CodePointer> {
        Callback { slot: ManuallyDrop::new(self).slot, handler: PhantomData }
    }
}

impl<F: FunctionPointer> Callback<'static, F> {
    /// Keeps the callback for the rest of the program.
    #[must_use]
    pub fn leak(self) -> F {
        ManuallyDrop::new(self).code()
    }
}

impl<F: FunctionPointer> Drop for Callback<'_, F> {
    fn drop(&mut self) {
        // The slot is this handle's own, so it cannot have been released by anybody else. In a sealed table it stays live:
        // whoever sealed it has promised that what the slot refers to stays valid.
        let _ = table::release(self.slot);
    }
}

/// A closure for a signature known only at run time: what [`Callback::from_dynamic`] takes.
#[derive(Debug)]
pub struct Dynamic<C> {
    signature: Signature,
    closure: C,
}

impl<C> Dynamic<C> {
    /// Joins the two, for [`Callback::from_dynamic`].
    pub const fn new(signature: Signature, closure: C) -> Self
    where
        C: Fn(&mut Frame<'_>),
    {
        Self { signature, closure }
    }

    /// Joins the two, for [`Callback::from_dynamic_mut`].
    pub const fn new_mut(signature: Signature, closure: C) -> Self
    where
        C: FnMut(&mut Frame<'_>),
    {
        Self { signature, closure }
    }
}

/// A closure and a policy for its exceptions: what `Callback::from_contained` takes.
///
/// The policy sees each exception that leaves the closure, on the stack of the exception. It may end it: then the
/// callback returns the policy's value. What that leaves behind, and what the closure must not hold at that moment:
/// [`seh`](crate::seh).
///
/// ```no_run
/// use calltable::seh::ACCESS_VIOLATION;
/// use calltable::{Callback, Contained};
///
/// type Read = unsafe extern "efiapi" fn(*const u32) -> i64;
///
/// // SAFETY: not at all for any pointer; but a fault ends this callback, and not the program.
/// let read = |pointer: *const u32| i64::from(unsafe { pointer.read_volatile() });
/// let handler = Contained::new(read, |exception| (exception.code() == ACCESS_VIOLATION).then_some(-1));
/// let callback = Callback::<Read>::from_contained(&handler)?; // elsewhere after seh::declare
/// // SAFETY: the callback lives.
/// assert_eq!(unsafe { callback.code()(std::ptr::without_provenance(16)) }, -1);
/// # Ok::<(), calltable::Error>(())
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
    /// Joins the two. The policy gives the value that the callback returns, or `None` for an exception that is none of
    /// its business. A result has at most 64 bytes; more do not compile.
    pub const fn new(closure: C, policy: X) -> Self {
        const {
            assert!(
                size_of::<F::Result>() <= ANSWER_ROOM_SIZE,
                "calltable: a contained callback returns at most 64 bytes by value; return a pointer"
            );
        }
        unsafe extern "efiapi" fn filter<F: FunctionPointer, C, X: Fn(&Exception) -> Option<F::Result>>(
            data: *mut c_void,
            exception: *const Exception,
            answer: *mut Answer,
        ) -> Verdict {
            // SAFETY: the data is a `Contained`, whose closure may be in the middle of a change; of an answer the room
            // is large enough.
            unsafe {
                let policy = &raw const (*data.cast::<Contained<F, C, X>>()).policy;
                let Some(result) = (*policy)(&*exception) else { return Verdict::SEARCH_ON };
                (*answer).handler = F::answering();
                (&raw mut (*answer).room).cast::<F::Result>().write_unaligned(result);
            }
            Verdict::RETURN
        }
        Self { filter: filter::<F, C, X>, closure, policy, function: PhantomData }
    }
}

impl<C> Dynamic<C> {
    /// Adds a policy for exceptions, for [`Callback::from_contained_dynamic`]. It gets a frame of the same call, in which
    /// it sets the result for [`Verdict::RETURN`]; else the callback returns zero.
    pub const fn contained<X>(self, policy: X) -> Contained<CodePointer, Self, X>
    where
        X: Fn(&Exception, &mut Frame<'_>) -> Verdict,
    {
        unsafe extern "efiapi" fn filter<C, X: Fn(&Exception, &mut Frame<'_>) -> Verdict>(
            data: *mut c_void,
            exception: *const Exception,
            answer: *mut Answer,
        ) -> Verdict {
            let data = data.cast::<Contained<CodePointer, Dynamic<C>, X>>();
            // SAFETY: the data is a `Contained`, whose closure may be in the middle of a change; the answer has a frame
            // of the call.
            unsafe {
                let (signature, policy) = (&raw const (*data).closure.signature, &raw const (*data).policy);
                (*policy)(&*exception, &mut Frame::new(&mut (*answer).frame, &*signature))
            }
        }
        Contained { filter: filter::<C, X>, closure: self, policy, function: PhantomData }
    }
}

/// ```
/// use calltable::{Callback, Convention, Dynamic, Signature, Type};
///
/// // What a language runtime might have read from a declaration: double f(double, int)
/// let signature = Signature::new(Convention::Win64, &[Type::F64, Type::I32], Some(Type::F64))?;
/// let power = Dynamic::new(signature, |frame| {
///     let (base, exponent) = (frame.get::<f64>(0).unwrap(), frame.get::<i32>(1).unwrap());
///     frame.set_result(base.powi(exponent)).unwrap();
/// });
/// let callback = Callback::from_dynamic(&power)?;
/// // SAFETY: that is the signature; `callback` lives.
/// let result = unsafe { callback.code().cast::<unsafe extern "win64" fn(f64, i32) -> f64>()(1.5, 2) };
/// assert_eq!(result, 2.25);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<'a> Callback<'a, CodePointer> {
    /// Registers a closure that may be called by several threads at once.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`].
    pub fn from_dynamic<C: Fn(&mut Frame<'_>) + Sync>(handler: &'a Dynamic<C>) -> Result<Self, Error> {
        Self::from_dynamic_with(Options::new(), handler)
    }

    /// As [`Self::from_dynamic`], with options.
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
        unsafe { Self::bind(options, Registration::frame(handle::<C>, &handler.signature, data)) }
    }

    /// Registers a closure that may run only once at a time; a call that comes while it runs is stale.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`].
    pub fn from_dynamic_mut<C: FnMut(&mut Frame<'_>) + Send>(handler: &'a mut Dynamic<C>) -> Result<Self, Error> {
        Self::from_dynamic_mut_with(Options::new(), handler)
    }

    /// As [`Self::from_dynamic_mut`], with options.
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
        unsafe { Self::bind(options, Registration::frame(handle::<C>, &handler.signature, data).exclusive()) }
    }

    /// Registers a closure that may be called by several threads at once, and whose exceptions end here if its policy
    /// says so.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::NoExceptions`].
    pub fn from_contained_dynamic<C: Fn(&mut Frame<'_>) + Sync, X: Sync>(
        handler: &'a Contained<CodePointer, Dynamic<C>, X>,
    ) -> Result<Self, Error> {
        Self::from_contained_dynamic_with(Options::new(), handler)
    }

    /// As [`Self::from_contained_dynamic`], with options.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::NoExceptions`], [`Error::Busy`].
    pub fn from_contained_dynamic_with<C: Fn(&mut Frame<'_>) + Sync, X: Sync>(
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
        // SAFETY: `handle` takes that data, which begins with its filter; `C` and `X` are `Sync`, and borrowed for as long
        // as the handle lives.
        unsafe { Self::bind(options, Registration::frame(handle::<C, X>, signature, data).contained()) }
    }
}

impl<F: FunctionPointer> Callback<'_, F> {
    /// # Safety
    /// The registration must serve calls of type `F`, with data that lives as long as the handle.
    unsafe fn bind(options: Options, registration: Registration) -> Result<Self, Error> {
        Ok(Self { slot: options.register(registration)?, handler: PhantomData })
    }
}

/// Refuses, when a callback is instantiated, what has no place in an argument position.
const fn assert_parameter<P>() {
    assert!(
        size_of::<P>() != 0,
        "calltable: a callback's parameter has no bytes; C has no such type, so leave the parameter out"
    );
}

/// Refuses a function that is more than its type.
const fn assert_function_item<H>() {
    assert!(
        size_of::<H>() == 0,
        "calltable: `from_fn` takes a function by its name, or a closure that captures nothing; put what it needs \
         into the data, or use `from_ref`"
    );
}

/// The constructors for one convention and one number of parameters. `$shown` is empty for the one that stands for
/// all in the documentation.
macro_rules! callback {
    ($abi:literal $handler:literal ($($P:ident $p:ident)*) $(#[$hidden:meta])?) => {
        impl<$($P,)* R> sealed::Sealed for unsafe extern $abi fn($($P),*) -> R {}

        $(#[$hidden])?
        impl<$($P,)* R> FunctionPointer for unsafe extern $abi fn($($P),*) -> R {
            type Result = R;
            unsafe fn from_code(code: CodePointer) -> Self {
                // SAFETY: by the caller's promise that entry serves this type.
                unsafe { core::mem::transmute::<CodePointer, Self>(code) }
            }
            fn answering() -> *const c_void {
                // The arguments belong to the handler that was interrupted.
                unsafe extern $handler fn answer<$($P,)* R>($(_: ManuallyDrop<$P>,)* data: *const R) -> R {
                    // SAFETY: a filter has put it there, and this is called once.
                    unsafe { data.read_unaligned() }
                }
                answer::<$($P,)* R> as *const c_void
            }
        }

        /// The same constructors exist for 0 to 16 parameters and for each convention that [`FunctionPointer`] names.
        $(#[$hidden])?
        impl<'a, $($P,)* R> Callback<'a, unsafe extern $abi fn($($P),*) -> R> {
            /// Registers a closure that may be called by several threads at once.
            ///
            /// # Errors
            /// [`Error::TableFull`], [`Error::Sealed`].
            pub fn from_ref<C: Fn($($P),*) -> R + Sync>(closure: &'a C) -> Result<Self, Error> {
                Self::from_ref_with(Options::new(), closure)
            }

            /// As `from_ref`, with options.
            ///
            /// # Errors
            /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`].
            pub fn from_ref_with<C: Fn($($P),*) -> R + Sync>(
                options: Options,
                closure: &'a C,
            ) -> Result<Self, Error> {
                unsafe extern $handler fn handle<C: Fn($($P),*) -> R, $($P,)* R>($($p: $P,)* data: *const C) -> R {
                    // SAFETY: the data is the closure, borrowed while the registration lives.
                    unsafe { (*data)($($p),*) }
                }
                // SAFETY: `handle` takes that data; `C` is `Sync`.
                unsafe {
                    let handle = handle::<C, $($P,)* R> as *const c_void;
                    Self::bind(options, Self::direct(handle, &raw const *closure))
                }
            }

            /// Registers a closure that may run only once at a time: a call that comes while it runs, on this thread
            /// or another, is stale ([`StaleReason::Running`](crate::StaleReason::Running)).
            ///
            /// # Errors
            /// [`Error::TableFull`], [`Error::Sealed`].
            pub fn from_mut<C: FnMut($($P),*) -> R + Send>(closure: &'a mut C) -> Result<Self, Error> {
                Self::from_mut_with(Options::new(), closure)
            }

            /// As `from_mut`, with options.
            ///
            /// # Errors
            /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`].
            pub fn from_mut_with<C: FnMut($($P),*) -> R + Send>(
                options: Options,
                closure: &'a mut C,
            ) -> Result<Self, Error> {
                unsafe extern $handler fn handle<C: FnMut($($P),*) -> R, $($P,)* R>($($p: $P,)* data: *mut C) -> R {
                    // SAFETY: the data is the closure, borrowed while the registration lives, and no other call runs:
                    // the registration is exclusive.
                    unsafe { (*data)($($p),*) }
                }
                // SAFETY: `handle` takes that data; `C` is `Send`.
                unsafe {
                    let handle = handle::<C, $($P,)* R> as *const c_void;
                    Self::bind(options, Self::direct(handle, &raw mut *closure).exclusive())
                }
            }

            /// Registers a function, named directly or as a closure that captures nothing, together with data.
            ///
            /// # Errors
            /// [`Error::TableFull`], [`Error::Sealed`].
            pub fn from_fn<T: Sync, H: Fn(&T, $($P),*) -> R + Copy + Sync>(
                data: &'a T,
                function: H,
            ) -> Result<Self, Error> {
                Self::from_fn_with(Options::new(), data, function)
            }

            /// As `from_fn`, with options.
            ///
            /// # Errors
            /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`].
            pub fn from_fn_with<T: Sync, H: Fn(&T, $($P),*) -> R + Copy + Sync>(
                options: Options,
                data: &'a T,
                _function: H,
            ) -> Result<Self, Error> {
                const { assert_function_item::<H>() };
                unsafe extern $handler fn handle<T, H: Fn(&T, $($P),*) -> R, $($P,)* R>(
                    $($p: $P,)*
                    data: *const T,
                ) -> R {
                    // SAFETY: the data is borrowed while the registration lives. An `H` has no bytes, so any address
                    // is that of one; that there is one, the caller has shown by passing it.
                    unsafe { NonNull::<H>::dangling().as_ref()(&*data, $($p),*) }
                }
                let handle = handle::<T, H, $($P,)* R> as *const c_void;
                // SAFETY: `handle` takes that data; `T` and `H` are `Sync`.
                unsafe { Self::bind(options, Self::direct(handle, &raw const *data)) }
            }

            /// Registers a closure, gives its code pointer to `foreign`, and releases it when that returns. If the
            /// closure panics, the callback returns what `fallback` gives, then and in every later call, and the panic
            /// goes on when `foreign` has returned.
            ///
            /// # Errors
            /// [`Error::TableFull`], [`Error::Sealed`]; `foreign` has not been called then.
            ///
            /// # Panics
            /// If the closure did.
            #[cfg(feature = "std")]
            pub fn scope<C: Fn($($P),*) -> R + Sync, T>(
                closure: C,
                fallback: fn() -> R,
                foreign: impl FnOnce(unsafe extern $abi fn($($P),*) -> R) -> T,
            ) -> Result<T, Error> {
                let caught = crate::Caught::new();
                let guarded = |$($p: $P),*| caught.run(|| closure($($p),*), fallback);
                let callback = Callback::<unsafe extern $abi fn($($P),*) -> R>::from_ref(&guarded)?;
                let result = foreign(callback.code());
                drop(callback);
                caught.resume();
                Ok(result)
            }

            /// As `scope`, for a closure that changes what it captured; see `from_mut`.
            ///
            /// # Errors
            /// [`Error::TableFull`], [`Error::Sealed`]; `foreign` has not been called then.
            ///
            /// # Panics
            /// If the closure did.
            #[cfg(feature = "std")]
            pub fn scope_mut<C: FnMut($($P),*) -> R + Send, T>(
                mut closure: C,
                fallback: fn() -> R,
                foreign: impl FnOnce(unsafe extern $abi fn($($P),*) -> R) -> T,
            ) -> Result<T, Error> {
                let caught = crate::Caught::new();
                let mut guarded = |$($p: $P),*| caught.run(|| closure($($p),*), fallback);
                let callback = Callback::<unsafe extern $abi fn($($P),*) -> R>::from_mut(&mut guarded)?;
                let result = foreign(callback.code());
                drop(callback);
                caught.resume();
                Ok(result)
            }

            /// Registers a closure that may be called by several threads at once, and whose exceptions end here if its
            /// policy says so.
            ///
            /// # Errors
            /// [`Error::TableFull`], [`Error::Sealed`], [`Error::NoExceptions`].
            pub fn from_contained<C: Fn($($P),*) -> R + Sync, X: Sync>(
                handler: &'a Contained<unsafe extern $abi fn($($P),*) -> R, C, X>,
            ) -> Result<Self, Error> {
                Self::from_contained_with(Options::new(), handler)
            }

            /// As `from_contained`, with options.
            ///
            /// # Errors
            /// [`Error::TableFull`], [`Error::Sealed`], [`Error::NoExceptions`], [`Error::Busy`].
            pub fn from_contained_with<C: Fn($($P),*) -> R + Sync, X: Sync>(
                options: Options,
                handler: &'a Contained<unsafe extern $abi fn($($P),*) -> R, C, X>,
            ) -> Result<Self, Error> {
                unsafe extern $handler fn handle<C: Fn($($P),*) -> R, X, $($P,)* R>(
                    $($p: $P,)*
                    data: *const Contained<unsafe extern $abi fn($($P),*) -> R, C, X>,
                ) -> R {
                    // SAFETY: the data is the handler, borrowed while the registration lives.
                    unsafe { ((*data).closure)($($p),*) }
                }
                // SAFETY: `handle` takes that data, which begins with its filter; `C` and `X` are `Sync`.
                unsafe {
                    let handle = handle::<C, X, $($P,)* R> as *const c_void;
                    Self::bind(options, Self::direct(handle, &raw const *handler).contained())
                }
            }

            /// As `from_contained`, for a closure that changes what it captured; see `from_mut`. After an exception has
            /// ended, the closure sees what it captured as the exception left it.
            ///
            /// # Errors
            /// [`Error::TableFull`], [`Error::Sealed`], [`Error::NoExceptions`].
            pub fn from_contained_mut<C: FnMut($($P),*) -> R + Send, X: Send>(
                handler: &'a mut Contained<unsafe extern $abi fn($($P),*) -> R, C, X>,
            ) -> Result<Self, Error> {
                Self::from_contained_mut_with(Options::new(), handler)
            }

            /// As `from_contained_mut`, with options.
            ///
            /// # Errors
            /// [`Error::TableFull`], [`Error::Sealed`], [`Error::NoExceptions`], [`Error::Busy`].
            pub fn from_contained_mut_with<C: FnMut($($P),*) -> R + Send, X: Send>(
                options: Options,
                handler: &'a mut Contained<unsafe extern $abi fn($($P),*) -> R, C, X>,
            ) -> Result<Self, Error> {
                unsafe extern $handler fn handle<C: FnMut($($P),*) -> R, X, $($P,)* R>(
                    $($p: $P,)*
                    data: *mut Contained<unsafe extern $abi fn($($P),*) -> R, C, X>,
                ) -> R {
                    // SAFETY: the data is the handler, borrowed while the registration lives, and no other call runs:
                    // the registration is exclusive. Its filter looks at other fields.
                    unsafe { ((*data).closure)($($p),*) }
                }
                // SAFETY: `handle` takes that data, which begins with its filter; `C` and `X` are `Send`.
                unsafe {
                    let handle = handle::<C, X, $($P,)* R> as *const c_void;
                    Self::bind(options, Self::direct(handle, &raw mut *handler).exclusive().contained())
                }
            }

            /// # Safety
            /// `handle` must be a function of these parameters and a trailing pointer, for which `data` is right
            /// as long as the handle lives, on every thread; not at once unless it is made exclusive.
            unsafe fn direct<T>(handle: *const c_void, data: *const T) -> Registration {
                $(const { assert_parameter::<$P>() };)*
                let place = arch::place!($abi ($($P $p)*) R);
                // SAFETY: by the caller's promise.
                unsafe { Registration::direct_at(place, handle, data.cast_mut().cast()) }
            }
        }
    };
}

/// One line for each number of parameters.
macro_rules! callbacks {
    ($abi:literal $handler:literal $(#[$hidden:meta])?) => {
        callback!($abi $handler () #[doc(hidden)]);
        callback!($abi $handler (A a) #[doc(hidden)]);
        callback!($abi $handler (A a B b) $(#[$hidden])?);
        callback!($abi $handler (A a B b D d) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e G g) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e G g I i) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e G g I i J j) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e G g I i J j K k) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e G g I i J j K k L l) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e G g I i J j K k L l M m) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e G g I i J j K k L l M m N n) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e G g I i J j K k L l M m N n O o) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e G g I i J j K k L l M m N n O o P p) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e G g I i J j K k L l M m N n O o P p Q q) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e G g I i J j K k L l M m N n O o P p Q q S s) #[doc(hidden)]);
        callback!($abi $handler (A a B b D d E e G g I i J j K k L l M m N n O o P p Q q S s U u) #[doc(hidden)]);
    };
}

// A handler has the callback's own convention; `extern "win64"` says it on every system.
cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86_64")] {
        callbacks!("win64" "win64");
        callbacks!("efiapi" "win64" #[doc(hidden)]);
        // These two are the same where the target's own code follows Microsoft's convention.
        #[cfg(any(windows, target_os = "uefi"))]
        callbacks!("C" "win64" #[doc(hidden)]);
        #[cfg(any(windows, target_os = "uefi"))]
        callbacks!("system" "win64" #[doc(hidden)]);
    } else {
        callbacks!("stdcall" "stdcall");
        callbacks!("cdecl" "cdecl" #[doc(hidden)]);
        callbacks!("thiscall" "thiscall" #[doc(hidden)]);
        callbacks!("fastcall" "fastcall" #[doc(hidden)]);
        callbacks!("C" "C" #[doc(hidden)]);
        callbacks!("system" "system" #[doc(hidden)]);
        callbacks!("efiapi" "efiapi" #[doc(hidden)]);
    }
}
