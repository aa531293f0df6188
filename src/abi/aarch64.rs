//! AArch64: the Procedure Call Standard (AAPCS64), which Windows follows, too, but for variadic functions.
//!
//! Sources: "Procedure Call Standard for the Arm 64-bit Architecture", Arm; "Overview of ARM64 ABI conventions",
//! Microsoft. Parameters are counted by class: integers and pointers go in X0 to X7, floating-point numbers in V0 to
//! V7, and those for which no register is left on the stack, in words of 8 bytes. For typed callbacks the compiler
//! itself is asked.

use static_assertions::const_assert;

use crate::convention::Convention;
use crate::layout::*;
use crate::types::Type;

use super::{Prototype, Shape};

/// The flag of a registration whose calls have a record in the chain of SEH handlers: there is no chain here.
pub(crate) const FRAMED: usize = 0;

/// No floating-point number where the registers for it are off. A structure of up to 64 bytes may be homogeneous, and
/// then each of its members has a register of its own; a size does not tell. A larger one is always in memory.
pub(crate) fn is_type_available(ty: Type, _is_result: bool) -> bool {
    const LARGEST_HOMOGENEOUS: u32 = 64;
    match ty {
        Type::F32 | Type::F64 => cfg!(target_feature = "neon"),
        Type::Struct { size } => size > LARGEST_HOMOGENEOUS,
        _ => true,
    }
}

/// Whether the caller passes memory for a result that is a structure, in X8: for more than 16 bytes.
pub(crate) fn is_structure_hidden(_convention: Convention, size: u32) -> bool {
    size > 16
}

/// The data goes in the first register of X0 to X7 that has no argument; `positions` beyond these are words on the
/// stack, and the data is the next of them.
pub(crate) fn shape_of(_convention: Convention, positions: usize) -> Shape {
    let words = positions.saturating_sub(REGISTERS);
    Shape { positions, flags: words.min(MAX_WORDS) * STATE_WORD, cleanup: 0 }
}

const_assert!(MAX_WORDS * STATE_WORD < 1 << 24); // where the generation begins

/// The same if `positions` counts the address of a result, which is in X8.
pub(crate) fn with_result_in_memory(convention: Convention, shape: Shape) -> Shape {
    shape_of(convention, shape.positions.saturating_sub(1))
}

/// The frame lane looks at the arguments where they are; their number only tells shared registrations apart.
pub(crate) fn shape_of_frame(prototype: &Prototype<'_>) -> Shape {
    let Places { integers, floats, words } = locate(prototype, usize::MAX).1;
    Shape { positions: (integers + floats + words).min(STATE_POSITIONS - 1), flags: 0, cleanup: 0 }
}

/// Those on the stack.
pub(crate) fn bytes_of_arguments(prototype: &Prototype<'_>) -> usize {
    8 * locate(prototype, usize::MAX).1.words
}

/// Where an argument is.
#[derive(Clone, Copy)]
pub(crate) enum Location {
    /// In X0 to X7, by its number; what has 16 bytes in the next one, too.
    Integer(usize),
    /// In V0 to V7.
    Float(usize),
    /// Words above the first one on the stack.
    Stack(usize),
}

/// What the arguments before one take.
#[derive(Default)]
pub(crate) struct Places {
    integers: usize,
    floats: usize,
    words: usize,
}

impl Places {
    /// An integer or pointer of that many words. One of two begins in a register with an even number, or at an even
    /// word ("Parameter passing", C.10 and C.14).
    fn integer(&mut self, words: usize) -> Location {
        let first = self.integers.next_multiple_of(words);
        if first + words <= REGISTERS {
            self.integers = first + words;
            return Location::Integer(first);
        }
        self.integers = REGISTERS;
        self.words = self.words.next_multiple_of(words);
        self.word(words)
    }

    fn float(&mut self) -> Location {
        if self.floats == REGISTERS {
            return self.word(1);
        }
        self.floats += 1;
        Location::Float(self.floats - 1)
    }

    fn word(&mut self, words: usize) -> Location {
        self.words += words;
        Location::Stack(self.words - words)
    }
}

/// The place of argument `index`, if there is one, and what those before it take, or all.
///
/// The address of a result is in X8, but for a method's, which follows `this` ("Return values", Microsoft).
pub(crate) fn locate(prototype: &Prototype<'_>, index: usize) -> (Option<Location>, Places) {
    let mut places = Places::default();
    let hidden = (prototype.is_method && prototype.has_hidden_result()).then(|| prototype.before_hidden_result());
    for (parameter, ty) in prototype.parameters.iter().enumerate() {
        if hidden == Some(parameter) {
            places.integer(1);
        }
        let location = match ty {
            Type::F32 | Type::F64 => places.float(),
            Type::I128 | Type::U128 => places.integer(2),
            _ => places.integer(1), // of a structure, its address
        };
        if parameter == index {
            return (Some(location), places);
        }
    }
    if hidden == Some(prototype.parameters.len()) {
        places.integer(1);
    }
    (None, places)
}

/// The words on the stack that a probe's data may be in: 16 parameters of at most 64 bytes, each with a word to align
/// it; the integers that the second probe has more; its data.
const WORDS: usize = 16 * 9 + REGISTERS + 2;

/// Where the compiler puts the data of a typed callback, which is its last argument: it is asked by functions of the
/// callback's own parameters and a pointer, which mark what they find there. One of them has eight integers more before
/// the pointer: so it finds it on the stack, and thereby how many words are before it.
///
/// # Safety
/// Both must be functions of a convention that [is available](Convention::is_available) that take up to 16 parameters
/// of at most 64 bytes each, or their addresses, then the one a pointer, the other 8 integers and a pointer, and that
/// do nothing but set the byte there to 1.
pub(crate) unsafe fn find_shape(probe: *const (), full: *const ()) -> Shape {
    // SAFETY: by the caller's promise; so below.
    let first = unsafe { place_of_last(probe) };
    let (register, words) = if first < REGISTERS {
        // SAFETY: as above.
        let second = unsafe { place_of_last(full) };
        (first, second.saturating_sub(REGISTERS + first))
    } else {
        (REGISTERS, first - REGISTERS)
    };
    if words > MAX_WORDS || register == REGISTERS {
        return shape_of(Convention::NATIVE, REGISTERS + words); // too many to register, or no register left
    }
    Shape { positions: register, flags: words * STATE_WORD, cleanup: 0 }
}

/// The place of a function's last argument: the number of its register, or 8 and the words before it on the stack.
///
/// # Safety
/// As for [`find_shape`].
unsafe fn place_of_last(probe: *const ()) -> usize {
    let mut marks = [0_u8; REGISTERS + WORDS];
    let first = marks.as_mut_ptr();
    // SAFETY: by the caller's promise the function writes one byte, through an address of those that stand wherever an
    // argument may be; 8 times an even number of words keeps SP a multiple of 16.
    unsafe {
        core::arch::asm!(
            "sub sp, sp, #8 * {words}",
            "mov x11, #0",
            "2:",
            "str x10, [sp, x11, lsl #3]",
            "add x10, x10, #1",
            "add x11, x11, #1",
            "cmp x11, #{words}",
            "b.ne 2b",
            "blr x9",
            "add sp, sp, #8 * {words}",
            words = const WORDS,
            in("x9") probe,
            in("x10") first.wrapping_add(REGISTERS),
            in("x0") first,
            in("x1") first.wrapping_add(1),
            in("x2") first.wrapping_add(2),
            in("x3") first.wrapping_add(3),
            in("x4") first.wrapping_add(4),
            in("x5") first.wrapping_add(5),
            in("x6") first.wrapping_add(6),
            in("x7") first.wrapping_add(7),
            clobber_abi("C"),
        );
    }
    marks.iter().position(|mark| *mark == 1).unwrap_or(REGISTERS + WORDS)
}

const_assert!(WORDS % 2 == 0 && 8 * WORDS < 4096); // an immediate

/// Where the data of a typed callback goes: after its parameters.
///
/// Not `MaybeUninit`, which rustc passes otherwise than the type within if that has 16-byte alignment
/// (`repr(C, align(16))`): `ManuallyDrop` is passed as the type is. Nobody looks at the values, and nothing is dropped.
macro_rules! shape {
    ($is_contained:ident; $abi:literal {$($G:ident),*} ($($P:ty),* $(,)?) -> $R:ty) => {{
        let _ = $is_contained;
        #[allow(clippy::extra_unused_type_parameters, reason = "which of them are used is the caller's matter")]
        unsafe extern $abi fn probe<$($G),*>($(_: core::mem::ManuallyDrop<$P>,)* mark: *mut u8) {
            // SAFETY: the only caller passes such an address wherever an argument may be.
            unsafe { mark.write(1) };
        }
        #[allow(clippy::extra_unused_type_parameters, reason = "which of them are used is the caller's matter")]
        #[allow(clippy::too_many_arguments, reason = "eight are to fill the registers")]
        unsafe extern $abi fn full<$($G),*>(
            $(_: core::mem::ManuallyDrop<$P>,)*
            _: u64, _: u64, _: u64, _: u64, _: u64, _: u64, _: u64, _: u64,
            mark: *mut u8,
        ) {
            // SAFETY: as above.
            unsafe { mark.write(1) };
        }
        // SAFETY: they are such functions.
        unsafe { crate::abi::find_shape(probe::<$($G),*> as *const (), full::<$($G),*> as *const ()) }
    }};
}
pub(crate) use shape;

/// The address of a typed callback's handler: a function of the callback's own convention, which has the data after its
/// parameters.
///
/// The arguments: the shape, if the registration is not contained; those of `thunk`, after the convention names that
/// are not used here (`x86_64.rs`), and after the parameters the data.
macro_rules! handler {
    ([$($shape:ident)?] $abi:literal $pads:tt $generics:tt $generic:tt ($($parameter:tt: $P:ty,)*)
        $data:ident: $Data:ty, $R:ty, $bounds:tt $body:expr) => {{
        $(let _ = $shape;)?
        crate::abi::thunk! { $abi $generics $generic ($($parameter: $P,)* $data: $Data) $R, $bounds $body }
    }};
}
pub(crate) use handler;
