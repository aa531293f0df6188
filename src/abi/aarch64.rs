//! AArch64: the Procedure Call Standard (AAPCS64), which Windows follows, too, but for variadic functions.
//!
//! Sources: "Procedure Call Standard for the Arm 64-bit Architecture", Arm; "Overview of ARM64 ABI conventions",
//! Microsoft. Parameters are counted by class: integers and pointers go in X0 to X7, floating-point numbers in V0 to
//! V7, and those for which no register is left on the stack, in words of 8 bytes. A structure of up to 16 bytes is one
//! or two integers, a homogeneous one as many floating-point registers as it has elements, each of them whole in
//! registers or whole on the stack; of a larger one the address is passed. For typed callbacks the compiler itself is
//! asked.

use static_assertions::const_assert;

use crate::convention::Convention;
use crate::layout::*;
use crate::types::Type;

use super::{Prototype, Shape};

/// The flag of a registration whose calls have a record in the chain of SEH handlers: there is no chain here.
pub(crate) const FRAMED: usize = 0;

/// The flag of a registration whose caller finds its X18 again. On Windows, where that is the thread's block, handlers
/// leave it alone.
pub(crate) const X18: usize = if cfg!(windows) { 0 } else { STATE_X18 };

/// Nothing in a floating-point register where they are off, and no number of x87.
pub(crate) fn is_type_available(ty: Type, _is_result: bool) -> bool {
    match ty {
        Type::F80 => false,
        Type::F32 | Type::F64 | Type::Homogeneous { .. } => cfg!(target_feature = "neon"),
        _ => true,
    }
}

/// The most bytes of a structure that is not homogeneous and has its value passed, not its address.
const MOST_BY_VALUE: usize = 16;

/// Whether the address of such an argument is passed, or for such a result memory, whose address is in X8.
pub(crate) fn is_structure_hidden(_convention: Convention, ty: Type) -> bool {
    !matches!(ty, Type::Homogeneous { .. }) && ty.size() > MOST_BY_VALUE
}

/// The data goes in the first register of X0 to X7 that has no argument; `positions` beyond these are words on the
/// stack, and the data is the next of them.
pub(crate) fn shape_of(_convention: Convention, positions: usize) -> Shape {
    let words = positions.saturating_sub(REGISTERS);
    Shape { positions, flags: words.min(MAX_WORDS) * STATE_WORD, cleanup: 0 }
}

const_assert!(MAX_WORDS * STATE_WORD < 1 << 24); // where the generation begins

/// The data is one more integer.
pub(crate) fn shape_of_direct(prototype: &Prototype<'_>) -> Shape {
    let (data, places) = locate(prototype, prototype.parameters.len());
    shape_at(prototype.convention, data, places.words)
}

/// The data in a register or after `words` words; where these are too many, a registration is refused.
fn shape_at(convention: Convention, data: Option<Location>, words: usize) -> Shape {
    match data {
        Some(Location::Integer(register)) if words <= MAX_WORDS => {
            Shape { positions: register, flags: words * STATE_WORD, cleanup: 0 }
        }
        _ => shape_of(convention, REGISTERS.saturating_add(words)),
    }
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
    /// In X0 to X7, by the number of the first.
    Integer(usize),
    /// In V0 to V7, by the number of the first; a homogeneous structure has one for each element.
    Float(usize),
    /// Words above the first one on the stack.
    Stack(usize),
}

/// What the arguments before one take.
#[derive(Default)]
pub(crate) struct Places {
    pub(crate) integers: usize,
    pub(crate) floats: usize,
    pub(crate) words: usize,
}

/// `count` or more, a multiple of `align`, which is 1 or 2. (A division could fail, so the panic for that would be part
/// of every program.)
fn round_up(count: usize, align: usize) -> usize {
    count + (count & (align - 1))
}

/// Registers of one class for an argument that begins at a multiple of `align`; if it has not enough of them, those
/// that are left stay empty for good ("Parameter passing", C.3, C.13).
fn take(taken: &mut usize, count: usize, align: usize) -> Option<usize> {
    let first = round_up(*taken, align);
    let is_room = first + count <= REGISTERS;
    *taken = if is_room { first + count } else { REGISTERS };
    is_room.then_some(first)
}

impl Places {
    /// An integer, a pointer or a structure. One of alignment 16 begins in a register with an even number, or at an
    /// even word (C.10, C.14).
    fn integer(&mut self, words: usize, align: usize) -> Location {
        take(&mut self.integers, words, align).map_or_else(|| self.word(words, align), Location::Integer)
    }

    fn float(&mut self, count: usize, words: usize, align: usize) -> Location {
        take(&mut self.floats, count, 1).map_or_else(|| self.word(words, align), Location::Float)
    }

    fn word(&mut self, words: usize, align: usize) -> Location {
        let first = round_up(self.words, align);
        self.words = first + words;
        Location::Stack(first)
    }
}

/// The place of argument `index`, if there is one, and what those before it take, or all. The one after the last is
/// that of a pointer.
///
/// The address of a result is in X8, but for a method's, which follows `this` ("Return values", Microsoft).
pub(crate) fn locate(prototype: &Prototype<'_>, index: usize) -> (Option<Location>, Places) {
    let mut places = Places::default();
    let hidden = (prototype.is_method && prototype.has_hidden_result).then(|| prototype.before_hidden_result());
    let is_variadic = cfg!(windows) && prototype.is_variadic; // of one, all are integers there
    for parameter in 0..=prototype.parameters.len() {
        if hidden == Some(parameter) {
            places.integer(1, 1);
        }
        let before = places.words;
        let location = match prototype.parameters.get(parameter).copied() {
            Some(Type::F32 | Type::F64) if is_variadic => places.integer(1, 1),
            Some(Type::F32 | Type::F64) => places.float(1, 1, 1),
            Some(Type::I128 | Type::U128 | Type::Aligned { size: 16 }) => places.integer(2, 2),
            Some(ty @ Type::Homogeneous { element, count }) => {
                places.float(count.into(), ty.size().div_ceil(8), element.size().div_ceil(8))
            }
            Some(ty @ Type::Struct { .. }) if ty.size() <= MOST_BY_VALUE => places.integer(ty.size().div_ceil(8), 1),
            None if index != parameter => break,
            _ => places.integer(1, 1), // of a structure, its address
        };
        if parameter == index {
            return (Some(location), Places { words: before, ..places });
        }
    }
    (None, places)
}

/// Whether a variadic function may have that parameter. On Windows such functions get structures in integer registers,
/// and one of two words half in X7 and half on the stack, which no handler could be shown.
pub(crate) fn is_variadic_available(_convention: Convention, ty: Option<Type>) -> bool {
    let is_in_integers = |ty: Type| !ty.is_structure() || ty.size() <= 8 || ty.size() > MOST_BY_VALUE;
    !cfg!(windows) || ty.is_none_or(|ty| !matches!(ty, Type::Homogeneous { .. }) && is_in_integers(ty))
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
    let place = if register < REGISTERS { Location::Integer(register) } else { Location::Stack(words) };
    shape_at(Convention::NATIVE, Some(place), words)
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
