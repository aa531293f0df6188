//! Assembles the CALL table: which file for which target, with which assembler, and with which numbers in it.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Stdio, exit};

#[path = "asm/names.rs"]
mod names;

/// A number with a name and a meaning.
type Number = (&'static str, u64, &'static str);

/// Memory that Rust and assembly share: what its fields' names begin with, and the fields in order.
type Record = (&'static str, &'static [Field]);

/// A field: its name (none if nobody asks for its offset; `SIZE` for the end), its size, and what it is.
type Field = (&'static str, Size, &'static str);

enum Size {
    Bytes(u64),
    /// As large as a pointer.
    Word,
    /// As large as the whole record of that name, one of those before.
    Of(&'static str),
}
use Size::{Bytes, Of, Word};

/// What is to be built for an architecture of the target.
pub(crate) struct Architecture {
    name: &'static str,
    pointer_width: &'static str,
    /// In `asm/`.
    file: &'static str,
    entry: Entry,
    /// On Windows.
    windows_entry: Entry,
    /// The feature of its floating-point registers.
    floats: &'static str,
    /// Programs of an operating system have others where these are lacking.
    has_older_floats: bool,
    numbers: &'static [Number],
    records: &'static [Record],
}

const ARCHITECTURES: &[Architecture] = &[X86_64, X86, AARCH64];

/// What is known of one entry of the table.
struct Entry {
    /// Bytes from one to the next.
    stride: u64,
    /// From its start to the return address that its CALL pushes; where there is no CALL, to what stands for it.
    returns: u64,
}

/// What objects of a system are like.
struct Format {
    /// As cargo calls them; none for all others.
    systems: &'static [&'static str],
    is_elf: bool,
    /// Exceptions come from the system.
    is_windows: bool,
}

const FORMATS: &[Format] = &[
    Format { systems: &["windows"], is_elf: false, is_windows: true },
    Format { systems: &["uefi", "cygwin"], is_elf: false, is_windows: false },
    Format { systems: &[], is_elf: true, is_windows: false },
];

/// The numbers that Rust and assembly share; this is the one place where they are written. The `.S` files see them
/// as `.set NAME, value`, the crate as constants in `layout`, which it checks against its types; so does
/// `tests/model`, whose build script includes this file.
const NUMBERS: &[Number] = &[
    ("STATE_POSITIONS", 0xff, "State: bits that hold the number of positions + 1."),
    ("STATE_FRAME", 0x100, "State: frame lane."),
    ("STATE_SAVE", 0x200, "State: the handler keeps no register but the stack pointer."),
    ("STATE_CONTROL", 0x1_0000, "State: the handler may change MXCSR and the x87 control word, too."),
    ("STATE_COUNTED", 0x800, "State: running calls are counted."),
    ("STATE_EXCLUSIVE", 0x1000, "State: a call is refused while another one runs."),
    ("STATE_CONTAIN", 0x2000, "State: the data begins with a filter that may end an exception of the handler."),
    ("OUTCOME_ROOM_SIZE", ROOM, "Bytes that a filter may keep for the handler that makes the result."),
];

const ROOM: u64 = 64;

/// The first words of the contexts' pages.
const CONTEXTS: Record = (
    "CONTEXTS",
    &[
        ("FIRST", Word, "Offset from the contexts' symbol of the address of the first context."),
        ("SPAN", Word, "Offset from the contexts' symbol of the bytes of entries that have a context."),
        ("SEH", Word, "Offset from the contexts' symbol of what leads to the thread's chain, 0 if there is none."),
    ],
);

/// A frame, and what a filter adds.
const OUTCOME: Record = (
    "OUTCOME",
    &[
        ("", Of("FRAME"), ""),
        ("HANDLER", Word, "Offset of the handler that makes the result in an answer."),
        ("ROOM", Bytes(ROOM), "Offset of what that handler gets as its data in an answer."),
    ],
);

/// What puts a call in the chain on 64-bit systems other than Windows.
const CHAIN_RECORD: Record = (
    "CHAIN_RECORD",
    &[
        ("", Bytes(16), "the record"),
        ("BLOCK", Bytes(8), "Offset of the thread's block in a chain record; 0 in no chain."),
        ("CONTEXT", Bytes(8), "Offset of the context in a chain record."),
        ("SIZE", Bytes(0), "Size of a chain record: what puts a call in the chain on systems other than Windows."),
    ],
);

/// A contained call that is in the chain.
const LINKED: Record = (
    "LINKED",
    &[
        ("", Of("CONTAINED"), ""),
        ("RECORD", Of("CHAIN_RECORD"), "Offset of the chain record in a linked call."),
        ("SHADOW", Bytes(8), "Offset of the shadow stack's pointer, or 0, in a linked call."),
        ("", Bytes(8), ""),
        ("SIZE", Bytes(0), "Size of a linked call, a multiple of 16."),
    ],
);

const JUMP_POSITIONS: u64 = 4;

pub(crate) const X86_64: Architecture = Architecture {
    name: "x86_64",
    pointer_width: "64",
    file: "x86_64.S",
    entry: Entry { stride: 32, returns: 13 },
    // Without a landing pad, which nobody wants there, it fits in 16 bytes.
    windows_entry: Entry { stride: 16, returns: 9 },
    floats: "sse2",
    has_older_floats: false,
    numbers: &[
        (
            "JUMP_POSITIONS",
            JUMP_POSITIONS,
            "Positions of a handler that the dispatcher jumps to; the data is the next.",
        ),
        ("ENTRY_FRAME", 8 * (JUMP_POSITIONS + 1), "Bytes of stack that an entry takes: that handler's arguments."),
        ("EXCLUSIVE_CONTEXT", 8 * (JUMP_POSITIONS + 1), "Offset of the context in the frame of an exclusive call."),
        ("MAX_POSITIONS", 64, "Argument positions of one call in the direct lane, a hidden result pointer included."),
        ("GENERATION", 1 << 24, "One generation in the state and in the word of running calls."),
        ("LAST_GENERATION", (1 << 40) - 1, "The generation that no registration gets: a slot that has it is retired."),
    ],
    records: &[
        CONTEXTS,
        (
            "CONTEXT",
            &[
                ("HANDLER", Bytes(8), "Offset of the handler in a context."),
                ("DATA", Bytes(8), "Offset of the data in a context."),
                (
                    "STATE",
                    Bytes(8),
                    "Offset of the state in a context: how to call the handler, above it the generation.",
                ),
                ("CALLS", Bytes(8), "Offset in a context of the number of running calls, above it their generation."),
                ("SIZE", Bytes(0), "Size of a context: two entries, so that the slot need not be computed."),
            ],
        ),
        (
            "FRAME",
            &[
                ("RESULT", Bytes(16), "Offset of the result in a frame."),
                ("ARGUMENTS", Bytes(8), "Offset of the pointer to the argument positions in a frame."),
                ("FLOATS", Bytes(32), "Offset of the low halves of XMM0 to XMM3 in a frame."),
                ("SIZE", Bytes(0), "Size of a frame."),
            ],
        ),
        OUTCOME,
        (
            "CONTAINED",
            &[
                ("", Of("OUTCOME"), ""),
                ("DATA", Bytes(8), "Offset of the data in a contained call."),
                ("STATE", Bytes(8), "Offset of the context's state in a contained call."),
                ("MXCSR", Bytes(4), "Offset of MXCSR as the foreign code left it in a contained call."),
                ("X87", Bytes(2), "Offset of the x87 control word as the foreign code left it in a contained call."),
                ("ASKED", Bytes(2), "Offset in a contained call of what says that its filter has been asked."),
                (
                    "FLAGS",
                    Bytes(4),
                    "Offset of the low half of RFLAGS as the foreign code left it in a contained call.",
                ),
                ("", Bytes(4), ""),
                ("SIZE", Bytes(0), "Size of a contained call."),
            ],
        ),
        CHAIN_RECORD,
        LINKED,
    ],
};

const X86: Architecture = Architecture {
    name: "x86",
    pointer_width: "32",
    file: "x86.S",
    entry: Entry { stride: 16, returns: 9 },
    windows_entry: Entry { stride: 16, returns: 9 },
    floats: "sse2",
    has_older_floats: true, // those of x87
    numbers: &[
        (
            "MAX_POSITIONS",
            128,
            "Words of arguments on the stack of one call in the direct lane, a result's address included.",
        ),
        ("GENERATION", 1 << 32, "One generation in the word of running calls."),
        ("LAST_GENERATION", (1 << 32) - 1, "The generation that no registration gets: a slot that has it is retired."),
        ("STATE_FRAMED", 0x400, "State: the dispatcher's frame has a record in the chain of SEH handlers."),
        ("STATE_DATA_ECX", 0x4000, "State: a direct handler's data goes in ECX."),
        ("STATE_DATA_EDX", 0x8000, "State: a direct handler's data goes in EDX."),
        ("STATE_HANDLER_POPS", 0x2_0000, "State: a direct handler removes its arguments."),
        ("STATE_FLOAT", 0x4_0000, "State: a frame's result is a double, for ST0."),
        ("STATE_F80", 0x8_0000, "State: a frame's result has 80 bits, for ST0."),
    ],
    records: &[
        CONTEXTS,
        (
            "CONTEXT",
            &[
                ("HANDLER", Bytes(4), "Offset of the handler in a context."),
                ("DATA", Bytes(4), "Offset of the data in a context."),
                ("STATE", Bytes(4), "Offset of the state in a context: how to call the handler."),
                ("GENERATION", Bytes(4), "Offset of the generation in a context: the state's other half."),
                ("CALLS", Bytes(8), "Offset in a context of the number of running calls, above it their generation."),
                (
                    "CLEANUP",
                    Bytes(4),
                    "Offset in a context of the number of bytes that the entry removes from the stack.",
                ),
                ("", Bytes(4), ""),
                ("SIZE", Bytes(0), "Size of a context: two entries, so that the slot need not be computed."),
            ],
        ),
        (
            "FRAME",
            &[
                ("RESULT", Bytes(12), "Offset of the result in a frame."),
                ("ARGUMENTS", Bytes(4), "Offset of the pointer to the stack words in a frame."),
                ("REGISTERS", Bytes(8), "Offset of ECX and EDX in a frame."),
                ("SIZE", Bytes(0), "Size of a frame."),
            ],
        ),
        OUTCOME,
        (
            "LOCALS", // of the dispatcher
            &[
                ("", Of("OUTCOME"), ""),
                ("RECORD", Bytes(8), "Offset of the SEH record in the locals."),
                ("X87", Bytes(4), "Offset of the x87 control word in the locals; two more bytes have the status word."),
                ("ASKED", Bytes(4), "Offset in the locals of what says that the filter has been asked."),
                ("MXCSR", Bytes(4), "Offset of MXCSR in the locals."),
                ("SHADOW", Bytes(4), "Offset of the shadow stack's pointer, or 0, in the locals; not on Windows."),
                ("FLAGS", Bytes(4), "Offset of EFLAGS as the foreign code left it in the locals."),
                ("EDI", Bytes(4), "Offset of the foreign code's EDI in the locals."),
                ("ESI", Bytes(4), "Offset of the foreign code's ESI in the locals."),
                ("EBX", Bytes(4), "Offset of the foreign code's EBX in the locals."),
                ("HANDLER", Bytes(4), "Offset of the handler in the locals."),
                ("DATA", Bytes(4), "Offset of the data in the locals."),
                ("CLEANUP", Bytes(4), "Offset of the number of bytes of arguments to remove in the locals."),
                (
                    "STATE",
                    Bytes(4),
                    "Offset in the locals of this call's flags; STATE_COUNTED as long as it is counted.",
                ),
                ("CONTEXT", Bytes(4), "Offset of the context in the locals."),
                ("ECX", Bytes(8), "Offset of ECX and EDX, as the foreign code passed them, in the locals."),
                ("SIZE", Bytes(0), "Size of the locals; EBP points to what follows them."),
            ],
        ),
        (
            "FROM_EBP", // what follows them
            &[
                ("", Bytes(4), "the caller's EBP"),
                ("GENERATION", Bytes(4), "From EBP to the context's generation, as the dispatcher found it."),
                ("ENTRY", Bytes(4), "From EBP to the return address in the entry."),
                ("CALLER", Bytes(4), "From EBP to the return address in the foreign caller."),
                ("ARGUMENTS", Bytes(0), "From EBP to the arguments on the stack."),
            ],
        ),
    ],
};

const REGISTERS: u64 = 8;
const MAX_WORDS: u64 = 64;

const AARCH64: Architecture = Architecture {
    name: "aarch64",
    pointer_width: "64",
    file: "aarch64.S",
    entry: Entry { stride: 16, returns: 12 },
    windows_entry: Entry { stride: 16, returns: 12 },
    floats: "neon",
    has_older_floats: false,
    numbers: &[
        ("REGISTERS", REGISTERS, "Registers for arguments of each class: X0 to X7, V0 to V7."),
        ("MAX_WORDS", MAX_WORDS, "Words of arguments on the stack of one call in the direct lane."),
        (
            "MAX_POSITIONS",
            REGISTERS + MAX_WORDS,
            "Places of arguments of one call in the direct lane: integer registers and words on the stack.",
        ),
        ("STATE_X18", 0x400, "State: the caller finds its X18 again."),
        ("STATE_FLAGS", 0x1_ff00, "State: all flags. (One instruction names only ones that stand side by side.)"),
        ("STATE_WORD", 0x2_0000, "State: one word of arguments on the stack; 7 bits hold the number of these."),
        ("GENERATION", 1 << 24, "One generation in the state and in the word of running calls."),
        ("LAST_GENERATION", (1 << 40) - 1, "The generation that no registration gets: a slot that has it is retired."),
    ],
    records: &[
        CONTEXTS,
        (
            "CONTEXT",
            &[
                ("HANDLER", Bytes(8), "Offset of the handler in a context; the data follows."),
                ("DATA", Bytes(8), "Offset of the data in a context."),
                (
                    "STATE",
                    Bytes(8),
                    "Offset of the state in a context: how to call the handler, above it the generation.",
                ),
                ("CALLS", Bytes(8), "Offset in a context of the number of running calls, above it their generation."),
                ("SIZE", Bytes(0), "Size of a context: two entries."),
            ],
        ),
        (
            "FRAME",
            &[
                ("RESULT", Bytes(16), "Offset of the result in a frame."),
                ("MORE_RESULTS", Bytes(48), "Offset of what may be returned in V1 to V3 in a frame, too."),
                ("ARGUMENTS", Bytes(8), "Offset of the pointer to the stack words in a frame; X8 follows."),
                ("MEMORY", Bytes(8), "Offset of X8, the address for a result in memory, in a frame."),
                ("ELEMENT", Bytes(8), "Offset of the distance in a frame's result of what V0 to V3 are loaded from."),
                ("", Bytes(8), ""),
                ("REGISTERS", Bytes(64), "Offset of X0 to X7 in a frame."),
                ("FLOATS", Bytes(128), "Offset of V0 to V7 in a frame."),
                ("SIZE", Bytes(0), "Size of a frame, a multiple of 16."),
            ],
        ),
        OUTCOME,
        (
            "CONTAINED",
            &[
                ("", Of("OUTCOME"), ""),
                ("DATA", Bytes(8), "Offset of the data in a contained call; the state follows."),
                ("STATE", Bytes(8), "Offset of the context's state in a contained call; the slot follows."),
                ("SLOT", Bytes(8), "Offset of the slot in a contained call."),
                ("ASKED", Bytes(8), "Offset in a contained call of what says that its filter has been asked."),
                ("FPCR", Bytes(8), "Offset of FPCR as the foreign code left it in a contained call."),
                ("SIZE", Bytes(0), "Size of a contained call, a multiple of 16."),
            ],
        ),
        CHAIN_RECORD,
        LINKED,
        (
            "LINK", // what each lane pushes first
            &[
                ("", Bytes(8), "X29"),
                ("CALLER", Bytes(8), "Offset of the address to return to in a link."),
                ("ENTRY", Bytes(8), "Offset of an address in the entry in a link."),
                ("", Bytes(8), ""),
                ("SIZE", Bytes(0), "Size of a link; the foreign code's arguments follow that of the outermost lane."),
            ],
        ),
    ],
};

/// All numbers for an architecture, offsets among them.
pub(crate) fn numbers(architecture: &Architecture, is_windows: bool) -> Vec<(String, u64, &'static str)> {
    let entry = if is_windows { &architecture.windows_entry } else { &architecture.entry };
    let of_entry: [Number; 2] = [
        ("ENTRY_STRIDE", entry.stride, "Bytes from one entry to the next."),
        ("ENTRY_RETURN", entry.returns, "From an entry's start to the return address that its CALL pushes."),
    ];
    let plain = of_entry.iter().chain(NUMBERS).chain(architecture.numbers);
    let mut numbers: Vec<_> = plain.map(|&(name, value, meaning)| (name.to_owned(), value, meaning)).collect();
    let word = if architecture.pointer_width == "64" { 8 } else { 4 };
    let mut sizes = Vec::new();
    for (record, fields) in architecture.records {
        let mut offset = 0;
        for (name, size, meaning) in *fields {
            if !name.is_empty() {
                numbers.push((format!("{record}_{name}"), offset, *meaning));
            }
            offset += match size {
                Bytes(bytes) => *bytes,
                Word => word,
                Of(other) => sizes.iter().find(|(name, _)| name == other).expect("a record before this one").1,
            };
        }
        sizes.push((*record, offset));
    }
    numbers
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=asm");
    println!("cargo::rerun-if-env-changed=CALLTABLE_CAPACITY");
    println!("cargo::rerun-if-env-changed=CALLTABLE_ASSEMBLER");
    println!("cargo::rustc-check-cfg=cfg(rustc_assembler)");
    println!("cargo::rustc-check-cfg=cfg(soft_float)");
    println!("cargo::rustc-check-cfg=cfg(split_state)");
    println!("cargo::rustc-check-cfg=cfg(dwarf_unwinder)");

    let capacity = capacity();
    let version = env::var("CARGO_PKG_VERSION").unwrap().replace(['.', '-', '+'], "_");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    println!("cargo::rustc-env=CALLTABLE_SYMBOL_VERSION={version}");

    if env_is("CARGO_CFG_TARGET_POINTER_WIDTH", "32") {
        // One word cannot hold the state of a context.
        println!("cargo::rustc-cfg=split_state");
    }
    let architecture = architecture();
    let system = env::var("CARGO_CFG_TARGET_OS").unwrap();
    // Rust passes floating-point numbers otherwise there than the foreign code does.
    let is_bare = matches!(system.as_str(), "none" | "uefi");
    if !has_feature(architecture.floats) && (is_bare || !architecture.has_older_floats) {
        println!("cargo::rustc-cfg=soft_float");
    }
    let is_of_system = |format: &&Format| format.systems.is_empty() || format.systems.contains(&system.as_str());
    let format = FORMATS.iter().find(is_of_system).expect("the last is for all");
    let has_unwinder = format.is_elf && !is_bare;
    if has_unwinder {
        println!("cargo::rustc-cfg=dwarf_unwinder");
    }
    let numbers = numbers(architecture, format.is_windows);
    fs::write(out.join("layout.rs"), layout_for_rust(capacity, &numbers)).unwrap();
    let (is_coff, is_i686) = (!format.is_elf, architecture.name == "x86");
    let compiler = compiler(is_coff);
    let source = ["common.S", architecture.file].map(|file| fs::read_to_string(Path::new("asm").join(file)).unwrap());
    let gnu = env_is("CARGO_CFG_TARGET_ENV", "gnu");
    // Only LLVM's assembler can list guard targets, and GNU ld would not know what to do with the list.
    let gnu_ld = gnu && !env_is("CARGO_CFG_TARGET_ABI", "llvm");
    let llvm = compiler.as_ref().is_none_or(|build| build.get_compiler().is_like_clang());
    let guard = is_coff && llvm && !gnu_ld;
    // On i686 Windows, MinGW's C++ unwinds by DWARF; on x86_64 by the system's own data, as everybody.
    let cfi = format.is_elf || (is_i686 && format.is_windows && gnu);
    let switches = [
        ("CAPACITY", capacity as u64),
        ("ELF", format.is_elf.into()),
        ("WINDOWS", format.is_windows.into()),
        ("CFI", cfi.into()),
        // Programs of a system may have what unwinds by that: then calls know when an exception ends them.
        ("UNWINDER", has_unwinder.into()),
        ("FPU", has_feature(architecture.floats).into()), // kernels are built without
        // Rust names no feature for what CET needs of an older processor: that it takes the new instructions for NOPs,
        // as those from i686 on do. FXSR came soon after; targets below i686, and processors that are asked for, lack
        // it.
        ("CET", (!is_i686 || has_feature("fxsr")).into()),
        // AArch64: atomic instructions in place of loops.
        ("LSE", has_feature("lse").into()),
        // AArch64: programs of a system may have a guarded control stack; its pointer has another name in a kernel.
        ("GCS", (!is_bare && !format.is_windows).into()),
        // AArch64: signed return addresses.
        ("PAC", signs_returns(compiler.as_ref()).into()),
        ("GUARD", guard.into()),
        ("FEAT", compiler.is_some().into()),
    ];
    // C symbols of 32-bit COFF begin with an underscore.
    let underscore = if is_coff && is_i686 { "_" } else { "" };
    let text = names::versioned(&(layout_for_assembler(&switches, &numbers) + &source.concat()), &version, underscore);
    let assembled = out.join("calltable.S");
    fs::write(&assembled, text).unwrap();

    match compiler {
        Some(build) => assemble(build, &assembled, &format!("calltable_{version}")),
        None => println!("cargo::rustc-cfg=rustc_assembler"),
    }
}

/// Ends the build with what its user is to read.
fn fail(message: &str) -> ! {
    for line in message.lines() {
        println!("cargo::error={line}");
    }
    exit(0); // or cargo would show all that was printed here once more
}

/// The row for the target, if that has the object format and the pointers that the table is for.
fn architecture() -> &'static Architecture {
    let fits = |architecture: &&Architecture| {
        env_is("CARGO_CFG_TARGET_ARCH", architecture.name)
            && env_is("CARGO_CFG_TARGET_POINTER_WIDTH", architecture.pointer_width)
            && !env_is("CARGO_CFG_TARGET_VENDOR", "apple")
            && !env_is("CARGO_CFG_TARGET_ENDIAN", "big")
    };
    ARCHITECTURES.iter().find(fits).unwrap_or_else(|| {
        // As in src/entry.rs.
        fail(&format!(
            "calltable has no CALL table for the target {}: it has one for x86_64 (not x32), x86 and aarch64 \
             (little-endian), in ELF and COFF objects, which are those of Windows, UEFI, bare machines and all \
             Unix-like systems but Apple's",
            env::var("TARGET").unwrap()
        ))
    })
}

/// Has a C compiler make the library. If it fails, so does the build, with what the compiler said.
fn assemble(mut build: cc::Build, file: &Path, library: &str) {
    let Err(error) = build.file(file).try_compile(library) else { return };
    let mut again = build.get_compiler().to_command();
    let said = again.arg("-c").arg(file).arg("-o").arg(file.with_extension("o")).output();
    let said = said.map_or_else(|error| error.to_string(), |out| String::from_utf8_lossy(&out.stderr).into_owned());
    fail(&format!(
        "the C compiler has not assembled the CALL table of calltable:\n{said}\n({error})\n\
         Set CALLTABLE_ASSEMBLER=rustc to have Rust's own assembler do it, or name another C compiler in CC."
    ));
}

/// The features by which libraries ask for so many slots: `slots-4000` and so on.
const SLOTS: [usize; 5] = [4000, 8000, 16000, 32000, 65536];

/// The number of slots: `CALLTABLE_CAPACITY`; else the largest number that a library asks for; else 2000.
///
/// Whoever sets the variable builds the program. To make the table smaller than a library wishes is allowed: it is the
/// only way, since nobody can take back a feature, and a slot that is missing later is an error that says so.
fn capacity() -> usize {
    let is_asked = |slots: &usize| env::var_os(format!("CARGO_FEATURE_SLOTS_{slots}")).is_some();
    let asked = SLOTS.into_iter().filter(is_asked).max();
    let Some(text) = env::var("CALLTABLE_CAPACITY").ok().filter(|text| !text.is_empty()) else {
        return asked.unwrap_or(2000);
    };
    let capacity = match text.parse() {
        Ok(capacity @ 1..=65536) => capacity,
        _ => fail(&format!("CALLTABLE_CAPACITY must be a whole number from 1 to 65536, not {text:?}")),
    };
    if let Some(asked) = asked.filter(|asked| *asked > capacity && !SLOTS.iter().all(is_asked)) {
        // (All of them at once are no library's wish, but cargo's --all-features.)
        println!(
            "cargo::warning=CALLTABLE_CAPACITY={capacity} makes fewer slots than a library asks for by calltable's \
             feature slots-{asked}: its registrations may fail"
        );
    }
    capacity
}

/// The C compiler that assembles the file; none where rustc's own assembler is to do it: when
/// `CALLTABLE_ASSEMBLER=rustc` says so, where the compiler takes no `.S` (MSVC), or where there is no compiler that
/// makes objects of the target's format.
fn compiler(is_coff: bool) -> Option<cc::Build> {
    let choice = env::var("CALLTABLE_ASSEMBLER").ok();
    match choice.as_deref() {
        Some("rustc") => return None,
        None | Some("cc") => {}
        Some(other) => fail(&format!("CALLTABLE_ASSEMBLER must be `cc` or `rustc`, not {other:?}")),
    }
    let mut build = cc::Build::new();
    build.cargo_warnings(false); // what matters is said in `assemble`
    let works = build.try_get_compiler().is_ok_and(|tool| {
        let answers =
            |flag| tool.to_command().arg(flag).stderr(Stdio::null()).output().is_ok_and(|out| out.status.success());
        let makes_coff = || {
            let machine = tool.to_command().arg("-dumpmachine").output();
            machine.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("mingw"))
        };
        !tool.is_like_msvc() && answers("--version") && (!is_coff || tool.is_like_clang() || makes_coff())
    });
    if !works && choice.is_some() {
        fail("CALLTABLE_ASSEMBLER=cc, but no C compiler for this target takes .S files: name one in CC, or unset it");
    }
    works.then_some(build)
}

/// Whether the build asks for signed return addresses: Rust by `-Zbranch-protection`, C by `-mbranch-protection`.
fn signs_returns(compiler: Option<&cc::Build>) -> bool {
    let rust = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let c = compiler.map(|build| build.get_compiler().args().to_vec()).unwrap_or_default();
    let flags = rust.split('\x1f').chain(c.iter().filter_map(|flag| flag.to_str()));
    let mut asked =
        flags.filter_map(|flag| flag.split_once("branch-protection=")).flat_map(|(_, asked)| asked.split([',', '+']));
    asked.any(|part| matches!(part, "pac-ret" | "standard"))
}

fn env_is(name: &str, value: &str) -> bool {
    env::var(name).is_ok_and(|found| found == value)
}

pub(crate) fn layout_for_rust(capacity: usize, numbers: &[(String, u64, &str)]) -> String {
    let mut text = format!("/// Number of slots.\npub const CAPACITY: usize = {capacity};\n");
    for (name, value, meaning) in numbers {
        // These two are of 64-bit words on all targets.
        let ty = if matches!(name.as_str(), "GENERATION" | "LAST_GENERATION") { "u64" } else { "usize" };
        writeln!(text, "/// {meaning}\npub const {name}: {ty} = {value};").unwrap();
    }
    text
}

fn layout_for_assembler(switches: &[(&str, u64)], numbers: &[(String, u64, &str)]) -> String {
    let mut text = String::new();
    let numbers = numbers.iter().map(|(name, value, _)| (name.as_str(), *value));
    // Wider numbers are for Rust alone: not every assembler takes them.
    let narrow = numbers.filter(|(_, value)| u32::try_from(*value).is_ok());
    for (name, value) in switches.iter().copied().chain(narrow) {
        writeln!(text, ".set {name}, {value}").unwrap();
    }
    text
}

/// Whether the target's code may use what the processors of a feature have.
fn has_feature(name: &str) -> bool {
    env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default().split(',').any(|feature| feature == name)
}
