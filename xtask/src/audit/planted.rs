//! Each rule for objects is broken on purpose: what finds nothing wrong must be able to find something.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::artefact::{Component, Members, Target};
use super::rules;
use crate::suite::{folder, quietly};

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
const IS_64: fn(Target) -> bool = |target| target.is_64();
const IS_32: fn(Target) -> bool = |target| !target.is_64();
const GUARD: fn(Target) -> bool = |target| target.has_guard();

const PLANTS: &[Plant] = &[
    plant("entries", ALL, ".rept CAPACITY\n    ENTRY", ".rept CAPACITY - 1\n    ENTRY"),
    plant("stride", ALL, "    .byte   0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc", "    .byte   0xcc, 0xcc, 0xcc, 0xcc, 0xcc"),
    plant("alignment", ALL, "    .p2align 4, 0xcc", "    .byte   0xcc"),
    plant("landing pads", IS_64, "    endbr64 ", "    .byte   0x0f, 0x1f, 0x40, 0x00 "),
    plant("landing pads", IS_32, "    endbr32 ", "    .byte   0x0f, 0x1f, 0x40, 0x00 "),
    plant("targets", ALL, "    call    calltable_dispatch ", "    call    calltable_frame "),
    plant("returns", ALL, "    ret     ", "    nop     "),
    plant(
        "unwind data",
        |target| target.has_unwinder(),
        "END_PROC calltable_frame\n",
        "END_PROC calltable_frame\n    cld\n    cld\n",
    ),
    plant("guard targets", GUARD, ".rept CAPACITY\n    GUARD_TARGET", ".rept CAPACITY - 1\n    GUARD_TARGET"),
    plant(
        "EH continuation",
        GUARD,
        "    .section .gehcont$y, \"dr\"\n",
        "    .section .gehcont$y, \"dr\"\n    .symidx calltable_frame\n",
    ),
    plant("SafeSEH", |target| GUARD(target) && IS_32(target), "    .safeseh ", "    // .safeseh "),
    plant("@feat.00", |target| GUARD(target) && IS_64(target), "0x4800", "0x4000"),
    plant("@feat.00", |target| GUARD(target) && IS_32(target), "0x801", "0x1"),
    plant("CET note", ELF, "    .long   3 ", "    .long   1 "),
    plant("executable stack", ELF, ".note.GNU-stack, \"\"", ".note.GNU-stack, \"x\""),
    plant("names", ALL, "", ".globl calltable_planted\ncalltable_planted:\n"),
    plant("undefined", ALL, "", ".data\n.long planted_elsewhere\n"),
    plant("allocator", ALL, "", ".data\n.long malloc\n"),
    plant("panics", ALL, "", ".data\n.long rust_begin_unwind\n"),
    plant("writable code", ELF, "", ".section planted, \"awx\", @progbits\nnop\n"),
    plant("writable code", COFF, "", ".section planted, \"wx\"\nnop\n"),
    plant("text per slot", ELF, "", ".section planted, \"ax\", @progbits\n.zero CAPACITY, 0x90\n"),
    plant("text per slot", COFF, "", ".section planted, \"xr\"\n.zero CAPACITY, 0x90\n"),
    plant("bss per slot", ALL, "", ".bss\n.zero 3 * CAPACITY\n"),
    plant(
        "no XMM",
        |target| !target.has_sse(),
        "END_PROC calltable_frame\n",
        "    movaps xmm0, xmm1\nEND_PROC calltable_frame\n",
    ),
];

/// Assembles a target's table with each violation in turn, in place of the good one, and makes sure that its rule finds it.
/// Returns the rules that were broken.
pub fn check(name: &str, members: &Members, version: &str, header: &str) -> Result<BTreeSet<&'static str>> {
    let target = Target(name);
    let place = members.table()?;
    let source = fs::read_to_string(source(name)?)?;
    let findings = |text: &str| {
        let mut members = Members { objects: members.objects.clone(), given: members.given.clone() };
        members.objects[place].1 = assemble(name, text)?;
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

/// What `build.rs` gave the assembler when the library was built.
fn source(target: &str) -> Result<PathBuf> {
    let builds = Path::new(crate::dist::BUILT).join(target).join("dist/build");
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
    let triple = target.replace("-none", "-none-elf").replace("pc-windows-gnu", "w64-windows-gnu");
    let mut clang = Command::new("clang-19");
    quietly(clang.arg(format!("--target={triple}")).arg("-c").arg(source).arg("-o").arg(&object))?;
    Ok(fs::read(object)?)
}
