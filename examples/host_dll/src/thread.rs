//! The thread environment block: what Windows code finds behind GS.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ptr::{null, null_mut};
use std::sync::Mutex;

use crate::Result;
use crate::heap::unpoisoned;
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
    peb: *const [u64; 0x200],
    _unused3: [usize; 0x3f3],
}

const _: () = assert!(offset_of!(Teb, stack_base) == 0x08);
const _: () = assert!(offset_of!(Teb, this) == 0x30);
const _: () = assert!(offset_of!(Teb, tls) == 0x58);
const _: () = assert!(offset_of!(Teb, peb) == 0x60);
const _: () = assert!(size_of::<Teb>() == 0x2000);

/// The process environment block: nothing of it is known, so all is 0. No debugger is attached, for one.
static PEB: [u64; 0x200] = [0; 0x200];

/// What the variables of each DLL that has some start as, by the DLL's number, in words, so that they are aligned.
static TEMPLATES: Mutex<Vec<Vec<u64>>> = Mutex::new(Vec::new());

/// Takes note of a DLL's thread-local variables, for threads that enter from now on; returns their number.
pub fn add_variables(template: &[u8]) -> u32 {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let mut templates = unpoisoned(&TEMPLATES);
    templates.push(template.chunks(8).map(word).collect());
    templates.len() as u32 - 1
}

/// arch_prctl(2), from asm/prctl.h. Linux programs for x86_64 use FS for themselves, and leave GS free.
const ARCH_SET_GS: libc::c_long = 0x1001;

/// A thread that may run Windows code, for as long as this lives.
pub struct Entered {
    /// Both were boxes. Windows code refers to them, so no reference to them is kept here.
    teb: *mut Teb,
    _variables: Vec<Vec<u64>>,
    _blocks: Vec<*const u64>,
    _of_this_thread: PhantomData<*const ()>,
}

/// Gives the calling thread its block, and a copy of the variables of each DLL that was loaded before.
///
/// # Errors
/// Linux does not say where the stack is, or does not set GS.
pub fn enter() -> Result<Entered> {
    let here = 0;
    let here = (&raw const here).addr();
    let mappings = mappings()?;
    let stack = mappings.iter().find(|mapping| mapping.addresses.contains(&here));
    let stack = &stack.ok_or("the stack is not listed in /proc/self/maps")?.addresses;

    let mut variables = unpoisoned(&TEMPLATES).clone();
    let blocks: Vec<*const u64> = variables.iter_mut().map(|block| block.as_mut_ptr().cast_const()).collect();
    let teb = Box::into_raw(Box::new(Teb {
        exception_list: usize::MAX,
        stack_base: stack.end,
        stack_limit: stack.start,
        _unused: [0; 3],
        this: null(),
        _unused2: [0; 4],
        tls: blocks.as_ptr(),
        peb: &raw const PEB,
        _unused3: [0; 0x3f3],
    }));
    // SAFETY: nobody else knows of the block yet.
    unsafe { (*teb).this = teb };
    let entered = Entered { teb, _variables: variables, _blocks: blocks, _of_this_thread: PhantomData };
    set_gs(teb)?;
    Ok(entered)
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = set_gs(null_mut());
        // SAFETY: `enter` made it of a box, and no code of this thread finds it any more.
        drop(unsafe { Box::from_raw(self.teb) });
    }
}

fn set_gs(teb: *mut Teb) -> Result<()> {
    // SAFETY: nothing on Linux for x86_64 but Windows code uses GS.
    match unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, teb) } {
        0 => Ok(()),
        _ => Err(format!("cannot set GS: {}", io::Error::last_os_error()).into()),
    }
}

thread_local! {
    /// What `GetLastError` returns.
    pub static LAST_ERROR: Cell<u32> = const { Cell::new(0) };
    /// The C runtime's.
    pub static ERRNO: Cell<i32> = const { Cell::new(0) };
}
