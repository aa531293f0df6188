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

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;
    use std::thread;

    use super::*;

    /// A `CRITICAL_SECTION`, a `CONDITION_VARIABLE`, and a number that they guard.
    #[repr(align(8))]
    struct Shared {
        section: UnsafeCell<[u8; SECTION_BYTES]>,
        variable: UnsafeCell<usize>,
        number: UnsafeCell<u32>,
    }

    // SAFETY: the number is looked at in the section alone.
    unsafe impl Sync for Shared {}

    impl Shared {
        /// It stays where it is, as a section must.
        fn new(locks: &Locks) -> &'static Self {
            let (section, variable) = ([0; SECTION_BYTES].into(), UnsafeCell::new(0));
            let shared = Box::leak(Box::new(Self { section, variable, number: UnsafeCell::new(0) }));
            locks.create(shared.section());
            shared
        }

        fn section(&self) -> Address {
            Address::of(self.section.get())
        }

        fn variable(&self) -> Address {
            Address::of(self.variable.get())
        }

        /// To be called in the section.
        fn add_one(&self) -> u32 {
            // SAFETY: no other thread is in the section.
            unsafe {
                let number = self.number.get().read_volatile();
                self.number.get().write_volatile(number + 1);
                number + 1
            }
        }
    }

    #[test]
    fn one_thread_at_a_time_is_in_a_section() {
        const ROUNDS: u32 = 100_000;
        let locks = Locks::default();
        let shared = Shared::new(&locks);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        locks.enter(shared.section());
                        shared.add_one();
                        locks.leave(shared.section());
                    }
                });
            }
        });
        locks.enter(shared.section());
        assert_eq!(shared.add_one(), 2 * ROUNDS + 1);
        // The same thread may enter again, another one may not.
        assert!(locks.try_enter(shared.section()));
        thread::scope(|scope| scope.spawn(|| assert!(!locks.try_enter(shared.section()))).join().unwrap());
        assert_eq!(locks.held.load(Relaxed), 2);
        locks.leave(shared.section());
        locks.leave(shared.section());
        locks.delete(shared.section());
        assert_eq!((locks.held.load(Relaxed), locks.sections.load(Relaxed)), (0, 0));
    }

    #[test]
    fn a_thread_that_waits_is_woken_or_gives_up() {
        let locks = Locks::default();
        let shared = Shared::new(&locks);
        locks.enter(shared.section());
        assert!(!wait(shared.variable(), shared.section(), 1));
        assert_eq!(LAST_ERROR.get(), ERROR_TIMEOUT);
        thread::scope(|scope| {
            for wake in [wake_one, wake_all] {
                // SAFETY: this thread is in the section, but while it waits.
                let number = || unsafe { shared.number.get().read_volatile() };
                let before = number();
                let locks = &locks;
                scope.spawn(move || {
                    locks.enter(shared.section());
                    shared.add_one();
                    locks.leave(shared.section());
                    wake(shared.variable());
                });
                while number() == before {
                    assert!(wait(shared.variable(), shared.section(), INFINITE));
                }
            }
        });
        locks.leave(shared.section());
    }
}
