//! x86_64 has no stdcall.
fn main() {
    let closure = |number: i32| number;
    let _ = calltable::Callback::<unsafe extern "stdcall" fn(i32) -> i32>::from_ref(&closure);
}
