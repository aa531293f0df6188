//! `cargo xtask mutants`: small mistakes are put into a copy of the source, and the tests must see each of them.

mod assembly;
mod crate_source;
#[path = "../../../asm/names.rs"]
mod names;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum as _};
use xtask::setup;
use xtask::tools::{Mutants, Part, Shard};

#[derive(Parser)]
#[command(bin_name = "cargo xtask mutants")]
struct Arguments {
    #[command(flatten)]
    options: Mutants,
}

fn main() -> ExitCode {
    let Mutants { parts, shard, file } = Arguments::parse().options;
    xtask::main(|| run(&parts, shard, &file))
}

/// Mutants that no test sees, each with the reason why none has to: a line `file: mutant` for each, a `*` standing for
/// anything, below the line `# reason` that is true of them.
const EXPLAINED: &str = include_str!("../explained.txt");

/// What became of mutants.
#[derive(Default)]
struct Report {
    caught: usize,
    explained: usize,
    unexplained: Vec<String>,
    /// Patterns of the list that some mutant was like.
    used: BTreeSet<&'static str>,
}

impl Report {
    fn survivor(&mut self, mutant: &str) {
        let patterns = EXPLAINED.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        match patterns.into_iter().find(|pattern| is_like(mutant, pattern)) {
            Some(pattern) => {
                self.explained += 1;
                self.used.insert(pattern);
            }
            None => {
                println!("    survives: {mutant}");
                self.unexplained.push(mutant.to_owned());
            }
        }
    }

    fn print(&self, name: &str) {
        let all = self.caught + self.explained + self.unexplained.len();
        println!(
            "{name}: {all} mutants, {} caught, {} survive with a reason, {} without",
            self.caught,
            self.explained,
            self.unexplained.len()
        );
    }
}

/// Whether the text is as the pattern says, `*` standing for anything.
fn is_like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut is_open = false;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        is_open = part.is_empty();
        rest = if is_open { rest } else { after };
    }
    is_open || rest.is_empty()
}

fn run(parts: &[Part], shard: Option<Shard>, file: &str) -> Result<()> {
    setup::install(setup::HOST)?;
    let shard = shard.unwrap_or(Shard { index: 0, count: 1 });
    let mut unexplained = 0;
    for part in if parts.is_empty() { Part::value_variants() } else { parts } {
        let reports = match part {
            Part::Src => vec![("src", crate_source::run(shard, file)?)],
            Part::Asm => assembly::run(shard, file)?,
        };
        for (name, report) in reports {
            report.print(name);
            unexplained += report.unexplained.len();
        }
    }
    if unexplained > 0 {
        bail!(
            "{unexplained} mutants survive: write a test that sees them, or say in xtask/mutants/explained.txt why not"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        assert!(is_like("asm/x86.S: ret -> nothing", "asm/x86.S: ret -> nothing"));
        assert!(is_like("asm/x86.S: ret -> nothing", "asm/*: ret -> *"));
        assert!(is_like("asm/x86.S: ret -> nothing", "*nothing"));
        assert!(!is_like("asm/x86.S: ret -> nothing", "asm/*: ret"));
        assert!(!is_like("asm/x86.S: ret -> nothing", "asm/*: RET*"));
        assert!(!is_like("asm/x86.S: ret -> nothing", ""));
    }

    #[test]
    fn each_survivor_on_the_list_has_a_reason() {
        let mut reason = "";
        for line in EXPLAINED.lines() {
            if line.starts_with("# ") {
                reason = line;
            } else if line.is_empty() {
                reason = "";
            } else {
                assert!(!reason.is_empty() && line.contains(": "), "{line}");
            }
        }
    }
}
