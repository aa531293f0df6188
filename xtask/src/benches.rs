//! The program of `benches/`, which `cargo xtask bench` measures with, and whose instructions are counted.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::suite::quietly;

/// Its package, which is outside of the workspace.
pub const MANIFEST: &str = "benches/Cargo.toml";
const FOLDER: &str = "target/benches";

/// Has cargo build the program; returns the folder that it builds in.
pub fn build(cargo: &mut Command, features: &[&str]) -> Result<&'static Path> {
    quietly(with_options(cargo, features))?;
    Ok(Path::new(FOLDER))
}

/// The same; returns also what cargo says of each package, messages of JSON.
pub fn build_telling(cargo: &mut Command, features: &[&str]) -> Result<(&'static Path, String)> {
    let said = quietly(with_options(cargo, features).arg("--message-format=json-render-diagnostics"))?;
    Ok((Path::new(FOLDER), said))
}

fn with_options<'a>(cargo: &'a mut Command, features: &[&str]) -> &'a mut Command {
    cargo.args(["--release", "--manifest-path", MANIFEST, "--target-dir", FOLDER]).args(features)
}
