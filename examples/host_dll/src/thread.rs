//! The thread environment block: what Windows code finds behind GS.

use std::io;
use std::mem::offset_of;
use std::ptr::null;

use crate::Result;
use crate::sandbox::mappings;

/// The fields that compilers and C runtimes read without asking the system, at the offsets in winternl.h and in the
/// code that compilers write for thread-local variables.
#[repr(C)]
struct Teb {
    exception_list: usize,
    stack_base: usize,
    stack_limit: usize,
    _unused: [usize; 3],
    this: *const Teb,
    _unused2: [usize; 4],
    tls: *const *const u64,
    _unused3: [usize; 0x3f4],
}

const _: () = assert!(offset_of!(Teb, stack_base) == 0x08);
const _: () = assert!(offset_of!(Teb, this) == 0x30);
const _: () = assert!(offset_of!(Teb, tls) == 0x58);
const _: () = assert!(size_of::<Teb>() == 0x2000);

/// arch_prctl(2), from asm/prctl.h. Linux programs for x86_64 use FS for themselves, and leave GS free.
const ARCH_SET_GS: libc::c_long = 0x1001;

/// Gives the calling thread its block, for good; its thread-local variables start as `template`.
pub fn enter(template: &[u8]) -> Result<()> {
    let here = (&raw const template).addr();
    let mappings = mappings()?;
    let stack = mappings.iter().find(|mapping| mapping.addresses.contains(&here));
    let stack = &stack.ok_or("the stack is not listed in /proc/self/maps")?.addresses;

    // In words, so that the variables are aligned.
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let variables = template.chunks(8).map(word).collect::<Vec<u64>>().leak();
    // One DLL, index 0.
    let tls = Box::leak(Box::new(variables.as_ptr()));
    let teb = Box::into_raw(Box::new(Teb {
        exception_list: usize::MAX,
        stack_base: stack.end,
        stack_limit: stack.start,
        _unused: [0; 3],
        this: null(),
        _unused2: [0; 4],
        tls,
        _unused3: [0; 0x3f4],
    }));
    // SAFETY: nobody else knows of the block yet.
    unsafe { (*teb).this = teb };
    // SAFETY: nothing on Linux for x86_64 but Windows code uses GS, and the block stays.
    match unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, teb) } {
        0 => Ok(()),
        _ => Err(format!("cannot set GS: {}", io::Error::last_os_error()).into()),
    }
}
