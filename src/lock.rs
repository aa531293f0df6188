//! The lock of the registry, and what becomes of it when its holder is gone.
//!
//! A thread that holds the lock gives it back some dozens of instructions later, unless it ends meanwhile. It ends
//! without asking in two ways that a program may take and still use the table:
//!
//! - On Windows `ExitProcess` ends all other threads wherever they are, and then DLLs and static destructors release
//!   their callbacks.
//! - A child of `fork` has one thread, and a copy of a lock that another one held.
//!
//! In both the lock is taken from the holder that is gone, if there was one. What it guards may be in the middle of any
//! change then, so it is made anew first.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use spin::mutex::{SpinMutex, SpinMutexGuard};

use crate::platform::{self, Wait};

/// What a lock guards.
pub(crate) trait Recover {
    /// Makes it anew, from whatever state.
    fn recover(&mut self);
    /// Notes that it is a copy of another process's, whose threads are not here.
    fn inherit(&mut self);
}

#[repr(C)] // with the first of the contents on one page: a process's first use has to touch that alone
pub(crate) struct Lock<T> {
    /// Some process has used it; a child of `fork` finds that its parent has.
    is_used: AtomicBool,
    inner: SpinMutex<T>,
}

/// What the process's mark says; 0 before the first use.
const STARTING: u32 = 1;
const READY: u32 = 2;

impl<T: Recover> Lock<T> {
    pub(crate) const fn new(contents: T) -> Self {
        Self { is_used: AtomicBool::new(false), inner: SpinMutex::new(contents) }
    }

    /// Waits for it.
    #[inline]
    pub(crate) fn lock(&self) -> SpinMutexGuard<'_, T> {
        let mut wait = Wait::new();
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            wait.pause();
        }
    }

    /// Takes it if it is free.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<SpinMutexGuard<'_, T>> {
        if !self.is_ready() {
            return None;
        }
        let guard = self.inner.try_lock();
        if guard.is_none() && platform::is_ending() {
            // SAFETY: no other thread exists any more.
            unsafe { self.recover() };
            return self.inner.try_lock();
        }
        guard
    }

    /// Whether this process may take the lock: at its first use, what it may have from the process that it is a copy of
    /// must be looked at, by one thread.
    #[inline]
    fn is_ready(&self) -> bool {
        let Some(mark) = platform::process_mark() else { return true };
        // The first use writes the mark without reading it before: each would touch its page anew.
        (self.is_used.load(Ordering::Relaxed) && mark.load(Ordering::Acquire) == READY) || self.becomes_ready(mark)
    }

    #[cold]
    fn becomes_ready(&self, mark: &AtomicU32) -> bool {
        // Before the mark is set: or a child made in between would wait for a thread that it has not.
        platform::forget_mark_in_children();
        if mark.compare_exchange(0, STARTING, Ordering::Acquire, Ordering::Acquire).is_ok() {
            if self.is_used.swap(true, Ordering::Relaxed) {
                match self.inner.try_lock() {
                    Some(mut contents) => contents.inherit(),
                    // SAFETY: a copy of another process; no thread of this one has come further than here.
                    None => unsafe { self.recover() },
                }
            }
            mark.store(READY, Ordering::Release);
        }
        mark.load(Ordering::Acquire) == READY
    }

    /// # Safety
    /// No thread of this process may hold the lock or take it meanwhile.
    unsafe fn recover(&self) {
        // SAFETY: by the caller's promise nobody else has a reference. Whatever store was the last one, `recover` makes
        // anew what is not whole, before anybody reads it; the lock is given back last, in case that this thread ends,
        // too.
        unsafe {
            (*self.inner.as_mut_ptr()).recover();
            self.inner.force_unlock();
        }
    }
}
