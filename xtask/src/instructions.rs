//! Instructions of one call on each way through the dispatchers, the foreign loop and the handler included; and of
//! making and releasing a callback. Valgrind counts them, so they are the same on every machine with the same
//! compilers.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use xtask::benches;
use xtask::suite::cargo;

const FILE: &str = "benches/instructions.txt";

/// Contender and work, as the program in `benches` calls them.
const PATHS: &[(&str, &str)] = &[
    ("direct", "int4"),
    ("typed", "int0"),
    ("typed", "int2"),
    ("typed", "int4"),
    ("typed", "int8"),
    ("typed", "double4"),
    ("typed", "mixed12"),
    ("direct_c", "int4"),
    ("exclusive", "int4"),
    ("frame", "int4"),
    ("full_save", "int4"),
    ("dynamic", "int4"),
    ("typed", "register"),
    ("share", "register"),
    ("share_again", "register"),
];

/// A change beyond this is to be explained by whoever makes it.
const TOLERANCE: f64 = 0.02;

/// Contender, work, instructions.
type Count = (String, String, f64);

/// Counts, and compares with the file.
pub fn check() -> Result<()> {
    let text = fs::read_to_string(FILE)?;
    let mut differences = String::new();
    for (contender, work, now) in count()? {
        let line = format!("{contender} {work} ");
        let before =
            text.lines().find_map(|text| text.strip_prefix(&line)).with_context(|| format!("no {line}in {FILE}"))?;
        let before: f64 = before.trim().parse()?;
        if (now - before).abs() > TOLERANCE * before {
            write!(differences, "\n{line}takes {now:.1} instructions; it took {before:.1}")?;
        }
    }
    if !differences.is_empty() {
        bail!(
            "{FILE} no longer holds{differences}\nif that is meant: cargo xtask bench --instructions, and say why in the \
             commit"
        );
    }
    Ok(())
}

/// Counts, and writes the file.
pub fn write() -> Result<()> {
    let mut text = format!("# {}\n", FILE_HEADING.join("\n# "));
    for (contender, work, instructions) in count()? {
        writeln!(text, "{contender} {work} {instructions:.1}")?;
    }
    print!("{text}");
    Ok(fs::write(FILE, text)?)
}

const FILE_HEADING: &[&str] = &[
    "Instructions of one call, the foreign loop and the handler included; of `register`, to make one and release it.",
    "Written by `cargo xtask bench --instructions`. A change of more than 2 % fails `cargo xtask test host`, and is",
    "explained in the commit that changes this file.",
];

/// The difference of a longer and a shorter run is what the calls take.
fn count() -> Result<Vec<Count>> {
    const CALLS: [u32; 2] = [2_000, 12_000];
    let program = benches::build(cargo().arg("build"), &[])?.join("release/calltable-bench");
    let count = |(contender, work): &(&str, &str)| {
        let [few, many] = CALLS.map(|calls| collected(&program, contender, work, calls));
        let calls = f64::from(CALLS[1] - CALLS[0]);
        Ok((contender.to_string(), work.to_string(), (many? - few?) / calls))
    };
    PATHS.iter().map(count).collect()
}

fn collected(program: &Path, contender: &str, work: &str, calls: u32) -> Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = valgrind.args(["count", contender, work, &calls.to_string()]).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{valgrind:?}: {}\n{text}", output.status);
    let count = text.lines().find_map(|line| line.split_once("Collected : "));
    Ok(count.with_context(|| format!("{valgrind:?} says no count: {text}"))?.1.trim().parse()?)
}
