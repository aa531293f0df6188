//! The suite `host`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use xtask::suite::{
    AARCH64_LINUX, OTHER_FOLDER, RUN_AARCH64_LINUX, Suite, cargo, cargo_for, cargo_for_aarch64_linux, folder, quietly,
    variable,
};
use xtask::{benches, debian, setup};

use crate::{demo, fuzz, instructions, soak};

/// Test programs that call through the table; the others look at what compilers make of the source.
const RUNNING: &[&str] = &[
    "registers",
    "signatures",
    "results",
    "table",
    "sealed",
    "interleave",
    "stale",
    "seh",
    "unwind",
    "faults",
    "waits",
    "names",
];

/// Those for which memory makes no difference: they look at what compilers make, and call nothing, or stop at each of
/// the dispatcher's instructions, for a minute.
const OF_CODE: [&str; 3] = ["build_script", "object", "interleave"];

const RUNNING_ON_I686: &[&str] = &[
    "registers",
    "signatures",
    "results",
    "table",
    "sealed",
    "stale",
    "panics",
    "passing",
    "seh",
    "unwind_x86",
    "header",
    "capi",
    "faults",
    "soak",
    "waits",
    "owned",
    "names",
];

const RUNNING_ON_AARCH64: &[&str] = &[
    "registers",
    "orderings",
    "signatures",
    "results",
    "table",
    "registry",
    "sealed",
    "stale",
    "panics",
    "passing",
    "seh",
    "waits",
    "owned",
    "names",
    "header",
    "capi",
];

/// Targets without an operating system or on foreign ones: what is built here, the later suites run.
const TARGETS: &[&str] = &[
    "x86_64-unknown-none",
    "x86_64-unknown-uefi",
    "x86_64-pc-windows-gnu",
    "x86_64-pc-windows-msvc",
    "i686-unknown-uefi",
    "i686-pc-windows-gnu",
    "i686-pc-windows-msvc",
];

/// How cargo is told to run test programs through another one.
const RUNNER: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER";

const ALL_TESTS: [&str; 4] = ["test", "--workspace", "--all-features", "--no-fail-fast"];

/// The oldest Rust that the crate promises to work with, and the Debian packages that hold it.
const OLDEST_RUST: &str = "1.85.0";
const OLDEST_PACKAGES: &[&str] = &["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-1.85"];

/// Runs the suite; returns whether all passed.
pub fn run() -> Result<bool> {
    let mut suite = Suite::new("host", 27 + TARGETS.len());

    suite.check("formatting", || {
        quietly(cargo().args(["fmt", "--all", "--check"]))?;
        for manifest in [benches::MANIFEST, fuzz::MANIFEST] {
            quietly(cargo().args(["fmt", "--check", "--manifest-path", manifest]))?;
        }
        Ok(())
    });
    suite.check("lints", || {
        lint_workspace()?;
        benches::build(cargo().args(["clippy"]), &["--", "-Dwarnings"])?;
        quietly(fuzz::cargo_fuzz("clippy")?.args(["--", "-Dwarnings"])).map(drop)
    });
    suite.tests("all tests", cargo().args(ALL_TESTS));
    suite.tests_of("those that call, in processes that are refused new executable memory", || {
        // Of all packages, as above: with fewer, their dependencies have other features, and all is built again.
        let mut command = cargo();
        command.args(ALL_TESTS).arg("--bin=calltable-lua").env(RUNNER, runner()?);
        for folder in ["tests", "capi/tests"] {
            for file in fs::read_dir(folder)? {
                let file = file?.path();
                let name = file.file_stem().and_then(|name| name.to_str()).context("a file's name is UTF-8")?;
                if file.extension().is_some_and(|extension| extension == "rs") && !OF_CODE.contains(&name) {
                    command.arg(format!("--test={name}"));
                }
            }
        }
        Ok(command)
    });
    suite.tests("assembled by rustc", running().env("CALLTABLE_ASSEMBLER", "rustc"));
    suite.tests("optimised", running().arg("--profile=optimised"));
    suite.tests("a soak of 12 seconds", &mut soak::command(0.2));
    // With one slot, tests that run at the same time take it from each other.
    let few = ["test", "--test=registers", "--test=table"];
    suite.tests("65536 slots", cargo().env("CALLTABLE_CAPACITY", "65536").args(few));
    let tests = ["--", "--test-threads=1", "lane", "every_slot", "leaked", "stale_handler"];
    suite.tests("1 slot", cargo().env("CALLTABLE_CAPACITY", "1").args(few).args(tests));
    // What this repository sets is taken back, so that the wish counts.
    suite.tests(
        "4000 slots, as a library asks for",
        cargo().env("CALLTABLE_CAPACITY", "").args(few).arg("--features=slots-4000,names"),
    );
    // Every convention of i686, and the handlers that look at its registers. It runs natively.
    let i686 = || {
        let mut i686 = cargo_for("i686-unknown-linux-gnu", "test", "")?;
        i686.args(["--target-dir", OTHER_FOLDER])
            .args(["--no-fail-fast", "--package=calltable", "--package=calltable-capi", "--features=calltable/std"])
            .args(RUNNING_ON_I686.iter().map(|name| format!("--test={name}")));
        Ok(i686)
    };
    suite.tests_of("32-bit Linux", i686);
    suite.tests_of("AArch64 Linux, emulated", || aarch64("", RUNNING_ON_AARCH64, RUN_AARCH64_LINUX));
    suite.tests_of("the same with atomic instructions, stepped through by gdb", || {
        aarch64("-Ctarget-feature=+lse", &[RUNNING_ON_AARCH64, &["unwind"]].concat(), RUN_AARCH64_LINUX)
    });
    suite.tests_of("the same, landing pads and guarded control stacks enforced", || {
        let emulator = newer_emulator()?;
        let run = RUN_AARCH64_LINUX.replacen("qemu-aarch64", &emulator, 1);
        let mut guarded = aarch64("-Ctarget-feature=+lse", &["guarded"], &run)?;
        // One thread changes the rights of pages that the other runs on, and starts children.
        guarded.env("RUST_TEST_THREADS", "1");
        Ok(guarded)
    });
    suite.check("a capacity that cannot be is refused", || {
        for capacity in ["0", "65537", "many"] {
            let output = cargo().args(["check"]).env("CALLTABLE_CAPACITY", capacity).output()?;
            let text = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success(), "CALLTABLE_CAPACITY={capacity:?} was taken");
            ensure!(text.contains("must be a whole number from 1 to 65536"), "{text}");
        }
        Ok(())
    });
    suite.check("the examples", || {
        for name in ["enum_windows", "window"] {
            let text = quietly(cargo().args(["run", "--quiet", "--example", name]))?;
            ensure!(text == "this example is for Windows\n", "{name}: {text}");
        }
        let text = quietly(cargo().args(["run", "--quiet", "--example", "quickstart"]))?;
        ensure!(text == "nearest to 40: Some(38), after 3 calls\nlargest: Some(99)\n", "{text}");
        let lines = fs::read_to_string("examples/quickstart.rs")?.lines().count();
        ensure!(lines < 40, "it has {lines} lines");
        Ok(())
    });
    suite.check("the demo, three DLLs on real input", demo::on_real_input);
    suite.check("the demo, on bad input", demo::on_bad_input);
    suite.check("the demo, DLLs that call what it has not", demo::on_other_dlls);
    suite.check("fuzzing, for 20 seconds each", || fuzz::run(20));
    suite.check("documentation", documentation);
    suite.check("the package builds by itself, and holds no more than it should", || {
        let package = ["package", "--package=calltable", "--allow-dirty"];
        let list = quietly(cargo().args(package).arg("--list"))?;
        let hidden =
            list.lines().find(|file| file.starts_with('.') && *file != ".cargo_vcs_info.json" && *file != ".gitignore");
        ensure!(hidden.is_none(), "{hidden:?} is in it");
        quietly(cargo().args(package).args(["--target-dir", "target/package"])).map(drop)
    });
    suite.check("instructions of a call, those of benches/instructions.txt", instructions::check);
    for target in TARGETS {
        suite.check(&format!("builds for {target}"), || build_for(target));
    }
    suite.check("two versions in one program", || two_versions("host", cargo().arg("run")).map(drop));
    suite.check("the same, with the C interface, as one text of rustc's assembler", || {
        two_versions(
            "host",
            cargo().args(["run", "--profile=fat", "--features=capi"]).env("CALLTABLE_ASSEMBLER", "rustc"),
        )
        .map(drop)
    });
    suite.check("a program that uses the crate by way of a Rust dylib, optimised", || {
        let mut run = cargo();
        run.args(["run", "--release"]).env("RUSTFLAGS", "-Cprefer-dynamic -Crpath");
        quietly(run.current_dir(in_dylib("host")?)).and_then(|text| check_dylib(&text))
    });
    suite.check(&format!("the same with Rust {OLDEST_RUST}, the oldest promised"), with_oldest_rust);
    Ok(suite.finish())
}

/// Test programs for AArch64 Linux, under QEMU's user mode.
fn aarch64(flags: &str, programs: &[&str], runner: &str) -> Result<Command> {
    let mut command = cargo_for_aarch64_linux("test", flags)?;
    command.args(["--target-dir", OTHER_FOLDER, "--no-fail-fast", "--features=calltable/std"]);
    command.args(["--package=calltable", "--package=calltable-capi"]);
    command.args(programs.iter().map(|name| format!("--test={name}")));
    command.env(variable(AARCH64_LINUX, "RUNNER"), runner).env("CALLTABLE_RUNNER", runner);
    command.env("RUST_BACKTRACE", "0");
    Ok(command)
}

/// One that has guarded control stacks, which this release's has not: unpacked, not installed. The first time it is
/// loaded, in half a minute.
fn newer_emulator() -> Result<String> {
    let home = std::env::current_dir()?.join(folder("qemu-user")?);
    let emulator = home.join("qemu-aarch64");
    if !emulator.exists() {
        let loading = home.join("loading");
        fs::remove_dir_all(&loading).ok(); // of a run that was ended
        fs::create_dir_all(&loading)?;
        let archive = debian::archive_of_release("trixie-backports")?;
        let packages = debian::download(&loading, &["amd64"], &archive, &["qemu-user"])?;
        quietly(Command::new("dpkg").arg("-x").args(packages).arg(&loading))?;
        fs::rename(loading.join("usr/bin/qemu-aarch64"), &emulator)?;
        fs::remove_dir_all(loading)?;
    }
    emulator.into_os_string().into_string().ok().context("the folder's path is not UTF-8")
}

/// What finds most mistakes in the shortest time.
pub fn run_quick() -> Result<bool> {
    setup::install(setup::HOST)?;
    let mut suite = Suite::new("quick", 4);
    suite.check("formatting", || quietly(cargo().args(["fmt", "--all", "--check"])).map(drop));
    suite.check("lints", lint_workspace);
    suite.tests("all tests", cargo().args(ALL_TESTS));
    suite.check("documentation", documentation);
    println!(
        "left out: other targets and systems (32 bits, Windows, UEFI, bare machines), other assemblers, capacities and \
         compilers, optimised builds, refused executable memory, races, fuzzing, the C interface from C, instruction \
         counts: `cargo xtask test` has them"
    );
    Ok(suite.finish())
}

fn lint_workspace() -> Result<()> {
    quietly(cargo().args(["clippy", "--workspace", "--all-targets", "--all-features", "--", "-Dwarnings"])).map(drop)
}

fn documentation() -> Result<()> {
    quietly(cargo().args(["doc", "--no-deps", "--workspace", "--all-features"]).env("RUSTDOCFLAGS", "-Dwarnings"))
        .map(drop)
}

/// Those test programs that call through the table.
fn running() -> Command {
    let mut command = cargo();
    command.args(["test", "--no-fail-fast"]).args(RUNNING.iter().map(|name| format!("--test={name}")));
    command
}

fn runner() -> Result<String> {
    let program = std::env::current_exe()?;
    Ok(format!("{} under-mdwe", program.to_str().context("the path of xtask is not UTF-8")?))
}

fn build_for(target: &str) -> Result<()> {
    let mut command = cargo_for(target, "build", "")?;
    command.args(["--target-dir", OTHER_FOLDER]);
    // Where cc looks for a plain `clang`, Debian has a numbered one.
    if target.ends_with("-uefi") {
        command.env(format!("CC_{}", target.replace('-', "_")), "clang-19");
    }
    quietly(&mut command)?;
    if target.ends_with("-none") {
        let library = format!("{OTHER_FOLDER}/{target}/debug/libcalltable.rlib");
        let code = quietly(Command::new("objdump").arg("-d").arg(library))?;
        ensure!(code.contains("_saving>:"), "the dispatchers are missing from the library");
        ensure!(!code.contains("%xmm") && !code.contains("mxcsr"), "a build without SSE touches XMM registers");
    }
    Ok(())
}

/// A program outside the workspace that links this crate and a copy of it that calls itself 0.1.999. Suites may run at
/// the same time: each has a folder of its own.
pub fn two_versions(suite: &str, run: &mut Command) -> Result<String> {
    let folder = folder(&format!("two_versions/{suite}"))?;
    let copy = folder.join("copy");
    fs::remove_dir_all(&copy).ok(); // of an older source
    fs::create_dir_all(&copy)?;
    for name in ["src", "asm", "docs", "build.rs", "README.md"] {
        quietly(Command::new("cp").arg("-r").arg(name).arg(&copy))?;
    }
    let manifest = fs::read_to_string("Cargo.toml")?;
    let package = manifest.split_once("[dev-dependencies]").context("no dev-dependencies in Cargo.toml")?.0;
    let other =
        package.replacen("version = \"0.1.0\"", "version = \"0.1.999\"", 1).replace("[lints]\nworkspace = true\n", "");
    ensure!(other.contains("0.1.999"), "Cargo.toml no longer says version 0.1.0");
    fs::write(copy.join("Cargo.toml"), other)?;
    fs::create_dir_all(folder.join("src"))?;
    let here = std::env::current_dir()?;
    let capi = here.join("capi");
    fs::write(
        folder.join("Cargo.toml"),
        format!(
            "[package]\nname = \"two-versions\"\nversion = \"0.0.0\"\nedition = \"2024\"\nrust-version = \"1.85\"\n\
             [workspace]\nresolver = \"3\"\n[dependencies]\ncalltable = {{ path = {here:?} }}\n\
             other = {{ package = \"calltable\", path = \"copy\" }}\n\
             calltable-capi = {{ path = {capi:?}, optional = true }}\n\
             [features]\ncapi = [\"dep:calltable-capi\"]\n[profile.fat]\ninherits = \"release\"\nlto = \"fat\"\n"
        ),
    )?;
    fs::write(folder.join("src/main.rs"), TWO_VERSIONS)?;
    let text = quietly(run.current_dir(&folder))?;
    ensure!(text.contains("each has a table of its own\n"), "{text}");
    Ok(text)
}

const TWO_VERSIONS: &str = r#"type Code = unsafe extern "efiapi" fn(i32, i32, i32, i32, i32) -> i32;

fn main() {
    let sum = |a: i32, b: i32, c: i32, d: i32, e: i32| a + b + c + d + e;
    let product = |a: i32, b: i32, c: i32, d: i32, e: i32| a * b * c * d * e;
    let ours = calltable::Callback::<Code>::from_ref(&sum).unwrap();
    let theirs = other::Callback::<Code>::from_ref(&product).unwrap();
    assert_eq!((ours.slot().index(), theirs.slot().index()), (0, 0));
    // SAFETY: both live.
    unsafe {
        assert_eq!((ours.code()(1, 2, 3, 4, 5), theirs.code()(1, 2, 3, 4, 5)), (15, 120));
    }
    assert!(calltable::table::slot_of(theirs.code() as *const _).is_none());
    #[cfg(feature = "capi")]
    assert_eq!(calltable_capi::calltable_capacity() as usize, calltable::CAPACITY);
    println!("each has a table of its own");
}
"#;

/// A program that has the crate from another's dylib, as engines and plug-in hosts do; and both name it. Returns the
/// folder.
pub fn in_dylib(suite: &str) -> Result<PathBuf> {
    let folder = folder(&format!("dylib/{suite}"))?;
    let here = std::env::current_dir()?;
    let capi = here.join("capi");
    let package =
        |name, rest: &str| format!("[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n{rest}");
    let engine = format!(
        "[lib]\ncrate-type = [\"dylib\"]\n[dependencies]\ncalltable = {{ path = {here:?}, features = [\"std\"] }}\n\
         calltable-capi = {{ path = {capi:?} }}\n"
    );
    for (path, text) in [
        ("Cargo.toml", "[workspace]\nmembers = [\"engine\", \"game\"]\nresolver = \"3\"\n".to_owned()),
        ("engine/Cargo.toml", package("engine", &engine)),
        ("engine/src/lib.rs", ENGINE.to_owned()),
        ("game/Cargo.toml", package("game", "[dependencies]\nengine = { path = \"../engine\" }\n")),
        ("game/src/main.rs", GAME.to_owned()),
    ] {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().context("a file in a folder")?)?;
        fs::write(path, text)?;
    }
    Ok(folder)
}

pub fn check_dylib(text: &str) -> Result<()> {
    ensure!(text.contains("one table for both\n"), "{text}");
    Ok(())
}

const ENGINE: &str = r#"pub use calltable;
use calltable_capi as _;

pub fn live() -> usize {
    calltable::table::live_count()
}
"#;

/// Names whatever looks at a symbol of the assembly, or at the contexts.
const GAME: &str = r#"use engine::calltable::{Callback, Contained, seh, table};

type Code = unsafe extern "efiapi" fn(i32) -> i32;

fn main() {
    let base = std::env::args().count() as i32;
    let add = |number: i32| number + base;
    let callback = Callback::<Code>::from_ref(&add).unwrap();
    // SAFETY: it lives.
    assert_eq!(unsafe { callback.code()(41) }, 42);
    let code = callback.code() as *const _;
    let slot = table::slot_of(code).unwrap();
    assert_eq!(table::locate(code), Some(table::Location::Entry { slot }));
    let behind = code.wrapping_byte_add(table::ENTRY_STRIDE * (table::CAPACITY - slot));
    assert_eq!(table::locate(behind), Some(table::Location::Dispatcher));
    assert_eq!(table::list().count(), engine::live());
    let contained = Contained::new(add, |exception| (exception.code() == seh::ACCESS_VIOLATION).then_some(-1));
    // SAFETY: nothing is dropped, for nothing faults.
    match unsafe { Callback::<Code>::from_contained(&contained) } {
        // SAFETY: it lives.
        Ok(callback) => assert_eq!(unsafe { callback.code()(41) }, 42),
        Err(error) => assert_eq!(error, engine::calltable::Error::NoExceptions),
    }
    // SAFETY: no stale entry is called.
    unsafe { engine::calltable::set_stale_handler(None).unwrap() };
    let mut calls = 0;
    let result = Callback::<Code>::scope_mut(|_| { calls += 1; 0 }, || 0, |code| unsafe { code(1) });
    assert!(result.is_ok());
    drop(callback);
    assert_eq!((engine::live(), calls), (0, 1));
    println!("one table for both");
}
"#;

/// Builds and runs the same program with the oldest Rust: rustup's if it has one, else Debian's package.
fn with_oldest_rust() -> Result<()> {
    let from_rustup = Command::new("rustup").args(["run", OLDEST_RUST, "rustc", "--version"]).output();
    let mut run = cargo();
    run.args(["run", "--target-dir", "oldest"]);
    if from_rustup.is_ok_and(|out| out.status.success()) {
        run.env("RUSTUP_TOOLCHAIN", OLDEST_RUST);
    } else {
        let root = oldest_from_debian()?;
        run.env("RUSTC", root.join("usr/bin/rustc")).env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
    }
    two_versions("host", &mut run).map(drop)
}

/// Unpacks Debian's package of that compiler in `target`, beside what the system has.
fn oldest_from_debian() -> Result<PathBuf> {
    let folder = std::env::current_dir()?.join(folder(&format!("rust-{OLDEST_RUST}"))?);
    let root = folder.join("root");
    if root.join("usr/bin/rustc").exists() {
        return Ok(root);
    }
    let policy = quietly(Command::new("apt-cache").args(["madison", OLDEST_PACKAGES[0]]))?;
    let version = policy.split('|').map(str::trim).find(|field| field.starts_with(OLDEST_RUST));
    let Some(version) = version else {
        bail!(
            "neither rustup nor this machine's Debian archive has Rust {OLDEST_RUST}: `rustup toolchain add {OLDEST_RUST}`"
        );
    };
    let packages = OLDEST_PACKAGES.iter().map(|name| format!("{name}={version}"));
    quietly(Command::new("apt-get").current_dir(&folder).arg("download").args(packages))?;
    for file in fs::read_dir(&folder)? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            quietly(Command::new("dpkg").arg("-x").arg(file).arg(&root))?;
        }
    }
    Ok(root)
}
