//! 17 parameters.
type Seventeen = unsafe extern "win64" fn(
    u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8,
);
fn main() {
    let _: Option<calltable::Callback<'_, Seventeen>> = None;
}
