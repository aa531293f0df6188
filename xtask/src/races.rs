//! The suite `races`: what threads do to each other, looked at by tools that know the rules of memory orderings.

use std::process::Command;

use anyhow::Result;
use xtask::library::{self, Library};
use xtask::suite::{Suite, cargo, cargo_with_library, quietly, variable};

/// The registry with a dispatcher in Rust: the tools cannot see into assembly.
const MODEL: [&str; 4] = ["--manifest-path", "tests/model/Cargo.toml", "--target-dir", "target/model"];

/// Features, and what they mean: a slot's state is one word, or two halves; processors order more or less.
const STATES: [(&str, &str); 3] = [
    ("--features=", "the state in one word"),
    ("--features=narrow", "the state in two halves, as on 32-bit targets"),
    ("--features=weak", "orderings of AArch64"),
];

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Runs the suite; returns whether all passed.
pub fn run() -> Result<bool> {
    let mut suite = Suite::new("races", 2 + 2 * STATES.len());
    suite.check("formatting and lints", || {
        quietly(cargo().args(["fmt", "--check", "--manifest-path", MODEL[1]]))?;
        for features in ["", "narrow", "weak", "loom", "loom,narrow", "loom,weak"] {
            let features = ["--all-targets", "--features", features, "--", "-Dwarnings"];
            quietly(cargo().arg("clippy").args(MODEL).args(features))?;
        }
        Ok(())
    });
    let has_miri = has_miri();
    for (features, state) in STATES {
        suite.tests(
            &format!("every order of events with up to five interruptions (Loom), {state}"),
            cargo().arg("test").args(MODEL).args(["--features", "loom", features]).env("LOOM_MAX_PREEMPTIONS", "5"),
        );
        let title = format!("Miri, {state}");
        if has_miri {
            suite.tests(&title, miri().arg("test").args(MODEL).arg(features));
        } else {
            suite.skip(&title, "no Miri; with network: rustup toolchain install nightly --component miri,rust-src");
        }
    }
    suite.tests_of("ThreadSanitizer", sanitized);
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
fn sanitized() -> Result<Command> {
    let flags = "-Zsanitizer=thread -Zexternal-clangrt";
    let library = Library { flags, for_programs: flags, ..library::of(TARGET) };
    let mut command = cargo_with_library(TARGET, "test", library, "-Clink-arg=-fsanitize=thread")?;
    command.env(variable(TARGET, "LINKER"), "clang-19").args(MODEL);
    Ok(command)
}
