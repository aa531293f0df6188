//! Callbacks in a program that has neither std nor a C library, only the system's DLLs.
//!
//! Prints `ok NAME` or `FAILED NAME` for each case and ends with `N passed, N failed`.
#![no_std]
#![no_main]

mod guard;

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::{self, Write};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicUsize, Ordering};

#[cfg(target_arch = "x86")]
use calltable::Value;
use calltable::table::{self, Binding, CAPACITY};
#[cfg(target_pointer_width = "64")]
use calltable::table::{ENTRY_RETURN, ENTRY_STRIDE};
use calltable::{
    Callback, Contained, Convention, Dynamic, Error, Frame, Options, Signature, Type, seh, set_stale_handler,
};

type Compare = unsafe extern "C" fn(*const c_void, *const c_void) -> c_int;
type EnumWindow = unsafe extern "system" fn(*mut c_void, isize) -> i32;
type EnumLocale = unsafe extern "system" fn(*const c_char) -> i32;
type Start = unsafe extern "system" fn(*mut c_void) -> u32;

#[cfg_attr(target_arch = "x86", link(name = "kernel32", kind = "raw-dylib", import_name_type = "undecorated"))]
#[cfg_attr(not(target_arch = "x86"), link(name = "kernel32", kind = "raw-dylib"))]
unsafe extern "system" {
    fn GetStdHandle(which: u32) -> *mut c_void;
    fn WriteFile(file: *mut c_void, bytes: *const u8, length: u32, written: *mut u32, overlapped: *mut c_void) -> i32;
    fn ExitProcess(code: u32) -> !;
    fn EnumSystemLocalesA(callback: EnumLocale, flags: u32) -> i32;
    fn CreateThread(
        security: *const c_void,
        stack: usize,
        start: Start,
        parameter: *mut c_void,
        flags: u32,
        id: *mut u32,
    ) -> *mut c_void;
    fn WaitForSingleObject(object: *mut c_void, milliseconds: u32) -> u32;
    fn GetExitCodeThread(thread: *mut c_void, code: *mut u32) -> i32;
    fn CloseHandle(handle: *mut c_void) -> i32;
    #[cfg(target_pointer_width = "64")]
    fn RtlLookupFunctionEntry(address: u64, base: *mut u64, history: *mut c_void) -> *const c_void;
}

#[cfg_attr(target_arch = "x86", link(name = "user32", kind = "raw-dylib", import_name_type = "undecorated"))]
#[cfg_attr(not(target_arch = "x86"), link(name = "user32", kind = "raw-dylib"))]
unsafe extern "system" {
    fn EnumWindows(callback: EnumWindow, parameter: isize) -> i32;
    fn GetDesktopWindow() -> *mut c_void;
    fn CreateWindowExA(
        more_style: u32,
        class: *const c_char,
        title: *const c_char,
        style: u32,
        left: i32,
        top: i32,
        width: i32,
        height: i32,
        parent: *mut c_void,
        menu: *mut c_void,
        instance: *mut c_void,
        parameter: *mut c_void,
    ) -> *mut c_void;
    fn EnumChildWindows(parent: *mut c_void, callback: EnumWindow, parameter: isize) -> i32;
}

#[cfg_attr(target_arch = "x86", link(name = "msvcrt", kind = "raw-dylib", import_name_type = "undecorated"))]
#[cfg_attr(not(target_arch = "x86"), link(name = "msvcrt", kind = "raw-dylib"))]
unsafe extern "C" {
    fn qsort(base: *mut c_void, count: usize, size: usize, compare: Compare);
}

// What compilers call to divide numbers of 64 bits. C libraries have it, and so does this DLL. These are the symbols'
// names; what is imported has an underscore less.
#[cfg(target_arch = "x86")]
#[link(name = "ntdll", kind = "raw-dylib", import_name_type = "undecorated")]
unsafe extern "C" {
    fn __aulldiv();
    fn __aullrem();
}

/// Says to the linker that the program uses floating point.
#[unsafe(no_mangle)]
static _fltused: i32 = 0;

struct Output;

impl Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const STANDARD_OUTPUT: u32 = -11_i32 as u32;
        let mut written = 0;
        // SAFETY: the text has that length; there is room for the count.
        unsafe {
            WriteFile(GetStdHandle(STANDARD_OUTPUT), text.as_ptr(), text.len() as u32, &mut written, null_mut());
        }
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Output, "{info}");
    // SAFETY: nothing is left to do.
    unsafe { ExitProcess(101) }
}

/// A name, and what answers whether it works.
type Case = (&'static str, fn() -> bool);

const CASES: &[Case] = &[
    ("qsort of msvcrt sorts by a closure", sorts),
    ("EnumSystemLocalesA", lists_locales),
    ("EnumWindows passes its parameter and obeys the result", lists_windows),
    ("a thread starts in a closure", starts_a_thread),
    ("floats, structures and a result through a pointer", passes_types),
    ("a dynamic signature", passes_dynamically),
    ("every entry calls its own handler, and one more is refused", fills_the_table),
    ("a released entry is stale", is_stale),
    ("faults end in a policy", contains_faults),
    ("an exception passes a tracked call and ends further out", passes_outwards),
    #[cfg(target_pointer_width = "64")]
    ("every entry has unwind data", has_unwind_data),
    #[cfg(target_arch = "x86")]
    ("stdcall", in_stdcall),
    #[cfg(target_arch = "x86")]
    ("cdecl", in_cdecl),
    #[cfg(target_arch = "x86")]
    ("thiscall", in_thiscall),
    #[cfg(target_arch = "x86")]
    ("fastcall", in_fastcall),
];

/// Where the program starts: Windows calls it.
#[unsafe(no_mangle)]
pub extern "C" fn mainCRTStartup() -> ! {
    let mut failed = 0;
    for (name, case) in CASES {
        let passed = case();
        failed += u32::from(!passed);
        let _ = writeln!(Output, "{} {name}", if passed { "ok" } else { "FAILED" });
    }
    let _ = writeln!(Output, "{} passed, {failed} failed", CASES.len() - failed as usize);
    // SAFETY: nothing is left to do.
    unsafe { ExitProcess(failed) }
}

fn sorts() -> bool {
    let mut numbers = [0_i32; 500];
    for (at, number) in numbers.iter_mut().enumerate() {
        *number = (at as i32 * 7919) % 1009;
    }
    let mut calls = 0;
    let mut closure = |a: *const c_void, b: *const c_void| -> c_int {
        calls += 1;
        // SAFETY: qsort passes pointers to elements.
        let (a, b) = unsafe { (*a.cast::<i32>(), *b.cast::<i32>()) };
        a.cmp(&b) as c_int
    };
    let callback = Callback::<Compare>::from_mut(&mut closure).unwrap();
    // SAFETY: base, count and size are the array's; the callback lives.
    unsafe { qsort(numbers.as_mut_ptr().cast(), numbers.len(), 4, callback.code()) };
    drop(callback);
    calls > 500 && numbers.is_sorted() && numbers[0] < numbers[499]
}

fn lists_locales() -> bool {
    let (mut count, mut english) = (0, false);
    let mut closure = |name: *const c_char| {
        count += 1;
        // SAFETY: Windows passes a name that ends in a zero.
        english |= unsafe { CStr::from_ptr(name) } == c"00000409";
        1
    };
    let callback = Callback::<EnumLocale>::from_mut(&mut closure).unwrap();
    const INSTALLED: u32 = 1;
    // SAFETY: the callback lives.
    let listed = unsafe { EnumSystemLocalesA(callback.code(), INSTALLED) };
    drop(callback);
    listed != 0 && count > 20 && english
}

fn lists_windows() -> bool {
    let (seen, right) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let closure = |window: *mut c_void, parameter: isize| {
        seen.fetch_add(1, Ordering::Relaxed);
        right.fetch_add(usize::from(!window.is_null() && parameter == -5), Ordering::Relaxed);
        0
    };
    let callback = Callback::<EnumWindow>::from_ref(&closure).unwrap();
    // SAFETY: the callback lives; the strings end in zeros. The window is one at least, and goes with the program.
    unsafe {
        let (name, none) = (c"STATIC".as_ptr(), null_mut());
        CreateWindowExA(0, name, name, 0, 0, 0, 50, 50, none, none, none, none);
        EnumWindows(callback.code(), -5);
        EnumChildWindows(GetDesktopWindow(), callback.code(), -5);
    }
    // One window each, since the closure says that it has seen enough.
    (seen.load(Ordering::Relaxed), right.load(Ordering::Relaxed)) == (2, 2)
}

fn starts_a_thread() -> bool {
    let closure = |parameter: *mut c_void| parameter.addr() as u32 + 1;
    let callback = Callback::<Start>::from_ref(&closure).unwrap();
    let mut code = 0;
    // SAFETY: the thread has ended before the callback does.
    unsafe {
        let parameter = core::ptr::without_provenance_mut(41);
        let thread = CreateThread(null(), 0, callback.code(), parameter, 0, null_mut());
        let ended = WaitForSingleObject(thread, 30_000) == 0;
        ended && GetExitCodeThread(thread, &mut code) != 0 && CloseHandle(thread) != 0 && code == 42
    }
}

/// Divides as the processor does; Rust's own division looks first.
fn divide(by: i32) -> i32 {
    let quotient;
    // SAFETY: changes the registers that it names; it may raise an exception, while no frame here holds anything.
    unsafe {
        #[cfg(not(target_arch = "aarch64"))]
        core::arch::asm!("cdq", "idiv {:e}", in(reg) by, inout("eax") 100 => quotient, out("edx") _);
        // This processor's own division by zero gives 0.
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!(
            "cbnz {by:w}, 2f",
            "udf #0",
            "2: sdiv {quotient:w}, {quotient:w}, {by:w}",
            by = in(reg) by,
            quotient = inout(reg) 100 => quotient,
        );
    }
    quotient
}

const DIVIDED_BY_ZERO: u32 =
    if cfg!(target_arch = "aarch64") { seh::ILLEGAL_INSTRUCTION } else { seh::INTEGER_DIVISION_BY_ZERO };

type Divide = unsafe extern "system" fn(i32) -> i32;

fn contains_faults() -> bool {
    let handler = Contained::new(
        |by: i32| {
            if by == 7 {
                // SAFETY: a fault, which ends in the policy.
                return unsafe { core::ptr::without_provenance::<i32>(16).read_volatile() };
            }
            divide(by)
        },
        |exception| match exception.code() {
            DIVIDED_BY_ZERO => Some(-1),
            seh::ACCESS_VIOLATION => Some(-(exception.parameters()[1] as i32)),
            _ => None,
        },
    );
    // SAFETY: what faults holds nothing that must be dropped.
    let callback = unsafe { Callback::<Divide>::from_contained(&handler).unwrap() };
    (0..10_000).all(|_| {
        // SAFETY: the callback lives.
        let results = [5, 0, 7].map(|by| unsafe { callback.code()(by) });
        results == [20, -1, -16]
    })
}

fn passes_outwards() -> bool {
    let inner = |by: i32| divide(by);
    let inner = Callback::<Divide>::from_ref_with(Options::new().tracked(), &inner).unwrap();
    // SAFETY: the callback lives.
    let outer = Contained::new(|by: i32| unsafe { inner.code()(by) }, |_| Some(-2));
    // SAFETY: when the inner closure faults, nothing on the way here must be dropped.
    let outer = unsafe { Callback::<Divide>::from_contained(&outer).unwrap() };
    // SAFETY: it lives.
    let results = [0, 10, 0].map(|by| unsafe { outer.code()(by) });
    results == [-2, 10, -2] && table::live_slot(inner.slot().index()).unwrap().in_flight == Some(0)
}

fn passes_types() -> bool {
    #[derive(Clone, Copy, PartialEq)]
    #[repr(C)]
    struct Triple(f64, i32, f32);
    type Code = unsafe extern "system" fn(f32, i64, Triple, f64, u8, f32) -> Triple;
    let closure = |a: f32, b: i64, c: Triple, d: f64, e: u8, f: f32| {
        if (a, b, d, e, f) == (1.5, -2, 2.25, 200, 0.5) { Triple(c.0 + d, c.1 - 1, c.2 + a) } else { c }
    };
    let callback = Callback::<Code>::from_ref(&closure).unwrap();
    // SAFETY: the callback lives.
    unsafe { callback.code()(1.5, -2, Triple(1.0, 7, 3.0), 2.25, 200, 0.5) == Triple(3.25, 6, 4.5) }
}

/// Apart from its caller, since each has room for a signature, of 2 KB, on the stack, and nobody here has the function
/// that compilers call where more than a page of it is taken.
#[inline(never)]
fn sum() -> Dynamic<impl Fn(&mut Frame<'_>) + Sync> {
    let types = [Type::F64, Type::I32, Type::I64, Type::I64, Type::F64];
    let signature = Signature::new(Convention::NATIVE, &types, Some(Type::F64)).unwrap();
    Dynamic::new(signature, |frame: &mut Frame<'_>| {
        let sum = frame.get::<f64>(0).unwrap() + f64::from(frame.get::<i32>(1).unwrap());
        let rest = frame.get::<i64>(2).unwrap() * frame.get::<i64>(3).unwrap();
        frame.set_result(sum + rest as f64 - frame.get::<f64>(4).unwrap()).unwrap();
    })
}

fn passes_dynamically() -> bool {
    type Code = unsafe extern "system" fn(f64, i32, i64, i64, f64) -> f64;
    let dynamic = sum();
    let callback = Callback::from_dynamic(&dynamic).unwrap();
    // SAFETY: that is the signature; the callback lives.
    unsafe { callback.code().cast::<Code>()(0.5, 2, 3, -4, 0.25) == 0.5 + 2.0 - 12.0 - 0.25 }
}

fn fills_the_table() -> bool {
    unsafe extern "system" fn handler(value: usize, data: *mut c_void) -> usize {
        value + data.addr()
    }
    let binding = |number: usize| {
        let data = core::ptr::without_provenance_mut(number * 10);
        // SAFETY: the handler takes any data.
        unsafe { Binding::direct(Convention::NATIVE, handler as *const c_void, 1, data) }
    };
    let mut passed = true;
    for number in 0..CAPACITY {
        passed &= table::register(&binding(number)).is_ok();
    }
    passed &= matches!(table::register(&binding(0)), Err(Error::TableFull { .. }));
    let mut count = 0;
    for entry in table::list() {
        // SAFETY: the slot is live and takes one word.
        let result = unsafe { entry.slot.code().cast::<unsafe extern "system" fn(usize) -> usize>()(7) };
        passed &= result == 7 + entry.data.addr();
        // SAFETY: its key was dropped above.
        passed &= table::release(unsafe { entry.slot.key() }).is_ok();
        count += 1;
    }
    passed && count == CAPACITY && table::live_count() == 0
}

fn is_stale() -> bool {
    let closure = |_: *mut c_void| 3;
    let callback = Callback::<Start>::from_ref(&closure).unwrap();
    let code = callback.code();
    // SAFETY: it lives.
    let live = unsafe { code(null_mut()) };
    drop(callback);
    // SAFETY: every callback that may be refused returns a number.
    unsafe { set_stale_handler(Some(|call| call.set_result(77))).unwrap() };
    // SAFETY: stale, and the stale handler returns.
    let result = unsafe { code(null_mut()) };
    // SAFETY: the default does not return.
    unsafe { set_stale_handler(None).unwrap() };
    (live, result) == (3, 77)
}

#[cfg(target_pointer_width = "64")]
fn has_unwind_data() -> bool {
    let closure = |_: *mut c_void| 0;
    let callback = Callback::<Start>::from_ref(&closure).unwrap();
    let first = (callback.code() as *const c_void).addr() - ENTRY_STRIDE * callback.slot().index();
    (0..CAPACITY).all(|slot| {
        let mut base = 0;
        let address = first + ENTRY_STRIDE * slot + ENTRY_RETURN;
        // SAFETY: looks the address up in tables.
        !unsafe { RtlLookupFunctionEntry(address as u64, &mut base, null_mut()) }.is_null()
    })
}

/// A typed closure and a dynamic one, called by rustc's code in each convention.
#[cfg(target_arch = "x86")]
macro_rules! in_convention {
    ($($name:ident $abi:literal $convention:ident)*) => { $(
        fn $name() -> bool {
            #[derive(Clone, Copy, PartialEq)]
            #[repr(C)]
            struct Words([u32; 3]);
            type Code = unsafe extern $abi fn(usize, i16, f64, i64, Words) -> Words;
            const ARGUMENTS: (usize, i16, f64, i64, Words) = (5, -6, 7.5, -8 << 40, Words([9, 10, 11]));
            #[inline(never)] // as `sum`
            fn dynamic() -> Dynamic<impl Fn(&mut Frame<'_>) + Sync> {
                let words = Type::Struct { size: 12 };
                let types = [Type::USIZE, Type::I16, Type::F64, Type::I64, words];
                let signature = Signature::new(Convention::$convention, &types, Some(words)).unwrap();
                Dynamic::new(signature, |frame: &mut Frame<'_>| {
                    let (a, b) = (frame.get::<usize>(0).unwrap(), frame.get::<i16>(1).unwrap());
                    let (c, d) = (frame.get::<f64>(2).unwrap(), frame.get::<i64>(3).unwrap());
                    let Ok(Value::Struct(bytes)) = frame.value(4) else { return };
                    let right = (a, b, c, d) == (ARGUMENTS.0, ARGUMENTS.1, ARGUMENTS.2, ARGUMENTS.3);
                    if right && bytes == [9, 0, 0, 0, 10, 0, 0, 0, 11, 0, 0, 0] {
                        frame.result_bytes().unwrap().copy_from_slice(&[12, 0, 0, 0, 13, 0, 0, 0, 14, 0, 0, 0]);
                    }
                })
            }
            let result = Words([12, 13, 14]);
            let closure = |a: usize, b: i16, c: f64, d: i64, e: Words| {
                if (a, b, c, d, e) == ARGUMENTS { result } else { Words([0; 3]) }
            };
            let callback = Callback::<Code>::from_ref(&closure).unwrap();
            let dynamic = dynamic();
            let described = Callback::from_dynamic(&dynamic).unwrap();
            let (a, b, c, d, e) = ARGUMENTS;
            // Often, so that a stack that is not cleaned up would run over.
            (0..1_000_000).all(|_| {
                // SAFETY: both live, and have this type.
                let results = unsafe {
                    (callback.code()(a, b, c, d, e), described.code().cast::<Code>()(a, b, c, d, e))
                };
                results == (result, result)
            })
        }
    )* };
}

#[cfg(target_arch = "x86")]
in_convention!(in_stdcall "stdcall" Stdcall in_cdecl "cdecl" Cdecl in_thiscall "thiscall" Thiscall
    in_fastcall "fastcall" Fastcall);
