//! Real threads: each scenario is run some thousand times.

use std::cell::UnsafeCell;
pub use std::sync::atomic::AtomicBool as Flag;
pub(crate) use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

/// Memory of the program's own: the tool complains if two threads use it at once.
#[derive(Default)]
pub struct Cell(UnsafeCell<usize>);

// SAFETY: not so; it is what the tests look for.
unsafe impl Sync for Cell {}
// SAFETY: a number.
unsafe impl Send for Cell {}

impl Cell {
    /// Reads.
    pub fn get(&self) -> usize {
        // SAFETY: if another thread writes, the tool says so.
        unsafe { self.0.get().read() }
    }

    /// Adds 1.
    pub fn increment(&self) {
        // SAFETY: as above.
        unsafe { *self.0.get() += 1 }
    }
}

/// Runs a scenario again and again, alone: the table is one for the whole program.
pub fn model(scenario: impl Fn() + Send + Sync + 'static) {
    static SERIAL: Mutex<()> = Mutex::new(());
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    (0..if cfg!(miri) { 8 } else { 3000 }).for_each(|_| scenario());
}

/// Looks at an element of a vector, which the tool sees anyway.
pub fn look_at<T>(_element: &T) {}

/// What the dispatcher does to an atomic, with the ordering that `processor` gives it.
pub mod raw {
    use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

    use crate::Weakness;

    /// What can be loaded.
    pub trait Load {
        /// What it holds.
        type Value;
        /// As `load` of `core`.
        fn load_with(&self, ordering: Ordering) -> Self::Value;
    }

    macro_rules! load {
        ($($atomic:ty: $value:ty),*) => { $(impl Load for $atomic {
            type Value = $value;
            fn load_with(&self, ordering: Ordering) -> $value {
                self.load(ordering)
            }
        })* };
    }
    load!(AtomicU32: u32, AtomicU64: u64, AtomicUsize: usize);

    impl<T> Load for AtomicPtr<T> {
        type Value = *mut T;
        fn load_with(&self, ordering: Ordering) -> *mut T {
            self.load(ordering)
        }
    }

    /// Writes.
    pub fn store(place: &AtomicU64, value: u64, ordering: Ordering) {
        place.store(value, ordering);
    }

    /// Compares and writes.
    pub fn exchange(place: &AtomicU64, current: u64, new: u64, success: Ordering) -> Result<u64, u64> {
        place.compare_exchange(current, new, success, Ordering::Relaxed)
    }

    /// Takes 1 off.
    pub fn decrement(place: &AtomicU64, ordering: Ordering) {
        place.fetch_sub(1, ordering);
    }

    /// Orders what has been read before everything after it.
    pub fn acquire() {
        std::sync::atomic::fence(Ordering::Acquire);
    }

    /// Nothing is weakened here.
    pub fn is_weak(_weakness: Weakness) -> bool {
        false
    }
}
