//! What an entry of the table must be.

use iced_x86::{Instruction, Mnemonic};

use super::image::{Code, Function};

/// Bytes from one entry to the next, as `build.rs` has them as ENTRY_STRIDE.
pub const STRIDE: u64 = 16;

/// The name of a rule, and what breaks it.
pub type Violation = (&'static str, String);

/// Holds the table against the rules; of each that is broken, says where first.
pub fn check(code: &Code, capacity: u64) -> Vec<Violation> {
    let table = &code.functions[0];
    let calls = || (0..).zip(positions(table));
    let first = |rule, wrong: &dyn Fn(u64, usize) -> Option<String>| {
        let found = calls().find_map(|(slot, at)| Some(format!("entry {slot}: {}", wrong(slot, at)?)));
        found.map(|text| (rule, text))
    };
    let start = |slot: u64| table.range.start + slot * STRIDE;
    let at = |index: usize| table.instructions.get(index);

    let count = calls().count() as u64;
    let entries = (count != capacity).then(|| ("entries", format!("{count}, but the crate was built for {capacity}")));
    let aligned = table.range.start % STRIDE == 0;
    let alignment = (!aligned).then(|| ("alignment", format!("the table begins at {:#x}", table.range.start)));
    let stride = first("stride", &|slot, call| {
        let (call, wanted) = (at(call)?.ip(), start(slot) + 4);
        (call != wanted).then(|| format!("its CALL is at {call:#x}, not at {wanted:#x}"))
    });
    let pads = first("landing pads", &|_, call| {
        let pad = call.checked_sub(1).and_then(at).map(Instruction::mnemonic);
        let is_pad = matches!(pad, Some(Mnemonic::Endbr64 | Mnemonic::Endbr32));
        (!is_pad).then(|| format!("{pad:?} stands before its CALL, not ENDBR"))
    });
    let targets = first("targets", &|_, call| {
        let target = code.target(at(call)?);
        (target != "calltable_dispatch#0").then(|| format!("it calls {target}"))
    });
    let returns = first("returns", &|_, call| {
        let ret = at(call + 1)?;
        let filled = || (ret.next_ip()..(at(call)?.ip() - 4 + STRIDE)).all(|at| code.byte(at) == 0xcc).then_some(());
        let is_good = ret.mnemonic() == Mnemonic::Ret && filled().is_some();
        (!is_good).then(|| format!("{:?} follows its CALL, or no INT3 follows that", ret.mnemonic()))
    });
    [entries, stride, alignment, pads, targets, returns].into_iter().flatten().collect()
}

/// Where the CALLs of the entries are among the table's instructions.
fn positions(table: &Function) -> impl Iterator<Item = usize> + '_ {
    let is_call = |(_, instruction): &(usize, &Instruction)| instruction.mnemonic() == Mnemonic::Call;
    table.instructions.iter().enumerate().filter(is_call).map(|(index, _)| index)
}
