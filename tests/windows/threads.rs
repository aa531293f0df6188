//! Callbacks on threads that Windows makes, in thread pools, as asynchronous procedure calls, on fibers, and when a
//! thread ends.

use std::ffi::c_void;
use std::ptr::{null, null_mut, without_provenance, without_provenance_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(feature = "alloc")]
use calltable::table;
use calltable::{Callback, FunctionPointer, NotReleased, Options, ReleaseError};
use windows_sys::Win32::Foundation::{CloseHandle, FILETIME, WAIT_IO_COMPLETION, WAIT_OBJECT_0};
use windows_sys::Win32::System::Threading::*;

use crate::c_side::{Unary, caller};

/// How long to wait for others on a machine that may be busy, in milliseconds.
pub const PATIENCE: u32 = 200_000;

type Start = unsafe extern "system" fn(*mut c_void) -> u32;

/// Runs a thread from its start to its end; returns its exit code.
///
/// The code pointer must be that of a callback which lives.
pub fn run_thread(start: Start, parameter: usize) -> u32 {
    let mut code = 0;
    // SAFETY: the thread has ended when this returns.
    unsafe {
        let thread = CreateThread(null(), 0, Some(start), without_provenance(parameter), 0, null_mut());
        assert!(!thread.is_null());
        assert_eq!(WaitForSingleObject(thread, PATIENCE), WAIT_OBJECT_0);
        assert_ne!(GetExitCodeThread(thread, &mut code), 0);
        CloseHandle(thread);
    }
    code
}

/// As [`Callback::try_release`], once no other test holds the table's lock.
fn try_release<F: FunctionPointer>(mut callback: Callback<'_, F>) -> Result<(), NotReleased<Callback<'_, F>>> {
    loop {
        match callback.try_release() {
            Err(NotReleased { handle, error: ReleaseError::Busy }) => callback = handle,
            ended => return ended,
        }
        thread::yield_now();
    }
}

#[test]
fn threads_that_start_in_a_callback() {
    let here = thread::current().id();
    let closure = |parameter: *mut c_void| {
        // A thread of its own, with Rust's thread-locals and all.
        assert_ne!(thread::current().id(), here);
        parameter.addr() as u32 * 3
    };
    let callback = Callback::<Start>::from_ref(&closure).unwrap();
    for number in 0..20 {
        assert_eq!(run_thread(callback.code(), number), number as u32 * 3);
    }
}

#[test]
fn a_thread_that_ends_in_a_handler_leaves_nothing_but_its_count() {
    let ending = |parameter: *mut c_void| {
        // SAFETY: nothing in the frames of this thread has to be dropped.
        unsafe { ExitThread(parameter.addr() as u32) }
    };
    let callback = Callback::<Start>::from_ref(&ending).unwrap();
    for number in 0..20 {
        assert_eq!(run_thread(callback.code(), number), number as u32);
    }
    assert!(try_release(callback).is_ok());
    let tracked = Callback::<Start>::from_ref_with(Options::new().tracked(), &ending).unwrap();
    assert_eq!(run_thread(tracked.code(), 3), 3);
    let NotReleased { handle: tracked, error } = try_release(tracked).unwrap_err();
    assert_eq!(error, ReleaseError::InFlight);
    std::mem::forget(tracked); // it would wait for ever
}

#[test]
fn many_threads_in_one_callback() {
    let sum = AtomicUsize::new(0);
    let closure = |parameter: *mut c_void| {
        sum.fetch_add(parameter.addr(), Ordering::Relaxed);
        0
    };
    let callback = Callback::<Start>::from_ref(&closure).unwrap();
    let start = |number: usize| {
        // SAFETY: joined below, before the callback ends.
        unsafe { CreateThread(null(), 0, Some(callback.code()), without_provenance(number), 0, null_mut()) }
    };
    let threads: Vec<_> = (1..=16).map(start).collect();
    // SAFETY: they are the threads' handles.
    unsafe {
        assert_eq!(WaitForMultipleObjects(16, threads.as_ptr(), 1, PATIENCE), WAIT_OBJECT_0);
        threads.iter().for_each(|thread| assert_ne!(CloseHandle(*thread), 0));
    }
    assert_eq!(sum.load(Ordering::Relaxed), 136);
}

#[test]
fn thread_pool_work() {
    type Work = unsafe extern "system" fn(PTP_CALLBACK_INSTANCE, *mut c_void, PTP_WORK);
    let (calls, mine) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let closure = |_: PTP_CALLBACK_INSTANCE, context: *mut c_void, work: PTP_WORK| {
        calls.fetch_add(context.addr(), Ordering::Relaxed);
        mine.store(work as usize, Ordering::Relaxed);
    };
    let callback = Callback::<Work>::from_ref(&closure).unwrap();
    // SAFETY: the pool is done with the work before the callback ends.
    unsafe {
        let work = CreateThreadpoolWork(Some(callback.code()), without_provenance_mut(3), null());
        assert_ne!(work, 0);
        (0..100).for_each(|_| SubmitThreadpoolWork(work));
        WaitForThreadpoolWorkCallbacks(work, 0);
        assert_eq!(mine.load(Ordering::Relaxed), work as usize);
        CloseThreadpoolWork(work);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 300);
}

#[test]
fn thread_pool_timer() {
    type Timer = unsafe extern "system" fn(PTP_CALLBACK_INSTANCE, *mut c_void, PTP_TIMER);
    let ticks = AtomicUsize::new(0);
    let closure = |_: PTP_CALLBACK_INSTANCE, context: *mut c_void, _: PTP_TIMER| {
        ticks.fetch_add(context.addr(), Ordering::Relaxed);
    };
    let callback = Callback::<Timer>::from_ref(&closure).unwrap();
    // SAFETY: the timer is stopped and its calls are waited for before the callback ends.
    unsafe {
        let timer = CreateThreadpoolTimer(Some(callback.code()), without_provenance_mut(5), null());
        assert_ne!(timer, 0);
        let at_once = FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 };
        SetThreadpoolTimer(timer, &at_once, 10, 0);
        let end = Instant::now() + Duration::from_millis(PATIENCE.into());
        while ticks.load(Ordering::Relaxed) < 15 {
            assert!(Instant::now() < end, "the timer does not tick");
            thread::sleep(Duration::from_millis(5));
        }
        SetThreadpoolTimer(timer, null(), 0, 0);
        WaitForThreadpoolTimerCallbacks(timer, 1);
        CloseThreadpoolTimer(timer);
    }
    assert_eq!(ticks.load(Ordering::Relaxed) % 5, 0);
}

#[test]
fn asynchronous_procedure_calls() {
    type Apc = unsafe extern "system" fn(usize);
    let seen = Mutex::new(Vec::new());
    let closure = |data: usize| seen.lock().unwrap().push((data, thread::current().id()));
    let callback = Callback::<Apc>::from_ref(&closure).unwrap();
    // SAFETY: the calls are run by this thread's sleep, while the callback lives.
    unsafe {
        for data in 0..4 {
            assert_ne!(QueueUserAPC(Some(callback.code()), GetCurrentThread(), data), 0);
        }
        assert!(seen.lock().unwrap().is_empty(), "they wait until the thread does");
        assert_eq!(SleepEx(PATIENCE, 1), WAIT_IO_COMPLETION);
    }
    drop(callback);
    let here = thread::current().id();
    let mut seen = seen.into_inner().unwrap();
    seen.sort_by_key(|(data, _)| *data); // Wine 8 begins with the last one in 32-bit programs
    assert_eq!(seen, [(0, here), (1, here), (2, here), (3, here)]);
}

type FiberStart = unsafe extern "system" fn(*mut c_void);

/// Runs `work` on a thread that is a fiber, with that fiber's address.
fn as_fiber(work: impl FnOnce(*mut c_void) + Send) {
    thread::scope(|scope| {
        let run = || {
            // SAFETY: this thread is new, and not yet a fiber.
            let main = unsafe { ConvertThreadToFiber(null()) };
            assert!(!main.is_null());
            work(main);
            // SAFETY: it is a fiber now.
            assert_ne!(unsafe { ConvertFiberToThread() }, 0);
        };
        scope.spawn(run);
    });
}

#[test]
fn a_fiber_that_starts_in_a_callback() {
    as_fiber(|main| {
        let (main, rounds) = (main.addr(), AtomicUsize::new(0));
        let closure = |parameter: *mut c_void| {
            loop {
                rounds.fetch_add(parameter.addr(), Ordering::Relaxed);
                // SAFETY: the main fiber waits in its own switch.
                unsafe { SwitchToFiber(without_provenance(main)) };
            }
        };
        let run = |callback: &Callback<FiberStart>| {
            // SAFETY: the fiber is deleted, on its own stack, before the callback ends.
            unsafe {
                let fiber = CreateFiber(0, Some(callback.code()), without_provenance(7));
                assert!(!fiber.is_null());
                (0..5).for_each(|_| SwitchToFiber(fiber));
                DeleteFiber(fiber);
            }
        };
        let callback = Callback::<FiberStart>::from_ref(&closure).unwrap();
        run(&callback);
        assert_eq!(rounds.load(Ordering::Relaxed), 35);
        assert!(try_release(callback).is_ok());
        // A call that never returns is counted for ever.
        let tracked = Callback::<FiberStart>::from_ref_with(Options::new().tracked(), &closure).unwrap();
        run(&tracked);
        let NotReleased { handle: tracked, error } = try_release(tracked).unwrap_err();
        assert_eq!(error, ReleaseError::InFlight);
        std::mem::forget(tracked);
    });
}

/// While a call is running on one stack, its handler goes to another and comes back; both stacks call through the table
/// meanwhile.
#[test]
fn a_handler_that_switches_to_another_fiber_and_back() {
    let repeat = caller("repeat", "O2");
    as_fiber(|main| {
        let (main, other, visits) = (main.addr(), AtomicUsize::new(0), AtomicUsize::new(0));
        let switch_and_double = |value: isize| {
            // SAFETY: whichever of the two fibers runs, the other waits in its own switch.
            unsafe { SwitchToFiber(without_provenance(other.load(Ordering::Relaxed))) };
            value * 2
        };
        let switching = Callback::<Unary>::from_ref(&switch_and_double).unwrap();
        let back = |value: isize| {
            visits.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the main fiber waits in its switch, inside `switching`.
            unsafe { SwitchToFiber(without_provenance(main)) };
            value
        };
        let back = Callback::<Unary>::from_ref(&back).unwrap();
        let fiber_main = |_: *mut c_void| {
            // SAFETY: the callback lives; the fiber is deleted in the middle of this.
            unsafe { repeat(back.code(), isize::MAX) };
        };
        let start = Callback::<FiberStart>::from_ref(&fiber_main).unwrap();
        // SAFETY: the fiber is deleted before the callbacks end.
        unsafe {
            let fiber = CreateFiber(0, Some(start.code()), null());
            assert!(!fiber.is_null());
            other.store(fiber.addr(), Ordering::Relaxed);
            assert_eq!(repeat(switching.code(), 100), 9900);
            DeleteFiber(fiber);
        }
        assert_eq!(visits.load(Ordering::Relaxed), 100);
    });
}

#[test]
fn the_destructor_of_fiber_local_storage() {
    type Destructor = unsafe extern "system" fn(*const c_void);
    let destroyed = Mutex::new(Vec::new());
    let closure = |value: *const c_void| destroyed.lock().unwrap().push(value.addr());
    let callback = Callback::<Destructor>::from_ref(&closure).unwrap();
    // SAFETY: the index is freed before the callback ends.
    let index = unsafe { FlsAlloc(Some(callback.code())) };
    assert_ne!(index, FLS_OUT_OF_INDEXES);
    for value in [11, 22] {
        let set = move || {
            // SAFETY: the index lives.
            assert_ne!(unsafe { FlsSetValue(index, without_provenance(value)) }, 0);
        };
        thread::spawn(set).join().unwrap();
    }
    assert_eq!(*destroyed.lock().unwrap(), [11, 22], "run when the thread ends");
    // SAFETY: the index lives, until it is freed.
    unsafe {
        FlsSetValue(index, without_provenance(33));
        assert_ne!(FlsFree(index), 0);
    }
    assert_eq!(*destroyed.lock().unwrap(), [11, 22, 33]);
}

/// What the system calls once takes its closure along, and gives the slot back: a thread, an APC, work for the pool.
#[cfg(feature = "alloc")]
#[test]
fn closures_that_are_called_once() {
    type Routine = Option<unsafe extern "system" fn(usize)>;
    let (sender, receiver) = std::sync::mpsc::channel();
    let live = |slot| table::list().any(|live| live.slot == slot);

    let to_thread = sender.clone();
    let thread = Callback::<LPTHREAD_START_ROUTINE>::once(move |_| to_thread.send("thread").map_or(1, |()| 0)).unwrap();
    let to_routine = sender.clone();
    let routine = Callback::<Routine>::once(move |_| to_routine.send("routine").unwrap()).unwrap();
    let work = Callback::<PTP_SIMPLE_CALLBACK>::once(move |_, _| sender.send("work").unwrap()).unwrap();
    let slots = [thread.slot(), routine.slot(), work.slot()];
    assert!(slots.into_iter().all(live));
    // SAFETY: each is called once, and the handles are our own.
    unsafe {
        let thread = CreateThread(null(), 0, thread.into_code(), null(), 0, null_mut());
        assert_eq!(WaitForSingleObject(thread, INFINITE), WAIT_OBJECT_0);
        CloseHandle(thread);
        assert_ne!(QueueUserAPC(routine.into_code(), GetCurrentThread(), 0), 0);
        assert_eq!(SleepEx(0, 1), WAIT_IO_COMPLETION);
        assert_ne!(TrySubmitThreadpoolCallback(work.into_code(), null_mut(), null()), 0);
    }
    // It ends when the closures have dropped their senders.
    assert_eq!(receiver.iter().collect::<Vec<_>>(), ["thread", "routine", "work"]);
    assert!(!slots.into_iter().any(live));
}
