//! What differs by architecture: the conventions that entries can have, how a compiler passes data to a handler, the
//! trap.

cfg_if::cfg_if! {
    if #[cfg(all(target_arch = "x86_64", not(target_vendor = "apple")))] {
        mod x86_64;
        pub(crate) use x86_64::*;
    } else {
        compile_error!(
            "calltable has a CALL table for x86_64 (ELF and COFF targets) only; this target has another architecture \
             or object format"
        );
    }
}
