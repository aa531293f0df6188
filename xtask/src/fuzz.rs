//! Fuzzing: libFuzzer runs the programs of `fuzz/`, with the flags of cargo-fuzz but with any Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use xtask::setup;
use xtask::suite::{cargo, quietly};

pub const MANIFEST: &str = "fuzz/Cargo.toml";

/// The programs.
pub const TARGETS: [&str; 2] = ["capi", "frame"];

/// What the instruments need; cargo-fuzz has the same.
const FLAGS: &str = "--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

const TRIPLE: &str = "x86_64-unknown-linux-gnu";
const FOLDER: &str = "target/fuzz";

/// So few slots that the table is full again and again.
const CAPACITY: &str = "24";

/// Builds the programs and runs each for so many seconds, from what the repository keeps and what earlier runs found.
pub fn run(seconds: u64) -> Result<()> {
    setup::install(setup::HOST)?;
    quietly(&mut cargo_fuzz("build")?)?;
    for target in TARGETS {
        let found = fuzz(target, seconds)?;
        println!("{target}: {found}");
    }
    Ok(())
}

/// Puts into the repository, of what runs found, the fewest inputs that reach every branch.
pub fn minimise() -> Result<()> {
    quietly(&mut cargo_fuzz("build")?)?;
    for target in TARGETS {
        let (kept, found) = corpora(target)?;
        let merged = Path::new(FOLDER).join("merged").join(target);
        fs::remove_dir_all(&merged).ok();
        fs::create_dir_all(&merged)?;
        quietly(
            program(target)
                .args(["-set_cover_merge=1", "-use_counters=0", "-max_len=400"])
                .args([&merged, &kept, &found]),
        )?;
        fs::remove_dir_all(&kept)?;
        fs::create_dir_all(&kept)?;
        for file in fs::read_dir(&merged)? {
            let file = file?;
            fs::copy(file.path(), kept.join(file.file_name()))?;
        }
        println!("{}: {} inputs", kept.display(), fs::read_dir(&kept)?.count());
    }
    Ok(())
}

/// The cargo that runs us, made to build with libFuzzer's instruments, and with the address sanitizer if this Rust has
/// it.
pub fn cargo_fuzz(command: &str) -> Result<Command> {
    let sanitizer = if has_address_sanitizer()? { " -Zsanitizer=address" } else { "" };
    let mut cargo = cargo();
    cargo.args([command, "--release", "--manifest-path", MANIFEST, "--target", TRIPLE, "--target-dir", FOLDER]);
    cargo
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("{FLAGS}{sanitizer}"))
        .env("CUSTOM_LIBFUZZER_PATH", setup::LIBFUZZER)
        .env("CALLTABLE_CAPACITY", CAPACITY);
    Ok(cargo)
}

fn has_address_sanitizer() -> Result<bool> {
    let libraries = Command::new("rustc").args(["--print", "target-libdir", "--target", TRIPLE]).output()?;
    let libraries = String::from_utf8(libraries.stdout)?;
    let names = fs::read_dir(libraries.trim_end()).with_context(|| libraries.clone())?;
    Ok(names.flatten().any(|name| name.file_name().to_string_lossy().ends_with("_rt.asan.a")))
}

fn program(target: &str) -> Command {
    Command::new(Path::new(FOLDER).join(TRIPLE).join("release").join(target))
}

/// The folders of inputs: the repository's, and that of earlier runs.
fn corpora(target: &str) -> Result<(PathBuf, PathBuf)> {
    let (kept, found) = (Path::new("fuzz/corpus").join(target), Path::new(FOLDER).join("corpus").join(target));
    fs::create_dir_all(&found)?;
    ensure!(fs::read_dir(&kept)?.next().is_some(), "{} is empty", kept.display());
    Ok((kept, found))
}

fn fuzz(target: &str, seconds: u64) -> Result<String> {
    let (kept, found) = corpora(target)?;
    let mut command = program(target);
    command.args([format!("-max_total_time={seconds}"), format!("-artifact_prefix={FOLDER}/{target}-")]);
    command.args(["-timeout=10", "-print_final_stats=1"]).args([&found, &kept]);
    println!("    {command:?}");
    let output = command.output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    let file = Path::new(FOLDER).join(format!("{target}.log"));
    fs::write(&file, log.as_bytes())?;
    let line = |begin: &str| log.lines().find_map(|line| line.split_once(begin)).map(|(_, rest)| rest.trim());
    if !output.status.success() {
        let why: Vec<&str> = log.lines().skip_while(|line| !line.contains("panicked at")).take(4).collect();
        let input = line("Test unit written to ").unwrap_or("no input");
        bail!("{target}: {}\n{}\nthe input: {input}; more in {}", output.status, why.join("\n"), file.display());
    }
    let runs = line("stat::number_of_executed_units:").context("libFuzzer does not say how many runs there were")?;
    ensure!(runs.parse::<u64>()? > fs::read_dir(&kept)?.count() as u64, "it has only run what the repository keeps");
    Ok(format!("{runs} executions in {seconds} s, nothing found"))
}
