//! A suite: steps that are counted. A step is a run of Rust tests, each of which counts, or one check.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::emulator::Machine;
use crate::setup;

pub struct Suite {
    name: &'static str,
    steps: usize,
    step: usize,
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Suite {
    pub fn new(name: &'static str, steps: usize) -> Self {
        Self { name, steps, step: 0, passed: 0, failed: Vec::new(), skipped: 0 }
    }

    /// Runs `cargo test` or the like; counts what it says of each test program.
    pub fn tests(&mut self, title: &str, command: &mut Command) {
        self.step(title, |suite| {
            println!("    {command:?}");
            let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("{command:?}"))?;
            let mut failed = 0;
            let mut programs = 0;
            for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
                let line = line?;
                println!("    {line}");
                if let Some(result) = line.strip_prefix("test result: ") {
                    programs += 1;
                    suite.passed += count(result, "passed");
                    suite.skipped += count(result, "ignored");
                    failed += count(result, "failed");
                }
                if let Some(test) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
                    suite.failed.push(format!("{title}: {test}"));
                }
            }
            let status = child.wait()?;
            if programs == 0 {
                bail!("no test ran ({status})");
            }
            if !status.success() && failed == 0 {
                bail!("{status}, though no test said that it failed");
            }
            Ok(())
        });
    }

    /// One check, which passes or says why not.
    pub fn check(&mut self, title: &str, check: impl FnOnce() -> Result<()>) {
        self.step(title, |suite| {
            check()?;
            suite.passed += 1;
            Ok(())
        });
    }

    /// A step that this machine cannot do, and what it lacks.
    pub fn skip(&mut self, title: &str, lack: &str) {
        self.step(title, |suite| {
            println!("    skipped: {lack}");
            suite.skipped += 1;
            Ok(())
        });
    }

    /// A program that prints `ok NAME` or `FAILED NAME` for each of its cases, and ends with `N passed, N failed`.
    pub fn program(&mut self, title: &str, prepare: impl FnOnce() -> Result<Command>) {
        self.step(title, |suite| {
            let mut command = prepare()?;
            println!("    {command:?}");
            let output = command.output().with_context(|| format!("{command:?}"))?;
            let text = String::from_utf8_lossy(&output.stdout);
            for line in text.lines() {
                println!("    {line}");
            }
            let failed = suite.cases(title, text.lines())?;
            ensure!(output.status.success() == (failed == 0), "{}", output.status);
            Ok(())
        });
    }

    /// The same of a machine, which must print the line `greeting` as well: it says what the cases ran on.
    pub fn machine(&mut self, title: &str, greeting: &str, prepare: impl FnOnce() -> Result<Machine>) {
        self.step(title, |suite| {
            let (lines, end) = prepare()?.run()?;
            // Firmware and emulator print lines of their own before and behind.
            let closing = lines.iter().rposition(|line| line.contains(" passed, ") && line.ends_with(" failed"));
            let own = closing.map_or(&lines[..], |closing| &lines[..=closing]);
            let failed = suite.cases(title, own.iter().map(String::as_str));
            if !matches!(failed, Ok(1..)) {
                end?; // or what failed says more than the exit code
            }
            failed?;
            ensure!(lines.iter().any(|line| line == greeting), "it did not say {greeting:?}");
            Ok(())
        });
    }

    /// Counts cases. Returns how many failed; it is an error if that is not what the last line says.
    fn cases<'a>(&mut self, title: &str, lines: impl Iterator<Item = &'a str>) -> Result<usize> {
        let (mut passed, mut failed, mut closing) = (0, 0, "");
        for line in lines {
            passed += usize::from(line.starts_with("ok "));
            if let Some(case) = line.strip_prefix("FAILED ") {
                failed += 1;
                self.failed.push(format!("{title}: {case}"));
            }
            closing = line;
        }
        self.passed += passed;
        ensure!(closing == format!("{passed} passed, {failed} failed"), "its last line is {closing:?}");
        ensure!(passed + failed > 0, "no case ran");
        Ok(failed)
    }

    /// How many passed so far.
    pub fn passed(&self) -> usize {
        self.passed
    }

    fn step(&mut self, title: &str, work: impl FnOnce(&mut Self) -> Result<()>) {
        self.step += 1;
        println!("[{} {}/{}] {title}", self.name, self.step, self.steps);
        let start = Instant::now();
        if let Err(error) = work(self) {
            println!("    {error:#}");
            self.failed.push(format!("{title}: {error:#}"));
        }
        println!("    ({:.1} s)", start.elapsed().as_secs_f64());
    }

    /// Prints what failed and the closing line. Returns whether all is well.
    pub fn finish(self) -> bool {
        assert_eq!(self.step, self.steps, "the number of steps that the suite announces");
        for failure in &self.failed {
            println!("FAILED {failure}");
        }
        println!("{}: {} passed, {} failed, {} skipped", self.name, self.passed, self.failed.len(), self.skipped);
        self.failed.is_empty()
    }
}

/// The number before `word` in a line such as `ok. 5 passed; 0 failed; ...`.
fn count(result: &str, word: &str) -> usize {
    let mut words = result.split([' ', ';', '.']).filter(|part| !part.is_empty());
    let mut before = words.next();
    for part in words {
        if part == word {
            return before.and_then(|number| number.parse().ok()).unwrap_or(0);
        }
        before = Some(part);
    }
    0
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A cargo that can build for `target`: ours if rustup has installed that target's library, else Debian's, which
/// builds those parts of the library that are named.
pub fn cargo_for(target: &str, command: &str, library: &str) -> Command {
    let installed = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    let installed = installed.is_ok_and(|out| Path::new(String::from_utf8_lossy(&out.stdout).trim_end()).exists());
    if installed {
        let mut cargo = cargo();
        cargo.args([command, "--target", target]);
        return cargo;
    }
    cargo_with_library(target, command, library)
}

/// Debian's cargo, which builds those parts of the library that are named; with the flags that are given for the program.
pub fn cargo_with_library(target: &str, command: &str, library: &str) -> Command {
    // By its name alone rustup's clippy would be found.
    let program = if command == "clippy" { setup::DEBIAN_CLIPPY } else { setup::DEBIAN_CARGO };
    let mut cargo = Command::new(program);
    cargo.args([command, "--target", target, &format!("-Zbuild-std={library}")]);
    if library.starts_with("core") {
        cargo.arg("-Zbuild-std-features=compiler-builtins-mem");
    }
    cargo.env("CARGO", setup::DEBIAN_CARGO).env("RUSTC", setup::DEBIAN_RUSTC).env("RUSTDOC", setup::DEBIAN_RUSTDOC);
    cargo.env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
    cargo
}

/// The environment variable that is cargo's setting `name` for a target.
pub fn variable(target: &str, name: &str) -> String {
    format!("CARGO_TARGET_{}_{name}", target.to_uppercase().replace('-', "_"))
}

/// A folder of our own under `target`.
pub fn folder(name: &str) -> Result<PathBuf> {
    let folder = Path::new("target/xtask").join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Runs a command that must succeed, showing what it prints only if it does not.
pub fn quietly(command: &mut Command) -> Result<String> {
    println!("    {command:?}");
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{command:?}: {}\n{text}", output.status);
    }
    Ok(text.into_owned())
}
