//! A code pointer may outlive its callback, so calling it is unsafe.
fn main() {
    let closure = |number: i32| number;
    let _ = calltable::Callback::<extern "win64" fn(i32) -> i32>::from_ref(&closure);
}
