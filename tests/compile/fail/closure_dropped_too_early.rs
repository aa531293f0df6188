//! A callback borrows its closure.
fn main() {
    let callback = {
        let closure = |number: i32| number;
        calltable::Callback::<unsafe extern "win64" fn(i32) -> i32>::from_ref(&closure).unwrap()
    };
    let _ = callback.code();
}
