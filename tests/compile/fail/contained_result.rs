//! A contained callback whose result has no place in the dispatcher's frame.
type Large = unsafe extern "win64" fn() -> [u8; 65];
fn main() {
    let handler = calltable::Contained::new(|| [0; 65], |_| Some([1; 65]));
    let _ = unsafe { calltable::Callback::<Large>::from_contained(&handler) };
}
