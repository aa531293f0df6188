#![doc = include_str!("../README.md")]
//!
//! # The way of one call
//!
//! 1. Foreign code calls an entry of the table, which calls the dispatcher (`asm/x86_64.S`, `asm/x86.S`).
//! 2. The dispatcher finds the slot's context by the return address (`src/context.rs`), reads handler and data, makes sure
//!    that they belong together, and takes the context's lane.
//! 3. Direct lane: the handler gets the arguments as they came and the data behind them (`src/callback.rs`). Frame lane:
//!    it gets the data and the arguments in memory (`src/frame.rs`, `src/signature.rs`).
//! 4. What the handler returns stays in its registers; the dispatcher returns to the entry, the entry to the foreign code.
//! 5. If the slot is not live, the handler is the stale one (`src/stale.rs`). If the handler raises an exception, it passes
//!    through, or ends here (`src/seh`).
//!
//! Who gets which slot, and how it is given back, is `src/table.rs`.
#![no_std]

#[cfg(feature = "std")]
extern crate std;

mod arch;
mod callback;
#[cfg(feature = "capi")]
#[doc(hidden)]
pub mod capi;
#[cfg(feature = "std")]
mod caught;
#[cfg(feature = "capi")]
#[doc = include_str!("../docs/c.md")]
pub mod c {}
mod context;
mod convention;
mod error;
mod frame;
pub mod seh;
mod signature;
mod stale;
pub mod table;

pub use callback::{Callback, Contained, Dynamic, FunctionPointer, Options};
#[cfg(feature = "std")]
pub use caught::Caught;
pub use convention::Convention;
pub use error::{Error, FrameError, ReleaseError, SignatureError};
pub use frame::{Frame, RawFrame, Scalar, Value};
pub use signature::{Signature, Type};
pub use stale::{StaleCall, StaleHandler, StaleReason, set_stale_handler};
pub use table::{CAPACITY, CodePointer, MAX_POSITIONS};
