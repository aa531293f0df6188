//! Linux, by its system calls: no C library is needed.

use core::ffi::{CStr, c_void};
use core::ptr::{null, without_provenance};
use core::sync::atomic::AtomicU32;

cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86_64")] {
        const WRITE: usize = 1;
        const MADVISE: usize = 28;
        const NANOSLEEP: usize = 35;
    } else if #[cfg(target_arch = "x86")] {
        const WRITE: usize = 4;
        const NANOSLEEP: usize = 162;
        const MADVISE: usize = 219;
    } else if #[cfg(target_arch = "aarch64")] {
        const WRITE: usize = 64;
        const NANOSLEEP: usize = 101;
        const MADVISE: usize = 233;
    }
}

/// # Safety
/// As for the system call of that number, which must read memory at most, and keep no address.
unsafe fn call(number: usize, first: *const c_void, second: *const c_void, third: usize) {
    // SAFETY: by the caller's promise. The call clobbers RCX and R11, on AArch64 X0, on i686 nothing, where LLVM may
    // need EBX for itself.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!(
            "syscall",
            inout("rax") number => _,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
        #[cfg(target_arch = "x86")]
        core::arch::asm!(
            "xchg ebx, edi",
            "int 0x80",
            "xchg ebx, edi",
            inout("eax") number => _,
            inout("edi") first => _,
            in("ecx") second,
            in("edx") third,
        );
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!(
            "svc #0",
            inout("x0") first => _,
            in("x1") second,
            in("x2") third,
            in("x8") number,
            options(nostack),
        );
    }
}

/// Writes to standard error.
pub(crate) fn print(message: &CStr) {
    const STDERR: *const c_void = without_provenance(2);
    let message = message.to_bytes();
    // SAFETY: the call reads the message. That it may fail, or write less than asked, does not matter to a program that
    // is about to stop.
    unsafe { call(WRITE, STDERR, message.as_ptr().cast(), message.len()) };
}

/// Sleeps for less than a second; a signal may end it earlier.
pub(crate) fn sleep(microseconds: u32) {
    let time = [0, 1000 * microseconds as usize]; // seconds and nanoseconds, each a word
    // SAFETY: the call reads the time, and writes no rest of it, there being no room for one.
    unsafe { call(NANOSLEEP, time.as_ptr().cast(), null(), 0) };
}

/// Whether the process is ending, and all its other threads with it: `exit` runs while they do.
pub(crate) fn is_ending() -> bool {
    false
}

/// On a page of its own, which the kernel empties in children; of AArch64, where kernels differ, the largest.
#[repr(C)]
#[cfg_attr(not(target_arch = "aarch64"), repr(align(4096)))]
#[cfg_attr(target_arch = "aarch64", repr(align(65536)))]
struct MarkPage {
    mark: AtomicU32,
}

static MARK: MarkPage = MarkPage { mark: AtomicU32::new(0) };

/// A word that is 0 when a process first looks at it, be it a child of `fork`.
pub(crate) fn process_mark() -> Option<&'static AtomicU32> {
    Some(&MARK.mark)
}

/// Has the kernel set the mark to 0 in children. Kernels before 4.14 do not, nor do pages that come from a file (an
/// unusual linker script): then a child sees the parent's mark.
pub(crate) fn forget_mark_in_children() {
    const MADV_WIPEONFORK: usize = 18;
    // SAFETY: nothing else is on the page.
    unsafe {
        call(MADVISE, (&raw const MARK).cast(), without_provenance(size_of::<MarkPage>()), MADV_WIPEONFORK);
    }
}

/// Passes on the return addresses of this thread, each with the stack pointer of the frame that it leads to, innermost
/// first, until it is told that this was the last one.
#[cfg(feature = "std")]
pub(crate) fn walk(found: &mut dyn FnMut(*const c_void, *const c_void) -> bool) {
    // Of the unwinder that std links ("Exception Handling", Itanium C++ ABI; libgcc and LLVM have `_Unwind_Backtrace`).
    unsafe extern "C" {
        fn _Unwind_Backtrace(
            trace: unsafe extern "C" fn(context: *mut c_void, argument: *mut c_void) -> i32,
            argument: *mut c_void,
        ) -> i32;
        fn _Unwind_GetIP(context: *mut c_void) -> usize;
        fn _Unwind_GetCFA(context: *mut c_void) -> usize;
    }
    type Found<'a> = &'a mut dyn FnMut(*const c_void, *const c_void) -> bool;
    unsafe extern "C" fn trace(context: *mut c_void, argument: *mut c_void) -> i32 {
        const NO_REASON: i32 = 0;
        const END_OF_STACK: i32 = 5;
        // SAFETY: the unwinder passes its context, and the argument that it was given below.
        let is_last = unsafe {
            let found = &mut *argument.cast::<Found<'_>>();
            let stack = core::ptr::with_exposed_provenance(_Unwind_GetCFA(context));
            found(without_provenance(_Unwind_GetIP(context)), stack)
        };
        if is_last { END_OF_STACK } else { NO_REASON }
    }
    let mut found: Found<'_> = found;
    // SAFETY: `trace` takes that argument.
    unsafe { _Unwind_Backtrace(trace, (&raw mut found).cast()) };
}

/// Passes on the return addresses of this thread: without std there may be no unwinder.
#[cfg(not(feature = "std"))]
pub(crate) fn walk(_found: &mut dyn FnMut(*const c_void, *const c_void) -> bool) {}
