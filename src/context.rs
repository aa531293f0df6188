//! The record of one slot, shared with assembly, and the vector that holds one for each slot.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::marker::PhantomPinned;
use core::mem::offset_of;
use core::ops::Range;
#[cfg(any(split_state, target_arch = "x86"))]
use core::sync::atomic::AtomicU32;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

use static_assertions::{const_assert, const_assert_eq};

use crate::layout::*;

/// One slot. The dispatchers read it at any moment and without a lock, so everything in it is atomic.
///
/// `state` says whether the slot is live and how to call its handler, and carries a generation that grows with each
/// release. A reader takes `state`, then `data` and `handler`, then `state` again: if its generation has not changed,
/// the two belong together. A writer changes `handler` and `data` only while `state` says that the slot is not live.
///
/// `calls` is the number of calls that run now, if they are counted, with the generation of the registration whose
/// calls they are. Whoever enters adds 1 to the number of the generation that it has read in `state`, in one step with
/// the comparison: so a call that a release has overtaken touches nothing of the next registration.
#[repr(C, align(32))]
pub(crate) struct Context {
    pub(crate) handler: AtomicPtr<c_void>,
    pub(crate) data: AtomicPtr<c_void>,
    state: StateInMemory,
    calls: AtomicU64,
    /// Bytes of arguments that the entry removes. It stays after a release: a stale call has the same arguments.
    #[cfg(target_arch = "x86")]
    cleanup: AtomicU32,
    /// A `&mut` to something that may not move need not be the only reference: `make` changes the vector, while others
    /// have references to contexts in it.
    _shared: PhantomPinned,
}

/// In one word, where a word has room for all of it.
#[cfg(not(split_state))]
#[repr(C)]
struct StateInMemory(AtomicU64);

/// In two words. A reader takes the generation first, then the shape, and in the end the generation again.
#[cfg(split_state)]
#[repr(C)]
struct StateInMemory {
    shape: AtomicU32,
    generation: AtomicU32,
}

const_assert_eq!(size_of::<Context>(), CONTEXT_SIZE);
// The dispatchers double the distance between entries, or take it as it is; or shift the slot, which AArch64 knows.
const_assert!(CONTEXT_SIZE == 2 * ENTRY_STRIDE || CONTEXT_SIZE == ENTRY_STRIDE);
const_assert_eq!(offset_of!(Context, handler), CONTEXT_HANDLER);
const_assert_eq!(offset_of!(Context, data), CONTEXT_DATA);
const_assert_eq!(offset_of!(Context, state), CONTEXT_STATE);
const_assert_eq!(offset_of!(Context, calls), CONTEXT_CALLS);
#[cfg(target_arch = "x86")]
const_assert_eq!(offset_of!(Context, state) + offset_of!(StateInMemory, generation), CONTEXT_GENERATION);
#[cfg(target_arch = "x86")]
const_assert_eq!(offset_of!(Context, cleanup), CONTEXT_CLEANUP);
const_assert!(ENTRY_RETURN < ENTRY_STRIDE);
const_assert!(MAX_POSITIONS < STATE_POSITIONS);
// On x86_64 calltable_dispatch reads positions and flags as 16 bits; the generation is above the whole shape.
#[cfg(not(target_arch = "x86"))]
const_assert!(STATE_CONTAIN < 1 << 16);
const_assert!((STATE_CONTAIN as u64) < GENERATION && STATE_POSITIONS < STATE_FRAME);
const_assert!(LAST_GENERATION <= u64::MAX / GENERATION);

/// What a live slot's entry calls.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) handler: *const c_void,
    pub(crate) data: *mut c_void,
    /// Bytes of arguments that the entry removes: none but on i686.
    pub(crate) cleanup: u32,
}

/// What `Context::state` says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    /// How to call the handler: flags and positions; 0 when not live.
    pub(crate) shape: usize,
    /// How many times the slot has been released.
    pub(crate) generation: u64,
}

impl State {
    pub(crate) fn is_live(self) -> bool {
        self.shape != 0
    }
}

#[cfg(not(split_state))]
impl StateInMemory {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn load(&self) -> State {
        let state = self.0.load(Ordering::Relaxed);
        State { shape: (state % GENERATION) as usize, generation: state / GENERATION }
    }

    fn open(&self, state: State) {
        self.0.store((state.generation * GENERATION) | state.shape as u64, Ordering::Release);
    }

    fn close(&self, next: u64) {
        self.0.store(next * GENERATION, Ordering::Relaxed);
    }
}

#[cfg(split_state)]
impl StateInMemory {
    const fn new() -> Self {
        Self { shape: AtomicU32::new(0), generation: AtomicU32::new(0) }
    }

    fn load(&self) -> State {
        // The two belong together for whoever holds the lock; others learn whether the slot is live.
        let generation = self.generation.load(Ordering::Relaxed).into();
        State { shape: self.shape.load(Ordering::Relaxed) as usize, generation }
    }

    fn open(&self, state: State) {
        self.shape.store(state.shape as u32, Ordering::Release);
    }

    fn close(&self, next: u64) {
        self.shape.store(0, Ordering::Relaxed);
        // Whoever sees the next generation does not see this one's shape.
        self.generation.store(next as u32, Ordering::Release);
    }
}

impl Context {
    const fn new() -> Self {
        Self {
            handler: AtomicPtr::new(core::ptr::null_mut()),
            data: AtomicPtr::new(core::ptr::null_mut()),
            state: StateInMemory::new(),
            calls: AtomicU64::new(0),
            #[cfg(target_arch = "x86")]
            cleanup: AtomicU32::new(0),
            _shared: PhantomPinned,
        }
    }

    pub(crate) fn load_state(&self) -> State {
        self.state.load()
    }

    /// Makes a slot live that is not. To be called under the lock.
    #[inline]
    pub(crate) fn open(&self, target: Target, shape: usize) {
        // Whoever sees the new handler or data also sees that the state has left the former registration's.
        fence(Ordering::Release);
        self.handler.store(target.handler.cast_mut(), Ordering::Relaxed);
        self.data.store(target.data, Ordering::Relaxed);
        #[cfg(target_arch = "x86")]
        self.cleanup.store(target.cleanup, Ordering::Relaxed);
        self.state.open(State { shape, ..self.load_state() });
    }

    /// Ends a registration: calls that begin from now on are stale. To be called under the lock.
    pub(crate) fn close(&self, state: State) {
        self.state.close(state.generation + 1);
    }

    /// Ends the counting of a generation, if none of its calls is running: from then on none of them can enter. Says
    /// whether it has ended, now or before.
    pub(crate) fn end_calls(&self, generation: u64) -> bool {
        let (none, next) = (generation * GENERATION, (generation + 1) * GENERATION);
        let ended = self.calls.compare_exchange(none, next, Ordering::AcqRel, Ordering::Acquire);
        ended.is_ok() || ended == Err(next)
    }

    /// Ends the counting of a generation whose calls may be running: from then on none can enter. They are counted
    /// until they end, with the next generation: to be called once, before [`Self::end_calls`].
    #[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "no closure is called once"))]
    pub(crate) fn leave_calls(&self) {
        self.calls.fetch_add(GENERATION, Ordering::AcqRel);
    }

    /// Says that a counted call has ended.
    #[cfg(any(not(windows), target_arch = "x86"))]
    pub(crate) fn leave(&self) {
        self.calls.fetch_sub(1, Ordering::Release);
    }

    /// What a live slot calls. To be called under the lock.
    #[inline]
    pub(crate) fn target(&self) -> Target {
        Target {
            handler: self.handler.load(Ordering::Relaxed),
            data: self.data.load(Ordering::Relaxed),
            #[cfg(target_arch = "x86")]
            cleanup: self.cleanup.load(Ordering::Relaxed),
            #[cfg(not(target_arch = "x86"))]
            cleanup: 0,
        }
    }

    /// The number of calls that run now, if they are counted.
    pub(crate) fn running(&self) -> u32 {
        (self.calls.load(Ordering::Acquire) % GENERATION) as u32
    }
}

/// The contexts of all slots, and what else a dispatcher follows, on pages of their own: an embedder may make them
/// read-only ([`crate::table::seal`]). The dispatchers know the address of `first`, which comes first.
#[repr(C, align(4096))]
pub(crate) struct Contexts {
    /// The address of the first context.
    first: AtomicUsize,
    /// The bytes of the entries that have a context, which are those of the first slots. A call whose return address is
    /// not one of theirs is stale.
    span: AtomicUsize,
    /// Where a chain of exception handlers has been declared: a `FindBlock`, on i686 the dispatcher's handler.
    #[cfg(not(windows))]
    pub(crate) seh: AtomicPtr<()>,
    /// What unwinds the stack, since the first contained registration.
    #[cfg(any(windows, target_arch = "x86"))]
    pub(crate) unwind: AtomicPtr<()>,
    /// The embedder's stale handler, a `StaleHandler`, or null.
    pub(crate) stale_handler: AtomicPtr<()>,
    /// What that one finds here, if it is the C interface's.
    pub(crate) stale_data: AtomicPtr<()>,
    /// Nothing changes any more. Changed under the registry's lock.
    is_sealed: AtomicBool,
    all: UnsafeCell<heapless::Vec<Context, CAPACITY>>,
}

const_assert_eq!(offset_of!(Contexts, first), CONTEXTS_FIRST);
const_assert_eq!(offset_of!(Contexts, span), CONTEXTS_SPAN);
#[cfg(not(windows))]
const_assert_eq!(offset_of!(Contexts, seh), CONTEXTS_SEH);
const_assert_eq!(size_of::<Contexts>() % PAGE, 0);
const_assert_eq!(align_of::<Contexts>(), PAGE);

/// The smallest page of the processors that there is a table for.
const PAGE: usize = 4096;

// SAFETY: the vector itself is used only by `make`, `made` and `publish`, whose callers have the registry's lock; all
// else is atomic, contexts among it.
unsafe impl Sync for Contexts {}

// In ELF files a linker script may place the section (`linker/`); its name tells compilers and linkers that it is all
// zeros and takes no room in the file.
#[unsafe(export_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_contexts"))]
#[cfg_attr(not(any(windows, target_os = "uefi", target_os = "cygwin")), unsafe(link_section = ".bss.calltable"))]
static CONTEXTS: Contexts = Contexts {
    first: AtomicUsize::new(0),
    span: AtomicUsize::new(0),
    #[cfg(not(windows))]
    seh: AtomicPtr::new(core::ptr::null_mut()),
    #[cfg(any(windows, target_arch = "x86"))]
    unwind: AtomicPtr::new(core::ptr::null_mut()),
    stale_handler: AtomicPtr::new(core::ptr::null_mut()),
    stale_data: AtomicPtr::new(core::ptr::null_mut()),
    is_sealed: AtomicBool::new(false),
    all: UnsafeCell::new(heapless::Vec::new()),
};

impl Contexts {
    /// Takes what unwinds the stack for a contained registration. To be called under the registry's lock.
    pub(crate) fn set_unwinder(&self, unwinder: *mut ()) {
        #[cfg(any(windows, target_arch = "x86"))]
        self.unwind.store(unwinder, Ordering::Relaxed);
        #[cfg(not(any(windows, target_arch = "x86")))]
        let _ = unwinder; // the chain's own is called
    }
}

/// The contexts; by this function alone, as in `entry`: their symbol is not seen outside of the shared object that has
/// them.
#[inline(never)]
pub(crate) fn contexts() -> &'static Contexts {
    &CONTEXTS
}

/// Whether nothing may change any more, to be asked under the registry's lock.
#[inline]
pub(crate) fn is_sealed() -> bool {
    contexts().is_sealed.load(Ordering::Relaxed)
}

/// Sees to it that nothing changes any more, and returns the pages. To be called under the registry's lock.
pub(crate) fn seal() -> Range<*const u8> {
    if !is_sealed() {
        contexts().is_sealed.store(true, Ordering::Relaxed); // the last write: next time the pages may be read-only
    }
    let start = (&raw const *contexts()).cast::<u8>();
    start..start.wrapping_add(size_of::<Contexts>())
}

/// Makes the context of the first slot that has none, not live, and returns the slot; none if each has one.
///
/// A thread that ends in the middle leaves nothing wrong: what it has not written is zeros, as in a new context, and
/// `publish` does the rest.
///
/// # Safety
/// To be called under the registry's lock, and not when the table is sealed.
pub(crate) unsafe fn make() -> Option<usize> {
    // SAFETY: by the caller's promise nobody else uses the vector itself. Of its contexts there are references, which
    // this one leaves alone: see `Context::_shared`.
    let all = unsafe { &mut *contexts().all.get() };
    all.push(Context::new()).ok()?;
    // SAFETY: as above.
    unsafe { publish() };
    Some(all.len() - 1)
}

/// Shows the dispatchers all contexts that there are.
///
/// # Safety
/// As for [`make`].
pub(crate) unsafe fn publish() {
    // SAFETY: by the caller's promise.
    let made = unsafe { made() };
    contexts().first.store(made.as_ptr().addr(), Ordering::Relaxed);
    // Who reads it reads `first` and the contexts after it.
    contexts().span.store(made.len() * ENTRY_STRIDE, Ordering::Release);
}

/// The contexts that there are.
///
/// # Safety
/// To be called under the registry's lock.
#[inline]
pub(crate) unsafe fn made() -> &'static [Context] {
    // SAFETY: by the caller's promise nobody changes the vector. Later it only grows.
    unsafe { (&*contexts().all.get()).as_slice() }
}

/// The slot that a context belongs to.
#[cfg(any(not(windows), target_arch = "x86"))]
pub(crate) fn index_of(context: *const Context) -> usize {
    (context.addr() - contexts().first.load(Ordering::Relaxed)) / CONTEXT_SIZE
}
