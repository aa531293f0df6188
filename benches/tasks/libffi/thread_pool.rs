//! Work for the system's thread pool.

use std::ffi::c_void;
use std::mem::transmute;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use libffi::high::Closure3;
use windows_sys::Win32::System::Threading::*;

type Handler = Box<dyn Fn(PTP_CALLBACK_INSTANCE, *mut c_void, PTP_WORK) + Send + Sync>;

struct Work {
    handle: PTP_WORK,
    _callback: Closure3<'static, PTP_CALLBACK_INSTANCE, *mut c_void, PTP_WORK, ()>,
    _handler: Arc<Handler>, // dropped after what borrows it
}

impl Work {
    /// Adds up the numbers, one in each call.
    fn new(numbers: Vec<u32>, sum: Arc<AtomicU32>) -> Self {
        let numbers = Mutex::new(numbers);
        // Any thread, and several at once: what it captures is `Send` and `Sync`, which `Handler` says.
        let handler: Arc<Handler> = Arc::new(Box::new(move |_instance, _context, _work| {
            let number = numbers.lock().unwrap().pop().unwrap_or_default();
            sum.fetch_add(number, Ordering::Relaxed);
        }));
        // SAFETY: it stays where it is, and is dropped last.
        let callback = Closure3::new(unsafe { &*Arc::as_ptr(&handler) });
        // SAFETY: on x86_64 "system" is the same as "C".
        let code: PTP_WORK_CALLBACK = unsafe { transmute(*callback.code_ptr()) };
        // SAFETY: the callback lives until no call runs or will begin.
        let handle = unsafe { CreateThreadpoolWork(code, null_mut(), null()) };
        Self { handle, _callback: callback, _handler: handler }
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
