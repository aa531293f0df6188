//! What guides quote and count is what the tests run.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// The programs of the guide for Windows.
const PROGRAMS: &str = "tests/windows/guide";

/// A file of the repository.
fn read(path: &str) -> Result<String> {
    fs::read_to_string(crate::root().join(path)).with_context(|| path.to_owned())
}

/// The text of each block of Rust code in a guide.
fn blocks(guide: &str) -> BTreeSet<&str> {
    guide.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap_or(rest)).collect()
}

/// Refuses a guide that does not quote each program in whole, or has other code than theirs.
fn check_quotes(guide: &str, programs: &[(String, String)]) -> Result<()> {
    let mut blocks = blocks(guide);
    for (name, text) in programs {
        ensure!(blocks.remove(text.as_str()), "docs/windows.md does not quote {name} as it is");
    }
    ensure!(blocks.is_empty(), "docs/windows.md has code that is none of {PROGRAMS}:\n{}", Vec::from_iter(blocks)[0]);
    Ok(())
}

/// The programs in a folder, by name, but for the file that runs them.
fn programs(folder: &str) -> Result<Vec<(String, String)>> {
    let mut programs = Vec::new();
    for file in fs::read_dir(crate::root().join(folder))? {
        let name = file?.file_name().into_string().ok().context("a file's name")?;
        if name != "mod.rs" {
            let text = read(Path::new(folder).join(&name).to_str().context("a file's path")?)?;
            programs.push((name, text));
        }
    }
    Ok(programs)
}

/// Tasks that are there in several ways, and how the table calls them.
const TASKS: [(&str, &str); 5] = [
    ("window_procedure", "window procedure"),
    ("hook", "hook"),
    ("timer", "timer"),
    ("thread_pool", "thread pool"),
    ("com_sink", "COM sink"),
];

/// Where the programs of each way lie, in the order of the table's columns.
const WAYS: [&str; 4] = [PROGRAMS, "benches/tasks/closure_ffi", "benches/tasks/libffi", "benches/tasks/statics"];

/// Lines that are neither blank nor a comment.
fn lines(program: &str) -> usize {
    program.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

/// The table's rows as the programs are.
fn rows() -> Result<Vec<String>> {
    let mut sums = [0; WAYS.len()];
    let row = |title: &str, counts: [usize; WAYS.len()]| {
        format!("| {title} | {} |\n", counts.map(|n| n.to_string()).join(" | "))
    };
    let mut rows = Vec::new();
    for (name, title) in TASKS {
        let mut counts = [0; WAYS.len()];
        for ((way, count), sum) in WAYS.iter().zip(&mut counts).zip(&mut sums) {
            *count = lines(&read(&format!("{way}/{name}.rs"))?);
            *sum += *count;
        }
        rows.push(row(title, counts));
    }
    rows.push(row("together", sums));
    Ok(rows)
}

#[test]
fn the_comparison_counts_the_lines_of_the_programs() {
    let rows = rows().unwrap().concat();
    assert!(read("docs/migrate.md").unwrap().contains(&rows), "docs/migrate.md must have the rows\n{rows}");
    assert_eq!(lines("//! Text.\n\nfn a() { // why\n    // Text.\n}\n"), 2);
}

#[test]
fn the_guide_for_windows_quotes_the_programs_that_run() {
    let programs = programs(PROGRAMS).unwrap();
    assert_eq!(programs.len(), 6);
    check_quotes(&read("docs/windows.md").unwrap(), &programs).unwrap();
}

#[test]
fn a_quote_that_differs_is_noticed() {
    let programs = [("a.rs", "fn a() {}\n"), ("b.rs", "fn b() {}\n")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let quote = |text: &str| format!("text\n```rust\n{text}\n```\n");
    let good = quote("fn a() {}") + &quote("fn b() {}");
    check_quotes(&good, &programs).unwrap();
    for wrong in [good.replace("fn b", "fn c"), quote("fn a() {}"), good + &quote("fn more() {}")] {
        assert!(check_quotes(&wrong, &programs).is_err(), "{wrong}");
    }
}
