//! Signatures built at run time, for the frame lane.

use crate::arch;
use crate::context::layout::MAX_POSITIONS;
use crate::convention::Convention;
use crate::error::SignatureError;

/// The type of a parameter or result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the plain types are named as in Rust")]
pub enum Type {
    /// C's `_Bool`: one byte. (The Windows type `BOOL` is an `I32`.)
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    /// C's `__int128`.
    I128,
    U128,
    F32,
    F64,
    /// A pointer or handle, to data or to a function.
    Pointer,
    /// A structure or union passed by value. An argument of type `__m128` is passed like one of 16 bytes; a result of
    /// that type like an `I128`.
    Struct {
        /// Its size in bytes.
        size: u32,
    },
}

impl Type {
    /// The type of Rust's `isize`, C's `intptr_t`, Windows' `LPARAM` and `LRESULT`.
    pub const ISIZE: Self = if size_of::<isize>() == 8 { Self::I64 } else { Self::I32 };
    /// The type of Rust's `usize`, C's `size_t`, Windows' `WPARAM`.
    pub const USIZE: Self = if size_of::<usize>() == 8 { Self::U64 } else { Self::U32 };

    /// Its size in bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
            Self::I128 | Self::U128 => 16,
            Self::Pointer => size_of::<usize>(),
            Self::Struct { size } => size as usize,
        }
    }
}

/// What a callback takes and returns, as known at run time.
///
/// ```
/// use calltable::{Convention, Signature, SignatureError, Type};
///
/// // BOOL CALLBACK EnumWindowsProc(HWND window, LPARAM parameter)
/// let signature = Signature::new(Convention::NATIVE, &[Type::Pointer, Type::ISIZE], Some(Type::I32))?;
/// assert_eq!(signature.parameters().len(), 2);
/// # Ok::<(), SignatureError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Signature {
    convention: Convention,
    parameters: heapless::Vec<Type, MAX_POSITIONS>,
    result: Option<Type>,
}

impl Signature {
    /// Checks the parts. `result` is `None` for a function that returns nothing.
    ///
    /// # Errors
    /// See [`SignatureError`].
    pub fn new(convention: Convention, parameters: &[Type], result: Option<Type>) -> Result<Self, SignatureError> {
        if !convention.is_available() {
            return Err(SignatureError::ConventionUnavailable(convention));
        }
        let types = parameters.iter().enumerate().map(|(index, ty)| (Some(index), *ty));
        for (parameter, ty) in types.chain(result.map(|ty| (None, ty))) {
            if ty.size() == 0 {
                return Err(SignatureError::ZeroSized { parameter });
            }
            if !arch::is_type_available(ty, parameter.is_none()) {
                return Err(SignatureError::TypeUnavailable { parameter });
            }
        }
        let too_many = SignatureError::TooManyParameters { parameters: parameters.len() };
        let parameters = heapless::Vec::from_slice(parameters).map_err(|_| too_many)?;
        let signature = Self { convention, parameters, result };
        if arch::place_of_frame(&signature).positions > MAX_POSITIONS {
            return Err(too_many);
        }
        Ok(signature)
    }

    /// How the foreign code calls.
    #[must_use]
    pub fn convention(&self) -> Convention {
        self.convention
    }

    /// The parameters, in order.
    #[must_use]
    #[inline]
    pub fn parameters(&self) -> &[Type] {
        &self.parameters
    }

    /// The result, if there is one.
    #[must_use]
    #[inline]
    pub fn result(&self) -> Option<Type> {
        self.result
    }

    /// Whether the caller passes memory for the result as a hidden argument.
    #[inline]
    pub(crate) fn has_hidden_result(&self) -> bool {
        self.result.is_some_and(|ty| arch::is_result_hidden(self.convention, ty))
    }
}
