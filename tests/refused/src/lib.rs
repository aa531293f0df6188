//! Callbacks that a target takes and, each by its feature, one that it must refuse when it is compiled.
#![no_std]

use calltable::{Callback, Error, Method};

#[repr(C)]
pub struct Floats(f32, f64);
#[repr(C)]
pub struct Variant([u64; 2]);

/// Structures of floating-point numbers are in registers for integers or in memory, on every target.
pub fn accepted(count: &mut i32) -> Result<(), Error> {
    let shared = |_: *const u8, floats: Floats, _: &'static str| floats;
    Callback::<unsafe extern "efiapi" fn(*const u8, Floats, &'static str) -> Floats>::from_ref(&shared).map(drop)?;
    let mut exclusive = || *count += 1;
    Callback::<unsafe extern "efiapi" fn()>::from_mut(&mut exclusive).map(drop)?;
    let method = |_: *const u8| Floats(1.0, 2.0);
    Callback::<Method<unsafe extern "efiapi" fn(*const u8) -> Floats>>::from_ref(&method).map(drop)?;
    Callback::<unsafe extern "efiapi" fn(u64) -> bool>::from_fn(&1, |data: &u64, other| *data == other).map(drop)
}

#[cfg(feature = "float_parameter")]
pub fn float_parameter() -> Result<(), Error> {
    Callback::<unsafe extern "efiapi" fn(u32, f64)>::from_ref(&|_, _| ()).map(drop)
}

#[cfg(feature = "float_result")]
pub fn float_result() -> Result<(), Error> {
    Callback::<unsafe extern "efiapi" fn(u32) -> f32>::from_ref(&|_| 1.0).map(drop)
}

/// 13 parameters of 40 bytes: 130 words on i686.
#[cfg(feature = "many_words")]
pub fn many_words() -> Result<(), Error> {
    type Large = [u64; 5];
    #[rustfmt::skip]
    type Code = unsafe extern "efiapi" fn(
        Large, Large, Large, Large, Large, Large, Large, Large, Large, Large, Large, Large, Large,
    );
    Callback::<Code>::from_ref(&|_, _, _, _, _, _, _, _, _, _, _, _, _| ()).map(drop)
}

/// Workbooks.Open without its last two: 58 words on i686, of 16 parameters.
pub fn many_parameters() -> Result<(), Error> {
    #[rustfmt::skip]
    type Code = unsafe extern "efiapi" fn(
        usize, usize, Variant, Variant, Variant, Variant, Variant, Variant, Variant, Variant, Variant, Variant, Variant,
        Variant, Variant, Variant,
    ) -> i32;
    Callback::<Code>::from_ref(&|_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _| 1).map(drop)
}
