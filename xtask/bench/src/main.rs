//! `cargo xtask bench`: every way side by side, and the bounds that this crate's is to keep.

mod bounds;
mod charts;
mod records;
mod sizes;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::{Map, Value, json};
use xtask::benches::build_telling;
use xtask::suite::{cargo, cargo_for, folder, quietly};
use xtask::wine::{Wine, for_windows};
use xtask::{mingw, setup, tools};

use bounds::{Bound, HEADING, Limit, bounds};
use charts::Row;
use records::{Cell, NAMES, Records};
use sizes::Assembled;

const OUT: &str = "target/bench";

/// How many rounds; each samples every case once.
const ROUNDS: usize = 600;
const QUICK_ROUNDS: usize = 60;

#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Arguments {
    #[command(flatten)]
    options: tools::Bench,
}

fn main() -> ExitCode {
    let tools::Bench { quick, publish } = Arguments::parse().options;
    xtask::main(|| run(quick, publish))
}

/// Measures, prints tables, writes `target/bench`.
fn run(quick: bool, publish: bool) -> Result<()> {
    setup::install(setup::HOST)?;
    setup::install(setup::WINDOWS)?;
    setup::install(setup::BENCH)?;
    fs::create_dir_all(OUT)?;
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    let mut records = Records::default();

    // Everything is built before anything is measured.
    println!("building (some minutes the first time)");
    const ALL: &[&str] = &["--features=rivals,handlers"];
    let (folder, messages) = build_telling(cargo().arg("build"), ALL)?;
    let program = folder.join("release/calltable-bench");
    let linux64 = Assembled::of_build(&messages)?;
    let under_windows = |arch: &str| {
        let (folder, messages) = build_telling(&mut cargo_for(&mingw::gnu_target(arch), "build", "")?, ALL)?;
        let program = folder.join(mingw::gnu_target(arch)).join("release/calltable-bench.exe");
        anyhow::Ok((program, mingw::random(arch)?, Assembled::of_build(&messages)?))
    };
    let (program64, path64, wine64) = under_windows("x86_64")?;
    let (program32, path32, wine32) = under_windows("i686")?;
    let sizes = Sizes { linux64, wine64, wine32, bss: sizes::bss(&program)? };
    let [go, dll] = build_go()?;
    let wine = Wine::start()?;
    let under_wine = |line: &str, path: &str| {
        let mut command = Command::new("sh");
        wine.set(&mut command).args(["-c", &format!("{} {line}", wine.runner())]).env("WINEPATH", path);
        quietly(&mut command)
    };

    println!("measuring on Linux");
    records.read("linux64", &quietly(Command::new(&program).args(["measure", &rounds.to_string()]))?)?;
    records.first_uses(&program)?;
    println!("measuring under Wine");
    for (place, program, path) in [("wine64", program64, path64), ("wine32", program32, path32)] {
        records.read(place, &under_wine(&format!("{} measure {rounds}", program.display()), &path)?)?;
    }
    let line = format!("{} '{}' {rounds}", go.display(), for_windows(&dll));
    records.read("wine64", &under_wine(&line, "")?)?;

    let bounds = bounds(&records, &sizes)?;
    let report = Report::new(&records, &bounds)?;
    println!("\n{}", report.full);
    let out = Path::new(OUT);
    draw_charts(&records, out)?;
    let summary = out.join("summary.json");
    fs::write(&summary, serde_json::to_string_pretty(&summarise(&records, &bounds)?)? + "\n")?;
    println!("written: {} and charts", summary.display());
    if publish {
        draw_charts(&records, Path::new("docs"))?;
        replace("README.md", &report.short)?;
        replace("docs/performance.md", &report.full)?;
    }
    Ok(())
}

/// Bytes for each slot.
struct Sizes {
    linux64: Assembled,
    wine64: Assembled,
    wine32: Assembled,
    bss: f64,
}

/// What a reader sees, in Markdown.
struct Report {
    short: String,
    full: String,
}

impl Report {
    fn new(records: &Records, bounds: &[Bound]) -> Result<Self> {
        let machine = Machine::this()?;
        let about = format!("{}, {}: `{}`.\n", machine.processor, machine.date, command());
        let places =
            [("linux64", "x86_64, Linux"), ("wine64", "x86_64, Windows (Wine)"), ("wine32", "i686, Windows (Wine)")];
        let mut full = about.clone();
        for (place, title) in places {
            write!(full, "\n### {title}\n\nNanoseconds of a call.\n\n{}", records.table(&columns(place)))?;
            write!(
                full,
                "\nNanoseconds of a call of slots in turn, whose handlers differ.\n\n{}",
                records.table(&of_handlers(place))
            )?;
        }
        full += "\n![Several handlers](handlers.svg)\n";
        write!(full, "\n### The rest, x86_64 Linux\n\n{}", records.rest())?;
        write!(full, "\n### Bounds\n\n{HEADING}")?;
        bounds.iter().try_for_each(|bound| writeln!(full, "{bound}"))?;
        let linux = Cell::at("linux64");
        let short = [
            ("Linux, 1 slot", linux),
            ("64 slots in turn", linux.slots(64)),
            ("2000 slots", linux.slots(2000)),
            ("1 slot, 3 frames down", linux.depth(3)),
            ("Wine, x86_64", Cell::at("wine64")),
            ("Wine, i686", Cell::at("wine32")),
        ];
        Ok(Self { short: format!("{about}\n{}", records.table(&short)), full })
    }
}

/// All shapes, slots with one handler, and from further down.
fn columns(place: &'static str) -> Vec<(&'static str, Cell)> {
    let cell = Cell::at(place);
    vec![
        ("0 int", cell.work("int0")),
        ("2 int", cell.work("int2")),
        ("4 int", cell),
        ("8 int", cell.work("int8")),
        ("4 double", cell.work("double4")),
        ("12 mixed", cell.work("mixed12")),
        ("8 slots", cell.slots(8)),
        ("64 slots", cell.slots(64)),
        ("256 slots", cell.slots(256)),
        ("2000 slots", cell.slots(2000)),
        ("depth 3", cell.depth(3)),
        ("depth 12", cell.depth(12)),
    ]
}

/// Slots with several handlers.
fn of_handlers(place: &'static str) -> Vec<(&'static str, Cell)> {
    let [eight, many] = [8, 2000].map(|handlers| Cell::at(place).handlers(handlers));
    vec![
        ("8 slots, 8 handlers", eight.slots(8)),
        ("64, 8", eight.slots(64)),
        ("256, 8", eight.slots(256)),
        ("2000, 8", eight.slots(2000)),
        ("8, 8 shuffled", eight.slots(8).shuffled()),
        ("64, 8 shuffled", eight.slots(64).shuffled()),
        ("256, 8 shuffled", eight.slots(256).shuffled()),
        ("2000, 8 shuffled", eight.slots(2000).shuffled()),
        ("8, 2000", many.slots(8)),
        ("64, 2000", many.slots(64)),
        ("256, 2000", many.slots(256)),
        ("2000, 2000", many.slots(2000)),
    ]
}

/// Where numbers stand in a text that is otherwise written by hand.
fn replace(file: &str, numbers: &str) -> Result<()> {
    const MARKS: [&str; 2] = ["<!-- measured -->\n", "<!-- end -->\n"];
    let text = fs::read_to_string(file)?;
    let (before, rest) = text.split_once(MARKS[0]).with_context(|| format!("no place for numbers in {file}"))?;
    let (_, behind) = rest.split_once(MARKS[1]).with_context(|| format!("no end of the numbers in {file}"))?;
    Ok(fs::write(file, format!("{before}{}{numbers}{}{behind}", MARKS[0], MARKS[1]))?)
}

fn draw_charts(records: &Records, folder: &Path) -> Result<()> {
    let chart = |file: &str, title: &str, series: &[&str], contenders: &[&str], cells: &[Cell]| {
        let rows: Vec<Row> = NAMES
            .iter()
            .filter(|(contender, _)| contenders.contains(contender))
            .map(|(contender, name)| {
                let value = |cell: &Cell| records.call(contender, *cell).ok();
                Row { name: name.replace('`', ""), values: cells.iter().map(value).collect() }
            })
            .collect();
        charts::draw(&folder.join(file), title, series, &rows)
    };
    let linux = Cell::at("linux64");
    let ways = [
        "functions",
        "typed",
        "exclusive",
        "frame",
        "full_save",
        "call_ret",
        "mov_jmp",
        "ancestor",
        "closure_ffi",
        "libffi",
    ];
    chart(
        "slots.svg",
        "One call with 4 integers, x86_64 Linux: slots called in turn",
        &["1 slot", "64 slots", "2000 slots"],
        &ways,
        &[linux, linux.slots(64), linux.slots(2000)],
    )?;
    let slots = linux.slots(256);
    chart(
        "handlers.svg",
        "One call with 4 integers, x86_64 Linux: 256 slots called in turn, whose handlers differ",
        &["8 handlers in turn", "8 handlers, shuffled", "one for each slot"],
        &["direct", "typed", "exclusive", "frame", "full_save", "call_ret", "mov_jmp", "closure_ffi", "libffi"],
        &[slots.handlers(8), slots.handlers(8).shuffled(), slots.handlers(2000)],
    )?;
    chart(
        "depth.svg",
        "The same from further down: what the frames above pay is included",
        &["1 frame", "3 frames", "12 frames"],
        &ways,
        &[linux, linux.depth(3), linux.depth(12)],
    )?;
    chart(
        "wine.svg",
        "One call with 4 integers by Windows code under Wine",
        &["x86_64", "i686, stdcall"],
        &["direct", "typed", "exclusive", "frame", "full_save", "closure_ffi", "libffi", "go"],
        &[Cell::at("wine64"), Cell::at("wine32")],
    )
}

/// The Go program, and the DLL whose loops call back into it.
fn build_go() -> Result<[PathBuf; 2]> {
    let folder = std::env::current_dir()?.join(folder("go")?);
    let made = [folder.join("newcallback.exe"), folder.join("callers.dll")];
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&made[0]).arg("benches/newcallback.go").env("GOCACHE", folder.join("cache"));
    quietly(go.env("GOOS", "windows").env("GOARCH", "amd64").env("CGO_ENABLED", "0"))?;
    let mut gcc = Command::new("x86_64-w64-mingw32-gcc");
    quietly(gcc.args(["-shared", "-O2", "-o"]).arg(&made[1]).arg("benches/callers.c"))?;
    Ok(made)
}

/// Where and when.
struct Machine {
    processor: String,
    system: String,
    date: String,
}

impl Machine {
    fn this() -> Result<Self> {
        let info = fs::read_to_string("/proc/cpuinfo")?;
        let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            processor: name.map_or("unknown", |(_, name)| name).to_string(),
            system: first_line("uname", &["-sm"])?,
            date: first_line("date", &["--utc", "+%F"])?,
        })
    }
}

fn first_line(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_string())
}

fn command() -> String {
    std::env::args().skip(1).fold("cargo xtask bench".into(), |line: String, word| line + " " + &word)
}

/// What `summary.json` says.
fn summarise(records: &Records, bounds: &[Bound]) -> Result<Value> {
    let machine = Machine::this()?;
    let mut summary = json!({
        "date": machine.date,
        "commit": first_line("git", &["rev-parse", "HEAD"])?,
        "command": command(),
        "processor": machine.processor,
        "system": machine.system,
        "rustc": first_line("rustc", &["--version"])?,
        "gcc": first_line("gcc", &["--version"])?,
        "measurements": records.0,
    });
    for Bound { key, value, .. } in bounds {
        summary[key] = (*value).into();
    }
    let limits: Map<String, Value> = bounds
        .iter()
        .map(|bound| {
            let (is, limit) = match bound.limit {
                Limit::AtMost(limit) => ("at_most", limit),
                Limit::AtLeast(limit) => ("at_least", limit),
            };
            (bound.key.to_string(), json!({ is: limit, "kept": bound.is_kept() }))
        })
        .collect();
    summary["bounds"] = limits.into();
    Ok(summary)
}
