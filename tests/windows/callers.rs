//! C callers, in each convention, without and with optimisation, against typed closures and dynamic ones; calls that
//! nest, block, and come on other threads.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use calltable::{Callback, Convention, Dynamic, Element, Frame, Options, Signature, Type, Value};

use crate::c_side::{C, LEVELS, Unary, caller, function};

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
    static WRONG: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Byte `index` of value number `seed`, as callers.c makes it.
fn byte(seed: usize, index: usize) -> u8 {
    (seed * 37 + index * 11 + 5) as u8
}

/// A type of the cases, all of whose bytes count.
trait Pattern: Copy {
    const TYPE: Type;

    fn pattern(seed: usize) -> Self {
        let mut value = std::mem::MaybeUninit::<Self>::uninit();
        for index in 0..size_of::<Self>() {
            // SAFETY: within the value.
            unsafe { value.as_mut_ptr().cast::<u8>().add(index).write(byte(seed, index)) };
        }
        // SAFETY: every byte has been written, and implementors take any.
        unsafe { value.assume_init() }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: implementors have no padding.
        unsafe { std::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }
}

macro_rules! patterns {
    ($($name:ty: $kind:expr),*) => { $(impl Pattern for $name { const TYPE: Type = $kind; })* };
}
patterns!(u8: Type::U8, i8: Type::I8, u16: Type::U16, i16: Type::I16, u32: Type::U32, i32: Type::I32, u64: Type::U64,
    i64: Type::I64, f32: Type::F32, f64: Type::F64, FloatPair: Type::Homogeneous { element: Element::F32, count: 2 },
    DoublePair: Type::Homogeneous { element: Element::F64, count: 2 }, usize: Type::USIZE);

#[derive(Clone, Copy)]
#[repr(C)]
struct Bytes<const SIZE: usize>([u8; SIZE]);
#[derive(Clone, Copy)]
#[repr(C)]
struct FloatPair(f32, f32);
#[derive(Clone, Copy)]
#[repr(C)]
struct DoublePair(f64, f64);

impl<const SIZE: usize> Pattern for Bytes<SIZE> {
    const TYPE: Type = Type::Struct { size: SIZE as u32 };
}

/// Notes an argument that is not what the C side passed.
fn check(index: usize, bytes: &[u8]) {
    if !bytes.iter().enumerate().all(|(at, found)| *found == byte(index, at)) {
        WRONG.set(Some(index));
    }
}

fn check_value(index: usize, value: Value<'_>) {
    match value {
        Value::U8(value) => check(index, value.bytes()),
        Value::I8(value) => check(index, value.bytes()),
        Value::U16(value) => check(index, value.bytes()),
        Value::I16(value) => check(index, value.bytes()),
        Value::U32(value) => check(index, value.bytes()),
        Value::I32(value) => check(index, value.bytes()),
        Value::U64(value) => check(index, value.bytes()),
        Value::I64(value) => check(index, value.bytes()),
        Value::F32(value) => check(index, value.bytes()),
        Value::F64(value) => check(index, value.bytes()),
        Value::Struct(bytes) => check(index, bytes),
        _ => WRONG.set(Some(index)),
    }
}

fn set_result(frame: &mut Frame<'_>) {
    let set = match frame.signature().result().unwrap() {
        Type::U8 => frame.set_result(u8::pattern(99)),
        Type::I8 => frame.set_result(i8::pattern(99)),
        Type::U16 => frame.set_result(u16::pattern(99)),
        Type::I16 => frame.set_result(i16::pattern(99)),
        Type::U32 => frame.set_result(u32::pattern(99)),
        Type::I32 => frame.set_result(i32::pattern(99)),
        Type::U64 => frame.set_result(u64::pattern(99)),
        Type::I64 => frame.set_result(i64::pattern(99)),
        Type::F32 => frame.set_result(f32::pattern(99)),
        Type::F64 => frame.set_result(f64::pattern(99)),
        _ => frame.result_bytes().map(|bytes| {
            bytes.iter_mut().enumerate().for_each(|(at, place)| *place = byte(99, at));
        }),
    };
    set.unwrap();
}

/// Has the C function call, and asserts that the callback ran once, with the right arguments, and that its result came
/// back and the stack pointer was right.
fn call(name: &str, convention: Convention, lane: &str, code: *const c_void) {
    for level in LEVELS {
        let name = format!("{name}_{convention}_{level}");
        // SAFETY: every caller of the list has this type.
        let caller: unsafe extern "C" fn(*const c_void) -> i32 = unsafe { function(&name) };
        CALLS.set(0);
        WRONG.set(None);
        // SAFETY: the code pointer serves the signature that this C function calls with.
        let answer = unsafe { caller(code) };
        assert_eq!(WRONG.get(), None, "{name}, {lane}: the argument with this number");
        assert_ne!(answer, 2, "{name}, {lane}: the stack pointer after the call is another one");
        assert_eq!((answer, CALLS.get()), (1, 1), "{name}, {lane}: right result, calls");
    }
}

/// Expands the macro `$what` for each convention of the target.
#[cfg(target_arch = "x86_64")]
macro_rules! for_each_convention {
    ($what:ident $($rest:tt)*) => { $what! { win64 "win64" Win64 $($rest)* } };
}
#[cfg(target_arch = "aarch64")]
macro_rules! for_each_convention {
    ($what:ident $($rest:tt)*) => { $what! { aapcs64 "C" Aapcs64 $($rest)* } };
}
#[cfg(target_arch = "x86")]
macro_rules! for_each_convention {
    ($what:ident $($rest:tt)*) => {
        $what! { stdcall "stdcall" Stdcall $($rest)* }
        $what! { cdecl "cdecl" Cdecl $($rest)* }
        $what! { thiscall "thiscall" Thiscall $($rest)* }
        $what! { fastcall "fastcall" Fastcall $($rest)* }
    };
}

/// One line of the list in callers.c, in each convention but those after `except`.
macro_rules! case {
    ($($line:tt)*) => {{ for_each_convention! { case_in $($line)* } }};
}

macro_rules! case_in {
    ($module:ident $abi:literal $convention:ident $name:ident $parameters:tt -> $R:ty, except $($except:literal)*) => {
        if ![$($except),*].contains(&$abi) {
            case_in! { $module $abi $convention $name $parameters -> $R }
        }
    };
    ($module:ident $abi:literal $convention:ident $name:ident($($a:ident: $A:ty),*) -> $R:ty) => {{
        type Code = unsafe extern $abi fn($($A),*) -> $R;
        let convention = Convention::$convention;
        let typed = |$($a: $A),*| -> $R {
            CALLS.set(CALLS.get() + 1);
            let mut _index = 0;
            $(
                check(_index, $a.bytes());
                _index += 1;
            )*
            <$R>::pattern(99)
        };
        let callback = Callback::<Code>::from_ref(&typed).unwrap();
        call(stringify!($name), convention, "typed", callback.code() as *const c_void);
        let mut exclusive = typed;
        let callback = Callback::<Code>::from_mut(&mut exclusive).unwrap();
        call(stringify!($name), convention, "exclusive", callback.code() as *const c_void);
        let types = [$(<$A>::TYPE),*];
        let signature = Signature::new(convention, &types, Some(<$R>::TYPE)).unwrap();
        let dynamic = Dynamic::new(signature, |frame| {
            CALLS.set(CALLS.get() + 1);
            frame.values().enumerate().for_each(|(index, value)| check_value(index, value));
            set_result(frame);
        });
        let callback = Callback::from_dynamic(&dynamic).unwrap();
        call(stringify!($name), convention, "dynamic", callback.code().as_ptr());
    }};
}

// The conventions after `except` are those in which compilers do not agree: where fastcall passes a small argument that
// comes after a structure or 64 bits; a method whose `this` is no pointer; where fastcall and thiscall pass the address
// of a result, in ECX (GCC both, rustc and Clang for this target the second) or on the stack (Microsoft).

#[test]
fn two_to_ten_words() {
    case!(words2(a: usize, b: usize) -> usize);
    case!(words3(a: usize, b: usize, c: usize) -> usize);
    case!(words4(a: usize, b: usize, c: usize, d: usize) -> usize);
    case!(words5(a: usize, b: usize, c: usize, d: usize, e: usize) -> usize);
    case!(words6(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> usize);
    case!(words7(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize, g: usize) -> usize);
    case!(words8(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize, g: usize, h: usize) -> usize);
    case!(words9(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize, g: usize, h: usize, i: usize) -> usize);
    case!(words10(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize, g: usize, h: usize, i: usize, j: usize)
        -> usize);
}

#[test]
fn nine_small_integers() {
    case!(nine_u8(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8) -> u8);
    case!(nine_u16(a: u16, b: u16, c: u16, d: u16, e: u16, f: u16, g: u16, h: u16, i: u16) -> u16);
    case!(nine_i8(a: i8, b: i8, c: i8, d: i8, e: i8, f: i8, g: i8, h: i8, i: i8) -> i8);
    case!(nine_i16(a: i16, b: i16, c: i16, d: i16, e: i16, f: i16, g: i16, h: i16, i: i16) -> i16);
    case!(nine_u32(a: u32, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32, h: u32, i: u32) -> u32);
}

#[test]
fn mixed_widths() {
    case!(five_mixed(a: i8, b: i16, c: i32, d: i64, e: u8) -> i32);
    case!(nine_mixed(a: u8, b: i16, c: u32, d: i64, e: i8, f: u16, g: i32, h: u64, i: u8) -> u16);
    case!(odd_64_bit(a: i32, b: i64, c: i32, d: u64, e: i8, f: i64, g: u16, h: f64, i: i32) -> i64, except "fastcall");
}

#[test]
fn floats_and_doubles() {
    case!(nine_floats(a: f32, b: f32, c: f32, d: f32, e: f32, f: f32, g: f32, h: f32, i: f32) -> f32);
    case!(nine_doubles(a: f64, b: f64, c: f64, d: f64, e: f64, f: f64, g: f64, h: f64, i: f64) -> f64);
    case!(floats_and_words(a: usize, b: f32, c: usize, d: f64, e: f32, f: usize, g: f64, h: usize, i: f32) -> f64);
}

#[test]
fn structures_as_arguments() {
    case!(five_pairs(a: Bytes<2>, b: Bytes<2>, c: Bytes<2>, d: Bytes<2>, e: Bytes<2>) -> usize, except "thiscall");
    case!(mixed_structures(a: Bytes<3>, b: i32, c: Bytes<8>, d: Bytes<12>, e: f64, f: Bytes<24>, g: Bytes<2>)
        -> Bytes<8>, except "thiscall" "fastcall");
}

#[test]
fn registers_full_then_everything() {
    case!(words_then_the_rest(a: usize, b: u8, c: Bytes<3>, d: i64, e: Bytes<8>, f: f64, g: Bytes<24>, h: f32)
        -> Bytes<8>);
}

#[test]
fn structures_as_results() {
    case!(result_2(a: usize) -> Bytes<2>);
    case!(result_3(a: usize, b: f64) -> Bytes<3>, except "thiscall" "fastcall");
    case!(result_8() -> Bytes<8>);
    case!(result_float_pair(a: f32, b: usize, c: f32) -> FloatPair);
    case!(result_double_pair(a: f64, b: usize, c: f64) -> DoublePair, except "thiscall" "fastcall");
    case!(result_12(a: usize, b: usize, c: usize, d: usize) -> Bytes<12>, except "thiscall" "fastcall");
    case!(result_24(a: usize, b: f64, c: i8, d: i64, e: f32) -> Bytes<24>, except "thiscall" "fastcall");
}

/// Calls that nest, in one convention.
macro_rules! nesting {
    ($module:ident $abi:literal $convention:ident) => {
        mod $module {
            use super::*;

            type Unary = unsafe extern $abi fn(isize) -> isize;
            type Caller = unsafe extern "C" fn(Unary, isize) -> isize;

            fn caller(name: &str, level: &str) -> Caller {
                // SAFETY: the C functions that this is asked for have this type.
                unsafe { function(&format!("{name}_{}_{level}", Convention::$convention)) }
            }

            /// A callback whose handler has C call it again, down to depth 0; each level adds one.
            fn with_nesting<R>(level: &str, options: Options, work: impl FnOnce(Unary) -> R) -> R {
                let nest = caller("nest", level);
                let code = AtomicUsize::new(0);
                let closure = |depth: isize| {
                    if depth == 0 {
                        return 0;
                    }
                    // SAFETY: set below to the code pointer, before the first call.
                    let code = unsafe { std::mem::transmute::<usize, Unary>(code.load(Ordering::Relaxed)) };
                    // SAFETY: the callback lives while this handler of it runs.
                    1 + unsafe { nest(code, depth - 1) }
                };
                let callback = Callback::<Unary>::from_ref_with(options, &closure).unwrap();
                code.store(callback.code() as usize, Ordering::Relaxed);
                work(callback.code())
            }

            #[test]
            fn nested_callbacks() {
                for level in LEVELS {
                    for options in [Options::new(), Options::new().tracked()] {
                        // SAFETY: the callback lives while `work` runs.
                        let depth = with_nesting(level, options, |code| unsafe { caller("nest", level)(code, 500) });
                        assert_eq!(depth, 500);
                    }
                }
            }

            #[test]
            fn a_hundred_thousand_nested_calls_leave_the_stack_as_it_was() {
                for level in LEVELS {
                    let (lowest, highest) = (AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
                    let repeat = caller("repeat", level);
                    with_nesting(level, Options::new().tracked(), |inner| {
                        let closure = |value: isize| {
                            let here = 0_u8;
                            lowest.fetch_min((&raw const here).addr(), Ordering::Relaxed);
                            highest.fetch_max((&raw const here).addr(), Ordering::Relaxed);
                            // SAFETY: the inner callback lives while this closure may be called.
                            value - value + unsafe { inner(2) }
                        };
                        let callback = Callback::<Unary>::from_ref(&closure).unwrap();
                        // SAFETY: the callback lives.
                        assert_eq!(unsafe { repeat(callback.code(), 100_000) }, 200_000);
                    });
                    let (lowest, highest) = (lowest.into_inner(), highest.into_inner());
                    assert_eq!(lowest, highest, "stack addresses of the handler's local variable");
                }
            }
        }
    };
}

for_each_convention! { nesting }

#[test]
fn a_callback_that_waits_for_another_thread() {
    let (ask, asked) = mpsc::sync_channel::<isize>(0);
    let (answer, answered) = mpsc::sync_channel::<isize>(0);
    let worker = thread::spawn(move || {
        while let Ok(value) = asked.recv() {
            thread::sleep(Duration::from_millis(5));
            answer.send(value * 2).unwrap();
        }
    });
    let mut closure = move |value: isize| {
        ask.send(value).unwrap();
        answered.recv_timeout(Duration::from_secs(30)).unwrap()
    };
    let callback = Callback::<Unary>::from_mut(&mut closure).unwrap();
    // SAFETY: the callback lives; 0 + 2 + 4 + ... + 18.
    assert_eq!(unsafe { caller("repeat", "O2")(callback.code(), 10) }, 90);
    drop(callback);
    drop(closure);
    worker.join().unwrap();
}

#[test]
fn a_callback_on_a_thread_that_c_made() {
    let here = thread::current().id();
    let seen = AtomicI64::new(0);
    let closure = |parameter: *mut c_void| {
        assert_ne!(thread::current().id(), here);
        seen.fetch_add(parameter.addr() as i64, Ordering::Relaxed);
        77_u32
    };
    type Start = unsafe extern "system" fn(*mut c_void) -> u32;
    let callback = Callback::<Start>::from_ref(&closure).unwrap();
    for level in LEVELS {
        // SAFETY: that is the C function's type.
        let run: unsafe extern "C" fn(Start, *mut c_void) -> i64 =
            unsafe { function(&format!("in_new_thread_{C}_{level}")) };
        // SAFETY: the C function returns when the thread has ended; the callback lives longer.
        assert_eq!(unsafe { run(callback.code(), std::ptr::without_provenance_mut(21)) }, 77);
    }
    assert_eq!(seen.load(Ordering::Relaxed), 42);
}
