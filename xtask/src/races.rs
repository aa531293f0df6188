//! The suite `races`: what threads do to each other, looked at by tools that know the rules of memory orderings.

use std::process::Command;

use anyhow::Result;

use crate::setup;
use crate::suite::{Suite, cargo, cargo_with_library, quietly, variable};

/// The registry with a dispatcher in Rust: the tools cannot see into assembly.
const MODEL: [&str; 4] = ["--manifest-path", "tests/model/Cargo.toml", "--target-dir", "target/model"];

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Runs the suite; returns whether all passed.
pub fn run() -> Result<bool> {
    setup::install(setup::RACES)?;
    let mut suite = Suite::new("races", 4);
    suite.check("formatting and lints", || {
        quietly(cargo().args(["fmt", "--check", "--manifest-path", MODEL[1]]))?;
        quietly(cargo().arg("clippy").args(MODEL).args(["--all-targets", "--all-features", "--", "-Dwarnings"]))?;
        quietly(cargo().arg("clippy").args(MODEL).args(["--all-targets", "--", "-Dwarnings"])).map(drop)
    });
    suite.tests(
        "every order of events with up to five interruptions (Loom)",
        cargo().arg("test").args(MODEL).arg("--features=loom").env("LOOM_MAX_PREEMPTIONS", "5"),
    );
    let title = "Miri";
    if has_miri() {
        suite.tests(title, miri().arg("test").args(MODEL));
    } else {
        suite.skip(title, "no Miri; with network: rustup toolchain install nightly --component miri,rust-src");
    }
    suite.tests("ThreadSanitizer (two minutes more the first time)", sanitized().args(MODEL));
    Ok(suite.finish())
}

/// Adds it to rustup's nightly compiler, if there is one.
fn has_miri() -> bool {
    let add = ["component", "add", "--toolchain", "nightly", "miri", "rust-src"];
    let works = || quietly(miri().arg("--version")).is_ok();
    works() || quietly(Command::new("rustup").args(add)).is_ok() && works()
}

/// Miri comes with rustup's nightly compiler alone.
fn miri() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "miri"]);
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
        command.env_remove(name);
    }
    command
}

/// Debian's compiler with the run-time library of Debian's Clang.
fn sanitized() -> Command {
    let mut command = cargo_with_library(TARGET, "test", "std,test");
    command
        .env(variable(TARGET, "LINKER"), "clang-19")
        .env(variable(TARGET, "RUSTFLAGS"), "-Zsanitizer=thread -Zexternal-clangrt -Clink-arg=-fsanitize=thread");
    command
}
