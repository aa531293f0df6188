//! Foreign code for calltable's tests: C from GCC and Clang at -O0 and -O2, and assembly that looks at registers. Where
//! there is neither, the two functions that every system's tests need are Rust's.
#![no_std]
#![allow(missing_docs, reason = "the C and assembly sides have the comments")]

use core::ffi::c_void;

#[cfg(any(target_os = "linux", all(windows, target_env = "gnu"), not(feature = "hosted")))]
mod foreign;
#[cfg(any(target_os = "linux", all(windows, target_env = "gnu"), not(feature = "hosted")))]
pub use foreign::*;

/// A code pointer, as the callers take it.
pub type CodePointer = *const c_void;

/// What [`REPEAT`] and [`NEST`] are (callers.h); both call it as `extern "efiapi" fn(isize) -> isize`.
pub type Caller = unsafe extern "C" fn(CodePointer, isize) -> isize;

#[cfg(not(any(target_os = "linux", not(feature = "hosted"))))]
mod other {
    use super::{Caller, CodePointer};

    /// As `extern "efiapi"`; a panic passes, as through C.
    type Callback = unsafe extern "C-unwind" fn(isize) -> isize;
    type Unwinding = unsafe extern "C-unwind" fn(CodePointer, isize) -> isize;

    // SAFETY: the types differ in what may pass through, which is the caller's matter.
    pub const REPEAT: Caller = unsafe { core::mem::transmute::<Unwinding, Caller>(repeat) };
    // SAFETY: as above.
    pub const NEST: Caller = unsafe { core::mem::transmute::<Unwinding, Caller>(nest) };

    unsafe extern "C-unwind" fn repeat(callback: CodePointer, times: isize) -> isize {
        // SAFETY: by the caller's promise it is one.
        let callback = unsafe { core::mem::transmute::<CodePointer, Callback>(callback) };
        // SAFETY: as above.
        (0..times).map(|value| unsafe { callback(value) }).sum()
    }

    unsafe extern "C-unwind" fn nest(callback: CodePointer, depth: isize) -> isize {
        // SAFETY: by the caller's promise it is one.
        unsafe { core::mem::transmute::<CodePointer, Callback>(callback)(depth) }
    }
}
#[cfg(not(any(target_os = "linux", not(feature = "hosted"))))]
pub use other::*;
