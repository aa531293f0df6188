//! Reads the unwind data of COFF objects for x86_64.

use std::ops::Range;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection};

use super::image::{Code, Function, references};
use super::marks::unwound;

/// One entry of `.pdata` with what it points to in `.xdata` ("x64 exception handling", Microsoft).
pub struct Unwind {
    pub function: Range<u64>,
    /// Where in `.xdata` the rest lies.
    pub info: u64,
    pub prologue: u64,
    /// Windows calls a function of ours when an exception leaves this one, but not while it is in its prologue.
    pub is_armed: bool,
    /// Offset of the end of the instruction, what it does.
    pub codes: Vec<(u64, Step)>,
}

/// What one instruction of a prologue does to the stack, and what an unwind code says that it does.
#[derive(Debug, PartialEq)]
pub enum Step {
    Push(Register),
    Allocate(u64),
    Save(Register, u64),
}

/// The entries of an object.
pub fn read(file: &object::File, code: &Code) -> Vec<Unwind> {
    let [pdata, xdata] = [".pdata", ".xdata"].map(|name| file.section_by_name(name).unwrap());
    let fields = references(file, &pdata);
    let section = |at: u64| fields[&at].section.unwrap();
    let entries = (0..).step_by(12).zip(unwound(file)).map(|(at, function)| {
        let sections = [0, 4, 8].map(|field| section(at + field));
        assert_eq!(sections, [code.section, code.section, xdata.index()], ".pdata points elsewhere");
        let info = fields[&(at + 8)].value.wrapping_add_signed(fields[&(at + 8)].addend);
        let data = &xdata.data().unwrap()[info as usize..];
        let [head, prologue, count, frame] = data[..4].try_into().unwrap();
        assert_eq!((head & 7, frame), (1, 0), "version 1 and no frame register are what the text asks for");
        let mut slots = data[4..][..2 * usize::from(count)].chunks_exact(2);
        let mut codes = Vec::new();
        while let Some(&[offset, operation]) = slots.next() {
            let mut word = || slots.next().map(|slot| u64::from(u16::from_le_bytes([slot[0], slot[1]]))).unwrap();
            let operand = u32::from(operation >> 4);
            let step = match operation & 0xf {
                0 => Step::Push(Register::RAX + operand),
                1 if operand == 0 => Step::Allocate(8 * word()),
                1 => Step::Allocate(word() | word() << 16),
                2 => Step::Allocate(u64::from(8 * operand + 8)),
                8 => Step::Save(Register::XMM0 + operand, 16 * word()),
                other => panic!("unwind operation {other} in the function at {:#x}", function.start),
            };
            codes.push((u64::from(offset), step));
        }
        codes.reverse(); // the last instruction comes first in the data
        Unwind { function, info, prologue: prologue.into(), is_armed: head >> 3 != 0, codes }
    });
    entries.collect()
}

/// What the instructions of a function do to the stack that an unwinder must undo: where each ends, and what it does.
/// XMM registers are saved by way of R9, which is some way above RSP then.
pub fn steps(function: &Function) -> Vec<(u64, Step)> {
    let mut above = None;
    let mut step = |i: &Instruction| {
        let (first, second) = (i.op0_register(), i.op1_register());
        match i.mnemonic() {
            Mnemonic::Push => Some(Step::Push(first)),
            Mnemonic::Pushfq => Some(Step::Allocate(8)),
            Mnemonic::Sub if first == Register::RSP => Some(Step::Allocate(i.immediate(1))),
            Mnemonic::Lea if first == Register::R9 && i.memory_base() == Register::RSP => {
                above = Some(i.memory_displacement64());
                None
            }
            _ if i.op0_kind() == OpKind::Memory && (Register::XMM6..=Register::XMM15).contains(&second) => {
                assert_eq!(i.memory_base(), Register::R9);
                Some(Step::Save(second, above.unwrap().wrapping_add(i.memory_displacement64())))
            }
            _ => None,
        }
    };
    function.instructions.iter().filter_map(|i| Some((i.next_ip() - function.range.start, step(i)?))).collect()
}
