//! What build.rs compiles, and the types that it is about.
#![allow(non_snake_case, reason = "C names end in the compiler and its level, as gcc_O2")]

use core::ffi::c_void;

#[cfg(any(target_os = "linux", not(feature = "hosted")))]
use super::Caller;
use super::CodePointer;

// One C function for each signature and variant, and `for_each_case!`, which lists them with their Rust types.
include!(concat!(env!("OUT_DIR"), "/externs.rs"));
include!(concat!(env!("OUT_DIR"), "/cases.rs"));

unsafe extern "C" {
    /// Calls `code` with the registers of `before` and stores what they are afterwards (registers_*.S).
    pub fn calltable_call_with(code: CodePointer, before: *const Registers, after: *mut Registers);
    /// Handlers that store the registers in `calltable_seen` and then wreck what they may, everything but RSP, or
    /// everything and the control words.
    pub fn calltable_wreck_volatile();
    pub fn calltable_wreck_preserved();
    #[cfg(target_arch = "aarch64")]
    pub fn calltable_wreck_x18();
    pub fn calltable_wreck_control();
    /// The last of them, but for the end: an invalid instruction.
    pub fn calltable_wreck_and_fault();
    pub static mut calltable_seen: Registers;
    /// Whether the handlers above are to look at a frame.
    pub static mut calltable_has_frame: u64;
    /// Bytes of arguments that the handlers above remove.
    #[cfg(target_arch = "x86")]
    pub static mut calltable_pops: u32;
}

// C++ (throws.cpp).
#[cfg(all(target_os = "linux", feature = "hosted", not(target_arch = "aarch64")))]
unsafe extern "C-unwind" {
    /// Throws that number.
    pub fn calltable_throw(value: isize);
    /// Calls with that number, and gives what is returned or thrown. Counts a destructor, also when something else
    /// passes.
    pub fn calltable_catching(callback: CodePointer, argument: isize, destroyed: *mut i32) -> isize;
}

#[cfg(all(feature = "hosted", not(target_arch = "aarch64")))]
pub const VARIADIC: [unsafe extern "C" fn(CodePointer) -> i32; 4] =
    [variadic_gcc_O0, variadic_gcc_O2, variadic_clang_O0, variadic_clang_O2];
#[cfg(all(feature = "hosted", target_arch = "aarch64"))]
pub const VARIADIC: [unsafe extern "C" fn(CodePointer) -> i32; 2] = [variadic_clang_O0, variadic_clang_O2];
#[cfg(all(feature = "hosted", not(target_arch = "aarch64")))]
pub const VARIADIC_REST: [unsafe extern "C" fn(CodePointer) -> i32; 4] =
    [variadic_rest_gcc_O0, variadic_rest_gcc_O2, variadic_rest_clang_O0, variadic_rest_clang_O2];
#[cfg(all(feature = "hosted", target_arch = "aarch64"))]
pub const VARIADIC_REST: [unsafe extern "C" fn(CodePointer) -> i32; 2] =
    [variadic_rest_clang_O0, variadic_rest_clang_O2];
#[cfg(any(target_os = "linux", not(feature = "hosted")))]
pub const REPEAT: Caller = repeat_clang_O2;
#[cfg(all(target_os = "linux", feature = "hosted", not(target_arch = "aarch64")))]
pub const NEST: Caller = nest_gcc_O2;
#[cfg(any(not(feature = "hosted"), all(target_os = "linux", target_arch = "aarch64")))]
pub const NEST: Caller = nest_clang_O2;

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Bytes<const SIZE: usize>(pub [u8; SIZE]);
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FloatPair(pub f32, pub f32);
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DoublePair(pub f64, pub f64);
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Float1(pub f32);
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Floats3(pub f32, pub f32, pub f32);
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Floats4(pub [f32; 4]);
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Doubles3(pub f64, pub DoublePair);
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Doubles4(pub f64, pub f64, pub f64, pub f64);
/// By a member's alignment: that of a structure as a whole does not count everywhere.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Aligned(pub i128);
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AlignedMore(pub i128, pub i64, pub i64);
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Mixed(pub f64, pub i64);
pub type Function = unsafe extern "efiapi" fn();

/// A type of the cases: none has padding.
pub trait Pattern: Copy {
    /// The value number `seed`, as the C side makes it (callers.h, fill).
    fn pattern(seed: usize) -> Self {
        let mut value = core::mem::MaybeUninit::<Self>::uninit();
        for i in 0..size_of::<Self>() {
            // SAFETY: within the value; implementors that keep this default may have any bytes (a function pointer's
            // are never all zero).
            unsafe { value.as_mut_ptr().cast::<u8>().add(i).write((seed * 37 + i * 11 + 5) as u8) };
        }
        // SAFETY: every byte has been written.
        unsafe { value.assume_init() }
    }

    /// Whether this is the value number `seed`.
    fn is(self, seed: usize) -> bool {
        let want = Self::pattern(seed);
        let bytes = |value: *const Self| core::ptr::slice_from_raw_parts(value.cast::<u8>(), size_of::<Self>());
        // SAFETY: implementors have no padding.
        unsafe { *bytes(&self) == *bytes(&want) }
    }
}

macro_rules! any_bytes {
    ($($ty:ty),*) => { $(impl Pattern for $ty {})* };
}
any_bytes!(i8, u8, i16, u16, i32, u32, i64, u64, isize, i128, u128, *mut c_void, Function, FloatPair, DoublePair, ());
any_bytes!(Float1, Floats3, Floats4, Doubles3, Doubles4, Aligned, AlignedMore, Mixed);
impl<const SIZE: usize> Pattern for Bytes<SIZE> {}
impl Pattern for bool {
    fn pattern(seed: usize) -> Self {
        seed % 3 != 1
    }
}
impl Pattern for f32 {
    fn pattern(seed: usize) -> Self {
        seed as f32 * 1.5 - 7.0
    }
}
impl Pattern for f64 {
    fn pattern(seed: usize) -> Self {
        seed as f64 * -2.25 + 3.0
    }
}

/// The processor's registers at one moment; the layout is known to registers_x86_64.S.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Registers {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15.
    pub general: [u64; 16],
    /// XMM0 to XMM15.
    pub xmm: [[u64; 2]; 16],
    /// Of a call: positions 4 to 65 on the stack. Seen by a handler: the words above its return address, of which
    /// the first four are its home space.
    pub stack: [u64; 66],
    pub flags: u64,
    pub mxcsr: u64,
    pub x87_control: u64,
    /// Seen by a frame handler: the frame that RDX points to.
    pub frame: [u64; 7],
}

/// The processor's registers at one moment; the layout is known to registers_x86.S.
#[cfg(target_arch = "x86")]
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Registers {
    /// EAX ECX EDX EBX ESP EBP ESI EDI. After a call ESP is the number of bytes that the callee has removed.
    pub general: [u32; 8],
    /// Of a call: the words on the stack, of which the last two are nobody's. Seen by a handler: those above its return
    /// address.
    pub stack: [u32; 132],
    pub flags: u32,
    pub mxcsr: u32,
    pub x87_control: u32,
    /// Seen by a frame handler: the frame.
    pub frame: [u32; 6],
}

/// The processor's registers at one moment; the layout is known to registers_aarch64.S.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Registers {
    /// X0 to X30, of which X16, X17 and X30 are not looked at, and SP. After a call SP is the difference to before.
    pub general: [u64; 32],
    /// V0 to V31.
    pub vectors: [[u64; 2]; 32],
    /// Of a call: the words on the stack, of which the last two are nobody's. Seen by a handler: those at SP.
    pub stack: [u64; 66],
    pub fpcr: u64,
    /// Seen by a frame handler: the frame that X1 points to.
    pub frame: [u64; 36],
}
