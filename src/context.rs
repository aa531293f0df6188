//! The record of one slot, shared with assembly, and the vector that holds one for each slot.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use static_assertions::{const_assert, const_assert_eq};

/// The numbers that Rust and assembly share, written once in the build script.
#[allow(dead_code, reason = "some are only for the assembly, on some targets")]
pub(crate) mod layout {
    include!(concat!(env!("OUT_DIR"), "/layout.rs"));
}

use layout::*;

use crate::arch;
use crate::error::Error;

/// One slot. The dispatchers read it at any moment and without a lock, so everything in it is atomic.
///
/// `state` says whether the slot is live and how to call its handler, and carries a generation that grows with each
/// release. A reader takes `state`, then `data` and `handler`, then `state` again: if it has not changed, the two
/// belong together. A writer changes `handler` and `data` only while `state` says that the slot is not live.
#[repr(C, align(32))]
pub(crate) struct Context {
    pub(crate) handler: AtomicPtr<c_void>,
    pub(crate) data: AtomicPtr<c_void>,
    pub(crate) state: AtomicUsize,
    /// Calls that run now, if `STATE_COUNTED`. Never reset: a late caller takes back what it added.
    pub(crate) in_flight: AtomicU32,
    /// The next slot in the chain that this one is in (see `table`); changed under the lock only.
    pub(crate) link: AtomicU32,
    /// Bytes of arguments that the entry removes. It stays after a release: a stale call has the same arguments.
    #[cfg(target_arch = "x86")]
    pub(crate) cleanup: AtomicU32,
}

const_assert_eq!(size_of::<Context>(), CONTEXT_SIZE);
const_assert_eq!(CONTEXT_SIZE, 2 * ENTRY_STRIDE);
const_assert_eq!(offset_of!(Context, handler), CONTEXT_HANDLER);
const_assert_eq!(offset_of!(Context, data), CONTEXT_DATA);
const_assert_eq!(offset_of!(Context, state), CONTEXT_STATE);
const_assert_eq!(offset_of!(Context, in_flight), CONTEXT_IN_FLIGHT);
#[cfg(target_arch = "x86")]
const_assert_eq!(offset_of!(Context, cleanup), CONTEXT_CLEANUP);
const_assert!(ENTRY_RETURN < ENTRY_STRIDE);
const_assert!(MAX_POSITIONS < STATE_POSITIONS);
// calltable_dispatch reads the flags and positions as 16 bits, calltable_select two flags as 8.
const_assert_eq!(STATE_GENERATION, 1 << 16);
const_assert!(STATE_POSITIONS < STATE_FRAME && STATE_FRAME < STATE_SAVE && STATE_SAVE < 1 << 8);

/// What `Context::state` says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(pub(crate) usize);

impl State {
    /// How to call the handler: flags and positions; 0 when not live.
    pub(crate) fn shape(self) -> usize {
        self.0 % STATE_GENERATION
    }

    /// How many times the slot has been released.
    pub(crate) fn generation(self) -> usize {
        self.0 / STATE_GENERATION
    }

    pub(crate) fn is_live(self) -> bool {
        self.shape() != 0
    }

    /// What a slot that has been released so many times says while it is not live.
    pub(crate) fn resting(generation: usize) -> Self {
        Self(generation.wrapping_mul(STATE_GENERATION))
    }
}

impl Context {
    pub(crate) fn load_state(&self) -> State {
        State(self.state.load(Ordering::Relaxed))
    }
}

/// The contexts of all slots, and what else a dispatcher follows, on pages of their own: an embedder may make them
/// read-only ([`crate::table::seal`]). The dispatchers know the address of `base`, which comes first.
#[repr(C, align(4096))]
pub(crate) struct Contexts {
    /// What makes the address of a slot's context of twice the return address in its entry, by an addition that wraps
    /// round. 0 before `fill`, when every call is stale.
    base: AtomicUsize,
    /// Where a chain of exception handlers has been declared: on x86_64 a `FindBlock`, on i686 the dispatcher's handler.
    #[cfg(not(windows))]
    pub(crate) seh: AtomicPtr<()>,
    /// What unwinds the stack, since the first contained registration.
    #[cfg(any(windows, target_arch = "x86"))]
    pub(crate) unwind: AtomicPtr<()>,
    /// The embedder's stale handler, a `StaleHandler`, or null.
    pub(crate) stale_handler: AtomicPtr<()>,
    /// What that one calls, if it is the C interface's.
    #[cfg(feature = "capi")]
    pub(crate) foreign_stale_handler: AtomicPtr<()>,
    /// Nothing changes any more. Changed under the registry's lock.
    is_sealed: AtomicBool,
    all: UnsafeCell<heapless::Vec<Context, CAPACITY>>,
}

const_assert_eq!(offset_of!(Contexts, base), 0);
#[cfg(not(windows))]
const_assert_eq!(offset_of!(Contexts, seh), CONTEXTS_SEH);
const_assert_eq!(size_of::<Contexts>() % PAGE, 0);
const_assert_eq!(align_of::<Contexts>(), PAGE);
// `base` is never 0 when set: twice an entry's address is a multiple of a context's size, as each context's address is.
const_assert_eq!(align_of::<Context>(), CONTEXT_SIZE);
const_assert!(2 * ENTRY_RETURN % CONTEXT_SIZE != 0);

/// The smallest page of the processors that there is a table for.
const PAGE: usize = 4096;

// SAFETY: the vector itself changes only in `fill`, whose caller guarantees that it runs once and alone; all else is
// atomic.
unsafe impl Sync for Contexts {}

// In ELF files a linker script may place the section (`linker/`); its name tells compilers and linkers that it is all
// zeros and takes no room in the file.
#[unsafe(export_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_contexts"))]
#[cfg_attr(not(any(windows, target_os = "uefi", target_os = "cygwin")), unsafe(link_section = ".bss.calltable"))]
pub(crate) static CONTEXTS: Contexts = Contexts {
    base: AtomicUsize::new(0),
    #[cfg(not(windows))]
    seh: AtomicPtr::new(core::ptr::null_mut()),
    #[cfg(any(windows, target_arch = "x86"))]
    unwind: AtomicPtr::new(core::ptr::null_mut()),
    stale_handler: AtomicPtr::new(core::ptr::null_mut()),
    #[cfg(feature = "capi")]
    foreign_stale_handler: AtomicPtr::new(core::ptr::null_mut()),
    is_sealed: AtomicBool::new(false),
    all: UnsafeCell::new(heapless::Vec::new()),
};

/// Whether anything may still change, to be asked under the registry's lock.
pub(crate) fn check_open() -> Result<(), Error> {
    if CONTEXTS.is_sealed.load(Ordering::Relaxed) { Err(Error::Sealed) } else { Ok(()) }
}

/// Sees to it that nothing changes any more, and returns the pages. To be called under the registry's lock.
pub(crate) fn seal() -> Range<*const u8> {
    if check_open().is_ok() {
        CONTEXTS.is_sealed.store(true, Ordering::Relaxed); // the last write: next time the pages may be read-only
    }
    let start = (&raw const CONTEXTS).cast::<u8>();
    start..start.wrapping_add(size_of::<Contexts>())
}

/// Makes a context for each slot, none live, each linked to the next, and returns them all.
///
/// # Safety
/// To be called once, and while no other thread does.
pub(crate) unsafe fn fill() -> &'static [Context] {
    // SAFETY: by the caller's promise nobody else has a reference to the vector.
    let contexts = unsafe { &mut *CONTEXTS.all.get() };
    let mut link = 2; // of slot 0: slot 1, written as index + 1
    while contexts
        .push(Context {
            handler: AtomicPtr::new(core::ptr::null_mut()),
            data: AtomicPtr::new(core::ptr::null_mut()),
            state: AtomicUsize::new(0),
            in_flight: AtomicU32::new(0),
            link: AtomicU32::new(link),
            #[cfg(target_arch = "x86")]
            cleanup: AtomicU32::new(0),
        })
        .is_ok()
    {
        link += 1;
    }
    CONTEXTS.base.store(contexts.as_ptr().addr().wrapping_sub(twice_first_return()), Ordering::Release);
    // SAFETY: nobody changes the vector any more. Not by way of `contexts`, which is nobody else's: the dispatchers write to
    // the contexts, too.
    unsafe { &*CONTEXTS.all.get() }
}

/// Twice the return address in the first entry.
fn twice_first_return() -> usize {
    arch::entry(0).as_ptr().addr().wrapping_add(ENTRY_RETURN).wrapping_mul(2)
}

/// The slot that a context belongs to.
#[cfg(any(not(windows), target_arch = "x86"))]
pub(crate) fn index_of(context: *const Context) -> usize {
    let first = CONTEXTS.base.load(Ordering::Relaxed).wrapping_add(twice_first_return());
    (context.addr() - first) / CONTEXT_SIZE
}
