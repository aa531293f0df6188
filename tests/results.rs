//! Rust callers: functions with data, and results of every kind.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m128i;

use calltable::Callback;

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
            // By fastcall, an argument in ECX and the data in EDX; then both in use.
            let one = |a: i32| { assert_eq!(a, 7); value };
            let callback = Callback::<unsafe extern $abi fn(i32) -> $ty>::from_ref(&one).unwrap();
            // SAFETY: it lives, and this is its type.
            assert_eq!(unsafe { callback.code()(7) }, value, "{} {}", $abi, stringify!($ty));
            let two = |a: i32, b: i32| { assert_eq!((a, b), (7, 8)); value };
            let callback = Callback::<unsafe extern $abi fn(i32, i32) -> $ty>::from_ref(&two).unwrap();
            // SAFETY: it lives, and this is its type.
            assert_eq!(unsafe { callback.code()(7, 8) }, value, "{} {}", $abi, stringify!($ty));
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

/// Rust calls with the same convention: by classes of registers, homogeneous structures in up to four, X8 for the rest.
#[cfg(target_arch = "aarch64")]
#[test]
fn results_of_every_class() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    #[repr(C)]
    struct Structure<const SIZE: usize>([u8; SIZE]);
    #[derive(Clone, Copy, PartialEq, Debug)]
    #[repr(C)]
    struct Same<T>(T, T, T, T);
    #[derive(Clone, Copy, PartialEq, Debug)]
    #[repr(C)]
    struct Mixed(f64, i64);
    macro_rules! check {
        ($($abi:literal)*, $ty:ty: $value:expr) => { $({
            let value: $ty = $value;
            // The data in X4; then on the stack, after other arguments there.
            let few = |a: i16, b: i64, c: f32, d: Structure<5>, e: *const u8| {
                assert_eq!((a, b, c, d, e as usize), (1, 2, 3.5, Structure([4; 5]), 6));
                value
            };
            type Few = unsafe extern $abi fn(i16, i64, f32, Structure<5>, *const u8) -> $ty;
            let many = |a: Structure<16>, b: i128, c: Same<f64>, d: Structure<16>, e: Structure<3>, f: i8, g: Same<f64>,
                        h: Same<f32>, i: u16| {
                assert_eq!((a, b, c, d), (Structure([1; 16]), -2, Same(3.0, 4.0, 5.0, 6.0), Structure([7; 16])));
                assert_eq!((e, f, g, h, i), (Structure([8; 3]), -9, Same(1.5, 2.5, 3.5, 4.5), Same(5., 6., 7., 8.), 9));
                value
            };
            type Many = unsafe extern $abi fn(
                Structure<16>, i128, Same<f64>, Structure<16>, Structure<3>, i8, Same<f64>, Same<f32>, u16,
            ) -> $ty;
            // The data in X1, after words on the stack: a counted call copies them.
            let mut floats = |a: Same<f64>, b: Same<f64>, c: Same<f64>, d: f32, e: i32| {
                assert_eq!((a, b), (Same(1., 2., 3., 4.), Same(5., 6., 7., 8.)));
                assert_eq!((c, d, e), (Same(9., 10., 11., 12.), 13.0, 14));
                value
            };
            type Floats = unsafe extern $abi fn(Same<f64>, Same<f64>, Same<f64>, f32, i32) -> $ty;
            for _ in 0..3 {
                let callback = Callback::<Few>::from_ref(&few).unwrap();
                // SAFETY: it lives, and this is its type; so below.
                let result = unsafe { callback.code()(1, 2, 3.5, Structure([4; 5]), 6 as *const u8) };
                assert_eq!(result, value, "{} {}", $abi, stringify!($ty));
                let callback = Callback::<Many>::from_ref(&many).unwrap();
                // SAFETY: as above.
                let result = unsafe {
                    callback.code()(Structure([1; 16]), -2, Same(3.0, 4.0, 5.0, 6.0), Structure([7; 16]),
                        Structure([8; 3]), -9, Same(1.5, 2.5, 3.5, 4.5), Same(5., 6., 7., 8.), 9)
                };
                assert_eq!(result, value, "{} {}", $abi, stringify!($ty));
                let callback = Callback::<Floats>::from_mut(&mut floats).unwrap();
                // SAFETY: as above.
                let result = unsafe {
                    callback.code()(Same(1., 2., 3., 4.), Same(5., 6., 7., 8.), Same(9., 10., 11., 12.), 13.0, 14)
                };
                assert_eq!(result, value, "{} {}", $abi, stringify!($ty));
            }
        })* };
        ($($ty:ty: $value:expr),* $(,)?) => { $( check!("C" "system" "efiapi", $ty: $value); )* };
    }
    check!(u8: 1, i16: -2, u32: 3, i64: -4, i128: -5, f32: 5.5, f64: -6.25, (): (), Mixed: Mixed(1.5, 2));
    check!(Structure<1>: Structure([1; 1]), Structure<3>: Structure([3; 3]), Structure<16>: Structure([4; 16]));
    check!(Structure<17>: Structure([5; 17]), Structure<100>: Structure([9; 100]));
    check!(Same<f32>: Same(1.0, 2.0, 3.0, 4.0), Same<f64>: Same(1.0, 2.0, 3.0, 4.0), Same<i64>: Same(1, 2, 3, 4));
}

/// As Clang for MSVC has it: `this` in X0, the address of a result that is a structure in X1, whatever its size.
#[cfg(target_arch = "aarch64")]
#[test]
fn a_method_returns_a_structure_through_the_pointer_after_this() {
    use calltable::{Convention, Dynamic, Method, Signature, Type};
    use std::ffi::c_void;
    type Result = [u64; 10];
    type Code = unsafe extern "C" fn(usize, *mut Result, f64, i64) -> *mut Result;
    let method = |this: usize, float: f64, number: i64| {
        assert_eq!((this, float, number), (7, 1.5, -2));
        [9; 10]
    };
    let typed = Callback::<Method<unsafe extern "C" fn(usize, f64, i64) -> Result>>::from_ref(&method).unwrap();
    let parameters = [Type::Pointer, Type::F64, Type::I64];
    let signature = Signature::method(Convention::C, &parameters, Some(Type::Struct { size: 80 })).unwrap();
    let handler = Dynamic::new(signature, |frame| {
        assert_eq!(frame.get::<*mut c_void>(0).map(|this| this.addr()), Ok(7));
        assert_eq!((frame.get(1), frame.get(2)), (Ok(1.5), Ok(-2_i64)));
        frame.result_bytes().unwrap().chunks_mut(8).for_each(|word| word.copy_from_slice(&9_u64.to_ne_bytes()));
    });
    let dynamic = Callback::from_dynamic(&handler).unwrap();
    for code in [typed.code().as_ptr(), dynamic.code().as_ptr()] {
        // SAFETY: both are called that way, and live.
        let code = unsafe { std::mem::transmute::<*const c_void, Code>(code) };
        let mut result = [0; 10];
        // SAFETY: as above.
        assert_eq!(unsafe { code(7, &mut result, 1.5, -2) }, &raw mut result);
        assert_eq!(result, [9; 10]);
    }
}
