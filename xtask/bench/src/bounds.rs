//! The limits that the crate's figures are to keep. They are reported: whether a run is quiet enough to judge by, a
//! reader knows.

use std::fmt;

use anyhow::Result;
use xtask::{BSS_PER_SLOT, text_per_slot};

use super::Sizes;
use super::records::{Cell, Records};

use Limit::{AtLeast, AtMost};

/// A figure that is to keep a limit.
pub struct Bound {
    pub key: &'static str,
    pub value: f64,
    pub limit: Limit,
}

#[derive(Clone, Copy)]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    pub fn is_kept(&self) -> bool {
        match self.limit {
            AtMost(limit) => self.value <= limit,
            AtLeast(limit) => self.value >= limit,
        }
    }
}

/// A row of a table of Markdown.
impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = match self.limit {
            AtMost(limit) => format!("at most {limit}"),
            AtLeast(limit) => format!("at least {limit}"),
        };
        let verdict = if self.is_kept() { "reached" } else { "not reached" };
        write!(f, "| `{}` | {:.2} | {limit} | {verdict} |", self.key, self.value)
    }
}

/// What stands above the rows.
pub const HEADING: &str = "| key | figure | bound | |\n| --- | --- | --- | --- |\n";

/// All of them, from one run.
pub fn bounds(records: &Records, sizes: &Sizes) -> Result<Vec<Bound>> {
    let mut bounds = Vec::new();
    let mut add = |key, value, limit| bounds.push(Bound { key, value, limit });
    let ns = |contender: &str, cell: Cell| records.call(contender, cell);
    let ratio = |contender: &str, other: &str, cell: Cell| anyhow::Ok(ns(contender, cell)? / ns(other, cell)?);
    let [linux, wine64, wine32] = ["linux64", "wine64", "wine32"].map(Cell::at);

    let [direct, typed4, libffi] = [ns("direct", linux)?, ns("typed", linux)?, ns("libffi", linux)?];
    add("typed4_over_direct", typed4 / direct, AtMost(1.75));
    add("typed4_overhead_over_libffi_overhead", (typed4 - direct) / (libffi - direct), AtMost(0.22));
    add("exclusive4_over_typed4", ratio("exclusive", "typed", linux)?, AtMost(1.3));
    add("frame4_over_typed4", ratio("frame", "typed", linux)?, AtMost(1.5));
    add("fullsave4_over_frame4", ratio("full_save", "frame", linux)?, AtMost(1.6));
    add("typed_doubles4_over_typed4", ns("typed", linux.work("double4"))? / typed4, AtMost(1.2));
    add("typed4_1_over_jit_1", ratio("typed", "closure_ffi", linux)?, AtMost(1.9));
    add("typed4_64_over_jit_64", ratio("typed", "closure_ffi", linux.slots(64))?, AtMost(1.0));
    add("typed4_2000_over_libffi_2000", ratio("typed", "libffi", linux.slots(2000))?, AtMost(0.45));
    add("ancestor_over_typed4_depth3", ratio("ancestor", "typed", linux.depth(3))?, AtLeast(5.0));

    let [slots64, slots256] = [linux.slots(64), linux.slots(256).handlers(8)];
    let of_handlers = ns("typed", slots64.handlers(8))? / ns("typed", slots64)?;
    add("typed4_64_8handlers_over_64_1handler", of_handlers, AtMost(1.15));
    add("typed4_256_8handlers_over_mov_jmp_same", ratio("typed", "mov_jmp", slots256)?, AtMost(1.1));

    for (key, slots) in [
        ("typed4_wine64_over_jit_wine64", 1),
        ("typed4_wine64_over_jit_wine64_64", 64),
        ("typed4_wine64_over_jit_wine64_2000", 2000),
    ] {
        add(key, ratio("typed", "closure_ffi", wine64.slots(slots))?, AtMost(1.0));
    }
    for (key, slots) in [
        ("stdcall4_wine32_over_jit_wine32", 1),
        ("stdcall4_wine32_over_jit_wine32_64", 64),
        ("stdcall4_wine32_over_jit_wine32_2000", 2000),
    ] {
        add(key, ratio("typed", "closure_ffi", wine32.slots(slots))?, AtMost(1.05));
    }
    add("i686_stdcall4_over_direct_wine32", ratio("typed", "direct", wine32)?, AtMost(2.0));
    add("go_runtime_over_typed4_wine64", ratio("go", "typed", wine64)?, AtLeast(22.0));

    add("first_callback_over_direct_first_call", records.first("typed")? - records.first("direct")?, AtMost(5000.0));
    add("register_release_1999_over_0", records.pair("typed", 1999)? / records.pair("typed", 0)?, AtMost(1.3));
    add("libffi_alloc_over_register", records.pair("libffi", 0)? / records.pair("typed", 0)?, AtLeast(3.0));
    add("two_threads_scaling", records.rate("typed", 2)? / records.rate("typed", 1)?, AtLeast(1.8));

    // On x86_64, entries that begin with a landing pad are twice as long.
    for (key, of_unwind, size, stride) in [
        ("text_bytes_per_slot", "unwind_bytes_per_slot", sizes.linux64, 32),
        ("text_bytes_per_slot_wine64", "unwind_bytes_per_slot_wine64", sizes.wine64, 16),
        ("text_bytes_per_slot_wine32", "unwind_bytes_per_slot_wine32", sizes.wine32, 16),
    ] {
        add(key, size.text, AtMost(text_per_slot(stride)));
        add(of_unwind, size.unwind, AtMost(16.0));
    }
    add("bss_bytes_per_slot", sizes.bss, AtMost(BSS_PER_SLOT));
    Ok(bounds)
}

#[cfg(test)]
mod tests {
    use super::super::records::tests::{call, record};
    use super::super::sizes::Assembled;
    use super::*;

    #[test]
    fn a_bound_is_kept_up_to_its_limit() {
        let text = |value, limit| Bound { key: "key", value, limit }.to_string();
        assert_eq!(text(2.0, AtMost(2.0)), "| `key` | 2.00 | at most 2 | reached |");
        assert_eq!(text(2.1, AtMost(2.0)), "| `key` | 2.10 | at most 2 | not reached |");
        assert_eq!(text(5.0, AtLeast(5.0)), "| `key` | 5.00 | at least 5 | reached |");
        assert_eq!(text(4.9, AtLeast(5.0)), "| `key` | 4.90 | at least 5 | not reached |");
    }

    /// A run in which everything takes 8 ns, but for what `others` says.
    fn run(others: &[(&str, Cell, f64)]) -> Records {
        let mut records = Records::default();
        for (contender, cell, ns) in others {
            records.read(cell.place, &call(contender, *cell, *ns)).unwrap();
        }
        let mut text = String::new();
        for contender in
            ["direct", "typed", "exclusive", "frame", "full_save", "mov_jmp", "ancestor", "closure_ffi", "go"]
        {
            for (slots, handlers) in [(1, 1), (64, 1), (64, 8), (256, 8), (2000, 1)] {
                text += &call(contender, Cell::at("").slots(slots).handlers(handlers), 8.0);
            }
            text += &call(contender, Cell::at("").work("double4"), 8.0);
            text += &call(contender, Cell::at("").depth(3), 8.0);
        }
        text += &call("libffi", Cell::at(""), 16.0);
        text += &call("libffi", Cell::at("").slots(2000), 16.0);
        for (contender, live) in [("typed", 0), ("typed", 1999), ("libffi", 0)] {
            text += &record("register", contender, &format!("\"live\":{live},"), 8.0);
        }
        for threads in [1, 2] {
            text += &record("threads", "typed", &format!("\"threads\":{threads},"), 8.0);
        }
        text += &record("first", "typed", "", 3000.0);
        text += &record("first", "direct", "", 1000.0);
        for place in ["linux64", "wine64", "wine32"] {
            records.read(place, &text).unwrap();
        }
        records
    }

    fn figure(key: &str, records: &Records) -> f64 {
        let size = |text, unwind| Assembled { text, unwind };
        let sizes = Sizes { linux64: size(32.5, 1.0), wine64: size(16.5, 12.0), wine32: size(16.2, 2.0), bss: 40.0 };
        let bounds = bounds(records, &sizes).unwrap();
        let found: Vec<_> = bounds.iter().filter(|bound| bound.key == key).collect();
        assert_eq!(found.len(), 1, "{key}");
        found[0].value
    }

    #[test]
    fn each_figure_is_of_the_cases_that_its_key_names() {
        let [linux, wine64, wine32] = ["linux64", "wine64", "wine32"].map(Cell::at);
        let with = |contender, cell, key| figure(key, &run(&[(contender, cell, 12.0)]));
        assert_eq!(with("typed", linux, "typed4_over_direct"), 1.5);
        assert_eq!(with("typed", linux, "typed4_overhead_over_libffi_overhead"), 0.5);
        assert_eq!(with("exclusive", linux, "exclusive4_over_typed4"), 1.5);
        assert_eq!(with("frame", linux, "frame4_over_typed4"), 1.5);
        let eight = |slots| linux.slots(slots).handlers(8);
        assert_eq!(with("typed", eight(64), "typed4_64_8handlers_over_64_1handler"), 1.5);
        assert_eq!(with("typed", eight(256), "typed4_64_8handlers_over_64_1handler"), 1.0);
        assert_eq!(with("typed", eight(256), "typed4_256_8handlers_over_mov_jmp_same"), 1.5);
        assert_eq!(with("typed", wine64, "typed4_wine64_over_jit_wine64"), 1.5);
        assert_eq!(with("typed", linux, "typed4_wine64_over_jit_wine64"), 1.0);
        assert_eq!(with("typed", wine64.slots(64), "typed4_wine64_over_jit_wine64_64"), 1.5);
        assert_eq!(with("typed", wine64.slots(2000), "typed4_wine64_over_jit_wine64_2000"), 1.5);
        assert_eq!(with("typed", wine32, "stdcall4_wine32_over_jit_wine32"), 1.5);
        assert_eq!(with("typed", wine32.slots(64), "stdcall4_wine32_over_jit_wine32_64"), 1.5);
        assert_eq!(with("typed", wine32.slots(2000), "stdcall4_wine32_over_jit_wine32_2000"), 1.5);
        assert_eq!(with("typed", wine32, "i686_stdcall4_over_direct_wine32"), 1.5);
        assert_eq!(with("go", wine64, "go_runtime_over_typed4_wine64"), 1.5);
        assert_eq!(figure("first_callback_over_direct_first_call", &run(&[])), 2000.0);
        assert_eq!(figure("text_bytes_per_slot", &run(&[])), 32.5);
        assert_eq!(figure("text_bytes_per_slot_wine64", &run(&[])), 16.5);
        assert_eq!(figure("unwind_bytes_per_slot_wine64", &run(&[])), 12.0);
    }

    #[test]
    fn what_was_not_measured_is_an_error() {
        let none = Assembled { text: 1.0, unwind: 1.0 };
        let sizes = Sizes { linux64: none, wine64: none, wine32: none, bss: 1.0 };
        assert!(bounds(&Records::default(), &sizes).is_err());
    }
}
