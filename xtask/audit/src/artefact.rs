//! What is audited: a target, its static library, an image that holds all of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use iced_x86::{Decoder, DecoderOptions, OpKind};
use object::read::archive::ArchiveFile;
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, elf, pe};

use super::aarch64;
use super::entries::Kind;
use super::image::Code;

/// A target's name, and what follows from it.
#[derive(Clone, Copy)]
pub struct Target<'a>(pub &'a str);

impl Target<'_> {
    /// The target that it is like but for floating-point registers.
    pub fn ordinary(self) -> String {
        self.0.replace("-softfloat-windows", "-pc-windows")
    }

    pub fn is_aarch64(self) -> bool {
        self.0.starts_with("aarch64")
    }

    pub fn is_x86_64(self) -> bool {
        self.0.starts_with("x86_64")
    }

    pub fn is_i686(self) -> bool {
        self.0.starts_with("i686")
    }

    pub fn is_64(self) -> bool {
        self.is_x86_64() || self.is_aarch64()
    }

    pub fn is_windows(self) -> bool {
        self.0.contains("-windows-")
    }

    pub fn entries(self) -> Kind {
        match self.is_aarch64() {
            true => Kind { stride: 16, has_pad: true, has_frame: false },
            false => Kind::of(self.is_64(), self.is_windows()),
        }
    }

    pub fn is_coff(self) -> bool {
        self.is_windows() || self.0.ends_with("-uefi")
    }

    /// Whether the object lists guarded addresses: where its linker is LLVM's or Microsoft's.
    pub fn has_guard(self) -> bool {
        self.is_coff() && !self.0.ends_with("-gnu")
    }

    /// Whether unwinders read DWARF there, else `.pdata`.
    pub fn has_dwarf(self) -> bool {
        !self.is_coff() || !self.is_64() && self.0.ends_with("-gnu")
    }

    pub fn has_unwinder(self) -> bool {
        self.is_64() || self.has_dwarf()
    }

    /// Whether code may touch floating-point registers.
    pub fn has_floats(self) -> bool {
        let is_bare = self.0.ends_with("-uefi") || self.0.ends_with("-none");
        (self.is_aarch64() || !is_bare) && !self.0.contains("softfloat")
    }

    /// A C symbol as C has it.
    pub fn plain(self, symbol: &str) -> &str {
        let symbol = symbol.strip_prefix("__imp_").unwrap_or(symbol);
        if self.is_64() || !self.is_coff() {
            return symbol;
        }
        let symbol = symbol.strip_prefix('_').unwrap_or(symbol);
        symbol.split_once('@').map_or(symbol, |(name, bytes)| if bytes.parse::<u8>().is_ok() { name } else { symbol })
    }
}

/// What a static library holds.
pub struct Members {
    /// The names of ours, and their bytes.
    pub objects: Vec<(String, Vec<u8>)>,
    /// The symbols that any member defines.
    pub given: BTreeSet<String>,
}

impl Members {
    /// Reads a library. What only says which DLL has a function is no object, and `compiler_builtins` is not ours.
    pub fn read(library: &Path) -> Result<Self> {
        let bytes = fs::read(library).with_context(|| library.display().to_string())?;
        let archive = ArchiveFile::parse(&*bytes)?;
        let mut objects = Vec::new();
        for member in archive.members() {
            let member = member?;
            let name = String::from_utf8_lossy(member.name()).into_owned();
            if name.ends_with(".o") && !name.starts_with("compiler_builtins") {
                objects.push((name, member.data(&*bytes)?.to_vec()));
            }
        }
        let mut given = BTreeSet::new();
        for symbol in archive.symbols()?.context("the library has no index")? {
            given.insert(String::from_utf8_lossy(symbol?.name()).into_owned());
        }
        Ok(Self { objects, given })
    }

    /// The place of the object that the assembler made.
    pub fn table(&self) -> Result<usize> {
        let has_table = |bytes: &Vec<u8>| object::File::parse(&**bytes).is_ok_and(|file| Code::read(&file).is_some());
        self.objects.iter().position(|(_, bytes)| has_table(bytes)).context("no object of the library has the table")
    }
}

/// The objects of a library, read.
pub struct Component<'a> {
    pub target: Target<'a>,
    /// The crate's version, as it stands in symbols.
    pub version: &'a str,
    pub objects: Vec<object::File<'a>>,
    /// The symbols that any member of the library defines.
    pub given: &'a BTreeSet<String>,
    /// Which of them has the table.
    pub table: usize,
    pub code: Code,
    pub capacity: u64,
}

impl<'a> Component<'a> {
    pub fn new(target: Target<'a>, version: &'a str, members: &'a Members) -> Result<Self> {
        let parse = |(_, bytes): &'a (String, Vec<u8>)| object::File::parse(&**bytes);
        let objects = members.objects.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let table = members.table()?;
        let code = Code::read(&objects[table]).context("no object of the library has the table")?;
        let capacity = objects.iter().find_map(|object| capacity(target, object));
        let capacity = capacity.context("calltable_capacity does not return a constant")?;
        Ok(Self { target, version, objects, given: &members.given, table, code, capacity })
    }

    pub fn assembled(&self) -> &object::File<'a> {
        &self.objects[self.table]
    }
}

/// What `calltable_capacity` returns, which is Rust's number, not the assembler's.
fn capacity(target: Target, object: &object::File) -> Option<u64> {
    let is_it = |name| target.plain(name) == "calltable_capacity";
    let symbol = object.symbols().find(|symbol| symbol.is_definition() && symbol.name().is_ok_and(is_it))?;
    let section = object.section_by_index(symbol.section_index()?).ok()?;
    let code = section.data().ok()?.get((symbol.address() - section.address()) as usize..)?;
    if target.is_aarch64() {
        const MOVZ_W0: u32 = 0x5280_0000;
        return aarch64::in_order(code)
            .find(|word| word & !0x1f_ffe0 == MOVZ_W0)
            .map(|word| (word >> 5 & 0xffff).into());
    }
    let bits = if target.is_64() { 64 } else { 32 };
    let mut instructions = Decoder::new(bits, code, DecoderOptions::NONE).into_iter();
    instructions.find(|i| i.op1_kind() == OpKind::Immediate32).map(|i| i.immediate32().into())
}

/// What memory a section takes, and what may be done with it.
#[derive(Clone, Copy, PartialEq)]
pub struct Access {
    pub is_loaded: bool,
    pub writes: bool,
    pub executes: bool,
    /// It takes no room in the file.
    pub is_zeros: bool,
}

pub fn access(section: &object::Section) -> Access {
    match section.flags() {
        SectionFlags::Elf { sh_flags } => {
            let has = |flag: u32| sh_flags & u64::from(flag) != 0;
            Access {
                is_loaded: has(elf::SHF_ALLOC),
                writes: has(elf::SHF_WRITE),
                executes: has(elf::SHF_EXECINSTR),
                is_zeros: section.kind().is_bss(),
            }
        }
        SectionFlags::Coff { characteristics } => {
            let has = |flag| characteristics & flag != 0;
            Access {
                is_loaded: !has(pe::IMAGE_SCN_LNK_REMOVE | pe::IMAGE_SCN_LNK_INFO | pe::IMAGE_SCN_MEM_DISCARDABLE),
                writes: has(pe::IMAGE_SCN_MEM_WRITE),
                executes: has(pe::IMAGE_SCN_MEM_EXECUTE),
                is_zeros: has(pe::IMAGE_SCN_CNT_UNINITIALIZED_DATA),
            }
        }
        _ => Access { is_loaded: false, writes: false, executes: false, is_zeros: false },
    }
}
