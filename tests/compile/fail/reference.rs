//! A parameter that is a reference has a lifetime for each call, and such a type is another one for each.
use calltable::Callback;

#[repr(C)]
struct Message {
    number: i32,
}

fn main() {
    let number = |message: &Message| message.number;
    let _ = Callback::<unsafe extern "win64" fn(&Message) -> i32>::from_ref(&number);
}
