//! x86_64: the Microsoft x64 convention.

use core::mem::{MaybeUninit, offset_of};

use static_assertions::const_assert_eq;

use crate::context::layout::*;
use crate::convention::Convention;
use crate::signature::{Signature, Type};

use super::Place;

pub(crate) const NATIVE: Convention = Convention::Win64;
pub(crate) const C: Convention = Convention::Win64;

pub(crate) const fn is_available(convention: Convention) -> bool {
    matches!(convention, Convention::Win64)
}

/// What a signature without a result in XMM0 or an argument there looks like; none of it where SSE is off.
pub(crate) fn is_type_available(ty: Type, is_result: bool) -> bool {
    let in_xmm = match ty {
        Type::F32 | Type::F64 => true,
        Type::I128 | Type::U128 => is_result,
        _ => false,
    };
    !in_xmm || cfg!(target_feature = "sse2")
}

/// Whether the caller passes memory for such a result as a hidden first argument: for structures of other sizes than
/// 1, 2, 4 and 8 bytes ("x64 calling convention, Return values").
pub(crate) fn is_result_hidden(_convention: Convention, ty: Type) -> bool {
    matches!(ty, Type::Struct { size } if !matches!(size, 1 | 2 | 4 | 8))
}

/// Each parameter takes one position, whatever its type.
pub(crate) fn place_of(_convention: Convention, positions: usize) -> Place {
    Place { positions, flags: 0, cleanup: 0 }
}

pub(crate) fn place_of_frame(signature: &Signature) -> Place {
    place_of(signature.convention(), signature.parameters().len() + usize::from(signature.has_hidden_result()))
}

/// Where the data of a typed callback goes: behind its parameters.
macro_rules! place {
    ($abi:literal ($($P:ident $p:ident)*) $R:ident) => {{
        let parameters = <[&str]>::len(&[$(stringify!($P)),*]);
        let hidden = crate::arch::returns_through_pointer::<$R>();
        crate::arch::place_of(crate::Convention::Win64, parameters + usize::from(hidden))
    }};
}
pub(crate) use place;

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
    // result pointer, through RDX; its result has room behind RCX. 32 bytes of home space keep RSP a multiple of 16.
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

impl RawFrame {
    /// # Safety
    /// The foreign code must have passed that argument; so for all below.
    #[inline]
    pub(crate) unsafe fn bits(&self, signature: &Signature, index: usize, declared: Type) -> u128 {
        let position = index + usize::from(signature.has_hidden_result());
        // SAFETY: by the caller's promise there are that many positions.
        let word = || unsafe { self.arguments.add(position).read() };
        match declared {
            Type::F32 | Type::F64 => self.floats.get(position).copied().unwrap_or_else(word).into(),
            // SAFETY: the argument is the address of such a value.
            Type::I128 | Type::U128 => unsafe {
                core::ptr::with_exposed_provenance::<u128>(word() as usize).read_unaligned()
            },
            _ => word().into(),
        }
    }

    /// The bytes of a structure: in its position, or where that points to.
    pub(crate) unsafe fn structure(&self, signature: &Signature, index: usize, declared: Type) -> *const u8 {
        let position = self.arguments.wrapping_add(index + usize::from(signature.has_hidden_result()));
        match declared.size() {
            1 | 2 | 4 | 8 => position.cast(),
            // SAFETY: by the caller's promise there is such a position.
            _ => core::ptr::with_exposed_provenance(unsafe { position.read() } as usize),
        }
    }

    /// The address for a result that is returned in memory.
    pub(crate) unsafe fn hidden_argument(&self, _signature: &Signature) -> *mut u8 {
        // SAFETY: by the caller's promise it is the first argument.
        core::ptr::with_exposed_provenance_mut(unsafe { self.arguments.read() } as usize)
    }

    #[inline]
    pub(crate) fn set_result(&mut self, _ty: Type, bits: u128) {
        self.result = [bits as u64, (bits >> 64) as u64];
    }
}

/// Writes to standard error.
#[cfg(target_os = "linux")]
pub(crate) fn print(message: &core::ffi::CStr) {
    const SYS_WRITE: usize = 1;
    const STDERR: usize = 2;
    let message = message.to_bytes();
    // SAFETY: the system call reads the message and nothing else; it clobbers RCX and R11. That it may fail, or
    // write less than asked, does not matter to a program that is about to stop.
    unsafe {
        core::arch::asm!(
            "syscall",
            inout("rax") SYS_WRITE => _,
            in("rdi") STDERR,
            in("rsi") message.as_ptr(),
            in("rdx") message.len(),
            out("rcx") _,
            out("r11") _,
            options(nostack, readonly),
        );
    }
}
