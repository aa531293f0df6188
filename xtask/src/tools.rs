//! Commands that need more than the others, each of which is a package of its own: what they are asked for, and how
//! they are run. They are built when they are called for, so that all else builds in seconds.

use std::ffi::OsString;
use std::fmt;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::suite::cargo;

/// For `cargo xtask audit`.
#[derive(Args)]
pub struct Audit {
    /// Plant a violation of each kind, too, and see it found
    #[arg(long)]
    pub prove: bool,
    /// As Rust calls them; all if none is named
    pub targets: Vec<String>,
}

/// For `cargo xtask bench`.
#[derive(Args)]
#[group(skip)]
pub struct Bench {
    /// A tenth of the rounds
    #[arg(long)]
    pub quick: bool,
    /// Put numbers and charts into README.md and docs
    #[arg(long)]
    pub publish: bool,
}

/// For `cargo xtask mutants`.
#[derive(Args)]
pub struct Mutants {
    /// All if none is named
    pub parts: Vec<Part>,
    /// Only a share of them, such as 0/8
    #[arg(long)]
    pub shard: Option<Shard>,
    /// Only those in files whose name contains this
    #[arg(long, default_value = "")]
    pub file: String,
}

/// What is mutated.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The crate, by cargo-mutants
    Src,
    /// The assembly
    Asm,
}

/// Every `count`th mutant, from number `index` on.
#[derive(Clone, Copy)]
pub struct Shard {
    /// From 0 on.
    pub index: usize,
    /// How many shares there are.
    pub count: usize,
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (index, count) = text.split_once('/').context("as in 0/8")?;
        let shard = Self { index: index.parse()?, count: count.parse()? };
        ensure!(shard.index < shard.count, "the first of {} is 0, the last {}", shard.count, shard.count - 1);
        Ok(shard)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// For `cargo xtask torture`.
#[derive(Args)]
pub struct Torture {
    /// How many signatures, for each target
    #[arg(long, default_value_t = 500)]
    pub signatures: usize,
    /// Makes the same signatures again
    #[arg(long)]
    pub seed: Option<u64>,
    /// As Rust calls it; may be repeated; all if none is named
    #[arg(long = "target")]
    pub targets: Vec<String>,
}

/// A command that builds a tool and runs it.
fn tool(name: &str, arguments: impl IntoIterator<Item = OsString>) -> Command {
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", &format!("xtask-{name}"), "--"]).args(arguments);
    command
}

/// Has a tool do what this program has been asked for, after the command's name. If that fails, the tool has said why,
/// and this program ends.
pub fn run(name: &str) -> Result<()> {
    let status = tool(name, std::env::args_os().skip(2)).status()?;
    if !status.success() {
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}

/// Runs what a tool does in the suites.
pub fn suite(name: &str) -> Command {
    tool(name, ["suite".into()])
}

/// Has a tool run a suite. Returns whether all passed.
pub fn run_suite(name: &str) -> Result<bool> {
    let mut command = suite(name);
    let status = command.status()?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => bail!("{command:?}: {status}"),
    }
}
