//! `cargo xtask torture`: random signatures, called by C code of two compilers and handled in each lane, in search of
//! a wrong register, stack word or value.
//!
//! The cases are written as lines (tests/torture/src/case.rs); C callers, C handlers and typed closures are made of
//! them here, and the fixed part of the program, which knows what to expect, is in tests/torture. Each signature goes
//! through the direct lane with a handler in C, registered by the number of positions or by the signature, and through
//! the frame lane; one in [`TYPED_SHARE`] through a typed closure, too, if it has no more parameters than those take:
//! rustc is slower than the C compilers.
//!
//! What compilers do not agree on is left out ([`is_agreed`]): README.md, "Limits".

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use fastrand::Rng;
use xtask::suite::{self, OTHER_FOLDER, Suite, cargo_for, folder, variable};
use xtask::tools::Torture;
use xtask::wine::{Wine, for_windows};
use xtask::{arm64, gnullvm, mingw, setup};

#[path = "../../../tests/torture/src/case.rs"]
mod case;
use case::{COUNTS, Case, F80, MOST, Platform, ROOM, SCALARS, Type, VECTORS};

/// One signature in so many has a typed closure.
const TYPED_SHARE: usize = 4;
/// Signatures in one program.
const BATCH: usize = 500;
/// Where cases that have failed once are kept; they run first.
const REGRESSIONS: &str = "tests/torture/regressions.txt";
/// Of a typed closure.
const MOST_TYPED: usize = 16;

const LEVELS: &[&str] = &["O0", "O2", "Os"];
/// Windows on ARM64 has no GCC: there Zig's Clang, which follows MinGW, takes its place.
const COMPILERS: &[&str] = &["gcc", "clang"];
/// The name of Zig's Clang among commands: it is wherever its package has been unpacked.
const ZIG: &str = "zig cc";

#[derive(Clone, Copy)]
struct Target {
    name: &'static str,
    platform: Platform,
    /// In the order of [`COMPILERS`].
    compilers: [&'static [&'static str]; 2],
    /// How many the suite makes, of either kind.
    signatures: usize,
}

const TARGETS: &[Target] = &[
    Target {
        name: "x86_64-unknown-linux-gnu",
        platform: Platform { is_64_bit: true, is_windows: false, is_aarch64: false },
        compilers: [&["gcc"], &["clang-19"]],
        signatures: 3000,
    },
    Target {
        name: "i686-unknown-linux-gnu",
        platform: Platform { is_64_bit: false, is_windows: false, is_aarch64: false },
        // As on Windows.
        compilers: [&["gcc", "-m32", "-freg-struct-return"], &["clang-19", "-m32", "-freg-struct-return"]],
        signatures: 3000,
    },
    // Clang compiles for the MSVC target, but what has 80-bit floats for MinGW: objects of all fit together.
    Target {
        name: "x86_64-pc-windows-gnu",
        platform: Platform { is_64_bit: true, is_windows: true, is_aarch64: false },
        compilers: [
            &["x86_64-w64-mingw32-gcc"],
            &["clang-19", "--target=x86_64-pc-windows-msvc", "-mno-stack-arg-probe"],
        ],
        signatures: 3000,
    },
    Target {
        name: "i686-pc-windows-gnu",
        platform: Platform { is_64_bit: false, is_windows: true, is_aarch64: false },
        compilers: [&["i686-w64-mingw32-gcc"], &["clang-19", "--target=i686-pc-windows-msvc", "-mno-stack-arg-probe"]],
        signatures: 3000,
    },
    Target {
        name: suite::AARCH64_LINUX,
        platform: Platform { is_64_bit: true, is_windows: false, is_aarch64: true },
        compilers: [&[setup::GCC_FOR_AARCH64], &["clang-19", "--target=aarch64-linux-gnu"]],
        signatures: 3000,
    },
    Target {
        name: gnullvm::TARGET,
        platform: Platform { is_64_bit: true, is_windows: true, is_aarch64: true },
        compilers: [&[ZIG], &["clang-19", "--target=aarch64-pc-windows-msvc", "-mno-stack-arg-probe"]],
        signatures: 2000, // each program takes seconds to start
    },
];

#[derive(Parser)]
#[command(bin_name = "cargo xtask torture", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    options: Torture,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// What `cargo xtask test torture` runs
    Suite,
}

fn main() -> ExitCode {
    let Arguments { options, part } = Arguments::parse();
    xtask::main(|| match part {
        Some(Part::Suite) => run_suite(),
        None => run(&options),
    })
}

fn run(options: &Torture) -> Result<()> {
    install()?;
    let seed = options.seed.unwrap_or_else(fresh_seed);
    let mut found = 0;
    for name in &options.targets {
        ensure!(TARGETS.iter().any(|target| target.name == name), "there is no target {name}");
    }
    for target in TARGETS {
        if options.targets.is_empty() || options.targets.iter().any(|name| name == target.name) {
            let bench = Bench::new(*target)?;
            found += usize::from(bench.regressions().map_err(|error| println!("    {error:#}")).is_err());
            found +=
                usize::from(bench.hunt(seed, options.signatures).map_err(|error| println!("    {error:#}")).is_err());
        }
    }
    ensure!(found == 0, "calls went wrong");
    Ok(())
}

/// The suite: what failed once, a seed that stays, and a new one.
fn run_suite() -> Result<()> {
    const FIXED: u64 = 20_130_513;
    install()?;
    let mut suite = Suite::new("torture", TARGETS.len() * 3);
    for target in TARGETS {
        let bench = Bench::new(*target)?;
        suite.check(&format!("what has failed once, {}", target.name), || bench.regressions());
        let seed = fresh_seed();
        for (title, seed) in [("the same signatures each time", FIXED), ("new signatures", seed)] {
            suite.check(&format!("{title}, {}", target.name), || bench.hunt(seed, target.signatures));
        }
    }
    ensure!(suite.finish(), "calls went wrong");
    Ok(())
}

fn install() -> Result<()> {
    setup::install(setup::HOST)?;
    setup::install(setup::WINDOWS)?;
    setup::install(setup::WINDOWS_ARM64)
}

fn fresh_seed() -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    time.as_millis() as u64 % 1_000_000_000
}

/// What went wrong, in which lane of which case of a batch.
struct Failure {
    index: usize,
    lane: &'static str,
    message: String,
}

#[derive(Default)]
struct Outcome {
    /// As in [`case::LANES`].
    calls: [usize; 3],
    failures: Vec<Failure>,
}

/// All that the programs of one target are made and run with.
struct Bench {
    target: Target,
    /// The compiler, and what it needs to find the fixed part.
    rustc: PathBuf,
    arguments: Vec<String>,
    runner: Runner,
}

/// What runs them.
enum Runner {
    /// What stands before the program's name; nothing for the machine itself.
    Linux(&'static str),
    /// Wine, and what `WINEPATH` is to be.
    Windows(Wine, String),
    /// This one limits the time itself, from when it is the program's turn.
    Arm64(arm64::Wine),
}

impl Bench {
    fn new(target: Target) -> Result<Self> {
        let arch = target.name.split_once('-').context("a target's name")?.0;
        let (mut cargo, runner) = match target.platform {
            Platform { is_windows: true, is_aarch64: true, .. } => {
                (gnullvm::cargo("build", "")?, Runner::Arm64(arm64::Wine::install()?))
            }
            Platform { is_windows: true, .. } => {
                (mingw::gnu(arch, "build")?, Runner::Windows(Wine::start()?, mingw::random(arch)?))
            }
            Platform { is_aarch64: true, .. } => {
                setup::unpack_gcc_for_aarch64()?;
                (suite::cargo_for_aarch64_linux("build", "")?, Runner::Linux(suite::RUN_AARCH64_LINUX))
            }
            _ => (cargo_for(target.name, "build", "")?, Runner::Linux("")),
        };
        if !target.platform.is_windows && target.name != "x86_64-unknown-linux-gnu" {
            cargo.args(["--target-dir", OTHER_FOLDER]);
        }
        cargo.args(["--package=calltable-torture", "--message-format=json", "--quiet"]);
        println!("    {cargo:?}");
        let output = cargo.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut arguments = vec!["--edition=2024".into(), format!("--target={}", target.name)];
        // The compiler that cargo has used, with its flags for the target.
        let value = |name: &str| -> Option<OsString> {
            let set = cargo.get_envs().find(|(set, _)| *set == name);
            set.map_or_else(|| std::env::var_os(name), |(_, value)| Some(value?.into()))
        };
        let rustc = PathBuf::from(value("RUSTC").unwrap_or_else(|| "rustc".into()));
        let flags = value(&variable(target.name, "RUSTFLAGS")).unwrap_or_default();
        arguments.extend(flags.to_string_lossy().split_whitespace().map(String::from));
        let linker = value(&variable(target.name, "LINKER"));
        arguments.extend(linker.map(|linker| format!("-Clinker={}", linker.to_string_lossy())));
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let message: serde_json::Value = serde_json::from_str(line)?;
            let name = message["target"]["name"].as_str().unwrap_or_default();
            let files = message["filenames"].as_array().map_or(&[][..], Vec::as_slice);
            let library = files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".rlib"));
            let Some(library) = library else { continue };
            match name {
                "calltable" | "calltable_torture" => arguments.push(format!("--extern={name}={library}")),
                _ => {}
            }
            let folder = Path::new(library).parent().context("a library in a folder")?;
            let dependencies = format!("-Ldependency={}", folder.join("deps").display());
            let same = format!("-Ldependency={}", folder.display());
            for argument in [dependencies, same] {
                if !arguments.contains(&argument) {
                    arguments.push(argument);
                }
            }
        }
        if !target.platform.is_windows && !target.platform.is_64_bit {
            arguments.push("-Crelocation-model=static".into()); // the checker names memory by its address
        }
        Ok(Self { target, rustc, arguments, runner })
    }

    /// Runs the cases that have failed once.
    fn regressions(&self) -> Result<()> {
        let text = fs::read_to_string(REGRESSIONS)?;
        let mut cases = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let case = Case::parse(line).with_context(|| format!("{REGRESSIONS}: {line}"))?;
            cases.extend(Some(case).filter(|case| is_agreed(case, self.target.platform)));
        }
        if cases.is_empty() {
            return Ok(());
        }
        let outcome = self.run(&cases, "regressions", 0)?;
        for Failure { index, lane, message } in &outcome.failures {
            println!("    {}\n    {lane}: {message}", cases[*index]);
        }
        println!("    {}: {} cases that have failed once", self.target.name, cases.len());
        ensure!(outcome.failures.is_empty(), "what was right is wrong again");
        Ok(())
    }

    /// Runs that many signatures that follow from the seed, with two programs at a time.
    fn hunt(&self, seed: u64, signatures: usize) -> Result<()> {
        let name = self.target.name;
        println!("    {name}: `cargo xtask torture --target {name} --seed {seed} --signatures {signatures}`");
        let start = Instant::now();
        let next = AtomicUsize::new(0);
        let total = Mutex::new((0, [0; 3], Vec::new(), Instant::now()));
        let line = |done: usize, calls: [usize; 3]| {
            let rate = done as f64 / start.elapsed().as_secs_f64();
            let [direct, frame, typed] = calls;
            println!(
                "    {name}: {done} signatures ({direct} direct, {frame} frame, {typed} typed), {rate:.0} a second"
            );
        };
        let work = |worker: usize| -> Result<()> {
            loop {
                let batch = next.fetch_add(1, Ordering::Relaxed);
                let count = BATCH.min(signatures.saturating_sub(batch.saturating_mul(BATCH)));
                if count == 0 {
                    return Ok(());
                }
                let cases = batch_of(seed, batch, count, self.target.platform);
                let outcome = self.run(&cases, &worker.to_string(), batch).inspect_err(|_| {
                    next.store(usize::MAX / 2, Ordering::Relaxed);
                })?;
                let mut total = total.lock().expect("no worker panics");
                total.0 += count;
                for (sum, calls) in total.1.iter_mut().zip(outcome.calls) {
                    *sum += calls;
                }
                total.2.extend(outcome.failures.into_iter().map(|failure| (cases[failure.index].clone(), failure)));
                if !total.2.is_empty() {
                    next.store(usize::MAX / 2, Ordering::Relaxed); // the other workers end, too
                }
                if total.3.elapsed() > Duration::from_secs(15) {
                    total.3 = Instant::now();
                    line(total.0, total.1);
                }
            }
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let ended = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(move || work(worker))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no worker panics")).collect::<Result<Vec<()>>>()
        });
        ended?;
        let (done, calls, failures, _) = total.into_inner().expect("no worker panics");
        line(done, calls);
        let Some((case, failure)) = failures.first() else { return Ok(()) };
        println!(
            "    {} calls went wrong, among them\n    {case}\n    {}: {}",
            failures.len(),
            failure.lane,
            failure.message
        );
        let case = Case { lanes: vec![failure.lane], ..case.clone() };
        let (case, message) = self.shrink(case, failure.message.clone())?;
        println!("    the same, shrunk:\n    {case}\n    {message}");
        if !fs::read_to_string(REGRESSIONS)?.lines().any(|line| line == case.to_string()) {
            writeln!(fs::OpenOptions::new().append(true).open(REGRESSIONS)?, "{case}")?;
        }
        bail!("{case}: {message} (kept in {REGRESSIONS})")
    }

    /// Takes away and simplifies as long as the case fails.
    fn shrink(&self, mut case: Case, mut message: String) -> Result<(Case, String)> {
        loop {
            let simpler: Vec<_> =
                simpler(&case).into_iter().filter(|case| is_agreed(case, self.target.platform)).collect();
            if simpler.is_empty() {
                return Ok((case, message));
            }
            let outcome = self.run(&simpler, "shrink", 0)?;
            let Some(first) = outcome.failures.into_iter().min_by_key(|failure| failure.index) else {
                return Ok((case, message));
            };
            case = simpler[first.index].clone();
            message = first.message;
        }
    }

    /// Makes a program of the cases and runs it.
    fn run(&self, cases: &[Case], name: &str, batch: usize) -> Result<Outcome> {
        let folder = std::env::current_dir()?.join(folder(&format!("torture/{}/{name}", self.target.name))?);
        let lines: Vec<_> = cases.iter().map(ToString::to_string).collect();
        let list = folder.join("cases.txt");
        fs::write(&list, lines.join("\n"))?;
        let types = Types::of(cases, self.target.platform);
        let mut objects = Vec::new();
        for (compiler, command) in COMPILERS.iter().zip(self.target.compilers) {
            for level in LEVELS {
                let variant = format!("{compiler}-{level}");
                let source = folder.join(&variant).with_extension("c");
                fs::write(&source, c_source(cases, &types, &variant, self.target.platform))?;
                let object = source.with_extension("o");
                let flags =
                    ["-c", "-w", "-std=gnu11", "-ffreestanding", "-fno-strict-aliasing", "-fno-stack-protector"];
                let mut compile = match command[0] {
                    ZIG => Command::new(gnullvm::compiler("cc")?),
                    program => Command::new(program),
                };
                compile.args(&command[1..]);
                if command[0] == "clang-19" && self.target.platform.is_windows && cases.iter().any(has_f80) {
                    compile.arg("--target=i686-w64-windows-gnu"); // MSVC has no such type
                }
                compile.args(flags).arg(format!("-{level}")).arg("-o").arg(&object).arg(&source);
                silently(&mut compile)?;
                objects.push(object);
            }
        }
        let source = folder.join("main.rs");
        fs::write(&source, rust_source(cases, &types, self.target.platform))?;
        let program = folder.join("program.exe");
        let mut rustc = Command::new(&self.rustc);
        rustc.env("RUSTC_BOOTSTRAP", "1").args(&self.arguments).arg(&source).arg("-o").arg(&program);
        rustc.args(["-Awarnings", "-Cdebuginfo=0", "-Ccodegen-units=1"]);
        rustc.arg(if batch % 4 == 3 { "-Copt-level=2" } else { "-Copt-level=0" });
        rustc.args(objects.iter().map(|object| format!("-Clink-arg={}", object.display())));
        silently(&mut rustc)?;

        let run = |verbose: bool| {
            let mut command = Command::new("timeout");
            command.arg("120");
            match &self.runner {
                Runner::Linux(before) => _ = command.args(before.split_whitespace()),
                Runner::Windows(wine, random) => {
                    _ = wine.set(&mut command).arg(wine.program()).env("WINEPATH", random);
                }
                Runner::Arm64(wine) => command = Command::new(wine.runner()),
            }
            command.arg(&program);
            command.arg(if self.target.platform.is_windows { for_windows(&list).into() } else { list.clone() });
            if verbose {
                command.arg("--verbose");
            }
            let output = command.output().with_context(|| format!("{command:?}"))?;
            let errors = String::from_utf8_lossy(&output.stderr).trim().to_string();
            anyhow::Ok((String::from_utf8_lossy(&output.stdout).into_owned(), output.status, errors))
        };
        let (text, ended, complaint) = run(false)?;
        let mut outcome = Outcome::default();
        if !read(&text, &mut outcome)? {
            // It has ended within a call: which one?
            let (text, status, errors) = run(true)?;
            if read(&text, &mut outcome)? {
                // A busy machine may have had no time for it.
                ensure!(!outcome.failures.is_empty(), "it ended early ({ended} {complaint}), but not when run again");
                return Ok(outcome);
            }
            let last = text.lines().rev().find_map(|line| line.strip_prefix("RUN "));
            let (index, lane) = last.and_then(|last| last.split_once(' ')).context("the program does not start")?;
            let lane = case::LANES.iter().find(|known| **known == lane).context("a lane")?;
            let message = format!("the program ended: {status} {errors}");
            outcome.failures.push(Failure { index: index.parse()?, lane, message });
        }
        Ok(outcome)
    }
}

/// Reads what a program says; whether it came to its end.
fn read(text: &str, outcome: &mut Outcome) -> Result<bool> {
    for line in text.lines() {
        if let Some(failure) = line.strip_prefix("FAIL ") {
            let (place, message) = failure.split_once(": ").context("a failure")?;
            let (index, lane) = place.split_once(' ').context("a failure")?;
            let lane = case::LANES.iter().find(|known| **known == lane).context("a lane")?;
            outcome.failures.push(Failure { index: index.parse()?, lane, message: message.into() });
        }
        if let Some(numbers) = line.strip_prefix("DONE ") {
            let numbers = numbers.split(' ').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
            outcome.calls.copy_from_slice(&numbers[..3]);
            return Ok(true);
        }
    }
    Ok(false)
}

fn silently(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

// --- Cases -----------------------------------------------------------------------------------------------------------

fn batch_of(seed: u64, batch: usize, count: usize, platform: Platform) -> Vec<Case> {
    let mut rng = Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(batch as u64));
    let pool: Vec<_> = (0..40).map(|_| random_aggregate(&mut rng, platform)).collect();
    // A batch with such numbers is compiled for MinGW alone.
    let may_have_f80 = !platform.is_64_bit && (!platform.is_windows || batch % 2 == 1);
    (0..count).map(|index| random_case(&mut rng, platform, &pool, index % TYPED_SHARE == 0, may_have_f80)).collect()
}

fn has_f80(case: &Case) -> bool {
    case.parameters.iter().chain(&case.result).any(|ty| ty.has(&[F80]))
}

fn random_scalar(rng: &mut Rng, platform: Platform) -> Type {
    loop {
        let scalar = &SCALARS[rng.usize(..SCALARS.len())];
        let is_there = if VECTORS.contains(&scalar.name) { platform.is_aarch64 } else { platform.is_64_bit };
        if scalar.name != F80 && (is_there || !scalar.name.ends_with("128") && !VECTORS.contains(&scalar.name)) {
            return Type::Scalar(scalar);
        }
    }
}

/// A structure or union of at most 64 bytes; where alignment counts, one in three is aligned as a whole, or within
/// another.
fn random_aggregate(rng: &mut Rng, platform: Platform) -> Type {
    loop {
        let ty = random_plain_aggregate(rng, platform);
        if !platform.is_aarch64 || rng.usize(..3) > 0 {
            return ty;
        }
        let mut ty = Type::Aligned([8, 16, 16, 16, 16, 32][rng.usize(..6)], Box::new(ty));
        if rng.usize(..4) == 0 {
            // In an array, alone or before a scalar; many of them homogeneous.
            if rng.bool() {
                let (element, count) = [("f32", 4), ("f64", 2), ("v64", 2)][rng.usize(..3)];
                ty = Type::Aligned(16, Box::new(Type::Struct(vec![(scalar(element), count)])));
            }
            let more = (rng.usize(..3) == 0).then(|| (random_scalar(rng, platform), 1));
            ty = Type::Struct(std::iter::once((ty, rng.usize(1..=2))).chain(more).collect());
        }
        if ty.size(platform) <= ROOM {
            return ty;
        }
    }
}

/// The same without an alignment of its own: small ones as often as large ones, many of one type alone, and, where
/// alignment counts, some with a member that is aligned.
fn random_plain_aggregate(rng: &mut Rng, platform: Platform) -> Type {
    let most = [1, 2, 3, 4, 4, 8, 8, 8, 12, 16, 24, ROOM][rng.usize(..12)];
    let kind = rng.usize(..8);
    if platform.is_aarch64 && kind == 0 {
        let more = (0..rng.usize(..3)).map(|_| (random_scalar(rng, platform), 1));
        return Type::Struct(std::iter::once((scalar("i128"), 1)).chain(more).collect());
    }
    if kind < 3 {
        let elements = if platform.is_aarch64 { &["f32", "f64", "v64", "v128"][..] } else { &["f32", "f64"] };
        let element = scalar(elements[rng.usize(..elements.len())]);
        loop {
            let ty = random_homogeneous(rng, &element, 2);
            if ty.size(platform) <= ROOM {
                return ty;
            }
        }
    }
    loop {
        let ty = random_members(rng, platform, 2, false);
        if ty.size(platform) <= most {
            return ty;
        }
    }
}

/// One of a single element type, as often as not of one to four of them.
fn random_homogeneous(rng: &mut Rng, element: &Type, depth: usize) -> Type {
    let members = (0..rng.usize(1..=3)).map(|_| {
        let is_nested = depth > 0 && rng.usize(..4) == 0;
        let member = if is_nested { random_homogeneous(rng, element, depth - 1) } else { element.clone() };
        (member, if rng.usize(..3) == 0 { rng.usize(2..=4) } else { 1 })
    });
    let members = members.collect();
    if rng.usize(..5) == 0 { Type::Union(members) } else { Type::Struct(members) }
}

fn random_members(rng: &mut Rng, platform: Platform, depth: usize, in_union: bool) -> Type {
    let is_union = rng.usize(..5) == 0;
    let members = (0..rng.usize(1..=4)).map(|_| {
        let member = if depth > 0 && rng.usize(..5) == 0 {
            random_members(rng, platform, depth - 1, in_union || is_union)
        } else {
            random_scalar(rng, platform)
        };
        // Of a union's bytes another member might make something that is neither true nor false.
        let member = if (in_union || is_union) && member.is_scalar(&["bool"]) { scalar("u8") } else { member };
        (member, if rng.usize(..4) == 0 { rng.usize(2..=5) } else { 1 })
    });
    let members = members.collect();
    if is_union { Type::Union(members) } else { Type::Struct(members) }
}

fn scalar(name: &str) -> Type {
    Type::named(name).expect("a scalar's name")
}

/// What C passes in place of a type where no prototype names one.
fn promoted(ty: &Type) -> Type {
    match ty {
        _ if ty.is_scalar(&["bool", "i8", "u8", "i16", "u16"]) => scalar("i32"),
        _ if ty.is_scalar(&["f32"]) => scalar("f64"),
        _ => ty.clone(),
    }
}

/// Whether a variadic function takes them as they are; who wants vectors is none.
fn has_variadic_types(case: &Case) -> bool {
    let mut others = case.parameters.iter().skip(case.named_parameters());
    others.all(|ty| promoted(ty) == *ty) && !case.parameters.iter().any(|ty| ty.has(VECTORS))
}

fn random_case(rng: &mut Rng, platform: Platform, pool: &[Type], is_typed: bool, may_have_f80: bool) -> Case {
    let conventions: &[&str] = match platform {
        Platform { is_aarch64: true, .. } => &["aapcs64", "aapcs64", "aapcs64", "variadic"],
        Platform { is_64_bit: true, .. } => &["win64"],
        _ => &["stdcall", "cdecl", "thiscall", "fastcall"],
    };
    let variant =
        |rng: &mut Rng| format!("{}-{}", COMPILERS[rng.usize(..COMPILERS.len())], LEVELS[rng.usize(..LEVELS.len())]);
    // A few are longer, and the longest have more positions than a registration may have, and must be refused.
    let is_long = rng.usize(..50) == 0;
    let count = if is_long { rng.usize(25..=MOST) } else { rng.usize(..=24) };
    let any = |rng: &mut Rng| match rng.usize(..3) {
        0 => pool[rng.usize(..pool.len())].clone(),
        _ if may_have_f80 && rng.usize(..SCALARS.len()) == 0 => scalar(F80),
        _ => random_scalar(rng, platform),
    };
    let save = rng.usize(..3);
    let mut case = Case {
        convention: conventions[rng.usize(..conventions.len())].into(),
        caller: variant(rng),
        handler: variant(rng),
        lanes: vec!["direct", "frame"],
        save,
        wreck: rng.usize(..=save + 1),
        count: rng.usize(..COUNTS.len()),
        seed: rng.u8(..),
        parameters: (0..count).map(|_| any(rng)).collect(),
        result: (rng.usize(..8) > 0).then(|| any(rng)),
    };
    if is_typed {
        let has_none = |ty: &Type| ty.has(VECTORS) || ty.has(&[F80]);
        case.parameters.retain(|parameter| !has_none(parameter));
        case.result = case.result.filter(|result| !has_none(result));
    }
    // Conventions with registers want small arguments first; structures and large ones come after them.
    let registers = match case.convention.as_str() {
        "thiscall" => 1,
        "fastcall" => rng.usize(..=2),
        _ => 0,
    };
    for parameter in case.parameters.iter_mut().take(registers) {
        while parameter.is_aggregate() || parameter.size(platform) > 4 || parameter.is_scalar(&["f32"]) {
            *parameter = random_scalar(rng, platform);
        }
    }
    if case.convention == "variadic" {
        case.parameters.retain(|parameter| !parameter.has(VECTORS));
        let named = case.named_parameters();
        for parameter in &mut case.parameters[named..] {
            *parameter = promoted(parameter);
        }
    }
    while platform.is_aarch64 && case.is_beyond_signatures(platform) {
        case.parameters.pop();
    }
    // `MAX_POSITIONS` of i686.
    while !platform.is_64_bit && !is_long && case.positions(platform) > 128 {
        case.parameters.pop();
    }
    if !is_agreed(&Case { lanes: vec!["frame"], result: None, ..case.clone() }, platform) {
        case.parameters.retain(|parameter| !parameter.is_aggregate() && parameter.size(platform) <= 4);
        if case.convention == "thiscall" {
            case.parameters.insert(0, scalar("pointer"));
        }
    }
    if !is_agreed(&Case { lanes: vec!["frame"], ..case.clone() }, platform) {
        case.result = case.result.filter(|result| !result.is_aggregate());
    }
    if !is_agreed(&case, platform) {
        case.lanes = vec!["frame"];
    }
    if is_typed && case.parameters.len() <= MOST_TYPED {
        let typed = Case { lanes: [&case.lanes[..], &["typed"]].concat(), ..case.clone() };
        return if is_agreed(&typed, platform) { typed } else { case };
    }
    case
}

/// Whether the target has what the case needs, and its compilers agree where everything is.
fn is_agreed(case: &Case, platform: Platform) -> bool {
    let in_registers = case.in_registers(platform);
    let is_small = |ty: &Type| !ty.is_aggregate() && ty.size(platform) <= 4 && !ty.is_scalar(&["f32"]);
    let result = case.result.as_ref().filter(|result| result.is_aggregate());
    let types = case.parameters.iter().chain(&case.result);
    let has_types = types
        .clone()
        .all(|ty| (platform.is_64_bit || !ty.has(&["i128", "u128"])) && (platform.is_aarch64 || !ty.has(VECTORS)))
        && (!has_f80(case) || !platform.is_64_bit && !case.lanes.contains(&"typed"));
    let registers = in_registers.iter().filter(|in_register| **in_register).count();
    // Nobody doubts where the data is if all registers are in use, or nothing is on the stack.
    let is_data_agreed = |all| registers == all || registers == case.parameters.len();
    has_types
        && match case.convention.as_str() {
            // rustc has rules of its own for vectors in structures.
            convention @ ("aapcs64" | "variadic") => {
                platform.is_aarch64
                    && !(case.lanes.contains(&"typed") && types.clone().any(|ty| ty.has(VECTORS)))
                    && !case.is_beyond_signatures(platform)
                    && (convention == "aapcs64" || has_variadic_types(case))
            }
            _ if platform.is_aarch64 => false,
            "win64" => platform.is_64_bit,
            _ if platform.is_64_bit => false,
            // On Linux rustc returns all structures in memory, whose address a cdecl callee removes.
            convention @ ("stdcall" | "cdecl") => result.is_none_or(|result| {
                let is_same = platform.is_windows || !case.lanes.contains(&"typed");
                let is_removed = !platform.is_windows && convention == "cdecl" && !fits_registers(result, platform);
                is_same && !is_removed && is_returned_alike(result, platform)
            }),
            "thiscall" => {
                result.is_none()
                    && case.parameters.first().is_none_or(is_small)
                    && (is_data_agreed(1) || !case.lanes.contains(&"direct"))
            }
            // Behind a structure or a large argument, compilers disagree on what is in a register.
            _ => {
                let large = case.parameters.iter().position(|ty| ty.is_aggregate() || ty.size(platform) > 4);
                let behind = in_registers.iter().skip(large.unwrap_or(MOST)).any(|in_register| *in_register);
                result.is_none() && !behind && (is_data_agreed(2) || !case.lanes.contains(&"direct"))
            }
        }
}

/// On i686 GCC returns what is nothing but a float or double in ST0, and in memory what has a member that fits
/// no register, such as an array of three bytes, whatever the size of the whole.
fn is_returned_alike(ty: &Type, platform: Platform) -> bool {
    let size = ty.size(platform);
    if !matches!(size, 1 | 2 | 4 | 8) {
        return true;
    }
    let leaves = ty.leaves(platform, 0);
    let is_float = leaves.iter().all(|leaf| leaf.scalar.name.starts_with('f') && leaf.size == size);
    !is_float && fits_registers(ty, platform)
}

fn fits_registers(ty: &Type, platform: Platform) -> bool {
    let Some((members, _)) = ty.members() else { return true };
    matches!(ty.size(platform), 1 | 2 | 4 | 8)
        && members.iter().all(|(member, count)| {
            matches!(count * member.size(platform), 1 | 2 | 4 | 8) && fits_registers(member, platform)
        })
}

/// The case with something taken away or made plainer, most of it first.
fn simpler(case: &Case) -> Vec<Case> {
    let mut cases = Vec::new();
    let count = case.parameters.len();
    let mut with = |change: &dyn Fn(&mut Case)| {
        let mut changed = case.clone();
        change(&mut changed);
        if changed != *case {
            cases.push(changed);
        }
    };
    if count > 1 {
        with(&|case| drop(case.parameters.drain(..count / 2)));
        with(&|case| drop(case.parameters.drain(count / 2..)));
    }
    with(&|case| case.result = None);
    (0..count).for_each(|index| with(&|case| drop(case.parameters.remove(index))));
    with(&|case| (case.save, case.wreck) = (0, case.wreck.min(1)));
    with(&|case| (case.save, case.wreck) = (case.save.min(1), case.wreck.min(2)));
    with(&|case| case.wreck = case.wreck.saturating_sub(1));
    with(&|case| case.count = 0);
    with(&|case| case.caller = "gcc-O0".into());
    with(&|case| case.handler = "gcc-O0".into());
    for plain in plainer(case.result.as_ref()) {
        with(&|case| case.result = Some(plain.clone()));
    }
    for index in 0..count {
        for plain in plainer(case.parameters.get(index)) {
            with(&|case| case.parameters[index] = plain.clone());
        }
    }
    with(&|case| case.seed = 1);
    cases
}

fn plainer(ty: Option<&Type>) -> Vec<Type> {
    if let Some(Type::Aligned(least, ty)) = ty {
        let same = plainer(Some(ty)).into_iter().filter(Type::is_aggregate);
        let aligned = same.map(|plain| Type::Aligned(*least, Box::new(plain)));
        return [scalar("i32"), (**ty).clone()].into_iter().chain(aligned).collect();
    }
    let (Some(Type::Struct(members)) | Some(Type::Union(members))) = ty else {
        return ty.iter().filter(|ty| !ty.is_scalar(&["i32"])).map(|_| scalar("i32")).collect();
    };
    let mut types = vec![scalar("i32")];
    for index in 0..members.len() {
        let (mut without, mut single) = (members.clone(), members.clone());
        without.remove(index);
        single[index].1 = 1;
        let changed = [without, single].into_iter().filter(|changed| !changed.is_empty() && changed != members);
        types.extend(changed.map(|changed| {
            if matches!(ty, Some(Type::Union(_))) { Type::Union(changed) } else { Type::Struct(changed) }
        }));
        types.extend(Some(members[index].0.clone()).filter(Type::is_aggregate));
    }
    types
}

// --- Their text ------------------------------------------------------------------------------------------------------

/// Names of structures and unions, those within others before them.
#[derive(Default)]
struct Types {
    order: Vec<Type>,
    names: HashMap<Type, String>,
}

impl Types {
    fn of(cases: &[Case], platform: Platform) -> Self {
        let mut types = Self::default();
        let mut known = HashSet::new();
        let all = cases.iter().flat_map(|case| [case.clone(), case.received(platform)]);
        for ty in all.flat_map(|case| case.parameters.into_iter().chain(case.result)) {
            if !known.contains(&ty) {
                types.add(&ty);
                known.insert(ty);
            }
        }
        types
    }

    fn add(&mut self, ty: &Type) {
        let Some((members, _)) = ty.members() else { return };
        if !self.names.contains_key(ty) {
            members.iter().for_each(|(member, _)| self.add(member));
            self.names.insert(ty.clone(), format!("T{}", self.order.len()));
            self.order.push(ty.clone());
        }
    }

    /// Each with the word that declares it, in C as in Rust, its members, and the alignment of the whole, if it has one
    /// of its own.
    fn aggregates(&self) -> impl Iterator<Item = (&Type, &'static str, &Vec<(Type, usize)>, Option<usize>)> {
        self.order.iter().filter_map(|ty| {
            let (members, is_union) = ty.members()?;
            let least = if let Type::Aligned(least, _) = ty { Some(*least) } else { None };
            Some((ty, if is_union { "union" } else { "struct" }, members, least))
        })
    }

    fn c(&self, ty: &Type) -> &str {
        if let Type::Scalar(scalar) = ty { scalar.c } else { &self.names[ty] }
    }

    fn rust(&self, ty: &Type) -> &str {
        if let Type::Scalar(scalar) = ty { scalar.rust } else { &self.names[ty] }
    }
}

fn attribute(convention: &str) -> String {
    match convention {
        "win64" => "__attribute__((ms_abi))".into(),
        "cdecl" | "aapcs64" | "variadic" => String::new(),
        other => format!("__attribute__(({other}))"),
    }
}

/// The callers and the handlers that one compiler makes with one level.
fn c_source(cases: &[Case], types: &Types, variant: &str, platform: Platform) -> String {
    let mut text = format!("typedef unsigned char *P;\n#define A(type, index) (*(type *)(b + {ROOM} * index))\n");
    if platform.is_aarch64 {
        text += "typedef unsigned char v64 __attribute__((vector_size(8)));\n";
        text += "typedef unsigned char v128 __attribute__((vector_size(16)));\n";
    }
    if variant == "clang-O0" && platform.is_windows {
        text += "int _fltused;\n"; // which Clang's code asks for with MSVC's library in mind
    }
    for (ty, word, members, least) in types.aggregates() {
        let members = members.iter().enumerate();
        let members = members.map(|(index, (member, count))| format!("{} m{index}[{count}]; ", types.c(member)));
        let (name, size) = (types.c(ty), ty.size(platform));
        let aligned = least.map_or(String::new(), |least| format!("__attribute__((aligned({least})))"));
        writeln!(text, "typedef {word} {aligned} {{ {}}} {name};", members.collect::<String>()).unwrap();
        writeln!(text, "_Static_assert(sizeof({name}) == {size}, \"\");").unwrap();
    }
    let mut table = String::new();
    for (index, case) in cases.iter().enumerate() {
        let attribute = attribute(&case.convention);
        let result = case.result.as_ref().map_or("void", |ty| types.c(ty));
        let list = |case: &Case, of: &dyn Fn(usize, &str) -> String| {
            let parameters = case.parameters.iter().enumerate().map(|(index, ty)| of(index, types.c(ty)));
            parameters.collect::<Vec<_>>()
        };
        let mut names = ["0".to_string(), "0".to_string()];
        if case.caller == variant {
            let mut parameters = list(case, &|_, ty| ty.into());
            parameters.truncate(case.named_parameters());
            parameters.extend((case.convention == "variadic" && !parameters.is_empty()).then(|| "...".into()));
            let parameters = if parameters.is_empty() { "void".into() } else { parameters.join(", ") };
            let store = case.result.as_ref().map_or(String::new(), |_| format!("A({result}, {MOST}) = "));
            let arguments = list(case, &|index, ty| format!("A({ty}, {index})")).join(", ");
            // Of the handlers' convention: GCC takes four times as long where functions of two take turns.
            let own = if platform.is_64_bit { attribute.as_str() } else { "" };
            writeln!(text, "static {own} void c{index}({result} ({attribute} *f)({parameters}), P b) {{").unwrap();
            writeln!(text, "{store}f({arguments}); }}").unwrap();
            names[0] = format!("c{index}");
        }
        if case.handler == variant && case.lanes.contains(&"direct") {
            let received = case.received(platform);
            let parameters = list(&received, &|index, ty| format!("{ty} a{index}")).join(", ");
            let comma = if parameters.is_empty() { "" } else { ", " };
            writeln!(text, "static {attribute} {result} h{index}({parameters}{comma}P b) {{").unwrap();
            for (index, ty) in received.parameters.iter().enumerate() {
                write!(text, "A({}, {index}) = a{index}; ", types.c(ty)).unwrap();
            }
            let end = case.result.as_ref().map_or(String::new(), |_| format!("return A({result}, {MOST}); "));
            writeln!(text, "{end}}}").unwrap();
            names[1] = format!("h{index}");
        }
        if names != ["0", "0"] {
            writeln!(table, "{{ {index}, {}, {} }},", names[0], names[1]).unwrap();
        }
    }
    let name = variant.replace('-', "_");
    text + &format!("const struct {{ __SIZE_TYPE__ index; void *c, *h; }} {name}[] = {{\n{table}{{ 0, 0, 0 }} }};\n")
}

/// The typed closures, and the program.
fn rust_source(cases: &[Case], types: &Types, platform: Platform) -> String {
    let mut text = String::new();
    for (ty, word, members, least) in types.aggregates() {
        let members = members.iter().enumerate();
        let members = members.map(|(index, (member, count))| format!("m{index}: [{}; {count}], ", types.rust(member)));
        let (name, members) = (types.rust(ty), members.collect::<String>());
        let aligned = least.map_or(String::new(), |least| format!(", align({least})"));
        writeln!(text, "#[repr(C{aligned})] #[derive(Clone, Copy)] {word} {name} {{ {members}}}").unwrap();
    }
    let mut list = String::new();
    for (index, case) in cases.iter().enumerate().filter(|(_, case)| case.lanes.contains(&"typed")) {
        let constructor = match case.count {
            0 if case.seed % 2 == 0 => "from_ref",
            0 => "from_fn",
            1 => "from_ref_with",
            _ => "from_mut",
        };
        let received = case.received(platform);
        let parameters = received.parameters.iter().enumerate();
        let parameters = parameters.map(|(index, ty)| format!("{index} a{index} {}, ", types.rust(ty)));
        let convention = if platform.is_aarch64 { "C" } else { &case.convention };
        let parameters = parameters.collect::<String>();
        let result = case.result.as_ref().map_or("()", |ty| types.rust(ty));
        writeln!(text, "calltable_torture::typed! {{ t{index} {convention:?} {constructor} ({parameters}) {result} }}")
            .unwrap();
        write!(list, "({index}, t{index} as calltable_torture::Typed), ").unwrap();
    }
    let names: Vec<_> =
        COMPILERS.iter().flat_map(|compiler| LEVELS.iter().map(move |level| format!("{compiler}_{level}"))).collect();
    let tables = names.iter().map(|name| format!("static {name}: calltable_torture::Entry; ")).collect::<String>();
    let all = names.iter().map(|name| format!("&raw const {name}, ")).collect::<String>();
    text + &format!(
        "unsafe extern \"C\" {{ {tables} }}\n\
         fn main() -> std::process::ExitCode {{ unsafe {{ calltable_torture::run(&[{all}], &[{list}]) }} }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_cases_again_and_each_is_a_line() {
        for platform in TARGETS.iter().map(|target| target.platform) {
            let cases = batch_of(7, 0, 100, platform);
            assert_eq!(cases, batch_of(7, 0, 100, platform));
            assert_ne!(cases, batch_of(8, 0, 100, platform));
            for case in cases {
                assert!(is_agreed(&case, platform), "{case}");
                assert_eq!(Case::parse(&case.to_string()), Some(case));
            }
        }
    }

    #[test]
    fn what_is_simpler_becomes_simplest() {
        for platform in [TARGETS[0].platform, WINDOWS] {
            for case in batch_of(7, 0, 20, platform) {
                let (mut case, mut steps) = (case, 0);
                while let Some(simpler) = simpler(&case).into_iter().find(|case| is_agreed(case, platform)) {
                    (case, steps) = (simpler, steps + 1);
                    assert!(steps < 1000, "{case}");
                }
                assert!(case.parameters.is_empty() && case.result.is_none(), "{case}");
            }
        }
    }

    const WINDOWS: Platform = Platform { is_64_bit: true, is_windows: true, is_aarch64: true };
    const LINUX: Platform = Platform { is_windows: false, ..WINDOWS };

    #[test]
    fn on_aarch64_some_structures_are_aligned_as_a_whole() {
        for platform in [LINUX, WINDOWS] {
            let cases = batch_of(7, 0, 100, platform);
            let is_aligned = |ty: &Type| matches!(ty, Type::Aligned(16, _)) && ty.size(platform) <= 16;
            for lane in ["direct", "frame", "typed"] {
                let mut cases = cases.iter().filter(|case| case.lanes.contains(&lane));
                assert!(cases.any(|case| case.parameters.iter().any(is_aligned)), "{lane}");
            }
        }
        // What that means: on Windows the first word stays empty; elsewhere two are taken.
        let words = |ty: &str, platform| {
            let line = format!(
                "aapcs64 gcc-O0 gcc-O0 frame keeping intact uncounted 1 : {}i64 {ty} -> void",
                "f64 ".repeat(8) + &"i64 ".repeat(8)
            );
            Case::parse(&line).expect("a case").words_on_aarch64(platform)
        };
        assert_eq!([words("@16 { i64 i32 }", LINUX), words("@16 { i64 i32 }", WINDOWS)], [3, 4]);
        // Where a member has the alignment, both agree; a homogeneous one has that of its elements.
        assert_eq!([words("{ @16 { i64 } }", LINUX), words("{ @16 { i64 } }", WINDOWS)], [4, 4]);
        assert_eq!([words("@16 { f64 f64 }", LINUX), words("@16 { f64 f64 }", WINDOWS)], [3, 3]);
    }

    #[test]
    fn variadic_functions_of_windows_on_arm64_get_integers() {
        let line = |types| format!("variadic gcc-O0 gcc-O0 frame keeping intact uncounted 1 : {types} -> f64");
        let case = Case::parse(&line("f32 @16 { f64 f64 }")).expect("a case");
        assert!(is_agreed(&case, LINUX) && is_agreed(&case, WINDOWS));
        assert_eq!(case.received(LINUX), case);
        assert_eq!(case.received(WINDOWS).to_string(), line("u32 @16 { u64 u64 }"));
        // The third parameter has no name, and comes as a `double`; a half of the eighth would be in X7.
        for wrong in ["i32 i32 f32", "i32 i64 i64 i64 i64 i64 i64 { i64 i32 }"] {
            assert!(!is_agreed(&Case::parse(&line(wrong)).expect("a case"), WINDOWS), "{wrong}");
        }
        assert!(batch_of(7, 0, 100, WINDOWS).iter().any(|case| *case != case.received(WINDOWS)));
    }
}
