//! The table serves Windows conventions.
fn main() {
    let closure = |number: i32| number;
    let _ = calltable::Callback::<unsafe extern "sysv64" fn(i32) -> i32>::from_ref(&closure);
}
