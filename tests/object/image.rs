//! Reads the table and the dispatchers, with what their relocations mean, from an object file or a linked image.

use std::collections::BTreeMap;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex};

/// The name of the table; the contexts and the stale handler are named alike.
pub const TABLE: &str = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_table");

/// What lies behind the last of them.
pub const TEXT_END: &str = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_text_end");

/// The functions behind the table, as `asm/x86_64.S` lists them.
pub const DISPATCHERS: [&str; 9] = [
    "calltable_dispatch",
    "calltable_select",
    "calltable_link",
    "calltable_count",
    "calltable_contain",
    "calltable_direct",
    "calltable_direct_saving",
    "calltable_frame",
    "calltable_frame_saving",
];

/// One function, decoded; what fills the room up to the next one is left out.
pub struct Function {
    pub name: String,
    pub range: Range<u64>,
    pub instructions: Vec<Instruction>,
}

/// What a relocated field refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub symbol: String,
    /// Where the symbol is defined, if it is defined in this file.
    pub section: Option<SectionIndex>,
    /// Address of the symbol in its section, or 0.
    pub value: u64,
    pub addend: i64,
    /// The kind of relocation, as the file has it.
    pub flags: String,
}

/// The section that holds the table, and the functions in it.
pub struct Code {
    pub section: SectionIndex,
    pub address: u64,
    pub bytes: Vec<u8>,
    pub references: BTreeMap<u64, Reference>,
    /// The table first, then the dispatchers in the order of their addresses.
    pub functions: Vec<Function>,
}

/// The relocations of a section, by address of the field.
pub fn references(file: &object::File, section: &object::Section) -> BTreeMap<u64, Reference> {
    let bytes = section.data().unwrap();
    let resolve = |(offset, relocation): (u64, object::Relocation)| {
        let RelocationTarget::Symbol(index) = relocation.target() else { panic!("{relocation:?} has no symbol") };
        let symbol = file.symbol_by_index(index).unwrap();
        let field = bytes[offset as usize..][..4].try_into().unwrap();
        let implicit = if relocation.has_implicit_addend() { i32::from_le_bytes(field) } else { 0 };
        let reference = Reference {
            symbol: symbol.name().unwrap().to_owned(),
            section: symbol.section_index(),
            value: symbol.address(),
            addend: relocation.addend() + i64::from(implicit),
            flags: format!("{:?}", relocation.flags()),
        };
        (section.address() + offset, reference)
    };
    section.relocations().map(resolve).collect()
}

impl Code {
    pub fn read(file: &object::File) -> Self {
        let symbol = |name: &str| {
            let found = file.symbols().find(|symbol| symbol.is_definition() && symbol.name() == Ok(name));
            found.unwrap_or_else(|| panic!("no symbol {name}: is it renamed in asm/, or the image stripped?"))
        };
        let section = file.section_by_index(symbol(TABLE).section_index().unwrap()).unwrap();
        let (address, bytes) = (section.address(), section.data().unwrap().to_vec());
        let mut starts: Vec<_> = [TABLE].iter().chain(&DISPATCHERS).map(|name| symbol(name)).collect();
        starts.sort_by_key(|symbol| symbol.address());
        let decode = |(index, symbol): (usize, &object::Symbol)| {
            let start = symbol.address();
            let next = starts.get(index + 1).map_or(address + bytes.len() as u64, |next| next.address());
            let end = if symbol.size() == 0 { next } else { start + symbol.size() }; // COFF knows no sizes
            let bytes = &bytes[(start - address) as usize..(end - address) as usize];
            let mut instructions: Vec<_> = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE).iter().collect();
            let is_fill = |i: &Instruction| matches!(i.mnemonic(), Mnemonic::Int3 | Mnemonic::Nop);
            while instructions.last().is_some_and(is_fill) {
                instructions.pop();
            }
            let end = instructions.last().unwrap().next_ip();
            Function { name: symbol.name().unwrap().to_owned(), range: start..end, instructions }
        };
        let functions = starts.iter().enumerate().map(decode).collect();
        Self { section: section.index(), address, bytes, references: references(file, &section), functions }
    }

    /// The byte at an address in the section.
    pub fn byte(&self, address: u64) -> u8 {
        self.bytes[(address - self.address) as usize]
    }

    /// The functions behind the table.
    pub fn dispatchers(&self) -> &[Function] {
        assert_eq!(self.functions[0].name, TABLE, "the table does not come first in its section");
        &self.functions[1..]
    }

    /// `function#index` of the instruction at an address.
    fn place(&self, address: u64) -> String {
        let Some(function) = self.functions.iter().find(|function| function.range.contains(&address)) else {
            return format!("outside at {address:#x}");
        };
        match function.instructions.iter().position(|instruction| instruction.ip() == address) {
            Some(index) => format!("{}#{index}", function.name),
            None => format!("{}, inside an instruction at {address:#x}", function.name),
        }
    }

    /// What a branch or an address relative to the instruction pointer means, relocated or not.
    pub fn target(&self, instruction: &Instruction) -> String {
        match self.references.range(instruction.ip()..instruction.next_ip()).next() {
            Some((field, to)) => {
                let offset = to.addend + (instruction.next_ip() - field) as i64;
                if to.section == Some(self.section) {
                    self.place(to.value.wrapping_add_signed(offset))
                } else {
                    format!("{}+{offset}", to.symbol)
                }
            }
            None if instruction.is_ip_rel_memory_operand() => self.place(instruction.ip_rel_memory_address()),
            None => self.place(instruction.near_branch_target()),
        }
    }

    /// An instruction as text: the same for two encodings of the same instruction.
    pub fn text(&self, instruction: &Instruction) -> String {
        let operand = |index| match instruction.op_kind(index) {
            OpKind::Register => format!("{:?}", instruction.op_register(index)),
            OpKind::NearBranch64 => self.target(instruction),
            OpKind::Memory if instruction.is_ip_rel_memory_operand() => format!("[{}]", self.target(instruction)),
            OpKind::Memory => format!(
                "{:?}[{:?} + {} * {:?} + {:#x}]",
                instruction.memory_size(),
                instruction.memory_base(),
                instruction.memory_index_scale(),
                instruction.memory_index(),
                instruction.memory_displacement64()
            ),
            _ => format!("{:#x}", instruction.immediate(index)),
        };
        let operands: Vec<_> = (0..instruction.op_count()).map(operand).collect();
        let lock = if instruction.has_lock_prefix() { "lock " } else { "" };
        format!("{lock}{:?} {}", instruction.mnemonic(), operands.join(", "))
    }
}
