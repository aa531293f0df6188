//! The constructors of typed callbacks.

use core::arch::asm;
use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use super::pointer::sealed;
use super::thunks::{Holds, Plain};
use super::{Callback, FunctionPointer, HandledBy, HandledByMut, HandledWith, Options};
use crate::abi::Shape;
use crate::error::Error;
use crate::table::Binding;

/// Refuses a function that is more than its type.
const fn assert_function_item<H>() {
    assert!(
        size_of::<H>() == 0,
        "calltable: `from_fn` takes a function by its name, or a closure that captures nothing; put what it needs \
         into the data, or use `from_ref`"
    );
}

/// A closure of at most a pointer's size, in place of the pointer to one.
struct InPlace<C>(PhantomData<C>);

impl<C: Copy> InPlace<C> {
    /// The closure as the data of a registration.
    fn data(closure: C) -> *const Self {
        const {
            assert!(
                size_of::<C>() <= size_of::<*mut c_void>() && align_of::<C>() <= align_of::<*mut c_void>(),
                "calltable: `from_copy` takes a closure of at most a pointer's size and alignment; put what it needs \
                 into a structure and use `from_fn` with a reference to it, or `from_ref`, or `new`"
            );
        }
        let mut data = MaybeUninit::<*const Self>::zeroed();
        // SAFETY: there is room for it.
        unsafe { data.as_mut_ptr().cast::<C>().write(closure) };
        let whole;
        // Padding has no value in Rust, but in a register it has one.
        // SAFETY: no instruction is executed.
        unsafe { asm!("/* {0} */", inlateout(reg) data => whole, options(nomem, nostack, preserves_flags)) };
        whole
    }
}

impl<C: Copy, R> Holds<R> for InPlace<C> {
    type Closure = C;

    #[inline(always)]
    unsafe fn with(this: *mut Self, call: impl FnOnce(*mut C) -> R) -> R {
        // Each call has a copy: what is `Copy` has no cells, so nobody can tell.
        let mut data = this;
        call((&raw mut data).cast())
    }
}

/// For a function pointer's type, with 0 to 16 parameters and each convention that [`FunctionPointer`] names.
impl<'a, F: FunctionPointer> Callback<'a, F> {
    /// Registers a closure that may be called by several threads at once.
    ///
    /// ```
    /// use calltable::Callback;
    /// use std::sync::Mutex;
    ///
    /// type Visit = unsafe extern "efiapi" fn(*mut u8, u32) -> i32;
    ///
    /// let seen = Mutex::new(Vec::new());
    /// let visit = |_window, process| {
    ///     seen.lock().unwrap().push(process);
    ///     1
    /// };
    /// let callback = Callback::<Visit>::from_ref(&visit)?;
    /// // SAFETY: the callback lives.
    /// assert_eq!(unsafe { callback.code()(std::ptr::null_mut(), 7) }, 1);
    /// assert_eq!(*seen.lock().unwrap(), [7]);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`].
    pub fn from_ref<C: Sync, Ways>(closure: &'a C) -> Result<Self, Error>
    where
        F: HandledBy<C, Ways>,
    {
        Self::from_ref_with(Options::new(), closure)
    }

    /// As [`Self::from_ref`], with options.
    ///
    /// ```
    /// use calltable::{Callback, Options};
    ///
    /// let add = |left, right| left + right;
    /// let options = Options::new().tracked();
    /// let callback = Callback::<unsafe extern "efiapi" fn(i32, i32) -> i32>::from_ref_with(options, &add)?;
    /// let code = callback.code();
    /// // SAFETY: the callback lives until the thread has ended.
    /// let sum = std::thread::scope(|scope| scope.spawn(move || unsafe { code(40, 2) }).join()).unwrap();
    /// assert_eq!(sum, 42);
    /// drop(callback); // waits until no call is running
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`].
    pub fn from_ref_with<C: Sync, Ways>(options: Options, closure: &'a C) -> Result<Self, Error>
    where
        F: HandledBy<C, Ways>,
    {
        // SAFETY: the closure is `Sync`.
        unsafe { Self::from_local_with(options, closure) }
    }

    /// As [`Self::from_ref`], for a closure of one thread: it may capture window handles, `Rc`, `Cell` and `RefCell`. A
    /// call may come while another one runs, as window procedures are called.
    ///
    /// ```
    /// use std::cell::RefCell;
    ///
    /// use calltable::Callback;
    ///
    /// type Visit = unsafe extern "efiapi" fn(*mut u8, isize) -> i32;
    ///
    /// let windows = RefCell::new(Vec::new());
    /// let visit = |window, _| {
    ///     windows.borrow_mut().push(window);
    ///     1
    /// };
    /// // SAFETY: a function that enumerates calls on the thread that has called it.
    /// let callback = unsafe { Callback::<Visit>::from_local(&visit)? };
    /// // SAFETY: the callback lives.
    /// unsafe { callback.code()(std::ptr::null_mut(), 0) };
    /// drop(callback);
    /// assert_eq!(windows.into_inner(), [std::ptr::null_mut()]);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`].
    ///
    /// # Safety
    /// If the closure is not `Sync`, no thread but this one may call the code pointer.
    pub unsafe fn from_local<C, Ways>(closure: &'a C) -> Result<Self, Error>
    where
        F: HandledBy<C, Ways>,
    {
        // SAFETY: by the caller's promise.
        unsafe { Self::from_local_with(Options::new(), closure) }
    }

    /// As [`Self::from_local`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`].
    ///
    /// # Safety
    /// As for [`Self::from_local`].
    pub unsafe fn from_local_with<C, Ways>(options: Options, closure: &'a C) -> Result<Self, Error>
    where
        F: HandledBy<C, Ways>,
    {
        // SAFETY: the thunk takes a closure that is borrowed while the handle lives; by the caller's promise it is used
        // by threads that may.
        unsafe { Self::bind(options, Self::direct(false, F::thunk::<Plain<C>>, &raw const *closure)) }
    }

    /// Registers a closure that may run only once at a time: a call that comes while it runs, on this thread or
    /// another, is stale ([`StaleReason::Running`](crate::StaleReason::Running)).
    ///
    /// ```
    /// use calltable::Callback;
    ///
    /// let mut calls = 0;
    /// let mut count = || calls += 1;
    /// let callback = Callback::<unsafe extern "efiapi" fn()>::from_mut(&mut count)?;
    /// // SAFETY: the callback lives.
    /// unsafe { callback.code()() };
    /// drop(callback);
    /// assert_eq!(calls, 1);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`].
    pub fn from_mut<C: Send, Ways>(closure: &'a mut C) -> Result<Self, Error>
    where
        F: HandledByMut<C, Ways>,
    {
        Self::from_mut_with(Options::new(), closure)
    }

    /// As [`Self::from_mut`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`].
    pub fn from_mut_with<C: Send, Ways>(options: Options, closure: &'a mut C) -> Result<Self, Error>
    where
        F: HandledByMut<C, Ways>,
    {
        // SAFETY: the thunk takes a closure that is borrowed while the handle lives, and `Send`; one call at a time.
        unsafe { Self::bind(options, Self::direct(false, F::thunk::<Plain<C>>, &raw mut *closure).exclusive()) }
    }

    /// Registers a closure that fits in a pointer, and keeps a copy of it in the slot: it captures a number, a handle
    /// or a reference by `move`, and nothing has to live beside the callback but what it refers to.
    ///
    /// ```
    /// use calltable::Callback;
    ///
    /// type Hook = unsafe extern "efiapi" fn(i32) -> i32;
    ///
    /// fn adding(summand: i32) -> Result<Callback<'static, Hook>, calltable::Error> {
    ///     Callback::from_copy(move |number| number + summand)
    /// }
    ///
    /// let callback = adding(40)?;
    /// // SAFETY: the callback lives.
    /// assert_eq!(unsafe { callback.code()(2) }, 42);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`].
    pub fn from_copy<C: Copy + Send + Sync + 'a, Ways>(closure: C) -> Result<Self, Error>
    where
        F: HandledBy<C, Ways>,
    {
        Self::from_copy_with(Options::new(), closure)
    }

    /// As [`Self::from_copy`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`].
    pub fn from_copy_with<C: Copy + Send + Sync + 'a, Ways>(options: Options, closure: C) -> Result<Self, Error>
    where
        F: HandledBy<C, Ways>,
    {
        // SAFETY: the thunk takes the closure for the pointer; what it refers to outlives the handle, and any thread
        // may have a copy.
        unsafe { Self::bind(options, Self::direct(false, F::thunk::<InPlace<C>>, InPlace::data(closure))) }
    }

    /// Registers a function together with data, to which it gets a reference before the call's arguments. The function
    /// is given by its name, or is a closure that captures nothing. Several threads may call it at once.
    ///
    /// ```
    /// use calltable::Callback;
    ///
    /// struct Window {
    ///     title: String,
    /// }
    ///
    /// fn title_length(window: &Window, limit: u32) -> u32 {
    ///     limit.min(window.title.len() as u32)
    /// }
    ///
    /// let window = Window { title: "a window".to_owned() };
    /// let callback = Callback::<unsafe extern "efiapi" fn(u32) -> u32>::from_fn(&window, title_length)?;
    /// // SAFETY: the callback lives.
    /// assert_eq!(unsafe { callback.code()(100) }, 8);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`].
    pub fn from_fn<T: Sync, H: Copy + Sync + 'a, Ways>(data: &'a T, function: H) -> Result<Self, Error>
    where
        F: HandledWith<T, H, Ways>,
    {
        Self::from_fn_with(Options::new(), data, function)
    }

    /// As [`Self::from_fn`], with options; [`Self::from_ref_with`] has an example of these.
    ///
    /// # Errors
    /// [`Error::TableFull`], [`Error::Sealed`], [`Error::Busy`].
    pub fn from_fn_with<T: Sync, H: Copy + Sync + 'a, Ways>(
        options: Options,
        data: &'a T,
        _function: H,
    ) -> Result<Self, Error>
    where
        F: HandledWith<T, H, Ways>,
    {
        const { assert_function_item::<H>() };
        // SAFETY: the thunk takes data that is borrowed while the handle lives; `T` and `H` are `Sync`.
        unsafe { Self::bind(options, Self::direct(false, F::thunk, &raw const *data)) }
    }

    /// # Safety
    /// `thunk` must be one of `F`, for which `data` is right as long as the handle lives, on every thread; not at once
    /// unless it is made exclusive.
    pub(super) unsafe fn direct<T>(
        is_contained: bool,
        thunk: impl FnOnce(Shape) -> *const c_void,
        data: *const T,
    ) -> Binding
    where
        F: sealed::Typed,
    {
        let shape = F::shape(is_contained);
        // SAFETY: by the caller's promise.
        unsafe { Binding::direct_in_shape(shape, thunk(shape), data.cast_mut().cast()) }
    }
}
