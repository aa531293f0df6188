//! `cargo xtask audit`: reads what is built for each target, and holds it against the crate's rules.

mod artefact;
mod driver;
mod linked;
mod planted;
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

use crate::suite::Suite;
use crate::{dist, setup};

/// Where the reports go.
const FOLDER: &str = "target/audit";

const HEADER: &str = "include/calltable.h";

/// Makes and audits targets, all of them if none is named; prints a table and writes a report on each. If it is to be
/// proved, violations are planted, too.
pub fn run(targets: &[String], prove: bool) -> Result<()> {
    setup::install(setup::HOST)?;
    setup::install(setup::WINDOWS)?;
    let all: Vec<_> = dist::TARGETS.iter().map(ToString::to_string).collect();
    let targets = if targets.is_empty() { &all } else { targets };
    let mut reports = Vec::new();
    for target in targets {
        dist::make(target)?;
        reports.push(audit(target)?);
    }
    if prove {
        plant(&reports)?;
    }
    judge(&reports)
}

/// How many steps [`steps`] has.
pub const STEPS: usize = 2;

/// The steps of the audit in a suite that has made all targets.
pub fn steps(suite: &mut Suite) {
    let mut reports = Vec::new();
    suite.check("audit of every target", || {
        reports = dist::TARGETS.iter().map(|target| audit(target)).collect::<Result<_>>()?;
        judge(&reports)
    });
    suite.check("the audit finds a planted violation of each kind", || plant(&reports));
}

/// Breaks each rule that holds for one of the targets and makes sure that it is found.
fn plant(reports: &[Report]) -> Result<()> {
    let (version, header) = (version()?, fs::read_to_string(HEADER)?);
    for report in reports {
        let planted = planted::check(&report.target, &members(&report.target)?, &version, &header)?;
        let missed: Vec<_> = report.rules().filter(|rule| !planted.contains(rule)).collect();
        ensure!(missed.is_empty(), "{}: nothing is planted for {missed:?}", report.target);
    }
    ensure!(!reports.is_empty(), "nothing was audited");
    Ok(())
}

/// Prints reports; it is an error if one has a violation.
fn judge(reports: &[Report]) -> Result<()> {
    report::print(reports);
    let wrong: usize = reports.iter().map(Report::violations).sum();
    ensure!(wrong == 0, "{wrong} violations; the lines that begin with FAILED name them");
    Ok(())
}

fn audit(target: &str) -> Result<Report> {
    let (version, header, members) = (version()?, fs::read_to_string(HEADER)?, members(target)?);
    let component = Component::new(Target(target), &version, &members)?;
    let report = Report::new(target, component.capacity, rules::check(&component, &header));
    report.write(Path::new(FOLDER))?;
    Ok(report)
}

/// The static library of a target.
fn members(target: &str) -> Result<Members> {
    let folder = Path::new(dist::FOLDER).join(target).join("lib");
    let libraries = ["libcalltable.a", "calltable.lib"].map(|name| folder.join(name));
    let library = libraries.iter().find(|library| library.exists());
    Members::read(library.with_context(|| format!("there is no static library in {}", folder.display()))?)
}

/// The crate's version, as symbols have it.
fn version() -> Result<String> {
    Ok(dist::version()?.replace(['.', '-', '+'], "_"))
}
