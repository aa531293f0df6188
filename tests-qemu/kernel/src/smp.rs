//! The second processor: it runs what the first one gives it.

use core::hint::spin_loop;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::machine;

static IS_UP: AtomicBool = AtomicBool::new(false);
/// What the second processor is to run, a `fn()`; null when it has.
static WORK: AtomicPtr<()> = AtomicPtr::new(null_mut());

/// Starts the second processor, if there is one.
pub fn start() -> bool {
    machine::start_second(is_up)
}

/// Rust begins here on the second processor.
#[unsafe(no_mangle)]
extern "C" fn ap_main() -> ! {
    machine::start_on_second();
    crate::cases::seh::set_block(1);
    machine::allow_interrupts(true);
    IS_UP.store(true, Ordering::SeqCst);
    loop {
        let work = WORK.load(Ordering::SeqCst);
        if work.is_null() {
            spin_loop();
            continue;
        }
        // SAFETY: only `while_second_runs` stores.
        unsafe { core::mem::transmute::<*mut (), fn()>(work)() };
        WORK.store(null_mut(), Ordering::SeqCst);
    }
}

/// Has the second processor run `work` while this one runs `own`; returns when both are done.
pub fn while_second_runs<R>(work: fn(), own: impl FnOnce() -> R) -> R {
    WORK.store(work as *mut (), Ordering::SeqCst);
    let result = own();
    while is_busy() {
        spin_loop();
    }
    result
}

/// Whether there is a second processor.
pub fn is_up() -> bool {
    IS_UP.load(Ordering::SeqCst)
}

/// Whether the second processor is still at it.
pub fn is_busy() -> bool {
    !WORK.load(Ordering::SeqCst).is_null()
}
