#![doc = include_str!("../README.md")]
#![no_std]

#[cfg(test)]
extern crate std;

mod arch;
mod callback;
mod context;
mod convention;
mod error;
mod frame;
mod signature;
mod stale;
pub mod table;

pub use callback::{Callback, Dynamic, FunctionPointer, Options};
pub use convention::Convention;
pub use error::{Error, FrameError, ReleaseError, SignatureError};
pub use frame::{Frame, RawFrame, Scalar, Value};
pub use signature::{Signature, Type};
pub use stale::{StaleCall, StaleHandler, StaleReason, set_stale_handler};
pub use table::{CAPACITY, CodePointer, MAX_POSITIONS};
