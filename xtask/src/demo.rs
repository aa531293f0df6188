//! The main job: a host for a real Windows DLL.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use xtask::{setup, suite};

/// Builds the example and returns its program.
pub fn build() -> Result<PathBuf> {
    suite::quietly(suite::cargo().args(["build", "--release", "--package=calltable-host-dll"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    Ok(target.join("release/host_dll"))
}

pub fn run(dll: Option<PathBuf>, file: Option<PathBuf>) -> Result<()> {
    setup::install(setup::DEMO)?;
    println!("building the host (half a minute the first time)");
    let program = build()?;
    let dll = dll.unwrap_or_else(|| Path::new(setup::DLL).into());
    let file = file.unwrap_or_else(|| program.clone());
    let mut command = Command::new(&program);
    command.args([dll, file]);
    println!("running {command:?}\n");
    if !command.status()?.success() {
        bail!("the demo failed, see above");
    }
    Ok(())
}
