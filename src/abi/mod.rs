//! Where a convention puts arguments and results, and what it leaves to whom.
//!
//! # What a port supplies
//! A file of this folder has, for its architecture:
//! - `is_type_available`: whether foreign code passes such a value in a place that a handler can reach.
//! - `is_structure_hidden`: whether such a structure is returned through a hidden pointer.
//! - `is_variadic_available`: whether there are variadic functions, and with such a parameter.
//! - `shape_of`: the direct lane of a handler that counts its own positions.
//! - `shape_of_direct`: that of one that a signature describes.
//! - `shape_of_frame`, `bytes_of_arguments`: the frame lane.
//! - `FRAMED`: the flag of a registration whose calls have a record in the chain of SEH handlers, 0 if there is none.
//! - `X18`: the flag of a registration whose caller finds that register again, 0 where handlers leave it alone.
//! - `handler!`, `shape!`: a handler that rustc compiles, and its direct lane.
//!
//! `entry/` has the return addresses of counted calls, `frame/` a call in memory, `asm/` the table and the dispatchers.

use crate::convention::Convention;
use crate::types::Type;

cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86_64")] {
        mod x86_64;
        pub(crate) use x86_64::*;
    } else if #[cfg(target_arch = "x86")] {
        mod x86;
        pub(crate) use x86::*;
    } else if #[cfg(target_arch = "aarch64")] {
        mod aarch64;
        pub(crate) use aarch64::*;
    }
}

/// The address of a function that rustc compiles: its convention; its generic parameters with and without their bounds;
/// its own parameters; its result, further bounds, and what it does.
macro_rules! thunk {
    ($abi:literal {$($generics:tt)*} {$($generic:tt)*} ($($parameter:tt: $P:ty),* $(,)?)
        $R:ty, {$($bounds:tt)*} $body:expr) => {{
        unsafe extern $abi fn thunk<$($generics)*>($($parameter: $P),*) -> $R
        $($bounds)*
        {
            $body
        }
        thunk::<$($generic)*> as *const core::ffi::c_void
    }};
}
pub(crate) use thunk;

/// How a call gets at its arguments and the handler at its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Argument positions; on i686 words on the stack; on AArch64 integer registers before the data's, and words on the
    /// stack if none is left for it.
    pub(crate) positions: usize,
    /// Bits of the context's state.
    pub(crate) flags: usize,
    /// Bytes of arguments that the entry removes from the stack.
    pub(crate) cleanup: u32,
}

/// What foreign code calls, as far as the convention cares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prototype<'a> {
    pub(crate) convention: Convention,
    /// It is a method by Microsoft's rule: see [`crate::Signature::method`].
    pub(crate) is_method: bool,
    #[cfg_attr(
        not(target_arch = "aarch64"),
        allow(dead_code, reason = "on AArch64 Windows alone it is another convention")
    )]
    pub(crate) is_variadic: bool,
    pub(crate) parameters: &'a [Type],
    #[cfg_attr(
        not(target_arch = "x86"),
        allow(dead_code, reason = "the frame lane of i686 alone treats floats apart")
    )]
    pub(crate) result: Option<Type>,
    /// The caller passes memory for the result as a hidden argument: see [`has_hidden_result`].
    pub(crate) has_hidden_result: bool,
}

/// Whether the caller passes memory for such a result as a hidden argument.
pub(crate) fn has_hidden_result(convention: Convention, is_method: bool, result: Option<Type>) -> bool {
    result.is_some_and(|ty| ty.is_structure() && (is_method || is_structure_hidden(convention, ty)))
}

impl Prototype<'_> {
    /// The number of parameters that come before that argument.
    #[inline]
    pub(crate) fn before_hidden_result(&self) -> usize {
        usize::from(self.is_method)
    }
}
