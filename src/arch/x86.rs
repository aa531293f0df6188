//! i686: stdcall, cdecl, thiscall, fastcall.
//!
//! The rules for signatures known at run time are those of Microsoft's compilers ("Argument passing and naming
//! conventions", Microsoft C++ documentation): arguments in words of 4 bytes on the stack; thiscall has the first small
//! one in ECX, fastcall the first two in ECX and EDX. For typed callbacks the compiler itself is asked.

use core::mem::{MaybeUninit, offset_of};

use static_assertions::const_assert_eq;

use crate::context::layout::*;
use crate::convention::Convention;
use crate::signature::{Signature, Type};

use super::Place;

pub(crate) const C: Convention = Convention::Cdecl;
pub(crate) const NATIVE: Convention = if cfg!(windows) { Convention::Stdcall } else { Convention::Cdecl };

pub(crate) const fn is_available(convention: Convention) -> bool {
    !matches!(convention, Convention::Win64)
}

/// C has no 128-bit integers here.
pub(crate) fn is_type_available(ty: Type, _is_result: bool) -> bool {
    !matches!(ty, Type::I128 | Type::U128)
}

/// Whether the caller passes memory for such a result as a hidden argument: for structures of other sizes than 1, 2, 4
/// and 8 bytes.
pub(crate) fn is_result_hidden(_convention: Convention, ty: Type) -> bool {
    matches!(ty, Type::Struct { size } if !matches!(size, 1 | 2 | 4 | 8))
}

const fn callee_pops(convention: Convention) -> bool {
    !matches!(convention, Convention::Cdecl)
}

/// Registers for arguments.
const fn registers(convention: Convention) -> usize {
    match convention {
        Convention::Thiscall => 1,
        Convention::Fastcall => 2,
        _ => 0,
    }
}

/// `words` on the stack, and all registers of the convention in use: the data goes behind the words.
pub(crate) fn place_of(convention: Convention, words: usize) -> Place {
    let cleanup = if callee_pops(convention) { 4 * words as u32 } else { 0 };
    let flags = if callee_pops(convention) { STATE_HANDLER_POPS } else { 0 };
    Place { positions: words, flags, cleanup }
}

pub(crate) fn place_of_frame(signature: &Signature) -> Place {
    let words = locate(signature, usize::MAX).1;
    let flags = if matches!(signature.result(), Some(Type::F32 | Type::F64)) { STATE_FLOAT } else { 0 };
    Place { flags, ..place_of(signature.convention(), words) }
}

/// Where an argument is.
#[derive(Clone, Copy)]
enum Location {
    /// 0 is ECX, 1 is EDX.
    Register(usize),
    /// Words above the first one.
    Stack(usize),
}

/// The place of argument `index`, if there is one, and the number of words before it on the stack, or of all.
fn locate(signature: &Signature, index: usize) -> (Option<Location>, usize) {
    let mut registers = 0..registers(signature.convention());
    let mut words = usize::from(signature.has_hidden_result());
    for (parameter, ty) in signature.parameters().iter().enumerate() {
        let small = ty.size() <= 4 && !matches!(ty, Type::F32 | Type::Struct { .. });
        let register = if small { registers.next() } else { None };
        if parameter == index {
            return (Some(register.map_or(Location::Stack(words), Location::Register)), words);
        }
        if register.is_none() {
            words += ty.size().div_ceil(4);
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

/// Where the compiler puts the data of a typed callback, which is its last argument, and what it removes from the stack.
///
/// A function with the handler's own types is called with the address of a cell in every register and word where an
/// argument may be, and sets the mark of the cell that it takes for its last argument.
///
/// # Safety
/// `probe` must be a function of any convention for which [`is_available`] that takes up to `words` words and a pointer,
/// returns a `MaybeUninit<R>`, and does nothing but to [`set_mark`] with that pointer.
pub(crate) unsafe fn find_place<R>(words: usize, probe: *const ()) -> Place {
    // The most that there may be, and what there may be beside: two in registers, the result's address, the data.
    const WORDS: usize = MAX_POSITIONS + 4;
    const ECX: usize = WORDS;
    const EDX: usize = WORDS + 1;
    if words >= WORDS {
        return place_of(NATIVE, words); // too many to register
    }
    let mut cells = [const { Cell::<R> { result: MaybeUninit::uninit(), mark: 0 } }; WORDS + 2];
    let popped: usize;
    // SAFETY: by the caller's promise the function writes to a cell as a whole, and to words that are below the old ESP
    // here; ESP is put back whatever it has removed. ESI, which LLVM keeps for itself, EBX and EDI are preserved by every
    // convention; a result in ST0 is gone when the x87 state is put back.
    unsafe {
        core::arch::asm!(
            "push esi",
            "push ebx",
            "mov esi, esp",
            "mov ebx, ecx",
            "sub esp, 112",
            "fnsave [esp]",
            "sub esp, 4 * {words} + 16",
            "and esp, -16",
            "xor ecx, ecx",
            "2:",
            "mov [esp + 4 * ecx], edi",
            "add edi, ebx",
            "inc ecx",
            "cmp ecx, {words}",
            "jne 2b",
            "mov ecx, edi",
            "lea edx, [edi + ebx]",
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
            inout("ecx") size_of::<Cell<R>>() => _,
            inout("edi") cells.as_mut_ptr() => _,
            clobber_abi("cdecl"),
        );
    }
    let popped_words = popped / 4;
    let (positions, flags) = match cells.iter().position(|cell| cell.mark == 1).unwrap_or_default() {
        ECX => (popped_words, STATE_DATA_ECX),
        EDX => (popped_words, STATE_DATA_EDX),
        word => (word, 0),
    };
    let all_words = positions + usize::from(flags == 0);
    // With cdecl the callee may still remove the hidden result pointer.
    let handler_pops = popped_words == all_words;
    Place {
        positions,
        flags: if handler_pops { flags | STATE_HANDLER_POPS } else { flags },
        cleanup: if handler_pops { 4 * positions as u32 } else { popped as u32 },
    }
}

/// # Safety
/// `cell` must be the address of a `Cell<R>`.
pub(crate) unsafe fn set_mark<R>(cell: *mut u8) -> MaybeUninit<R> {
    // SAFETY: by the caller's promise.
    unsafe { cell.add(offset_of!(Cell<R>, mark)).write(1) };
    MaybeUninit::uninit()
}

/// Stands for large results: all of them are returned in memory.
pub(crate) type Large = [u32; 16];

/// Where the data of a typed callback goes.
macro_rules! place {
    ($abi:literal ($($P:ident $p:ident)*) $R:ident) => {{
        /// Says where its last argument is. Each argument and the result are passed as their types are.
        unsafe extern $abi fn probe<$($P,)* $R>(
            $(_: core::mem::MaybeUninit<$P>,)*
            cell: *mut u8,
        ) -> core::mem::MaybeUninit<$R> {
            // SAFETY: the only caller passes such an address wherever an argument may be.
            unsafe { crate::arch::set_mark::<$R>(cell) }
        }
        use crate::arch::{Large, find_place};
        // One word more, since the result's address may be among them.
        let words = 1 $(+ size_of::<$P>().div_ceil(4))*;
        // SAFETY: `probe` is such a function.
        unsafe {
            if size_of::<$R>() <= size_of::<Large>() {
                find_place::<$R>(words, probe::<$($P,)* $R> as *const ())
            } else {
                find_place::<Large>(words, probe::<$($P,)* Large> as *const ())
            }
        }
    }};
}
pub(crate) use place;

/// One call, as the frame lane's dispatcher lays it out for a [`FrameHandler`](crate::table::FrameHandler).
#[repr(C)]
#[derive(Debug)]
pub struct RawFrame {
    /// The result, for EAX and EDX; a floating-point one as the bits of a double, for ST0. Zero when the handler starts.
    pub result: [u32; 2],
    /// The arguments on the stack, in words of 4 bytes.
    pub arguments: *mut u32,
    /// ECX and EDX.
    pub registers: [u32; 2],
}

const_assert_eq!(size_of::<RawFrame>(), FRAME_SIZE);
const_assert_eq!(offset_of!(RawFrame, result), FRAME_RESULT);
const_assert_eq!(offset_of!(RawFrame, arguments), FRAME_ARGUMENTS);
const_assert_eq!(offset_of!(RawFrame, registers), FRAME_REGISTERS);

impl RawFrame {
    /// The first word of an argument; an argument in a register has one.
    ///
    /// # Safety
    /// The foreign code must have passed that argument; so for all below.
    unsafe fn at(&self, signature: &Signature, index: usize) -> *const u32 {
        match locate(signature, index).0 {
            Some(Location::Register(register)) => self.registers.as_ptr().wrapping_add(register),
            Some(Location::Stack(word)) => self.arguments.wrapping_add(word),
            None => self.arguments,
        }
    }

    #[inline]
    pub(crate) unsafe fn bits(&self, signature: &Signature, index: usize, declared: Type) -> u128 {
        // SAFETY: by the caller's promise the words of the argument are there.
        unsafe {
            let at = self.at(signature, index);
            let high = if declared.size() == 8 { at.add(1).read() } else { 0 };
            u128::from(at.read()) | u128::from(high) << 32
        }
    }

    /// The bytes of a structure: on the stack.
    pub(crate) unsafe fn structure(&self, signature: &Signature, index: usize, _declared: Type) -> *const u8 {
        // SAFETY: by the caller's promise.
        unsafe { self.at(signature, index).cast() }
    }

    /// The address for a result that is returned in memory: the first word, with all conventions.
    pub(crate) unsafe fn hidden_argument(&self, _signature: &Signature) -> *mut u8 {
        // SAFETY: by the caller's promise there is a hidden argument.
        core::ptr::with_exposed_provenance_mut(unsafe { self.arguments.read() } as usize)
    }

    #[inline]
    pub(crate) fn set_result(&mut self, ty: Type, bits: u128) {
        let bits = match ty {
            Type::F32 => f64::from(f32::from_bits(bits as u32)).to_bits(),
            _ => bits as u64,
        };
        self.result = [bits as u32, (bits >> 32) as u32];
    }
}

/// Writes to standard error.
#[cfg(target_os = "linux")]
pub(crate) fn print(message: &core::ffi::CStr) {
    const SYS_WRITE: usize = 4;
    const STDERR: usize = 2;
    let message = message.to_bytes();
    // SAFETY: the system call reads the message and nothing else. That it may fail, or write less than asked, does not
    // matter to a program that is about to stop. LLVM may need EBX for itself.
    unsafe {
        core::arch::asm!(
            "xchg ebx, edi",
            "int 0x80",
            "xchg ebx, edi",
            inout("eax") SYS_WRITE => _,
            in("edi") STDERR,
            in("ecx") message.as_ptr(),
            in("edx") message.len(),
            options(readonly),
        );
    }
}
