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
    #[cfg(target_arch = "aarch64")]
    fn RtlCaptureContext(registers: *mut Registers);
    #[cfg(target_arch = "aarch64")]
    fn RtlLookupFunctionEntry(address: u64, image: *mut u64, history: *mut c_void) -> *const c_void;
    #[cfg(target_arch = "aarch64")]
    fn RtlVirtualUnwind(
        handlers: u32,
        image: u64,
        address: u64,
        function: *const c_void,
        registers: *mut Registers,
        data: *mut *mut c_void,
        frame: *mut u64,
        saved: *mut c_void,
    ) -> *mut c_void;
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

/// What is used of `CONTEXT` (winnt.h).
#[cfg(target_arch = "aarch64")]
#[repr(C, align(16))]
struct Registers {
    _flags_and_general: [u64; 32],
    stack: u64,
    address: u64,
    _rest: [u64; 80],
}

#[cfg(target_arch = "aarch64")]
static_assertions::const_assert!(size_of::<Registers>() == 0x390 && core::mem::offset_of!(Registers, address) == 0x108);

/// Passes on the return addresses of this thread, each with the stack pointer of the frame that it leads to, innermost
/// first, until it is told that this was the last one.
#[cfg(target_arch = "aarch64")]
pub(crate) fn walk(found: &mut dyn FnMut(*const c_void, *const c_void) -> bool) {
    const INSTRUCTION: u64 = 4;
    let mut registers = core::mem::MaybeUninit::<Registers>::zeroed();
    // SAFETY: there is room for all registers, for which zeros are values, too.
    let registers = unsafe {
        RtlCaptureContext(registers.as_mut_ptr());
        registers.assume_init_mut()
    };
    // Every address is one that a call returns to, and the call may have been the last instruction of its function.
    while let Some(call) = registers.address.checked_sub(INSTRUCTION) {
        let (mut image, mut data, mut frame) = (0, null_mut(), 0);
        // SAFETY: the functions read tables of loaded images, and the stack of this thread, on which the frames are.
        unsafe {
            let function = RtlLookupFunctionEntry(call, &mut image, null_mut());
            if function.is_null() {
                return; // no code that the system knows calls others
            }
            RtlVirtualUnwind(0, image, call, function, registers, &mut data, &mut frame, null_mut());
        }
        let stack = core::ptr::with_exposed_provenance(registers.stack as usize);
        if found(core::ptr::without_provenance(registers.address as usize), stack) {
            return;
        }
    }
}
