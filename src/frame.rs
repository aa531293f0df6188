//! The frame lane's view of one call: arguments in, result out.

use core::ffi::c_void;
use core::mem::offset_of;

use static_assertions::const_assert_eq;

use crate::context::layout::{FRAME_ARGUMENTS, FRAME_FLOATS, FRAME_RESULT, FRAME_SIZE};
use crate::error::FrameError;
use crate::signature::{Signature, Type, TypeClass};

/// One call, as the frame lane's dispatcher lays it out for a [`FrameHandler`](crate::table::FrameHandler).
#[repr(C)]
#[derive(Debug)]
pub struct RawFrame {
    /// The result: the first half is returned in RAX, both halves in XMM0. Zero when the handler starts.
    pub result: [u64; 2],
    /// The argument positions in order, a hidden result pointer first, 8 bytes each. Floating-point arguments of the
    /// first four positions are in `floats` instead.
    pub arguments: *mut u64,
    /// The low halves of XMM0 to XMM3, for the first four positions. Not set in a build without SSE.
    pub floats: [u64; 4],
}

const_assert_eq!(size_of::<RawFrame>(), FRAME_SIZE);
const_assert_eq!(offset_of!(RawFrame, result), FRAME_RESULT);
const_assert_eq!(offset_of!(RawFrame, arguments), FRAME_ARGUMENTS);
const_assert_eq!(offset_of!(RawFrame, floats), FRAME_FLOATS);

/// One call, seen through its signature.
#[derive(Debug)]
pub struct Frame<'a> {
    raw: &'a mut RawFrame,
    signature: &'a Signature,
}

/// An argument of a call.
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
    Pointer(*mut c_void),
    /// The bytes of a structure.
    Struct(&'a [u8]),
}

impl<'a> Frame<'a> {
    /// Looks at a frame through a signature. If the result goes through a hidden pointer, that memory is set to zero
    /// and its address becomes what the call returns.
    ///
    /// # Safety
    /// The frame must be the one that the dispatcher gave to a handler, and the foreign code must have called as the
    /// signature says.
    #[must_use]
    pub unsafe fn new(raw: &'a mut RawFrame, signature: &'a Signature) -> Self {
        if let (true, Some(ty)) = (signature.has_hidden_result(), signature.result()) {
            // SAFETY: by the caller's promise the first position is the address of memory for the result.
            unsafe {
                let memory = raw.arguments.read();
                core::ptr::with_exposed_provenance_mut::<u8>(memory as usize).write_bytes(0, ty.size());
                raw.result[0] = memory;
            }
        }
        Self { raw, signature }
    }

    /// What the callback was registered with.
    #[must_use]
    pub fn signature(&self) -> &'a Signature {
        self.signature
    }

    /// Argument `index`, counted from 0, if the signature declares it with the type that `T` stands for.
    ///
    /// # Errors
    /// [`FrameError::NoSuchParameter`], [`FrameError::OtherType`].
    pub fn get<T: Scalar>(&self, index: usize) -> Result<T, FrameError> {
        let declared = self.declared(index)?;
        if declared != T::TYPE {
            return Err(FrameError::OtherType { declared: Some(declared) });
        }
        Ok(T::from_bits(self.bits(index, declared)))
    }

    /// Argument `index`, counted from 0, whatever its type.
    ///
    /// # Errors
    /// [`FrameError::NoSuchParameter`].
    pub fn value(&self, index: usize) -> Result<Value<'_>, FrameError> {
        let declared = self.declared(index)?;
        let bits = self.bits(index, declared);
        Ok(match declared {
            Type::Bool => Value::Bool(Scalar::from_bits(bits)),
            Type::I8 => Value::I8(Scalar::from_bits(bits)),
            Type::U8 => Value::U8(Scalar::from_bits(bits)),
            Type::I16 => Value::I16(Scalar::from_bits(bits)),
            Type::U16 => Value::U16(Scalar::from_bits(bits)),
            Type::I32 => Value::I32(Scalar::from_bits(bits)),
            Type::U32 => Value::U32(Scalar::from_bits(bits)),
            Type::I64 => Value::I64(Scalar::from_bits(bits)),
            Type::U64 => Value::U64(Scalar::from_bits(bits)),
            Type::I128 => Value::I128(Scalar::from_bits(bits)),
            Type::U128 => Value::U128(Scalar::from_bits(bits)),
            Type::F32 => Value::F32(Scalar::from_bits(bits)),
            Type::F64 => Value::F64(Scalar::from_bits(bits)),
            Type::Pointer => Value::Pointer(Scalar::from_bits(bits)),
            Type::Struct { size } => {
                let at = if declared.class() == TypeClass::ByPointer {
                    core::ptr::with_exposed_provenance(bits as usize)
                } else {
                    self.position(index).cast::<u8>().cast_const()
                };
                // SAFETY: the caller passed a structure of that size there, by the promise of `new`.
                Value::Struct(unsafe { core::slice::from_raw_parts(at, size as usize) })
            }
        })
    }

    /// The arguments in order.
    pub fn values(&self) -> impl Iterator<Item = Value<'_>> {
        (0..self.signature.parameters().len()).map_while(|index| self.value(index).ok())
    }

    /// Sets the result. A handler that sets none returns zero.
    ///
    /// # Errors
    /// [`FrameError::OtherType`] if the signature declares another result type than `T` stands for, or none.
    pub fn set_result<T: Scalar>(&mut self, result: T) -> Result<(), FrameError> {
        if self.signature.result() != Some(T::TYPE) {
            return Err(FrameError::OtherType { declared: self.signature.result() });
        }
        let bits = result.to_bits();
        self.raw.result = [bits as u64, (bits >> 64) as u64];
        Ok(())
    }

    /// The bytes of a result that is a structure, wherever the convention wants them; all zero at first.
    ///
    /// # Errors
    /// [`FrameError::OtherType`] if the signature declares a result that is no structure, or none.
    pub fn result_bytes(&mut self) -> Result<&mut [u8], FrameError> {
        let Some(Type::Struct { size }) = self.signature.result() else {
            return Err(FrameError::OtherType { declared: self.signature.result() });
        };
        let at = if self.signature.has_hidden_result() {
            core::ptr::with_exposed_provenance_mut(self.raw.result[0] as usize)
        } else {
            (&raw mut self.raw.result).cast::<u8>()
        };
        // SAFETY: `new` has written that many bytes there; a result in registers has at most 8.
        Ok(unsafe { core::slice::from_raw_parts_mut(at, size as usize) })
    }

    fn declared(&self, index: usize) -> Result<Type, FrameError> {
        let parameters = self.signature.parameters();
        parameters.get(index).copied().ok_or(FrameError::NoSuchParameter { index, parameters: parameters.len() })
    }

    fn position(&self, index: usize) -> *mut u64 {
        self.raw.arguments.wrapping_add(index + usize::from(self.signature.has_hidden_result()))
    }

    /// The bits of a declared argument; for a structure those of its position.
    fn bits(&self, index: usize, declared: Type) -> u128 {
        let position = index + usize::from(self.signature.has_hidden_result());
        // SAFETY: the caller passed that many positions, by the promise of `new`.
        let word = || unsafe { self.position(index).read() };
        match declared.class() {
            TypeClass::Integer => word().into(),
            TypeClass::Float => self.raw.floats.get(position).copied().unwrap_or_else(word).into(),
            TypeClass::ByPointer => match declared {
                // SAFETY: the caller passed the address of a value of 16 bytes, by the promise of `new`.
                Type::I128 | Type::U128 => unsafe {
                    core::ptr::with_exposed_provenance::<u128>(word() as usize).read_unaligned()
                },
                _ => word().into(),
            },
        }
    }
}

/// A Rust type that stands for one [`Type`] in a frame.
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
