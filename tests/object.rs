//! The object that the assemblers make of the table, and the images that linkers make of the object.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "object/entries.rs"]
mod entries;
#[path = "object/image.rs"]
mod image;
#[path = "object/marks.rs"]
mod marks;
#[path = "object/pdata.rs"]
mod pdata;

use std::env;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use calltable::{CAPACITY, Callback};
use entries::Kind;
use iced_x86::{CpuidFeature, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};
use image::{Code, Function, Reference};
use object::elf;
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SectionFlags, SectionKind, SymbolFlags, SymbolKind};
use pdata::{Step, Unwind};

/// The text that this build's assembler was given.
const SOURCE: &str = include_str!(concat!(env!("OUT_DIR"), "/calltable.S"));

/// The name of the contexts.
const CONTEXTS: &str = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_contexts");

/// The name of what lies after the dispatchers.
const TEXT_END: &str = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_text_end");

/// Bytes in one context: `build.rs` has them as CONTEXT_SIZE.
const CONTEXT: u64 = 32;

const CLANG: &[&str] = &["clang-19", "clang-20", "clang-21", "clang-18", "clang"];

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Elf,
    Coff,
}

#[derive(Clone, Copy, Debug)]
enum Assembler {
    Gas,
    Clang,
    Rustc,
}

/// A fresh directory for files of one test.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("object").join(name);
    fs::remove_dir_all(&path).ok();
    fs::create_dir_all(&path).unwrap();
    path
}

/// Runs a command to its end and shows it, with what it printed, if it fails.
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The first of these programs that is installed.
fn installed(names: &[&'static str]) -> &'static str {
    let starts = |name: &&&str| {
        let mut command = Command::new(name);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    names.iter().find(starts).unwrap_or_else(|| panic!("this test needs one of {names:?}: install it"))
}

/// The crate's text with other numbers in its `.set` lines.
fn source(format: Format, changes: &[(&str, usize)]) -> String {
    let format = ["ELF", "UNWINDER"].map(|name| (name, usize::from(format == Format::Elf)));
    let kind = Kind::of(true, changes.contains(&("WINDOWS", 1)));
    let entry = [("ENTRY_STRIDE", kind.stride as usize), ("ENTRY_RETURN", kind.call() as usize + 5)];
    changes.iter().chain(&format).chain(&entry).fold(SOURCE.to_owned(), |text, (name, value)| {
        let set = format!(".set calltable_{}_{name}, ", env!("CALLTABLE_SYMBOL_VERSION"));
        let start = text.find(&set).unwrap_or_else(|| panic!("calltable.S sets no {name}"));
        let end = start + text[start..].find('\n').unwrap();
        format!("{}{set}{value}{}", &text[..start], &text[end..])
    })
}

/// The object that an assembler makes; `name` tells apart what tests that run at the same time make.
fn assemble(assembler: Assembler, format: Format, name: &str, changes: &[(&str, usize)]) -> Vec<u8> {
    let directory = directory(&format!("{name}-{assembler:?}"));
    let (text, wrapper, made) = (directory.join("table.S"), directory.join("table.rs"), directory.join("table.o"));
    // As in build.rs: only LLVM lists guard targets, and rustc sets `@feat.00` itself.
    let guard = usize::from(format == Format::Coff && !matches!(assembler, Assembler::Gas));
    let feat = usize::from(!matches!(assembler, Assembler::Rustc));
    fs::write(&text, source(format, &[changes, &[("GUARD", guard), ("FEAT", feat)]].concat())).unwrap();
    // No core library need be installed for the foreign target: nothing but the assembler's part of rustc is used.
    let attributes = match format {
        Format::Elf => "#![no_std]\nuse core::arch::global_asm;",
        Format::Coff => {
            "#![feature(no_core, rustc_attrs)]\n#![allow(internal_features)]\n#![no_core]\n\
             #[rustc_builtin_macro] macro_rules! global_asm { () => {} }\n\
             #[rustc_builtin_macro] macro_rules! include_str { () => {} }"
        }
    };
    let source = "global_asm!(include_str!(\"table.S\"), options(raw));\n";
    fs::write(&wrapper, format!("#![allow(bad_asm_style)]\n{attributes}\n{source}")).unwrap();
    let mut command = match (assembler, format) {
        (Assembler::Gas, Format::Elf) => Command::new(installed(&["gcc"])),
        (Assembler::Gas, Format::Coff) => Command::new(installed(&["x86_64-w64-mingw32-gcc"])),
        (Assembler::Clang, _) => Command::new(installed(CLANG)),
        (Assembler::Rustc, _) => Command::new(env::var_os("RUSTC").unwrap_or("rustc".into())),
    };
    match (assembler, format) {
        (Assembler::Gas, _) => &mut command,
        (Assembler::Clang, Format::Elf) => command.arg("--target=x86_64-linux-gnu"),
        (Assembler::Clang, Format::Coff) => command.arg("--target=x86_64-pc-windows-msvc"),
        (Assembler::Rustc, Format::Elf) => &mut command,
        (Assembler::Rustc, Format::Coff) => {
            command.args(["--target", "x86_64-pc-windows-msvc"]).env("RUSTC_BOOTSTRAP", "1")
        }
    };
    match assembler {
        Assembler::Rustc => command.args(["--edition=2024", "--crate-type=lib", "--emit=obj"]).arg(&wrapper),
        _ => command.arg("-c").arg(&text),
    };
    run(command.arg("-o").arg(&made));
    fs::read(made).unwrap()
}

fn parse(bytes: &[u8]) -> object::File<'_> {
    object::File::parse(bytes).unwrap()
}

/// The table and the dispatchers of an object.
fn code(object: &[u8]) -> Code {
    Code::read(&parse(object)).expect("no table, or is it renamed in asm/?")
}

/// This test's own program, into which the crate is linked.
fn executable() -> Vec<u8> {
    // The linker leaves out what nobody uses. Nothing is called: a broken entry is to be shown, not run into.
    let callback = Callback::<unsafe extern "win64" fn()>::from_ref(&|| ()).map(|callback| callback.code());
    std::hint::black_box(callback).ok();
    fs::read(env::current_exe().unwrap()).unwrap()
}

fn assert_same_code(expected: &Code, code: &Code, assembler: Assembler) {
    for (address, (a, b)) in (code.address..).zip(expected.bytes.iter().zip(&code.bytes)) {
        assert_eq!(a, b, "{assembler:?} makes another byte at {address:#x} of the section");
    }
    assert_eq!(expected.bytes.len(), code.bytes.len(), "{assembler:?} makes a section of another length");
    // Sections have other numbers in other objects.
    let portable = |code: &Code| {
        let without_section = |(field, to): (&u64, &Reference)| (*field, Reference { section: None, ..to.clone() });
        code.references.iter().map(without_section).collect::<Vec<_>>()
    };
    assert_eq!(portable(expected), portable(code), "{assembler:?} makes other relocations");
}

#[test]
fn every_assembler_makes_the_same_elf_code() {
    let [gas, clang, rustc] = [Assembler::Gas, Assembler::Clang, Assembler::Rustc]
        .map(|assembler| code(&assemble(assembler, Format::Elf, "same-elf", &[])));
    assert_same_code(&gas, &clang, Assembler::Clang);
    assert_same_code(&gas, &rustc, Assembler::Rustc);
    for assembler in [Assembler::Gas, Assembler::Clang, Assembler::Rustc] {
        let made = assemble(assembler, Format::Elf, "visibility", &[]);
        for symbol in parse(&made).symbols().filter(|symbol| symbol.is_global() && !symbol.is_weak()) {
            if symbol.name() == Ok("_GLOBAL_OFFSET_TABLE_") {
                continue; // of the linker, as what is weak is of the unwinder: GAS wants it where that is looked up
            }
            let SymbolFlags::Elf { st_other, .. } = symbol.flags() else { panic!("{symbol:?}") };
            assert_eq!(st_other & 3, elf::STV_HIDDEN, "{assembler:?}: {:?} is not hidden", symbol.name());
        }
    }
    let symbols: Vec<_> = gas.references.values().map(|to| to.symbol.rsplit('_').next().unwrap()).collect();
    assert_eq!(
        symbols,
        ["table", "contexts", "contexts", "stale", "record", "contexts", "contexts", "contexts"],
        "other names than these are left to the linker"
    );
}

/// LLVM leaves calls to the linker, and does not shorten jumps, where GAS does both; so bytes differ between the two.
#[test]
fn every_assembler_makes_the_same_coff_instructions() {
    for windows in [0, 1] {
        assert_same_coff(windows);
    }
}

fn assert_same_coff(windows: usize) {
    let name = format!("same-coff-{windows}");
    let [gas, clang, rustc] = [Assembler::Gas, Assembler::Clang, Assembler::Rustc]
        .map(|assembler| code(&assemble(assembler, Format::Coff, &name, &[("WINDOWS", windows)])));
    assert_same_code(&clang, &rustc, Assembler::Rustc);
    for (expected, function) in gas.functions.iter().zip(&clang.functions) {
        assert_eq!(expected.name, function.name, "the functions come in another order");
        let texts = |code: &Code, function: &Function| function.instructions.iter().map(|i| code.text(i)).collect();
        let (expected, texts): (Vec<_>, Vec<_>) = (texts(&gas, expected), texts(&clang, function));
        for (index, (a, b)) in expected.iter().zip(&texts).enumerate() {
            assert_eq!(a, b, "{}, instruction {index}: GAS on the left, Clang on the right", function.name);
        }
        assert_eq!(expected.len(), texts.len(), "{} has another length", function.name);
    }
}

/// By this symbol `table::locate` knows a dispatcher from what is linked after it.
#[test]
fn the_end_of_the_dispatchers_is_marked() {
    for (assembler, format) in [Assembler::Gas, Assembler::Clang, Assembler::Rustc]
        .into_iter()
        .flat_map(|a| [(a, Format::Elf), (a, Format::Coff)])
    {
        let made = assemble(assembler, format, &format!("end-{}", format as u8), &[]);
        let file = parse(&made);
        let code = code(&made);
        let end = file.symbol_by_name(TEXT_END).unwrap();
        assert_eq!(end.section_index(), Some(code.section), "{assembler:?}");
        for function in &code.functions {
            assert!(function.range.end <= end.address(), "{assembler:?}: {} lies after the end", function.name);
        }
        let rest = &code.bytes[(end.address() - code.address) as usize..];
        assert!(rest.iter().all(|byte| matches!(byte, 0 | 0x90 | 0xcc)), "{assembler:?}: code after the end");
    }
}

/// Else foreign code of a program with Control Flow Guard could call the first entry only.
#[test]
fn coff_objects_list_every_entry_as_a_guard_target() {
    let kinds = [Assembler::Clang, Assembler::Rustc].into_iter().flat_map(|assembler| [(assembler, 0), (assembler, 1)]);
    for (assembler, windows) in kinds {
        let made = assemble(assembler, Format::Coff, &format!("guard-{windows}"), &[("WINDOWS", windows)]);
        let file = parse(&made);
        let listed = marks::listed(&file, ".gfids$y");
        let all = marks::are_entries(&file, &listed, CAPACITY as u64, Kind::of(true, windows == 1).stride);
        assert!(all, "{assembler:?}: .gfids$y does not name a function at each entry, in order");
    }
}

/// COFF objects of both kinds of assembler, with their unwind data and what entries they have.
fn coff(name: &str) -> impl Iterator<Item = (Code, Vec<Unwind>, Assembler, Kind)> {
    // Not of Windows: what UEFI gets.
    let kinds = [Assembler::Gas, Assembler::Clang].into_iter().flat_map(|assembler| [(assembler, 0), (assembler, 1)]);
    kinds.map(move |(assembler, windows)| {
        let made = assemble(assembler, Format::Coff, &format!("{name}-{windows}"), &[("WINDOWS", windows)]);
        let file = parse(&made);
        let code = code(&made);
        let unwind = pdata::read(&file, &code);
        (code, unwind, assembler, Kind::of(true, windows == 1))
    })
}

#[test]
fn coff_unwind_data_covers_each_byte_once_and_describes_each_prologue() {
    for (code, unwind, assembler, kind) in coff("unwind-data") {
        let table = &code.functions[0];
        // Entries of the table are functions of their own, which share their data.
        let (entries, dispatchers) = unwind.split_at(CAPACITY);
        for (slot, entry) in (0..).zip(entries) {
            let start = table.range.start + kind.stride * slot;
            assert_eq!(entry.function, start..start + kind.stride, "{assembler:?}, slot {slot}");
            assert_eq!(entry.info, entries[0].info, "{assembler:?}, slot {slot}: data of its own");
        }
        assert_eq!(
            entries[0].codes,
            [(kind.call(), Step::Allocate(entries::FRAME))],
            "{assembler:?}: the entries' frame"
        );
        assert!(
            (entries[0].prologue, entries[0].is_armed) == (kind.call(), false),
            "{assembler:?}: the entries' prologue"
        );
        for function in &code.functions[1..] {
            let name = format!("{}, as {assembler:?} makes it,", function.name);
            for address in function.range.clone() {
                let entries = dispatchers.iter().filter(|entry| entry.function.contains(&address)).count();
                assert_eq!(entries, 1, "{name} has .pdata entries in this number for the byte at {address:#x}");
            }
            let entry = unwind.iter().find(|entry| entry.function.start == function.range.start);
            let entry = entry.unwrap_or_else(|| panic!("{name} does not begin where its .pdata entry does"));
            let steps = pdata::steps(function);
            assert_eq!(steps, entry.codes, "{name} does what is on the left, its unwind codes what is on the right");
            let end = steps.last().map_or(0, |(end, _)| *end);
            // A frame that an exception's handler reads is filled in the prologue, too.
            let is_filled = ["calltable_exclusive", "calltable_count", "calltable_contain"].contains(&&*function.name);
            assert!(
                end == entry.prologue || is_filled && end < entry.prologue,
                "{name} has a prologue of another length"
            );
        }
    }
}

/// After the prologue the unwinder reads instructions: it takes `add rsp`, pops, and `ret` or a jump out of the
/// function for an epilogue that has begun. Anything else between them, or a return address in front of them, misleads
/// it.
#[test]
fn coff_epilogues_are_what_an_unwinder_recognizes() {
    for (code, unwind, assembler, _) in coff("epilogues") {
        for function in &code.functions[1..] {
            let entry = unwind.iter().find(|entry| entry.function.start == function.range.start).unwrap();
            let steps: Vec<_> = entry.codes.iter().map(|(_, step)| step).collect();
            for (index, instruction) in function.instructions.iter().enumerate() {
                let rest = &function.instructions[index..];
                let name = format!("{assembler:?}, {} at {:#x}", function.name, instruction.ip());
                let frees = |i: &Instruction| i.mnemonic() == Mnemonic::Add && i.op0_register() == Register::RSP;
                let leaves = |i: &Instruction| match i.mnemonic() {
                    Mnemonic::Jmp => !code.target(i).starts_with(&format!("{}#", function.name)),
                    mnemonic => mnemonic == Mnemonic::Ret,
                };
                if frees(instruction) {
                    let pops = rest[1..].iter().take_while(|i| i.mnemonic() == Mnemonic::Pop);
                    let undone = pops.clone().map(|i| Step::Push(i.op0_register()));
                    let undone: Vec<_> = [Step::Allocate(instruction.immediate(1))].into_iter().chain(undone).collect();
                    let mut done = Vec::new();
                    for step in steps.iter().rev().filter(|step| !matches!(step, Step::Save(..))) {
                        match (done.last_mut(), step) {
                            (Some(Step::Allocate(all)), Step::Allocate(more)) => *all += more,
                            (_, Step::Allocate(bytes)) => done.push(Step::Allocate(*bytes)),
                            (_, Step::Push(register)) => done.push(Step::Push(*register)),
                            _ => {}
                        }
                    }
                    assert_eq!(undone, done, "{name} undoes what is on the left");
                    let last = &rest[1 + pops.count()];
                    assert!(leaves(last), "{name} begins an epilogue, but it is broken by {}", code.text(last));
                }
                // Whose handler Windows is to call is not in its epilogue.
                if instruction.mnemonic() == Mnemonic::Call && entry.is_armed {
                    let next = &rest[1];
                    let epilogue = frees(next) || matches!(next.mnemonic(), Mnemonic::Pop | Mnemonic::Ret);
                    assert!(!epilogue, "{name} returns to what looks like an epilogue: put a NOP after it");
                }
            }
        }
    }
}

/// A stack overflow comes at a store. What the handler of an exception reads must be there by then, or the handler must
/// not be called: it is not, while the function is in its prologue.
#[test]
fn frames_are_filled_before_windows_asks_about_exceptions() {
    let mut armed = Vec::new();
    for (code, unwind, assembler, _) in coff("armed") {
        for entry in unwind.iter().filter(|entry| entry.is_armed) {
            let function = code.functions.iter().find(|function| function.range.start == entry.function.start).unwrap();
            let body = function.instructions.iter().skip_while(|i| i.ip() < entry.function.start + entry.prologue);
            for instruction in body.take_while(|i| !matches!(i.mnemonic(), Mnemonic::Call | Mnemonic::Jmp)) {
                let writes = instruction.op0_kind() == OpKind::Memory;
                assert!(!writes, "{assembler:?}, {}: {} is too late", function.name, code.text(instruction));
            }
            armed.push(function.name.clone());
        }
    }
    assert_eq!(
        armed,
        ["calltable_exclusive", "calltable_count", "calltable_contain"].repeat(2),
        "functions with a handler, of two assemblers"
    );
}

#[test]
fn elf_objects_are_ready_for_cet_and_need_no_executable_stack() {
    for assembler in [Assembler::Gas, Assembler::Clang, Assembler::Rustc] {
        let made = assemble(assembler, Format::Elf, "notes", &[]);
        let file = parse(&made);
        let section = |name| file.section_by_name(name).unwrap_or_else(|| panic!("{assembler:?}: no section {name}"));
        let flags = |name| match section(name).flags() {
            SectionFlags::Elf { sh_flags } => sh_flags,
            other => panic!("{other:?}"),
        };
        assert_eq!(flags(".note.GNU-stack") & u64::from(elf::SHF_EXECINSTR), 0, "{assembler:?}: executable stack");
        let both = elf::GNU_PROPERTY_X86_FEATURE_1_IBT | elf::GNU_PROPERTY_X86_FEATURE_1_SHSTK;
        assert_eq!(
            marks::features(&file),
            Some(both),
            "{assembler:?}: not marked for branch tracking and shadow stacks"
        );
    }
}

#[test]
fn code_keeps_to_its_instruction_set() {
    use CpuidFeature::{
        CET_IBT, CET_SS, CMOV, FPU, FPU287, INTEL186, INTEL286, INTEL386, INTEL486, INTEL8086, SSE, SSE2, X64,
    };
    let integer = [INTEL8086, INTEL186, INTEL286, INTEL386, INTEL486, X64, CMOV, CET_IBT, CET_SS].to_vec();
    let baseline = [&integer[..], &[FPU, FPU287, SSE, SSE2]].concat();
    for (sse, allowed) in [(0, integer), (1, baseline)] {
        for format in [Format::Elf, Format::Coff] {
            let made = assemble(Assembler::Gas, format, &format!("set-{sse}-{}", format as u8), &[("FPU", sse)]);
            let code = code(&made);
            for (function, instruction) in
                code.functions.iter().flat_map(|f| f.instructions.iter().map(move |i| (f, i)))
            {
                let name = || format!("SSE = {sse}, {}: {}", function.name, code.text(instruction));
                let needs = instruction.cpuid_features();
                assert!(needs.iter().all(|feature| allowed.contains(feature)), "{} needs {needs:?}", name());
                let mut factory = InstructionInfoFactory::new();
                let wide = |register: Register| register.is_vector_register() || register.is_st() || register.is_mm();
                let used = factory.info(instruction).used_registers();
                let refused = sse == 0 && used.iter().any(|used| wide(used.register()));
                assert!(!refused, "{} uses {used:?}", name());
                let guarded = instruction.mnemonic() != Mnemonic::Ret || code.byte(instruction.next_ip()) == 0xcc;
                assert!(guarded, "{}: no INT3 follows at {:#x}", name(), instruction.next_ip());
            }
        }
    }
}

/// The table and the dispatchers of a linked image.
fn linked_code(image: &[u8]) -> Code {
    // Once: tests that run at the same time want it.
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    let made = MADE.get_or_init(|| assemble(Assembler::Gas, Format::Elf, "entries", &[]));
    Code::linked(&parse(image), &code(made)).expect("the image has no table, or no symbols")
}

fn assert_entries(image: &[u8]) {
    let code = linked_code(image);
    assert_eq!(entries::check(&code, CAPACITY as u64, Kind::of(true, false)), []);
    assert_jump_in_first_line(&code);
}

/// What makes calls of many handlers fast: docs/design/entry.md.
fn assert_jump_in_first_line(code: &Code) {
    let dispatch = code.functions.iter().find(|function| function.name == "calltable_dispatch").unwrap();
    let leaves = |i: &&Instruction| matches!(i.mnemonic(), Mnemonic::Jmp | Mnemonic::Call | Mnemonic::Ret);
    let jump = dispatch.instructions.iter().find(leaves).unwrap();
    assert_eq!(jump.op0_kind(), OpKind::Register, "the first branch that is always taken goes to the handler");
    let (start, end) = (dispatch.range.start, jump.next_ip());
    assert!(start % 64 == 0 && end - start <= 64, "the dispatcher starts at {start:#x}, its JMP ends at {end:#x}");
}

/// One rule describes all entries: what an unwinder reads for the last slot is no more than for the first.
#[test]
fn elf_unwind_data_does_not_grow_with_the_table() {
    for assembler in [Assembler::Gas, Assembler::Clang, Assembler::Rustc] {
        let [small, large] = [1, CAPACITY].map(|capacity| {
            let made = assemble(assembler, Format::Elf, &format!("frames-{capacity}"), &[("CAPACITY", capacity)]);
            let size = parse(&made).section_by_name(".eh_frame").unwrap().size();
            assert!(size > 0);
            size
        });
        assert_eq!(small, large, "{assembler:?}: bytes of .eh_frame for one slot and for all");
    }
}

/// The same of COFF objects, where the assembler's alignment is not yet the linker's.
#[test]
fn coff_dispatchers_jump_in_their_first_line() {
    for (code, ..) in coff("line") {
        assert_jump_in_first_line(&code);
    }
}

#[test]
fn linked_entries_have_the_right_bytes_and_call_the_dispatcher() {
    assert_entries(&executable());
}

/// What a loader that never makes writable memory executable asks of an image.
fn assert_never_writable_and_executable(image: &[u8]) {
    let file = ElfFile64::<Endianness>::parse(image).unwrap();
    let endian = file.endian();
    let table = image::table(&parse(image)).expect("the image has no table, or no symbols").address();
    let mut holds_table = false;
    for segment in file.elf_program_headers() {
        let (kind, flags, start) = (segment.p_type(endian), segment.p_flags(endian), segment.p_vaddr(endian));
        let is_writable = flags & elf::PF_W != 0;
        assert!(!(is_writable && flags & elf::PF_X != 0), "the segment at {start:#x} is writable and executable");
        if kind == elf::PT_LOAD && (start..start + segment.p_memsz(endian)).contains(&table) {
            assert!(!is_writable && flags & elf::PF_X != 0, "the table's segment has the flags {flags}");
            holds_table = true;
        }
        for entry in segment.dynamic(endian, image).unwrap().unwrap_or_default() {
            let (tag, value) = (entry.d_tag(endian), entry.d_val(endian));
            let relocates = tag == u64::from(elf::DT_TEXTREL) || tag == u64::from(elf::DT_FLAGS) && value & 4 != 0;
            assert!(!relocates, "the loader would have to write to the code: DT_TEXTREL or DF_TEXTREL is set");
        }
    }
    assert!(holds_table, "no segment holds the table");
    let flags = file.elf_header().section_headers(endian, image).unwrap();
    let flags = flags
        .iter()
        .find(|s| (s.sh_addr.get(endian)..).contains(&table) && s.sh_addr.get(endian) + s.sh_size.get(endian) > table);
    assert_eq!(flags.unwrap().sh_flags.get(endian) & u64::from(elf::SHF_WRITE), 0, "the table's section is writable");
}

#[test]
fn linked_program_has_no_writable_code_and_no_loose_ends() {
    let executable = executable();
    assert_never_writable_and_executable(&executable);
    let file = parse(&executable);
    for symbol in file.symbols().chain(file.dynamic_symbols()).filter(|symbol| symbol.is_undefined()) {
        assert!(!symbol.name().unwrap().contains("calltable"), "undefined: {:?}", symbol.name());
    }
}

/// A table that is never used costs memory, but no room in the program's file.
#[test]
fn contexts_and_registry_start_as_zeros() {
    let executable = executable();
    let file = parse(&executable);
    let statics = file.symbols().filter(|symbol| symbol.name().is_ok_and(|name| name.contains("calltable")));
    let mut zeroed = Vec::new();
    let contexts = file.symbol_by_name(CONTEXTS).unwrap();
    assert_eq!((contexts.address() % 4096, contexts.size() % 4096), (0, 0), "the contexts share a page with others");
    for symbol in statics.filter(|symbol| symbol.kind() == SymbolKind::Data) {
        let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
        let (name, size) = (symbol.name().unwrap(), symbol.size());
        match section.kind() {
            SectionKind::UninitializedData => zeroed.push((name, size)),
            _ if !name.contains("9calltable") => {} // of this test
            kind => assert!(size <= 64, "{name} takes {size} bytes of {:?}, which is {kind:?}", section.name()),
        }
    }
    for (name, least) in [(CONTEXTS, CAPACITY as u64 * CONTEXT), ("REGISTRY", CAPACITY as u64 * 4)] {
        let found = zeroed.iter().any(|(symbol, size)| symbol.contains(name) && *size >= least);
        assert!(found, "no {name} of {least} bytes or more in .bss, only {zeroed:?}");
    }
}

/// A package in a fresh directory that depends on the crate: its directory, and a command of cargo to link it. `kind`
/// are lines of its manifest.
fn package(name: &str, kind: &str, source: &str) -> (PathBuf, Command) {
    let directory = directory(name);
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = format!(
        "[package]\nname = {name:?}\nedition = \"2024\"\n{kind}\npath = \"source.rs\"\n\
         [dependencies]\ncalltable.path = {package:?}\n[workspace]\n"
    );
    fs::write(directory.join("Cargo.toml"), manifest).unwrap();
    fs::write(directory.join("source.rs"), source).unwrap();
    // The versions that were downloaded for the package itself are there without a network, too.
    fs::copy(package.join("Cargo.lock"), directory.join("Cargo.lock")).ok();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["rustc", "--offline", "--target-dir", "target"])
        .current_dir(&directory)
        .env_remove("CARGO_BUILD_TARGET");
    (directory, cargo)
}

/// The script of `linker/` that is given in addition to the linker's own.
#[test]
fn both_linkers_put_table_and_contexts_on_pages_of_their_own() {
    let source = include_str!("object/linked.rs");
    for (linker, compiler) in [("bfd", installed(&["gcc"])), ("lld", installed(CLANG))] {
        let (directory, mut cargo) = package(&format!("linked-{linker}"), "[[bin]]\nname = \"linked\"", source);
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/linker");
        run(cargo
            .args(["--", &format!("-Clinker={compiler}"), &format!("-Clink-arg=-fuse-ld={linker}")])
            .args([&format!("-Clink-arg=-L{folder}"), &format!("-Clink-arg=-Wl,-T,{folder}/calltable.ld")]));
        let program = directory.join("target/debug/linked");
        run(&mut Command::new(&program));
        let image = fs::read(program).unwrap();
        let made_by_lld = image.windows(4).any(|bytes| bytes == b"LLD ");
        assert_eq!(made_by_lld, linker == "lld", "another linker was used");
        assert_never_writable_and_executable(&image);
        assert_entries(&image);
        let file = parse(&image);
        let address = |name| file.symbol_by_name(name).unwrap().address();
        for (section, kind) in
            [(".text.calltable", SectionKind::Text), (".bss.calltable", SectionKind::UninitializedData)]
        {
            let section = file.section_by_name(section).unwrap();
            assert_eq!((section.kind(), section.address() % 4096, section.size() % 4096), (kind, 0, 0), "{linker}");
        }
        let text = address("calltable_text_start")..address("calltable_text_end");
        for function in linked_code(&image).functions {
            assert!(
                text.contains(&function.range.start) && function.range.end <= text.end,
                "{linker}: {}",
                function.name
            );
        }
    }
}

/// The fragments of `linker/` in a script of one's own, as `linker/README.md` has it, with other things around and
/// nothing that names the table.
#[test]
fn fragments_keep_table_and_contexts_on_pages_of_their_own() {
    let script = "SECTIONS {\n. = 0x100000;\n.text : {\nKEEP(*(.boot))\nINCLUDE calltable-text.ld\n*(.text .text.*)\n}\n\
                  .bss : {\n*(.bss.before)\nINCLUDE calltable-contexts.ld\n*(.bss .bss.* COMMON)\n}\n}\n";
    let source = ".section .boot, \"ax\"\n.globl _start\n_start: call after\n.long contexts, before, behind\n\
                  .section .text.calltable, \"ax\"\ntable: ret\n.section .text.after, \"ax\"\nafter: ret\n\
                  .section .bss.before, \"aw\", @nobits\nbefore: .zero 1\n\
                  .section .bss.calltable, \"aw\", @nobits\ncontexts: .zero 1\n\
                  .section .bss.behind, \"aw\", @nobits\nbehind: .zero 1\n";
    for (linker, compiler) in [("bfd", installed(&["gcc"])), ("lld", installed(CLANG))] {
        let directory = directory(&format!("fragments-{linker}"));
        fs::write(directory.join("script.ld"), script).unwrap();
        fs::write(directory.join("source.s"), source).unwrap();
        let mut command = Command::new(compiler);
        command.args(["-m64", "-nostdlib", "-static", "-no-pie", "-Wl,--gc-sections,--build-id=none,-T,script.ld"]);
        let folder = concat!("-L", env!("CARGO_MANIFEST_DIR"), "/linker");
        run(command.args([folder, &format!("-fuse-ld={linker}"), "source.s", "-o", "program"]).current_dir(&directory));
        let image = fs::read(directory.join("program")).unwrap();
        let file = parse(&image);
        let address =
            |name: &str| file.symbol_by_name(name).unwrap_or_else(|| panic!("{linker} drops {name}")).address();
        for (part, inside, around) in
            [("text", "table", ["_start", "after"]), ("contexts", "contexts", ["before", "behind"])]
        {
            let [start, end] = ["start", "end"].map(|border| address(&format!("calltable_{part}_{border}")));
            assert_eq!((start % 4096, end - start), (0, 4096), "{linker}: {part} from {start:#x} to {end:#x}");
            assert_eq!(address(inside), start, "{linker}");
            assert!(around.iter().all(|name| !(start..end).contains(&address(name))), "{linker}: {part} is not alone");
        }
    }
}

#[test]
fn shared_object_that_uses_the_crate_keeps_its_symbols_to_itself() {
    let library = "//! Calls a callback.\nuse calltable::Callback;\n/// Returns 7.\n#[unsafe(no_mangle)]\n\
                   pub extern \"C\" fn probe() -> u32 {\n    let seven = || 7;\n    let callback = \
                   Callback::<unsafe extern \"win64\" fn() -> u32>::from_ref(&seven).unwrap();\n    \
                   unsafe { callback.code()() }\n}\n";
    let (directory, mut cargo) = package("shared", "[lib]\ncrate-type = [\"cdylib\"]", library);
    run(&mut cargo);
    let path = directory.join("target/debug/libshared.so");
    let image = fs::read(&path).unwrap();
    assert_never_writable_and_executable(&image);
    let file = parse(&image);
    let names: Vec<_> = file.dynamic_symbols().map(|symbol| symbol.name().unwrap()).collect();
    assert!(names.contains(&"probe"), "the reader does not see what is exported: {names:?}");
    let leaked: Vec<_> = names.iter().filter(|name| name.contains("calltable")).collect();
    assert!(leaked.is_empty(), "these are part of the shared object's interface: {leaked:?}");
    assert_entries(&image);

    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the object's initializers are those of the Rust standard library.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null(), "the shared object does not load");
    // SAFETY: the handle is live and the name ends with a zero.
    let probe = unsafe { libc::dlsym(handle, c"probe".as_ptr()) };
    assert!(!probe.is_null());
    // SAFETY: `probe` above has this type.
    let probe = unsafe { std::mem::transmute::<*mut libc::c_void, extern "C" fn() -> u32>(probe) };
    assert_eq!(probe(), 7);
}
