//! Callbacks given to code that Microsoft's compiler has made for ARM64: Visual Studio's own DLLs, whatever the system
//! below them.

use std::env;
use std::ffi::{CStr, OsString, c_int, c_void};
use std::os::windows::ffi::OsStrExt;
use std::ptr::{null_mut, without_provenance, without_provenance_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use calltable::{Callback, Options};
use windows_sys::Win32::System::LibraryLoader::{GetProcAddress, LOAD_WITH_ALTERED_SEARCH_PATH, LoadLibraryExW};

/// The folder that has them, if the system does not.
const VARIABLE: &str = "CALLTABLE_MICROSOFT";

/// A function of one of the DLLs.
///
/// # Safety
/// `F` must be a function pointer, of the function's type.
unsafe fn function<F: Copy>(dll: &str, name: &CStr) -> F {
    assert_eq!(size_of::<F>(), size_of::<*const c_void>());
    let path = match env::var_os(VARIABLE) {
        Some(mut folder) => {
            folder.push(format!("\\{dll}"));
            folder
        }
        None => OsString::from(dll),
    };
    let flags = if env::var_os(VARIABLE).is_some() { LOAD_WITH_ALTERED_SEARCH_PATH } else { 0 };
    let wide: Vec<u16> = path.encode_wide().chain([0]).collect();
    // SAFETY: the strings end in zeros; these DLLs may be loaded, and stay so.
    let found = unsafe {
        let module = LoadLibraryExW(wide.as_ptr(), null_mut(), flags);
        assert!(!module.is_null(), "{path:?} does not load: {}", std::io::Error::last_os_error());
        GetProcAddress(module, name.as_ptr().cast())
    };
    let found = found.unwrap_or_else(|| panic!("{dll} has no function {name:?}"));
    // SAFETY: by the caller's promise.
    unsafe { std::mem::transmute_copy(&found) }
}

/// `thrd_t`, which is passed by value.
#[derive(Clone, Copy)]
#[repr(C)]
struct Thread {
    handle: *mut c_void,
    id: u32,
}

type Start = unsafe extern "C" fn(*mut c_void) -> c_int;

const THREADS: &str = "vcruntime140_threads.dll";

/// Runs a thread from its start to its end; returns its result.
fn run_thread(start: Start, parameter: usize) -> c_int {
    type Create = unsafe extern "C" fn(*mut Thread, Start, *mut c_void) -> c_int;
    type Join = unsafe extern "C" fn(Thread, *mut c_int) -> c_int;
    let (mut thread, mut result) = (Thread { handle: null_mut(), id: 0 }, 0);
    // SAFETY: the types are those of <threads.h>; the thread has ended when this returns.
    unsafe {
        let create: Create = function(THREADS, c"thrd_create");
        let join: Join = function(THREADS, c"thrd_join");
        assert_eq!(create(&mut thread, start, without_provenance_mut(parameter)), 0);
        assert_eq!(join(thread, &mut result), 0);
    }
    result
}

#[test]
fn call_once() {
    type Once = unsafe extern "C" fn(*mut *mut c_void, unsafe extern "C" fn());
    let calls = AtomicUsize::new(0);
    let closure = || {
        calls.fetch_add(1, Ordering::Relaxed);
    };
    let callback = Callback::<unsafe extern "C" fn()>::from_ref(&closure).unwrap();
    let mut flag = null_mut();
    // SAFETY: that is its type; zero is a flag as it is at first; the callback lives.
    unsafe {
        let once: Once = function(THREADS, c"call_once");
        (0..3).for_each(|_| once(&mut flag, callback.code()));
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn thrd_create() {
    let here = thread::current().id();
    let closure = |parameter: *mut c_void| {
        assert_ne!(thread::current().id(), here);
        parameter.addr() as c_int * 3
    };
    for options in [Options::new(), Options::new().tracked()] {
        let callback = Callback::<Start>::from_ref_with(options, &closure).unwrap();
        for number in 0..5 {
            assert_eq!(run_thread(callback.code(), number), number as c_int * 3);
        }
    }
}

#[test]
fn the_destructor_of_tss_create() {
    type Destructor = unsafe extern "C" fn(*mut c_void);
    type Create = unsafe extern "C" fn(*mut u32, Destructor) -> c_int;
    type Set = unsafe extern "C" fn(u32, *mut c_void) -> c_int;
    let destroyed = Mutex::new(Vec::new());
    let destructor = |value: *mut c_void| destroyed.lock().unwrap().push(value.addr());
    let destructor = Callback::<Destructor>::from_ref(&destructor).unwrap();
    let mut key = 0;
    // SAFETY: the types are those of <threads.h>, whose `tss_t` is an unsigned number.
    let set: Set = unsafe {
        let create: Create = function(THREADS, c"tss_create");
        assert_eq!(create(&mut key, destructor.code()), 0);
        function(THREADS, c"tss_set")
    };
    let start = |parameter: *mut c_void| {
        // SAFETY: the key lives.
        unsafe { set(key, parameter) }
    };
    let start = Callback::<Start>::from_ref(&start).unwrap();
    for value in [11, 22] {
        assert_eq!(run_thread(start.code(), value), 0);
    }
    assert_eq!(*destroyed.lock().unwrap(), [11, 22], "run when the thread ends");
    // SAFETY: that is its type; the key is used no more.
    unsafe {
        let delete: unsafe extern "C" fn(u32) = function(THREADS, c"tss_delete");
        delete(key);
    }
}

/// `std::call_once`: the callback returns a number and gets what it needs.
#[test]
fn execute_once_of_the_cpp_library() {
    type Callee = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut *mut c_void) -> c_int;
    type Execute = unsafe extern "C" fn(*mut *mut c_void, Callee, *mut c_void) -> c_int;
    let calls = Mutex::new(Vec::new());
    let closure = |_: *mut c_void, parameter: *mut c_void, _: *mut *mut c_void| {
        let mut calls = calls.lock().unwrap();
        calls.push(parameter.addr());
        c_int::from(calls.len() > 1) // the first time it fails
    };
    let callback = Callback::<Callee>::from_ref(&closure).unwrap();
    let mut flag = null_mut();
    let name = c"?_Execute_once@std@@YAHAEAUonce_flag@1@P6AHPEAX1PEAPEAX@Z1@Z";
    // SAFETY: that is its type; zero is a flag as it is at first; the callback lives.
    let results = unsafe {
        let execute: Execute = function("msvcp140.dll", name);
        [1, 2, 3].map(|parameter| execute(&mut flag, callback.code(), without_provenance_mut(parameter)))
    };
    assert_eq!((results, &**calls.lock().unwrap()), ([0, 1, 1], &[1, 2][..]));
}

/// OpenMP: the body of a parallel region, called by each thread with the arguments that a variadic function was given.
#[test]
fn a_parallel_region_of_openmp() {
    type Body = unsafe extern "C" fn(usize, usize, *const c_void);
    type Fork = unsafe extern "C" fn(is_parallel: c_int, count: c_int, body: Body, ...);
    type Threads = unsafe extern "C" fn(c_int);
    let (calls, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let body = |first: usize, second: usize, third: *const c_void| {
        calls.fetch_add(1, Ordering::Relaxed);
        sum.fetch_add(first + 10 * second + 100 * third.addr(), Ordering::Relaxed);
    };
    let callback = Callback::<Body>::from_ref(&body).unwrap();
    const DLL: &str = "vcomp140.dll";
    // SAFETY: the types are those that the compiler calls them by; all calls of the callback have returned afterwards.
    unsafe {
        let set_threads: Threads = function(DLL, c"omp_set_num_threads");
        let fork: Fork = function(DLL, c"_vcomp_fork");
        set_threads(3);
        fork(1, 3, callback.code(), 1_usize, 2_usize, without_provenance::<c_void>(3));
    }
    assert_eq!((calls.load(Ordering::Relaxed), sum.load(Ordering::Relaxed)), (3, 3 * 321));
}

/// What parallel algorithms of the C++ library run on.
#[test]
fn work_of_the_cpp_library_s_thread_pool() {
    type Work = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void);
    type Create = unsafe extern "C" fn(Work, *mut c_void, *mut c_void) -> *mut c_void;
    const DLL: &str = "msvcp140_atomic_wait.dll";
    let sum = AtomicUsize::new(0);
    let closure = |_: *mut c_void, parameter: *mut c_void, _: *mut c_void| {
        sum.fetch_add(parameter.addr(), Ordering::Relaxed);
    };
    let callback = Callback::<Work>::from_ref(&closure).unwrap();
    // SAFETY: the types are those that the source of the C++ library has; the pool is done with the
    // work before the callback ends.
    unsafe {
        let create: Create = function(DLL, c"__std_create_threadpool_work");
        let submit: unsafe extern "C" fn(*mut c_void, usize) = function(DLL, c"__std_bulk_submit_threadpool_work");
        let wait: unsafe extern "C" fn(*mut c_void, bool) = function(DLL, c"__std_wait_for_threadpool_work_callbacks");
        let close: unsafe extern "C" fn(*mut c_void) = function(DLL, c"__std_close_threadpool_work");
        let work = create(callback.code(), without_provenance_mut(3), null_mut());
        assert!(!work.is_null());
        submit(work, 50);
        wait(work, false);
        close(work);
    }
    assert_eq!(sum.load(Ordering::Relaxed), 150);
}
