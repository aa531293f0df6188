//! `cargo xtask audit`: reads what is built for each target, and holds it against the crate's rules.

mod aarch64;
mod artefact;
mod driver;
mod linked;
#[path = "../../../asm/names.rs"]
mod names;
mod planted;
mod report;
mod rules;
mod unwind;

#[path = "../../../tests/object/entries.rs"]
mod entries;
#[path = "../../../tests/object/image.rs"]
mod image;
#[path = "../../../tests/object/marks.rs"]
mod marks;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use xtask::{dist, setup, tools};

use artefact::{Component, Members, Target};
use report::Report;

/// Where the reports go.
const FOLDER: &str = "target/audit";

const HEADER: &str = "capi/include/calltable.h";

#[derive(Parser)]
#[command(bin_name = "cargo xtask audit", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    options: tools::Audit,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// A part of `cargo xtask test embed`, which has made all targets
    Suite,
}

fn main() -> ExitCode {
    let Arguments { options: tools::Audit { prove, targets }, part } = Arguments::parse();
    xtask::main(|| match part {
        Some(Part::Suite) => run_suite(),
        None => run(&targets, prove),
    })
}

/// Makes and audits targets, all of them if none is named; prints a table and writes a report on each. If it is to be
/// proved, violations are planted, too.
fn run(targets: &[String], prove: bool) -> Result<()> {
    setup::install(setup::HOST)?;
    setup::install(setup::WINDOWS)?;
    let all: Vec<_> = all().map(str::to_owned).collect();
    let targets = if targets.is_empty() { &all } else { targets };
    for target in targets.iter().filter(|target| !driver::TARGETS.contains(&target.as_str())) {
        dist::make(target)?;
    }
    let audits = targets.iter().map(|target| Audit::new(target)).collect::<Result<Vec<_>>>()?;
    if prove {
        audits.iter().try_for_each(Audit::prove)?;
    }
    let reports: Vec<_> = audits.iter().map(|audit| &audit.report).collect();
    report::print(&reports);
    let wrong: usize = reports.iter().map(|report| report.violations()).sum();
    ensure!(wrong == 0, "{wrong} violations; the lines that begin with FAILED name them");
    Ok(())
}

/// Those of the distribution, and those for drivers.
fn all() -> impl Iterator<Item = &'static str> {
    dist::TARGETS.iter().chain(&driver::TARGETS).copied()
}

/// Audits every target, and plants a violation of each kind in it. Prints what a suite counts: a line that begins with
/// `ok` or `FAILED` for each case, and how many there are of both. Each violation is a case that has failed.
fn run_suite() -> Result<()> {
    let (mut passed, mut failed) = (0, 0);
    let mut audits = Vec::new();
    for target in all() {
        match Audit::new(target) {
            Ok(audit) => audits.push(audit),
            Err(error) => {
                println!("FAILED {target}: {error:#}");
                failed += 1;
            }
        }
    }
    let reports: Vec<_> = audits.iter().map(|audit| &audit.report).collect();
    report::print(&reports);
    for report in reports {
        match report.violations() {
            0 => {
                println!("ok {}", report.target);
                passed += 1;
            }
            violations => failed += violations,
        }
    }
    for audit in &audits {
        let title = format!("planted violations, {}", audit.report.target);
        match audit.prove() {
            Ok(()) => {
                println!("ok {title}");
                passed += 1;
            }
            Err(error) => {
                println!("FAILED {title}: {error:#}");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    ensure!(failed == 0, "the audit failed");
    Ok(())
}

/// What was audited of a target, and what was found.
struct Audit {
    version: String,
    header: String,
    members: Members,
    image: Vec<u8>,
    report: Report,
}

impl Audit {
    fn new(target: &str) -> Result<Self> {
        let is_driver = driver::TARGETS.contains(&target);
        let library = if is_driver { driver::library(target)? } else { library(target)? };
        let members = Members::read(&library)?;
        let image =
            if is_driver { driver::link(target, &library)? } else { linked::image(target, &library, &members)? };
        let image = fs::read(&image).with_context(|| image.display().to_string())?;
        let version = dist::version()?.replace(['.', '-', '+'], "_"); // as in symbols
        let header = fs::read_to_string(HEADER)?;
        let component = Component::new(Target(target), &version, &members)?;
        let of_image = linked::check(&component, &image)?;
        let (target, capacity) = (target.into(), component.capacity);
        let report = Report { target, capacity, library: rules::check(&component, &header), image: of_image };
        report.write(Path::new(FOLDER))?;
        Ok(Self { version, header, members, image, report })
    }

    /// Breaks each rule that holds for the target, and makes sure that it is found.
    fn prove(&self) -> Result<()> {
        let target = &self.report.target;
        let mut planted = planted::in_objects(target, &self.members, &self.version, &self.header)?;
        // Elsewhere images are held against rules that objects are held against, too.
        if target.ends_with("-msvc") {
            let component = Component::new(Target(target), &self.version, &self.members)?;
            planted.extend(planted::in_image(&component, &self.image)?);
        }
        let missed: Vec<_> = self.report.rules().filter(|rule| !planted.contains(rule)).collect();
        ensure!(missed.is_empty(), "{target}: nothing is planted for {missed:?}");
        Ok(())
    }
}

/// The static library that was made for a target.
fn library(target: &str) -> Result<PathBuf> {
    let folder = Path::new(dist::FOLDER).join(target).join("lib");
    let libraries = ["libcalltable.a", "calltable.lib"].map(|name| folder.join(name));
    let library = libraries.into_iter().find(|library| library.exists());
    library.with_context(|| format!("there is no static library in {}", folder.display()))
}
