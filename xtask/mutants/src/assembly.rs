//! Mutants of `asm/`: an instruction or a line of unwind data is left out, or has another register, number or
//! condition. Test programs are linked again with the mutant, which takes a fraction of a second, and run until one
//! fails.
//!
//! Linux sees what is for ELF, with SSE, on both widths; lines under `.if WINDOWS` and the like are left out.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use xtask::suite::{cargo, cargo_for, quietly, variable};
use xtask::tools::Shard;

use super::{Report, names};

/// What stands before the text of every architecture.
const COMMON: &str = include_str!("../../../asm/common.S");

/// A test that takes longer hangs: none needs a fifth of that, but for the slow ones, which have more.
const PATIENCE: Duration = Duration::from_secs(10);
const SLOW: [&str; 2] = ["unwind", "interleave"];

/// What sees mistakes in unwind data, and is asked about them first.
const UNWINDERS: [&str; 2] = ["unwind", "unwind_x86"];

/// So many slots that a test can fill the table, and so few that the file is assembled at once.
const CAPACITY: &str = "64";

struct Target {
    file: &'static str,
    triple: &'static str,
    /// Bytes of an address.
    word: u64,
    /// The quickest first.
    tests: &'static [&'static str],
    assembler: &'static [&'static str],
}

const TARGETS: [Target; 2] = [
    Target {
        file: "asm/x86_64.S",
        triple: "x86_64-unknown-linux-gnu",
        word: 8,
        tests: &[
            "registers",
            "signatures",
            "results",
            "stale",
            "seh",
            "sealed",
            "table",
            "corpus",
            "unwind",
            "interleave",
            "passing",
        ],
        assembler: &["-m64"],
    },
    Target {
        file: "asm/x86.S",
        triple: "i686-unknown-linux-gnu",
        word: 4,
        tests: &["registers", "signatures", "results", "stale", "seh", "sealed", "table", "unwind_x86", "passing"],
        assembler: &["-m32"],
    },
];

/// Names that the build script gives to the assembler as switches, as they are on Linux.
const SWITCHES: [(&str, bool); 8] = [
    ("ELF", true),
    ("CFI", true),
    ("UNWINDER", true),
    ("FPU", true),
    ("CET", true),
    ("FEAT", true),
    ("WINDOWS", false),
    ("GUARD", false),
];

/// One line, and what stands there instead; nothing if the line is left out.
#[derive(Debug, PartialEq, Eq)]
struct Mutant {
    line: usize,
    text: String,
    instead: String,
}

pub fn run(shard: Shard, file: &str) -> Result<Vec<(&'static str, Report)>> {
    TARGETS
        .iter()
        .filter(|target| target.file.contains(file))
        .map(|target| Ok((target.file, run_target(target, shard)?)))
        .collect()
}

fn run_target(target: &Target, shard: Shard) -> Result<Report> {
    let bench = Bench::prepare(target)?;
    let source = fs::read_to_string(target.file)?;
    if let Some(test) = bench.caught_by(&source, false)? {
        bail!("{}: {test} fails without any mistake", target.file);
    }
    let mut report = Report::default();
    for mutant in mutants_of(&source, target.word).into_iter().skip(shard.index).step_by(shard.count) {
        let lines = source.lines().enumerate();
        let text: String =
            lines.flat_map(|(line, text)| [if line == mutant.line { &mutant.instead } else { text }, "\n"]).collect();
        let instead = if mutant.instead.is_empty() { "nothing" } else { &mutant.instead };
        let name = format!("{}: {} -> {instead}", target.file, mutant.text);
        match bench.caught_by(&text, mutant.text.contains(".cfi_"))? {
            Some(test) => {
                println!("    {}: {name}: {test}", mutant.line + 1);
                report.caught += 1;
            }
            None => report.survivor(&name),
        }
    }
    Ok(report)
}

/// Test programs that are ready to be linked.
struct Bench {
    folder: PathBuf,
    /// What the build script puts before the source, by the names that the source has for it.
    numbers: String,
    version: String,
    assembler: &'static [&'static str],
    /// Name and the linker's arguments, in the order in which they are tried.
    programs: Vec<(&'static str, Vec<String>)>,
}

impl Bench {
    /// Builds the test programs by a linker that keeps what it is given.
    fn prepare(target: &Target) -> Result<Self> {
        let folder = std::env::current_dir()?.join("target/mutants").join(target.triple);
        let kept = folder.join("linked");
        fs::remove_dir_all(&kept).ok();
        fs::create_dir_all(&kept)?;
        let linker = folder.join("linker");
        fs::write(&linker, LINKER.replace("KEPT", kept.to_str().context("the path is not UTF-8")?))?;
        quietly(Command::new("chmod").arg("+x").arg(&linker))?;
        let mut build = if target.triple.starts_with("x86_64") {
            let mut cargo = cargo();
            cargo.args(["test", "--target", target.triple]);
            cargo
        } else {
            cargo_for(target.triple, "test", "")?
        };
        build.args(["--no-run", "--package=calltable", "--package=calltable-capi", "--features=calltable/std"]);
        build.arg("--target-dir").arg(folder.join("build"));
        build.args(target.tests.iter().map(|test| format!("--test={test}")));
        build.env(variable(target.triple, "LINKER"), &linker).env("CALLTABLE_CAPACITY", CAPACITY);
        build.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_DEV_INCREMENTAL", "false");
        // Else cargo would find the programs linked already.
        for program in fs::read_dir(folder.join("build").join(target.triple).join("debug/deps")).into_iter().flatten() {
            let path = program?.path();
            let is_test = |test: &&str| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(*test));
            if path.extension().is_none() && target.tests.iter().any(is_test) {
                fs::remove_file(path)?;
            }
        }
        quietly(&mut build)?;
        let mut programs = HashMap::new();
        for entry in fs::read_dir(&kept)? {
            let path = entry?.path().join("arguments");
            let name = path.parent().and_then(Path::file_name).context("a folder")?.to_string_lossy().into_owned();
            let name = name.rsplit_once('-').context("a name with a hash")?.0.to_owned();
            programs.insert(name, fs::read_to_string(path)?.lines().map(str::to_owned).collect::<Vec<_>>());
        }
        let programs: Option<Vec<_>> = target.tests.iter().map(|test| Some((*test, programs.remove(*test)?))).collect();
        let programs: Vec<(_, Vec<String>)> = programs.context("not every test was linked")?;

        // The build script's folder is among those that the linker searches.
        let (_, arguments) = programs.first().context("no test")?;
        let written =
            arguments.iter().map(|argument| Path::new(argument).join("calltable.S")).find(|path| path.exists());
        let written = fs::read_to_string(written.context("no calltable.S was written")?)?;
        let version = written.split_once(".globl calltable_").and_then(|(_, rest)| rest.split_once("_table"));
        let version = version.context("no version")?.0.to_owned();
        let numbers = written.lines().take_while(|line| line.starts_with(".set ")).flat_map(|line| [line, "\n"]);
        let numbers = numbers.collect::<String>().replace(&format!("calltable_{version}_"), "");
        Ok(Self { folder, numbers, version, assembler: target.assembler, programs })
    }

    /// The test that sees what is wrong with the source; or the assembler or linker.
    fn caught_by(&self, source: &str, is_unwind_data: bool) -> Result<Option<&'static str>> {
        let source = names::versioned(&[&self.numbers, COMMON, source].concat(), &self.version, "");
        let (file, object) = (self.folder.join("mutant.S"), self.folder.join("mutant.o"));
        fs::write(&file, source)?;
        if !succeeds(Command::new("cc").args(self.assembler).arg("-c").arg(&file).arg("-o").arg(&object), PATIENCE)? {
            return Ok(Some("assembler"));
        }
        let (unwinders, others): (Vec<_>, Vec<_>) =
            self.programs.iter().partition(|(name, _)| is_unwind_data && UNWINDERS.contains(name));
        for (name, arguments) in unwinders.into_iter().chain(others) {
            let program = self.folder.join(name);
            // Before the library, whose own object is not wanted then.
            let mut linker = Command::new("cc");
            linker.arg(&object).args(arguments).arg("-o").arg(&program);
            if !succeeds(&mut linker, PATIENCE)? {
                return Ok(Some("linker"));
            }
            let patience = if SLOW.contains(name) { 6 * PATIENCE } else { PATIENCE };
            if !succeeds(Command::new(&program).arg("-q"), patience)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}

/// Keeps a folder with the linker's inputs for each program, since rustc and cargo throw most of them away.
const LINKER: &str = r#"#!/bin/sh
name=
for argument; do
    [ "$name" = next ] && name=$(basename "$argument")
    [ "$argument" = -o ] && name=next
done
mkdir -p "KEPT/$name"
skip=
for argument; do
    if [ "$argument" = -o ]; then skip=1; continue; fi
    if [ -n "$skip" ]; then skip=; continue; fi
    case "$argument" in
    *.o | *.rlib | *.a) [ -f "$argument" ] && cp "$argument" "KEPT/$name/" && argument="KEPT/$name/$(basename "$argument")" ;;
    esac
    printf '%s\n' "$argument"
done > "KEPT/$name/arguments"
exec cc "$@"
"#;

/// Whether the command ends well, and in time.
fn succeeds(command: &mut Command, patience: Duration) -> Result<bool> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = loop {
        match quiet.spawn() {
            // A process that was being started meanwhile has the program open that the linker wrote.
            Err(busy) if busy.kind() == ErrorKind::ExecutableFileBusy && start.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => break Killed(other.with_context(|| format!("{command:?}"))?),
        }
    };
    loop {
        if let Some(status) = child.0.try_wait()? {
            return Ok(status.success());
        }
        if start.elapsed() > patience {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A process that does not outlive us.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// All mutants, in the order of the file.
fn mutants_of(source: &str, width: u64) -> Vec<Mutant> {
    let mut conditions: Vec<bool> = Vec::new();
    let mut mutants = Vec::new();
    for (line, text) in source.lines().enumerate() {
        let code = text.split("//").next().unwrap_or_default().trim_end();
        let bare = code.trim_start();
        let word = bare.split_whitespace().next().unwrap_or_default();
        match word {
            ".if" => conditions.push(holds(&bare[3..])),
            ".ifeq" => conditions.push(!holds(&bare[5..])),
            ".else" => {
                if let Some(condition) = conditions.last_mut() {
                    *condition = !*condition;
                }
            }
            ".endif" => drop(conditions.pop()),
            _ if conditions.iter().all(|condition| *condition) => {
                for instead in instead_of(bare, width) {
                    mutants.push(Mutant { line, text: squeezed(bare), instead: squeezed(&instead) });
                }
            }
            _ => {}
        }
    }
    mutants
}

/// Whether a condition holds on Linux. What a macro is given may be either.
fn holds(condition: &str) -> bool {
    condition.split('&').all(|name| {
        let name = name.trim();
        SWITCHES.iter().find(|(switch, _)| *switch == name).is_none_or(|(_, holds)| *holds)
    })
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What may stand instead of an instruction, a line of unwind data or the use of a macro that makes such.
fn instead_of(bare: &str, width: u64) -> Vec<String> {
    let (label, code) = match bare.split_once(':') {
        Some((label, code)) if !label.contains([' ', '[']) => (format!("{label}: "), code.trim()),
        _ => (String::new(), bare),
    };
    let word = code.split_whitespace().next().unwrap_or_default();
    let is_unwind_data = word.starts_with(".cfi_") && !matches!(word, ".cfi_startproc" | ".cfi_endproc");
    let is_frame = ["PROC", "END_PROC", "PROC_IN_FRAME", "ENTRY", "GUARD_TARGET", "ON_EXCEPTION"].contains(&word);
    let is_code = word.starts_with(|first: char| first.is_ascii_alphabetic()) && !is_frame && word != "END_PROLOGUE";
    let is_room = word == ".set" && code.contains(['(', '+']) && !code.contains("slot");
    let mut all = Vec::new();
    if is_unwind_data || is_code {
        all.push(String::new());
        all.extend(other_condition(word).map(|other| code.replacen(word, other, 1)));
        all.extend(code.strip_prefix("lock ").map(str::to_owned));
        all.extend(other_registers(code, width));
    }
    if is_unwind_data || is_code || is_room {
        all.extend(other_numbers(code, width));
    }
    all.retain(|instead| instead != code);
    all.into_iter().map(|instead| format!("{label}{instead}")).collect()
}

fn other_condition(word: &str) -> Option<&'static str> {
    const PAIRS: [(&str, &str); 7] = [
        ("jz", "jnz"),
        ("je", "jne"),
        ("ja", "jbe"),
        ("jb", "jae"),
        ("cmovb", "cmovae"),
        ("cmove", "cmovne"),
        ("cmovz", "cmovnz"),
    ];
    PAIRS.iter().find_map(|(one, other)| match word {
        _ if word == *one => Some(*other),
        _ if word == *other => Some(*one),
        _ => None,
    })
}

/// Where each word of letters and digits begins and ends.
fn words(code: &str) -> Vec<(usize, usize)> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '.' || letter == '\\';
    let mut words = Vec::new();
    let mut begin = None;
    for (at, letter) in code.char_indices().chain([(code.len(), ' ')]) {
        match (begin, is_part(letter)) {
            (None, true) => begin = Some(at),
            (Some(first), false) => {
                words.push((first, at));
                begin = None;
            }
            _ => {}
        }
    }
    words
}

/// One register after the other is its neighbour; and two operands that are registers change places.
fn other_registers(code: &str, width: u64) -> Vec<String> {
    const FAMILIES: [&[&str]; 6] = [
        &["rax", "rcx", "rdx", "r8", "r9", "r10", "r11"],
        &["rsp", "rbp", "rbx", "rsi", "rdi", "r12", "r13", "r14", "r15"],
        &["eax", "ecx", "edx", "r8d", "r9d", "r10d"],
        &["esp", "ebp", "ebx", "esi", "edi"],
        &["xmm0", "xmm1", "xmm2", "xmm3"],
        &["al", "cl", "dl", "r8b", "r9b", "r10b"],
    ];
    let mut all = Vec::new();
    for (begin, end) in words(code) {
        let register = &code[begin..end];
        for family in FAMILIES {
            if let Some(at) = family.iter().position(|name| *name == register) {
                let mut others = family.iter().cycle().skip(at + 1);
                // i686 has no register with a number.
                let other = others.find(|name| width == 8 || !name.starts_with('r')).unwrap_or(&register);
                all.push(format!("{}{other}{}", &code[..begin], &code[end..]));
            }
        }
    }
    if let Some((word, operands)) = code.split_once(char::is_whitespace) {
        if let Some((first, second)) = operands.trim().split_once(", ") {
            let is_register = |name: &str| FAMILIES.iter().any(|family| family.contains(&name));
            let is_symmetric = ["test", "cmp", "xor"].contains(&word);
            if is_register(first) && is_register(second) && first != second && !is_symmetric {
                all.push(format!("{word} {second}, {first}"));
            }
        }
    }
    all
}

/// One number after the other is greater, and one address further on.
fn other_numbers(code: &str, width: u64) -> Vec<String> {
    let mut all = Vec::new();
    let open = code.find('[');
    for (begin, end) in words(code) {
        let word = &code[begin..end];
        let number = word.strip_prefix("0x").map_or_else(|| word.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok());
        // A scale is no place.
        let is_scale = code[end..].starts_with(" *");
        if let (Some(number), false) = (number, is_scale) {
            let is_offset =
                open.is_some_and(|open| open < begin) || code.starts_with(".cfi") || code.starts_with(".set");
            let other = number + if is_offset || number % 8 == 0 && number > 0 { width } else { 1 };
            all.push(format!("{}{other}{}", &code[..begin], &code[end..]));
        }
    }
    if let (Some(close), None) = (code.find(']'), all.first()) {
        all.push(format!("{} + {width}{}", &code[..close], &code[close..]));
    }
    if code.starts_with(".set") && all.is_empty() {
        all.push(format!("{code} + {width}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instead(code: &str) -> Vec<String> {
        instead_of(code, 8).iter().map(|text| squeezed(text)).collect()
    }

    #[test]
    fn an_instruction_is_left_out_or_has_another_operand() {
        assert_eq!(instead("jz calltable_count"), ["", "jnz calltable_count"]);
        let store = instead("mov     [rax + 0x08], rdx");
        assert_eq!(store, ["", "mov [rcx + 0x08], rdx", "mov [rax + 0x08], r8", "mov [rax + 16], rdx"]);
        assert_eq!(instead("lock dec dword ptr [r11 + X]")[1], "dec dword ptr [r11 + X]");
        assert!(instead("mov rdx, r11").contains(&"mov r11, rdx".into()));
        assert!(instead("mov rax, [r11 + CONTEXT_DATA]").contains(&"mov rax, [r11 + CONTEXT_DATA + 8]".into()));
        assert!(instead("1:  xor eax, eax").contains(&"1:".into()));
        assert!(instead("ALLOC 0x30").contains(&"ALLOC 56".into()));
        assert_eq!(instead(".cfi_adjust_cfa_offset 8"), ["", ".cfi_adjust_cfa_offset 16"]);
        for other in ["PROC calltable_count", ".p2align 4", "calltable_lanes:", ".endm", ""] {
            assert_eq!(instead(other), [""; 0], "{other}");
        }
    }

    #[test]
    fn lines_for_windows_are_left_out() {
        let source =
            "nop\n.if WINDOWS\nnop\n.else\nhlt\n.endif\n.ifeq WINDOWS\nud2\n.endif\n.if CFI & WINDOWS\nnop\n.endif";
        let lines: Vec<usize> = mutants_of(source, 8).iter().map(|mutant| mutant.line).collect();
        assert_eq!(lines, [0, 4, 7]);
    }

    #[test]
    fn both_files_have_mutants() {
        for target in TARGETS {
            let source = fs::read_to_string(xtask::root().join(target.file)).unwrap();
            assert!(mutants_of(&source, target.word).len() > 300, "{}", target.file);
        }
    }
}
