//! What an object says of itself to linkers and unwinders: the CET note of ELF; of COFF the lists of guarded addresses
//! and `.pdata`.

use std::ops::Range;

use super::image::references;
use object::{Object, ObjectSection, ObjectSymbol, Symbol, SymbolIndex, elf};

/// GNU_PROPERTY_X86_FEATURE_1_AND, or that of AArch64, of a note that is well formed.
pub fn features(file: &object::File) -> Option<u32> {
    let section = file.section_by_name(".note.gnu.property")?;
    let note = section.data().ok()?;
    let word = |at: usize| Some(u32::from_le_bytes(note.get(at..at + 4)?.try_into().ok()?));
    let align = if file.is_64() { 8 } else { 4 };
    let (size, mut at) = (word(4)? as usize, 16);
    let wanted = match file.architecture() {
        object::Architecture::Aarch64 => elf::GNU_PROPERTY_AARCH64_FEATURE_1_AND,
        _ => elf::GNU_PROPERTY_X86_FEATURE_1_AND,
    };
    let head = (word(0)?, word(8)?, note.get(12..16)?) == (4, elf::NT_GNU_PROPERTY_TYPE_0, &b"GNU\0"[..]);
    let form = section.align() == align && note.len() == 16 + size && size % align as usize == 0;
    while head && form && at < note.len() {
        let (kind, size) = (word(at)?, word(at + 4)? as usize);
        if kind == wanted {
            return word(at + 8);
        }
        at += 8 + size.next_multiple_of(align as usize);
    }
    None
}

/// The symbols that a section lists by their indices: `.gfids$y`, `.gehcont$y`, `.sxdata`.
pub fn listed<'a>(file: &'a object::File<'a>, section: &str) -> Vec<Symbol<'a, 'a>> {
    let Some(section) = file.section_by_name(section) else { return Vec::new() };
    let indices = section.data().unwrap_or_default().chunks_exact(4);
    let symbol = |index: &[u8]| {
        let index = u32::from_le_bytes(index.try_into().ok()?);
        file.symbol_by_index(SymbolIndex(index as usize)).ok()
    };
    indices.filter_map(symbol).collect()
}

/// Whether these are functions at each entry of the table, in order.
pub fn are_entries(file: &object::File, listed: &[Symbol], capacity: u64, stride: u64) -> bool {
    let Some(table) = super::image::table(file) else { return false };
    let entries = (0..capacity).map(|slot| table.address() + slot * stride);
    let entries = entries.map(|entry| (table.section_index(), entry, object::SymbolKind::Text));
    listed.iter().map(|symbol| (symbol.section_index(), symbol.address(), symbol.kind())).eq(entries)
}

/// The functions that have entries in `.pdata`, of an object or of an image.
pub fn unwound(file: &object::File) -> Vec<Range<u64>> {
    let is_aarch64 = file.architecture() == object::Architecture::Aarch64;
    let Some(pdata) = file.section_by_name(".pdata") else { return Vec::new() };
    let data = pdata.data().unwrap_or_default();
    let fields = references(file, &pdata);
    let field = |at: usize| match fields.get(&(pdata.address() + at as u64)) {
        Some(to) => to.value.wrapping_add_signed(to.addend),
        None => file.relative_address_base() + u64::from(u32::from_le_bytes(data[at..at + 4].try_into().unwrap())),
    };
    if is_aarch64 {
        // Begin, and where the rest is, whose first 18 bits are the number of instructions.
        let rest = file.section_by_name(".xdata").or_else(|| file.section_by_name(".rdata"));
        let length = |at: u64| {
            let bytes = rest.as_ref()?.data_range(at, 4).ok()??;
            Some(4 * u64::from(u32::from_le_bytes(bytes.try_into().ok()?) & 0x3_ffff))
        };
        let entries = (0..data.len() / 8).map(|entry| (field(8 * entry), field(8 * entry + 4)));
        return entries.filter_map(|(start, rest)| Some(start..start + length(rest)?)).collect();
    }
    (0..data.len() / 12).map(|entry| field(12 * entry)..field(12 * entry + 4)).collect()
}
