//! What the model checker sees.

use std::cell::{RefCell, UnsafeCell};
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, PoisonError};

pub use loom::sync::atomic::AtomicBool as Flag;
use loom::sync::atomic::AtomicU64 as Checked;

use crate::Weakness;

thread_local! {
    /// Loom's atomic for each of the component's, by address: the component's has the size that the layout wants, and
    /// can be made at compile time. Loom's is made when it is first used in an execution, with the value that is in
    /// memory and stays there. Loom runs all threads of an execution in one of the system's.
    static ATOMICS: RefCell<HashMap<usize, Rc<Checked>>> = RefCell::default();
    /// For each element of a vector, by address, memory that whoever makes the element writes, and others read.
    static ELEMENTS: RefCell<HashMap<usize, Rc<loom::cell::UnsafeCell<()>>>> = RefCell::default();
    static WEAKNESS: std::cell::Cell<Option<Weakness>> = const { std::cell::Cell::new(None) };
    /// A 0 that is stored too late.
    static DELAYED: RefCell<Option<Rc<Checked>>> = RefCell::default();
}

/// The number of the execution that runs.
static EXECUTION: AtomicUsize = AtomicUsize::new(0);

/// Tries the executions of a scenario in which a thread is interrupted up to four times, or `LOOM_MAX_PREEMPTIONS`.
pub fn model(scenario: impl Fn() + Send + Sync + 'static) {
    static SERIAL: Mutex<()> = Mutex::new(());
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(4);
    builder.check(move || {
        ATOMICS.with_borrow_mut(HashMap::clear);
        ELEMENTS.with_borrow_mut(HashMap::clear);
        EXECUTION.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
}

/// Runs something whose memory orderings are weaker than they are written.
pub fn weakened(weakness: Weakness, run: impl FnOnce()) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            WEAKNESS.set(None);
        }
    }
    WEAKNESS.set(Some(weakness));
    let _reset = Reset;
    run();
}

/// Whether orderings are weakened in this way.
pub fn is_weak(weakness: Weakness) -> bool {
    WEAKNESS.get() == Some(weakness)
}

/// Memory of the program's own: Loom complains if two threads use it at once.
#[derive(Default)]
pub struct Cell(loom::cell::UnsafeCell<usize>);

// SAFETY: not so; it is what the tests look for.
unsafe impl Sync for Cell {}
// SAFETY: a number.
unsafe impl Send for Cell {}

impl Cell {
    /// Reads.
    pub fn get(&self) -> usize {
        // SAFETY: if another thread writes, Loom has panicked.
        self.0.with(|number| unsafe { *number })
    }

    /// Adds 1.
    pub fn increment(&self) {
        // SAFETY: as above.
        self.0.with_mut(|number| unsafe { *number += 1 });
    }
}

/// `heapless::Vec`, empty at the start of each execution.
pub struct Vec<T, const N: usize> {
    execution: usize,
    length: usize,
    elements: [MaybeUninit<T>; N],
}

impl<T, const N: usize> Vec<T, N> {
    /// As in `heapless`.
    #[allow(clippy::new_without_default, reason = "nobody asks for it")]
    pub const fn new() -> Self {
        Self { execution: 0, length: 0, elements: [const { MaybeUninit::uninit() }; N] }
    }

    /// As in `heapless`.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// As in `heapless`.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// As in `heapless`.
    ///
    /// # Errors
    /// It is full.
    pub fn push(&mut self, element: T) -> Result<(), T> {
        let execution = EXECUTION.load(Ordering::Relaxed);
        if self.execution != execution {
            (self.execution, self.length) = (execution, 0);
        }
        let Some(place) = self.elements.get_mut(self.length) else { return Err(element) };
        let place = place.write(element);
        let memory = element_at((&raw const *place).addr());
        // SAFETY: nothing is written.
        memory.with_mut(|_| ());
        self.length += 1;
        Ok(())
    }

    /// As in `heapless`.
    pub fn as_slice(&self) -> &[T] {
        let length = if self.execution == EXECUTION.load(Ordering::Relaxed) { self.length } else { 0 };
        // SAFETY: so many were pushed.
        unsafe { std::slice::from_raw_parts(self.elements.as_ptr().cast(), length) }
    }
}

fn element_at(address: usize) -> Rc<loom::cell::UnsafeCell<()>> {
    ELEMENTS.with_borrow_mut(|elements| {
        Rc::clone(elements.entry(address).or_insert_with(|| Rc::new(loom::cell::UnsafeCell::new(()))))
    })
}

/// Looks at an element of a vector: Loom complains if it is not yet made, as far as this thread knows.
pub fn look_at<T>(element: &T) {
    element_at((&raw const *element).addr()).with(|_| ());
}

/// `core::hint`.
pub mod hint {
    /// Lets another thread run.
    pub fn spin_loop() {
        loom::thread::yield_now();
    }
}

/// `core::sync`.
pub mod sync {
    /// `core::sync::atomic`.
    pub mod atomic {
        pub use super::super::{Atomic, fence};
        pub use std::sync::atomic::Ordering;

        /// As in `core`.
        pub type AtomicBool = Atomic<bool>;
        /// As in `core`.
        pub type AtomicU32 = Atomic<u32>;
        /// As in `core`.
        pub type AtomicU64 = Atomic<u64>;
        /// As in `core`.
        pub type AtomicUsize = Atomic<usize>;
        /// As in `core`.
        pub type AtomicPtr<T> = Atomic<*mut T>;
    }
}

use sync::atomic::Ordering;

pub(crate) use sync::atomic::AtomicU64;

/// What an atomic can hold.
pub trait Word: Copy {
    /// As Loom keeps it.
    fn to_bits(self) -> u64;
    /// And back.
    fn from_bits(bits: u64) -> Self;
}

impl Word for bool {
    fn to_bits(self) -> u64 {
        self.into()
    }
    fn from_bits(bits: u64) -> Self {
        bits != 0
    }
}

impl Word for u32 {
    fn to_bits(self) -> u64 {
        self.into()
    }
    fn from_bits(bits: u64) -> Self {
        bits as u32
    }
}

impl Word for u64 {
    fn to_bits(self) -> u64 {
        self
    }
    fn from_bits(bits: u64) -> Self {
        bits
    }
}

impl Word for usize {
    fn to_bits(self) -> u64 {
        self as u64
    }
    fn from_bits(bits: u64) -> Self {
        bits as usize
    }
}

impl<T> Word for *mut T {
    fn to_bits(self) -> u64 {
        self.expose_provenance() as u64
    }
    fn from_bits(bits: u64) -> Self {
        std::ptr::with_exposed_provenance_mut(bits as usize)
    }
}

/// An atomic of the component.
#[repr(transparent)]
pub struct Atomic<T>(UnsafeCell<T>);

// SAFETY: what is shared is Loom's.
unsafe impl<T> Sync for Atomic<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Atomic<T> {}

impl<T: Word> Atomic<T> {
    /// As in `core`.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    fn checked(&self) -> Rc<Checked> {
        let address = (&raw const *self).addr();
        // SAFETY: nobody writes to this memory but who makes the atomic.
        let initial = || Rc::new(Checked::new(unsafe { *self.0.get() }.to_bits()));
        ATOMICS.with_borrow_mut(|atomics| Rc::clone(atomics.entry(address).or_insert_with(initial)))
    }

    /// As in `core`.
    pub fn load(&self, ordering: Ordering) -> T {
        T::from_bits(self.checked().load(ordering))
    }

    /// As in `core`.
    pub fn store(&self, value: T, ordering: Ordering) {
        let (checked, bits) = (self.checked(), value.to_bits());
        if is_weak(Weakness::UpperHalfFirst) && bits == 0 && size_of::<T>() == size_of::<u32>() {
            DELAYED.set(Some(checked));
            return;
        }
        let weak = is_weak(Weakness::Stores);
        checked.store(bits, if weak { Ordering::Relaxed } else { ordering });
        if let Some(delayed) = DELAYED.take() {
            delayed.store(0, Ordering::Release);
        }
    }
}

impl Atomic<u64> {
    /// As in `core`.
    pub fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        let success = if is_weak(Weakness::Exchanges) { Ordering::Relaxed } else { success };
        let failure = if is_weak(Weakness::Failures) { Ordering::Relaxed } else { failure };
        self.checked().compare_exchange(current, new, success, failure)
    }

    /// As in `core`.
    pub fn fetch_add(&self, number: u64, ordering: Ordering) -> u64 {
        self.checked().fetch_add(number, ordering)
    }

    /// As in `core`.
    pub fn fetch_sub(&self, number: u64, ordering: Ordering) -> u64 {
        self.checked().fetch_sub(number, ordering)
    }
}

/// As in `core`.
pub fn fence(ordering: Ordering) {
    match ordering {
        Ordering::Release if is_weak(Weakness::ReleaseFence) => {}
        _ => loom::sync::atomic::fence(ordering),
    }
}

/// What the dispatcher does to an atomic, with the ordering that `processor` gives it.
pub mod raw {
    pub use super::is_weak;
    use super::sync::atomic::{AtomicU64, Ordering};
    use super::{Atomic, Word};

    /// What can be loaded.
    pub trait Load {
        /// What it holds.
        type Value;
        /// As `load` of `core`.
        fn load_with(&self, ordering: Ordering) -> Self::Value;
    }

    impl<T: Word> Load for Atomic<T> {
        type Value = T;
        fn load_with(&self, ordering: Ordering) -> T {
            self.load(ordering)
        }
    }

    /// Writes.
    pub fn store(place: &AtomicU64, value: u64, ordering: Ordering) {
        place.checked().store(value, ordering);
    }

    /// Compares and writes.
    pub fn exchange(place: &AtomicU64, current: u64, new: u64, success: Ordering) -> Result<u64, u64> {
        place.checked().compare_exchange(current, new, success, Ordering::Relaxed)
    }

    /// Takes 1 off.
    pub fn decrement(place: &AtomicU64, ordering: Ordering) {
        place.checked().fetch_sub(1, ordering);
    }

    /// Orders what has been read before everything after it.
    pub fn acquire() {
        loom::sync::atomic::fence(Ordering::Acquire);
    }
}

/// `spin::mutex`.
pub mod mutex {
    use std::cell::UnsafeCell;
    use std::ops::{Deref, DerefMut};

    use super::{EXECUTION, Ordering};

    /// A lock whose contents are new in each execution.
    pub struct SpinMutex<T> {
        initial: T,
        current: UnsafeCell<Option<Current<T>>>,
    }

    struct Current<T> {
        execution: usize,
        lock: &'static loom::sync::Mutex<()>,
        contents: UnsafeCell<T>,
    }

    // SAFETY: Loom runs one thread at a time, and switches only in its own operations.
    unsafe impl<T> Sync for SpinMutex<T> {}

    /// Holds the lock.
    pub struct SpinMutexGuard<'a, T> {
        contents: &'a UnsafeCell<T>,
        _lock: loom::sync::MutexGuard<'a, ()>,
    }

    impl<T> SpinMutex<T> {
        /// As in `spin`.
        pub const fn new(initial: T) -> Self {
            Self { initial, current: UnsafeCell::new(None) }
        }

        fn current(&self) -> &Current<T> {
            let execution = EXECUTION.load(Ordering::Relaxed);
            // SAFETY: see `Sync`; the former execution's guards are gone. The contents are numbers and a reference, of
            // which there may be copies.
            unsafe {
                let current = &mut *self.current.get();
                if current.as_ref().is_none_or(|current| current.execution != execution) {
                    let contents = UnsafeCell::new(std::ptr::read(&self.initial));
                    let lock = Box::leak(Box::new(loom::sync::Mutex::new(())));
                    std::mem::forget(current.replace(Current { execution, lock, contents }));
                }
            }
            // SAFETY: as above.
            unsafe { (*self.current.get()).as_ref() }.expect("just set")
        }

        /// As in `spin`.
        pub fn lock(&self) -> SpinMutexGuard<'_, T> {
            let current = self.current();
            let lock = current.lock.lock().expect("Loom's are never poisoned");
            SpinMutexGuard { contents: &current.contents, _lock: lock }
        }

        /// As in `spin`.
        pub fn try_lock(&self) -> Option<SpinMutexGuard<'_, T>> {
            let current = self.current();
            Some(SpinMutexGuard { contents: &current.contents, _lock: current.lock.try_lock().ok()? })
        }
    }

    impl<T> Deref for SpinMutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            // SAFETY: the lock is held.
            unsafe { &*self.contents.get() }
        }
    }

    impl<T> DerefMut for SpinMutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            // SAFETY: the lock is held.
            unsafe { &mut *self.contents.get() }
        }
    }
}
