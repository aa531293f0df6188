//! A callback that owns its closure may be dropped by another thread, and lives no longer than what is borrowed.
use calltable::Callback;

type Answer = unsafe extern "win64" fn() -> i32;

fn borrows() -> Callback<'static, Answer> {
    let number = 42;
    Callback::new(|| number).unwrap()
}

fn main() {
    let count = std::rc::Rc::new(0);
    let _ = Callback::<Answer>::new_mut(move || *count);
    let cell = std::cell::Cell::new(0);
    let _ = Callback::<Answer>::new(move || cell.get());
    let _ = borrows();
}
