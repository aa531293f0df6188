//! The types of function pointers that foreign code can be given.

use core::ffi::c_void;
use core::fmt;
use core::marker::PhantomData;

use crate::entry::CodePointer;

/// A type of function pointer that foreign code can be given.
///
/// These are `unsafe` function pointers with 0 to 16 parameters, an `Option` of one, and [`CodePointer`], for a
/// signature known only at run time. They are `unsafe` since the code that they lead to goes away with its
/// [`Callback`](super::Callback).
///
/// | target | conventions |
/// | --- | --- |
/// | x86_64 | `extern "win64"`, `extern "efiapi"`; on Windows and UEFI also `extern "C"` and `extern "system"` |
/// | i686 | `extern "stdcall"`, `"cdecl"`, `"thiscall"`, `"fastcall"`, `"C"`, `"system"`, `"efiapi"` |
/// | AArch64 | `extern "C"`, `"system"`, `"efiapi"` |
///
/// Each but `"efiapi"`, which has none, also with `-unwind`: a panic or another exception of the closure passes into
/// the foreign code ([`Callback`](super::Callback#panics-in-a-closure)).
///
/// A parameter is no reference with a lifetime of its own: of `unsafe extern "win64" fn(&T)` rustc says that a
/// constructor is not found for the callback (E0599), or that [`HandledBy`](super::HandledBy) is "not general enough".
/// Write `*const T`.
///
/// On x86_64 all of them are the Microsoft x64 convention to the foreign code. But on targets other than Windows and
/// UEFI Rust itself (up to the 1.95 that this was tried with) passes structures by System V rules when it calls an
/// `"efiapi"` pointer: write `"win64"` there if Rust code is to call it with structures.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no function pointer that this target's foreign code can be given",
    label = "not a callback's type",
    note = "write `unsafe extern` and, on x86_64, \"win64\" or \"efiapi\" (on Windows and UEFI also \"system\" or \"C\"); on \
            i686 \"stdcall\", \"cdecl\", \"thiscall\", \"fastcall\", \"C\" or \"system\"; on AArch64 \"C\", \"system\" or \
            \"efiapi\"",
    note = "a callback has at most 16 parameters, and none of them is a reference with a lifetime of its own: pass \
            a raw pointer",
    note = "all but \"efiapi\" may end in \"-unwind\": then a panic of the closure passes into the foreign code",
    note = "of a function with a variable number of arguments write those that you read, or use a `Dynamic` and \
            `Signature::variadic`"
)]
pub trait FunctionPointer: Copy + sealed::Sealed {
    /// What it returns. A [`CodePointer`] returns what its signature says, which is known only at run time: it has a
    /// type here of which there is no value.
    type Result;
    #[doc(hidden)]
    unsafe fn from_code(code: CodePointer) -> Self;
    /// A handler of this type, plus its data, that returns what the data points to.
    #[doc(hidden)]
    fn answering() -> *const c_void;
}

pub(super) mod sealed {
    pub trait Sealed {}

    /// A type of its own, not one that is known only at run time.
    pub trait Typed {
        /// How a thunk gets its data, which [`FunctionPointer::answering`](super::FunctionPointer::answering) gets in
        /// the same way if the registration is contained.
        fn shape(is_contained: bool) -> crate::abi::Shape;
    }
}

impl sealed::Sealed for CodePointer {}
impl FunctionPointer for CodePointer {
    type Result = core::convert::Infallible;
    unsafe fn from_code(code: CodePointer) -> Self {
        code
    }
    fn answering() -> *const c_void {
        core::ptr::null()
    }
}

/// As bindings of C write a pointer that may be null: what [`Callback::code`](super::Callback::code) gives is `Some`.
///
/// ```
/// use calltable::Callback;
///
/// /// A name of windows-sys, say.
/// type WNDENUMPROC = Option<unsafe extern "efiapi" fn(usize, isize) -> i32>;
///
/// let callback = Callback::<WNDENUMPROC>::from_ref(&|_window, _parameter| 1)?;
/// let code: WNDENUMPROC = callback.code();
/// // SAFETY: the callback lives.
/// assert_eq!(code.map(|code| unsafe { code(0, 0) }), Some(1));
/// # Ok::<(), calltable::Error>(())
/// ```
impl<F: FunctionPointer> FunctionPointer for Option<F> {
    type Result = F::Result;
    unsafe fn from_code(code: CodePointer) -> Self {
        // SAFETY: by the caller's promise.
        Some(unsafe { F::from_code(code) })
    }
    fn answering() -> *const c_void {
        F::answering()
    }
}

impl<F: FunctionPointer> sealed::Sealed for Option<F> {}
impl<F: sealed::Typed> sealed::Typed for Option<F> {
    fn shape(is_contained: bool) -> crate::abi::Shape {
        F::shape(is_contained)
    }
}

impl CodePointer {
    /// The address as a function pointer.
    ///
    /// ```
    /// use calltable::{Callback, CodePointer};
    ///
    /// type Double = unsafe extern "efiapi" fn(i32) -> i32;
    ///
    /// let callback = Callback::<Double>::from_ref(&|number| 2 * number)?.untyped();
    /// let code: CodePointer = callback.code();
    /// // SAFETY: the callback was made with that type.
    /// let double = unsafe { code.cast::<Double>() };
    /// // SAFETY: the callback lives.
    /// assert_eq!(unsafe { double(21) }, 42);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    ///
    /// # Safety
    /// `F` must be the type that the registered handler serves: convention, parameters and result.
    #[must_use]
    pub unsafe fn cast<F: FunctionPointer>(self) -> F {
        // SAFETY: by the caller's promise.
        unsafe { F::from_code(self) }
    }
}

/// In place of a function pointer's type: an instance method of C++ by Microsoft's rule that returns a structure, as
/// COM has them.
///
/// Such a method returns every structure, whatever its size, through a hidden pointer that comes after `this`, which is
/// the first parameter here; so does what Microsoft's compilers and Clang for MSVC call. A method with any other result
/// is called like a function: there the function pointer's type is right. For C++ of MinGW, which treats all methods as
/// functions, it always is. Source: "Return values", x64 calling convention, Microsoft C++ documentation: only
/// "non-member functions and static member functions" return structures in a register.
///
/// ```
/// use calltable::{Callback, Method};
///
/// #[repr(C)]
/// #[derive(Debug, PartialEq)]
/// struct Size {
///     width: u32,
///     height: u32,
/// }
/// type This = *const [u32; 2];
///
/// // virtual D2D1_SIZE_U GetPixelSize()
/// let size = |this: This| {
///     // SAFETY: the caller passes its object.
///     let [width, height] = unsafe { *this };
///     Size { width, height }
/// };
/// let callback = Callback::<Method<unsafe extern "efiapi" fn(This) -> Size>>::from_ref(&size)?;
/// // What goes into the object's table of methods, and what a caller there makes of it.
/// let method = callback.code().as_ptr();
/// // SAFETY: the hidden pointer is the second argument, and what is returned.
/// let method: unsafe extern "efiapi" fn(This, *mut Size) -> *mut Size = unsafe { std::mem::transmute(method) };
/// let mut result = Size { width: 0, height: 0 };
/// // SAFETY: the callback lives.
/// assert_eq!(unsafe { method(&[640, 480], &mut result) }, &raw mut result);
/// assert_eq!(result, Size { width: 640, height: 480 });
/// # Ok::<(), calltable::Error>(())
/// ```
#[repr(transparent)]
pub struct Method<F> {
    pub(super) code: CodePointer,
    pub(super) function: PhantomData<F>,
}

impl<F> Method<F> {
    /// The address, for a table of methods. Example: [`Self`].
    #[must_use]
    pub fn as_ptr(self) -> *const c_void {
        self.code.as_ptr()
    }
}

impl<F> Clone for Method<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Method<F> {}

impl<F> fmt::Debug for Method<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Method").field(&self.code).finish()
    }
}
