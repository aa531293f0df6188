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
    /// `long double` of GCC and Clang for i686, but not for MSVC: the 80 bits of an x87 register, in 12 bytes. (That of
    /// MinGW for x86_64 is passed and returned like a [`Type::Struct`] of 16 bytes, that of AArch64 Linux like a
    /// [homogeneous](Type::Homogeneous) structure of one [`Element::Vector16`].)
    F80,
    /// A pointer or handle, to data or to a function.
    Pointer,
    /// A structure or union passed by value that is none of the two below; [`Type::structure`] tells which it is. On
    /// x86 only the size counts. An argument of type `__m128` is passed there like one of 16 bytes; a result of that
    /// type like an `I128`.
    Struct {
        /// Its size in bytes.
        size: u32,
    },
    /// A structure or union passed by value that consists of one to four numbers or vectors of one type and of nothing
    /// else, however they are nested: on AArch64 each has a register of its own. A vector by itself is passed there
    /// like a structure of one.
    Homogeneous {
        /// What it consists of.
        element: Element,
        /// How many of them: 1 to 4.
        count: u8,
    },
    /// A structure or union passed by value that has a member of alignment 16, such as `__int128`, and is not
    /// homogeneous. (On Windows it is enough that the structure as a whole is aligned. Elsewhere that does not count:
    /// see "natural alignment" in the Procedure Call Standard for the Arm 64-bit Architecture.) i686 has none: no two
    /// compilers agree there.
    Aligned {
        /// Its size in bytes, a multiple of 16.
        size: u32,
    },
}

/// What a [homogeneous](Type::Homogeneous) structure consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Element {
    /// C's `float`.
    F32,
    /// C's `double`.
    F64,
    /// A vector of 8 bytes, such as `int32x2_t`.
    Vector8,
    /// A vector of 16 bytes, such as `float32x4_t`.
    Vector16,
}

impl Element {
    /// Its size in bytes.
    ///
    /// ```
    /// use calltable::Element;
    ///
    /// assert_eq!((Element::F32.size(), Element::Vector16.size()), (4, 16));
    /// ```
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F64 | Self::Vector8 => 8,
            Self::Vector16 => 16,
        }
    }
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
            Self::F80 => 12,
            Self::I128 | Self::U128 => 16,
            Self::Pointer => size_of::<usize>(),
            Self::Struct { size } | Self::Aligned { size } => size as usize,
            Self::Homogeneous { element, count } => element.size() * count as usize,
        }
    }

    /// The type of a structure or union of that size and alignment that consists of these numbers and pointers, all of
    /// them, in whatever structures and arrays they are within it. `align` is the largest alignment of its members: not
    /// that which `alignas` gives to the structure as a whole, but on Windows. (Name yourself what has vectors in it,
    /// and what is longer by `alignas` and has a union in it: the number of elements does not tell how many of them lie
    /// side by side.)
    ///
    /// ```
    /// use calltable::{Element, Type};
    ///
    /// // struct { struct { float x, y; } from, to; }
    /// let line = Type::structure(16, 4, &[Type::F32; 4]);
    /// assert_eq!(line, Type::Homogeneous { element: Element::F32, count: 4 });
    /// // struct { double value; int32_t unit; }
    /// assert_eq!(Type::structure(16, 8, &[Type::F64, Type::I32]), Type::Struct { size: 16 });
    /// // struct { __int128 value; }
    /// assert_eq!(Type::structure(16, 16, &[Type::I128]), Type::Aligned { size: 16 });
    /// ```
    #[must_use]
    pub const fn structure(size: u32, align: u32, members: &[Self]) -> Self {
        let element = match members {
            [Self::F32, ..] => Some(Element::F32),
            [Self::F64, ..] => Some(Element::F64),
            _ => None,
        };
        if let Some(element) = element {
            let (bytes, mut alike) = (element.size() as u32, 0);
            while alike < members.len() && members[alike].is_same(members[0]) {
                alike += 1;
            }
            // Of a union there are more than have room side by side; padding makes it fewer.
            let count = size / bytes;
            if alike == members.len() && size % bytes == 0 && count <= 4 && count as usize <= alike {
                return Self::Homogeneous { element, count: count as u8 };
            }
        }
        if align >= 16 { Self::Aligned { size } } else { Self::Struct { size } }
    }

    /// Of the two types that a homogeneous structure may consist of; `==` is for other times than that of compiling.
    const fn is_same(self, other: Self) -> bool {
        matches!((self, other), (Self::F32, Self::F32) | (Self::F64, Self::F64))
    }

    /// Whether it is a structure or union: a frame gives its bytes ([`Value::Struct`](crate::Value::Struct)) and takes
    /// them ([`Frame::result_bytes`](crate::Frame::result_bytes)).
    ///
    /// ```
    /// use calltable::Type;
    ///
    /// assert!(Type::structure(8, 4, &[Type::F32; 2]).is_structure() && !Type::F64.is_structure());
    /// ```
    #[must_use]
    pub const fn is_structure(self) -> bool {
        matches!(self, Self::Struct { .. } | Self::Homogeneous { .. } | Self::Aligned { .. })
    }

    /// Whether a frame has it as bytes, Rust having no such number.
    #[doc(hidden)]
    #[must_use]
    pub const fn is_in_bytes(self) -> bool {
        self.is_structure() || matches!(self, Self::F80)
    }
}

/// The number of parameters that a [`Signature`](crate::Signature) holds.
pub const MAX_PARAMETERS: usize = 255;

/// What a callee can remove: RET takes 16 bits, and words have 4 bytes.
pub(crate) const MAX_BYTES: usize = 65_532;
