//! Programs for Windows of Rust's GNU targets, which MinGW links: how cargo builds them, and what they want of Wine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::suite::{cargo_for, folder, quietly};
use crate::wine::for_windows;

/// As Rust and MinGW call them.
pub const ARCHITECTURES: [&str; 2] = ["x86_64", "i686"];

/// What `WINEPATH` must be for programs with std.
pub fn random(arch: &str) -> Result<String> {
    Ok(for_windows(&build_random(arch)?))
}

/// The target, as Rust calls it.
pub fn gnu_target(arch: &str) -> String {
    format!("{arch}-pc-windows-gnu")
}

/// Where cargo builds them: suites that run at the same time do not wait for each other's builds.
const FOLDER: &str = "target/windows";

/// A command of cargo for programs with std, for the target of an architecture.
pub fn gnu(arch: &str, command: &str) -> Result<Command> {
    let mut cargo = cargo_for(&gnu_target(arch), command, "")?;
    cargo.args(["--target-dir", FOLDER]);
    Ok(cargo)
}

/// Rust's std wants one function of a DLL that Wine 8 has not. Returns the folder of a DLL that has it.
pub fn build_random(arch: &str) -> Result<PathBuf> {
    let out = std::env::current_dir()?.join(folder(&format!("wine-extra/{arch}"))?);
    let made = out.join("bcryptprimitives.dll");
    if made.exists() {
        return Ok(out);
    }
    let source = out.join("bcryptprimitives.c");
    fs::write(
        &source,
        "unsigned char __stdcall SystemFunction036(void *, unsigned long);\n\
         __declspec(dllexport) int __stdcall ProcessPrng(unsigned char *buffer, __SIZE_TYPE__ length) {\n\
         \x20   return SystemFunction036(buffer, (unsigned long)length);\n}\n",
    )?;
    let mut gcc = Command::new(format!("{arch}-w64-mingw32-gcc"));
    // On i686 the name is to have no `@8`.
    gcc.args(["-shared", "-O2", "-Wl,--kill-at", "-o"]).arg(&made).arg(&source).arg("-ladvapi32");
    quietly(&mut gcc)?;
    Ok(out)
}
