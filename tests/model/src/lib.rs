//! What the registry runs on when it is looked at by tools that cannot see into assembly (`tests/protocol`).
//!
//! - With the feature `loom`: a model checker's atomics, lock and threads. It tries the orders of events one after the
//!   other, and each value that a load may return by its memory ordering. The crate takes the place of `core`,
//!   `spin` and `heapless`, so that the component's source stays as it is.
//! - Without it: the real ones, for Miri and ThreadSanitizer.
//!
//! With the feature `narrow` the state of a slot is in two halves, as on 32-bit targets. With the feature `weak` the
//! dispatcher orders no more than AArch64's.
//!
//! `cargo xtask test races` runs all of it; by hand, in this folder, `cargo test --features loom`,
//! `cargo test --features loom,narrow`, `cargo test --features loom,weak` and `cargo +nightly miri test`.

#[cfg(feature = "loom")]
mod checked;
pub mod processor;
#[cfg(feature = "loom")]
pub use checked::{Cell, Flag, Vec, hint, look_at, model, mutex, sync, weakened};
#[cfg(feature = "loom")]
pub use loom::thread;
#[cfg(feature = "loom")]
pub use std::{cell, error, ffi, fmt, marker, mem, ops, ptr};

#[cfg(not(feature = "loom"))]
mod real;
#[cfg(not(feature = "loom"))]
pub use real::{Cell, Flag, look_at, model};
#[cfg(not(feature = "loom"))]
pub use std::thread;

/// A way in which the component's memory orderings are made weaker than they are written, to see the model fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// `fence(Release)` does nothing.
    ReleaseFence,
    /// Stores with `Release` are relaxed.
    Stores,
    /// `compare_exchange` is relaxed.
    Exchanges,
    /// `compare_exchange` is relaxed where it fails.
    Failures,
    /// AArch64: the first look is a plain load.
    Look,
    /// AArch64: the second look does not depend on what was read before it.
    LookAgain,
    /// A counted call does not acquire what others have released.
    Enter,
    /// A counted call does not release what it has done.
    Leave,
    /// The 0 of a state's lower half is stored only after the store that follows it, the one of the upper half.
    UpperHalfFirst,
}
