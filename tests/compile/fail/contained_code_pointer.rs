//! The result of a callback whose signature is known at run time is set by `Dynamic::contained`'s policy, in the frame.
use calltable::{CodePointer, Contained, Convention, Dynamic, Signature};
fn main() {
    let signature = Signature::new(Convention::Win64, &[], None).unwrap();
    let _ = Contained::<CodePointer, _, _>::new(Dynamic::new(signature, |_| ()), |_| Some(()));
}
