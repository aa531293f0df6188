//! Windows, on every architecture.

use core::ffi::{CStr, c_char, c_void};
use core::ptr::null_mut;
use core::sync::atomic::AtomicU32;

const STD_ERROR_HANDLE: u32 = -12_i32 as u32;

super::import! { "kernel32":
    fn GetStdHandle(which: u32) -> *mut c_void;
    fn WriteFile(file: *mut c_void, bytes: *const u8, length: u32, written: *mut u32, overlapped: *mut c_void) -> i32;
    fn OutputDebugStringA(message: *const c_char);
    fn Sleep(milliseconds: u32);
}

super::import! { "ntdll":
    fn RtlDllShutdownInProgress() -> u8;
    #[cfg(target_arch = "x86_64")]
    fn RtlCaptureStackBackTrace(skipped: u32, count: u32, addresses: *mut *const c_void, hash: *mut u32) -> u16;
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

/// Sleeps for as many milliseconds as that are, rounded up.
pub(crate) fn sleep(microseconds: u32) {
    // SAFETY: it takes any number.
    unsafe { Sleep(microseconds.div_ceil(1000)) };
}

/// Whether the process is ending: then `ExitProcess` has ended all other threads, wherever they were ("ExitProcess
/// function", Microsoft), and DLLs are being told.
pub(crate) fn is_ending() -> bool {
    // SAFETY: it takes nothing.
    unsafe { RtlDllShutdownInProgress() != 0 }
}

/// A word that is 0 in each new process: no process starts as a copy of another one.
pub(crate) fn process_mark() -> Option<&'static AtomicU32> {
    None
}

pub(crate) fn forget_mark_in_children() {}

/// Passes on the return addresses of this thread, innermost first, until it is told that this was the last one; without
/// the stack pointers, which the system does not tell.
#[cfg(target_arch = "x86_64")]
pub(crate) fn walk(found: &mut dyn FnMut(*const c_void, *const c_void) -> bool) {
    let mut addresses = [core::ptr::null(); 60]; // more at once would be refused by old versions
    for skipped in (0..u32::from(u16::MAX)).step_by(addresses.len()) {
        // SAFETY: there is room for so many.
        let count =
            unsafe { RtlCaptureStackBackTrace(skipped, addresses.len() as u32, addresses.as_mut_ptr(), null_mut()) };
        let taken = addresses.iter().take(count.into());
        if taken.clone().count() == 0 || taken.copied().any(|address| found(address, core::ptr::null())) {
            return;
        }
    }
}

/// Passes on the return addresses of this thread: here the chain of exception records says more.
#[cfg(target_arch = "x86")]
pub(crate) fn walk(_found: &mut dyn FnMut(*const c_void, *const c_void) -> bool) {}

/// Passes on the return addresses of this thread: without the stack pointers they would not tell the slot.
#[cfg(target_arch = "aarch64")]
pub(crate) fn walk(_found: &mut dyn FnMut(*const c_void, *const c_void) -> bool) {}
