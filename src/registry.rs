//! Which slot belongs to whom: what the lock guards.
//!
//! Only the holder of the lock changes a context, but for the number of running calls, which the dispatchers count. The
//! order of its writes is what a call relies on that reads at the same time, without a lock (`context`):
//!
//! - To register, write handler and data, then open the state: who sees it open sees both.
//! - To release, close the state, with the next generation, then end the counting of the old one. Only after that is
//!   the slot free.
//! - To register again, first have whoever sees the new handler or data see the closed state, too (the fence in
//!   `Context::open`).
//! - To rebind, do as to release, and before the slot is free as to register again. So what holds of a slot that
//!   changes hands holds of one that keeps its owner.

use core::ffi::c_void;
use core::ops::Range;

use spin::mutex::SpinMutexGuard;
use static_assertions::const_assert;

use crate::abi::Shape;
use crate::context::{self, Context, Target};
use crate::convention::Convention;
use crate::entry::{self, CodePointer};
use crate::error::{Error, RebindError, ReleaseError};
use crate::layout::*;
use crate::lock::{Lock, Recover};
use crate::name::{Name, Users};

/// One registration of a slot: what identifies it, and anybody may have. Only its [`SlotKey`] releases it.
///
/// ```
/// use calltable::{Callback, table};
///
/// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref(&|| 42)?;
/// let slot = callback.slot();
/// assert!(slot.index() < table::CAPACITY);
/// assert_eq!(slot.code().as_ptr(), callback.code() as *const core::ffi::c_void);
/// # Ok::<(), calltable::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId {
    pub(crate) index: u32,
    generation: u64,
}

impl SlotId {
    /// The slot's number, 0 to [`CAPACITY`](crate::CAPACITY) - 1. Example: [`Self`].
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// What foreign code calls: the slot's entry. Example: [`Self`].
    #[must_use]
    pub fn code(self) -> CodePointer {
        entry::entry(self.index())
    }

    /// A key of the registration, for whoever cleans up after others: [`list`](crate::table::list) shows what they have
    /// registered.
    ///
    /// ```
    /// # use calltable::Convention;
    /// # use calltable::table::{self, Binding};
    /// # use core::ffi::c_void;
    /// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
    /// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
    /// # let binding = unsafe { Binding::direct(Convention::C, handler, 1, data) };
    /// let key = table::register(&binding)?;
    /// let slot = key.slot();
    /// drop(key); // somebody has lost it, and nobody uses the callback any more
    /// // SAFETY: the first key is gone, and so is every user of the code pointer.
    /// table::release(unsafe { slot.key() })?;
    /// assert!(!table::list().any(|live| live.slot == slot));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// Nobody else may rely on the registration any more when it is released with this key: no
    /// [`Callback`](crate::Callback) may own it, and whoever has the first key must not use that one.
    pub unsafe fn key(self) -> SlotKey {
        SlotKey(self)
    }
}

/// The right to release one use of a registration: what [`register`](crate::table::register) and
/// [`share`](crate::table::share) give, once for each use, and what [`release`](crate::table::release) takes.
///
/// It cannot be copied, so that nobody releases what is another's. If it is dropped, the registration stays for the
/// rest of the program.
///
/// ```
/// use calltable::Convention;
/// use calltable::table::{self, Binding};
/// use core::ffi::c_void;
///
/// unsafe extern "efiapi" fn add(number: i32, offset: *const i32) -> i32 {
///     // SAFETY: the data is a static.
///     number + unsafe { *offset }
/// }
///
/// static OFFSET: i32 = 40;
/// let data = (&raw const OFFSET).cast_mut().cast();
/// // SAFETY: `add` takes one number and that data, which live for ever.
/// let binding = unsafe { Binding::direct(Convention::C, add as *const c_void, 1, data) };
/// let key = table::register(&binding)?;
/// assert_eq!(key.index(), key.slot().index());
/// // SAFETY: that is the callback's type, and the slot is live.
/// let code: unsafe extern "efiapi" fn(i32) -> i32 = unsafe { key.code().cast() };
/// // SAFETY: as above.
/// assert_eq!(unsafe { code(2) }, 42);
/// table::release(key)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use = "only the key can release the registration"]
pub struct SlotKey(pub(crate) SlotId);

impl SlotKey {
    /// The registration. Example: [`Self`].
    #[must_use]
    pub fn slot(&self) -> SlotId {
        self.0
    }

    /// The slot's number, 0 to [`CAPACITY`](crate::CAPACITY) - 1. Example: [`Self`].
    #[must_use]
    pub fn index(&self) -> usize {
        self.0.index()
    }

    /// What foreign code calls: the slot's entry. Example: [`Self`].
    #[must_use]
    pub fn code(&self) -> CodePointer {
        self.0.code()
    }

    /// The key as one number that is not 0, for languages that keep numbers.
    ///
    /// ```
    /// # use calltable::Convention;
    /// # use calltable::table::{self, Binding, SlotKey};
    /// # use core::ffi::c_void;
    /// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
    /// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
    /// # let binding = unsafe { Binding::direct(Convention::C, handler, 1, data) };
    /// let number: u64 = table::register(&binding)?.into_raw();
    /// assert_ne!(number, 0);
    /// // SAFETY: the number comes from `into_raw`, and is made a key once.
    /// let key = unsafe { SlotKey::from_raw(number) }.unwrap();
    /// table::release(key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn into_raw(self) -> u64 {
        (self.0.generation << INDEX_BITS) + u64::from(self.0.index) + 1
    }

    /// The key that [`SlotKey::into_raw`] made this number; `None` if it gives such a number for no key.
    ///
    /// ```
    /// use calltable::table::SlotKey;
    /// # use calltable::Convention;
    /// # use calltable::table::{self, Binding};
    /// # use core::ffi::c_void;
    /// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
    /// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
    /// # let binding = unsafe { Binding::direct(Convention::C, handler, 1, data) };
    ///
    /// let key = table::register(&binding)?;
    /// let slot = key.slot();
    /// let number = key.into_raw();
    /// // SAFETY: the number comes from `into_raw`, and is made a key once.
    /// let key = unsafe { SlotKey::from_raw(number) }.unwrap();
    /// assert_eq!(key.slot(), slot);
    /// table::release(key)?;
    /// // SAFETY: nothing is made a key.
    /// assert_eq!(unsafe { SlotKey::from_raw(0) }, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// The number must have come from [`SlotKey::into_raw`], and be made a key once. (If the registration was released
    /// meanwhile, the key is not taken for one of a later registration: releasing it is [`ReleaseError::NotLive`].)
    #[must_use]
    pub unsafe fn from_raw(number: u64) -> Option<Self> {
        let number = number.checked_sub(1)?;
        let (generation, index) = (number >> INDEX_BITS, number & ((1 << INDEX_BITS) - 1));
        (index < CAPACITY as u64).then_some(Self(SlotId { index: index as u32, generation }))
    }
}

/// Bits of a key's number that hold the slot's index; the others hold the generation.
const INDEX_BITS: u32 = 24;
const_assert!(CAPACITY < 1 << INDEX_BITS);
const_assert!(LAST_GENERATION <= u64::MAX >> INDEX_BITS);

/// What is to run when a slot's entry is called: [`register`](crate::table::register) takes one.
///
/// [`direct`](Self::direct), [`frame`](Self::frame) and [`frame_foreign`](Self::frame_foreign) make one; the other
/// methods add options.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    pub(crate) handler: *const c_void,
    pub(crate) data: *mut c_void,
    pub(crate) convention: Convention,
    pub(crate) shape: Shape,
    pub(crate) flags: usize,
    /// Of a contained one, what unwinds the stack when an exception ends.
    pub(crate) unwind: *mut (),
    pub(crate) name: Name,
}

impl Binding {
    #[inline]
    fn target(&self) -> Target {
        Target { handler: self.handler, data: self.data, cleanup: self.shape.cleanup }
    }
}

// SAFETY: it only carries the pointers; whoever makes one promises that they may be used from any thread that calls.
unsafe impl Send for Binding {}
// SAFETY: as above.
unsafe impl Sync for Binding {}

/// A live slot, as [`list`](crate::table::list) shows it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LiveSlot {
    /// The registration.
    pub slot: SlotId,
    /// Its handler.
    pub handler: *const c_void,
    /// Its data.
    pub data: *mut c_void,
    /// How many releases it takes if it is [shared](crate::table::share); 0 if it is not.
    pub uses: u32,
    /// The number of calls that are running; `None` if they are not counted.
    pub in_flight: Option<u32>,
    /// What it is [named](Binding::named); always `None` without the feature `names`.
    pub name: Option<&'static str>,
}

/// Runs what changes the contexts' pages, under the lock, unless they are sealed.
pub(crate) fn unless_sealed(change: impl FnOnce()) -> Result<(), Error> {
    let _registry = REGISTRY.lock();
    check_open()?;
    change();
    Ok(())
}

#[inline]
fn check_open() -> Result<(), Error> {
    if context::is_sealed() { Err(Error::Sealed) } else { Ok(()) }
}

/// Buckets for shared registrations; a power of two, at least half the capacity.
const BUCKETS: usize = CAPACITY.div_ceil(2).next_power_of_two();

/// What `Registry::next` says of a slot that is released but waits for running calls: no chain is that long.
const CLOSED: u32 = u32::MAX;

/// The same of one that nobody will ask for again: it is free when its calls have ended.
const LEFT: u32 = u32::MAX - 1;

/// What the lock guards. In its chains a slot is written as index + 1, and 0 ends a chain, so that the whole registry
/// starts as zeros and takes no room in the program's file.
#[repr(C)] // what the first registration touches comes first
pub(crate) struct Registry {
    /// The line of free slots that have been used: the one that was released first, and the one that was released last.
    first: u32,
    last: u32,
    taken: u32,
    /// How many slots are left.
    left: u32,
    /// What `may_be_lost` says is so of some slot, or was.
    some_may_be_lost: bool,
    /// The next slot in the chain that a slot is in, one at a time: the line of free slots while it is free, its
    /// bucket's chain while it is shared.
    next: [u32; CAPACITY],
    uses: [u32; CAPACITY],
    /// Calls of it ran when this process, a child of `fork`, began to use the table; their threads may be the parent's.
    pub(crate) may_be_lost: [bool; CAPACITY],
    buckets: [u32; BUCKETS],
    /// Of each slot's last registration.
    names: [Name; CAPACITY],
}

static REGISTRY: Lock<Registry> = Lock::new(Registry {
    first: 0,
    last: 0,
    taken: 0,
    left: 0,
    some_may_be_lost: false,
    next: [0; CAPACITY],
    uses: [0; CAPACITY],
    may_be_lost: [false; CAPACITY],
    buckets: [0; BUCKETS],
    names: [Name::NONE; CAPACITY],
});

impl Recover for Registry {
    fn recover(&mut self) {
        self.rebuild();
    }

    fn inherit(&mut self) {
        for (context, may_be_lost) in self.contexts().iter().zip(&mut self.may_be_lost) {
            *may_be_lost = context.running() != 0;
            self.some_may_be_lost |= *may_be_lost;
        }
    }
}

#[inline]
pub(crate) fn lock() -> SpinMutexGuard<'static, Registry> {
    REGISTRY.lock()
}

#[inline]
pub(crate) fn try_lock() -> Option<SpinMutexGuard<'static, Registry>> {
    REGISTRY.try_lock()
}

impl Registry {
    /// The contexts that there are: those of the slots that have ever been taken.
    #[inline]
    fn contexts(&self) -> &'static [Context] {
        // SAFETY: the registry is seen only under its lock.
        unsafe { context::made() }
    }

    /// Makes everything anew from the contexts and the uses, whatever change was under way when the thread that made it
    /// went away. A registration or release that it had not finished has happened or has not; nobody will ask for it.
    /// Free slots lose their order.
    fn rebuild(&mut self) {
        if context::is_sealed() {
            return; // sealing is the last change
        }
        // SAFETY: under the lock, and not sealed.
        unsafe { context::publish() }; // the last of them may not be known
        (self.first, self.last, self.taken, self.left) = (0, 0, 0, 0);
        self.buckets = [0; BUCKETS];
        for (index, context) in (0..).zip(self.contexts()) {
            let (state, is_running) = (context.load_state(), context.running() != 0);
            let (Some(next), Some(uses), Some(may_be_lost), Some(name)) = (
                self.next.get_mut(index as usize),
                self.uses.get_mut(index as usize),
                self.may_be_lost.get_mut(index as usize),
                self.names.get_mut(index as usize),
            ) else {
                return;
            };
            *may_be_lost = is_running;
            self.some_may_be_lost |= is_running;
            self.taken += 1;
            if state.is_live() {
                *next = 0;
                if *uses > 0 {
                    if let Some(first) = self.buckets.get_mut(bucket_of(context.target(), state.shape)) {
                        *next = core::mem::replace(first, index + 1);
                    }
                }
                continue;
            }
            *uses = 0;
            *name = Name::NONE; // it may have been written in half
            if is_running {
                if *next == LEFT {
                    self.left += 1;
                } else {
                    *next = CLOSED;
                }
            } else {
                if let Some(last) = state.generation.checked_sub(1) {
                    context.end_calls(last); // if it has not been done
                }
                self.rest(index, context);
            }
        }
    }

    #[inline]
    pub(crate) fn context(&self, index: u32) -> Option<&'static Context> {
        self.contexts().get(index as usize)
    }

    /// The next slot in a chain, as index + 1.
    #[inline]
    fn next(&mut self, index: u32) -> Option<&mut u32> {
        self.next.get_mut(index as usize)
    }

    pub(crate) fn seal(&mut self) -> Result<Range<*const u8>, Error> {
        let is_counted = |context: &Context| context.load_state().shape & STATE_COUNTED != 0 || context.running() != 0;
        // Of a sealed table nothing is counted, and its pages may be read-only.
        let contexts = if context::is_sealed() { &[] } else { self.contexts() };
        match contexts.iter().position(is_counted) {
            Some(slot) => Err(Error::Counted { slot }),
            None => Ok(context::seal()),
        }
    }

    /// Takes the free slot that has been free for the longest time: one that was never taken, as long as there is one.
    #[inline]
    fn take(&mut self) -> Option<u32> {
        // SAFETY: under the lock; `bind` has seen that the table is not sealed.
        if let Some(index) = unsafe { context::make() } {
            return Some(index as u32);
        }
        if self.first == 0 {
            self.collect();
        }
        let index = self.first.checked_sub(1)?;
        self.first = core::mem::take(self.next(index)?);
        if self.first == 0 {
            self.last = 0;
        }
        Some(index)
    }

    #[inline]
    pub(crate) fn bind(
        &mut self,
        binding: &Binding,
        shape: usize,
        tell: impl FnOnce(SlotId),
    ) -> Result<SlotKey, Error> {
        check_open()?;
        let Some(index) = self.take() else { return Err(self.full()) };
        let Some(context) = self.context(index) else { return Err(self.full()) };
        self.taken += 1;
        tell(SlotId { index, generation: context.load_state().generation });
        Ok(SlotKey(self.open(index, context, binding, shape)))
    }

    /// Makes a slot live that is nobody else's, and of which no call is running.
    #[inline]
    fn open(&mut self, index: u32, context: &Context, binding: &Binding, shape: usize) -> SlotId {
        if self.some_may_be_lost {
            if let Some(may_be_lost) = self.may_be_lost.get_mut(index as usize) {
                *may_be_lost = false;
            }
        }
        if shape & STATE_CONTAIN != 0 {
            context::contexts().set_unwinder(binding.unwind);
        }
        if let Some(name) = self.names.get_mut(index as usize) {
            *name = binding.name;
        }
        context.open(binding.target(), shape);
        SlotId { index, generation: context.load_state().generation }
    }

    #[inline]
    pub(crate) fn share(&mut self, binding: &Binding, shape: usize) -> Result<SlotKey, Error> {
        check_open()?;
        let bucket = bucket_of(binding.target(), shape);
        let mut next = self.buckets.get(bucket).copied().unwrap_or_default();
        while let Some(index) = next.checked_sub(1) {
            let Some(context) = self.context(index) else { return Err(self.full()) };
            let state = context.load_state();
            if state.shape == shape && context.target() == binding.target() {
                let Some(uses) = self.uses.get_mut(index as usize) else { return Err(self.full()) };
                *uses = uses.checked_add(1).ok_or(Error::TooManyUses)?;
                return Ok(SlotKey(SlotId { index, generation: state.generation }));
            }
            next = self.next(index).copied().unwrap_or_default();
        }
        let key = self.bind(binding, shape, |_| ())?;
        let SlotId { index, .. } = key.0;
        if let (Some(next), Some(uses), Some(first)) =
            (self.next.get_mut(key.index()), self.uses.get_mut(key.index()), self.buckets.get_mut(bucket))
        {
            *next = *first;
            *first = index + 1;
            *uses = 1;
        }
        Ok(key)
    }

    #[inline]
    pub(crate) fn release(&mut self, slot: SlotId) -> Result<(), ReleaseError> {
        if let Some(context) = self.end(slot)? {
            self.rest(slot.index, context);
        }
        Ok(())
    }

    /// How many releases a live registration takes, 0 if it is not shared; none if it is not live, or nothing may
    /// change.
    #[inline]
    fn uses_of(&mut self, slot: SlotId) -> Option<&mut u32> {
        if context::is_sealed() {
            return None;
        }
        let state = self.context(slot.index)?.load_state();
        (state.is_live() && state.generation == slot.generation).then_some(self.uses.get_mut(slot.index())?)
    }

    /// Ends one use, with the last one the registration, and the counting of its calls: then the slot is nobody's, and
    /// is to be released or rebound. While calls are running, this is to be called again.
    #[inline]
    pub(crate) fn end(&mut self, slot: SlotId) -> Result<Option<&'static Context>, ReleaseError> {
        if context::is_sealed() {
            return Err(ReleaseError::Sealed);
        }
        let context = self.context(slot.index).ok_or(ReleaseError::NotLive)?;
        let uses = self.uses.get_mut(slot.index()).ok_or(ReleaseError::NotLive)?;
        let state = context.load_state();
        if state.is_live() && state.generation == slot.generation {
            if *uses > 1 {
                *uses -= 1;
                return Ok(None);
            }
            if *uses == 1 {
                *uses = 0;
                self.unchain(slot.index, context, state.shape);
            }
            *self.next(slot.index).ok_or(ReleaseError::NotLive)? = CLOSED;
            context.close(state);
        } else if state.is_live()
            || state.generation != slot.generation.wrapping_add(1)
            || self.next(slot.index).copied() != Some(CLOSED)
        {
            return Err(ReleaseError::NotLive);
        }
        if !context.end_calls(slot.generation) {
            return Err(ReleaseError::InFlight);
        }
        Ok(Some(context))
    }

    /// Ends a registration, and makes another one of the same slot: its entry stays what foreign code calls.
    pub(crate) fn rebind(&mut self, slot: SlotId, binding: &Binding, shape: usize) -> Result<SlotId, RebindError> {
        if let Some(&mut uses @ 2..) = self.uses_of(slot) {
            return Err(RebindError::Shared { uses });
        }
        if slot.generation + 1 == LAST_GENERATION {
            return Err(RebindError::UsedUp);
        }
        let context = self.end(slot)?.ok_or(ReleaseError::NotLive)?;
        if let Some(next) = self.next(slot.index) {
            *next = 0;
        }
        Ok(self.open(slot.index, context, binding, shape))
    }

    /// Takes a shared slot out of its bucket's chain.
    #[inline]
    fn unchain(&mut self, index: u32, context: &Context, shape: usize) {
        let bucket = bucket_of(context.target(), shape);
        let after = self.next(index).copied().unwrap_or_default();
        let Some(mut next) = self.buckets.get_mut(bucket) else { return };
        while let Some(before) = next.checked_sub(1) {
            if before == index {
                *next = after;
                return;
            }
            let Some(of_before) = self.next.get_mut(before as usize) else { return };
            next = of_before;
        }
    }

    /// Puts a slot at the end of the line of free ones, unless its generations are used up: then it stays released for
    /// ever, so that no old caller or key takes a later registration for its own.
    #[inline]
    fn rest(&mut self, index: u32, context: &Context) {
        self.taken -= 1;
        if let Some(next) = self.next(index) {
            *next = 0;
        }
        if context.load_state().generation == LAST_GENERATION {
            return;
        }
        match self.last.checked_sub(1).and_then(|last| self.next(last)) {
            Some(last) => *last = index + 1,
            None => self.first = index + 1,
        }
        self.last = index + 1;
    }

    /// Ends a live registration from within a call of it, and leaves it: no other call enters, and the slot is free
    /// when those that have entered have ended. It must be tracked, and not exclusive: an exclusive call puts the
    /// number of calls back with the generation that it has found.
    #[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "closures that are called once are in boxes"))]
    pub(crate) fn leave(&mut self, slot: SlotId) -> Result<(), ReleaseError> {
        self.uses_of(slot).ok_or(ReleaseError::NotLive)?;
        let context = self.context(slot.index).ok_or(ReleaseError::NotLive)?;
        *self.next(slot.index).ok_or(ReleaseError::NotLive)? = LEFT;
        self.left += 1;
        context.close(context.load_state());
        context.leave_calls();
        Ok(())
    }

    /// Frees the slot of a registration that was left, when it has ended.
    #[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "as above"))]
    pub(crate) fn end_left(&mut self, slot: SlotId) -> Result<(), ReleaseError> {
        let Some(context) = self.context(slot.index) else { return Ok(()) };
        let is_left = self.next(slot.index).is_some_and(|next| *next == LEFT);
        if !is_left || context.load_state().generation != slot.generation + 1 {
            return Ok(()); // long ago
        }
        if !context.end_calls(slot.generation) {
            return Err(ReleaseError::InFlight);
        }
        self.left -= 1;
        self.rest(slot.index, context);
        Ok(())
    }

    /// Frees whatever was left and has ended.
    fn collect(&mut self) {
        if self.left == 0 {
            return;
        }
        for (index, context) in (0..).zip(self.contexts()) {
            if let Some(generation) = context.load_state().generation.checked_sub(1) {
                _ = self.end_left(SlotId { index, generation });
            }
        }
    }

    /// The number of slots that are live, or released and waiting for calls.
    pub(crate) fn count_taken(&mut self) -> usize {
        self.collect();
        self.taken as usize
    }

    /// What a live slot is registered with, its shape apart.
    pub(crate) fn binding(&self, slot: SlotId, unwind: *mut ()) -> Option<(Binding, usize)> {
        let context = self.context(slot.index)?;
        let (state, Target { handler, data, cleanup }) = (context.load_state(), context.target());
        let shape = Shape { positions: 0, flags: 0, cleanup };
        let name = *self.names.get(slot.index())?;
        let binding = Binding { handler, data, convention: Convention::NATIVE, shape, flags: 0, unwind, name };
        (state.is_live() && state.generation == slot.generation).then_some((binding, state.shape))
    }

    pub(crate) fn live_slot(&self, index: usize) -> Option<LiveSlot> {
        let context = self.contexts().get(index)?;
        let state = context.load_state();
        let Target { handler, data, .. } = context.target();
        state.is_live().then(|| LiveSlot {
            slot: SlotId { index: index as u32, generation: state.generation },
            handler,
            data,
            uses: self.uses.get(index).copied().unwrap_or_default(),
            in_flight: (state.shape & STATE_COUNTED != 0).then(|| context.running()),
            name: self.name(index),
        })
    }

    /// Why there is no slot.
    #[cold]
    fn full(&mut self) -> Error {
        Error::TableFull { users: self.users() }
    }

    /// Who has the slots that are live, or wait for running calls.
    pub(crate) fn users(&mut self) -> Users {
        self.collect();
        if !cfg!(feature = "names") {
            return Users::unnamed_alone(self.taken);
        }
        let slots = self.contexts().iter().zip(&self.next).zip(&self.names);
        let taken =
            slots.filter(|((context, next), _)| context.load_state().is_live() || matches!(**next, CLOSED | LEFT));
        Users::of(taken.map(|(_, name)| name.get()))
    }

    fn name(&self, index: usize) -> Option<&'static str> {
        self.names.get(index)?.get()
    }
}

/// What the registration is called whose call has been refused, if that can be told without waiting for the lock. It is
/// the slot's last one; but if that is live, and not what refused the call, the call was one of another.
pub(crate) fn try_name(index: usize, is_its_own: bool) -> Option<&'static str> {
    if !cfg!(feature = "names") {
        return None;
    }
    let registry = try_lock()?;
    let is_live = registry.contexts().get(index)?.load_state().is_live();
    if is_live && !is_its_own { None } else { registry.name(index) }
}

/// Multiplicative hashing: the high bits of a product depend on all bits of the factors.
#[inline]
fn bucket_of(target: Target, shape: usize) -> usize {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (handler, data) = (target.handler.addr() as u64, target.data.addr() as u64);
    let key = handler.wrapping_mul(FACTOR) ^ data ^ ((shape as u64) << 48);
    (key.wrapping_mul(FACTOR) >> 32) as usize % BUCKETS
}
