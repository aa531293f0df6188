//! An exclusive closure may be called by another thread.
fn main() {
    let count = std::rc::Rc::new(0);
    let mut closure = |number: i32| number + *count;
    let _ = calltable::Callback::<unsafe extern "win64" fn(i32) -> i32>::from_mut(&mut closure);
}
