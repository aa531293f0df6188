//! What the crate adds to a program, in bytes for each slot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSection as _, SectionKind};
use serde_json::Value;
use xtask::CAPACITY;
use xtask::suite::quietly;

/// The table and its dispatchers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assembled {
    /// Instructions.
    pub text: f64,
    /// What unwinders read: frame descriptions, or `.pdata` and `.xdata`.
    pub unwind: f64,
}

impl Assembled {
    /// Reads the object in which cargo has built the table; `messages` are what it said in JSON.
    pub fn of_build(messages: &str) -> Result<Self> {
        let folder = messages.lines().find_map(folder_of_table).context("cargo has built no table")?;
        let files = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
        let is_table = |path: &PathBuf| path.to_string_lossy().ends_with("-calltable.o");
        let mut objects = files.iter().map(fs::DirEntry::path).filter(is_table);
        let path = objects.next().with_context(|| format!("no object of the table in {}", folder.display()))?;
        ensure!(objects.next().is_none(), "two objects of the table in {}", folder.display());
        Self::of_object(&fs::read(&path)?).with_context(|| path.display().to_string())
    }

    fn of_object(bytes: &[u8]) -> Result<Self> {
        let file = object::File::parse(bytes)?;
        let sum = |wanted: &dyn Fn(&object::Section) -> bool| {
            let bytes: u64 = file.sections().filter(wanted).map(|section| section.size()).sum();
            bytes as f64 / CAPACITY as f64
        };
        let text = sum(&|section| section.kind() == SectionKind::Text);
        ensure!(text != 0.0, "an object without code");
        let unwinds = |name: &str| [".eh_frame", ".debug_frame", ".pdata", ".xdata"].contains(&name);
        Ok(Self { text, unwind: sum(&|section| section.name().is_ok_and(unwinds)) })
    }
}

/// Where the build script of the crate has worked, if cargo's message is about it: it leaves the source there, too.
fn folder_of_table(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let folder = Path::new(message.get("out_dir")?.as_str()?);
    folder.join("calltable.S").exists().then(|| folder.to_path_buf())
}

/// What of a program's memory that starts as zeros is the crate's.
pub fn bss(program: &Path) -> Result<f64> {
    let symbols = quietly(Command::new("nm").args(["--print-size", "--demangle", "--defined-only"]).arg(program))?;
    let bytes: u64 = symbols.lines().filter_map(bss_of_symbol).sum();
    ensure!(bytes != 0, "the crate's symbols are not in {}", program.display());
    Ok(bytes as f64 / CAPACITY as f64)
}

/// The size of a symbol of the crate that starts as zeros, from a line of `nm`.
fn bss_of_symbol(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(' ')?;
    let [size, "b", name] = rest.splitn(3, ' ').collect::<Vec<_>>()[..] else { return None };
    let of_crate = name.starts_with("calltable_") || name.starts_with("calltable::");
    if !of_crate || name.starts_with("calltable_bench") {
        return None;
    }
    u64::from_str_radix(size, 16).ok()
}

#[cfg(test)]
mod tests {
    use object::write::Object;
    use object::{Architecture, BinaryFormat, Endianness};

    use super::*;

    fn made(format: BinaryFormat, sections: &[(&str, SectionKind, usize)]) -> Vec<u8> {
        let mut object = Object::new(format, Architecture::X86_64, Endianness::Little);
        for (name, kind, size) in sections {
            let section = object.add_section(Vec::new(), name.as_bytes().to_vec(), *kind);
            object.append_section_data(section, &vec![0; size * CAPACITY], 1);
        }
        object.write().unwrap()
    }

    #[test]
    fn bytes_of_an_object_are_told_apart_by_what_reads_them() {
        let other = (".rdata", SectionKind::ReadOnlyData, 100);
        for (format, unwind) in [(BinaryFormat::Elf, ".eh_frame"), (BinaryFormat::Coff, ".pdata")] {
            let text = (".text", SectionKind::Text, 16);
            let bytes = made(format, &[text, (unwind, SectionKind::ReadOnlyData, 12), other]);
            assert_eq!(Assembled::of_object(&bytes).unwrap(), Assembled { text: 16.0, unwind: 12.0 });
        }
        let error = Assembled::of_object(&made(BinaryFormat::Elf, &[other])).unwrap_err().to_string();
        assert!(error.contains("without code"), "{error}");
    }

    #[test]
    fn only_memory_of_the_crate_counts_and_only_zeros() {
        assert_eq!(bss_of_symbol("0000000000001000 0000000000000020 b calltable::registry::REGISTRY"), Some(32));
        assert_eq!(bss_of_symbol("0000000000001000 0000000000000010 b calltable_0_1_0_contexts"), Some(16));
        for line in [
            "0000000000001000 0000000000000020 b calltable_bench::shapes::COUNTS",
            "0000000000001000 0000000000000020 t calltable_0_1_0_table",
            "0000000000001000 t calltable_0_1_0_text_end",
            "0000000000001000 0000000000000020 b std::io::STDOUT",
        ] {
            assert_eq!(bss_of_symbol(line), None, "{line}");
        }
    }

    #[test]
    fn a_message_without_a_table_is_passed_over() {
        assert_eq!(folder_of_table("not JSON"), None);
        assert_eq!(folder_of_table(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(folder_of_table(r#"{"reason":"build-script-executed","out_dir":"/no/such/folder"}"#), None);
    }
}
