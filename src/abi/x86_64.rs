//! x86_64: the Microsoft x64 convention.

use core::mem::MaybeUninit;

use crate::convention::Convention;
use crate::layout::*;
use crate::types::Type;

use super::{Prototype, Shape};

/// The flag of a registration whose calls have a record in the chain of SEH handlers: unwind data say all here.
pub(crate) const FRAMED: usize = 0;

/// The flag of a registration whose caller finds its X18 again: there is no such register.
pub(crate) const X18: usize = 0;

/// Nothing in an XMM register where SSE is off. A structure is never there. An x87 register has no place in the
/// convention.
pub(crate) fn is_type_available(ty: Type, is_result: bool) -> bool {
    let in_xmm = match ty {
        Type::F80 => return false,
        Type::F32 | Type::F64 => true,
        Type::I128 | Type::U128 => is_result,
        _ => false,
    };
    !in_xmm || cfg!(target_feature = "sse2")
}

/// Whether the caller passes memory for a result that is a structure as a hidden argument: for other sizes than 1, 2, 4
/// and 8 bytes ("x64 calling convention, Return values").
pub(crate) fn is_structure_hidden(_convention: Convention, ty: Type) -> bool {
    !matches!(ty.size(), 1 | 2 | 4 | 8)
}

/// Whether a variadic function may have that parameter.
pub(crate) fn is_variadic_available(_convention: Convention, _ty: Option<Type>) -> bool {
    true
}

/// Each parameter takes one position, whatever its type.
#[inline]
pub(crate) fn shape_of(_convention: Convention, positions: usize) -> Shape {
    Shape { positions, flags: 0, cleanup: 0 }
}

/// The data goes after all of them.
pub(crate) fn shape_of_direct(prototype: &Prototype<'_>) -> Shape {
    shape_of(prototype.convention, bytes_of_arguments(prototype) / 8)
}

/// The frame lane looks at the arguments where they are; their number only tells shared registrations apart.
pub(crate) fn shape_of_frame(prototype: &Prototype<'_>) -> Shape {
    shape_of(prototype.convention, (bytes_of_arguments(prototype) / 8).min(STATE_POSITIONS - 1))
}

/// All positions.
pub(crate) fn bytes_of_arguments(prototype: &Prototype<'_>) -> usize {
    8 * (prototype.parameters.len() + usize::from(prototype.has_hidden_result))
}

/// The position of a parameter.
#[inline]
pub(crate) fn position_of(prototype: &Prototype<'_>, index: usize) -> usize {
    index + usize::from(prototype.has_hidden_result && index >= prototype.before_hidden_result())
}

/// Where the data of a typed callback goes: after its parameters, and those that its handler has more (`handler`).
macro_rules! shape {
    ($is_contained:ident; $abi:literal {$($G:ident),*} ($($P:ty),* $(,)?) -> $R:ty) => {{
        let _ = $is_contained;
        let parameters = <[&str]>::len(&[$(stringify!($P)),*]);
        let hidden = crate::abi::returns_through_pointer::<$R>();
        let positions = if hidden { parameters + 1 } else { parameters.max(crate::layout::JUMP_POSITIONS) };
        crate::abi::shape_of(crate::convention::Convention::Win64, positions)
    }};
}
pub(crate) use shape;

/// The address of a typed callback's handler. With fewer parameters than [`JUMP_POSITIONS`] it has unnamed ones after
/// them (`$pad`), so that its data has the place where the dispatcher puts it without a question. Only where the result
/// is returned through a hidden pointer, of which the types do not tell, it has none of these.
///
/// The arguments: the shape, if the registration is not contained; those of `thunk`, and after the convention names for
/// the unnamed parameters, after the parameters the data.
macro_rules! handler {
    ([$($shape:ident)?] $abi:literal [] $generics:tt $generic:tt ($($parameter:tt: $P:ty,)*)
        $data:ident: $Data:ty, $R:ty, $bounds:tt $body:expr) => {{
        $(let _ = $shape;)?
        crate::abi::thunk! { $abi $generics $generic ($($parameter: $P,)* $data: $Data) $R, $bounds $body }
    }};
    ([$($shape:ident)?] $abi:literal [$($pad:ident)*] $generics:tt $generic:tt ($($parameter:tt: $P:ty,)*)
        $data:ident: $Data:ty, $R:ty, $bounds:tt $body:expr) => {{
        $(let _ = $shape;)?
        if crate::abi::returns_through_pointer::<$R>() {
            crate::abi::thunk! {
                $abi $generics $generic ($($parameter: $P,)* $data: $Data) $R, $bounds $body
            }
        } else {
            crate::abi::thunk! {
                $abi $generics $generic
                ($($parameter: $P,)* $($pad: core::mem::MaybeUninit<usize>,)* $data: $Data) $R, $bounds $body
            }
        }
    }};
}
pub(crate) use handler;

/// Whether a win64 function that returns an `R` receives the address for it as a hidden first argument.
///
/// By the convention, results of 1, 2, 4 or 8 bytes come in a register; of the others some do, too: vectors and
/// 128-bit integers in XMM0, and what is a mere wrapper of one. Rust has no name for that property, so the compiler
/// is asked by looking where it expects the first argument of a function that returns an `R`.
pub(crate) fn returns_through_pointer<R>() -> bool {
    if matches!(size_of::<R>(), 0 | 1 | 2 | 4 | 8) {
        return false;
    }
    /// Sets the byte that its first argument points to. `MaybeUninit<R>` is returned as `R` is.
    unsafe extern "win64" fn probe<R>(first: *mut bool) -> MaybeUninit<R> {
        // SAFETY: the only caller, below, passes writable memory as any argument that can be the first.
        unsafe { first.write(true) };
        MaybeUninit::uninit()
    }
    let mut result = MaybeUninit::<R>::uninit();
    let mut second = false;
    // SAFETY: `probe` writes one byte through RCX (memory of more than one byte, see above) or, if RCX is its hidden
    // result pointer, through RDX; its result has room where RCX points. 32 bytes of home space keep RSP a multiple of
    // 16.
    unsafe {
        core::arch::asm!(
            "sub rsp, 32",
            "call rax",
            "add rsp, 32",
            in("rax") probe::<R> as *const (),
            in("rcx") &raw mut result,
            in("rdx") &raw mut second,
            clobber_abi("win64"),
        );
    }
    second
}
