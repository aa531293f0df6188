#![doc = include_str!("../README.md")]
//!
//! # The way of one call
//!
//! 1. Foreign code calls an entry of the table, which calls the dispatcher (`asm/x86_64.S`, `asm/x86.S`; in
//!    `asm/aarch64.S` it jumps there, with its number).
//! 2. The dispatcher finds the slot's context by the return address (`src/context.rs`), or the number, reads handler
//!    and data, makes sure that they belong together, and takes the context's lane.
//! 3. Direct lane: the handler gets the arguments as they came, and its data after them (`src/callback`). Frame lane:
//!    it gets its data, and the arguments in memory (`src/frame`, `src/signature.rs`).
//! 4. What the handler returns stays in its registers; the dispatcher returns to the entry, the entry to the foreign
//!    code.
//! 5. If the slot is not live, the handler is the stale one (`src/stale.rs`). If the handler raises an exception, it
//!    passes through, or ends here (`src/seh`).
//!
//! Who gets which slot, how it is given back, and how all this is sealed, is `src/registry.rs`; `src/table.rs` is what
//! of it a user sees.
//!
//! # Layers
//!
//! Each module knows only those of the lines above its own; a test of `xtask` (`rules.rs`) holds them to it.
//!
//! | layer | modules |
//! | --- | --- |
//! | 0 | `layout`, `types`, `convention`, `name`, `platform` |
//! | 1 | `error`, `entry`, `lock`, `caught` |
//! | 2 | `context`, `abi`, `own_call` |
//! | 3 | `registry`, `signature` |
//! | 4 | `frame` |
//! | 5 | `stale`, `seh` |
//! | 6 | `table` |
//! | 7 | `callback` |
//! | 8 | the root of the crate, on which the package for C stands |
#![no_std]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod abi;
mod callback;
#[cfg(feature = "std")]
mod caught;
mod context;
mod convention;
mod entry;
mod error;
mod frame;
#[cfg(any(doc, doctest))]
pub mod guides;
mod layout;
mod lock;
mod name;
mod own_call;
mod platform;
mod registry;
pub mod seh;
mod signature;
mod stale;
pub mod table;
mod types;

#[cfg(feature = "std")]
pub use callback::Here;
#[cfg(feature = "alloc")]
pub use callback::Once;
pub use callback::{
    Callback, Contained, Dynamic, FunctionPointer, HandledBy, HandledByMut, HandledByOnce, HandledWith, Method, Options,
};
#[cfg(feature = "std")]
pub use caught::Caught;
pub use convention::Convention;
pub use error::{Error, FrameError, NotRebound, NotReleased, RebindError, ReleaseError, SignatureError};
pub use frame::{Frame, RawFrame, Rest, Scalar, Value};
pub use signature::Signature;
pub use stale::{StaleCall, StaleHandler, StaleReason, set_stale_handler};
pub use table::{CAPACITY, CodePointer, MAX_POSITIONS};
pub use types::{Element, MAX_PARAMETERS, Type};

/// For the package `calltable-capi` of the same version; no part of the interface.
#[doc(hidden)]
pub mod internal {
    pub use crate::platform::trap;
    pub use crate::stale::{data as stale_data, set_with_data as set_stale_handler};
}
