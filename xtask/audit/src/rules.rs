//! The rules for the objects of a static library.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, Mnemonic, Register};
use object::{Object, ObjectSection, ObjectSymbol, elf};
use serde::Serialize;
use xtask::{NAMED_BSS_PER_SLOT, dist, text_per_slot};

use super::artefact::{Component, Target, access};
use super::image::{Code, references};
use super::{aarch64, entries, marks, unwind};

/// Rules that only report a number.
pub const NUMBERS: &[&str] = &["text of Rust", "data", "constants"];

/// What a rule has found.
#[derive(Serialize)]
pub struct Finding {
    pub rule: &'static str,
    /// What there is, in a word; none if the target has nothing of the kind.
    pub seen: Option<String>,
    /// What breaks the rule.
    pub violations: Vec<String>,
}

impl Finding {
    pub fn new(rule: &'static str, seen: impl Display, violations: impl IntoIterator<Item = String>) -> Self {
        Self { rule, seen: Some(seen.to_string()), violations: violations.into_iter().collect() }
    }

    pub fn none(rule: &'static str) -> Self {
        Self { rule, seen: None, violations: Vec::new() }
    }

    /// What must be there, and is or is not.
    pub fn expect<T: PartialEq + Display>(rule: &'static str, seen: T, wanted: T) -> Self {
        let wrong = (seen != wanted).then(|| format!("{seen}, not {wanted}"));
        Self::new(rule, seen, wrong)
    }

    /// A rule that lists what must not be.
    pub fn nothing(rule: &'static str, violations: Vec<String>) -> Self {
        Self::new(rule, violations.len(), violations)
    }
}

/// The rules of the table itself, in an object or an image: its entries, and unwind data for each instruction.
pub fn table(target: Target, file: &object::File, code: &Code, capacity: u64) -> Vec<Finding> {
    let kind = target.entries();
    let (calls, wrong) = if target.is_aarch64() {
        aarch64::check(code, capacity, kind.stride)
    } else {
        let calls = code.functions[0].instructions.iter().filter(|i| i.is_call_near()).count();
        (calls, entries::check(code, capacity, kind))
    };
    let calls = calls.to_string();
    let stride = kind.stride.to_string();
    let rules =
        ["entries", "stride", "alignment", "landing pads", "frames", "targets", "returns"].map(|rule| match rule {
            "stride" | "alignment" => (rule, &stride),
            _ => (rule, &calls),
        });
    let mut findings: Vec<_> = rules
        .into_iter()
        .map(|(rule, seen)| {
            if rule == "landing pads" && !kind.has_pad || rule == "frames" && !kind.has_frame {
                return Finding::none(rule);
            }
            let wrong = wrong.iter().filter(|(broken, _)| *broken == rule);
            Finding::new(rule, seen, wrong.map(|(_, text)| text.clone()))
        })
        .collect();
    findings.push(if target.has_unwinder() {
        let (count, bare) = unwind::coverage(target, file, code);
        Finding::new("unwind data", count, bare)
    } else {
        Finding::none("unwind data")
    });
    findings
}

/// All rules for objects.
pub fn check(component: &Component, header: &str) -> Vec<Finding> {
    let mut findings = table(component.target, component.assembled(), &component.code, component.capacity);
    findings.extend(marks(component));
    findings.extend(symbols(component, header));
    findings.extend(sections(component));
    findings.push(registers(component));
    findings
}

/// What the objects tell the linker.
fn marks(component: &Component) -> [Finding; 6] {
    let (target, file) = (component.target, component.assembled());
    let guarded = marks::listed(file, ".gfids$y");
    let all = marks::are_entries(file, &guarded, component.capacity, target.entries().stride);
    let guard = (!all).then(|| format!("{} are listed, or not each entry in order", guarded.len()));
    let names = |section| marks::listed(file, section).iter().map(name_of).collect::<Vec<_>>().join(" ");
    let versioned = |name: &str| {
        let underscore = if target.is_64() { "" } else { "_" };
        format!("{underscore}calltable_{}_{name}", component.version)
    };
    let one = |rule, section, name| {
        let (seen, wanted) = (names(section), versioned(name));
        let wrong = (seen != wanted).then(|| format!("{section} lists \"{seen}\", not {wanted}"));
        Finding::new(rule, seen.split_whitespace().count(), wrong)
    };
    let stacks = component.objects.iter().filter(|object| {
        let note = object.section_by_name(".note.GNU-stack");
        note.is_none_or(|note| access(&note).executes)
    });
    let stacks = stacks.map(|_| "an object asks for an executable stack".into()).collect();
    let feat = |wanted: u32| {
        let value = features(file).unwrap_or(0);
        Finding::expect("@feat.00", format!("{value:#x}"), format!("{wanted:#x}"))
    };
    [
        if target.has_guard() {
            Finding::new("guard targets", guarded.len(), guard)
        } else {
            Finding::none("guard targets")
        },
        match (target.has_guard() && target.is_windows(), target.is_64()) {
            (true, true) => one("EH continuation", ".gehcont$y", "resume"),
            _ => Finding::none("EH continuation"),
        },
        match (target.has_guard() && target.is_windows(), target.is_64()) {
            (true, false) => one("SafeSEH", ".sxdata", "seh_handler"),
            _ => Finding::none("SafeSEH"),
        },
        match (target.has_guard(), target.is_64()) {
            (true, true) => feat(0x4800),
            (true, false) => feat(0x801),
            _ => Finding::none("@feat.00"),
        },
        if target.is_coff() { Finding::none(NOTE) } else { note(target, &component.objects) },
        if target.is_coff() { Finding::none("executable stack") } else { Finding::nothing("executable stack", stacks) },
    ]
}

const NOTE: &str = "branches' note";

/// Whether ELF files are marked as ready for what checks branches and returns: an image is if each of its objects is.
/// (rustc's do not say that they are ready for the shadow stack of AArch64.)
pub fn note(target: Target, files: &[object::File]) -> Finding {
    let wanted: &[_] = if target.is_aarch64() {
        &[(elf::GNU_PROPERTY_AARCH64_FEATURE_1_BTI, "BTI"), (elf::GNU_PROPERTY_AARCH64_FEATURE_1_PAC, "PAC")]
    } else {
        &[(elf::GNU_PROPERTY_X86_FEATURE_1_IBT, "IBT"), (elf::GNU_PROPERTY_X86_FEATURE_1_SHSTK, "SHSTK")]
    };
    let features = files.iter().fold(!0, |all, file| all & marks::features(file).unwrap_or(0));
    let found: Vec<_> = wanted.iter().map(|(bit, name)| if features & bit != 0 { *name } else { "-" }).collect();
    let wanted: Vec<_> = wanted.iter().map(|(_, name)| *name).collect();
    Finding::expect(NOTE, found.join(" "), wanted.join(" "))
}

/// The value of `@feat.00`, which is no address.
fn features(file: &object::File) -> Option<u32> {
    let object::File::Coff(coff) = file else { return None };
    let symbol = coff.symbols().find(|symbol| symbol.name() == Ok("@feat.00"))?;
    Some(symbol.coff_symbol().value.get(object::LittleEndian))
}

fn name_of<'a>(symbol: &object::Symbol<'a, 'a>) -> &'a str {
    symbol.name().unwrap_or("?")
}

/// Parts of mangled or plain names of Rust's panics.
const PANICS: &[&str] = &[
    "core9panicking",
    "core6result13unwrap_failed",
    "core6option13unwrap_failed",
    "core6option13expect_failed",
    "core5slice5index",
    "core4cell22panic",
    "rust_begin_unwind",
    "rust_panic",
    "rust_start_panic",
    "rust_eh_personality",
    "_Unwind_RaiseException",
    "_Unwind_Resume",
];

/// Names of allocators, C's exactly, Rust's and Windows' by how they begin.
const ALLOCATORS: &[&str] = &["malloc", "calloc", "realloc", "free", "aligned_alloc", "posix_memalign"];
const ALLOCATOR_FAMILIES: &[&str] = &[
    "__rust_alloc",
    "__rust_realloc",
    "__rust_dealloc",
    "__rg_",
    "__rdl_",
    "HeapAlloc",
    "ExAllocatePool",
    "VirtualAlloc",
];

fn symbols(component: &Component, header: &str) -> [Finding; 4] {
    let target = component.target;
    let all = || component.objects.iter().flat_map(|object| object.symbols());
    let defined: BTreeSet<_> =
        all().filter(|s| s.is_global() && !s.is_undefined()).map(|s| name_of(&s).to_owned()).collect();
    // A weak symbol is not wanted: where nothing defines it, the library does without.
    let undefined = all().filter(|s| s.is_undefined() && !s.is_weak()).map(|s| name_of(&s).to_owned());
    let given = |name: &String| defined.contains(name) || component.given.contains(name);
    let undefined: BTreeSet<_> = undefined.filter(|name| !name.is_empty() && !given(name)).collect();

    let prefix = format!("calltable_{}_", component.version);
    let is_interface = |name: &str| name.starts_with("calltable_") && header.contains(&format!("{name}("));
    // A mangled name has the hash of crate and version in it. Constants that LLVM names by their value are the same in
    // everybody's objects, and linkers keep one.
    let is_named = |name: &str| {
        let plain = target.plain(name.strip_prefix(".refptr.").unwrap_or(name));
        let is_constant = name.starts_with("__xmm@") || name.starts_with("__real@");
        let is_mangled = plain.starts_with("_R") || plain.starts_with("_ZN") || name.starts_with("_R");
        plain.starts_with(&prefix)
            || is_interface(plain)
            || target.is_coff() && (is_constant || name == "@feat.00")
            || is_mangled
    };
    let unnamed = defined.iter().filter(|name| !is_named(name));
    let unnamed = unnamed.map(|name| format!("{name} is neither of the interface nor has it the prefix {prefix}"));

    let ordinary = target.ordinary();
    let of_target = dist::WANTED.iter().filter(|(part, _)| ordinary.contains(part));
    let known: BTreeSet<_> = of_target.flat_map(|(_, names)| *names).collect();
    let unknown = undefined.iter().filter(|name| !known.contains(&target.plain(name)));
    let unknown = unknown.map(|name| format!("{name} is wanted from elsewhere"));

    let names: BTreeSet<_> = all().map(|symbol| name_of(&symbol).to_owned()).collect();
    let allocates = |name: &&String| {
        let plain = target.plain(name);
        ALLOCATORS.contains(&plain) || ALLOCATOR_FAMILIES.iter().any(|family| plain.contains(family))
    };
    let panics = |name: &&String| PANICS.iter().any(|part| name.contains(part));
    [
        Finding::new("names", defined.len(), unnamed),
        Finding::new("undefined", undefined.len(), unknown),
        Finding::nothing("allocator", names.iter().filter(allocates).cloned().collect()),
        Finding::nothing("panics", names.iter().filter(panics).cloned().collect()),
    ]
}

fn sections(component: &Component) -> Vec<Finding> {
    let all = || component.objects.iter().flat_map(|object| object.sections());
    let wx = all().filter(|s| access(s).writes && access(s).executes);
    let wx = wx.map(|section| section.name().unwrap_or("?").to_owned()).collect();
    let sum = |counts: &dyn Fn(&object::Section) -> bool| all().filter(counts).map(|s| s.size()).sum::<u64>();
    let table = component.assembled().sections().filter(|s| access(s).executes).map(|s| s.size()).sum::<u64>();
    let text = sum(&|s| access(s).executes) - table;
    let per_slot = |bytes: u64| bytes as f64 / component.capacity as f64;
    let data = sum(&|s| access(s).is_loaded && access(s).writes && !access(s).is_zeros);
    let constants = sum(&|s| access(s).is_loaded && !access(s).writes && !access(s).executes);
    let bss = sum(&|s| access(s).is_loaded && access(s).is_zeros);
    // The word that children of `fork` do not keep (src/platform/linux.rs) has a page, of up to 64 KB on AArch64.
    let largest_page = if component.target.0 == "aarch64-unknown-linux-gnu" { 0x1_0000 } else { 0 };
    let bound = |rule, bytes: u64, most: f64| {
        let slot = per_slot(bytes);
        let wrong = (slot > most).then(|| format!("{bytes} bytes are {slot:.2} for each slot, more than {most}"));
        Finding::new(rule, format!("{slot:.2}"), wrong)
    };
    vec![
        Finding::nothing("writable code", wx),
        bound("text per slot", table, text_per_slot(component.target.entries().stride)),
        bound("bss per slot", bss, NAMED_BSS_PER_SLOT + largest_page as f64 / component.capacity as f64),
        Finding::new("text of Rust", text, None),
        Finding::new("data", data, None),
        Finding::new("constants", constants, None),
    ]
}

pub const NO_FLOATS: &str = "no floating point";

/// Code for kernels and firmware leaves floating-point registers alone.
fn registers(component: &Component) -> Finding {
    if component.target.has_floats() {
        return Finding::none(NO_FLOATS);
    }
    let mut wrong = Vec::new();
    for object in &component.objects {
        for section in object.sections().filter(|section| access(section).executes) {
            let fields = references(object, &section);
            let found = floating(component.target, section.data().unwrap_or_default(), section.address(), &fields);
            let name = section.name().unwrap_or("?");
            wrong.extend(found.into_iter().map(|at| format!("the instruction at {at:#x} of {name}")));
        }
    }
    Finding::nothing(NO_FLOATS, wrong)
}

/// The addresses of instructions that touch XMM or MMX registers or MXCSR; on x86_64 also x87, where i686 returns
/// floats. And the same of AArch64.
pub fn floating<T>(target: Target, code: &[u8], address: u64, fields: &BTreeMap<u64, T>) -> Vec<u64> {
    if target.is_aarch64() {
        let words = (address..).step_by(4).zip(aarch64::in_order(code));
        return words.filter(|(_, word)| aarch64::is_floating(*word)).map(|(at, _)| at).collect();
    }
    let mut factory = InstructionInfoFactory::new();
    let mut found = Vec::new();
    let bits = if target.is_64() { 64 } else { 32 };
    let mut decoder = Decoder::with_ip(bits, code, address, DecoderOptions::NONE);
    while decoder.can_decode() {
        // No instruction begins with an address: this is one of a table of jumps.
        if fields.contains_key(&decoder.ip()) {
            let next = (decoder.position() + 4).min(code.len());
            decoder.set_ip(decoder.ip() + 4);
            if decoder.set_position(next).is_err() {
                break;
            }
            continue;
        }
        let instruction = decoder.decode();
        let is_refused = |register: Register| {
            register.is_vector_register() || register.is_mm() || register.is_st() && target.is_64()
        };
        let used = factory.info(&instruction).used_registers().iter().any(|used| is_refused(used.register()));
        let control = matches!(instruction.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr);
        if used || control {
            found.push(instruction.ip());
        }
    }
    found
}
