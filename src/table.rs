//! The registry: which slot belongs to whom.
//!
//! This is the layer under [`Callback`](crate::Callback), for bindings of other languages: handlers and data are
//! bare pointers, and slots are released by hand.
//!
//! # What holds while a slot changes
//! - A registration is complete when `register` returns: from then on every call of its code pointer, from any thread
//!   that learned the pointer since, runs its handler with its data.
//! - A call never sees the handler of one registration with the data of another.
//! - A call that begins after `release` has returned is stale (see [`crate::set_stale_handler`]), until the slot is
//!   given to somebody else. Released slots wait in line behind all other free ones, so that is as late as can be.
//! - A call that began before `release`, or while it runs, may still be running when `release` returns, unless the
//!   registration is [tracked](Registration::tracked): then `release` returns when no call is running.
//!
//! After [`seal`] nothing changes any more.
//!
//! The lock is held for some dozens of instructions and never while user code runs, so a handler may register and
//! release. An interrupt handler, which may have interrupted the holder of the lock, uses the `try_` forms.

use core::ffi::c_void;
use core::ops::Range;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{Ordering, fence};

use spin::mutex::{SpinMutex, SpinMutexGuard};
use static_assertions::const_assert;

use crate::arch::{self, Place};
use crate::callback::FunctionPointer;
use crate::context::layout::*;
use crate::context::{self, Context, State};
use crate::convention::Convention;
use crate::error::{Error, ReleaseError};
use crate::frame::RawFrame;
use crate::seh;
use crate::signature::Signature;

pub use crate::context::layout::{CAPACITY, MAX_POSITIONS};

/// The address of an entry: what foreign code calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct CodePointer(NonNull<c_void>);

// SAFETY: it points to code, which every thread may read and execute.
unsafe impl Send for CodePointer {}
// SAFETY: as above.
unsafe impl Sync for CodePointer {}

impl CodePointer {
    pub(crate) fn new(entry: *const c_void) -> Self {
        // SAFETY: an entry lies in the program's code, and nothing lies at address 0.
        Self(unsafe { NonNull::new_unchecked(entry.cast_mut()) })
    }

    /// The address.
    #[must_use]
    pub fn as_ptr(self) -> *const c_void {
        self.0.as_ptr()
    }

    /// The address as a function pointer.
    ///
    /// # Safety
    /// `F` must be the type that the registered handler serves: convention, parameters and result.
    #[must_use]
    pub unsafe fn cast<F: FunctionPointer>(self) -> F {
        // SAFETY: by the caller's promise.
        unsafe { F::from_code(self) }
    }
}

/// One registration of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    index: u32,
    generation: usize,
}

impl Slot {
    /// 0 to [`CAPACITY`] - 1.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// What foreign code calls.
    #[must_use]
    pub fn code(self) -> CodePointer {
        arch::entry(self.index())
    }

    /// The slot as one number that is not 0.
    #[cfg(feature = "capi")]
    pub(crate) fn number(self) -> u64 {
        (self.generation * STATE_GENERATION) as u64 + u64::from(self.index) + 1
    }

    /// The slot that has this number, if any can.
    #[cfg(feature = "capi")]
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        let number = usize::try_from(number.checked_sub(1)?).ok()?;
        let (generation, index) = (number / STATE_GENERATION, number % STATE_GENERATION);
        (index < CAPACITY).then_some(Self { index: index as u32, generation })
    }
}

// An index takes the place of the flags in a slot's number.
const_assert!(CAPACITY <= STATE_GENERATION);

/// A handler of the frame lane: gets the registration's data and one call's arguments.
///
/// `efiapi` is win64 on x86_64 and cdecl on i686; [`Registration::frame_foreign`] takes a handler of another convention.
pub type FrameHandler = unsafe extern "efiapi" fn(data: *mut c_void, frame: *mut RawFrame);

/// What is to run when a slot's entry is called.
#[derive(Clone, Copy, Debug)]
pub struct Registration {
    handler: *const c_void,
    data: *mut c_void,
    convention: Convention,
    place: Place,
    flags: usize,
    /// Of a contained one, `seh::unwinder`.
    unwind: *mut (),
}

// SAFETY: it only carries the pointers; whoever makes one promises that they may be used from any thread that calls.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    /// Direct lane: `handler` has the callback's own signature plus one trailing pointer, which receives `data`.
    ///
    /// `positions` is the number of argument positions of the callback, without that pointer. On win64 each parameter
    /// takes one, whatever its type, and a result returned through a hidden pointer takes one more ("x64 calling
    /// convention, Return values"). On i686 it is the number of 4-byte words on the stack, ECX (thiscall) or ECX and EDX
    /// (fastcall) being taken by other parameters; the pointer is the word behind them, and a handler of a convention
    /// other than cdecl removes it with the others.
    ///
    /// # Safety
    /// While the registration lives, `handler` must be callable that way, by every thread that calls the entry.
    #[must_use]
    pub unsafe fn direct(convention: Convention, handler: *const c_void, positions: usize, data: *mut c_void) -> Self {
        Self { handler, data, convention, place: arch::place_of(convention, positions), flags: 0, unwind: null_mut() }
    }

    /// Direct lane, for a place that the compiler has shown.
    ///
    /// # Safety
    /// As for [`Self::direct`].
    pub(crate) unsafe fn direct_at(place: Place, handler: *const c_void, data: *mut c_void) -> Self {
        Self { handler, data, convention: Convention::NATIVE, place, flags: 0, unwind: null_mut() }
    }

    /// Frame lane: `handler` gets the data and the call's arguments in memory, and puts the result there.
    ///
    /// # Safety
    /// While the registration lives, `handler` must be callable with `data`, by every thread that calls the entry.
    #[must_use]
    pub unsafe fn frame(handler: FrameHandler, signature: &Signature, data: *mut c_void) -> Self {
        // SAFETY: a handler that keeps the preserved registers may also be treated as one that does not; undone below.
        let registration = unsafe { Self::frame_foreign(handler as *const c_void, signature, data) };
        Self { flags: STATE_FRAME, ..registration }
    }

    /// Frame lane, for a handler that is not compiled for the convention at hand: System V C code on Linux, or a
    /// language runtime's own. It need keep no register but the stack pointer. On x86_64 it gets `(data, frame)` in RCX,
    /// RDX and again in RDI, RSI, and has 32 bytes of home space; on i686 it gets them on the stack and leaves them there.
    ///
    /// # Safety
    /// As for [`Self::frame`]. The handler must return with the stack pointer as a `ret` leaves it.
    #[must_use]
    pub unsafe fn frame_foreign(handler: *const c_void, signature: &Signature, data: *mut c_void) -> Self {
        Self {
            handler,
            data,
            convention: signature.convention(),
            place: arch::place_of_frame(signature),
            flags: STATE_FRAME | STATE_SAVE,
            unwind: null_mut(),
        }
    }

    /// The handler need not keep the registers that the convention preserves, only the stack pointer: the dispatcher
    /// saves RBX, RBP, RDI, RSI, R12-R15 and XMM6-15 (on i686 EBX, EBP, EDI and ESI), clears DF before the handler and
    /// after it, and restores them whatever the handler did.
    #[must_use]
    pub const fn saving(self) -> Self {
        Self { flags: self.flags | STATE_SAVE, ..self }
    }

    /// As [`Self::saving`], and MXCSR and the x87 control word are restored, too. Not in a build for processors whose
    /// SSE registers are switched off: there it is the same.
    #[must_use]
    pub const fn saving_control_words(self) -> Self {
        Self { flags: self.flags | STATE_SAVE | STATE_CONTROL, ..self }
    }

    /// Calls in flight are counted, so that [`release`] can wait until none is running.
    ///
    /// Each call then writes to the slot twice. On Windows a call that an exception or `longjmp` leaves is no longer counted;
    /// elsewhere it is so where a chain has been declared ([`seh`]) and whoever leaves it unwinds the chain. Otherwise, and
    /// if its thread ends, it stays counted.
    #[must_use]
    pub const fn tracked(self) -> Self {
        Self { flags: self.flags | STATE_COUNTED, ..self }
    }

    /// A call that comes while another one runs, on whatever thread, is refused: the stale handler runs with
    /// [`StaleReason::Running`](crate::StaleReason::Running). Tracked, too.
    #[must_use]
    pub const fn exclusive(self) -> Self {
        Self { flags: self.flags | STATE_COUNTED | STATE_EXCLUSIVE, ..self }
    }

    /// Exceptions of the handler may end here: the [`ExceptionFilter`](seh::ExceptionFilter) at the start of the data
    /// decides. It is asked in the order in which the system asks handlers: after vectored ones, before those of the
    /// foreign caller. What an exception leaves behind that has ended: [`seh`].
    ///
    /// ```
    /// use calltable::seh::{Answer, Exception, ExceptionFilter, Verdict};
    /// use calltable::table::{self, Registration};
    /// use calltable::Convention;
    /// use core::ffi::c_void;
    ///
    /// #[repr(C)]
    /// struct Divisor {
    ///     filter: ExceptionFilter,
    ///     value: i32,
    /// }
    ///
    /// // int divide(int number), plus the data
    /// unsafe extern "efiapi" fn divide(number: i32, divisor: *const Divisor) -> i32 {
    ///     let divisor = unsafe { (*divisor).value };
    ///     let quotient;
    ///     // The processor's own division: Rust's would look before it divides.
    ///     unsafe {
    ///         core::arch::asm!("cdq", "idiv {:e}", in(reg) divisor, inout("eax") number => quotient, out("edx") _);
    ///     }
    ///     quotient
    /// }
    /// unsafe extern "efiapi" fn filter(_: *mut c_void, exception: *const Exception, answer: *mut Answer) -> Verdict {
    ///     if unsafe { (*exception).code() } != calltable::seh::INTEGER_DIVISION_BY_ZERO {
    ///         return Verdict::SEARCH_ON;
    ///     }
    ///     unsafe { (*answer).frame.result[0] = 0x7fff_ffff };
    ///     Verdict::RETURN
    /// }
    ///
    /// let mut divisor = Divisor { filter, value: 0 };
    /// let registration = unsafe {
    ///     Registration::direct(Convention::C, divide as *const c_void, 1, (&raw mut divisor).cast()).contained()
    /// };
    /// match table::register(&registration) {
    ///     Ok(slot) => {
    ///         let code: unsafe extern "efiapi" fn(i32) -> i32 = unsafe { slot.code().cast() };
    ///         assert_eq!(unsafe { code(7) }, i32::MAX);
    ///         table::release(slot)?;
    ///     }
    ///     Err(error) => assert_eq!(error, calltable::Error::NoExceptions), // nothing is declared
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// While the registration lives, the data must point to a structure that begins with a filter, which must be callable
    /// by every thread that calls the entry. When it ends an exception, no frame between the fault and the dispatcher may
    /// hold anything that must be dropped.
    #[must_use]
    pub unsafe fn contained(self) -> Self {
        Self { flags: self.flags | STATE_CONTAIN, unwind: seh::unwinder(), ..self }
    }

    /// The low bits of the context's state.
    fn shape(&self) -> Result<usize, Error> {
        if self.handler.is_null() {
            Err(Error::NullHandler)
        } else if !self.convention.is_available() {
            Err(Error::ConventionUnavailable(self.convention))
        } else if self.place.positions > MAX_POSITIONS {
            Err(Error::TooManyPositions { positions: self.place.positions })
        } else if self.flags & STATE_CONTAIN != 0 && self.data.is_null() {
            Err(Error::NullFilter)
        } else if self.flags & STATE_CONTAIN != 0 && !seh::is_available() {
            Err(Error::NoExceptions)
        } else {
            Ok(self.flags | self.place.flags | (self.place.positions + 1))
        }
    }
}

/// Registers, waiting for the lock if it is taken.
///
/// # Errors
/// [`Error::TableFull`], [`Error::Sealed`], and those that say what is wrong with the registration.
pub fn register(registration: &Registration) -> Result<Slot, Error> {
    let shape = registration.shape()?;
    lock().bind(registration, shape)
}

/// Registers if the lock is free.
///
/// # Errors
/// [`Error::Busy`] at once if it is not; otherwise as [`register`].
pub fn try_register(registration: &Registration) -> Result<Slot, Error> {
    let shape = registration.shape()?;
    try_lock().ok_or(Error::Busy)?.bind(registration, shape)
}

/// Registers, or counts one more use of a live registration that was made by this function and is equal: same
/// handler, data, convention, lane, positions and options. [`release`] is to be called once for each use.
///
/// Handlers are equal if their addresses are. A Rust function may have more than one, unless it is
/// `#[inline(never)]` and not generic.
///
/// # Errors
/// As [`register`], and [`Error::TooManyUses`].
pub fn share(registration: &Registration) -> Result<Slot, Error> {
    let shape = registration.shape()?;
    lock().share(registration, shape)
}

/// As [`share`], if the lock is free.
///
/// # Errors
/// [`Error::Busy`] at once if it is not; otherwise as [`share`].
pub fn try_share(registration: &Registration) -> Result<Slot, Error> {
    let shape = registration.shape()?;
    try_lock().ok_or(Error::Busy)?.share(registration, shape)
}

/// Releases one use, with the last one the slot. Waits for the lock and, if the registration is tracked, until no
/// call is running: it must not be called by the handler itself then, which would wait for its own end.
///
/// # Errors
/// [`ReleaseError::NotLive`] if it was released before, [`ReleaseError::Sealed`] if the table is.
pub fn release(slot: Slot) -> Result<(), ReleaseError> {
    loop {
        let released = lock().release(slot);
        match released {
            Err(ReleaseError::InFlight) => core::hint::spin_loop(),
            ended => return ended,
        }
    }
}

/// Releases one use, with the last one the slot, without waiting.
///
/// # Errors
/// [`ReleaseError::Busy`] if the lock is taken: nothing has changed. [`ReleaseError::InFlight`] if the registration is
/// tracked and calls of it are running: new ones are refused already, but the slot is not free before another call of
/// this function or of [`release`] has succeeded. [`ReleaseError::NotLive`] and [`ReleaseError::Sealed`] as there.
pub fn try_release(slot: Slot) -> Result<(), ReleaseError> {
    try_lock().ok_or(ReleaseError::Busy)?.release(slot)
}

/// Ends all change, and returns the whole pages that hold everything that a call follows to its handler, so that the
/// embedder can make them read-only: nobody who can write to memory is able then to lead a code pointer elsewhere.
/// Sealing again returns them again. Waits for the lock.
///
/// From then on whatever would change the table is refused with [`Error::Sealed`] or [`ReleaseError::Sealed`]:
/// registering, sharing, releasing and [`set_stale_handler`](crate::set_stale_handler). Calls, live or stale, and the
/// functions that only look ([`list`], [`live`], [`entry`]) go on as before.
///
/// The pages are those of 4096 bytes. Nothing else lies on them: not the registry's own bookkeeping, which calls do not
/// look at, and not what the handlers' data point to, which stays writable.
///
/// ```no_run
/// # fn protect(_: core::ops::Range<*const u8>) {}
/// use calltable::{Callback, table};
///
/// let double = Callback::<unsafe extern "efiapi" fn(i32) -> i32>::from_ref(&|number| 2 * number)?.leak();
/// // SAFETY: what is registered was leaked, and no call is running.
/// let pages = unsafe { table::seal()? };
/// protect(pages); // `mprotect`, `VirtualProtect`, or the kernel's own page tables
/// assert_eq!(unsafe { double(21) }, 42);
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Errors
/// [`Error::Counted`]: each call of a tracked or exclusive registration writes to its context.
///
/// # Safety
/// Handlers and data of all live registrations must stay valid for ever: a [`Callback`](crate::Callback) that is
/// dropped later cannot give back its slot. If the pages are made read-only, no call may be running that began while a tracked
/// or exclusive registration of the same slot was live.
pub unsafe fn seal() -> Result<Range<*const u8>, Error> {
    lock().seal()
}

/// Runs what changes the contexts' pages, under the lock, unless they are sealed. Does not fill the table.
pub(crate) fn unless_sealed(change: impl FnOnce()) -> Result<(), Error> {
    let _registry = REGISTRY.lock();
    context::check_open()?;
    change();
    Ok(())
}

/// The slot whose entry starts at `code`, if that is an address in the table at all.
#[must_use]
pub fn slot_of(code: *const c_void) -> Option<usize> {
    arch::slot_at(code)
}

/// Where in this crate's assembly an address lies: see [`locate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// In the entry of a slot, live or not.
    Entry {
        /// Its index.
        slot: usize,
    },
    /// In a dispatcher.
    Dispatcher,
}

/// Whether a program counter lies in the table or in a dispatcher; for trap handlers, debuggers and profilers.
///
/// The slot that a dispatcher runs for is told by the return address in the entry. Whoever walks the stack asks about each
/// address that it finds; one walk may find several, those of nested calls, innermost first. Without a walk, where there is
/// a chain of exception records, `seh::slot_of` knows the calls that are in it.
///
/// ```
/// use calltable::table::{self, Location};
/// use calltable::Callback;
/// use std::sync::Mutex;
///
/// let found = Mutex::new(Vec::new());
/// let closure = || {
///     backtrace::trace(|frame| {
///         found.lock().unwrap().extend(table::locate(frame.ip()));
///         true
///     });
/// };
/// let callback = Callback::<unsafe extern "efiapi" fn()>::from_ref(&closure)?;
/// assert_eq!(table::locate(callback.code() as *const _), Some(Location::Entry { slot: callback.slot().index() }));
/// // SAFETY: the callback lives.
/// unsafe { callback.code()() };
/// let slot = callback.slot().index();
/// assert_eq!(*found.lock().unwrap(), [Location::Dispatcher, Location::Entry { slot }]);
/// # Ok::<(), calltable::Error>(())
/// ```
#[must_use]
pub fn locate(code: *const c_void) -> Option<Location> {
    arch::locate(code)
}

/// The number of live slots, and of released ones that wait for running calls.
#[must_use]
pub fn live() -> usize {
    lock().taken as usize
}

/// A live slot, as [`list`] shows it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// The registration.
    pub slot: Slot,
    /// Its handler.
    pub handler: *const c_void,
    /// Its data.
    pub data: *mut c_void,
    /// How many times it is shared; 0 for one that was registered by itself.
    pub uses: u32,
    /// Calls running now; `None` if they are not counted.
    pub in_flight: Option<u32>,
}

/// The registration of one slot, if it is live. Waits for the lock.
#[must_use]
pub fn entry(index: usize) -> Option<Entry> {
    lock().entry(index)
}

/// The registration of one slot, if it is live.
///
/// # Errors
/// [`Error::Busy`] if the lock is taken.
pub fn try_entry(index: usize) -> Result<Option<Entry>, Error> {
    Ok(try_lock().ok_or(Error::Busy)?.entry(index))
}

/// All live slots, for leak reports. Each step takes and gives back the lock, so the table may change in between.
pub fn list() -> impl Iterator<Item = Entry> {
    (0..CAPACITY).filter_map(entry)
}

/// Buckets for shared registrations; a power of two, at least half the capacity.
const BUCKETS: usize = CAPACITY.div_ceil(2).next_power_of_two();

/// What `Context::link` says of a slot that is released but waits for running calls: no chain is that long.
const CLOSED: u32 = u32::MAX;

/// What the lock guards. In its chains a slot is written as index + 1, and 0 ends a chain, so that the whole registry
/// starts as zeros and takes no room in the program's file.
///
/// A context's `link` is used for one chain at a time: the line of free slots while it is free, its bucket's chain
/// while it is shared.
struct Registry {
    /// Empty until the table is first used.
    contexts: Option<&'static [Context]>,
    /// The free slot that was released first, and the one that was released last.
    first: u32,
    last: u32,
    taken: u32,
    uses: [u32; CAPACITY],
    buckets: [u32; BUCKETS],
}

static REGISTRY: SpinMutex<Registry> = SpinMutex::new(Registry {
    contexts: None,
    first: 0,
    last: 0,
    taken: 0,
    uses: [0; CAPACITY],
    buckets: [0; BUCKETS],
});

fn lock() -> SpinMutexGuard<'static, Registry> {
    let mut registry = REGISTRY.lock();
    registry.prepare();
    registry
}

fn try_lock() -> Option<SpinMutexGuard<'static, Registry>> {
    let mut registry = REGISTRY.try_lock()?;
    registry.prepare();
    Some(registry)
}

impl Registry {
    fn prepare(&mut self) {
        if self.contexts.is_none() {
            // SAFETY: under the lock, and only while `contexts` has not been set.
            self.contexts = Some(unsafe { context::fill() });
            self.first = 1;
            self.last = CAPACITY as u32;
            if let Some(last) = self.context(self.last - 1) {
                last.link.store(0, Ordering::Relaxed);
            }
        }
    }

    fn context(&self, index: u32) -> Option<&'static Context> {
        self.contexts.unwrap_or_default().get(index as usize)
    }

    fn seal(&mut self) -> Result<Range<*const u8>, Error> {
        let is_counted = |context: &Context| {
            context.load_state().shape() & STATE_COUNTED != 0 || context.in_flight.load(Ordering::Acquire) != 0
        };
        match self.contexts.unwrap_or_default().iter().position(is_counted) {
            Some(slot) => Err(Error::Counted { slot }),
            None => Ok(context::seal()),
        }
    }

    fn bind(&mut self, registration: &Registration, shape: usize) -> Result<Slot, Error> {
        context::check_open()?;
        let index = self.first.checked_sub(1).ok_or(Error::TableFull)?;
        let context = self.context(index).ok_or(Error::TableFull)?;
        self.first = context.link.load(Ordering::Relaxed);
        if self.first == 0 {
            self.last = 0;
        }
        self.taken += 1;
        if shape & STATE_CONTAIN != 0 {
            seh::prepare(registration.unwind);
        }
        let state = context.load_state();
        // Whoever sees the new handler or data also sees that the state has left the former registration's.
        fence(Ordering::Release);
        context.handler.store(registration.handler.cast_mut(), Ordering::Relaxed);
        context.data.store(registration.data, Ordering::Relaxed);
        #[cfg(target_arch = "x86")]
        context.cleanup.store(registration.place.cleanup, Ordering::Relaxed);
        context.state.store(state.0 | shape, Ordering::Release);
        Ok(Slot { index, generation: state.generation() })
    }

    fn share(&mut self, registration: &Registration, shape: usize) -> Result<Slot, Error> {
        context::check_open()?;
        let bucket = bucket_of(registration.handler, registration.data, shape);
        let mut link = self.buckets.get(bucket).copied().unwrap_or_default();
        while let Some(context) = link.checked_sub(1).and_then(|index| self.context(index)) {
            let state = context.load_state();
            if state.shape() == shape
                && context.handler.load(Ordering::Relaxed).cast_const() == registration.handler
                && context.data.load(Ordering::Relaxed) == registration.data
            {
                let index = link - 1;
                let uses = self.uses.get_mut(index as usize).ok_or(Error::TableFull)?;
                *uses = uses.checked_add(1).ok_or(Error::TooManyUses)?;
                return Ok(Slot { index, generation: state.generation() });
            }
            link = context.link.load(Ordering::Relaxed);
        }
        let slot = self.bind(registration, shape)?;
        if let (Some(context), Some(uses), Some(first)) =
            (self.context(slot.index), self.uses.get_mut(slot.index()), self.buckets.get_mut(bucket))
        {
            context.link.store(*first, Ordering::Relaxed);
            *first = slot.index + 1;
            *uses = 1;
        }
        Ok(slot)
    }

    fn release(&mut self, slot: Slot) -> Result<(), ReleaseError> {
        context::check_open().map_err(|_| ReleaseError::Sealed)?;
        let context = self.context(slot.index).ok_or(ReleaseError::NotLive)?;
        let uses = self.uses.get_mut(slot.index()).ok_or(ReleaseError::NotLive)?;
        let state = context.load_state();
        let released = State::resting(slot.generation.wrapping_add(1));
        if state.is_live() && state.generation() == slot.generation {
            if *uses > 1 {
                *uses -= 1;
                return Ok(());
            }
            if *uses == 1 {
                *uses = 0;
                self.unchain(slot.index, context, state.shape());
            }
            context.link.store(CLOSED, Ordering::Relaxed);
            context.state.store(released.0, Ordering::Relaxed);
            // Against the locked addition in calltable_count: either we see the call, or it sees the new state.
            fence(Ordering::SeqCst);
            if state.shape() & STATE_COUNTED == 0 {
                self.rest(slot.index, context);
                return Ok(());
            }
        } else if state != released || context.link.load(Ordering::Relaxed) != CLOSED {
            return Err(ReleaseError::NotLive);
        }
        if context.in_flight.load(Ordering::Acquire) != 0 {
            return Err(ReleaseError::InFlight);
        }
        self.rest(slot.index, context);
        Ok(())
    }

    /// Takes a shared slot out of its bucket's chain.
    fn unchain(&mut self, index: u32, context: &Context, shape: usize) {
        let next = context.link.load(Ordering::Relaxed);
        let bucket = bucket_of(context.handler.load(Ordering::Relaxed), context.data.load(Ordering::Relaxed), shape);
        let Some(first) = self.buckets.get_mut(bucket) else { return };
        let mut link = *first;
        if link == index + 1 {
            *first = next;
            return;
        }
        while let Some(before) = link.checked_sub(1).and_then(|before| self.context(before)) {
            link = before.link.load(Ordering::Relaxed);
            if link == index + 1 {
                before.link.store(next, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Puts a slot at the end of the line of free ones.
    fn rest(&mut self, index: u32, context: &Context) {
        context.link.store(0, Ordering::Relaxed);
        match self.last.checked_sub(1).and_then(|last| self.context(last)) {
            Some(last) => last.link.store(index + 1, Ordering::Relaxed),
            None => self.first = index + 1,
        }
        self.last = index + 1;
        self.taken -= 1;
    }

    fn entry(&self, index: usize) -> Option<Entry> {
        let context = self.contexts?.get(index)?;
        let state = context.load_state();
        state.is_live().then(|| Entry {
            slot: Slot { index: index as u32, generation: state.generation() },
            handler: context.handler.load(Ordering::Relaxed),
            data: context.data.load(Ordering::Relaxed),
            uses: self.uses.get(index).copied().unwrap_or_default(),
            in_flight: (state.shape() & STATE_COUNTED != 0).then(|| context.in_flight.load(Ordering::Relaxed)),
        })
    }
}

/// Multiplicative hashing: the high bits of a product depend on all bits of the factors.
fn bucket_of(handler: *const c_void, data: *mut c_void, shape: usize) -> usize {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let key = (handler.addr() as u64).wrapping_mul(FACTOR) ^ (data.addr() as u64) ^ ((shape as u64) << 48);
    (key.wrapping_mul(FACTOR) >> 32) as usize % BUCKETS
}
