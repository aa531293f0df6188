//! Windows, on every architecture: where a message goes.

use core::ffi::{CStr, c_char, c_void};
use core::ptr::null_mut;

const STD_ERROR_HANDLE: u32 = -12_i32 as u32;

// MinGW brings the import library that its linker wants; MSVC's linker is given one by rustc, so that no SDK is needed.
#[cfg_attr(not(target_env = "msvc"), link(name = "kernel32"))]
#[cfg_attr(all(target_env = "msvc", not(target_arch = "x86")), link(name = "kernel32", kind = "raw-dylib"))]
#[cfg_attr(
    all(target_env = "msvc", target_arch = "x86"),
    link(name = "kernel32", kind = "raw-dylib", import_name_type = "undecorated")
)]
unsafe extern "system" {
    fn GetStdHandle(which: u32) -> *mut c_void;
    fn WriteFile(file: *mut c_void, bytes: *const u8, length: u32, written: *mut u32, overlapped: *mut c_void) -> i32;
    fn OutputDebugStringA(message: *const c_char);
}

/// Writes to standard error, and to the debugger if there is one: a program with windows may have no console.
pub(crate) fn print(message: &CStr) {
    let bytes = message.to_bytes();
    let mut written = 0;
    // SAFETY: the functions read the message, which ends in a zero, and write the number of bytes. That there may be
    // no standard error, or that it takes less than asked, does not matter to a program that is about to stop.
    unsafe {
        WriteFile(GetStdHandle(STD_ERROR_HANDLE), bytes.as_ptr(), bytes.len() as u32, &mut written, null_mut());
        OutputDebugStringA(message.as_ptr());
    }
}
