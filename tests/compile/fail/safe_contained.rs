//! Where an exception ends, nothing is dropped: whoever contains it knows that nothing must be.
type Function = unsafe extern "win64" fn(i32) -> i32;
fn main() {
    let signature = calltable::Signature::new(calltable::Convention::Win64, &[], None).unwrap();
    let dynamic = calltable::Dynamic::new(signature, |_| ()).contained(|_, _| calltable::seh::Verdict::RETURN);
    let mut handler = calltable::Contained::new(|value: i32| value, |_| Some(0));
    let options = calltable::Options::new();
    let _ = calltable::Callback::<Function>::from_contained(&handler);
    let _ = calltable::Callback::<Function>::from_contained_with(options, &handler);
    let _ = calltable::Callback::<Function>::from_contained_mut(&mut handler);
    let _ = calltable::Callback::<Function>::from_contained_mut_with(options, &mut handler);
    let _ = calltable::Callback::from_contained_dynamic(&dynamic);
    let _ = calltable::Callback::from_contained_dynamic_with(options, &dynamic);
}
