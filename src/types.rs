//! The types that a signature known at run time is made of.

/// The type of a parameter or result.
///
/// ```
/// use calltable::Type;
///
/// assert_eq!(Type::Pointer.size(), size_of::<*const u8>());
/// assert_eq!(Type::Struct { size: 12 }.size(), 12);
/// assert_eq!(Type::ISIZE.size(), size_of::<isize>()); // LPARAM
/// ```
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
    ///
    /// On AArch64 one of up to 64 bytes is not available yet: it may be homogeneous, and its size does not tell.
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

    /// Its size in bytes. Example: [`Self`].
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

/// The number of parameters that a [`Signature`](crate::Signature) holds.
pub const MAX_PARAMETERS: usize = 255;

/// What a callee can remove: RET takes 16 bits, and words have 4 bytes.
pub(crate) const MAX_BYTES: usize = 65_532;
