//! A closure that is called once may run on another thread, and be kept for ever only if it borrows nothing.
use calltable::{Callback, Once};

type Answer = unsafe extern "win64" fn() -> i32;

fn borrows(number: &i32) -> Answer {
    Callback::<Answer>::once(move || *number).unwrap().into_code()
}

fn outlives() -> Once<'static, Answer> {
    let number = 42;
    Callback::once(|| number).unwrap()
}

fn main() {
    let count = std::rc::Rc::new(0);
    let _ = Callback::<Answer>::once(move || *count);
    let _ = borrows(&42);
    let _ = outlives();
}
