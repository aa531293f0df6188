//! Reads the table and the dispatchers, with what their relocations mean, from an object file or a linked image.

use std::collections::BTreeMap;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};
use object::{
    Architecture, Object, ObjectSection, ObjectSymbol, RelocationKind, RelocationTarget, SectionIndex, SectionKind,
    SymbolKind,
};

/// Whether a symbol is the table's; the version is in its name, and C symbols of 32-bit COFF begin with an underscore.
pub fn is_table(name: &str) -> bool {
    name.trim_start_matches('_').starts_with("calltable_") && name.ends_with("_table")
}

/// Whether it is what lies after the last dispatcher.
fn is_end(name: &str) -> bool {
    name.trim_start_matches('_').starts_with("calltable_") && name.ends_with("_text_end")
}

/// The name that the source gives to what is called so in a file: without the version, which `table`, the name of the
/// table there, has, too, and without what C symbols begin with.
pub fn plain(name: &str, table: &str) -> String {
    let versioned = table.strip_suffix("table").and_then(|prefix| name.strip_prefix(prefix));
    versioned.map_or_else(|| name.to_owned(), |name| format!("calltable_{name}"))
}

/// One function, decoded; what fills the room up to the next one is left out.
pub struct Function {
    pub name: String,
    pub range: Range<u64>,
    /// Of x86; those of AArch64 are words.
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
    /// Whether the field counts from itself.
    pub is_relative: bool,
    /// The kind of relocation, as the file has it.
    pub flags: String,
}

/// The section that holds the table, and the functions of the assembled object in it.
pub struct Code {
    pub section: SectionIndex,
    pub address: u64,
    pub bytes: Vec<u8>,
    pub references: BTreeMap<u64, Reference>,
    /// In the order of their addresses: the table, then the dispatchers.
    pub functions: Vec<Function>,
}

/// The relocations of a section, by address of the field.
pub fn references(file: &object::File, section: &object::Section) -> BTreeMap<u64, Reference> {
    let bytes = section.data().unwrap();
    let resolve = |(offset, relocation): (u64, object::Relocation)| {
        let RelocationTarget::Symbol(index) = relocation.target() else { panic!("{relocation:?} has no symbol") };
        let symbol = file.symbol_by_index(index).unwrap();
        let field = bytes[offset as usize..][..4].try_into().unwrap();
        // In an instruction of AArch64 it would be a part of the word, and is 0 in what is read here.
        let is_word = file.architecture() == Architecture::Aarch64 && section.kind() == SectionKind::Text;
        let implicit = if relocation.has_implicit_addend() && !is_word { i32::from_le_bytes(field) } else { 0 };
        let reference = Reference {
            symbol: symbol.name().unwrap().to_owned(),
            section: symbol.section_index(),
            value: symbol.address(),
            addend: relocation.addend() + i64::from(implicit),
            is_relative: relocation.kind() == RelocationKind::Relative,
            flags: format!("{:?}", relocation.flags()),
        };
        (section.address() + offset, reference)
    };
    section.relocations().map(resolve).collect()
}

/// The symbol of the table.
pub fn table<'a>(file: &'a object::File<'a>) -> Option<object::Symbol<'a, 'a>> {
    file.symbols().find(|symbol| symbol.is_definition() && symbol.name().is_ok_and(is_table))
}

impl Code {
    /// Reads an object, or an image with symbols; none if there is no table.
    pub fn read(file: &object::File) -> Option<Self> {
        let table = table(file)?;
        let section = table.section_index()?;
        let end = file.symbols().find(|symbol| !symbol.is_undefined() && symbol.name().is_ok_and(is_end))?.address();
        let plain = |name| plain(name, table.name().unwrap_or_default());
        let mut starts: Vec<(String, u64)> = file
            .symbols()
            .filter(|symbol| symbol.section_index() == Some(section) && symbol.kind() == SymbolKind::Text)
            .filter_map(|symbol| Some((plain(symbol.name().ok()?), symbol.address())))
            .filter(|(name, address)| !name.starts_with("calltable_entry_") && (table.address()..end).contains(address))
            .collect();
        starts.sort_by_key(|(_, address)| *address);
        let ends = starts.iter().skip(1).map(|(_, address)| *address).chain([end]);
        let functions = starts.iter().zip(ends).map(|((name, start), end)| (name.as_str(), *start..end));
        Self::decode(file, section, functions)
    }

    /// Reads an image, into which the linker has put the section of an object as it is.
    pub fn linked(file: &object::File, object: &Self) -> Option<Self> {
        let table = table(file)?;
        let moved = table.address() - object.functions.first()?.range.start;
        let functions = object.functions.iter();
        let functions = functions.map(|f| (f.name.as_str(), f.range.start + moved..f.range.end + moved));
        Self::decode(file, table.section_index()?, functions)
    }

    fn decode<'a>(
        file: &object::File,
        section: SectionIndex,
        functions: impl Iterator<Item = (&'a str, Range<u64>)>,
    ) -> Option<Self> {
        let section = file.section_by_index(section).ok()?;
        let (address, bytes) = (section.address(), section.data().ok()?.to_vec());
        let bits = if file.architecture() == Architecture::X86_64 { 64 } else { 32 };
        let decode = |(name, range): (&str, Range<u64>)| {
            let bytes = bytes.get((range.start - address) as usize..(range.end - address) as usize)?;
            if file.architecture() == Architecture::Aarch64 {
                const NOP: [u8; 4] = [0x1f, 0x20, 0x03, 0xd5];
                let fill = bytes.rchunks_exact(4).take_while(|word| *word == NOP || *word == [0; 4]).count() as u64;
                return Some(Function {
                    name: name.to_owned(),
                    range: range.start..range.end - 4 * fill,
                    instructions: Vec::new(),
                });
            }
            let mut instructions: Vec<_> =
                Decoder::with_ip(bits, bytes, range.start, DecoderOptions::NONE).iter().collect();
            let is_fill = |i: &Instruction| matches!(i.mnemonic(), Mnemonic::Int3 | Mnemonic::Nop);
            while instructions.last().is_some_and(is_fill) {
                instructions.pop();
            }
            let end = instructions.last()?.next_ip();
            Some(Function { name: name.to_owned(), range: range.start..end, instructions })
        };
        let functions = functions.map(decode).collect::<Option<_>>()?;
        Some(Self { section: section.index(), address, bytes, references: references(file, &section), functions })
    }

    /// The byte at an address in the section.
    pub fn byte(&self, address: u64) -> u8 {
        self.bytes[(address - self.address) as usize]
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
