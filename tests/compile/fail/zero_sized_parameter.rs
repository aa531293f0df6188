//! A parameter without bytes has no place in an argument position.
fn main() {
    let closure = |_: (), number: i32| number;
    let _ = calltable::Callback::<unsafe extern "win64" fn((), i32) -> i32>::from_ref(&closure);
}
