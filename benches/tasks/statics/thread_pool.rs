//! Work for the system's thread pool, which hands its callbacks a pointer.

use std::ffi::c_void;
use std::ptr::null;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use windows_sys::Win32::System::Threading::*;

struct State {
    numbers: Mutex<Vec<u32>>,
    sum: Arc<AtomicU32>,
}

struct Work {
    handle: PTP_WORK,
    _state: Arc<State>,
}

unsafe extern "system" fn function(_instance: PTP_CALLBACK_INSTANCE, state: *mut c_void, _work: PTP_WORK) {
    // SAFETY: that is the pointer below; the state lives until no call runs or will begin.
    let State { numbers, sum } = unsafe { &*state.cast() };
    let number = numbers.lock().unwrap().pop().unwrap_or_default();
    sum.fetch_add(number, Ordering::Relaxed);
}

impl Work {
    /// Adds up the numbers, one in each call.
    fn new(numbers: Vec<u32>, sum: Arc<AtomicU32>) -> Self {
        let state = Arc::new(State { numbers: Mutex::new(numbers), sum });
        // SAFETY: any thread may use the state, which lives until no call runs or will begin.
        let handle = unsafe { CreateThreadpoolWork(Some(function), Arc::as_ptr(&state).cast_mut().cast(), null()) };
        Self { handle, _state: state }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe {
            WaitForThreadpoolWorkCallbacks(self.handle, 0); // 1 would cancel what has not begun
            CloseThreadpoolWork(self.handle);
        }
    }
}

pub fn run() {
    let sum = Arc::new(AtomicU32::new(0));
    let work = Work::new(vec![1, 2, 3, 4], Arc::clone(&sum));
    for _ in 0..4 {
        // SAFETY: it exists.
        unsafe { SubmitThreadpoolWork(work.handle) };
    }
    drop(work);
    assert_eq!(sum.load(Ordering::Relaxed), 10);
}
