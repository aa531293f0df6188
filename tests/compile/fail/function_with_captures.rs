//! `from_fn` has room for the data only.
fn main() {
    static DATA: i32 = 1;
    let captured = 2;
    let _ = calltable::Callback::<unsafe extern "win64" fn() -> i32>::from_fn(&DATA, move |data| data + captured);
}
