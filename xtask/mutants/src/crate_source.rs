//! Mutants of `src/` and `capi/src/`, by cargo-mutants, in a copy of the repository.
//!
//! They are run twice: first with one quick test program, then, those that it does not see, with all that are quick.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use xtask::suite::{cargo, quietly};
use xtask::tools::Shard;

use super::Report;

/// The first sees nearly everything.
const TESTS: [&[&str]; 2] = [
    &["--test=corpus"],
    &[
        "--test=capi",
        "--test=registry",
        "--test=table",
        "--test=stale",
        "--test=names",
        "--test=results",
        "--test=sealed",
        "--test=seh",
        "--test=panics",
        "--test=signatures",
        "--test=registers",
    ],
];

const PACKAGES: [&str; 2] = ["--package=calltable", "--package=calltable-capi"];

/// Modules that cargo-mutants does not find, since a macro names them, and the file where it looks.
const HIDDEN: [(&str, &[&str]); 4] = [
    ("src/abi/mod.rs", &["x86_64"]),
    ("src/entry.rs", &["x86_64"]),
    ("src/frame/mod.rs", &["x86_64"]),
    ("src/seh/mod.rs", &["ask", "call", "linked", "record"]),
];

pub fn run(shard: Shard, file: &str) -> Result<Report> {
    let folder = std::env::current_dir()?.join("target/mutants");
    let tree = copy(&folder)?;
    let program = program(&folder)?;
    let in_tree = |command: &mut Command| {
        command.current_dir(&tree);
        command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_TARGET_DIR", folder.join("build"));
    };
    let mut caught = 0;
    // cargo-mutants shares out what the first round has left, so that a share has one round.
    let rounds = if shard.count == 1 { TESTS.map(<[_]>::to_vec).to_vec() } else { vec![TESTS.concat()] };
    for (round, tests) in rounds.iter().enumerate() {
        // The first build of all takes longer than any mutant may; and the tests must pass.
        let mut build = cargo();
        in_tree(build.args(["test", "--all-features"]).args(PACKAGES).args(tests));
        quietly(&mut build)?;
        let mut command = Command::new(&program);
        command.args(["mutants", "--in-place", "--baseline=skip", "--no-shuffle", "--colors=never"]);
        command.args(PACKAGES).arg("--test-package=calltable,calltable-capi");
        command.args(["--timeout=20", "--build-timeout=120", &format!("--shard={shard}"), "--output"]).arg(&folder);
        if !file.is_empty() {
            command.arg(format!("--file=*{file}*"));
        }
        if round > 0 {
            command.arg("--iterate");
        }
        // Given for each call of cargo, or all programs would be built.
        command.args(tests.iter().map(|test| format!("--cargo-arg={test}")));
        in_tree(&mut command);
        println!("    {command:?}");
        // 2: some are not caught, 3: some hang.
        let status = command.status()?;
        ensure!(matches!(status.code(), Some(0 | 2 | 3)), "cargo-mutants: {status}");
        caught += count(&folder, "caught")?;
    }
    caught += count(&folder, "timeout")?;
    let mut report = Report { caught, ..Report::default() };
    for line in outcome(&folder, "missed")?.lines() {
        // src/table.rs:12:34: replace + with -
        let mut parts = line.splitn(3, ':');
        let (file, what) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
        let what = what.split_once(": ").map_or(what, |(_, what)| what);
        report.survivor(&format!("{file}: {what}"));
    }
    Ok(report)
}

/// The repository as it is, with every module named where cargo-mutants sees it.
fn copy(folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("tree");
    fs::remove_dir_all(&tree).ok();
    fs::create_dir_all(&tree)?;
    // With their times, so that cargo need not build what has not changed.
    let files = "git ls-files -z --cached --others --exclude-standard";
    let copy = format!("{files} | xargs -0 cp --preserve=timestamps --parents --target-directory=\"$0\"");
    quietly(Command::new("sh").args(["-ec", &copy]).arg(&tree))?;
    for (file, modules) in HIDDEN {
        let mut file = OpenOptions::new().append(true).open(tree.join(file))?;
        for module in modules {
            writeln!(file, "#[cfg(any())]\nmod {module};")?;
        }
    }
    Ok(tree)
}

/// cargo-mutants; it is built the first time.
fn program(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("bin/cargo-mutants");
    if !program.exists() {
        quietly(cargo().args(["install", "cargo-mutants", "--locked", "--root"]).arg(folder))?;
    }
    if !program.exists() {
        bail!("cargo has installed cargo-mutants elsewhere than in {}", program.display());
    }
    Ok(program)
}

fn outcome(folder: &Path, name: &str) -> Result<String> {
    let file = folder.join("mutants.out").join(name).with_extension("txt");
    fs::read_to_string(&file).with_context(|| file.display().to_string())
}

fn count(folder: &Path, name: &str) -> Result<usize> {
    Ok(outcome(folder, name)?.lines().count())
}
