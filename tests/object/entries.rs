//! What an entry of the table must be, on x86.

use iced_x86::{Instruction, Mnemonic, Register};

use super::image::{Code, Function};

/// What entries a target has.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Bytes from one entry to the next, as `build.rs` has them as ENTRY_STRIDE.
    pub stride: u64,
    /// They begin with a landing pad.
    pub has_pad: bool,
    /// They take a frame around the CALL.
    pub has_frame: bool,
}

impl Kind {
    pub const fn of(is_64: bool, is_windows: bool) -> Self {
        let has_pad = !(is_64 && is_windows);
        Self { stride: if is_64 && has_pad { 32 } else { 16 }, has_pad, has_frame: is_64 }
    }

    /// From an entry's start to its CALL.
    pub const fn call(self) -> u64 {
        (if self.has_pad { 4 } else { 0 }) + (if self.has_frame { 4 } else { 0 })
    }
}

/// Bytes of the frame: home space, and one position more.
pub const FRAME: u64 = 40;

/// The name of a rule, and what breaks it.
pub type Violation = (&'static str, String);

/// Holds the table against the rules; of each that is broken, says where first.
pub fn check(code: &Code, capacity: u64, kind: Kind) -> Vec<Violation> {
    let table = &code.functions[0];
    let calls = || (0..).zip(positions(table));
    let first = |rule, wrong: &dyn Fn(u64, usize) -> Option<String>| {
        let found = calls().find_map(|(slot, at)| Some(format!("entry {slot}: {}", wrong(slot, at)?)));
        found.map(|text| (rule, text))
    };
    let start = |slot: u64| table.range.start + slot * kind.stride;
    let at = |index: usize| table.instructions.get(index);

    let count = calls().count() as u64;
    let entries = (count != capacity).then(|| ("entries", format!("{count}, but the crate was built for {capacity}")));
    let aligned = table.range.start % kind.stride == 0;
    let alignment = (!aligned).then(|| ("alignment", format!("the table begins at {:#x}", table.range.start)));
    let stride = first("stride", &|slot, call| {
        let (call, wanted) = (at(call)?.ip(), start(slot) + kind.call());
        (call != wanted).then(|| format!("its CALL is at {call:#x}, not at {wanted:#x}"))
    });
    let pads = first("landing pads", &|_, call| {
        let pad = call.checked_sub(if kind.has_frame { 2 } else { 1 }).and_then(at).map(Instruction::mnemonic);
        let is_pad = matches!(pad, Some(Mnemonic::Endbr64 | Mnemonic::Endbr32));
        (kind.has_pad && !is_pad).then(|| format!("it begins with {pad:?}, not ENDBR"))
    });
    let frames = first("frames", &|_, call| {
        let changes = |at: Option<&Instruction>, mnemonic| {
            at.is_some_and(|i| i.mnemonic() == mnemonic && i.op0_register() == Register::RSP && i.immediate(1) == FRAME)
        };
        let takes = changes(call.checked_sub(1).and_then(at), Mnemonic::Sub);
        let gives_back = changes(at(call + 1), Mnemonic::Add);
        (kind.has_frame && !(takes && gives_back)).then(|| format!("no frame of {FRAME} bytes around its CALL"))
    });
    let targets = first("targets", &|_, call| {
        let target = code.target(at(call)?);
        (target != "calltable_dispatch#0").then(|| format!("it calls {target}"))
    });
    let returns = first("returns", &|_, call| {
        let last = at(call + if kind.has_frame { 2 } else { 1 })?;
        let filled = || {
            (last.next_ip()..at(call)?.ip() - kind.call() + kind.stride).all(|at| code.byte(at) == 0xcc).then_some(())
        };
        let is_good = if kind.has_frame {
            last.mnemonic() == Mnemonic::Ret
        } else {
            last.mnemonic() == Mnemonic::Jmp && last.op0_register() == Register::EAX
        };
        let wanted = if kind.has_frame { "RET" } else { "JMP EAX" };
        (!is_good || filled().is_none())
            .then(|| format!("{:?} is where its {wanted} is to be, or no INT3 follows that", last.mnemonic()))
    });
    [entries, stride, alignment, pads, frames, targets, returns].into_iter().flatten().collect()
}

/// Where the CALLs of the entries are among the table's instructions.
fn positions(table: &Function) -> impl Iterator<Item = usize> + '_ {
    let is_call = |(_, instruction): &(usize, &Instruction)| instruction.mnemonic() == Mnemonic::Call;
    table.instructions.iter().enumerate().filter(is_call).map(|(index, _)| index)
}
