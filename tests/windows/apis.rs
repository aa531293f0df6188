//! Callbacks without a user pointer of the C library and of the system: sorting, lists of locales and modules,
//! exception handlers.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use calltable::Callback;
use windows_sys::Win32::Foundation::LPARAM;
use windows_sys::Win32::Globalization::{EnumSystemLocalesA, EnumSystemLocalesEx, LCID_INSTALLED, LOCALE_ALL};
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, EXCEPTION_POINTERS, EnumerateLoadedModulesW64, LPTOP_LEVEL_EXCEPTION_FILTER,
    RaiseException, RemoveVectoredExceptionHandler, SYMBOL_INFO, SetUnhandledExceptionFilter, SymCleanup,
    SymEnumSymbols, SymInitialize, SymLoadModuleExW,
};
use windows_sys::Win32::System::LibraryLoader::{GetModuleFileNameW, GetModuleHandleW};
use windows_sys::Win32::System::Threading::GetCurrentProcess;
use windows_sys::core::{BOOL, PCSTR, PCWSTR};
use windows_sys::w;

type Compare = unsafe extern "C" fn(*const c_void, *const c_void) -> c_int;

#[link(name = "msvcrt", kind = "raw-dylib")]
unsafe extern "C" {
    fn qsort(base: *mut c_void, count: usize, size: usize, compare: Compare);
    fn bsearch(key: *const c_void, base: *const c_void, count: usize, size: usize, compare: Compare) -> *mut c_void;
}

/// The text that Windows passes to a callback.
///
/// # Safety
/// It must end in a zero.
unsafe fn text(wide: PCWSTR) -> String {
    // SAFETY: by the caller's promise.
    unsafe {
        String::from_utf16_lossy(std::slice::from_raw_parts(wide, (0..).position(|at| *wide.add(at) == 0).unwrap()))
    }
}

/// # Safety
/// Both must point to an `i32`.
unsafe fn numbers(a: *const c_void, b: *const c_void) -> (i32, i32) {
    // SAFETY: by the caller's promise.
    unsafe { (*a.cast(), *b.cast()) }
}

#[test]
fn qsort_and_bsearch_of_msvcrt() {
    let mut list: Vec<i32> = (0..1000).map(|number| (number * 7919) % 1009 - 500).collect();
    let mut expected = list.clone();
    expected.sort_by_key(|number| std::cmp::Reverse(*number));
    let mut calls = 0;
    let mut closure = |a, b| {
        calls += 1;
        // SAFETY: qsort passes pointers to elements.
        let (a, b) = unsafe { numbers(a, b) };
        b.cmp(&a) as c_int
    };
    let callback = Callback::<Compare>::from_mut(&mut closure).unwrap();
    // SAFETY: base, count and size are the vector's; the callback lives.
    unsafe { qsort(list.as_mut_ptr().cast(), list.len(), 4, callback.code()) };
    assert_eq!(list, expected);
    for key in [expected[0], expected[999], expected[500], 4711] {
        // SAFETY: as above.
        let found = unsafe { bsearch((&raw const key).cast(), list.as_ptr().cast(), list.len(), 4, callback.code()) };
        let position = list.iter().position(|number| *number == key);
        assert_eq!(found.cast::<i32>().cast_const(), position.map_or(null(), |at| &raw const list[at]));
    }
    drop(callback);
    assert!(calls > 1000, "{calls}");
}

#[test]
fn enum_system_locales() {
    let mut names = Vec::new();
    let mut closure = |name: PCWSTR, _flags: u32, parameter: LPARAM| {
        // SAFETY: Windows passes a name that ends in a zero.
        names.push(unsafe { text(name) });
        i32::from(parameter == 99)
    };
    let callback = Callback::<unsafe extern "system" fn(PCWSTR, u32, LPARAM) -> BOOL>::from_mut(&mut closure).unwrap();
    // SAFETY: the callback lives.
    assert_ne!(unsafe { EnumSystemLocalesEx(Some(callback.code()), LOCALE_ALL, 99, null()) }, 0);
    drop(callback);
    assert!(names.len() > 20 && names.iter().any(|name| name == "en-US"), "{names:?}");

    // This one has no user pointer.
    let mut numbers = Vec::new();
    let mut closure = |name: PCSTR| {
        // SAFETY: as above.
        let name = unsafe { CStr::from_ptr(name.cast()) };
        numbers.push(u32::from_str_radix(name.to_str().unwrap(), 16).unwrap());
        1
    };
    let callback = Callback::<unsafe extern "system" fn(PCSTR) -> BOOL>::from_mut(&mut closure).unwrap();
    // SAFETY: the callback lives.
    assert_ne!(unsafe { EnumSystemLocalesA(Some(callback.code()), LCID_INSTALLED) }, 0);
    drop(callback);
    assert!(numbers.contains(&0x409), "US English is among {numbers:x?}");
}

/// "All DbgHelp functions are single threaded."
static DBGHELP: Mutex<()> = Mutex::new(());

#[test]
fn enumerate_loaded_modules_of_dbghelp() {
    let _alone = DBGHELP.lock();
    let mut modules = Vec::new();
    let mut closure = |name: PCWSTR, base: u64, size: u32, _context: *const c_void| {
        // SAFETY: dbghelp passes a name that ends in a zero.
        modules.push((unsafe { text(name) }.to_lowercase(), base, size));
        1
    };
    type Module = unsafe extern "system" fn(PCWSTR, u64, u32, *const c_void) -> BOOL;
    let callback = Callback::<Module>::from_mut(&mut closure).unwrap();
    // SAFETY: the callback lives.
    assert_ne!(unsafe { EnumerateLoadedModulesW64(GetCurrentProcess(), Some(callback.code()), null()) }, 0);
    drop(callback);
    // SAFETY: the name ends in a zero.
    let kernel = unsafe { GetModuleHandleW(w!("kernel32.dll")) }.addr() as u64;
    let found = modules.iter().find(|(name, ..)| name.contains("kernel32"));
    assert!(found.is_some_and(|(_, base, size)| *base == kernel && *size > 0x1000), "{modules:?}");
}

#[test]
fn sym_enum_symbols_of_dbghelp() {
    type Symbol = unsafe extern "system" fn(*const SYMBOL_INFO, u32, *const c_void) -> BOOL;
    let _alone = DBGHELP.lock();
    let mut names = Vec::new();
    let mut closure = |symbol: *const SYMBOL_INFO, _size: u32, context: *const c_void| {
        // SAFETY: dbghelp passes a symbol whose name, of that length, follows it.
        let name = unsafe {
            let length = (*symbol).NameLen as usize;
            std::slice::from_raw_parts((&raw const (*symbol).Name).cast::<u8>(), length)
        };
        names.push(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
        i32::from(context.addr() == 31)
    };
    let callback = Callback::<Symbol>::from_mut(&mut closure).unwrap();
    // SAFETY: the strings end in zeros; the callback lives. Only this module is read: Wine 8 crashes on the debugging
    // information of a program made by Rust.
    unsafe {
        let process = GetCurrentProcess();
        assert_ne!(SymInitialize(process, null(), 0), 0);
        let base = GetModuleHandleW(w!("kernel32.dll")).addr() as u64;
        let mut path = [0; 260];
        assert_ne!(GetModuleFileNameW(std::ptr::without_provenance_mut(base as usize), path.as_mut_ptr(), 260), 0);
        assert_ne!(SymLoadModuleExW(process, null_mut(), path.as_ptr(), null(), base, 0, null(), 0), 0);
        let context = std::ptr::without_provenance(31);
        assert_ne!(SymEnumSymbols(process, base, c"Create*".as_ptr().cast(), Some(callback.code()), context), 0);
        SymCleanup(process);
    }
    drop(callback);
    assert!(names.iter().any(|name| name == "CreateThread"), "{names:?}");
}

const OURS: u32 = 0xe0ca_1100;
const CONTINUE_EXECUTION: i32 = -1;
const CONTINUE_SEARCH: i32 = 0;

/// Whether it is an exception of ours, with what it carries.
///
/// # Safety
/// Windows must have passed the pointers to a handler that is running.
unsafe fn ours(pointers: *const EXCEPTION_POINTERS, code: u32) -> Option<usize> {
    // SAFETY: by the caller's promise.
    let record = unsafe { &*(*pointers).ExceptionRecord };
    (record.ExceptionCode as u32 == code).then(|| record.ExceptionInformation[0])
}

/// Raises an exception after which execution may continue.
fn raise(code: u32, information: usize) {
    // SAFETY: a handler that continues is installed; else the test program ends, as it should.
    unsafe { RaiseException(code, 0, 1, &information) };
}

#[test]
fn a_vectored_handler_sees_an_exception_and_continues() {
    type Handler = unsafe extern "system" fn(*mut EXCEPTION_POINTERS) -> i32;
    const CODE: u32 = OURS + 1;
    let seen = Mutex::new(Vec::new());
    let closure = |pointers: *mut EXCEPTION_POINTERS| {
        // SAFETY: Windows passes them to this handler.
        let Some(information) = (unsafe { ours(pointers, CODE) }) else { return CONTINUE_SEARCH };
        seen.lock().unwrap().push(information);
        CONTINUE_EXECUTION
    };
    let callback = Callback::<Handler>::from_ref(&closure).unwrap();
    // SAFETY: the handler is removed before the callback ends.
    let handle = unsafe { AddVectoredExceptionHandler(1, Some(callback.code())) };
    assert!(!handle.is_null());
    raise(CODE, 5);
    // On a thread of its own, too, which no Rust code has prepared.
    let on_thread = |parameter: *mut c_void| {
        raise(CODE, parameter.addr());
        0_u32
    };
    let start = Callback::<unsafe extern "system" fn(*mut c_void) -> u32>::from_ref(&on_thread).unwrap();
    crate::threads::run_thread(start.code(), 6);
    // SAFETY: it is ours.
    assert_ne!(unsafe { RemoveVectoredExceptionHandler(handle) }, 0);
    assert_eq!(*seen.lock().unwrap(), [5, 6]);
}

#[test]
fn an_unhandled_exception_filter_is_called_and_taken_back() {
    type Filter = unsafe extern "system" fn(*const EXCEPTION_POINTERS) -> i32;
    const CODE: u32 = OURS + 2;
    let calls = AtomicU32::new(0);
    let closure = |pointers: *const EXCEPTION_POINTERS| {
        // SAFETY: Windows passes them to this filter.
        match unsafe { ours(pointers, CODE) } {
            Some(information) => {
                calls.fetch_add(information as u32, Ordering::Relaxed);
                CONTINUE_EXECUTION
            }
            None => CONTINUE_SEARCH,
        }
    };
    let callback = Callback::<Filter>::from_ref(&closure).unwrap();
    let set = |filter: LPTOP_LEVEL_EXCEPTION_FILTER| {
        // SAFETY: it is set back before the callback ends.
        unsafe { SetUnhandledExceptionFilter(filter) }
    };
    let before = set(Some(callback.code()));
    raise(CODE, 40);
    raise(CODE, 2);
    let ours = set(before);
    assert_eq!(ours.map(|filter| filter as usize), Some(callback.code() as usize));
    assert_eq!(calls.load(Ordering::Relaxed), 42);
}
