//! Only what lives for ever can be leaked.
fn main() {
    let number = 1;
    let closure = || number;
    let _ = calltable::Callback::<unsafe extern "win64" fn() -> i32>::from_ref(&closure).unwrap().leak();
}
