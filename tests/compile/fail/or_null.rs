//! What an `Option` may hold is what is refused without it, too.
fn main() {
    let double = |number: i32| 2 * number;
    let _ = calltable::Callback::<Option<unsafe extern "C" fn(i32) -> i32>>::from_ref(&double);
    let _ = calltable::Callback::<Option<extern "win64" fn(i32) -> i32>>::from_ref(&double);
}
