//! What was measured, and tables of it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

/// A process each.
const FIRST_USES: usize = 101;

/// Which calls: in which program, of which work, of how many slots that have how many handlers, from how far down.
#[derive(Clone, Copy)]
pub struct Cell {
    pub place: &'static str,
    pub work: &'static str,
    pub slots: usize,
    pub handlers: usize,
    /// Whether the handlers are dealt to the slots in a random order, or in turn.
    pub shuffled: bool,
    pub depth: usize,
}

impl Cell {
    /// The simplest there: one slot, called with 4 integers.
    pub const fn at(place: &'static str) -> Self {
        Self { place, work: "int4", slots: 1, handlers: 1, shuffled: false, depth: 1 }
    }

    pub const fn work(self, work: &'static str) -> Self {
        Self { work, ..self }
    }

    pub const fn slots(self, slots: usize) -> Self {
        Self { slots, ..self }
    }

    pub const fn handlers(self, handlers: usize) -> Self {
        Self { handlers, ..self }
    }

    pub const fn shuffled(self) -> Self {
        Self { shuffled: true, ..self }
    }

    pub const fn depth(self, depth: usize) -> Self {
        Self { depth, ..self }
    }
}

/// Contenders as the programs and as the tables call them.
pub const NAMES: &[(&str, &str)] = &[
    ("direct", "a plain function (the floor)"),
    ("functions", "a plain function for each slot"),
    ("typed", "calltable, closure shared"),
    ("exclusive", "calltable, closure exclusive"),
    ("tracked", "calltable, closure tracked"),
    ("direct_c", "calltable, direct lane, handler in C"),
    ("frame", "calltable, frame lane"),
    ("full_save", "calltable, frame lane, full save"),
    ("dynamic", "calltable, closure of a dynamic signature"),
    ("call_ret", "table of `call; ret`, nothing checked"),
    ("mov_jmp", "table of `mov; jmp`"),
    ("ancestor", "the way of 2013 (5-byte CALL, address dropped, DIV)"),
    ("closure_ffi", "closure-ffi (writes code)"),
    ("libffi", "libffi closure"),
    ("direct_from_go", "a plain function, called from the Go program"),
    ("go", "Go's `syscall.NewCallback`"),
    ("share", "calltable, shared registration"),
    ("share_again", "calltable, one more use of a shared one"),
];

/// What was measured in one run: objects with the labels of a case, its median and its quartiles.
#[derive(Default)]
pub struct Records(pub Vec<Map<String, Value>>);

impl Records {
    /// Takes what a program of `benches` has printed.
    pub fn read(&mut self, place: &str, text: &str) -> Result<()> {
        let before = self.0.len();
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let mut record: Map<String, Value> = serde_json::from_str(line).with_context(|| line.to_string())?;
            record.insert("place".into(), place.into());
            self.0.push(record);
        }
        ensure!(self.0.len() > before, "nothing was measured: {text}");
        Ok(())
    }

    /// The first callback of a process, in processes of their own.
    pub fn first_uses(&mut self, program: &Path) -> Result<()> {
        let contenders = ["direct", "typed", "closure_ffi", "libffi"];
        let mut samples = contenders.map(|_| Vec::new());
        for _ in 0..FIRST_USES {
            for (contender, samples) in contenders.iter().zip(&mut samples) {
                let output = Command::new(program).args(["first", contender]).output()?;
                samples.push(String::from_utf8_lossy(&output.stdout).trim().parse::<f64>().context("not a number")?);
            }
        }
        for (contender, mut samples) in contenders.iter().zip(samples) {
            samples.sort_by(f64::total_cmp);
            let at = |part: usize| samples[(samples.len() - 1) * part / 4];
            let record = json!({
                "group": "first", "place": "linux64", "contender": contender,
                "q1": at(1), "median": at(2), "q3": at(3), "samples": samples.len(),
            });
            self.0.extend(record.as_object().cloned());
        }
        Ok(())
    }

    /// The median of the case with these labels.
    fn median(&self, labels: &[(&str, Value)]) -> Result<f64> {
        let fits = |record: &&Map<String, Value>| labels.iter().all(|(name, value)| record.get(*name) == Some(value));
        let record = self.0.iter().find(fits).with_context(|| format!("{labels:?} was not measured"))?;
        record.get("median").and_then(Value::as_f64).context("a record without a median")
    }

    /// Nanoseconds of one call.
    pub fn call(&self, contender: &str, cell: Cell) -> Result<f64> {
        let Cell { place, work, slots, handlers, shuffled, depth } = cell;
        self.median(&[
            ("group", "calls".into()),
            ("place", place.into()),
            ("contender", contender.into()),
            ("work", work.into()),
            ("slots", slots.into()),
            ("handlers", handlers.into()),
            ("shuffled", shuffled.into()),
            ("depth", depth.into()),
        ])
    }

    /// The median of another group than calls, on Linux.
    fn other(&self, group: &str, contender: &str, label: Option<(&str, usize)>) -> Result<f64> {
        let mut labels: Vec<(&str, Value)> =
            vec![("group", group.into()), ("place", "linux64".into()), ("contender", contender.into())];
        labels.extend(label.map(|(name, value)| (name, value.into())));
        self.median(&labels)
    }

    /// Nanoseconds of making and releasing one while so many live.
    pub fn pair(&self, contender: &str, live: usize) -> Result<f64> {
        self.other("register", contender, Some(("live", live)))
    }

    /// Nanoseconds of making the first of a process and calling it.
    pub fn first(&self, contender: &str) -> Result<f64> {
        self.other("first", contender, None)
    }

    /// Millions of calls in a second by so many threads.
    pub fn rate(&self, contender: &str, threads: usize) -> Result<f64> {
        self.other("threads", contender, Some(("threads", threads)))
    }

    /// A table of Markdown: nanoseconds of a call.
    pub fn table(&self, columns: &[(&str, Cell)]) -> String {
        let names: Vec<_> = columns.iter().map(|column| column.0).collect();
        let mut text = format!("| | {} |\n|{}\n", names.join(" | "), " --- |".repeat(1 + names.len()));
        for (contender, name) in NAMES {
            let cells: Vec<_> = columns
                .iter()
                .map(|(_, cell)| self.call(contender, *cell))
                .map(|ns| ns.map_or("-".into(), |ns| format!("{ns:.1}")))
                .collect();
            if cells.iter().any(|cell| cell != "-") {
                text += &format!("| {name} | {} |\n", cells.join(" | "));
            }
        }
        text
    }

    /// A table of Markdown: what is not a call of a hot slot.
    pub fn rest(&self) -> String {
        let mut text = String::from("| | median | quartiles |\n| --- | --- | --- |\n");
        let groups = [
            ("register", "ns to make and release a callback", "live"),
            ("first", "ns to make the first callback of a process and call it", ""),
            ("cold", "ns of one call, caches evicted", ""),
            ("threads", "million calls in a second", "threads"),
        ];
        for (group, title, label) in groups {
            let of_group = |record: &&Map<String, Value>| record["group"] == group && record["place"] == "linux64";
            for record in self.0.iter().filter(of_group) {
                let contender = record["contender"].as_str().unwrap_or_default();
                let name = NAMES.iter().find(|(name, _)| *name == contender).map_or(contender, |(_, name)| name);
                let detail = record.get(label).map_or(String::new(), |value| format!(", {value} {label}"));
                let number = |name: &str| record[name].as_f64().unwrap_or(f64::NAN);
                let [median, q1, q3] = ["median", "q1", "q3"].map(number);
                text += &format!("| {title}: {name}{detail} | {median:.1} | {q1:.1} to {q3:.1} |\n");
            }
        }
        text
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A line as a program of `benches` prints it; `labels` are members of the object, each with a comma behind it.
    pub fn record(group: &str, contender: &str, labels: &str, median: f64) -> String {
        format!("{{\"group\":\"{group}\",\"contender\":\"{contender}\",{labels}\"median\":{median}}}\n")
    }

    /// The same of calls.
    pub fn call(contender: &str, cell: Cell, median: f64) -> String {
        let Cell { work, slots, handlers, shuffled, depth, .. } = cell;
        let labels = format!(
            "\"work\":\"{work}\",\"slots\":{slots},\"handlers\":{handlers},\"shuffled\":{shuffled},\"depth\":{depth},"
        );
        record("calls", contender, &labels, median)
    }

    #[test]
    fn a_number_is_found_by_all_its_labels() {
        let linux = Cell::at("linux64");
        let mut records = Records::default();
        assert!(records.read("linux64", "no record").is_err());
        records.read("linux64", &call("typed", linux, 2.5)).unwrap();
        assert_eq!(records.call("typed", linux).unwrap(), 2.5);
        for other in [
            Cell::at("wine64"),
            linux.work("int2"),
            linux.slots(8),
            linux.handlers(8),
            linux.shuffled(),
            linux.depth(3),
        ] {
            assert!(records.call("typed", other).is_err());
        }
        assert!(records.call("direct", linux).is_err());
        records.read("linux64", &record("register", "typed", "\"live\":1999,", 20.0)).unwrap();
        assert_eq!(records.pair("typed", 1999).unwrap(), 20.0);
        assert!(records.pair("typed", 0).is_err() && records.first("typed").is_err());
    }

    #[test]
    fn a_table_has_a_row_for_each_contender_that_was_measured() {
        let [one, many] = [Cell::at("linux64"), Cell::at("linux64").slots(64).handlers(8)];
        let mut records = Records::default();
        let text = call("typed", one, 2.0) + &call("typed", many, 3.04) + &call("mov_jmp", many, 4.0);
        records.read("linux64", &text).unwrap();
        assert_eq!(
            records.table(&[("one", one), ("64, 8", many)]),
            "| | one | 64, 8 |\n| --- | --- | --- |\n\
             | calltable, closure shared | 2.0 | 3.0 |\n\
             | table of `mov; jmp` | - | 4.0 |\n"
        );
    }
}
