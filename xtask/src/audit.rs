//! `cargo xtask audit`: reads what is built for each target, and holds it against the crate's rules.

mod artefact;
mod report;
mod rules;
mod unwind;

#[path = "../../tests/object/entries.rs"]
mod entries;
#[path = "../../tests/object/image.rs"]
mod image;
#[path = "../../tests/object/marks.rs"]
mod marks;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use artefact::{Component, Members, Target};
use report::Report;

/// Where the reports go.
const FOLDER: &str = "target/audit";

/// Audits targets, prints a table and writes a report on each.
pub fn run(targets: &[String]) -> Result<()> {
    let reports = targets.iter().map(|target| audit(target)).collect::<Result<Vec<_>>>()?;
    report::print(&reports);
    let wrong: usize = reports.iter().map(Report::violations).sum();
    ensure!(wrong == 0, "{wrong} violations; the lines that begin with FAILED name them");
    Ok(())
}

fn audit(target: &str) -> Result<Report> {
    let header = fs::read_to_string("include/calltable.h")?;
    let version = version()?;
    let folder = Path::new("target/dist").join(target).join("lib");
    let libraries = ["libcalltable.a", "calltable.lib"].map(|name| folder.join(name));
    let library = libraries.iter().find(|library| library.exists()).context("there is no static library")?;
    let members = Members::read(library)?;
    let component = Component::new(Target(target), &version, &members)?;
    let report = Report::new(target, component.capacity, rules::check(&component, &header));
    report.write(Path::new(FOLDER))?;
    Ok(report)
}

/// The crate's version, as symbols have it.
fn version() -> Result<String> {
    let manifest = fs::read_to_string("Cargo.toml")?;
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    Ok(version.context("Cargo.toml has no version")?.replace(['.', '-', '+'], "_"))
}
