//! Which instructions have unwind data.

use std::ops::Range;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection as _};
use object::{Object, ObjectSection};

use super::aarch64;
use super::artefact::Target;
use super::image::{Code, references};
use super::marks;

/// The number of instructions of the table and the dispatchers, and the first one that no data covers.
pub fn coverage(target: Target, file: &object::File, code: &Code) -> (usize, Option<String>) {
    let covered = if target.has_dwarf() { dwarf(target, file).unwrap_or_default() } else { marks::unwound(file) };
    let is_covered = |range: Range<u64>| covered.iter().any(|c| c.start <= range.start && range.end <= c.end);
    if target.is_aarch64() {
        let all = || code.functions.iter().flat_map(|f| aarch64::words(code, f).map(move |(at, word)| (f, at, word)));
        let bare = all().find(|(_, at, _)| !is_covered(*at..at + 4));
        let text = bare.map(|(f, at, word)| format!("{word:#x} at {at:#x} in {} has no unwind data", f.name));
        return (all().count(), text);
    }
    let all = || code.functions.iter().flat_map(|f| f.instructions.iter().map(move |i| (f, i)));
    let bare = all().find(|(_, instruction)| !is_covered(instruction.ip()..instruction.next_ip()));
    let text = bare.map(|(f, i)| format!("{} at {:#x} in {} has no unwind data", code.text(i), i.ip(), f.name));
    (all().count(), text)
}

/// What the frame descriptions of `.eh_frame` cover.
fn dwarf(target: Target, file: &object::File) -> Option<Vec<Range<u64>>> {
    let section = file.section_by_name(".eh_frame")?;
    let mut data = section.data().ok()?.to_vec();
    // What an object leaves to the linker.
    for (field, to) in references(file, &section) {
        let at = (field - section.address()) as usize;
        let from = if to.is_relative { field } else { 0 };
        let value = to.value.wrapping_add_signed(to.addend).wrapping_sub(from) as u32;
        data[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let mut frames = EhFrame::new(&data, LittleEndian);
    frames.set_address_size(if target.is_64() { 8 } else { 4 });
    let bases = BaseAddresses::default().set_eh_frame(section.address());
    let mut entries = frames.entries(&bases);
    let mut covered = Vec::new();
    while let Ok(Some(entry)) = entries.next() {
        if let CieOrFde::Fde(partial) = entry {
            let fde = partial.parse(EhFrame::cie_from_offset).ok()?;
            covered.push(fde.initial_address()..fde.end_address());
        }
    }
    Some(covered)
}
