//! The suite `host`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::suite::{Suite, cargo, cargo_for, folder, quietly};
use crate::{bench, demo, fuzz, instructions, setup, soak};

/// Test programs that call through the table; the others look at what compilers make of the source.
const RUNNING: &[&str] =
    &["registers", "signatures", "results", "table", "sealed", "interleave", "stale", "seh", "unwind", "faults"];

const RUNNING_ON_I686: &[&str] = &[
    "registers",
    "signatures",
    "results",
    "table",
    "sealed",
    "stale",
    "panics",
    "seh",
    "unwind_x86",
    "header",
    "capi",
    "faults",
    "soak",
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

/// Where other targets are built, so that two versions of the compiler do not share a folder.
pub const OTHER_FOLDER: [&str; 2] = ["--target-dir", "target/other"];

/// How cargo is told to run test programs through another one.
const RUNNER: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER";

/// The oldest Rust that the crate promises to work with, and the Debian packages that hold it.
const OLDEST_RUST: &str = "1.85.0";
const OLDEST_PACKAGES: &[&str] = &["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-1.85"];

/// Runs the suite; returns whether all passed.
pub fn run() -> Result<bool> {
    setup::install(setup::HOST)?;
    let mut suite = Suite::new("host", 19 + TARGETS.len());

    suite.check("formatting", || {
        quietly(cargo().args(["fmt", "--all", "--check"]))?;
        for manifest in [bench::MANIFEST, fuzz::MANIFEST] {
            quietly(cargo().args(["fmt", "--check", "--manifest-path", manifest]))?;
        }
        Ok(())
    });
    suite.check("lints", || {
        quietly(cargo().args(["clippy", "--workspace", "--all-targets", "--all-features", "--", "-Dwarnings"]))?;
        bench::build(cargo().args(["clippy"]), &["--", "-Dwarnings"])?;
        quietly(fuzz::cargo_fuzz("clippy")?.args(["--", "-Dwarnings"])).map(drop)
    });
    let all = ["test", "--workspace", "--all-features", "--no-fail-fast"];
    suite.tests("all tests", cargo().args(all));
    suite.tests(
        "the same in processes that are refused new executable memory",
        cargo().args(all).env(RUNNER, runner()?),
    );
    suite.tests("assembled by rustc", running().env("CALLTABLE_ASSEMBLER", "rustc"));
    suite.tests("optimised", running().arg("--release"));
    suite.tests("a soak of 12 seconds", &mut soak::command(0.2));
    // With one slot, tests that run at the same time take it from each other.
    let few = ["test", "--test=registers", "--test=table"];
    suite.tests("65536 slots", cargo().env("CALLTABLE_CAPACITY", "65536").args(few));
    let tests = ["--", "--test-threads=1", "lane", "every_slot", "leaked", "stale_handler"];
    suite.tests("1 slot", cargo().env("CALLTABLE_CAPACITY", "1").args(few).args(tests));
    // Every convention of i686, and the handlers that look at its registers. It runs natively.
    let mut i686 = cargo_for("i686-unknown-linux-gnu", "test", "std,test");
    i686.args(OTHER_FOLDER)
        .args(["--no-fail-fast", "--features=std,capi"])
        .args(RUNNING_ON_I686.iter().map(|name| format!("--test={name}")));
    suite.tests("32-bit Linux (two minutes more the first time)", &mut i686);
    suite.check("a capacity that cannot be is refused", || {
        for capacity in ["0", "65537", "many", ""] {
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
    suite.check("the demo, on real input", demo_on_real_input);
    suite.check("the demo, on bad input", demo_on_bad_input);
    suite.check("fuzzing, for 20 seconds each", || fuzz::run(20));
    suite.check("documentation", || {
        quietly(cargo().args(["doc", "--no-deps", "--workspace", "--all-features"]).env("RUSTDOCFLAGS", "-Dwarnings"))
            .map(drop)
    });
    suite.check("instructions of a call, those of benches/instructions.txt", instructions::check);
    for target in TARGETS {
        suite.check(&format!("builds for {target}"), || build_for(target));
    }
    suite.check("two versions in one program", || two_versions(cargo().arg("run")).map(drop));
    suite.check(&format!("the same with Rust {OLDEST_RUST}, the oldest promised"), with_oldest_rust);
    Ok(suite.finish())
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

/// Text, an empty file, and a program of some megabytes.
fn demo_on_real_input() -> Result<()> {
    let program = demo::build()?;
    let folder = folder("demo")?;
    let empty = folder.join("empty");
    fs::write(&empty, "")?;
    for file in [Path::new("Cargo.lock"), &empty, &program] {
        let text = quietly(Command::new(&program).arg(setup::DLL).arg(file))?;
        ensure!(text.trim_end().ends_with("Everything matched."), "{text}");
        ensure!(text.contains("0 after"), "slots were not given back: {text}");
    }
    Ok(())
}

/// One clear line and a code that is not zero; never a signal.
fn demo_on_bad_input() -> Result<()> {
    let program = demo::build()?;
    let folder = folder("demo")?;
    let refused = |dll: &Path, file: &Path, reason: &str| {
        let output = Command::new(&program).arg(dll).arg(file).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{dll:?}, {file:?}: {:?}: {text}", output.status);
        let one_line = text.starts_with("host_dll: ") && text.lines().count() == 1 && text.contains(reason);
        ensure!(one_line && output.stdout.is_empty(), "{dll:?}, {file:?}: {text}");
        Ok(())
    };
    let (dll, file) = (Path::new(setup::DLL), Path::new("Cargo.lock"));
    let no_arguments = Command::new(&program).output()?;
    ensure!(no_arguments.status.code() == Some(2), "without arguments: {no_arguments:?}");
    refused(Path::new("no such.dll"), file, "no such.dll")?;
    refused(dll, Path::new("no such file"), "no such file")?;
    refused(file, file, "")?;
    refused(Path::new(setup::DLL_32), file, "32")?;
    let other = quietly(Command::new("x86_64-w64-mingw32-gcc").arg("-print-file-name=libgcc_s_seh-1.dll"))?;
    refused(Path::new(other.trim_end()), file, "zlibVersion")?;
    let whole = fs::read(dll)?;
    let truncated = folder.join("truncated.dll");
    for length in (0..1024).step_by(31).chain((1024..whole.len()).step_by(4001)) {
        fs::write(&truncated, &whole[..length])?;
        refused(&truncated, file, "")?;
    }
    Ok(())
}

fn build_for(target: &str) -> Result<()> {
    let mut command = cargo_for(target, "build", "core");
    command.args(OTHER_FOLDER);
    // Where cc looks for a plain `clang`, Debian has a numbered one.
    if target.ends_with("-uefi") {
        command.env(format!("CC_{}", target.replace('-', "_")), "clang-19");
    }
    quietly(&mut command)?;
    if target.ends_with("-none") {
        let library = format!("target/other/{target}/debug/libcalltable.rlib");
        let code = quietly(Command::new("objdump").arg("-d").arg(library))?;
        ensure!(code.contains("<calltable_frame_saving>:"), "the dispatchers are missing from the library");
        ensure!(!code.contains("%xmm") && !code.contains("mxcsr"), "a build without SSE touches XMM registers");
    }
    Ok(())
}

/// A program outside the workspace that links this crate and a copy of it that calls itself 0.1.999.
fn two_versions(run: &mut Command) -> Result<String> {
    let folder = folder("two_versions")?;
    let copy = folder.join("copy");
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
    fs::write(
        folder.join("Cargo.toml"),
        format!(
            "[package]\nname = \"two-versions\"\nversion = \"0.0.0\"\nedition = \"2024\"\nrust-version = \"1.85\"\n\
             [workspace]\nresolver = \"3\"\n[dependencies]\ncalltable = {{ path = {here:?} }}\n\
             other = {{ package = \"calltable\", path = \"copy\" }}\n"
        ),
    )?;
    fs::write(folder.join("src/main.rs"), TWO_VERSIONS)?;
    let text = quietly(run.current_dir(&folder))?;
    ensure!(text.contains("each has a table of its own\n"), "{text}");
    Ok(text)
}

const TWO_VERSIONS: &str = r#"type Code = unsafe extern "win64" fn(i32, i32, i32, i32, i32) -> i32;

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
    println!("each has a table of its own");
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
    two_versions(&mut run).map(drop)
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
