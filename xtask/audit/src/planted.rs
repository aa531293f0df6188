//! Each rule is broken on purpose: what finds nothing wrong must be able to find something.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use object::{Object, ObjectSection, ObjectSymbol, pe};
use xtask::suite::{OTHER_FOLDER, folder, quietly};

use super::artefact::{Component, Members, Target};
use super::rules::Finding;
use super::{linked, names, rules};

/// A change of the assembly, and the rule that it breaks.
struct Plant {
    rule: &'static str,
    /// Where it can be made.
    on: fn(Target) -> bool,
    /// What is replaced; if it is empty, `with` comes at the end.
    replace: &'static str,
    with: &'static str,
}

const fn plant(rule: &'static str, on: fn(Target) -> bool, replace: &'static str, with: &'static str) -> Plant {
    Plant { rule, on, replace, with }
}

const ALL: fn(Target) -> bool = |_| true;
const ELF: fn(Target) -> bool = |target| !target.is_coff();
const COFF: fn(Target) -> bool = |target| target.is_coff();
const X86: fn(Target) -> bool = |target| !target.is_aarch64();
const IS_64: fn(Target) -> bool = |target| target.is_x86_64();
const IS_32: fn(Target) -> bool = |target| target.is_i686();
const AARCH64: fn(Target) -> bool = |target| target.is_aarch64();
const GUARD: fn(Target) -> bool = |target| target.has_guard();

/// What `EACH_SLOT` does, for each slot but the last.
macro_rules! but_one {
    ($name:literal) => {
        concat!(
            ".altmacro\n.set slot, 0\n.rept CAPACITY - 1\n    ",
            $name,
            " %slot\n    .set slot, slot + 1\n.endr\n.noaltmacro\n"
        )
    };
}

const PLANTS: &[Plant] = &[
    plant("entries", ALL, "    EACH_SLOT ENTRY\n", but_one!("ENTRY")),
    plant(
        "stride",
        IS_64,
        "    .skip   ENTRY_STRIDE - ENTRY_RETURN - 5, ",
        "    .skip   ENTRY_STRIDE - ENTRY_RETURN - 4, ",
    ),
    plant("stride", IS_32, "    .byte   0xcc, 0xcc, 0xcc, 0xcc, 0xcc ", "    .byte   0xcc, 0xcc, 0xcc, 0xcc "),
    plant("alignment", IS_64, "    .globl calltable_table\n", "    .byte   0xcc\n    .globl calltable_table\n"),
    plant("alignment", IS_32, "    .p2align 4, 0xcc", "    .byte   0xcc"),
    plant(
        "landing pads",
        |target| target.is_x86_64() && !target.is_windows(),
        "    endbr64 ",
        "    .byte   0x0f, 0x1f, 0x40, 0x00 ",
    ),
    plant("frames", IS_64, "    add     rsp, ENTRY_FRAME ", "    add     rsp, ENTRY_FRAME + 8 "),
    plant("landing pads", IS_32, "    endbr32 ", "    .byte   0x0f, 0x1f, 0x40, 0x00 "),
    plant("targets", X86, "    call    calltable_dispatch ", "    call    calltable_frame "),
    plant("returns", IS_64, "    ret     ", "    nop     "),
    plant("returns", IS_32, "    jmp     eax ", "    jmp     edx "),
    plant(
        "unwind data",
        |target| X86(target) && target.has_unwinder(),
        "END_PROC calltable_frame\n",
        "END_PROC calltable_frame\n    cld\n    cld\n",
    ),
    plant("unwind data", AARCH64, "END_PROC calltable_frame\n", "END_PROC calltable_frame\n    wfe\n"),
    plant("entries", AARCH64, "    movz    w12, #", "    movz    w12, #1 + "),
    plant("stride", AARCH64, "    hint    #34 ", "    nop\n    hint    #34 "),
    plant("alignment", AARCH64, "    .globl calltable_table\n", "    nop\n    .globl calltable_table\n"),
    plant("landing pads", AARCH64, "    hint    #34 ", "    hint    #36 "), // bti j
    plant("targets", AARCH64, "    b       calltable_dispatch\n", "    b       calltable_frame\n"),
    plant(
        "returns",
        AARCH64,
        "    b       calltable_dispatch\n    brk     #0xf000 ",
        "    b       calltable_dispatch\n    nop ",
    ),
    plant("guard targets", GUARD, "    EACH_SLOT GUARD_TARGET\n", but_one!("GUARD_TARGET")),
    plant(
        "EH continuation",
        |target| GUARD(target) && IS_64(target) && target.is_windows(),
        "    .section .gehcont$y, \"dr\"\n",
        "    .section .gehcont$y, \"dr\"\n    .symidx calltable_frame\n",
    ),
    plant(
        "SafeSEH",
        |target| GUARD(target) && IS_32(target) && target.is_windows(),
        "    .safeseh ",
        "    // .safeseh ",
    ),
    plant("@feat.00", |target| GUARD(target) && !IS_32(target), "0x4800", "0x4000"),
    plant("@feat.00", |target| GUARD(target) && IS_32(target), "0x801", "0x1"),
    plant("branches' note", |target| ELF(target) && X86(target), "0xc0000002, 3 ", "0xc0000002, 1 "),
    plant("branches' note", |target| ELF(target) && AARCH64(target), "0xc0000000, 5+", "0xc0000000, 4+"),
    plant("executable stack", ELF, ".note.GNU-stack, \"\"", ".note.GNU-stack, \"x\""),
    plant("names", ALL, "", ".globl planted\nplanted:\n"),
    plant("undefined", ALL, "", ".data\n.long planted_elsewhere\n"),
    plant("allocator", ALL, "", ".data\n.long malloc\n"),
    plant("panics", ALL, "", ".data\n.long rust_begin_unwind\n"),
    plant("writable code", ELF, "", ".section planted, \"awx\", @progbits\nnop\n"),
    plant("writable code", COFF, "", ".section planted, \"wx\"\nnop\n"),
    plant("text per slot", ELF, "", ".section planted, \"ax\", @progbits\n.zero CAPACITY, 0x90\n"),
    plant("text per slot", COFF, "", ".section planted, \"xr\"\n.zero CAPACITY, 0x90\n"),
    plant("bss per slot", ALL, "", ".bss\n.zero 64 * CAPACITY\n"),
    plant(
        "no floating point",
        |target| X86(target) && !target.has_floats(),
        "END_PROC calltable_frame\n",
        "    movaps xmm0, xmm1\nEND_PROC calltable_frame\n",
    ),
    plant(
        "no floating point",
        |target| AARCH64(target) && !target.has_floats(),
        "END_PROC calltable_frame\n",
        "    fmov d0, d1\nEND_PROC calltable_frame\n",
    ),
];

/// Assembles a target's table with each violation in turn, in place of the good one, and makes sure that its rule finds
/// it. Returns the rules that were broken.
pub fn in_objects(name: &str, members: &Members, version: &str, header: &str) -> Result<BTreeSet<&'static str>> {
    let target = Target(name);
    let place = members.table()?;
    let in_names = version.replace('.', "_");
    let underscore = if target.is_coff() && !target.is_64() { "_" } else { "" };
    let source = unversioned(&fs::read_to_string(source(name)?)?, &in_names, underscore);
    let findings = |text: &str| {
        let mut members = Members { objects: members.objects.clone(), given: members.given.clone() };
        members.objects[place].1 = assemble(name, &names::versioned(text, &in_names, underscore))?;
        let component = Component::new(target, version, &members)?;
        let broken = rules::check(&component, header).into_iter().filter(|finding| !finding.violations.is_empty());
        anyhow::Ok(broken.map(|finding| finding.rule).collect::<BTreeSet<_>>())
    };
    let without = findings(&source)?;
    ensure!(without.is_empty(), "nothing is planted yet, but {without:?} are broken");
    let mut all = BTreeSet::new();
    for plant in PLANTS.iter().filter(|plant| (plant.on)(target)) {
        let text = match plant.replace {
            "" => format!("{source}\n{}", plant.with),
            replace => source.replacen(replace, plant.with, 1),
        };
        ensure!(text != source, "{}: the assembly has no {:?} any more", plant.rule, plant.replace);
        let broken = findings(&text).with_context(|| plant.rule)?;
        ensure!(broken.contains(plant.rule), "{}: planted, but only {broken:?} are found broken", plant.rule);
        all.insert(plant.rule);
    }
    Ok(all)
}

/// Takes out what `names::versioned` has put into names, so that they are those of `asm/` again.
fn unversioned(text: &str, version: &str, underscore: &str) -> String {
    let added = format!("calltable_{version}_");
    let mut parts = text.split(&added);
    let mut made = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if part.starts_with(|first: char| first.is_ascii_lowercase()) {
            made.truncate(made.len() - if made.ends_with(underscore) { underscore.len() } else { 0 });
            made += "calltable_";
        }
        made += part;
    }
    made
}

/// What `build.rs` gave the assembler when the library was built.
fn source(target: &str) -> Result<PathBuf> {
    let builds = Path::new(OTHER_FOLDER).join(target).join("dist/build");
    let mut found = Vec::new();
    for build in fs::read_dir(&builds).with_context(|| builds.display().to_string())? {
        let source = build?.path().join("out/calltable.S");
        if let Ok(metadata) = source.metadata() {
            found.push((metadata.modified()?, source));
        }
    }
    Ok(found.into_iter().max().context("the library's build has left no assembly")?.1)
}

fn assemble(target: &str, text: &str) -> Result<Vec<u8>> {
    let folder = folder(&format!("audit/{target}"))?;
    let (source, object) = (folder.join("planted.S"), folder.join("planted.o"));
    fs::write(&source, text)?;
    // As Clang calls it.
    let triple = Target(target)
        .ordinary()
        .replace("-none-softfloat", "-none")
        .replace("-none", "-none-elf")
        .replace("-uefi", "-windows")
        .replace("pc-windows-gnu", "w64-windows-gnu");
    let mut clang = Command::new("clang-19");
    quietly(clang.arg(format!("--target={triple}")).arg("-c").arg(source).arg("-o").arg(&object))?;
    Ok(fs::read(object)?)
}

/// A change of an image.
type Change = fn(&mut Image) -> Option<()>;

const CHANGES: &[(&str, Change)] = &[
    ("imports", |image| image.replace(b"ntoskrnl.exe\0", b"kernel32.dll\0")),
    ("subsystem", |image| image.header(68, 2, |_| pe::IMAGE_SUBSYSTEM_WINDOWS_CUI.into())),
    ("characteristics", |image| image.header(70, 2, |old| old & !u64::from(pe::IMAGE_DLLCHARACTERISTICS_NX_COMPAT))),
    ("checksum", |image| image.header(64, 4, |_| 0)),
    ("section alignment", |image| image.header(32, 4, |_| 0x200)),
    ("table's section", |image| image.replace(b".text\0\0\0", b"PAGE\0\0\0\0")),
    ("contexts' section", |image| image.section(b".data", pe::IMAGE_SCN_MEM_DISCARDABLE)),
    ("writable code", |image| image.section(b".text", pe::IMAGE_SCN_MEM_WRITE)),
    ("C run-time", |image| image.replace(b"calltable_live_count\0", b"call___chkstk_______\0")),
    ("load configuration", |image| image.header(if image.is_64 { 112 } else { 96 } + 8 * 10, 4, |_| 0)),
    ("guard targets", |image| image.load_config(if image.is_64 { 136 } else { 84 }, |count| count / 2)),
    ("EH continuation", |image| image.load_config(272, |count| count - 1)),
    ("SafeSEH", |image| image.load_config(68, |count| count - 1)),
    // After the JMP of an entry, or in place of what gives back its frame: MOVAPS XMM0, XMM1.
    ("no floating point", |image| match image.is_64 {
        true => image.replace(
            &[0x48, 0x83, 0xc4, 0x28, 0xc3, 0xcc, 0xcc, 0x48, 0x83, 0xec, 0x28, 0xe8],
            &[0x0f, 0x28, 0xc1, 0x90, 0xc3, 0xcc, 0xcc, 0x48, 0x83, 0xec, 0x28, 0xe8],
        ),
        false => {
            image.replace(&[0xff, 0xe0, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc], &[0xff, 0xe0, 0x0f, 0x28, 0xc1, 0xcc, 0xcc])
        }
    }),
];

/// Changes an image for MSVC in each way in turn, and makes sure that the rule finds it. Returns the rules that were
/// broken.
pub fn in_image(component: &Component, bytes: &[u8]) -> Result<BTreeSet<&'static str>> {
    let broken = |findings: &[Finding]| {
        let broken = findings.iter().filter(|finding| !finding.violations.is_empty());
        broken.map(|finding| finding.rule).collect::<BTreeSet<_>>()
    };
    let without = linked::check(component, bytes)?;
    ensure!(broken(&without).is_empty(), "nothing is planted yet, but {:?} are broken", broken(&without));
    let mut all = BTreeSet::new();
    for (rule, change) in CHANGES {
        if !without.iter().any(|finding| finding.rule == *rule && finding.seen.is_some()) {
            continue;
        }
        let mut image = Image { bytes: bytes.to_vec(), is_64: component.target.is_64() };
        change(&mut image).with_context(|| format!("{rule}: there is nothing to change"))?;
        ensure!(image.bytes != bytes, "{rule}: the change changes nothing");
        let broken = broken(&linked::check(component, &image.bytes).with_context(|| *rule)?);
        ensure!(broken.contains(rule), "{rule}: planted, but only {broken:?} are found broken");
        all.insert(*rule);
    }
    Ok(all)
}

/// An image that is changed; offsets are those of Microsoft's "PE Format".
struct Image {
    bytes: Vec<u8>,
    is_64: bool,
}

impl Image {
    /// Replaces the first such bytes by as many others.
    fn replace(&mut self, bytes: &[u8], with: &[u8]) -> Option<()> {
        let at = self.bytes.windows(bytes.len()).position(|window| window == bytes)?;
        self.bytes[at..at + bytes.len()].copy_from_slice(with);
        Some(())
    }

    fn change(&mut self, at: usize, size: usize, change: impl Fn(u64) -> u64) -> Option<()> {
        let field = self.bytes.get_mut(at..at + size)?;
        let mut word = [0; 8];
        word[..size].copy_from_slice(field);
        field.copy_from_slice(&change(u64::from_le_bytes(word)).to_le_bytes()[..size]);
        Some(())
    }

    /// Changes a field of the optional header.
    fn header(&mut self, offset: usize, size: usize, change: impl Fn(u64) -> u64) -> Option<()> {
        let signature = self.bytes.windows(4).position(|window| window == b"PE\0\0")?;
        self.change(signature + 24 + offset, size, change)
    }

    /// Gives a section one more characteristic.
    fn section(&mut self, name: &[u8], characteristic: u32) -> Option<()> {
        let at = self.bytes.windows(name.len()).position(|window| window == name)?;
        self.change(at + 36, 4, |old| old | u64::from(characteristic))
    }

    /// Changes a field of the load configuration.
    fn load_config(&mut self, offset: usize, change: impl Fn(u64) -> u64) -> Option<()> {
        let file = object::File::parse(&*self.bytes).ok()?;
        let is_it = |symbol: &object::Symbol| symbol.name().is_ok_and(|name| name.ends_with("_load_config_used"));
        let symbol = file.symbols().find(is_it)?;
        let section = file.section_by_index(symbol.section_index()?).ok()?;
        let at = section.file_range()?.0 + symbol.address() - section.address();
        self.change(at as usize + offset, if self.is_64 { 8 } else { 4 }, change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_replaced_is_there() {
        let common = include_str!("../../../asm/common.S");
        for (target, text) in [
            ("x86_64-pc-windows-msvc", include_str!("../../../asm/x86_64.S")),
            ("x86_64-unknown-none", include_str!("../../../asm/x86_64.S")),
            ("i686-pc-windows-msvc", include_str!("../../../asm/x86.S")),
            ("i686-unknown-linux-gnu", include_str!("../../../asm/x86.S")),
            ("aarch64-pc-windows-msvc", include_str!("../../../asm/aarch64.S")),
            ("aarch64-unknown-none-softfloat", include_str!("../../../asm/aarch64.S")),
        ] {
            for plant in PLANTS.iter().filter(|plant| (plant.on)(Target(target))) {
                assert!([common, text].concat().contains(plant.replace), "{target}, {}", plant.rule);
            }
        }
    }

    #[test]
    fn a_version_is_taken_out_of_names_as_it_was_put_in() {
        let text = ".macro PROC name\n.endm\n.set ROOM, 8\nPROC calltable_frame\n    call calltable_stale + ROOM\n";
        for underscore in ["", "_"] {
            let versioned = names::versioned(text, "0_1_0", underscore);
            assert!(versioned.contains(&format!(" {underscore}calltable_0_1_0_frame")), "{versioned}");
            assert_eq!(unversioned(&versioned, "0_1_0", underscore), text);
        }
    }
}
