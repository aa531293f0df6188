//! Work for the system's thread pool.

use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use calltable::{Callback, Error};
use windows_sys::Win32::System::Threading::*;

struct Work {
    handle: PTP_WORK,
    _callback: Callback<'static, PTP_WORK_CALLBACK>,
}

impl Work {
    /// Adds up the numbers, one in each call.
    fn new(numbers: Vec<u32>, sum: Arc<AtomicU32>) -> Result<Self, Error> {
        let numbers = Mutex::new(numbers);
        // Any thread, and several at once: what it captures is `Send` and `Sync`, which `new` demands.
        let callback = Callback::<PTP_WORK_CALLBACK>::new(move |_instance, _context, _work| {
            let number = numbers.lock().unwrap().pop().unwrap_or_default();
            sum.fetch_add(number, Ordering::Relaxed);
        })?;
        // SAFETY: the callback lives until no call runs or will begin.
        let handle = unsafe { CreateThreadpoolWork(callback.code(), null_mut(), null()) };
        Ok(Self { handle, _callback: callback })
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

pub fn run() -> Result<(), Error> {
    let sum = Arc::new(AtomicU32::new(0));
    let work = Work::new(vec![1, 2, 3, 4], Arc::clone(&sum))?;
    for _ in 0..4 {
        // SAFETY: it exists.
        unsafe { SubmitThreadpoolWork(work.handle) };
    }
    drop(work);
    assert_eq!(sum.load(Ordering::Relaxed), 10);
    Ok(())
}
