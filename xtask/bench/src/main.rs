//! `cargo xtask bench`: every way side by side, and the bounds that this crate's is to keep.

mod charts;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use serde_json::{Map, Value, json};
use xtask::benches::build;
use xtask::suite::{cargo, folder, quietly};
use xtask::wine::{Wine, for_windows};
use xtask::{BSS_PER_SLOT, CAPACITY, mingw, setup, text_per_slot, tools};

use charts::Row;

const OUT: &str = "target/bench";

/// How many rounds; each samples every case once.
const ROUNDS: usize = 600;
const QUICK_ROUNDS: usize = 60;
/// A process each.
const FIRST_USES: usize = 31;

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
    const RIVALS: &[&str] = &["--features=rivals"];
    let program = build(cargo().arg("build"), RIVALS)?.join("release/calltable-bench");
    let mut programs = Vec::new();
    for (arch, place) in [("x86_64", "wine64"), ("i686", "wine32")] {
        let folder = build(&mut mingw::gnu(arch, "build")?, RIVALS)?.join(format!("{arch}-pc-windows-gnu/release"));
        programs.push((place, folder.join("calltable-bench.exe"), mingw::random(arch)?));
    }
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
    for (place, program, path) in programs {
        records.read(place, &under_wine(&format!("{} measure {rounds}", program.display()), &path)?)?;
    }
    let line = format!("{} '{}' {rounds}", go.display(), for_windows(&dll));
    records.read("wine64", &under_wine(&line, "")?)?;

    let sizes = sizes(&program)?;
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
        }
        write!(full, "\n### The rest, x86_64 Linux\n\n{}", records.rest())?;
        write!(full, "\n### Bounds\n\n| ratio | measured | bound | |\n| --- | --- | --- | --- |\n")?;
        bounds.iter().try_for_each(|bound| writeln!(full, "{bound}"))?;
        let short = [
            ("Linux, 1 slot", "linux64", "int4", 1, 1),
            ("64 slots in turn", "linux64", "int4", 64, 1),
            ("2000 slots", "linux64", "int4", 2000, 1),
            ("1 slot, 3 frames down", "linux64", "int4", 1, 3),
            ("Wine, x86_64", "wine64", "int4", 1, 1),
            ("Wine, i686", "wine32", "int4", 1, 1),
        ];
        Ok(Self { short: format!("{about}\n{}", records.table(&short)), full })
    }
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
    type Cell = (&'static str, usize, usize);
    let chart = |file: &str, title: &str, series: &[&str], contenders: &[&str], cells: &[Cell]| {
        let rows: Vec<Row> = NAMES
            .iter()
            .filter(|(contender, _)| contenders.contains(contender))
            .map(|(contender, name)| {
                let value = |(place, slots, depth): &Cell| records.call(place, contender, "int4", *slots, *depth).ok();
                Row { name: name.replace('`', ""), values: cells.iter().map(value).collect() }
            })
            .collect();
        charts::draw(&folder.join(file), title, series, &rows)
    };
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
        &[("linux64", 1, 1), ("linux64", 64, 1), ("linux64", 2000, 1)],
    )?;
    chart(
        "depth.svg",
        "The same from further down: what the frames above pay is included",
        &["1 frame", "3 frames", "12 frames"],
        &ways,
        &[("linux64", 1, 1), ("linux64", 1, 3), ("linux64", 1, 12)],
    )?;
    chart(
        "wine.svg",
        "One call with 4 integers by Windows code under Wine",
        &["x86_64", "i686, stdcall"],
        &["direct", "typed", "exclusive", "frame", "full_save", "closure_ffi", "libffi", "go"],
        &[("wine64", 1, 1), ("wine32", 1, 1)],
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

/// What was measured in one run: objects with the labels of a case, its median and its quartiles.
#[derive(Default)]
struct Records(Vec<Map<String, Value>>);

impl Records {
    /// Takes what a program of `benches` has printed.
    fn read(&mut self, place: &str, text: &str) -> Result<()> {
        let before = self.0.len();
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let mut record: Map<String, Value> = serde_json::from_str(line).with_context(|| line.to_string())?;
            record.insert("place".into(), place.into());
            self.0.push(record);
        }
        ensure!(self.0.len() > before, "nothing was measured: {text}");
        Ok(())
    }

    /// The first callback of a process, in processes of their own.
    fn first_uses(&mut self, program: &Path) -> Result<()> {
        let contenders = ["typed", "closure_ffi", "libffi"];
        let mut samples = contenders.map(|_| Vec::new());
        for _ in 0..FIRST_USES {
            for (contender, samples) in contenders.iter().zip(&mut samples) {
                let output = Command::new(program).args(["first", contender]).output()?;
                samples.push(String::from_utf8_lossy(&output.stdout).trim().parse::<f64>().context("not a number")?);
            }
        }
        for (contender, mut samples) in contenders.iter().zip(samples) {
            samples.sort_by(f64::total_cmp);
            let at = |part: usize| samples[(samples.len() - 1) * part / 4];
            let record = json!({
                "group": "first", "place": "linux64", "contender": contender,
                "q1": at(1), "median": at(2), "q3": at(3), "samples": samples.len(),
            });
            self.0.extend(record.as_object().cloned());
        }
        Ok(())
    }

    /// The median of the case with these labels.
    fn median(&self, labels: &[(&str, Value)]) -> Result<f64> {
        let fits = |record: &&Map<String, Value>| labels.iter().all(|(name, value)| record.get(*name) == Some(value));
        let record = self.0.iter().find(fits).with_context(|| format!("{labels:?} was not measured"))?;
        record.get("median").and_then(Value::as_f64).context("a record without a median")
    }

    /// Nanoseconds of one call.
    fn call(&self, place: &str, contender: &str, work: &str, slots: usize, depth: usize) -> Result<f64> {
        self.median(&[
            ("group", "calls".into()),
            ("place", place.into()),
            ("contender", contender.into()),
            ("work", work.into()),
            ("slots", slots.into()),
            ("depth", depth.into()),
        ])
    }

    /// Nanoseconds of making and releasing one while so many live.
    fn pair(&self, contender: &str, live: usize) -> Result<f64> {
        self.median(&[
            ("group", "register".into()),
            ("place", "linux64".into()),
            ("contender", contender.into()),
            ("live", live.into()),
        ])
    }

    /// A table of Markdown: nanoseconds of a call.
    fn table(&self, columns: &[Column]) -> String {
        let names: Vec<_> = columns.iter().map(|column| column.0).collect();
        let mut text = format!("| | {} |\n|{}\n", names.join(" | "), " --- |".repeat(1 + names.len()));
        for (contender, name) in NAMES {
            let cells: Vec<_> = columns
                .iter()
                .map(|(_, place, work, slots, depth)| self.call(place, contender, work, *slots, *depth))
                .map(|ns| ns.map_or("-".into(), |ns| format!("{ns:.1}")))
                .collect();
            if cells.iter().any(|cell| cell != "-") {
                text += &format!("| {name} | {} |\n", cells.join(" | "));
            }
        }
        text
    }

    /// A table of Markdown: what is not a call of a hot slot.
    fn rest(&self) -> String {
        let mut text = String::from("| | median | quartiles |\n| --- | --- | --- |\n");
        let groups = [
            ("register", "ns to make and release a callback", "live"),
            ("first", "ns to make the first callback of a process and call it", ""),
            ("cold", "ns of one call, caches evicted", ""),
            ("threads", "million calls in a second", "threads"),
        ];
        for (group, title, label) in groups {
            let of_group = |record: &&Map<String, Value>| record["group"] == group && record["place"] == "linux64";
            for record in self.0.iter().filter(of_group) {
                let contender = record["contender"].as_str().unwrap_or_default();
                let name = NAMES.iter().find(|(name, _)| *name == contender).map_or(contender, |(_, name)| name);
                let detail = record.get(label).map_or(String::new(), |value| format!(", {value} {label}"));
                let number = |name: &str| record[name].as_f64().unwrap_or(f64::NAN);
                let [median, q1, q3] = ["median", "q1", "q3"].map(number);
                text += &format!("| {title}: {name}{detail} | {median:.1} | {q1:.1} to {q3:.1} |\n");
            }
        }
        text
    }
}

/// Title, place, work, slots, depth.
type Column = (&'static str, &'static str, &'static str, usize, usize);

fn columns(place: &'static str) -> Vec<Column> {
    let columns = [
        ("0 int", "int0", 1, 1),
        ("2 int", "int2", 1, 1),
        ("4 int", "int4", 1, 1),
        ("8 int", "int8", 1, 1),
        ("4 double", "double4", 1, 1),
        ("12 mixed", "mixed12", 1, 1),
        ("8 slots", "int4", 8, 1),
        ("64 slots", "int4", 64, 1),
        ("2000 slots", "int4", 2000, 1),
        ("depth 3", "int4", 1, 3),
        ("depth 12", "int4", 1, 12),
    ];
    columns.map(|(title, work, slots, depth)| (title, place, work, slots, depth)).to_vec()
}

/// Contenders as the programs and as the tables call them.
const NAMES: &[(&str, &str)] = &[
    ("direct", "a plain function (the floor)"),
    ("functions", "a plain function for each slot"),
    ("typed", "calltable, closure shared"),
    ("exclusive", "calltable, closure exclusive"),
    ("tracked", "calltable, closure tracked"),
    ("direct_c", "calltable, direct lane, handler in C"),
    ("frame", "calltable, frame lane"),
    ("full_save", "calltable, frame lane, full save"),
    ("dynamic", "calltable, closure of a dynamic signature"),
    ("call_ret", "table of `call; ret`, nothing checked"),
    ("mov_jmp", "table of `mov; jmp`"),
    ("ancestor", "the way of 2013 (5-byte CALL, address dropped, DIV)"),
    ("closure_ffi", "closure-ffi (writes code)"),
    ("libffi", "libffi closure"),
    ("direct_from_go", "a plain function, called from the Go program"),
    ("go", "Go's `syscall.NewCallback`"),
    ("share", "calltable, shared registration"),
    ("share_again", "calltable, one more use of a shared one"),
];

/// A number that is to keep a limit.
struct Bound {
    key: &'static str,
    value: f64,
    limit: Limit,
}

#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn is_kept(&self) -> bool {
        match self.limit {
            Limit::AtMost(limit) => self.value <= limit,
            Limit::AtLeast(limit) => self.value >= limit,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let limit = match self.limit {
            Limit::AtMost(limit) => format!("at most {limit}"),
            Limit::AtLeast(limit) => format!("at least {limit}"),
        };
        let verdict = if self.is_kept() { "kept" } else { "over" };
        write!(f, "| `{}` | {:.2} | {limit} | {verdict} |", self.key, self.value)
    }
}

fn bounds(records: &Records, sizes: &Sizes) -> Result<Vec<Bound>> {
    use Limit::{AtLeast, AtMost};
    let linux = |contender, work, slots, depth| records.call("linux64", contender, work, slots, depth);
    let typed4 = linux("typed", "int4", 1, 1)?;
    let direct = linux("direct", "int4", 1, 1)?;
    let threads = |threads: usize| {
        records.median(&[
            ("group", "threads".into()),
            ("contender", "typed".into()),
            ("place", "linux64".into()),
            ("threads", threads.into()),
        ])
    };
    let bounds = [
        ("typed4_over_direct", typed4 / direct, AtMost(2.2)),
        (
            "typed4_overhead_over_libffi_overhead",
            (typed4 - direct) / (linux("libffi", "int4", 1, 1)? - direct),
            AtMost(0.35),
        ),
        (
            "typed4_2000_over_libffi_2000",
            linux("typed", "int4", 2000, 1)? / linux("libffi", "int4", 2000, 1)?,
            AtMost(0.45),
        ),
        ("typed4_64_over_jit_64", linux("typed", "int4", 64, 1)? / linux("closure_ffi", "int4", 64, 1)?, AtMost(1.0)),
        ("typed4_1_over_jit_1", typed4 / linux("closure_ffi", "int4", 1, 1)?, AtMost(1.9)),
        ("ancestor_over_typed4_depth3", linux("ancestor", "int4", 1, 3)? / linux("typed", "int4", 1, 3)?, AtLeast(5.0)),
        ("frame4_over_typed4", linux("frame", "int4", 1, 1)? / typed4, AtMost(1.3)),
        ("fullsave4_over_frame4", linux("full_save", "int4", 1, 1)? / linux("frame", "int4", 1, 1)?, AtMost(1.6)),
        ("typed_doubles4_over_typed4", linux("typed", "double4", 1, 1)? / typed4, AtMost(1.2)),
        ("register_release_1999_over_0", records.pair("typed", 1999)? / records.pair("typed", 0)?, AtMost(1.3)),
        ("libffi_alloc_over_register", records.pair("libffi", 0)? / records.pair("typed", 0)?, AtLeast(3.0)),
        ("two_threads_scaling", threads(2)? / threads(1)?, AtLeast(1.8)),
        (
            "go_runtime_over_typed4_wine64",
            records.call("wine64", "go", "int4", 1, 1)? / records.call("wine64", "typed", "int4", 1, 1)?,
            AtLeast(25.0),
        ),
        (
            "i686_stdcall4_over_direct_wine32",
            records.call("wine32", "typed", "int4", 1, 1)? / records.call("wine32", "direct", "int4", 1, 1)?,
            AtMost(3.0),
        ),
        ("text_bytes_per_slot", sizes.text / CAPACITY as f64, AtMost(text_per_slot(32))),
        ("bss_bytes_per_slot", sizes.bss / CAPACITY as f64, AtMost(BSS_PER_SLOT)),
    ];
    Ok(bounds.into_iter().map(|(key, value, limit)| Bound { key, value, limit }).collect())
}

/// Bytes that the crate adds to a program: the table with its dispatchers, and what starts as zeros.
struct Sizes {
    text: f64,
    bss: f64,
}

fn sizes(program: &Path) -> Result<Sizes> {
    let symbols = quietly(Command::new("nm").args(["--print-size", "--demangle", "--defined-only"]).arg(program))?;
    let (mut table, mut end, mut bss) = (None, None, 0);
    for line in symbols.lines() {
        let Some((address, rest)) = line.split_once(' ') else { continue };
        let Ok(address) = u64::from_str_radix(address, 16) else { continue };
        let of_crate = |name: &str| name.starts_with("calltable_") || name.starts_with("calltable::");
        match rest.splitn(3, ' ').collect::<Vec<_>>()[..] {
            // A label has no size.
            ["t", name] if of_crate(name) && name.ends_with("_text_end") => end = Some(address),
            [_, "t", name] if of_crate(name) && name.ends_with("_table") => table = Some(address),
            [size, "b", name] if of_crate(name) && !name.starts_with("calltable_bench") => {
                bss += u64::from_str_radix(size, 16)?;
            }
            _ => {}
        }
    }
    let (Some(table), Some(end)) = (table, end) else {
        bail!("the crate's symbols are not in {}", program.display());
    };
    Ok(Sizes { text: (end - table) as f64, bss: bss as f64 })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_kept_up_to_its_limit() {
        let text = |value, limit| Bound { key: "key", value, limit }.to_string();
        assert_eq!(text(2.0, Limit::AtMost(2.0)), "| `key` | 2.00 | at most 2 | kept |");
        assert_eq!(text(2.1, Limit::AtMost(2.0)), "| `key` | 2.10 | at most 2 | over |");
        assert_eq!(text(5.0, Limit::AtLeast(5.0)), "| `key` | 5.00 | at least 5 | kept |");
        assert_eq!(text(4.9, Limit::AtLeast(5.0)), "| `key` | 4.90 | at least 5 | over |");
    }

    #[test]
    fn a_number_is_found_by_all_its_labels() {
        let mut records = Records::default();
        assert!(records.read("linux64", "no record").is_err());
        let line = r#"{"group":"calls","contender":"typed","work":"int4","slots":1,"depth":1,"median":2.5}"#;
        records.read("linux64", line).unwrap();
        assert_eq!(records.call("linux64", "typed", "int4", 1, 1).unwrap(), 2.5);
        assert!(records.call("wine64", "typed", "int4", 1, 1).is_err());
        assert!(records.call("linux64", "typed", "int4", 1, 3).is_err());
    }
}
