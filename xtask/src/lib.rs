//! What the commands of `cargo xtask` share: how cargo, Wine and emulators are called, what is installed, how a suite
//! counts. Commands that take long to build are packages of their own, which use this one: [`tools`] has them run.

pub mod arm64;
pub mod benches;
pub mod debian;
pub mod dist;
pub mod emulator;
pub mod gnullvm;
#[cfg(test)]
mod guides;
pub mod library;
pub mod mingw;
pub mod pypi;
#[cfg(test)]
mod rules;
pub mod setup;
pub mod suite;
pub mod tools;
pub mod wine;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Error, Result};

/// The number of slots of a build for which nobody asks for another.
pub const CAPACITY: usize = 2000;

/// Bytes for each slot that the table's code may take: an entry, and a part of the dispatchers.
pub fn text_per_slot(stride: u64) -> f64 {
    stride as f64 + 1.1
}

/// Bytes for each slot of memory that starts as zeros.
pub const BSS_PER_SLOT: f64 = 47.0;

/// And with the feature `names`, which the C interface has by default.
pub const NAMED_BSS_PER_SLOT: f64 = BSS_PER_SLOT + 16.0;

/// The repository's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository")
}

/// Does a command's work in the repository's folder, to which every path is relative. Says what went wrong.
pub fn main(work: impl FnOnce() -> Result<()>) -> ExitCode {
    exit_code(std::env::set_current_dir(root()).map_err(Error::from).and_then(|()| work()))
}

/// What a program ends with; says what went wrong.
pub fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
