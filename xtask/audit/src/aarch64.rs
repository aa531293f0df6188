//! What AArch64 has instead of x86's instructions: words.

use super::entries::Violation;
use super::image::{Code, Function};

const BTI_C: u32 = 0xd503_245f;
const BRK: u32 = 0xd43e_0000; // brk #0xf000

/// B, but for its distance in words.
const B: u32 = 0x1400_0000;
const B_DISTANCE: u32 = 0x03ff_ffff;

/// MOVZ W12, but for its number.
const MOVZ_W12: u32 = 0x5280_000c;

/// The words of a function, with their addresses.
pub fn words(code: &Code, function: &Function) -> impl Iterator<Item = (u64, u32)> {
    let range = (function.range.start - code.address) as usize..(function.range.end - code.address) as usize;
    (function.range.start..).step_by(4).zip(in_order(&code.bytes[range]))
}

/// Bytes as words.
pub fn in_order(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")))
}

/// Holds the table against the rules; how many entries there are, and of each rule that is broken where first.
pub fn check(code: &Code, capacity: u64, stride: u64) -> (usize, Vec<Violation>) {
    let table = &code.functions[0];
    let words: Vec<_> = words(code, table).collect();
    let word = |at: usize| words.get(at).map(|(_, word)| *word);
    let jumps: Vec<_> = (0..words.len()).filter(|at| word(*at).is_some_and(|word| word & !B_DISTANCE == B)).collect();
    let first = |rule, wrong: &dyn Fn(u64, usize) -> Option<String>| {
        let found = (0..).zip(&jumps).find_map(|(slot, at)| Some(format!("entry {slot}: {}", wrong(slot, *at)?)));
        found.map(|text| (rule, text))
    };
    let count = jumps.len() as u64;
    let entries = (count != capacity).then(|| ("entries", format!("{count}, but the crate was built for {capacity}")));
    let entries = entries.or_else(|| {
        first("entries", &|slot, at| {
            let loads = at.checked_sub(1).and_then(word)?;
            (loads != MOVZ_W12 | (slot as u32) << 5).then(|| format!("{loads:#x} is where its number is to be loaded"))
        })
    });
    const LINE: u64 = 64; // of a cache
    let aligned = table.range.start % LINE == 0;
    let alignment = (!aligned).then(|| ("alignment", format!("the table begins at {:#x}", table.range.start)));
    let stride = first("stride", &|slot, at| {
        const JUMP: u64 = 8; // from an entry's start
        let (is, wanted) = (words[at].0, table.range.start + slot * stride + JUMP);
        (is != wanted).then(|| format!("its B is at {is:#x}, not at {wanted:#x}"))
    });
    let pads = first("landing pads", &|_, at| {
        let pad = at.checked_sub(2).and_then(word);
        (pad != Some(BTI_C)).then(|| format!("it begins with {pad:x?}, not BTI C"))
    });
    let dispatcher = code.functions.iter().find(|function| function.name == "calltable_dispatch");
    let targets = first("targets", &|_, at| {
        let (address, word) = words[at];
        let distance = ((word & B_DISTANCE) << 6) as i32 >> 4; // in bytes, with its sign
        let target = match code.references.get(&address) {
            Some(to) => to.value.wrapping_add_signed(to.addend),
            None => address.wrapping_add_signed(distance.into()),
        };
        (Some(target) != dispatcher.map(|it| it.range.start)).then(|| format!("it jumps to {target:#x}"))
    });
    let returns = first("returns", &|_, at| {
        let after = word(at + 1);
        (after != Some(BRK)).then(|| format!("{after:x?} follows its B, not BRK"))
    });
    (jumps.len(), [entries, alignment, stride, pads, targets, returns].into_iter().flatten().collect())
}

/// Whether an instruction touches a register for floating-point numbers, or what controls them: by the groups of the
/// encoding ("Arm Architecture Reference Manual for A-profile", C4.1).
pub fn is_floating(word: u32) -> bool {
    let bits = |low: u32, mask: u32| word >> low & mask;
    let computes = bits(25, 0x7) == 0x7;
    let loads = bits(27, 1) == 1 && bits(25, 1) == 0 && bits(26, 1) == 1;
    // MSR and MRS of FPCR and FPSR: S3_3_C4_C4_0 and 1.
    let controls = word & 0xffdf_ffc0 == 0xd51b_4400;
    computes || loads || controls
}
