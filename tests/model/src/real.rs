//! Real threads: each scenario is run some thousand times.

use std::cell::UnsafeCell;
pub use std::sync::atomic::AtomicBool as Flag;
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

/// How the processor orders what the dispatcher does.
pub mod x86 {
    use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

    /// What can be loaded.
    pub trait Load {
        /// What it holds.
        type Value;
        /// With the ordering of a MOV.
        fn acquire(&self) -> Self::Value;
    }

    macro_rules! load {
        ($($atomic:ty: $value:ty),*) => { $(impl Load for $atomic {
            type Value = $value;
            fn acquire(&self) -> $value {
                self.load(Ordering::Acquire)
            }
        })* };
    }
    load!(AtomicU32: u32, AtomicU64: u64, AtomicUsize: usize);

    impl<T> Load for AtomicPtr<T> {
        type Value = *mut T;
        fn acquire(&self) -> *mut T {
            self.load(Ordering::Acquire)
        }
    }

    /// A MOV from memory is an acquire load.
    pub fn load<T: Load>(place: &T) -> T::Value {
        place.acquire()
    }

    /// A MOV to memory is a release store.
    pub fn store(place: &AtomicU64, value: u64) {
        place.store(value, Ordering::Release);
    }

    /// LOCK CMPXCHG.
    pub fn locked_exchange(place: &AtomicU64, current: u64, new: u64) -> Result<u64, u64> {
        place.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    /// LOCK DEC.
    pub fn locked_decrement(place: &AtomicU64) {
        place.fetch_sub(1, Ordering::AcqRel);
    }
}
