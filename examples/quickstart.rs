//! The crate in one minute: `cargo run --example quickstart`.

use calltable::{Callback, Convention, Dynamic, Signature, Type};

/// What a foreign interface asks for: a bare function pointer, and no place for data of ours.
type Compare = unsafe extern "win64" fn(i32, i32) -> i32;

/// Stands for the foreign code: returns the smallest number by its caller's order.
unsafe fn smallest(numbers: &[i32], compare: Compare) -> Option<i32> {
    // SAFETY: by the caller's promise `compare` may be called now.
    numbers.iter().copied().reduce(|a, b| if unsafe { compare(a, b) } <= 0 { a } else { b })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A closure with state becomes a function pointer: no code is written, nothing is allocated.
    let mut calls = 0;
    let mut by_distance = |a: i32, b: i32| {
        calls += 1;
        (a - 40).abs() - (b - 40).abs()
    };
    let callback = Callback::<Compare>::from_mut(&mut by_distance)?;
    // SAFETY: `callback` lives until the call has returned.
    let nearest = unsafe { smallest(&[7, 38, 99, 43], callback.code()) };
    drop(callback); // gives the slot back; a later call of the pointer would be caught
    println!("nearest to 40: {nearest:?}, after {calls} calls");

    // The same with a signature that is known only at run time, as in a language's virtual machine.
    let signature = Signature::new(Convention::NATIVE, &[Type::I32, Type::I32], Some(Type::I32))?;
    let descending = Dynamic::new(signature, |frame| {
        let (Ok(a), Ok(b)) = (frame.get::<i32>(0), frame.get::<i32>(1)) else { return };
        let _ = frame.set_result(b.wrapping_sub(a));
    });
    let callback = Callback::from_dynamic(&descending)?;
    // SAFETY: that is the signature above, and `callback` lives until the call has returned.
    println!("largest: {:?}", unsafe { smallest(&[7, 38, 99, 43], callback.code().cast()) });
    Ok(())
}
