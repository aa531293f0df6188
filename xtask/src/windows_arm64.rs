//! The suite `windows-arm64`: programs for Windows on ARM64, run by a Wine of that processor in an emulator.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xtask::arm64::Wine;
use xtask::gnullvm::{self, TARGET};
use xtask::suite::{Suite, folder, quietly, variable};
use xtask::wine::for_windows;

use crate::windows::{self, build_dll};

/// As Rust's targets begin.
const ARCH: &str = "aarch64";

/// Test programs that call through the table. In the emulator each takes seconds to start.
const TESTS: &[&str] = &[
    "registers",
    "signatures",
    "results",
    "table",
    "registry",
    "sealed",
    "stale",
    "panics",
    "passing",
    "waits",
    "names",
    "unwind_arm64",
    "windows",
];

/// Runs the suite; returns whether all passed.
pub fn run() -> Result<bool> {
    let wine = Wine::install()?;
    let mut suite = Suite::new("windows-arm64", 3 + 2 * windows::ASSEMBLERS.len());
    let tests = || TESTS.iter().map(|name| format!("--test={name}"));
    suite.check("lints", || {
        let lints = ["--", "-Dwarnings", "-Aclippy::missing_const_for_thread_local"];
        quietly(gnullvm::cargo("clippy", "")?.arg("--all-features").args(tests()).args(lints))?;
        quietly(gnullvm::cargo("clippy", "")?.arg("--package=calltable-torture").args(lints))?;
        quietly(windows::msvc(ARCH, "clippy", "rustc")?.args(["--", "-Dwarnings"])).map(drop)
    });
    suite.tests_of(&format!("tests, among them real APIs, C callers and Microsoft's DLLs, {TARGET}"), || {
        let mut test = gnullvm::cargo("test", "")?;
        test.args(["--all-features", "--no-fail-fast"]).args(tests());
        // The emulator itself may fault when a process ends whose other threads run.
        test.args(["--", "--skip=exit::"]);
        test.env(variable(TARGET, "RUNNER"), wine.runner()).env("RUST_BACKTRACE", "0");
        // Programs that are started at the same time hang: the emulator's `fork` is not for several threads at once.
        test.env("RUST_TEST_THREADS", "1");
        test.env(build_dll::VARIABLE, for_windows(&build_c_side()?));
        test.env("CALLTABLE_MICROSOFT", for_windows(&microsoft()?));
        Ok(test)
    });
    for assembler in windows::ASSEMBLERS {
        windows::check_msvc(&mut suite, ARCH, assembler, &wine.runner(), |_| {});
    }
    suite.check("a program for drivers imports nothing", || windows::check_driver(ARCH));
    Ok(suite.finish())
}

/// The DLL that calls back, in C and C++.
fn build_c_side() -> Result<PathBuf> {
    let out = std::env::current_dir()?.join(folder(&format!("windows/{ARCH}"))?);
    let tools = [gnullvm::compiler("cc")?, gnullvm::compiler("c++")?];
    for mut step in build_dll::steps(ARCH, &tools, Path::new("tests/windows"), &out) {
        quietly(&mut step)?;
    }
    Ok(out.join(build_dll::NAME))
}

/// A folder of Microsoft's DLLs that programs under Wine see.
fn microsoft() -> Result<PathBuf> {
    let out = std::env::current_dir()?.join(folder("windows/microsoft")?);
    for file in fs::read_dir(gnullvm::microsoft()?)? {
        let file = file?.path();
        fs::copy(&file, out.join(file.file_name().context("a file has a name")?))?;
    }
    Ok(out)
}
