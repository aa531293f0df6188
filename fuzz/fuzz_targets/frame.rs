//! Gives signatures and frames random work.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: calltable_fuzz::frame::Input| calltable_fuzz::frame::test(input));
