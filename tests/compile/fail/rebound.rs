//! A callback that is rebound is gone, and the new one lives no longer than what it borrows; its type is the same.
use calltable::Callback;

type Answer = unsafe extern "win64" fn() -> i32;
type Double = unsafe extern "win64" fn(i32) -> i32;

fn other_type() {
    let callback = Callback::<Answer>::from_ref(&|| 41).unwrap();
    let _ = callback.rebind(Callback::<Double>::from_ref(&|number| 2 * number).unwrap());
}

fn main() {
    let callback = Callback::<Answer>::from_ref(&|| 41).unwrap();
    let rebound = {
        let number = 42;
        let closure = || number;
        callback.rebind(Callback::from_ref(&closure).unwrap()).unwrap()
    };
    let _ = (callback.code(), rebound.code());

    let reserved = Callback::<Answer>::unbound().unwrap();
    let number = 42;
    let closure = || number;
    let _ = reserved.rebind(Callback::from_ref(&closure).unwrap()).unwrap().leak();
}
