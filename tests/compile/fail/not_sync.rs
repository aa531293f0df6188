//! A closure that several threads may call at once must be `Sync`.
fn main() {
    let count = std::cell::Cell::new(0);
    let closure = |number: i32| count.set(number);
    let _ = calltable::Callback::<unsafe extern "win64" fn(i32)>::from_ref(&closure);
}
