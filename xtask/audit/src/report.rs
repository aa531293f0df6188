//! What an audit has found, as JSON and as a table.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::rules::{Finding, NUMBERS};

#[derive(Serialize)]
pub struct Report {
    pub target: String,
    pub capacity: u64,
    pub library: Vec<Finding>,
    pub image: Vec<Finding>,
}

impl Report {
    /// The rules that could be broken here.
    pub fn rules(&self) -> impl Iterator<Item = &'static str> {
        let all = self.library.iter().chain(&self.image).filter(|finding| finding.seen.is_some());
        let rules = all.map(|finding| finding.rule);
        rules.filter(|rule| !NUMBERS.contains(rule))
    }

    pub fn violations(&self) -> usize {
        self.library.iter().chain(&self.image).map(|finding| finding.violations.len()).sum()
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let text = serde_json::to_string_pretty(self)? + "\n";
        Ok(fs::write(folder.join(format!("{}.json", self.target)), text)?)
    }
}

/// What was found in one kind of artefact.
type Findings = fn(&Report) -> &[Finding];

/// Prints tables of what was seen, and a line for each violation.
pub fn print(reports: &[&Report]) {
    let kinds: [(&str, Findings); 2] =
        [("static library", |report| &report.library), ("linked image", |report| &report.image)];
    for (title, findings) in kinds {
        print_table(title, reports, findings);
    }
    println!("-: the target has nothing of the kind. !: a violation. Sizes are in bytes.");
    for report in reports {
        for (title, findings) in kinds {
            for finding in findings(report) {
                for violation in &finding.violations {
                    println!("FAILED {title}, {}, {}: {violation}", report.target, finding.rule);
                }
            }
        }
    }
}

/// One line for each rule, one column for each target.
fn print_table(title: &str, reports: &[&Report], findings: Findings) {
    let line = |title: &str, cell: &dyn Fn(&Report) -> String| {
        let cells: String = reports.iter().map(|report| format!(" {:>9}", cell(report))).collect();
        println!("{title:<19}{cells}");
    };
    let part = |report: &Report, index| report.target.split('-').nth(index).unwrap_or_default().to_owned();
    line(title, &|report| part(report, 0));
    line("", &|report| part(report, 2));
    line("", &|report| if part(report, 1) == "softfloat" { "driver".into() } else { part(report, 3) });
    let mut rules: Vec<_> = Vec::new();
    for finding in reports.iter().flat_map(|report| findings(report)) {
        if !rules.contains(&finding.rule) {
            rules.push(finding.rule);
        }
    }
    for rule in rules {
        line(rule, &|report| {
            let Some(finding) = findings(report).iter().find(|finding| finding.rule == rule) else { return "-".into() };
            let mark = if finding.violations.is_empty() { "" } else { "!" };
            format!("{mark}{}", finding.seen.as_deref().unwrap_or("-"))
        });
    }
    println!();
}
