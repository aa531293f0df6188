//! What is kept in a slot is copied, and as small as a pointer.
use calltable::Callback;

type Answer = unsafe extern "win64" fn() -> usize;

fn main() {
    let text = String::new();
    let _ = Callback::<Answer>::from_copy(move || text.len());
    let cell = std::sync::atomic::AtomicUsize::new(0);
    let _ = Callback::<Answer>::from_copy(move || cell.load(std::sync::atomic::Ordering::Relaxed));
    let _ = local();
}

fn local() -> Callback<'static, Answer> {
    let number = 42;
    let reference = &number;
    Callback::from_copy(move || *reference).unwrap()
}
