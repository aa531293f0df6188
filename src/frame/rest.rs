//! The arguments that a variadic function got after its own parameters.
//!
//! Nothing tells their types but what the foreign code and the handler have agreed on, such as a format string. So
//! reading one is unsafe, as `va_arg` is in C. Their places follow from those types: each port has a `Cursor`, which
//! begins after the parameters, and knows what the platform's `va_list` is.

use core::ffi::c_void;

use super::{Cursor, Frame, RawFrame, Scalar};
use crate::error::FrameError;
use crate::signature::Signature;
use crate::types::Type;

impl Frame<'_> {
    /// The arguments after the parameters of a [variadic](crate::Signature::variadic) signature. Each call of this
    /// function begins with the first of them.
    ///
    /// ```
    /// use calltable::{Callback, Convention, Dynamic, Signature, Type};
    ///
    /// // int sum(int count, ...)
    /// let signature = Signature::variadic(Convention::C, &[Type::I32], Some(Type::I32))?;
    /// let handler = Dynamic::new(signature, |frame| {
    ///     let count = frame.get::<i32>(0).unwrap();
    ///     let mut rest = frame.rest().unwrap();
    ///     // SAFETY: so many numbers follow.
    ///     let sum: i32 = (0..count).map(|_| unsafe { rest.next::<i32>() }).sum();
    ///     frame.set_result(sum).unwrap();
    /// });
    /// let callback = Callback::from_dynamic(&handler)?;
    /// let code = callback.code(); // for foreign code that calls a variadic function
    /// # #[cfg(any(windows, not(target_arch = "x86_64")))]
    /// # {
    /// # type Sum = unsafe extern "C" fn(i32, ...) -> i32;
    /// # // SAFETY: that is the signature.
    /// # let code = unsafe { std::mem::transmute::<_, Sum>(code) };
    /// # // SAFETY: the callback lives, and the first number is right.
    /// # assert_eq!(unsafe { code(3, 30, 5, 7) }, 42);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`FrameError::NotVariadic`].
    pub fn rest(&self) -> Result<Rest<'_>, FrameError> {
        Rest::new(self.raw, self.signature)
    }
}

/// What [`Frame::rest`] gives: C's `va_list`, to read or to hand on. A clone is what `va_copy` makes.
#[derive(Clone, Debug)]
pub struct Rest<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Rest<'a> {
    /// As [`Frame::rest`], for the C interface.
    #[doc(hidden)]
    pub fn new(raw: &'a RawFrame, signature: &Signature) -> Result<Self, FrameError> {
        if signature.is_variadic() {
            Ok(Self { cursor: Cursor::new(raw, signature) })
        } else {
            Err(FrameError::NotVariadic)
        }
    }

    /// The next argument: C's `va_arg`. Foreign code passes what is smaller than an `int` as an `int`, and a `float` as
    /// a `double`, so these are read and made what is asked for. Example: [`Frame::rest`].
    ///
    /// # Safety
    /// The foreign code must have passed another argument, of this type or of one that C's rules make it, and all
    /// before it must have been read as what they are.
    pub unsafe fn next<T: Scalar>(&mut self) -> T {
        let is_float = T::TYPE == Type::F32;
        // SAFETY: by the caller's promise.
        let bits = unsafe { self.next_bits(if is_float { Type::F64 } else { T::TYPE }) };
        T::from_bits(if is_float { (f64::from_bits(bits as u64) as f32).to_bits().into() } else { bits })
    }

    /// The bits of the next argument, of a type that is passed as such: no structure, and no [`Type::F32`].
    #[doc(hidden)]
    pub unsafe fn next_bits(&mut self, ty: Type) -> u128 {
        // SAFETY: by the caller's promise.
        unsafe { self.cursor.next(ty) }
    }

    /// What is left as a `va_list` of this target's C, for its `vprintf` and the like: declare that parameter as a
    /// pointer. It is good for one such call, which leaves it anywhere, and while `self` stays where it is.
    ///
    /// | target | C's `va_list` | its end |
    /// | --- | --- | --- |
    /// | x86 | `char *` | that of the arguments |
    /// | x86_64 Windows, UEFI | `char *` | that of the arguments |
    /// | x86_64 elsewhere | a structure of the System V convention, see below | that of the arguments |
    /// | AArch64 Windows | `char *`, to a copy of X0 to X7 and of 64 words on the stack | 72 words |
    /// | AArch64 elsewhere | a structure of the Procedure Call Standard | that of the arguments |
    ///
    /// On x86_64 Linux, say, the foreign code follows win64 and the program's own C does not. So its `va_list` is made
    /// to read all arguments from memory, as which they came. What the two do not pass alike it cannot read: `long
    /// double`, structures and `__int128`.
    ///
    /// ```
    /// use calltable::{Callback, Convention, Dynamic, Signature, Type};
    /// use std::ffi::{c_char, c_int, c_void};
    /// # #[cfg(unix)]
    /// unsafe extern "C" {
    ///     fn vsnprintf(to: *mut c_char, size: usize, format: *const c_void, list: *mut c_void) -> c_int;
    /// }
    /// # #[cfg(not(unix))]
    /// # unsafe fn vsnprintf(_: *mut c_char, _: usize, _: *const c_void, _: *mut c_void) -> c_int { 0 }
    ///
    /// // int printf(const char *, ...), as an import of foreign code
    /// let signature = Signature::variadic(Convention::C, &[Type::Pointer], Some(Type::I32))?;
    /// let printf = Dynamic::new(signature, |frame| {
    ///     let format = frame.get::<*const c_void>(0).unwrap();
    ///     let mut text = [0; 80];
    ///     let mut rest = frame.rest().unwrap();
    ///     // SAFETY: the arguments are those that the format names, and there is room for so many characters.
    ///     let length = unsafe { vsnprintf(text.as_mut_ptr(), text.len(), format, rest.va_list()) };
    ///     frame.set_result(length).unwrap();
    /// });
    /// let callback = Callback::from_dynamic(&printf)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn va_list(&mut self) -> *mut c_void {
        self.cursor.list()
    }

    /// What is left as a `va_list` of Windows' C, which is a pointer (`__builtin_ms_va_list`): for a function of
    /// Windows code, such as the `vprintf` of a DLL that a host has loaded.
    #[cfg(target_arch = "x86_64")]
    pub fn windows_va_list(&mut self) -> *mut c_void {
        self.cursor.at().cast()
    }
}
