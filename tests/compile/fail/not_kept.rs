//! Who does not keep the handle has a stale code pointer.
#![deny(unused_must_use)]
fn main() {
    let closure = |number: i32| number;
    calltable::Callback::<unsafe extern "win64" fn(i32) -> i32>::from_ref(&closure).unwrap();
    calltable::Options::new().tracked();
}
