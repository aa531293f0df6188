//! What the demonstration says: plain text in columns.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use calltable::CAPACITY;
use calltable_host_dll::sandbox::Sandbox;
use calltable_host_dll::{Export, Guest};

use crate::demo::{Speed, Way};
use crate::{Result, sqlite};

pub struct Report<W>(W);

impl<W: Write> Report<W> {
    /// Callbacks of a DLL that are listed one by one.
    const BUSIEST: usize = 10;

    pub fn new(output: W) -> Self {
        Self(output)
    }

    pub fn line(&mut self, text: impl Display) -> Result<()> {
        writeln!(self.0, "{text}").map_err(|error| format!("cannot write the report: {error}").into())
    }

    fn heading(&mut self, text: impl Display) -> Result<()> {
        let text = text.to_string();
        self.line(format_args!("{text}\n{}", "─".repeat(text.trim().chars().count())))
    }

    fn row(&mut self, name: impl Display, text: impl Display) -> Result<()> {
        self.line(format_args!("  {name:<35}  {text}"))
    }

    /// `in_full` for one that nothing is known about.
    pub fn dll(&mut self, guest: &Guest, in_full: bool) -> Result<()> {
        self.heading(format!("\n{}", name(guest)))?;
        self.row("file", guest.path.display())?;
        self.row("linker", guest.linker)?;
        self.row("in memory", format!("{} bytes", grouped(guest.image.size() as u64)))?;
        let mut dlls = BTreeMap::<&str, (u32, u32)>::new();
        let mut all = (0, 0);
        for (import, bound) in &guest.imports {
            for (implemented, reported) in [dlls.entry(&import.dll).or_default(), &mut all] {
                *if bound.is_implemented() { implemented } else { reported } += 1;
            }
        }
        let text = |(implemented, reported)| format!("{implemented:>3} implemented, {reported:>3} only reported");
        self.row("imports", text(all))?;
        for (dll, counts) in dlls {
            self.row(format!("  {dll}"), text(counts))?;
        }
        self.row("exports", format!("{:>3}", guest.image.exports().len()))?;
        if in_full {
            for (import, _) in guest.imports.iter().filter(|(_, bound)| !bound.is_implemented()) {
                self.row("only reported", import.label)?;
            }
            for (name, export) in guest.image.exports() {
                match export {
                    Export::Address(_) => self.row("export", name)?,
                    Export::Forwarder(to) => self.row("export", format!("{name}, a forwarder to {to}"))?,
                }
            }
        }
        Ok(())
    }

    pub fn sandbox(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.heading("\nNo new code from here on")?;
        if let Some(error) = &sandbox.without_mdwe {
            self.row("PR_SET_MDWE", format!("not in this kernel ({error}): the filter must do alone"))?;
        }
        for attempt in &sandbox.refused {
            self.row(attempt.what, format!("refused by {:<11}  {}", attempt.by, attempt.error))?;
        }
        Ok(())
    }

    pub fn input(&mut self, path: &Path, input: &[u8]) -> Result<()> {
        self.line(format_args!("\nThey work on {}: {} bytes.", path.display(), grouped(input.len() as u64)))
    }

    pub fn ways(&mut self, library: &str, plain: usize, ways: &[Way]) -> Result<()> {
        self.heading(format!("\n{library}"))?;
        self.line(format_args!("  {:<28} {:>15} {:>15} {:>8} {:>8}", "way", "bytes in", "bytes out", "ratio", "MB/s"))?;
        for Way { name, from, to, time } in ways {
            let compressed = if *from == plain { *to } else { *from };
            let ratio = match plain {
                0 => "-".into(),
                plain => format!("{:.1} %", 100.0 * compressed as f64 / plain as f64),
            };
            let speed = format!("{:.0}", plain as f64 / 1e6 / time.as_secs_f64());
            let (from, to) = (grouped(*from as u64), grouped(*to as u64));
            self.line(format_args!("  {name:<28} {from:>15} {to:>15} {ratio:>8} {speed:>8}"))?;
        }
        Ok(())
    }

    pub fn sqlite(&mut self, found: &sqlite::Report) -> Result<()> {
        self.heading(format!("\nSQLite {}", found.version))?;
        self.row("its compiler, as it says", &found.compiler)?;
        self.row("database", format!("{}, {} pieces of the file", sqlite::FILE, found.pieces))?;
        self.row("callbacks", format!("{}: a VFS, a function, an aggregate, a collation, rows", found.callbacks))?;
        self.row("compared", "rows, orders, checksums, median, error, rollback, full disk, integrity")
    }

    /// The imports that the DLL has called, and callbacks that it has got beside them.
    pub fn calls(&mut self, guest: &Guest, others: &[(&str, u64)]) -> Result<()> {
        let of_imports = guest.imports.iter().map(|(import, _)| (import.name.as_str(), import.calls()));
        let mut calls: Vec<(&str, u64)> = of_imports.chain(others.iter().copied()).collect();
        calls.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        self.line(format_args!("\n  {:<35}  {:>15}", "callback", "calls"))?;
        let called: Vec<_> = calls.iter().filter(|(_, calls)| *calls != 0).collect();
        for (name, calls) in called.iter().take(Self::BUSIEST) {
            self.row(name, format!("{:>15}", grouped(*calls)))?;
        }
        if let Some(rest) = called.get(Self::BUSIEST..).filter(|rest| !rest.is_empty()) {
            let sum = rest.iter().map(|(_, calls)| calls).sum();
            self.row(format!("{} others", rest.len()), format!("{:>15}", grouped(sum)))?;
        }
        let idle = calls.len() - called.len();
        self.row("never called", format!("{:>15}", format!("{idle} of {}", calls.len())))
    }

    pub fn balance(&mut self, slots: [usize; 3], code: [usize; 2], balances: &[Balance], speed: &Speed) -> Result<()> {
        self.heading("\nThe balance")?;
        let [before, most, after] = slots;
        self.row("slots", format!("{before} before, {most} at most (of {CAPACITY}), {after} after"))?;
        self.row("executable mappings", format!("{} before, {} after", code[0], code[1]))?;
        for balance in balances {
            let bytes = grouped(balance.most_bytes as u64);
            self.row(
                format!("{}, heap", balance.name),
                format!("{} blocks left, {bytes} bytes at most", balance.blocks),
            )?;
            self.row(
                format!("{}, locks and threads", balance.name),
                format!("{} locks held, {} threads started", balance.locks_held, balance.threads),
            )?;
            for line in &balance.log {
                self.row(format!("{}, refused", balance.name), line)?;
            }
        }
        let build = if cfg!(debug_assertions) { ", in a debug build" } else { "" };
        let (callback, function) = (speed.callback, speed.function);
        self.row("one call", format!("{callback:.1} ns; of a plain function, {function:.1} ns{build}"))?;
        let (loops, calls) = (Speed::LOOPS, grouped(Speed::CALLS.into()));
        self.row("", format!("(the best of {loops} loops of {calls} calls, the loop included)"))
    }
}

/// What a DLL has left when it goes.
pub struct Balance {
    pub name: String,
    pub blocks: usize,
    pub most_bytes: usize,
    pub locks_held: i32,
    pub threads: usize,
    pub handles: usize,
    pub log: Vec<String>,
}

impl Balance {
    pub fn of(guest: &Guest) -> Self {
        use std::sync::atomic::Ordering::Relaxed;
        let host = guest.host;
        Self {
            name: name(guest),
            blocks: host.heap.blocks(),
            most_bytes: host.heap.most_bytes(),
            locks_held: host.locks.held.load(Relaxed),
            threads: host.threads_started(),
            handles: host.handles(),
            log: host.log().clone(),
        }
    }
}

fn name(guest: &Guest) -> String {
    guest.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// With a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
