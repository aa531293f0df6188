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

/// How the processor orders what the dispatcher does.
pub mod x86 {
    use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};

    /// A MOV from memory is an acquire load.
    pub fn load(place: &AtomicUsize) -> usize {
        place.load(Ordering::Acquire)
    }

    /// The same of a pointer.
    pub fn load_pointer<T>(place: &AtomicPtr<T>) -> *mut T {
        place.load(Ordering::Acquire)
    }

    /// LOCK XADD, LOCK DEC: full barriers, which Rust's SeqCst is not.
    pub fn locked_add(place: &AtomicU32, number: u32) -> u32 {
        let before = place.fetch_add(number, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        before
    }
}
