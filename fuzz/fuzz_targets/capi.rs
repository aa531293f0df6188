//! Gives the C interface random work.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: calltable_fuzz::capi::Input| calltable_fuzz::capi::test(input));
