//! What the build script does with targets, compilers and changes, asked of the script itself.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "object/entries.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod entries;
#[path = "object/image.rs"]
#[allow(dead_code, reason = "as above")]
mod image;
#[path = "object/marks.rs"]
#[allow(dead_code, reason = "as above")]
mod marks;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use iced_x86::{CpuidFeature, Mnemonic};
use object::{Object, ObjectSection};

/// A copy of the package, without its tests, and where it is built.
fn copy(name: &str) -> PathBuf {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("build_script").join(name);
    fs::remove_dir_all(&copy).ok();
    fs::create_dir_all(&copy).unwrap();
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["src", "asm", "docs", "build.rs", "README.md"] {
        assert!(Command::new("cp").arg("-r").arg(package.join(name)).arg(&copy).status().unwrap().success());
    }
    let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
    let manifest = manifest.split("[dev-dependencies]").next().unwrap().to_owned() + "[workspace]\n";
    fs::write(copy.join("Cargo.toml"), manifest).unwrap();
    // The versions that were downloaded for the package itself are there without a network, too.
    fs::copy(package.join("Cargo.lock"), copy.join("Cargo.lock")).ok();
    copy
}

/// Builds a copy.
fn build(copy: &Path, capacity: &str) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--offline", "--target-dir", "target"]).current_dir(copy).env_remove("CARGO_BUILD_TARGET");
    let output = cargo.env("CALLTABLE_CAPACITY", capacity).env_remove("CALLTABLE_ASSEMBLER").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The files of this path in the folders of a copy's build scripts.
fn found(copy: &Path, path: &str) -> Vec<PathBuf> {
    let folders = fs::read_dir(copy.join("target/debug/build")).unwrap().map(|folder| folder.unwrap().path());
    folders
        .filter(|folder| folder.file_name().unwrap().to_string_lossy().starts_with("calltable-"))
        .map(|folder| folder.join(path))
        .filter(|path| path.exists())
        .collect()
}

/// The text that the assembler was last given.
fn assembled(copy: &Path) -> String {
    let files = found(copy, "out/calltable.S");
    assert_eq!(files.len(), 1, "{files:?}");
    fs::read_to_string(&files[0]).unwrap()
}

#[test]
fn a_change_of_the_assembly_or_of_the_capacity_is_built() {
    let copy = copy("changed");
    build(&copy, "7");
    assert!(assembled(&copy).contains("_CAPACITY, 7\n"));
    build(&copy, "8");
    assert!(assembled(&copy).contains("_CAPACITY, 8\n"), "another CALLTABLE_CAPACITY is not built");
    let source = copy.join("asm/x86_64.S");
    let text = fs::read_to_string(&source).unwrap();
    assert!(!text.contains("calltable_changed"));
    fs::write(source, text + "\ncalltable_changed:\n").unwrap();
    build(&copy, "8");
    assert!(assembled(&copy).contains("_changed:\n"), "a change in asm/ is not built");
}

/// The build script as a program, and the package that it is of.
static SCRIPT: LazyLock<(PathBuf, PathBuf)> = LazyLock::new(|| {
    let copy = copy("script");
    build(&copy, "3");
    let scripts = found(&copy, "build-script-build");
    assert_eq!(scripts.len(), 1, "{scripts:?}");
    (scripts[0].clone(), copy)
});

/// A target as cargo describes it to build scripts.
struct Target {
    name: &'static str,
    arch: &'static str,
    width: &'static str,
    vendor: &'static str,
    os: &'static str,
    features: &'static str,
}

const LINUX: Target = Target {
    name: "x86_64-unknown-linux-gnu",
    arch: "x86_64",
    width: "64",
    vendor: "unknown",
    os: "linux",
    features: "fxsr,sse,sse2",
};
const I686: Target = Target { name: "i686-unknown-linux-gnu", arch: "x86", width: "32", ..LINUX };
const I586: Target = Target { name: "i586-unknown-linux-gnu", features: "", ..I686 };

/// Runs the script for a target, with more in its environment; it writes to the folder that is returned.
fn run(target: &Target, name: &str, more: &[(&str, &str)]) -> (PathBuf, Output) {
    let (script, copy) = &*SCRIPT;
    let out = copy.join("out").join(name);
    fs::create_dir_all(&out).unwrap();
    let mut command = Command::new(script);
    for variable in ["CC", "CFLAGS", "CALLTABLE_ASSEMBLER", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command
        .current_dir(copy)
        .env("OUT_DIR", &out)
        .env("HOST", LINUX.name)
        .env("TARGET", target.name)
        .env("OPT_LEVEL", "0")
        .env("DEBUG", "false")
        .env("CALLTABLE_CAPACITY", "3")
        .env("CARGO_CFG_TARGET_ARCH", target.arch)
        .env("CARGO_CFG_TARGET_POINTER_WIDTH", target.width)
        .env("CARGO_CFG_TARGET_VENDOR", target.vendor)
        .env("CARGO_CFG_TARGET_OS", target.os)
        .env("CARGO_CFG_TARGET_ENV", "gnu")
        .env("CARGO_CFG_TARGET_ABI", "")
        .env("CARGO_CFG_TARGET_FEATURE", target.features)
        .envs(more.iter().copied());
    let output = command.output().unwrap();
    (out, output)
}

/// What the script has cargo say, and stop for.
fn errors(output: &Output) -> String {
    assert!(output.status.success(), "it has panicked: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().filter_map(|line| line.strip_prefix("cargo::error=")).flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn a_target_without_a_table_is_named_in_one_sentence() {
    let targets = [
        Target { name: "riscv64gc-unknown-linux-gnu", arch: "riscv64", ..LINUX },
        Target { name: "wasm32-unknown-unknown", arch: "wasm32", width: "32", os: "unknown", ..LINUX },
        Target { name: "x86_64-unknown-linux-gnux32", width: "32", ..LINUX },
        Target { name: "x86_64-apple-darwin", vendor: "apple", os: "macos", ..LINUX },
        Target { name: "aarch64-apple-darwin", arch: "aarch64", vendor: "apple", os: "macos", ..LINUX },
        Target { name: "i686-apple-darwin", vendor: "apple", os: "macos", ..I686 },
    ];
    let sentence = include_str!("../src/entry.rs").split_once("for this target: ").unwrap().1;
    let rest = sentence.split_once("\"\n").unwrap().0;
    let rest = rest.split("\\\n").map(str::trim_start).collect::<String>();
    for target in targets {
        let (_, output) = run(&target, target.name, &[]);
        assert_eq!(errors(&output), format!("calltable has no CALL table for the target {}: {rest}\n", target.name));
    }
}

#[test]
fn a_failing_assembler_shows_its_message_and_the_way_out() {
    let compiler = SCRIPT.1.join("old-gcc");
    // One whose assembler is older than the instruction.
    let text = "#!/bin/sh\ncase \"$*\" in\n*calltable.S*) echo \"calltable.S:9: Error: no such instruction: \\`endbr64'\" >&2; \
                exit 1 ;;\nesac\nexec gcc \"$@\"\n";
    fs::write(&compiler, text).unwrap();
    fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).unwrap();
    for choice in [&[][..], &[("CALLTABLE_ASSEMBLER", "cc")]] {
        let (_, output) = run(&LINUX, "old", &[choice, &[("CC", compiler.to_str().unwrap())]].concat());
        let errors = errors(&output);
        for wanted in ["no such instruction: `endbr64'", "Set CALLTABLE_ASSEMBLER=rustc"] {
            assert!(errors.contains(wanted), "{errors}");
        }
    }
}

#[test]
fn nothing_is_an_error_where_every_warning_is() {
    for compiler in ["gcc", "clang-19"] {
        for target in [LINUX, I686, I586] {
            let flags = [("CC", compiler), ("CFLAGS", "-Wall -Wextra -Werror")];
            let (out, output) = run(&target, &format!("strict-{compiler}-{}", target.name), &flags);
            assert_eq!(errors(&output), "", "{compiler}, {}", target.name);
            assert!(out.read_dir().unwrap().any(|file| file.unwrap().path().extension().is_some_and(|end| end == "a")));
        }
    }
}

/// What the script has cargo warn of.
fn warnings(output: &Output) -> Vec<String> {
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().filter_map(|line| line.strip_prefix("cargo::warning=")).map(String::from).collect()
}

#[test]
fn the_largest_wish_for_slots_counts_unless_the_builder_says_otherwise() {
    let manifest =
        include_str!("../Cargo.toml").lines().filter_map(|line| line.split_once(" = []")?.0.strip_prefix("slots-"));
    let numbers: Vec<&str> = manifest.collect();
    assert!(numbers.len() > 3 && numbers.is_sorted_by_key(|number| number.parse::<usize>().unwrap()), "{numbers:?}");
    // Those that are set, what else the environment has, the slots that there are then, and what a warning names.
    let [first, .., last] = numbers[..] else { panic!("{numbers:?}") };
    let cases: [(&[&str], &str, &str, &[&str]); 8] = [
        (&[], "", "2000", &[]),
        (&[first], "", first, &[]),
        (&[last, first], "", last, &[]),
        (&numbers, "", last, &[]),
        (&[first, last], "3", "3", &["CALLTABLE_CAPACITY=3 ", &format!("slots-{last}:")]),
        (&[first], "3999", "3999", &["CALLTABLE_CAPACITY=3999 ", &format!("slots-{first}:")]),
        (&[first], first, first, &[]),
        (&numbers, "3", "3", &[]), // cargo's --all-features
    ];
    for (asked, set, capacity, named) in cases {
        let features: Vec<_> = asked.iter().map(|number| format!("CARGO_FEATURE_SLOTS_{number}")).collect();
        let mut more: Vec<_> = features.iter().map(|feature| (feature.as_str(), "1")).collect();
        more.extend([("CALLTABLE_CAPACITY", set), ("CALLTABLE_ASSEMBLER", "rustc")]);
        let (out, output) = run(&LINUX, "wishes", &more);
        assert_eq!(errors(&output), "");
        let text = fs::read_to_string(out.join("calltable.S")).unwrap();
        assert!(text.contains(&format!("_CAPACITY, {capacity}\n")), "{asked:?}, {set:?}: not {capacity} slots");
        let warnings = warnings(&output);
        assert_eq!(warnings.len(), usize::from(!named.is_empty()), "{asked:?}, {set:?}: {warnings:?}");
        assert!(named.iter().all(|name| warnings[0].contains(name)), "{warnings:?}");
    }
    // Each feature is one that the script knows.
    for number in &numbers {
        let feature = format!("CARGO_FEATURE_SLOTS_{number}");
        let wish = [(feature.as_str(), "1"), ("CALLTABLE_CAPACITY", ""), ("CALLTABLE_ASSEMBLER", "rustc")];
        let (out, _) = run(&LINUX, "wishes", &wish);
        let text = fs::read_to_string(out.join("calltable.S")).unwrap();
        assert!(text.contains(&format!("_CAPACITY, {number}\n")), "slots-{number}");
    }
}

/// Only Linux's is run; the others are at least assembled, with and without what build scripts can ask for.
#[test]
fn the_table_of_aarch64_is_assembled_for_every_system() {
    const ARM: Target = Target { arch: "aarch64", ..LINUX };
    for (name, os, format) in [
        ("aarch64-unknown-linux-gnu", "linux", object::BinaryFormat::Elf),
        ("aarch64-unknown-none", "none", object::BinaryFormat::Elf),
        ("aarch64-pc-windows-msvc", "windows", object::BinaryFormat::Coff),
        ("aarch64-unknown-uefi", "uefi", object::BinaryFormat::Coff),
    ] {
        for features in ["neon", "neon,lse", ""] {
            let target = Target { name, os, features, ..ARM };
            let tools = [("CC", "clang-19"), ("AR", "llvm-ar-19"), ("CFLAGS", "-Wall -Wextra -Werror")];
            let (out, output) = run(&target, &format!("arm-{name}-{features}"), &tools);
            assert_eq!(errors(&output), "", "{name}, {features}");
            let mut files = out.read_dir().unwrap().map(|file| file.unwrap().path());
            let object = fs::read(files.find(|file| file.extension().is_some_and(|end| end == "o")).unwrap()).unwrap();
            let file = object::File::parse(&*object).unwrap();
            assert_eq!((file.architecture(), file.format()), (object::Architecture::Aarch64, format), "{name}");
            let text = file.section_by_name(".text.calltable").or_else(|| file.section_by_name(".text"));
            let code = text.unwrap().data().unwrap();
            for slot in 0..3 {
                let word =
                    |at: usize| u32::from_le_bytes(code[16 * slot + 4 * at..][..4].try_into().expect("four bytes"));
                // bti c; movz w12, #slot; b; brk
                assert_eq!((word(0), word(1)), (0xd503_245f, 0x5280_000c | (slot as u32) << 5), "{name}, entry {slot}");
                assert_eq!((word(2) >> 26, word(3)), (5, 0xd43e_0000), "{name}, entry {slot}");
            }
        }
    }
}

/// Without being asked, no return address is signed; with either compiler's flag each one that is stored.
#[test]
fn aarch64_signs_return_addresses_where_the_build_asks() {
    /// What is asked for, the bits of the note, and the instructions that sign and check.
    type Case = (&'static str, &'static [(&'static str, &'static str)], u32);
    const BTI_AND_GCS: u32 = 5;
    const PAC: u32 = 2;
    const CASES: [Case; 5] = [
        ("nothing", &[], BTI_AND_GCS),
        ("bti", &[("CARGO_ENCODED_RUSTFLAGS", "-Copt-level=2\x1f-Zbranch-protection=bti")], BTI_AND_GCS),
        ("rust", &[("CARGO_ENCODED_RUSTFLAGS", "-Z\x1fbranch-protection=bti,pac-ret,leaf")], BTI_AND_GCS | PAC),
        ("c", &[("CFLAGS", "-mbranch-protection=bti+pac-ret")], BTI_AND_GCS | PAC),
        ("standard", &[("CFLAGS", "-mbranch-protection=standard")], BTI_AND_GCS | PAC),
    ];
    // PACIASP and AUTIASP, on Windows with the other key: PACIBSP and AUTIBSP.
    for (name, os, signs, checks) in [
        ("aarch64-unknown-linux-gnu", "linux", 0xd503_233f, 0xd503_23bf_u32),
        ("aarch64-pc-windows-msvc", "windows", 0xd503_237f, 0xd503_23ff),
    ] {
        for (case, flags, bits) in CASES {
            let target = Target { name, arch: "aarch64", os, features: "neon", ..LINUX };
            let tools = [&[("CC", "clang-19"), ("AR", "llvm-ar-19")], flags].concat();
            let (out, output) = run(&target, &format!("pac-{name}-{case}"), &tools);
            assert_eq!(errors(&output), "", "{name}, {case}");
            let mut files = out.read_dir().unwrap().map(|file| file.unwrap().path());
            let object = fs::read(files.find(|file| file.extension().is_some_and(|end| end == "o")).unwrap()).unwrap();
            let file = object::File::parse(&*object).unwrap();
            if os == "linux" {
                assert_eq!(marks::features(&file), Some(bits), "{name}, {case}: the note");
            }
            let words = file.sections().filter(|section| section.name().is_ok_and(|name| name.starts_with(".text")));
            let words: Vec<_> = words.flat_map(|section| section.data().unwrap().chunks_exact(4)).collect();
            let words = || words.iter().map(|word| u32::from_le_bytes((*word).try_into().expect("four bytes")));
            let pairs =
                |first: u32, second: u32| words().zip(words().skip(1)).filter(|pair| *pair == (first, second)).count();
            // stp x29, x30, [sp, #-32]!; ldp x29, x30, [sp], #32
            let [pushes, pops] = [0xa9be_7bfd, 0xa8c2_7bfd].map(|push| words().filter(|word| *word == push).count());
            assert!(pushes >= 4 && pops > pushes, "{name}, {case}: {pushes} links are pushed, {pops} taken off");
            let [signed, checked] = [pairs(signs, 0xa9be_7bfd), pairs(0xa8c2_7bfd, checks)];
            let all = words().filter(|word| [signs, checks].contains(word)).count();
            let is_asked = bits & PAC != 0;
            let want = if is_asked { (pushes, pops, pushes + pops) } else { (0, 0, 0) };
            assert_eq!((signed, checked, all), want, "{name}, {case}: signed, checked, both");
        }
    }
}

/// Processors without multi-byte NOPs take ENDBR32, RDSSPD and INCSSPD for invalid.
#[test]
fn below_i686_nothing_is_used_that_came_later() {
    use CpuidFeature::{
        CET_IBT, CET_SS, CMOV, CX8, FPU, FPU287, FPU387, INTEL186, INTEL286, INTEL386, INTEL486, INTEL8086, SSE,
    };
    let old = [INTEL8086, INTEL186, INTEL286, INTEL386, INTEL486, FPU, FPU287, FPU387, CX8].as_slice();
    let new = [old, &[CMOV, CET_IBT, CET_SS, SSE]].concat();
    for compiler in ["gcc", "clang-19"] {
        for (target, allowed, marks) in [(I586, old, None), (I686, &new, Some(3))] {
            let (out, output) = run(&target, &format!("set-{compiler}-{}", target.name), &[("CC", compiler)]);
            assert_eq!(errors(&output), "");
            let mut files = out.read_dir().unwrap().map(|file| file.unwrap().path());
            let object = fs::read(files.find(|file| file.extension().is_some_and(|end| end == "o")).unwrap()).unwrap();
            let file = object::File::parse(&*object).unwrap();
            assert_eq!(file.architecture(), object::Architecture::I386);
            assert_eq!(marks::features(&file), marks, "{}: marks for the linker", target.name);
            let code = image::Code::read(&file).unwrap();
            for instruction in code.functions.iter().flat_map(|function| &function.instructions) {
                let needs = instruction.cpuid_features();
                let known = needs.iter().all(|feature| allowed.contains(feature));
                assert!(known, "{compiler}, {}: {} needs {needs:?}", target.name, code.text(instruction));
            }
            let calls = code.functions[0].instructions.iter().filter(|i| i.mnemonic() == Mnemonic::Call);
            let calls: Vec<_> = calls.map(|call| call.ip() - code.functions[0].range.start).collect();
            assert_eq!(calls, [4, 20, 36], "{}: entries keep their size", target.name);
        }
    }
}
