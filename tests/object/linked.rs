//! A program that tests/object.rs links with `linker/calltable.ld`: what the linker and the crate say must agree.

use calltable::{Callback, table};

unsafe extern "C" {
    static calltable_text_start: u8;
    static calltable_contexts_start: u8;
    static calltable_contexts_end: u8;
}

fn main() {
    let double = Callback::<unsafe extern "win64" fn(u32) -> u32>::from_ref(&|number| 2 * number).unwrap().leak();
    assert_eq!(table::slot_of((&raw const calltable_text_start).cast()), Some(0));
    let pages = &raw const calltable_contexts_start..&raw const calltable_contexts_end;
    // SAFETY: what is registered was leaked, and no call is running.
    assert_eq!(unsafe { table::seal() }, Ok(pages));
    // SAFETY: it lives for ever.
    assert_eq!(unsafe { double(21) }, 42);
}
