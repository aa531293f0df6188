//! The closure must take what the function pointer says.
fn main() {
    let closure = |text: &str| text.len();
    let _ = calltable::Callback::<unsafe extern "win64" fn(i32) -> usize>::from_ref(&closure);
}
