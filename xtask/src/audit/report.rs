//! What an audit has found, as JSON and as a table.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::rules::{Finding, NUMBERS};

#[derive(Serialize)]
pub struct Report {
    pub target: String,
    capacity: u64,
    library: Vec<Finding>,
}

impl Report {
    pub fn new(target: &str, capacity: u64, library: Vec<Finding>) -> Self {
        Self { target: target.into(), capacity, library }
    }

    /// The rules that could be broken here.
    pub fn rules(&self) -> impl Iterator<Item = &'static str> {
        let rules = self.library.iter().filter(|finding| finding.seen.is_some()).map(|finding| finding.rule);
        rules.filter(|rule| !NUMBERS.contains(rule))
    }

    pub fn violations(&self) -> usize {
        self.library.iter().map(|finding| finding.violations.len()).sum()
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let text = serde_json::to_string_pretty(self)? + "\n";
        Ok(fs::write(folder.join(&self.target).with_extension("json"), text)?)
    }
}

/// One line for each rule, one column for each target.
pub fn print(reports: &[Report]) {
    let Some(first) = reports.first() else { return };
    let line = |title: &str, cells: &mut dyn Iterator<Item = String>| {
        let cells: String = cells.map(|cell| format!(" {cell:>9}")).collect();
        println!("{title:<18}{cells}");
    };
    let part = |index| {
        move |report: &Report| {
            let mut parts = report.target.split('-');
            if index == 0 { parts.next() } else { parts.next_back() }.unwrap_or_default().to_owned()
        }
    };
    line("static library", &mut reports.iter().map(part(0)));
    line("", &mut reports.iter().map(part(1)));
    for (index, finding) in first.library.iter().enumerate() {
        line(
            finding.rule,
            &mut reports.iter().map(|report| {
                let finding = &report.library[index];
                let mark = if finding.violations.is_empty() { "" } else { "!" };
                format!("{mark}{}", finding.seen.as_deref().unwrap_or("-"))
            }),
        );
    }
    println!("-: the target has nothing of the kind; sizes are in bytes");
    for report in reports {
        for finding in &report.library {
            for violation in &finding.violations {
                println!("FAILED {}, {}: {violation}", report.target, finding.rule);
            }
        }
    }
}
