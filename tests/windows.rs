//! Callbacks given to real Windows: its APIs, C and C++ code, its unwinder.
//!
//! `cargo xtask test windows` runs this under Wine; on Windows `cargo test` does, with GCC or Clang in PATH.
#![cfg(windows)]

#[path = "windows/apis.rs"]
mod apis;
#[path = "windows/build_dll.rs"]
mod build_dll;
#[path = "windows/c_side.rs"]
mod c_side;
#[path = "windows/callers.rs"]
mod callers;
#[path = "windows/chain.rs"]
mod chain;
#[path = "windows/com.rs"]
mod com;
#[path = "windows/contained.rs"]
mod contained;
#[path = "windows/gui.rs"]
mod gui;
#[path = "windows/guide/mod.rs"]
mod guide;
#[cfg(target_arch = "aarch64")]
#[path = "windows/microsoft.rs"]
mod microsoft;
#[path = "windows/stops.rs"]
mod stops;
#[path = "windows/threads.rs"]
mod threads;
#[path = "windows/unwinding.rs"]
mod unwinding;
