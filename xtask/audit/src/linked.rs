//! The rules for linked images.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use object::pe;
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile};
use object::{LittleEndian as LE, Object, ObjectSection, ObjectSymbol};
use xtask::dist;
use xtask::suite::{folder, quietly};

use super::artefact::{Component, Members, Target, access};
use super::driver;
use super::image::{self, Code};
use super::rules::{Finding, NO_FLOATS, floating, note, table};

/// An image with all of a library, and its symbols: the shared library, or one that is linked for this alone.
pub fn image(target: &str, library: &Path, members: &Members) -> Result<PathBuf> {
    let made = Path::new(dist::FOLDER).join(target);
    if target.ends_with("-linux-gnu") {
        return Ok(made.join("lib/libcalltable.so"));
    }
    if target.ends_with("-windows-gnu") {
        return Ok(made.join("bin/calltable.dll"));
    }
    let image = folder(&format!("audit/{target}"))?.join("image");
    if target.contains("-none") {
        let mut link = Command::new("ld.lld-19");
        quietly(link.args(["-shared", "--whole-archive"]).arg(library).arg("-o").arg(&image))?;
        return Ok(image);
    }
    let mut link = Command::new("lld-link-19");
    // What C gives every program is not there; nothing runs.
    link.args(["/dll", "/noentry", "/nodefaultlib", "/force:unresolved", "/debug:symtab"]);
    for (index, (_, object)) in members.objects.iter().enumerate() {
        let file = image.with_extension(format!("{index}.o"));
        fs::write(&file, object)?;
        link.arg(file);
    }
    link.arg(library).arg(format!("/out:{}", image.display()));
    if target.ends_with("-msvc") {
        link.arg("/guard:cf,ehcont").arg(driver::compile(target, "load_config")?);
        link.args(target.starts_with("i686").then_some("/safeseh"));
    } else {
        link.arg("/subsystem:efi_application");
    }
    quietly(&mut link)?;
    Ok(image)
}

/// The rules for every image that a linker made of a component.
pub fn check(component: &Component, bytes: &[u8]) -> Result<Vec<Finding>> {
    let file = object::File::parse(bytes)?;
    let code = Code::linked(&file, &component.code).context("the image has no table, or no symbols")?;
    let mut findings = table(component.target, &file, &code, component.capacity);
    let both = file.sections().filter(|section| access(section).writes && access(section).executes);
    findings.push(Finding::nothing("writable code", both.map(|section| name_of(&section)).collect()));
    match &file {
        object::File::Pe64(pe) => findings.extend(check_pe(component, &file, pe)?),
        object::File::Pe32(pe) => findings.extend(check_pe(component, &file, pe)?),
        _ => findings.push(note(component.target, &[file])),
    }
    Ok(findings)
}

/// The rules for images of Windows: of those for MSVC the lists, of drivers all.
fn check_pe<Pe: ImageNtHeaders>(component: &Component, file: &object::File, pe: &PeFile<Pe>) -> Result<Vec<Finding>> {
    let target = component.target;
    let mut findings = Vec::new();
    if target.is_windows() && target.has_guard() {
        findings.extend(guard(component, file, Lists::read(pe, target)));
    }
    if driver::TARGETS.contains(&target.0) {
        findings.extend(check_driver(component, file, pe)?);
    }
    Ok(findings)
}

/// What the loader takes for targets of calls, of exceptions that end, for handlers: else it stops the program.
fn guard(component: &Component, file: &object::File, lists: Option<Lists>) -> Vec<Finding> {
    let target = component.target;
    let symbol = |is_it: &dyn Fn(&str) -> bool| {
        let symbols = file.symbols().filter(|symbol| symbol.is_definition());
        symbols.filter(|symbol| symbol.name().is_ok_and(is_it)).map(|symbol| symbol.address()).next()
    };
    let guarded = lists.as_ref().map(|lists| &*lists.functions).unwrap_or_default();
    let table = symbol(&image::is_table).unwrap_or(0);
    let entries = (0..component.capacity).map(|slot| table + slot * target.entries().stride);
    let unlisted = entries.filter(|entry| guarded.binary_search(entry).is_err()).count();
    let unlisted = (unlisted != 0).then(|| format!("{unlisted} entries are not listed"));
    let only = |rule, listed: &[u64], name| {
        let wanted = format!("calltable_{}_{name}", component.version);
        let wrong = listed != symbol(&|name| target.plain(name) == wanted).as_slice();
        Finding::new(rule, listed.len(), wrong.then(|| format!("{listed:x?} are listed, not {name} alone")))
    };
    let none = lists.is_none().then(|| "there is none that lists guarded calls".to_owned());
    let mut findings = vec![
        Finding::new("load configuration", usize::from(lists.is_some()), none),
        Finding::new("guard targets", guarded.len(), unlisted),
    ];
    let (continuations, handlers) = lists.map(|lists| (lists.continuations, lists.handlers)).unwrap_or_default();
    findings.push(match target.is_64() {
        true => only("EH continuation", &continuations, "resume"),
        false => only("SafeSEH", &handlers, "seh_handler"),
    });
    findings
}

/// What a driver's header must say: no data is code, it lies anywhere, it is signed, calls are guarded.
const CHARACTERISTICS: u16 = pe::IMAGE_DLLCHARACTERISTICS_NX_COMPAT
    | pe::IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE
    | pe::IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY
    | pe::IMAGE_DLLCHARACTERISTICS_GUARD_CF;

/// What drivers import from.
const KERNEL: &str = "ntoskrnl.exe";

/// Parts of names of a C run-time library's start, end, checks.
const RUNTIME: &[&str] =
    &["CRTStartup", "security_cookie", "security_check", "chkstk", "_initterm", "_tls_used", "atexit", "_RTC_"];

const PAGE: u64 = 0x1000;

/// The rules for drivers alone.
fn check_driver<Pe: ImageNtHeaders>(
    component: &Component,
    file: &object::File,
    pe: &PeFile<Pe>,
) -> Result<Vec<Finding>> {
    let target = component.target;
    let header = pe.nt_headers().optional_header();
    let table = image::table(file).context("the image has no table, or no symbols")?;

    let dlls: Vec<_> =
        pe.imports()?.iter().map(|import| String::from_utf8_lossy(import.library()).into_owned()).collect();
    let functions = dlls.len();
    let mut dlls: Vec<_> = dlls.into_iter().filter(|dll| dll != KERNEL).collect();
    dlls.dedup();
    let missing = CHARACTERISTICS & !header.dll_characteristics();
    let missing = (missing != 0).then(|| format!("the characteristics lack {missing:#x}"));
    let subsystem =
        (header.subsystem() != pe::IMAGE_SUBSYSTEM_NATIVE).then(|| "the subsystem is not native".to_owned());
    let checksum = (header.check_sum() == 0).then(|| "there is no checksum".to_owned());
    let alignment = header.section_alignment().into();

    let names = file.symbols().filter_map(|symbol| symbol.name().ok().map(str::to_owned));
    let runtime = names.filter(|name| RUNTIME.iter().any(|part| name.contains(part))).collect();

    let mut vectors = Vec::new();
    for section in file.sections().filter(|section| access(section).executes) {
        let code = section.data()?;
        let found = floating(target, code, section.address(), &BTreeMap::<u64, ()>::new());
        vectors.extend(found.into_iter().map(|at| format!("the instruction at {at:#x}")));
    }
    Ok(vec![
        Finding::new("imports", functions, dlls.into_iter().map(|dll| format!("{dll} is no part of the kernel"))),
        Finding::new("subsystem", header.subsystem(), subsystem),
        Finding::new("characteristics", format!("{:#x}", header.dll_characteristics()), missing),
        Finding::new("checksum", format!("{:#x}", header.check_sum()), checksum),
        Finding::expect("section alignment", alignment, PAGE),
        place("table's section", file, table.address(), ".text", false),
        contexts(component, file),
        Finding::nothing("C run-time", runtime),
        Finding::nothing(NO_FLOATS, vectors),
    ])
}

/// The memory of the contexts: data, on pages of its own, and never thrown away.
fn contexts(component: &Component, file: &object::File) -> Finding {
    const RULE: &str = "contexts' section";
    let wanted = format!("calltable_{}_contexts", component.version);
    let is_it = |name: &str| component.target.plain(name) == wanted;
    match file.symbols().find(|symbol| symbol.name().is_ok_and(is_it)).map(|symbol| symbol.address()) {
        Some(address) if address % PAGE != 0 => {
            Finding::new(RULE, "?", [format!("the contexts begin at {address:#x}, not on a page")])
        }
        Some(address) => place(RULE, file, address, ".data", true),
        None => Finding::new(RULE, "?", ["the image has no symbol for the contexts".to_owned()]),
    }
}

/// In which section something lies: one of that name, that stays in memory, and is either code or writable.
fn place(rule: &'static str, file: &object::File, address: u64, wanted: &str, writes: bool) -> Finding {
    let holds = |section: &object::Section| (section.address()..section.address() + section.size()).contains(&address);
    let Some(section) = file.sections().find(holds) else {
        return Finding::new(rule, "?", [format!("no section holds {address:#x}")]);
    };
    let (name, access) = (name_of(&section), access(&section));
    let is_good = name == wanted && access.is_loaded && access.writes == writes && access.executes != writes;
    let is_aligned = section.address() % PAGE == 0;
    let wrong = (!is_good || !is_aligned).then(|| format!("{name} is not as it must be: {:?}", section.flags()));
    Finding::new(rule, name, wrong)
}

fn name_of(section: &object::Section) -> String {
    section.name().unwrap_or("?").to_owned()
}

/// What the load configuration lists, as addresses.
struct Lists {
    functions: Vec<u64>,
    continuations: Vec<u64>,
    handlers: Vec<u64>,
}

impl Lists {
    /// Offsets in the structure are those of "PE Format, The Load Configuration Structure", Microsoft.
    fn read<Pe: ImageNtHeaders>(file: &PeFile<Pe>, target: Target) -> Option<Self> {
        let directory = file.data_directory(pe::IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG)?;
        let sections = file.section_table();
        let at = |address: u32| sections.pe_data_at(file.data(), address);
        let structure = at(directory.virtual_address.get(LE))?;
        let size = word(structure, 0, 4)?;
        let width = if target.is_64() { 8 } else { 4 };
        // Each entry is an address, and as many bytes more as the flags say.
        let list = |table: usize, more: u64| {
            if size < (table + 2 * width) as u64 {
                return None;
            }
            let (table, count) = (word(structure, table, width)?, word(structure, table + width, width)?);
            let base = file.relative_address_base();
            let bytes = at(table.checked_sub(base)?.try_into().ok()?)?;
            let entries = (0..count as usize).map(|entry| word(bytes, entry * (4 + more as usize), 4));
            entries.map(|entry| Some(base + entry?)).collect::<Option<Vec<_>>>()
        };
        let (handlers, functions, flags) = if target.is_64() { (96, 128, 144) } else { (64, 80, 88) };
        let flags = word(structure, flags, 4)?;
        let more = flags >> pe::IMAGE_GUARD_CF_FUNCTION_TABLE_SIZE_SHIFT & 0xf;
        (flags as u32 & pe::IMAGE_GUARD_CF_INSTRUMENTED != 0).then_some(())?;
        Some(Self {
            functions: list(functions, more)?,
            continuations: if target.is_64() { list(264, more)? } else { Vec::new() },
            handlers: if target.is_64() { Vec::new() } else { list(handlers, 0)? },
        })
    }
}

/// A number in little-endian order.
fn word(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let mut word = [0; 8];
    word[..size].copy_from_slice(bytes.get(at..at + size)?);
    Some(u64::from_le_bytes(word))
}
