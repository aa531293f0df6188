//! Critical sections and condition variables, which several threads of a DLL may use.
//!
//! A `CRITICAL_SECTION` has 40 bytes, and so has a mutex of Linux's C library: the one is put in the other's place.
//! A `CONDITION_VARIABLE` has room for a pointer.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering::Relaxed, Ordering::SeqCst};

use crate::address::Address;
use crate::thread::LAST_ERROR;

/// "RTL_CRITICAL_SECTION" of winnt.h.
const SECTION_BYTES: usize = 40;
const _: () = assert!(size_of::<libc::pthread_mutex_t>() <= SECTION_BYTES);
const _: () = assert!(align_of::<libc::pthread_mutex_t>() <= 8);

const INFINITE: u32 = u32::MAX;
const ERROR_TIMEOUT: u32 = 1460;

/// What the DLL has of them.
#[derive(Default)]
pub struct Locks {
    /// Created less deleted.
    pub sections: AtomicI32,
    /// Entered less left, the C runtime's locks, too.
    pub held: AtomicI32,
}

impl Locks {
    pub fn create(&self, section: Address) {
        self.sections.fetch_add(1, Relaxed);
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the DLL passes the place of a critical section, aligned to 8 bytes, that nobody uses yet.
        unsafe {
            libc::pthread_mutexattr_init(attributes.as_mut_ptr());
            libc::pthread_mutexattr_settype(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_RECURSIVE);
            libc::pthread_mutex_init(section.cast(), attributes.as_ptr());
        }
    }

    pub fn delete(&self, section: Address) {
        self.sections.fetch_sub(1, Relaxed);
        // SAFETY: the DLL passes one that it has created, and that nobody uses any more.
        unsafe { libc::pthread_mutex_destroy(section.cast()) };
    }

    pub fn enter(&self, section: Address) {
        // SAFETY: the DLL passes one that it has created.
        unsafe { libc::pthread_mutex_lock(section.cast()) };
        self.held.fetch_add(1, Relaxed);
    }

    pub fn try_enter(&self, section: Address) -> bool {
        // SAFETY: as above.
        let is_entered = unsafe { libc::pthread_mutex_trylock(section.cast()) } == 0;
        self.held.fetch_add(is_entered.into(), Relaxed);
        is_entered
    }

    pub fn leave(&self, section: Address) {
        self.held.fetch_sub(1, Relaxed);
        // SAFETY: as above, and this thread has entered it.
        unsafe { libc::pthread_mutex_unlock(section.cast()) };
    }
}

/// One that is made when it is first used: Windows has no function that deletes it, so it stays.
fn condition(variable: Address) -> *mut libc::pthread_cond_t {
    // SAFETY: the DLL passes the place of such a variable, which starts as null.
    let place = unsafe { &*variable.cast::<AtomicPtr<libc::pthread_cond_t>>() };
    let known = place.load(SeqCst);
    if !known.is_null() {
        return known;
    }
    let made = Box::into_raw(Box::new(libc::PTHREAD_COND_INITIALIZER));
    match place.compare_exchange(known, made, SeqCst, SeqCst) {
        Ok(_) => made,
        Err(other) => {
            // SAFETY: another thread was faster, so nobody knows of this one.
            drop(unsafe { Box::from_raw(made) });
            other
        }
    }
}

/// "SleepConditionVariableCS".
pub fn wait(variable: Address, section: Address, milliseconds: u32) -> bool {
    let condition = condition(variable);
    let result = if milliseconds == INFINITE {
        // SAFETY: the condition stays, and this thread has entered the section, once.
        unsafe { libc::pthread_cond_wait(condition, section.cast()) }
    } else {
        let mut until = MaybeUninit::<libc::timespec>::uninit();
        // SAFETY: the clock is there, so the time is written; else as above.
        unsafe {
            libc::clock_gettime(libc::CLOCK_REALTIME, until.as_mut_ptr());
            let mut until = until.assume_init();
            let nanoseconds = until.tv_nsec + i64::from(milliseconds % 1000) * 1_000_000;
            until.tv_sec += i64::from(milliseconds / 1000) + nanoseconds / 1_000_000_000;
            until.tv_nsec = nanoseconds % 1_000_000_000;
            libc::pthread_cond_timedwait(condition, section.cast(), &until)
        }
    };
    if result != 0 {
        LAST_ERROR.set(ERROR_TIMEOUT);
    }
    result == 0
}

/// "WakeConditionVariable".
pub fn wake_one(variable: Address) {
    // SAFETY: the condition stays.
    unsafe { libc::pthread_cond_signal(condition(variable)) };
}

/// "WakeAllConditionVariable".
pub fn wake_all(variable: Address) {
    // SAFETY: the condition stays.
    unsafe { libc::pthread_cond_broadcast(condition(variable)) };
}
