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
use std::path::{Path, PathBuf};

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
    let all: Vec<_> = all().map(str::to_owned).collect();
    let targets = if targets.is_empty() { &all } else { targets };
    for target in targets.iter().filter(|target| !driver::TARGETS.contains(&target.as_str())) {
        dist::make(target)?;
    }
    let audits = targets.iter().map(|target| Audit::new(target)).collect::<Result<Vec<_>>>()?;
    if prove {
        audits.iter().try_for_each(Audit::prove)?;
    }
    judge(&audits)
}

/// Those of the distribution, and those for drivers.
fn all() -> impl Iterator<Item = &'static str> {
    dist::TARGETS.iter().chain(&driver::TARGETS).copied()
}

/// How many steps [`steps`] has.
pub const STEPS: usize = 2;

/// The steps of the audit in a suite that has made all targets.
pub fn steps(suite: &mut Suite) {
    let mut audits = Vec::new();
    suite.check("audit of every target, and of a driver", || {
        audits = all().map(Audit::new).collect::<Result<_>>()?;
        judge(&audits)
    });
    suite.check("the audit finds a planted violation of each kind", || {
        ensure!(!audits.is_empty(), "there is nothing to plant them in, see above");
        audits.iter().try_for_each(Audit::prove)
    });
}

/// Prints reports; it is an error if one has a violation.
fn judge(audits: &[Audit]) -> Result<()> {
    let reports = || audits.iter().map(|audit| &audit.report);
    report::print(&reports().collect::<Vec<_>>());
    let wrong: usize = reports().map(Report::violations).sum();
    ensure!(wrong == 0, "{wrong} violations; the lines that begin with FAILED name them");
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
