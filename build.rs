//! Assembles the CALL table: which file for which target, with which assembler, and with which numbers in it.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Numbers with a name and a meaning.
type Layout = &'static [(&'static str, usize, &'static str)];

/// Target architecture, file in `asm/`, and the numbers of that architecture.
const FILES: &[(&str, &str, Layout)] = &[("x86_64", "x86_64.S", X86_64), ("x86", "x86.S", X86)];

/// The numbers that Rust and assembly share; this is the one place where they are written. The `.S` files see them
/// as `.set NAME, value`, the crate as constants in `context::layout`, which it checks against its types; so does
/// `tests/model`, whose build script includes this file.
pub(crate) const SHARED: Layout = &[
    ("MAX_POSITIONS", 32, "Argument positions of one call, a hidden result pointer included; on i686, words."),
    ("ENTRY_STRIDE", 16, "Bytes from one entry to the next."),
    ("ENTRY_RETURN", 9, "From an entry's start to the return address that its CALL pushes."),
    ("CONTEXT_SIZE", 32, "Size of a context: two entries, so that the slot need not be computed."),
    ("CONTEXT_HANDLER", 0, "Offset of the handler in a context."),
    ("STATE_POSITIONS", 0x3f, "State: bits that hold the number of positions + 1."),
    ("STATE_FRAME", 0x40, "State: frame lane."),
    ("STATE_SAVE", 0x80, "State: the handler keeps no register but the stack pointer."),
    ("STATE_CONTROL", 0x100, "State: the handler may change MXCSR and the x87 control word, too."),
    ("STATE_COUNTED", 0x200, "State: running calls are counted."),
    ("STATE_EXCLUSIVE", 0x400, "State: a call is refused while another one runs."),
    ("STATE_CONTAIN", 0x8000, "State: the data begins with a filter that may end an exception of the handler."),
    ("STATE_GENERATION", 0x1_0000, "State: one generation; the bits below say how to call, 0 when not live."),
    ("FRAME_RESULT", 0, "Offset of the result in a frame."),
    ("ANSWER_ROOM_SIZE", 64, "Bytes that a filter may keep for the handler that makes the result."),
];

pub(crate) const X86_64: Layout = &[
    ("CONTEXTS_SEH", 8, "Offset from the contexts' symbol of how the thread's chain is found, 0 if there is none."),
    ("CONTEXT_DATA", 8, "Offset of the data in a context."),
    ("CONTEXT_STATE", 16, "Offset of the state in a context."),
    ("CONTEXT_IN_FLIGHT", 24, "Offset of the count of running calls in a context."),
    ("FRAME_SIZE", 56, "Size of a frame."),
    ("FRAME_ARGUMENTS", 16, "Offset of the pointer to the argument positions in a frame."),
    ("FRAME_FLOATS", 24, "Offset of the low halves of XMM0 to XMM3 in a frame."),
    ("ANSWER_HANDLER", 56, "Offset of the handler that makes the result in an answer, which begins with a frame."),
    ("ANSWER_ROOM", 64, "Offset of what that handler gets as its data in an answer."),
    ("CONTAINED_DATA", 128, "Offset of the data in a contained call, which begins with an answer."),
    ("CONTAINED_STATE", 136, "Offset of the context's state in a contained call."),
    ("CONTAINED_MXCSR", 144, "Offset of MXCSR as the foreign code left it in a contained call."),
    ("CONTAINED_X87", 148, "Offset of the x87 control word as the foreign code left it in a contained call."),
    ("CONTAINED_ASKED", 150, "Offset in a contained call of what says that its filter has been asked."),
    ("CONTAINED_SIZE", 152, "Size of a contained call."),
    ("LINK_BLOCK", 16, "Offset of the thread's block in a link, which begins with a record; 0 in no chain."),
    ("LINK_CONTEXT", 24, "Offset of the context in a link."),
    ("LINK_SIZE", 32, "Size of a link: what puts a call in the chain outside of Windows."),
    ("LINKED_LINK", 152, "Offset of the link in a linked call, which begins with a contained call."),
    ("LINKED_SHADOW", 184, "Offset of the shadow stack's pointer, or 0, in a linked call."),
    ("LINKED_SIZE", 192, "Size of a linked call."),
];

const X86: Layout = &[
    ("CONTEXTS_SEH", 4, "Offset from the contexts' symbol of the dispatcher's SEH handler, 0 if there is no chain."),
    ("CONTEXT_DATA", 4, "Offset of the data in a context."),
    ("CONTEXT_STATE", 8, "Offset of the state in a context."),
    ("CONTEXT_IN_FLIGHT", 12, "Offset of the count of running calls in a context."),
    ("CONTEXT_CLEANUP", 20, "Offset of the number of bytes that the entry removes from the stack in a context."),
    ("STATE_DATA_ECX", 0x800, "State: a direct handler's data goes in ECX."),
    ("STATE_DATA_EDX", 0x1000, "State: a direct handler's data goes in EDX."),
    ("STATE_HANDLER_POPS", 0x2000, "State: a direct handler removes its arguments."),
    ("STATE_FLOAT", 0x4000, "State: a frame's result is a double, for ST0."),
    ("FRAME_SIZE", 20, "Size of a frame."),
    ("FRAME_ARGUMENTS", 8, "Offset of the pointer to the stack words in a frame."),
    ("FRAME_REGISTERS", 12, "Offset of ECX and EDX in a frame."),
    ("ANSWER_HANDLER", 20, "Offset of the handler that makes the result in an answer, which begins with a frame."),
    ("ANSWER_ROOM", 24, "Offset of what that handler gets as its data in an answer."),
    ("LOCALS_RECORD", 88, "Offset of the SEH record in the dispatcher's locals, which begin with an answer."),
    ("LOCALS_X87", 96, "Offset of the x87 control word in the locals."),
    ("LOCALS_ASKED", 98, "Offset in the locals of what says that the filter has been asked."),
    ("LOCALS_MXCSR", 100, "Offset of MXCSR in the locals."),
    ("LOCALS_SHADOW", 104, "Offset of the shadow stack's pointer, or 0, in the locals; not on Windows."),
    ("LOCALS_EDI", 108, "Offset of the foreign code's EDI in the locals."),
    ("LOCALS_ESI", 112, "Offset of the foreign code's ESI in the locals."),
    ("LOCALS_EBX", 116, "Offset of the foreign code's EBX in the locals."),
    ("LOCALS_HANDLER", 120, "Offset of the handler in the locals."),
    ("LOCALS_DATA", 124, "Offset of the data in the locals."),
    ("LOCALS_CLEANUP", 128, "Offset of the number of bytes of arguments to remove in the locals."),
    ("LOCALS_STATE", 132, "Offset in the locals of the flags for this call; STATE_COUNTED as long as it is counted."),
    ("LOCALS_CONTEXT", 136, "Offset of the context in the locals."),
    ("LOCALS_ECX", 140, "Offset of ECX and EDX, as the foreign code passed them, in the locals."),
    ("LOCALS_SIZE", 148, "Size of the locals; EBP points behind them."),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=asm");
    println!("cargo::rerun-if-env-changed=CALLTABLE_CAPACITY");
    println!("cargo::rerun-if-env-changed=CALLTABLE_ASSEMBLER");
    println!("cargo::rustc-check-cfg=cfg(rustc_assembler)");

    let capacity = capacity();
    let version = env::var("CARGO_PKG_VERSION").unwrap().replace(['.', '-', '+'], "_");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    println!("cargo::rustc-env=CALLTABLE_SYMBOL_VERSION={version}");

    let target = env::var("CARGO_CFG_TARGET_ARCH").unwrap();
    let known = FILES.iter().find(|(arch, ..)| *arch == target);
    let (_, file, own) = known.unwrap_or_else(|| panic!("calltable has no CALL table for the architecture {target}"));
    let layout: Vec<_> = SHARED.iter().chain(*own).collect();
    fs::write(out.join("layout.rs"), layout_for_rust(capacity, &layout)).unwrap();
    let is_coff = matches!(env::var("CARGO_CFG_TARGET_OS").unwrap().as_str(), "windows" | "uefi" | "cygwin");
    let compiler = compiler(is_coff);
    let source = fs::read_to_string(Path::new("asm").join(file)).unwrap();
    let windows = env_is("CARGO_CFG_TARGET_OS", "windows");
    let gnu = env_is("CARGO_CFG_TARGET_ENV", "gnu");
    // Only LLVM's assembler can list guard targets, and GNU ld would not know what to do with the list.
    let gnu_ld = gnu && !env_is("CARGO_CFG_TARGET_ABI", "llvm");
    let llvm = compiler.as_ref().is_none_or(|build| build.get_compiler().is_like_clang());
    let guard = is_coff && llvm && !gnu_ld;
    // On i686 Windows, MinGW's C++ unwinds by DWARF; on x86_64 by the system's own data, as everybody.
    let cfi = !is_coff || (target == "x86" && windows && gnu);
    // C symbols of 32-bit COFF begin with an underscore.
    let version_in_symbols = source.replace("VERSION", &version);
    let source = if is_coff && target == "x86" {
        version_in_symbols.replace(&format!("calltable_{version}"), &format!("_calltable_{version}"))
    } else {
        version_in_symbols
    };
    let switches = [
        ("CAPACITY", capacity),
        ("ELF", (!is_coff).into()),
        ("WINDOWS", windows.into()),
        ("CFI", cfi.into()),
        ("SSE", has_sse().into()),
        ("GUARD", guard.into()),
        ("FEAT", compiler.is_some().into()),
    ];
    let text = layout_for_assembler(&switches, &layout) + &source;
    let assembled = out.join("calltable.S");
    fs::write(&assembled, text).unwrap();

    match compiler {
        Some(mut build) => {
            build.file(&assembled).compile(&format!("calltable_{version}"));
        }
        None => println!("cargo::rustc-cfg=rustc_assembler"),
    }
}

/// The number of slots: `CALLTABLE_CAPACITY`, else 2000.
fn capacity() -> usize {
    let Ok(text) = env::var("CALLTABLE_CAPACITY") else { return 2000 };
    match text.parse() {
        Ok(capacity @ 1..=65536) => capacity,
        _ => panic!("CALLTABLE_CAPACITY must be a whole number from 1 to 65536, not {text:?}"),
    }
}

/// The C compiler that assembles the file; none where rustc's own assembler is to do it: when
/// `CALLTABLE_ASSEMBLER=rustc` says so, where the compiler takes no `.S` (MSVC), or where there is no compiler that
/// makes objects of the target's format.
fn compiler(is_coff: bool) -> Option<cc::Build> {
    let choice = env::var("CALLTABLE_ASSEMBLER").ok();
    match choice.as_deref() {
        Some("rustc") => return None,
        None | Some("cc") => {}
        Some(other) => panic!("CALLTABLE_ASSEMBLER must be `cc` or `rustc`, not {other:?}"),
    }
    let mut build = cc::Build::new();
    build.cargo_warnings(choice.is_some());
    let works = build.try_get_compiler().is_ok_and(|tool| {
        let answers =
            |flag| tool.to_command().arg(flag).stderr(Stdio::null()).output().is_ok_and(|out| out.status.success());
        let makes_coff = || {
            let machine = tool.to_command().arg("-dumpmachine").output();
            machine.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("mingw"))
        };
        !tool.is_like_msvc() && answers("--version") && (!is_coff || tool.is_like_clang() || makes_coff())
    });
    assert!(works || choice.is_none(), "CALLTABLE_ASSEMBLER=cc, but no C compiler for this target takes .S files");
    works.then_some(build)
}

fn env_is(name: &str, value: &str) -> bool {
    env::var(name).is_ok_and(|found| found == value)
}

pub(crate) fn layout_for_rust(capacity: usize, layout: &[&(&str, usize, &str)]) -> String {
    let mut text = format!("/// Number of slots.\npub const CAPACITY: usize = {capacity};\n");
    for (name, value, meaning) in layout {
        writeln!(text, "/// {meaning}\npub const {name}: usize = {value};").unwrap();
    }
    text
}

fn layout_for_assembler(switches: &[(&str, usize)], layout: &[&(&str, usize, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in switches.iter().copied().chain(layout.iter().map(|(name, value, _)| (*name, *value))) {
        writeln!(text, ".set {name}, {value}").unwrap();
    }
    text
}

/// Whether the target's code may touch XMM registers; kernels are built without.
fn has_sse() -> bool {
    env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default().split(',').any(|feature| feature == "sse2")
}
