//! What is fuzzed. The programs in `fuzz_targets` give it random inputs; the test `corpus` of the crate those that are
//! kept in `corpus`.

pub mod call;
pub mod capi;
pub mod frame;
