//! What the application and the image that it loads share: a protocol whose functions are callbacks of the application.
#![no_std]

use core::sync::atomic::AtomicUsize;

use uefi::proto::unsafe_protocol;

/// A function of the protocol.
pub type Call = unsafe extern "efiapi" fn(this: *const Counter, a: usize, b: u64, c: u8, d: usize, e: u64) -> u64;

/// What the other image calls and what it finds.
#[repr(C)]
#[unsafe_protocol("8b5c1f4e-27a1-4f0c-9a51-0d7b3a6f1e02")]
pub struct Counter {
    /// Adds up its arguments and what the application's closure has captured.
    pub add: Call,
    /// The same through a signature that the application made when it ran.
    pub add_dynamic: Call,
    /// How many times each is to be called, and how many wrong results there were.
    pub times: usize,
    /// See `times`.
    pub wrong: AtomicUsize,
}

/// What the application's closures add.
pub const CAPTURED: u64 = 0x1_0000_0007;
