//! 0 and 16 parameters and a hidden result pointer, both names of the convention, closures without annotations; types
//! that may be null, as bindings have them.
use calltable::Callback;

type Sixteen = unsafe extern "win64" fn(
    u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, bool, u32, usize, isize, *const u8, Option<&'static u8>,
) -> [u8; 3];

fn main() {
    let mut calls = 0;
    let mut nothing = || calls += 1;
    let nothing = Callback::<unsafe extern "efiapi" fn()>::from_mut(&mut nothing).unwrap();
    let sum = |a, b, c, d, e, f, g, h, i: f32, j: f64, k, l, m, n, o: *const u8, p: Option<&u8>| {
        assert_eq!((a, b, c, d, e, f, g, h), (1, -2, 3, -4, 5, -6, 7, -8));
        assert_eq!((i, j, k, l, m, n, o.is_null(), p), (9.5, -10.5, true, 99, 11, -12, true, Some(&13)));
        [1, 2, 3]
    };
    let sum = Callback::<Sixteen>::from_ref(&sum).unwrap();
    // SAFETY: both live.
    unsafe {
        nothing.code()();
        let null = std::ptr::null();
        let result = sum.code()(1, -2, 3, -4, 5, -6, 7, -8, 9.5, -10.5, true, 99, 11, -12, null, Some(&13));
        assert_eq!(result, [1, 2, 3]);
    }
    drop(nothing);
    assert_eq!(calls, 1);

    type OrNull = Option<unsafe extern "win64" fn(i32) -> i32>;
    let mut total = 40;
    let mut add = |number| {
        total += number;
        total
    };
    let add = Callback::<OrNull>::from_mut(&mut add).unwrap();
    let subtract = Callback::<OrNull>::from_fn(&44, |from: &i32, number| from - number).unwrap();
    for code in [add.code(), subtract.code()] {
        // SAFETY: both live.
        assert_eq!(code.map(|code| unsafe { code(2) }), Some(42));
    }
}
