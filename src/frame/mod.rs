//! The frame lane's view of one call: arguments in, result out.
//!
//! Whoever makes a [`Frame`] promises that the foreign code called as the signature says. From then on each access is
//! checked against the signature, so safe handlers read what was passed and write what is wanted: an argument that is
//! there, with its own type, bytes within the structure. A `bool` is any byte but 0, whatever the foreign code passed.

use core::ffi::c_void;

use crate::error::FrameError;
use crate::signature::Signature;
use crate::types::Type;

mod rest;
pub use rest::Rest;

cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86_64")] {
        mod x86_64;
        pub use x86_64::RawFrame;
        use x86_64::{Cursor, Gathered, RETURN_ADDRESSES};
    } else if #[cfg(target_arch = "x86")] {
        mod x86;
        pub use x86::RawFrame;
        use x86::{Cursor, Gathered, RETURN_ADDRESSES};
    } else if #[cfg(target_arch = "aarch64")] {
        mod aarch64;
        pub use aarch64::RawFrame;
        use aarch64::{Cursor, Gathered, RETURN_ADDRESSES};
    }
}

impl RawFrame {
    /// What lies below the arguments: the return addresses in the entry and in the foreign code.
    ///
    /// # Safety
    /// The frame must be the one that the dispatcher gave to a handler.
    pub(crate) unsafe fn return_addresses(&self) -> [*const c_void; 2] {
        // SAFETY: by the caller's promise; the dispatcher's picture of the stack has them there.
        let found =
            RETURN_ADDRESSES.map(|below| unsafe { self.arguments.byte_sub(below).cast::<*const c_void>().read() });
        #[cfg(target_arch = "aarch64")]
        let found = found.map(aarch64::without_signature);
        found
    }
}

/// One call, seen through its signature: the handler of a [`Dynamic`](crate::Dynamic) reads its arguments from it and
/// sets its result.
#[derive(Debug)]
pub struct Frame<'a> {
    raw: &'a mut RawFrame,
    signature: &'a Signature,
    /// The bytes of the result have been handed out.
    is_touched: bool,
    /// Structures that came in several places.
    gathered: Gathered,
}

/// An argument of a call, with its type. Example: [`Frame::value`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant holds the type that it is named after")]
pub enum Value<'a> {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    I128(i128),
    U128(u128),
    F32(f32),
    F64(f64),
    /// The 80 bits, lowest byte first.
    F80([u8; 10]),
    Pointer(*mut c_void),
    /// The bytes of a structure, of whatever kind: as in memory.
    Struct(&'a [u8]),
}

impl<'a> Frame<'a> {
    /// Looks at a frame through a signature. If the result goes through a hidden pointer, that memory is set to zero
    /// and its address becomes what the call returns. [`Dynamic`](crate::Dynamic) does this by itself; it is for
    /// handlers of [`Binding::frame`](crate::table::Binding::frame).
    ///
    /// ```
    /// # use calltable::table::{self, Binding};
    /// # use calltable::{Convention, Frame, RawFrame, Signature, Type};
    /// # use core::ffi::c_void;
    /// unsafe extern "efiapi" fn negate(data: *mut c_void, frame: *mut RawFrame) {
    ///     // SAFETY: it was registered with its signature as the data.
    ///     let signature = unsafe { &*data.cast::<Signature>() };
    ///     // SAFETY: the frame is this call's own, and that is its signature.
    ///     let mut frame = unsafe { Frame::new(&mut *frame, signature) };
    ///     let number = frame.get::<i32>(0).unwrap();
    ///     frame.set_result(-number).unwrap();
    /// }
    /// # let signature = Signature::new(Convention::C, &[Type::I32], Some(Type::I32))?;
    /// # let data = (&raw const signature).cast_mut().cast();
    /// # let key = table::register(&unsafe { Binding::frame(negate, &signature, data) })?;
    /// # let code = unsafe { key.code().cast::<unsafe extern "efiapi" fn(i32) -> i32>() };
    ///
    /// // SAFETY: `code` is an entry that was registered with `negate`.
    /// assert_eq!(unsafe { code(42) }, -42);
    /// # table::release(key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// The frame must be the one that the dispatcher gave to a handler, and the foreign code must have called as the
    /// signature says.
    #[must_use]
    #[inline]
    pub unsafe fn new(raw: &'a mut RawFrame, signature: &'a Signature) -> Self {
        // SAFETY: by the caller's promise.
        let mut frame = unsafe { Self::again(raw, signature) };
        frame.clear_untouched();
        frame
    }

    /// As [`Self::new`], of a call whose handler has been at work already: the memory of a result stays as it is.
    ///
    /// # Safety
    /// As for [`Self::new`].
    #[inline]
    pub(crate) unsafe fn again(raw: &'a mut RawFrame, signature: &'a Signature) -> Self {
        if signature.has_hidden_result() {
            // SAFETY: by the caller's promise there is a hidden argument.
            unsafe {
                let memory = raw.hidden_argument(signature);
                raw.set_result(Type::Pointer, memory.expose_provenance() as u128);
            }
        }
        raw.expect_result(signature.result());
        // SAFETY: by the caller's promise.
        let gathered = unsafe { raw.gather(signature) };
        Self { raw, signature, is_touched: false, gathered }
    }

    /// Sets the memory of a result to zero, unless its bytes have been handed out.
    #[inline]
    pub(crate) fn clear_untouched(&mut self) {
        if let (true, false, Some(ty)) = (self.signature.has_hidden_result(), self.is_touched, self.signature.result())
        {
            // SAFETY: by the promise of `new` and `again` that is the address of memory for the result.
            unsafe { self.raw.hidden_argument(self.signature).write_bytes(0, ty.size()) };
        }
    }

    /// The signature that the callback was registered with.
    ///
    /// ```
    /// # use calltable::{Callback, Convention, Dynamic, Signature, Type};
    /// let signature = Signature::new(Convention::C, &[Type::I32; 3], Some(Type::USIZE))?;
    /// let handler = Dynamic::new(signature, |frame| {
    ///     let count = frame.signature().parameters().len();
    ///     frame.set_result(count).unwrap();
    /// });
    /// let callback = Callback::from_dynamic(&handler)?;
    /// # let code = unsafe { callback.code().cast::<unsafe extern "efiapi" fn(i32, i32, i32) -> usize>() };
    /// // SAFETY: `code` is the callback's, by its signature.
    /// assert_eq!(unsafe { code(7, 8, 9) }, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn signature(&self) -> &'a Signature {
        self.signature
    }

    /// Argument `index`, counted from 0, if the signature declares it with the type that `T` stands for.
    ///
    /// ```
    /// use calltable::FrameError;
    /// # use calltable::{Callback, Convention, Dynamic, Signature, Type};
    ///
    /// let signature = Signature::new(Convention::C, &[Type::I32, Type::U8], Some(Type::I32))?;
    /// let handler = Dynamic::new(signature, |frame| {
    ///     assert_eq!(frame.get::<u8>(1), Ok(200));
    ///     assert_eq!(frame.get::<i8>(1), Err(FrameError::OtherType { declared: Some(Type::U8) }));
    ///     assert_eq!(frame.get::<u8>(2), Err(FrameError::NoSuchParameter { index: 2, parameters: 2 }));
    ///     let number = frame.get::<i32>(0).unwrap();
    ///     frame.set_result(number).unwrap();
    /// });
    /// let callback = Callback::from_dynamic(&handler)?;
    /// # let code = unsafe { callback.code().cast::<unsafe extern "efiapi" fn(i32, u8) -> i32>() };
    /// // SAFETY: `code` is the callback's, by its signature.
    /// assert_eq!(unsafe { code(-7, 200) }, -7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`FrameError::NoSuchParameter`], [`FrameError::OtherType`].
    #[inline]
    pub fn get<T: Scalar>(&self, index: usize) -> Result<T, FrameError> {
        let declared = self.declared(index)?;
        if declared != T::TYPE {
            return Err(FrameError::OtherType { declared: Some(declared) });
        }
        // SAFETY: the foreign code called as the signature says, by the promise of `new`.
        Ok(T::from_bits(unsafe { self.raw.bits(self.signature, index, declared) }))
    }

    /// Argument `index`, counted from 0, whatever its type.
    ///
    /// ```
    /// use calltable::Value;
    /// # use calltable::{Callback, Convention, Dynamic, Signature, Type};
    ///
    /// let signature = Signature::new(Convention::C, &[Type::I32], Some(Type::I32))?;
    /// let handler = Dynamic::new(signature, |frame| {
    ///     let doubled = match frame.value(0) {
    ///         Ok(Value::I32(number)) => 2 * number,
    ///         other => unreachable!("{other:?}"),
    ///     };
    ///     frame.set_result(doubled).unwrap();
    /// });
    /// let callback = Callback::from_dynamic(&handler)?;
    /// # let code = unsafe { callback.code().cast::<unsafe extern "efiapi" fn(i32) -> i32>() };
    /// // SAFETY: `code` is the callback's, by its signature.
    /// assert_eq!(unsafe { code(21) }, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`FrameError::NoSuchParameter`].
    pub fn value(&self, index: usize) -> Result<Value<'_>, FrameError> {
        let declared = self.declared(index)?;
        // SAFETY: the foreign code called as the signature says, by the promise of `new`; asked of numbers alone.
        let bits = || unsafe { self.raw.bits(self.signature, index, declared) };
        Ok(match declared {
            Type::Bool => Value::Bool(Scalar::from_bits(bits())),
            Type::I8 => Value::I8(Scalar::from_bits(bits())),
            Type::U8 => Value::U8(Scalar::from_bits(bits())),
            Type::I16 => Value::I16(Scalar::from_bits(bits())),
            Type::U16 => Value::U16(Scalar::from_bits(bits())),
            Type::I32 => Value::I32(Scalar::from_bits(bits())),
            Type::U32 => Value::U32(Scalar::from_bits(bits())),
            Type::I64 => Value::I64(Scalar::from_bits(bits())),
            Type::U64 => Value::U64(Scalar::from_bits(bits())),
            Type::I128 => Value::I128(Scalar::from_bits(bits())),
            Type::U128 => Value::U128(Scalar::from_bits(bits())),
            Type::F32 => Value::F32(Scalar::from_bits(bits())),
            Type::F64 => Value::F64(Scalar::from_bits(bits())),
            // SAFETY: the caller passed such a number there, by the promise of `new`.
            Type::F80 => Value::F80(unsafe {
                RawFrame::address(self.raw, self.signature, index, declared, &self.gathered).cast::<[u8; 10]>().read()
            }),
            Type::Pointer => Value::Pointer(Scalar::from_bits(bits())),
            // SAFETY: the caller passed a structure of that size there, by the promise of `new`.
            Type::Struct { .. } | Type::Homogeneous { .. } | Type::Aligned { .. } => Value::Struct(unsafe {
                let bytes = RawFrame::address(self.raw, self.signature, index, declared, &self.gathered);
                core::slice::from_raw_parts(bytes, declared.size())
            }),
        })
    }

    /// The arguments in order, each with its type.
    ///
    /// ```
    /// use calltable::Value;
    /// # use calltable::{Callback, Convention, Dynamic, Signature, Type};
    /// # use std::sync::Mutex;
    ///
    /// let seen = Mutex::new(String::new());
    /// let signature = Signature::new(Convention::C, &[Type::Bool, Type::I16], None)?;
    /// let handler = Dynamic::new(signature, |frame| {
    ///     *seen.lock().unwrap() = format!("{:?}", frame.values().collect::<Vec<Value<'_>>>());
    /// });
    /// let callback = Callback::from_dynamic(&handler)?;
    /// # let code = unsafe { callback.code().cast::<unsafe extern "efiapi" fn(bool, i16)>() };
    /// // SAFETY: `code` is the callback's, by its signature.
    /// unsafe { code(true, -3) };
    /// assert_eq!(*seen.lock().unwrap(), "[Bool(true), I16(-3)]");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn values(&self) -> impl Iterator<Item = Value<'_>> {
        (0..self.signature.parameters().len()).map_while(|index| self.value(index).ok())
    }

    /// Sets the result. A handler that sets none returns zero.
    ///
    /// ```
    /// use calltable::FrameError;
    /// # use calltable::{Callback, Convention, Dynamic, Signature, Type};
    ///
    /// let signature = Signature::new(Convention::C, &[], Some(Type::I64))?;
    /// let handler = Dynamic::new(signature, |frame| {
    ///     assert_eq!(frame.set_result(1_u64), Err(FrameError::OtherType { declared: Some(Type::I64) }));
    ///     frame.set_result(-1_i64).unwrap();
    /// });
    /// let callback = Callback::from_dynamic(&handler)?;
    /// # let code = unsafe { callback.code().cast::<unsafe extern "efiapi" fn() -> i64>() };
    /// // SAFETY: `code` is the callback's, by its signature.
    /// assert_eq!(unsafe { code() }, -1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`FrameError::OtherType`] if the signature declares another result type than `T` stands for, or none.
    #[inline]
    pub fn set_result<T: Scalar>(&mut self, result: T) -> Result<(), FrameError> {
        if self.signature.result() != Some(T::TYPE) {
            return Err(FrameError::OtherType { declared: self.signature.result() });
        }
        self.raw.set_result(T::TYPE, result.to_bits());
        Ok(())
    }

    /// The bytes of a result that is a structure or an [`Type::F80`], as many as its size, wherever the convention
    /// wants them; all zero at first.
    ///
    /// ```
    /// # use calltable::{Callback, Convention, Dynamic, Signature, Type};
    /// // struct { uint32_t numbers[4]; } f(void)
    /// let convention = Convention::C;
    /// # let convention = if cfg!(target_arch = "x86") { Convention::Cdecl } else { convention };
    /// let signature = Signature::new(convention, &[], Some(Type::Struct { size: 16 }))?;
    /// let handler = Dynamic::new(signature, |frame| {
    ///     let bytes = frame.result_bytes().unwrap();
    ///     bytes[4..8].copy_from_slice(&42_u32.to_ne_bytes());
    /// });
    /// let callback = Callback::from_dynamic(&handler)?;
    /// // What the caller's compiler makes of it: a hidden pointer to memory for the result.
    /// # let code = unsafe { callback.code().cast::<unsafe extern "efiapi" fn(*mut [u32; 4]) -> *mut [u32; 4]>() };
    /// let mut result = [u32::MAX; 4];
    /// // SAFETY: `code` is the callback's, by its signature.
    /// assert_eq!(unsafe { code(&mut result) }, &raw mut result);
    /// assert_eq!(result, [0, 42, 0, 0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`FrameError::OtherType`] if the signature declares a result of another kind, or none.
    pub fn result_bytes(&mut self) -> Result<&mut [u8], FrameError> {
        let Some(ty) = self.signature.result().filter(|ty| ty.is_in_bytes()) else {
            return Err(FrameError::OtherType { declared: self.signature.result() });
        };
        self.is_touched = true;
        let at = (&raw mut self.raw.result).cast::<u8>();
        // SAFETY: a result in registers has no more bytes than are there; for another one, `new` has written its
        // address there.
        let at = if self.signature.has_hidden_result() { unsafe { at.cast::<*mut u8>().read() } } else { at };
        // SAFETY: `new` has set that many bytes to zero, there or here.
        Ok(unsafe { core::slice::from_raw_parts_mut(at, ty.size()) })
    }

    #[inline]
    fn declared(&self, index: usize) -> Result<Type, FrameError> {
        let parameters = self.signature.parameters();
        parameters.get(index).copied().ok_or(FrameError::NoSuchParameter { index, parameters: parameters.len() })
    }
}

/// A Rust type that stands for one [`Type`] in a frame: what [`Frame::get`] gives and [`Frame::set_result`] takes.
///
/// ```
/// use calltable::{Scalar, Type};
///
/// assert_eq!(<f64 as Scalar>::TYPE, Type::F64);
/// assert_eq!(<isize as Scalar>::TYPE, Type::ISIZE);
/// ```
pub trait Scalar: sealed::Sealed + Copy {
    /// That type.
    const TYPE: Type;
    #[doc(hidden)]
    fn from_bits(bits: u128) -> Self;
    #[doc(hidden)]
    fn to_bits(self) -> u128;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! scalars {
    ($($rust:ty => $ty:ident, |$bits:ident| $from:expr, |$value:ident| $to:expr;)*) => { $(
        impl sealed::Sealed for $rust {}
        impl Scalar for $rust {
            const TYPE: Type = Type::$ty;
            fn from_bits($bits: u128) -> Self {
                $from
            }
            fn to_bits(self) -> u128 {
                let $value = self;
                $to
            }
        }
    )* };
}

// A position is wider than most types: what is above an argument is rubbish, by the convention.
scalars! {
    bool => Bool, |bits| bits as u8 != 0, |value| value.into();
    i8 => I8, |bits| bits as i8, |value| value as u128;
    u8 => U8, |bits| bits as u8, |value| value.into();
    i16 => I16, |bits| bits as i16, |value| value as u128;
    u16 => U16, |bits| bits as u16, |value| value.into();
    i32 => I32, |bits| bits as i32, |value| value as u128;
    u32 => U32, |bits| bits as u32, |value| value.into();
    i64 => I64, |bits| bits as i64, |value| value as u128;
    u64 => U64, |bits| bits as u64, |value| value.into();
    isize => ISIZE, |bits| bits as isize, |value| value as u128;
    usize => USIZE, |bits| bits as usize, |value| value as u128;
    i128 => I128, |bits| bits as i128, |value| value as u128;
    u128 => U128, |bits| bits, |value| value;
    f32 => F32, |bits| f32::from_bits(bits as u32), |value| value.to_bits().into();
    f64 => F64, |bits| f64::from_bits(bits as u64), |value| value.to_bits().into();
    *mut c_void => Pointer, |bits| core::ptr::with_exposed_provenance_mut(bits as usize),
        |value| value.expose_provenance() as u128;
    *const c_void => Pointer, |bits| core::ptr::with_exposed_provenance(bits as usize),
        |value| value.expose_provenance() as u128;
}
