//! Longer texts, each about one use of this crate.

#[doc = include_str!("../docs/embed-in-a-runtime.md")]
pub mod embed_in_a_runtime {}
