//! A suite: steps that are counted. A step is a run of Rust tests, each of which counts, or one check.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::emulator::{Machine, read_lines};
use crate::library::{self, Library};

/// Steps in their order, and what has been counted.
pub struct Suite {
    name: &'static str,
    steps: usize,
    step: usize,
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Suite {
    /// Of that many steps, which is checked at its end.
    pub fn new(name: &'static str, steps: usize) -> Self {
        Self { name, steps, step: 0, passed: 0, failed: Vec::new(), skipped: 0 }
    }

    /// Runs `cargo test` or the like; counts what it says of each test program.
    pub fn tests(&mut self, title: &str, command: &mut Command) {
        self.step(title, |suite| suite.count_tests(title, command));
    }

    /// The same of a command that may take work to make.
    pub fn tests_of(&mut self, title: &str, prepare: impl FnOnce() -> Result<Command>) {
        self.step(title, |suite| suite.count_tests(title, &mut prepare()?));
    }

    fn count_tests(&mut self, title: &str, command: &mut Command) -> Result<()> {
        let suite = self;
        println!("    {command:?}");
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| format!("{command:?}"))?;
        let said_by_cargo = said_in(child.stderr.take().expect("piped"));
        let (mut failed, mut named) = (0, 0);
        let mut programs = 0;
        let mut said = None; // which of the failures the lines are that follow
        let mut slow = Vec::new(); // what a program hangs in, if it does
        for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
            let line = line?;
            println!("    {line}");
            if let Some(test) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----")) {
                let failure = format!("{title}: {test}");
                said = suite.failed.iter().rposition(|line| *line == failure);
            } else if line.is_empty() || line == "stack backtrace:" {
                said = said.filter(|&failure| !suite.failed[failure].contains('\n'));
            } else if let Some(failure) = said {
                suite.failed[failure] += &format!("\n    {line}");
            }
            if let Some(result) = line.strip_prefix("test result: ") {
                programs += 1;
                suite.passed += count(result, "passed");
                suite.skipped += count(result, "ignored");
                failed += count(result, "failed");
                slow.clear();
            }
            if line.ends_with(" has been running for over 60 seconds") {
                slow.push(line.clone());
            }
            if let Some(test) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
                suite.failed.push(format!("{title}: {test}"));
                named += 1;
            }
        }
        let status = child.wait()?;
        // What a program has left running may keep the pipe open.
        let lines: Vec<String> =
            std::iter::from_fn(|| said_by_cargo.recv_timeout(Duration::from_secs(1)).ok()).collect();
        let (starts, errors): (Vec<_>, Vec<_>) = lines.iter().partition(|line| is_start(line));
        let started = starts.len();
        let errors: String = errors.into_iter().chain(&slow).map(|line| format!("\n{line}")).collect();
        if programs == 0 {
            bail!("no test ran ({status}){errors}");
        }
        ensure!(failed <= named, "{failed} tests failed, of which {named} said so in lines of their own");
        ensure!(status.success() == (failed == 0), "{status}, though {failed} tests said that they failed{errors}");
        ensure!(programs >= started, "of {started} programs {programs} said how their tests have ended{errors}");
        Ok(())
    }

    /// One check, which passes or says why not.
    pub fn check(&mut self, title: &str, check: impl FnOnce() -> Result<()>) {
        self.step(title, |suite| {
            check()?;
            suite.passed += 1;
            Ok(())
        });
    }

    /// A step whose work says of each of its cases whether it passed.
    pub fn cases_of(&mut self, title: &str, work: impl FnOnce() -> Result<Vec<(String, Result<()>)>>) {
        self.step(title, |suite| {
            let cases = work()?;
            ensure!(!cases.is_empty(), "no case ran");
            for (case, result) in cases {
                match result {
                    Ok(()) => suite.passed += 1,
                    Err(error) => suite.failed.push(format!("{title}: {case}: {error:#}")),
                }
            }
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
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
            let mut lines = Vec::new();
            read_lines(child.stdout.take().expect("piped"), |line| {
                println!("    {line}");
                lines.push(line);
                true
            });
            let status = child.wait()?;
            let failed = suite.cases(title, lines.iter().map(String::as_str))?;
            ensure!(status.success() == (failed == 0), "{status}");
            Ok(())
        });
    }

    /// The same of a machine, which must print the line `greeting` as well: it says what the cases ran on.
    pub fn machine(&mut self, title: &str, greeting: &str, prepare: impl FnOnce() -> Result<Machine>) {
        self.step(title, |suite| {
            let (lines, end) = prepare()?.run()?;
            // Firmware and emulator print lines of their own before and after.
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
        let (start, processor) = (Instant::now(), processor_time());
        if let Err(error) = work(self) {
            println!("    {error:#}");
            self.failed.push(format!("{title}: {error:#}"));
        }
        let processor = processor_time() - processor;
        println!("    ({:.1} s, {:.1} s of processor)", start.elapsed().as_secs_f64(), processor.as_secs_f64());
    }

    /// Prints what failed and the closing line. Returns whether all is well.
    #[must_use]
    pub fn finish(self) -> bool {
        assert_eq!(self.step, self.steps, "the number of steps that the suite announces");
        for failure in &self.failed {
            // A compiler may have said thousands, which stand above.
            const LINES: usize = 40;
            failure.lines().take(LINES).for_each(|line| println!("FAILED {line}"));
            if failure.lines().count() > LINES {
                println!("FAILED (more is said above)");
            }
        }
        println!("{}: {} passed, {} failed, {} skipped", self.name, self.passed, self.failed.len(), self.skipped);
        self.failed.is_empty()
    }
}

/// What all programs have taken that were started and have ended.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the memory is that of such a structure, for which zeros are a value.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, 1000 * time.tv_usec as u32);
    time(usage.ru_utime) + time(usage.ru_stime)
}

#[cfg(not(target_os = "linux"))]
fn processor_time() -> Duration {
    Duration::ZERO
}

/// Passes on what cargo says. A line comes for each program that it starts, which is to say how its tests have ended,
/// and what it says of a program that did not.
fn said_in(from: ChildStderr) -> Receiver<String> {
    let (sender, said) = mpsc::channel();
    std::thread::spawn(move || {
        read_lines(from, |line| {
            eprintln!("{line}");
            // `error: test failed, to rerun pass ...` or, of several, `error: 2 targets failed:` and their names.
            let is_error = line.starts_with("error: ") || line.starts_with("    `-");
            let is_said = is_start(&line) || is_error || line.contains("process didn't exit successfully: ");
            !is_said || sender.send(line).is_ok()
        });
    });
    said
}

fn is_start(line: &str) -> bool {
    line.trim_start().starts_with("Running ")
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

/// A cargo that builds for `target`, with these flags for the program: ours if rustup has installed that target's
/// library, else Debian's with one that is built here.
pub fn cargo_for(target: &str, command: &str, flags: &str) -> Result<Command> {
    if library::installed(target).is_none() {
        return cargo_with_library(target, command, library::of(target), flags);
    }
    let mut cargo = cargo();
    cargo.args([command, "--target", target]);
    if !flags.is_empty() {
        cargo.env(variable(target, "RUSTFLAGS"), flags);
    }
    Ok(cargo)
}

/// AArch64 Linux, whose programs Clang compiles and links.
pub const AARCH64_LINUX: &str = "aarch64-unknown-linux-gnu";

/// What runs its programs, with the libraries of Debian's packages for cross compilers.
pub const RUN_AARCH64_LINUX: &str = "qemu-aarch64 -L /usr/aarch64-linux-gnu";

/// A cargo that builds for it.
pub fn cargo_for_aarch64_linux(command: &str, flags: &str) -> Result<Command> {
    const LINKER: &str = "-Clinker=clang-19 -Clink-arg=--target=aarch64-linux-gnu -Clink-arg=-fuse-ld=lld";
    let mut cargo = cargo_for(AARCH64_LINUX, command, &format!("{LINKER} {flags}"))?;
    cargo.env("CC_aarch64_unknown_linux_gnu", "clang-19").env("AR_aarch64_unknown_linux_gnu", "llvm-ar-19");
    cargo.env("CFLAGS_aarch64_unknown_linux_gnu", "--target=aarch64-linux-gnu");
    Ok(cargo)
}

/// Debian's cargo, with a library that is built here, and with these flags for the program.
pub fn cargo_with_library(target: &str, command: &str, library: Library, flags: &str) -> Result<Command> {
    let sysroot = format!("--sysroot={}", library::sysroot(target, library)?.display());
    let mut cargo = library::debian(command);
    let name = library::name_of(target);
    cargo.args(["--target", target]).env(variable(name, "RUSTDOCFLAGS"), &sysroot);
    cargo.env(variable(name, "RUSTFLAGS"), format!("{sysroot} {} {flags}", library.for_programs));
    Ok(cargo)
}

/// Where cargo builds for other targets than the host, so that two versions of the compiler do not share a folder.
pub const OTHER_FOLDER: &str = "target/other";

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

/// A folder that all checkouts of this user share, for what takes long to make or load, and is the same in all of them.
pub fn shared_folder(name: &str) -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    match absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache"))) {
        Some(cache) => Ok(cache.join("calltable").join(name)),
        None => Ok(std::env::current_dir()?.join(folder(name)?)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// Whether a suite of one step succeeds, and what it has counted: passed, failed, skipped.
    fn outcome(step: impl FnOnce(&mut Suite)) -> (bool, usize, usize, usize) {
        let mut suite = Suite::new("suite", 1);
        step(&mut suite);
        let (passed, failed, skipped) = (suite.passed, suite.failed.len(), suite.skipped);
        (suite.finish(), passed, failed, skipped)
    }

    #[test]
    fn a_check_counts_as_what_it_says() {
        assert_eq!(outcome(|suite| suite.check("", || Ok(()))), (true, 1, 0, 0));
        assert_eq!(outcome(|suite| suite.check("", || bail!("no"))), (false, 0, 1, 0));
        assert_eq!(outcome(|suite| suite.skip("", "all")), (true, 0, 0, 1));
    }

    #[test]
    fn one_failure_among_others_fails_the_suite() {
        let mut suite = Suite::new("suite", 3);
        suite.check("", || Ok(()));
        suite.check("", || bail!("no"));
        suite.check("", || Ok(()));
        assert_eq!((suite.passed, suite.failed.len()), (2, 1));
        assert!(!suite.finish());
    }

    #[test]
    #[should_panic(expected = "announces")]
    fn a_step_that_was_left_out_is_noticed() {
        let _ = Suite::new("suite", 1).finish();
    }

    #[test]
    fn tests_fail_with_any_that_fails_and_with_their_program() {
        let tests = |script: &str| outcome(|suite| suite.tests("", &mut shell(script)));
        let good = "echo 'test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured'";
        let bad = "echo 'test result: FAILED. 3 passed; 1 failed; 0 ignored'";
        assert_eq!(tests(good), (true, 5, 0, 2));
        assert_eq!(tests(&format!("{good}; {good}")), (true, 10, 0, 4));
        assert_eq!(tests(&format!("{good}; exit 1")), (false, 5, 1, 2), "a program that was not built, say");
        assert_eq!(tests(&format!("echo 'test a::b ... FAILED'; {bad}; exit 101")), (false, 3, 1, 0));
        assert_eq!(tests(&format!("{bad}; exit 101")), (false, 3, 1, 0), "the test's line is lost among others");
        assert!(!tests(&format!("echo 'test a::b ... FAILED'; {bad}")).0, "its program says nothing");
        assert_eq!(tests("true"), (false, 0, 1, 0), "no test");
        let running = "echo '     Running tests/a.rs (a)' >&2";
        assert_eq!(tests(&format!("{running}; {good}")), (true, 5, 0, 2));
        assert_eq!(tests(&format!("{running}; {running}; {good}")), (false, 5, 1, 2), "one of them says nothing");
        assert!(!outcome(|suite| suite.tests("", &mut Command::new("/no/such/program"))).0);
    }

    #[test]
    fn what_a_failed_test_said_stands_with_its_name() {
        let mut suite = Suite::new("suite", 1);
        let said = "---- a::b stdout ----\n\nthread panicked at x.rs:1:\n  left: 1\nstack backtrace:\n0: f\n---- c stdout ----\nnone";
        let script = format!("echo 'test a::b ... FAILED\n{said}\ntest result: FAILED. 0 passed; 1 failed'; exit 101");
        suite.tests("title", &mut shell(&script));
        assert_eq!(suite.failed, ["title: a::b\n    thread panicked at x.rs:1:\n      left: 1"]);
        assert!(!suite.finish());
    }

    #[test]
    fn a_program_that_ends_early_stands_among_the_failures() {
        let mut suite = Suite::new("suite", 1);
        let errors = [
            "error: test failed, to rerun pass `--test a`",
            "  process didn't exit successfully: `a` (exit status: 3)",
            "error: 1 target failed:",
            "    `--test a`",
        ];
        let good = "test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured";
        let [a, b] = ["a", "b"].map(|test| format!("test {test} has been running for over 60 seconds"));
        let script = format!("echo '{a}\n{good}\n{b}'; echo \"$errors\" >&2; exit 101");
        suite.tests("title", shell(&script).env("errors", format!("of no interest\n{}", errors.join("\n\n"))));
        let first = ["title: exit status: 101, though 0 tests said that they failed"];
        let want = first.into_iter().chain(errors).chain([b.as_str()]);
        assert!(suite.failed[0].lines().eq(want), "{}", suite.failed[0]);
        assert!(!suite.finish());

        // So does one beside another program, of which a test failed and said so.
        let mut suite = Suite::new("suite", 1);
        let running = "echo '     Running tests/a.rs (a)' >&2";
        let bad = "echo 'test a::b ... FAILED\ntest result: FAILED. 3 passed; 1 failed'";
        suite.tests("title", &mut shell(&format!("{running}; {running}; {bad}; echo '{}' >&2; exit 101", errors[2])));
        let want = ["title: of 2 programs 1 said how their tests have ended", errors[2]];
        assert!(suite.failed[1].lines().eq(want), "{}", suite.failed[1]);
        assert!(!suite.finish());
    }

    #[test]
    fn programs_fail_with_any_case_that_fails_and_with_a_wrong_end() {
        let program = |script: &str| outcome(|suite| suite.program("", || Ok(shell(script))));
        assert_eq!(program("echo ok a; echo ok b; echo 2 passed, 0 failed"), (true, 2, 0, 0));
        assert_eq!(program("echo ok a; echo FAILED b; echo 1 passed, 1 failed; exit 1"), (false, 1, 1, 0));
        for wrong in [
            "echo ok a; echo FAILED b; echo 1 passed, 1 failed",
            "echo ok a; echo 1 passed, 0 failed; exit 1",
            "echo ok a; echo 2 passed, 0 failed",
            "echo ok a",
            "echo 0 passed, 0 failed",
            "true",
        ] {
            assert!(!program(wrong).0, "{wrong}");
        }
        assert!(!outcome(|suite| suite.program("", || bail!("not built"))).0);
    }
}
