//! The numbers that Rust and assembly share, written once in the build script.
#![allow(dead_code, reason = "some are only for the assembly, on some targets")]

include!(concat!(env!("OUT_DIR"), "/layout.rs"));
