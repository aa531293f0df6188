//! Only a key, once, or somebody's promise releases a slot: whoever registered relies on it.
use calltable::{Callback, CodePointer, table};

fn looks(callback: Callback<'_, CodePointer>) {
    let _ = table::release(callback.slot());
    let _ = table::release(table::list().next().unwrap().slot);
}

fn promises(callback: Callback<'_, CodePointer>) {
    let _ = table::release(callback.slot().key());
    let _ = table::SlotKey::from_raw(1);
    let _ = calltable::set_stale_handler(Some(|_| {}));
}

fn releases_twice(key: table::SlotKey) {
    let _ = table::release(key);
    let _ = table::release(key);
}

fn main() {}
