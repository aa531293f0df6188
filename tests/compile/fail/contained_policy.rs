//! A policy that gives another type than the callback returns.
type Function = unsafe extern "win64" fn(i32) -> i32;
fn main() {
    let handler = calltable::Contained::new(|value: i32| value, |_| Some("text"));
    let _ = unsafe { calltable::Callback::<Function>::from_contained(&handler) };
}
