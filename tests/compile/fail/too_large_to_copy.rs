//! What is kept in a slot is as small as a pointer.
fn main() {
    let text = "two words";
    let _ = calltable::Callback::<unsafe extern "win64" fn() -> usize>::from_copy(move || text.len());
}
