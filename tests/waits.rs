//! Threads that wait for each other: for the table's lock, for calls to end; and those that would wait for ever.
//!
//! Children of `fork` are processes of this program whose other threads are gone.
#![cfg(any(target_os = "linux", windows))]
#![cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "children of `fork` are not tested in the emulator"))]

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use calltable::table::{self, Binding, CAPACITY};
use calltable::{Callback, Convention, NotReleased, Options, ReleaseError, Signature};

type Nullary = unsafe extern "efiapi" fn() -> isize;

/// One at a time: some tests fill the table.
static TABLE: Mutex<()> = Mutex::new(());

unsafe extern "efiapi" fn nothing(_: *mut c_void) {}

/// Registers a handler that takes its data and nothing else.
fn binding(handler: unsafe extern "efiapi" fn(*mut c_void), data: *mut c_void) -> Binding {
    // SAFETY: the handler takes any data, or that of its test.
    unsafe { Binding::direct(Convention::C, handler as *const c_void, 0, data) }
}

/// What is seen by unwinding the stack: on Linux with `std` alone.
#[cfg(any(windows, feature = "std"))]
mod own_call {
    use super::*;
    use std::sync::atomic::AtomicPtr;

    use calltable::Type;
    use calltable::seh::{Exception, ExceptionFilter, Outcome, Verdict};
    use calltable::table::SlotKey;

    /// What a handler releases, and what came of it.
    #[repr(C)]
    struct Own {
        /// For a contained registration, whose data begins with one.
        filter: ExceptionFilter,
        key: Option<SlotKey>,
        error: Option<ReleaseError>,
        /// Called in between, if there is one.
        through: AtomicPtr<c_void>,
    }

    impl Own {
        fn release(&mut self) {
            if let Err(NotReleased { handle, error }) = table::release(self.key.take().unwrap()) {
                (self.key, self.error) = (Some(handle), Some(error));
            }
        }
    }

    unsafe extern "efiapi" fn pass_on(_: *mut c_void, _: *const Exception, _: *mut Outcome) -> Verdict {
        Verdict::SEARCH_ON
    }

    unsafe extern "efiapi" fn release_own(own: *mut c_void) {
        // SAFETY: the data is an `Own`, of this thread alone.
        unsafe { (*own.cast::<Own>()).release() };
    }

    #[cfg(target_arch = "x86_64")]
    unsafe extern "efiapi" fn release_own_fifth(_: usize, _: usize, _: usize, _: usize, own: *mut c_void) {
        // SAFETY: as above.
        unsafe { release_own(own) };
    }

    unsafe extern "efiapi" fn release_own_through(own: *mut c_void) {
        // SAFETY: as above; the entry in between has `release_own` for its handler.
        unsafe {
            let through = (*own.cast::<Own>()).through.load(Ordering::Relaxed);
            std::mem::transmute::<*mut c_void, Nullary>(through)();
        }
    }

    fn assert_refused(make: impl Fn(*mut c_void) -> Binding, through: *mut c_void, own: *mut Own) {
        // SAFETY: the handlers take an `Own`, which lives until the end of the test.
        unsafe {
            (*own).through = AtomicPtr::new(through);
            (*own).error = None;
            let key = table::register(&make(own.cast())).unwrap();
            let code = key.code().cast::<Nullary>();
            (*own).key = Some(key);
            code();
            assert_eq!((*own).error, Some(ReleaseError::OwnCall));
            table::release((*own).key.take().unwrap()).unwrap();
        }
    }

    #[test]
    fn a_release_in_its_own_call_is_refused() {
        let _table = TABLE.lock().unwrap();
        let mut own = Own { filter: pass_on, key: None, error: None, through: AtomicPtr::new(null_mut()) };
        let own = &raw mut own;
        let inner = table::register(&binding(release_own, own.cast())).unwrap();
        let through = inner.code().as_ptr().cast_mut();
        let signature = Signature::new(Convention::C, &[], Some(Type::I32)).unwrap();
        unsafe extern "efiapi" fn release_own_frame(own: *mut c_void, _: *mut calltable::RawFrame) {
            // SAFETY: as for `release_own`.
            unsafe { release_own(own) };
        }
        for option in [Binding::tracked, Binding::exclusive] {
            assert_refused(|own| option(binding(release_own, own)), null_mut(), own);
            assert_refused(|own| option(binding(release_own, own)).saving(), null_mut(), own);
            // On other systems `tests/seh.rs` does the same, with a chain.
            #[cfg(windows)]
            // SAFETY: the data begins with a filter.
            assert_refused(|own| option(unsafe { binding(release_own, own).contained() }), null_mut(), own);
            assert_refused(|own| option(binding(release_own_through, own)), through, own);
            #[cfg(target_arch = "x86_64")] // on i686 the caller would have to pass them
            // SAFETY: the handler looks at none of the four positions before the data.
            let with_4 = |own| unsafe { Binding::direct(Convention::C, release_own_fifth as *const c_void, 4, own) };
            #[cfg(target_arch = "x86_64")]
            assert_refused(|own| option(with_4(own)), null_mut(), own);
            // SAFETY: the handler takes an `Own`.
            assert_refused(
                |own| option(unsafe { Binding::frame(release_own_frame, &signature, own) }),
                null_mut(),
                own,
            );
        }
        table::release(inner).unwrap();
    }
}

/// The thread makes calls of the slot, but not of the registration: the release waits for the other thread's call.
#[test]
fn a_release_waits_for_calls_of_other_threads() {
    let _table = TABLE.lock().unwrap();
    let (entered, go_on) = (AtomicBool::new(false), AtomicBool::new(false));
    let closure = || {
        entered.store(true, Ordering::SeqCst);
        while !go_on.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        7
    };
    let callback = Callback::<Nullary>::from_ref_with(Options::new().tracked(), &closure).unwrap();
    let code = callback.code();
    thread::scope(|scope| {
        // SAFETY: the callback lives until its calls have ended.
        let call = scope.spawn(move || unsafe { code() });
        while !entered.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            go_on.store(true, Ordering::SeqCst);
        });
        let (start, used) = (Instant::now(), processor_time());
        drop(callback);
        let (waited, used) = (start.elapsed(), processor_time() - used);
        assert!(go_on.load(Ordering::SeqCst));
        assert!(used < waited / 3, "{used:?} of work while {waited:?} were waited");
        assert_eq!(call.join().unwrap(), 7);
    });
}

/// Of all threads.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes the time.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(windows)]
fn processor_time() -> Duration {
    use windows_sys::Win32::Foundation::FILETIME;
    use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessTimes};
    let mut times = [FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 }; 4];
    let [created, ended, kernel, user] = &mut times;
    // SAFETY: it writes the times.
    assert_ne!(unsafe { GetProcessTimes(GetCurrentProcess(), created, ended, kernel, user) }, 0);
    let of = |time: &FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    Duration::from_nanos(100 * (of(kernel) + of(user)))
}

/// Registers until the table is full, one by one and shared, and releases it all.
fn works_to_capacity() -> bool {
    let live = table::live_count();
    if live > 2 * THREADS + 1 {
        return false; // more than those threads can have held
    }
    let mut keys = [const { None }; CAPACITY];
    for (index, key) in keys.iter_mut().enumerate().take(CAPACITY - live) {
        let binding = binding(nothing, std::ptr::without_provenance_mut(index));
        let is_shared = index % 2 == 0;
        let made = if is_shared { table::share(&binding) } else { table::register(&binding) };
        let Ok(made) = made else { return false };
        // SAFETY: the handler takes any data.
        unsafe { made.code().cast::<Nullary>()() };
        if is_shared {
            let Ok(second) = table::share(&binding) else { return false };
            if second.code() != made.code() || table::release(second).is_err() {
                return false;
            }
        }
        *key = Some(made);
    }
    table::live_count() == CAPACITY
        && table::register(&binding(nothing, null_mut())).is_err()
        && keys.iter_mut().filter_map(Option::take).all(|key| table::release(key).is_ok())
        && table::live_count() == live
}

/// Threads that register and release without end, or until they are told.
const THREADS: usize = 3;

fn register_and_release(thread: usize) {
    let data = std::ptr::without_provenance_mut(0x10000 + thread % 2);
    let one = table::register(&binding(nothing, data).tracked()).unwrap();
    let two = table::share(&binding(nothing, data)).unwrap();
    table::release(one).unwrap();
    table::release(two).unwrap();
}

/// Not on AArch64, where QEMU runs the tests: it does not empty the page of the process's mark in children.
#[cfg(all(target_os = "linux", not(target_arch = "aarch64")))]
mod fork {
    use super::*;

    /// Runs `work` in a child, which must end by itself and be content.
    fn in_child(work: impl FnOnce() -> bool) {
        // SAFETY: the child does nothing that other threads of the parent could have locked: it allocates nothing.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let status = i32::from(!work());
            // SAFETY: it ends the child without any destructor.
            unsafe { libc::_exit(status) };
        }
        let start = Instant::now();
        let mut status = 0;
        // SAFETY: the child is our own.
        while unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == 0 {
            if start.elapsed() > Duration::from_secs(20) {
                // SAFETY: as above.
                unsafe { libc::kill(child, libc::SIGKILL) };
                panic!("the child hangs");
            }
            thread::sleep(Duration::from_micros(200));
        }
        assert_eq!(status, 0, "how the child ended");
    }

    #[test]
    fn a_child_uses_the_table_whatever_the_parents_threads_were_doing() {
        let _table = TABLE.lock().unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        register_and_release(thread);
                    }
                });
            }
            thread::sleep(Duration::from_millis(20));
            for _ in 0..300 {
                in_child(works_to_capacity);
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(table::live_count(), 0);
    }

    /// The call is another thread's, which the child has not.
    #[test]
    fn a_child_does_not_wait_for_ever_for_calls_of_the_parents_threads() {
        let _table = TABLE.lock().unwrap();
        let (entered, go_on) = (AtomicBool::new(false), AtomicBool::new(false));
        let signature = Signature::new(Convention::C, &[], None).unwrap();
        let dynamic = calltable::Dynamic::new(signature, |_| {
            entered.store(true, Ordering::SeqCst);
            while !go_on.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let callback = Callback::from_dynamic_with(Options::new().tracked(), &dynamic).unwrap();
        thread::scope(|scope| {
            // SAFETY: the callback lives until its calls have ended.
            let code = unsafe { callback.code().cast::<Nullary>() };
            // SAFETY: as above.
            scope.spawn(move || unsafe { code() });
            while !entered.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            in_child(|| {
                // SAFETY: the child has a table of its own, and releases once.
                let key = unsafe { callback.slot().key() };
                matches!(table::release(key), Err(NotReleased { error: ReleaseError::InFlight, .. }))
            });
            go_on.store(true, Ordering::SeqCst);
        });
    }
}

/// `ExitProcess` ends all other threads and tells the program's parts afterwards.
#[cfg(windows)]
mod exit {
    use std::process::Command;
    use std::sync::atomic::AtomicU32;

    use windows_sys::Win32::System::Threading::{
        ExitProcess, FlsAlloc, FlsSetValue, GetCurrentProcess, TerminateProcess,
    };

    use super::*;

    const CASE: &str = "CALLTABLE_TEST_CASE";
    const CONTENT: u32 = 42;

    /// What is left to be done at the end of the process.
    static AT_END: AtomicU32 = AtomicU32::new(NOTHING);
    const NOTHING: u32 = 0;
    const USE_TABLE: u32 = 1;
    const DROP: u32 = 2;

    static KEPT: Mutex<Option<Callback<'static, Nullary>>> = Mutex::new(None);

    /// Has the system call `at_end` when it tells the process, of which this thread is left, that it ends.
    fn at_end_of_process(what: u32) {
        AT_END.store(what, Ordering::SeqCst);
        // SAFETY: the callback takes any value; one that is not null has it called.
        unsafe { assert_ne!(FlsSetValue(FlsAlloc(Some(at_end)), (&raw const AT_END).cast()), 0) };
    }

    unsafe extern "system" fn at_end(_: *const c_void) {
        let is_content = match AT_END.load(Ordering::SeqCst) {
            USE_TABLE => works_to_capacity(),
            DROP => {
                drop(KEPT.try_lock().unwrap().take());
                true
            }
            _ => return,
        };
        // SAFETY: ends this process at once.
        unsafe { TerminateProcess(GetCurrentProcess(), if is_content { CONTENT } else { 1 }) };
    }

    fn wait_in_handler() -> isize {
        ENTERED.store(true, Ordering::SeqCst);
        thread::sleep(Duration::from_secs(60));
        0
    }
    static ENTERED: AtomicBool = AtomicBool::new(false);
    static WAIT: fn() -> isize = wait_in_handler;
    static EXIT: fn() -> isize = || exit();

    fn exit() -> ! {
        // SAFETY: that it ends threads wherever they are is what is tested.
        unsafe { ExitProcess(3) }
    }

    fn run(case: &str) {
        match case {
            "threads register" => {
                for number in 0..THREADS {
                    thread::spawn(move || {
                        loop {
                            register_and_release(number);
                        }
                    });
                }
                at_end_of_process(USE_TABLE);
                thread::sleep(Duration::from_millis(20));
                exit();
            }
            "another thread is in a call" | "in a call" => {
                let is_own = case == "in a call";
                let function = if is_own { &EXIT } else { &WAIT };
                let callback = Callback::<Nullary>::from_ref_with(Options::new().tracked(), function).unwrap();
                let code = callback.code();
                *KEPT.lock().unwrap() = Some(callback);
                at_end_of_process(DROP);
                if is_own {
                    // SAFETY: the callback lives.
                    unsafe { code() };
                }
                // SAFETY: as above.
                thread::spawn(move || unsafe { code() });
                while !ENTERED.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                exit();
            }
            other => panic!("no case {other}"),
        }
    }

    /// The child's side: this test does nothing unless it is told a case.
    #[test]
    fn child() {
        if let Ok(case) = std::env::var(CASE) {
            run(&case);
        }
    }

    fn assert_ends(case: &str, times: usize) {
        for _ in 0..times {
            let mut child = Command::new(std::env::current_exe().unwrap());
            let mut child = child.args(["--exact", "exit::child", "--nocapture"]).env(CASE, case).spawn().unwrap();
            let start = Instant::now();
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
                if start.elapsed() > Duration::from_secs(60) {
                    child.kill().unwrap();
                    panic!("{case}: the process does not end");
                }
                thread::sleep(Duration::from_millis(5));
            };
            assert_eq!(status.code(), Some(CONTENT as i32), "{case}");
        }
    }

    #[test]
    fn the_table_can_be_used_whatever_the_ended_threads_were_doing() {
        assert_ends("threads register", 30);
    }

    #[test]
    fn a_drop_does_not_wait_for_calls_of_ended_threads_or_its_own() {
        assert_ends("another thread is in a call", 1);
        assert_ends("in a call", 1);
    }
}
