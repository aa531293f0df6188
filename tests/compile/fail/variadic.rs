//! A closure has a fixed number of arguments: what to write for a function that has not.
use calltable::Callback;

fn main() {
    let printf = |_format| 0;
    let _ = Callback::<unsafe extern "win64" fn(*const u8, ...) -> i32>::from_ref(&printf);
}
