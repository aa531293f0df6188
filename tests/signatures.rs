//! C callers, from two compilers at two levels, against handlers in both lanes: every type in every position.
#![cfg(any(target_os = "linux", all(windows, target_env = "gnu")))]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m128i;
use std::cell::Cell;
use std::ffi::c_void;

use calltable::{Callback, Convention, Dynamic, Frame, Signature, Type, Value};
use calltable_callers::{Bytes, DoublePair, FloatPair, Function, Pattern, VARIADIC, for_each_case};

/// The convention of plain C.
#[cfg(target_arch = "x86_64")]
const C: Convention = Convention::Win64;
#[cfg(target_arch = "x86")]
const C: Convention = Convention::Cdecl;

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

fn called() {
    CALLS.set(CALLS.get() + 1);
}

/// Runs one C function of each variant with the callback, and checks that each called once and liked the result.
macro_rules! run {
    ($callback:expr, [$($caller:ident)*]) => { $(
        CALLS.set(0);
        // SAFETY: the C function calls with the signature of the case, while the callback lives.
        let satisfied = unsafe { calltable_callers::$caller($callback) };
        assert_eq!((satisfied, CALLS.get()), (1, 1), "{}: result, calls", stringify!($caller));
    )* };
}

/// The direct lane: a closure with the case's own types, shared and exclusive.
macro_rules! typed {
    ($case:ident $abi:literal [$($caller:ident)*] ($($a:ident: $P:ty),*) -> $R:ty, [$($types:expr),*], $result:expr) => {{
        type Code = unsafe extern $abi fn($($P),*) -> $R;
        let closure = |$($a: $P),*| -> $R {
            called();
            let mut _index = 0;
            $(
                assert!($a.is(_index), "{}: argument {_index}", stringify!($case));
                _index += 1;
            )*
            <$R>::pattern(99)
        };
        let callback = Callback::<Code>::from_ref(&closure).unwrap();
        run!(callback.code() as *const c_void, [$($caller)*]);
        drop(callback);
        let mut exclusive = closure;
        let callback = Callback::<Code>::from_mut(&mut exclusive).unwrap();
        run!(callback.code() as *const c_void, [$($caller)*]);
    }};
}

/// The frame lane: the same case from its description.
macro_rules! dynamic {
    ($case:ident $abi:literal [$($caller:ident)*] ($($a:ident: $P:ty),*) -> $R:ty, [$($types:expr),*], $result:expr) => {{
        let signature = Signature::new(convention($abi), &[$($types),*], $result).unwrap();
        let handler = Dynamic::new(signature, |frame| {
            called();
            for (index, value) in frame.values().enumerate() {
                assert!(value_is(value, index), "{}: argument {index}", stringify!($case));
            }
            set_result(frame);
        });
        let callback = Callback::from_dynamic(&handler).unwrap();
        run!(callback.code().as_ptr(), [$($caller)*]);
    }};
}

fn convention(name: &str) -> Convention {
    let all = [Convention::Win64, Convention::Stdcall, Convention::Cdecl, Convention::Thiscall, Convention::Fastcall];
    all.into_iter().find(|convention| convention.to_string() == name).unwrap()
}

fn value_is(value: Value<'_>, seed: usize) -> bool {
    match value {
        Value::Bool(value) => value.is(seed),
        Value::I8(value) => value.is(seed),
        Value::U8(value) => value.is(seed),
        Value::I16(value) => value.is(seed),
        Value::U16(value) => value.is(seed),
        Value::I32(value) => value.is(seed),
        Value::U32(value) => value.is(seed),
        Value::I64(value) => value.is(seed),
        Value::U64(value) => value.is(seed),
        Value::I128(value) => value.is(seed),
        Value::U128(value) => value.is(seed),
        Value::F32(value) => value.is(seed),
        Value::F64(value) => value.is(seed),
        Value::Pointer(value) => value.is(seed),
        Value::Struct(bytes) => bytes == &Bytes::<24>::pattern(seed).0[..bytes.len()],
        other => panic!("no case has {other:?}"),
    }
}

fn set_result(frame: &mut Frame<'_>) {
    let Some(result) = frame.signature().result() else { return };
    match result {
        Type::Bool => frame.set_result(bool::pattern(99)),
        Type::I8 => frame.set_result(i8::pattern(99)),
        Type::U8 => frame.set_result(u8::pattern(99)),
        Type::I16 => frame.set_result(i16::pattern(99)),
        Type::U16 => frame.set_result(u16::pattern(99)),
        Type::I32 => frame.set_result(i32::pattern(99)),
        Type::U32 => frame.set_result(u32::pattern(99)),
        Type::I64 => frame.set_result(i64::pattern(99)),
        Type::U64 => frame.set_result(u64::pattern(99)),
        Type::I128 => frame.set_result(i128::pattern(99)),
        Type::U128 => frame.set_result(u128::pattern(99)),
        Type::F32 => frame.set_result(f32::pattern(99)),
        Type::F64 => frame.set_result(f64::pattern(99)),
        Type::Pointer => frame.set_result(<*mut c_void>::pattern(99)),
        Type::Struct { .. } => frame.result_bytes().map(|bytes| {
            let length = bytes.len();
            bytes.copy_from_slice(&Bytes::<24>::pattern(99).0[..length]);
        }),
        other => panic!("no case has {other:?}"),
    }
    .unwrap();
}

#[test]
fn typed_closures_get_every_type_in_every_position() {
    for_each_case!(typed);
}

#[test]
fn dynamic_closures_get_every_type_in_every_position() {
    for_each_case!(dynamic);
}

#[test]
fn variadic_style_calls() {
    type Code = unsafe extern "efiapi" fn(i32, f64, i64, f64, f64, i64, f64) -> i64;
    let want = (-3, 2.5, 0x0123_4567_89ab_cdef, -4.75, 6.125, -7, 8.5);
    let typed = |a: i32, b: f64, c: i64, d: f64, e: f64, f: i64, g: f64| {
        assert_eq!((a, b, c, d, e, f, g), want);
        42
    };
    let typed = Callback::<Code>::from_ref(&typed).unwrap();
    let types = [Type::I32, Type::F64, Type::I64, Type::F64, Type::F64, Type::I64, Type::F64];
    let dynamic = Dynamic::new(Signature::new(C, &types, Some(Type::I64)).unwrap(), |frame| {
        let (a, b, c, d) = (frame.get(0), frame.get(1), frame.get(2), frame.get(3));
        let (e, f, g) = (frame.get(4), frame.get(5), frame.get(6));
        let got = (a.unwrap(), b.unwrap(), c.unwrap(), d.unwrap(), e.unwrap(), f.unwrap(), g.unwrap());
        assert_eq!(got, want);
        frame.set_result(42_i64).unwrap();
    });
    // A variadic callee may as well read floating-point arguments from the integer registers.
    let types = types.map(|ty| if ty == Type::F64 { Type::U64 } else { ty });
    let as_bits = Dynamic::new(Signature::new(C, &types, Some(Type::I64)).unwrap(), |frame| {
        for (index, want) in [(1, want.1), (3, want.3), (4, want.4), (6, want.6)] {
            assert_eq!(f64::from_bits(frame.get(index).unwrap()), want);
        }
        frame.set_result(42_i64).unwrap();
    });
    let dynamic = Callback::from_dynamic(&dynamic).unwrap();
    let as_bits = Callback::from_dynamic(&as_bits).unwrap();
    for caller in VARIADIC {
        for code in [typed.code() as *const c_void, dynamic.code().as_ptr(), as_bits.code().as_ptr()] {
            // SAFETY: the C function calls with that signature.
            assert_eq!(unsafe { caller(code) }, 1);
        }
    }
}

#[test]
fn functions_with_data() {
    struct Scale(i32);
    impl Scale {
        fn apply(&self, value: i32) -> i32 {
            self.0 * value
        }
    }
    static TRIPLE: Scale = Scale(3);
    let by_name = Callback::<unsafe extern "efiapi" fn(i32) -> i32>::from_fn(&TRIPLE, Scale::apply).unwrap();
    let by_closure =
        Callback::<unsafe extern "efiapi" fn(i32) -> i32>::from_fn(&TRIPLE, |scale, value| scale.0 - value).unwrap();
    // SAFETY: both live, and these are their types.
    unsafe {
        assert_eq!(by_name.code()(14), 42);
        assert_eq!(by_closure.code()(14), -11);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn results_that_rust_returns_in_xmm0_or_through_a_pointer() {
    /// Rust returns this one as it returns an `i128`.
    #[derive(Clone, Copy, PartialEq, Debug)]
    #[repr(transparent)]
    struct Wrapper(i128);
    /// And this one, of the same size and alignment, through a hidden pointer.
    #[derive(Clone, Copy, PartialEq, Debug)]
    #[repr(C)]
    struct Structure(i128);
    macro_rules! check {
        ($($ty:ty: $value:expr),*) => { $({
            let value: $ty = $value;
            let closure = |a: i64, b: i64| { assert_eq!((a, b), (1, 2)); value };
            let callback = Callback::<unsafe extern "win64" fn(i64, i64) -> $ty>::from_ref(&closure).unwrap();
            // SAFETY: it lives, and this is its type.
            assert_eq!(unsafe { callback.code()(1, 2) }, value, stringify!($ty));
        })* };
    }
    check!(i128: -5, u128: 7 << 100, Wrapper: Wrapper(-9), Structure: Structure(11), [u8; 5]: [1, 2, 3, 4, 5],
        [u64; 100]: [3; 100], (u64, u64): (8, 9), Option<u64>: Some(4));
    // SAFETY: SSE2 is part of every x86_64 that this test runs on.
    let vector: __m128i = unsafe { std::mem::transmute([1_u64, 2]) };
    let closure = |a: i64| {
        assert_eq!(a, 5);
        vector
    };
    let callback = Callback::<unsafe extern "win64" fn(i64) -> __m128i>::from_ref(&closure).unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { std::mem::transmute::<__m128i, [u64; 2]>(callback.code()(5)) }, [1, 2]);
}

/// Rust calls with the same convention, so whatever it does with a result, it must come back, and the stack be right.
#[cfg(target_arch = "x86")]
#[test]
fn results_of_every_size_in_every_convention() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    #[repr(C)]
    struct Structure<const SIZE: usize>([u8; SIZE]);
    macro_rules! check {
        ($($abi:literal)*, $ty:ty: $value:expr) => { $({
            let value: $ty = $value;
            let closure = |a: i16, b: i64, c: f32, d: Structure<5>, e: *const u8| {
                assert_eq!((a, b, c, d, e as usize), (1, 2, 3.5, Structure([4; 5]), 6));
                value
            };
            type Code = unsafe extern $abi fn(i16, i64, f32, Structure<5>, *const u8) -> $ty;
            let callback = Callback::<Code>::from_ref(&closure).unwrap();
            for _ in 0..100 {
                // SAFETY: it lives, and this is its type.
                let result = unsafe { callback.code()(1, 2, 3.5, Structure([4; 5]), 6 as *const u8) };
                assert_eq!(result, value, "{} {}", $abi, stringify!($ty));
            }
            let nothing = || value;
            let callback = Callback::<unsafe extern $abi fn() -> $ty>::from_ref(&nothing).unwrap();
            // SAFETY: it lives, and this is its type.
            assert_eq!(unsafe { callback.code()() }, value, "{} {}", $abi, stringify!($ty));
        })* };
        ($($ty:ty: $value:expr),*) => { $(
            check!("stdcall" "cdecl" "thiscall" "fastcall" "C" "system" "efiapi", $ty: $value);
        )* };
    }
    check!(u8: 1, i16: -2, u32: 3, i64: -4, f32: 5.5, f64: -6.25, (): ());
    check!(Structure<1>: Structure([1; 1]), Structure<2>: Structure([2; 2]), Structure<3>: Structure([3; 3]));
    check!(Structure<4>: Structure([4; 4]), Structure<8>: Structure([8; 8]), Structure<100>: Structure([9; 100]));
}
