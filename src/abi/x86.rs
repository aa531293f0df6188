//! i686: stdcall, cdecl, thiscall, fastcall.
//!
//! The rules for signatures known at run time are those of Microsoft's compilers ("Argument passing and naming
//! conventions", Microsoft C++ documentation): arguments in words of 4 bytes on the stack; thiscall has the first small
//! one in ECX, fastcall the first two in ECX and EDX. For typed callbacks the compiler itself is asked.

use core::mem::{MaybeUninit, offset_of};

use static_assertions::const_assert;

use crate::convention::Convention;
use crate::layout::*;
use crate::types::{Element, Type};

use super::{Prototype, Shape};

pub(crate) use crate::layout::STATE_FRAMED as FRAMED;

/// The flag of a registration whose caller finds its X18 again: there is no such register.
pub(crate) const X18: usize = 0;

/// C has no 128-bit integers here. Of structures with 16-byte alignment Microsoft's compilers pass the address; Clang
/// passes those that have no vector as words, and GCC aligns all of them on the stack.
pub(crate) fn is_type_available(ty: Type, _is_result: bool) -> bool {
    let is_vector = |element| matches!(element, Element::Vector8 | Element::Vector16);
    !matches!(ty, Type::I128 | Type::U128 | Type::Aligned { .. })
        && !matches!(ty, Type::Homogeneous { element, .. } if is_vector(element))
}

/// Whether the caller passes memory for a result that is a structure as a hidden argument. Microsoft's compilers do so
/// for other sizes than 1, 2, 4 and 8 bytes, as C does on some systems; on the others it does for all.
pub(crate) fn is_structure_hidden(convention: Convention, ty: Type) -> bool {
    const SMALL_IN_MEMORY: bool = !cfg!(any(target_os = "freebsd", target_os = "openbsd", target_os = "dragonfly"));
    (SMALL_IN_MEMORY && matches!(convention, Convention::Sysv)) || !matches!(ty.size(), 1 | 2 | 4 | 8)
}

const fn callee_pops(convention: Convention) -> bool {
    !matches!(convention, Convention::Cdecl | Convention::Sysv)
}

/// Whether the caller removes the arguments, whose number it alone knows.
pub(crate) fn is_variadic_available(convention: Convention, _ty: Option<Type>) -> bool {
    !callee_pops(convention)
}

/// Registers for arguments.
pub(crate) const fn registers(convention: Convention) -> usize {
    match convention {
        Convention::Thiscall => 1,
        Convention::Fastcall => 2,
        _ => 0,
    }
}

/// `words` on the stack, and all registers of the convention in use: the data goes after the words.
pub(crate) fn shape_of(convention: Convention, words: usize) -> Shape {
    let cleanup = if callee_pops(convention) { (words as u32).saturating_mul(4) } else { 0 };
    let flags = if callee_pops(convention) { STATE_HANDLER_POPS } else { 0 };
    Shape { positions: words, flags, cleanup }
}

/// The same for a signature: by the System V convention the callee removes the address of a result.
fn shape_of_words(prototype: &Prototype<'_>, words: usize) -> Shape {
    let shape = shape_of(prototype.convention, words);
    let is_removed = prototype.convention == Convention::Sysv && prototype.has_hidden_result;
    Shape { cleanup: if is_removed { 4 } else { shape.cleanup }, ..shape }
}

/// The data is one more small parameter: it goes in a register of the convention if one is left, else after the words.
pub(crate) fn shape_of_direct(prototype: &Prototype<'_>) -> Shape {
    let (data, words) = locate(prototype, prototype.parameters.len());
    let shape = shape_of_words(prototype, words);
    let in_register = match data {
        Some(Location::Register(0)) => STATE_DATA_ECX,
        Some(Location::Register(_)) => STATE_DATA_EDX,
        Some(Location::Stack(_)) | None => 0,
    };
    Shape { flags: shape.flags | in_register, ..shape }
}

/// The frame lane looks at the arguments where they are: what is to be removed counts, and their number tells shared
/// registrations apart.
pub(crate) fn shape_of_frame(prototype: &Prototype<'_>) -> Shape {
    let words = bytes_of_arguments(prototype) / 4;
    let flags = match prototype.result {
        Some(Type::F32 | Type::F64) => STATE_FLOAT,
        Some(Type::F80) => STATE_F80,
        _ => 0,
    };
    Shape { positions: words.min(STATE_POSITIONS - 1), flags, ..shape_of_words(prototype, words) }
}

/// All words on the stack; no smaller number if there are more bytes than that can say.
pub(crate) fn bytes_of_arguments(prototype: &Prototype<'_>) -> usize {
    locate(prototype, usize::MAX).1.saturating_mul(4)
}

/// Where an argument is.
#[derive(Clone, Copy)]
pub(crate) enum Location {
    /// 0 is ECX, 1 is EDX.
    Register(usize),
    /// Words above the first one.
    Stack(usize),
}

/// The place of argument `index`, if there is one, and the number of words before it on the stack, or of all. The one
/// after the last is that of a pointer.
///
/// The address of a result is a word on the stack, but for a fastcall method's, which takes EDX.
pub(crate) fn locate(prototype: &Prototype<'_>, index: usize) -> (Option<Location>, usize) {
    let mut registers = 0..registers(prototype.convention);
    let mut words = 0_usize;
    let hidden = prototype.has_hidden_result.then(|| prototype.before_hidden_result());
    for parameter in 0..=prototype.parameters.len() {
        if hidden == Some(parameter) {
            words += usize::from(parameter == 0 || registers.next().is_none());
        }
        let ty = prototype.parameters.get(parameter).copied().unwrap_or(Type::Pointer);
        let small = ty.size() <= 4 && ty != Type::F32 && !ty.is_structure();
        let register = if small { registers.next() } else { None };
        if parameter == index {
            return (Some(register.map_or(Location::Stack(words), Location::Register)), words);
        }
        if register.is_none() && parameter < prototype.parameters.len() {
            words = words.saturating_add(ty.size().div_ceil(4));
        }
    }
    (None, words)
}

/// What may be taken for the address of a result, or for that of a mark.
#[repr(C)]
struct Cell<R> {
    result: MaybeUninit<R>,
    mark: u8,
}

/// The most words that there may be, and what there may be beside: two in registers, the result's address, the data.
const WORDS: usize = MAX_POSITIONS + 4;
const ECX: usize = WORDS;
const EDX: usize = WORDS + 1;
/// The number of a word, or of one of the two registers, has two digits to this base.
const BASE: usize = 12;
const_assert!(EDX < BASE * BASE);

/// Where the compiler puts the data of a typed callback, which is its last argument, and what it removes from the
/// stack.
///
/// A function with the handler's own types is called with the address of a cell in every register and word where an
/// argument may be, and sets the mark of the cell that it takes for its last argument. A cell for each word would take
/// too much of the stack; so there are two calls, and the marked cell is one digit of the word's number each time.
///
/// # Safety
/// `probe` must be a function of any convention that [is available](Convention::is_available) that takes up to `words`
/// words and a pointer, returns a `MaybeUninit<R>`, and does nothing but to [`set_mark`] with that pointer.
pub(crate) unsafe fn find_shape<R>(words: usize, probe: *const ()) -> Shape {
    if words >= WORDS {
        return shape_of(Convention::NATIVE, words); // too many to register
    }
    let mut at = 0;
    let mut popped = 0;
    for unit in [1, BASE] {
        let mut cells = [const { Cell::<R> { result: MaybeUninit::uninit(), mark: 0 } }; BASE];
        let first = cells.as_mut_ptr();
        let addresses = core::array::from_fn(|word| first.wrapping_add(word / unit % BASE).cast());
        // SAFETY: by the caller's promise; each address is a cell's.
        popped = unsafe { call_probe(probe, &addresses) };
        at += unit * cells.iter().position(|cell| cell.mark == 1).unwrap_or_default();
    }
    let popped_words = popped / 4;
    let (positions, flags) = match at {
        ECX => (popped_words, STATE_DATA_ECX),
        EDX => (popped_words, STATE_DATA_EDX),
        word => (word, 0),
    };
    let all_words = positions + usize::from(flags == 0);
    // With cdecl the callee may still remove the hidden result pointer.
    let handler_pops = popped_words == all_words;
    Shape {
        positions,
        flags: if handler_pops { flags | STATE_HANDLER_POPS } else { flags },
        cleanup: if handler_pops { 4 * positions as u32 } else { popped as u32 },
    }
}

/// Calls a function with these words on the stack, the last two in ECX and EDX. Returns how many bytes it has removed.
///
/// # Safety
/// As for [`find_shape`], with the address of a cell as every word.
unsafe fn call_probe(probe: *const (), words: &[*mut (); WORDS + 2]) -> usize {
    let popped: usize;
    // SAFETY: by the caller's promise the function writes to a cell as a whole, and to words that are below the old ESP
    // here; ESP is put back whatever it has removed. ESI, which LLVM keeps for itself, and EBX are preserved by every
    // convention; a result in ST0 is gone when the x87 state is put back.
    unsafe {
        core::arch::asm!(
            "push esi",
            "push ebx",
            "mov esi, esp",
            "mov ebx, edx",
            "sub esp, 112",
            "fnsave [esp]",
            "sub esp, 4 * {words} + 16",
            "and esp, -16",
            "xor ecx, ecx",
            "2:",
            "mov edx, [ebx + 4 * ecx]",
            "mov [esp + 4 * ecx], edx",
            "inc ecx",
            "cmp ecx, {words}",
            "jne 2b",
            "mov ecx, [ebx + 4 * {words}]",
            "mov edx, [ebx + 4 * {words} + 4]",
            "mov ebx, esp",
            "call eax",
            "mov eax, esp",
            "sub eax, ebx",
            "frstor [esi - 112]",
            "mov esp, esi",
            "pop ebx",
            "pop esi",
            words = const WORDS,
            inout("eax") probe => popped,
            inout("edx") words.as_ptr() => _,
            out("ecx") _,
            clobber_abi("cdecl"),
        );
    }
    popped
}

/// Refuses, when a callback is instantiated, more words on the stack than the direct lane passes on.
pub(crate) const fn assert_words(abi: &str, words: usize) {
    let in_registers = match abi.as_bytes() {
        b"thiscall" => 1,
        b"fastcall" => 2,
        _ => 0,
    };
    assert!(
        words <= MAX_POSITIONS + in_registers,
        "calltable: a typed callback's arguments take at most 128 words of 4 bytes on the stack: use a dynamic signature \
         (`Signature`, `Callback::from_dynamic`), which has no such limit"
    );
}

const_assert!(MAX_POSITIONS == 128); // the message says it

/// # Safety
/// `cell` must be the address of a `Cell<R>`.
pub(crate) unsafe fn set_mark<R>(cell: *mut u8) -> MaybeUninit<R> {
    // SAFETY: by the caller's promise.
    unsafe { cell.add(offset_of!(Cell<R>, mark)).write(1) };
    MaybeUninit::uninit()
}

/// Stands for large results: all of them are returned in memory.
pub(crate) type Large = [u32; 16];

/// Whether a function returns an `R` through the address that its caller passes as a hidden argument, which it removes
/// from the stack with the others. rustc has one rule for stdcall, thiscall and fastcall.
pub(crate) fn returns_through_pointer<R>() -> bool {
    unsafe extern "stdcall" fn probe<R>(cell: *mut u8) -> MaybeUninit<R> {
        // SAFETY: the only caller passes such an address wherever an argument may be.
        unsafe { set_mark::<R>(cell) }
    }
    match size_of::<R>() {
        0 => false,
        1..=8 => {
            let mut cell = Cell::<R> { result: MaybeUninit::uninit(), mark: 0 };
            let addresses = [(&raw mut cell).cast(); WORDS + 2];
            // SAFETY: `probe` takes two words at most, and each is the address of the cell.
            (unsafe { call_probe(probe::<R> as *const (), &addresses) }) != size_of::<usize>()
        }
        _ => true,
    }
}

/// The address of a typed callback's handler: of a function of the callback's own convention, which has the data after
/// its parameters, or, if the dispatcher can jump to it, of one that finds the foreign call's arguments where they are,
/// and the data in a register that the callback's convention has no argument in. Of a stdcall callback that is a
/// thiscall function whose `this` is the data; of a thiscall one with a parameter in ECX a fastcall function that has
/// the data in EDX.
///
/// The arguments: the shape, if it decides (`shape`); those of `thunk`, after the convention names that are not used
/// here (`x86_64.rs`), and after the parameters the data.
macro_rules! handler {
    ([$shape:ident] "stdcall" $($rest:tt)*) => {
        crate::abi::handler! { data_first $shape "stdcall" "thiscall" $($rest)* }
    };
    ([$shape:ident] "stdcall-unwind" $($rest:tt)*) => {
        crate::abi::handler! { data_first $shape "stdcall-unwind" "thiscall-unwind" $($rest)* }
    };
    ([$shape:ident] "thiscall" $($rest:tt)*) => {
        crate::abi::handler! { data_second $shape "thiscall" "fastcall" $($rest)* }
    };
    ([$shape:ident] "thiscall-unwind" $($rest:tt)*) => {
        crate::abi::handler! { data_second $shape "thiscall-unwind" "fastcall-unwind" $($rest)* }
    };
    (data_first $shape:ident $abi:tt $with_data:tt $pads:tt $generics:tt $generic:tt ($($parameter:tt: $P:ty,)*)
        $data:ident: $Data:ty, $R:ty, $bounds:tt $body:expr) => {
        if $shape.flags & crate::layout::STATE_DATA_ECX != 0 {
            crate::abi::thunk! {
                $with_data $generics $generic ($data: $Data, $($parameter: $P,)*) $R, $bounds $body
            }
        } else {
            crate::abi::handler! {
                [] $abi $pads $generics $generic ($($parameter: $P,)*) $data: $Data, $R, $bounds $body
            }
        }
    };
    (data_second $shape:ident $abi:tt $with_data:tt $pads:tt $generics:tt $generic:tt
        ($this:tt: $This:ty, $($parameter:tt: $P:ty,)*) $data:ident: $Data:ty, $R:ty, $bounds:tt $body:expr) => {
        if $shape.flags & crate::layout::STATE_DATA_EDX != 0 {
            crate::abi::thunk! {
                $with_data $generics $generic ($this: $This, $data: $Data, $($parameter: $P,)*) $R, $bounds $body
            }
        } else {
            crate::abi::handler! {
                [] $abi $pads $generics $generic
                ($this: $This, $($parameter: $P,)*) $data: $Data, $R, $bounds $body
            }
        }
    };
    (data_second $shape:ident $abi:tt $with_data:tt $pads:tt $generics:tt $generic:tt () $($rest:tt)*) => {{
        let _ = $shape; // there is no `this`
        crate::abi::handler! { [] $abi $pads $generics $generic () $($rest)* }
    }};
    ([$($shape:ident)?] $abi:tt $pads:tt $generics:tt $generic:tt ($($parameter:tt: $P:ty,)*)
        $data:ident: $Data:ty, $R:ty, $bounds:tt $body:expr) => {{
        $(let _ = $shape;)?
        crate::abi::thunk! { $abi $generics $generic ($($parameter: $P,)* $data: $Data) $R, $bounds $body }
    }};
}
pub(crate) use handler;

/// Where the data of a typed callback goes; the handler has these parameters and this result, which the generic types
/// name. A contained one has it after the parameters, as its other handler has (`FunctionPointer::answering`).
macro_rules! shape {
    ($is_contained:ident; "stdcall" $generics:tt ($($P:ty),* $(,)?) -> $R:ty) => {
        if $is_contained || crate::abi::returns_through_pointer::<$R>() {
            crate::abi::shape!(probe "stdcall" $generics ($($P,)*) () -> $R)
        } else {
            crate::abi::shape!(probe "thiscall" $generics () ($($P,)*) -> $R)
        }
    };
    ($is_contained:ident; "thiscall" $generics:tt ($This:ty $(, $P:ty)* $(,)?) -> $R:ty) => {{
        let last = || crate::abi::shape!(probe "thiscall" $generics ($This, $($P,)*) () -> $R);
        if $is_contained || crate::abi::returns_through_pointer::<$R>() {
            last()
        } else {
            // The first has no place in ECX if it is large or a floating-point number.
            let second = crate::abi::shape!(probe "fastcall" $generics ($This,) ($($P,)*) -> $R);
            if second.flags & crate::layout::STATE_DATA_EDX != 0 { second } else { last() }
        }
    }};
    ($is_contained:ident; $abi:tt $generics:tt ($($P:ty),* $(,)?) -> $R:ty) => {{
        let _ = $is_contained;
        crate::abi::shape!(probe $abi $generics ($($P,)*) () -> $R)
    }};
    (probe $abi:tt {$($G:ident),*} ($($Before:ty,)*) ($($After:ty,)*) -> $R:ty) => {{
        /// Says where one of its arguments is. Each argument and the result are passed as their types are.
        #[allow(clippy::extra_unused_type_parameters, reason = "which of them are used is the caller's matter")]
        unsafe extern $abi fn probe<Result, $($G),*>(
            $(_: core::mem::MaybeUninit<$Before>,)*
            cell: *mut u8,
            $(_: core::mem::MaybeUninit<$After>,)*
        ) -> core::mem::MaybeUninit<Result> {
            // SAFETY: the only caller passes such an address wherever an argument may be.
            unsafe { crate::abi::set_mark::<Result>(cell) }
        }
        use crate::abi::{Large, assert_words, find_shape};
        const { assert_words($abi, 0 $(+ size_of::<$Before>().div_ceil(4))* $(+ size_of::<$After>().div_ceil(4))*) };
        // One word more, since the result's address may be among them.
        let words = 1 $(+ size_of::<$Before>().div_ceil(4))* $(+ size_of::<$After>().div_ceil(4))*;
        // SAFETY: `probe` is such a function.
        unsafe {
            if size_of::<$R>() <= size_of::<Large>() {
                find_shape::<$R>(words, probe::<$R, $($G),*> as *const ())
            } else {
                find_shape::<Large>(words, probe::<Large, $($G),*> as *const ())
            }
        }
    }};
}
pub(crate) use shape;
