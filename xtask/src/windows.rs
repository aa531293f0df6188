//! The suite `windows`: programs for Windows, run by Wine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::mingw::{ARCHITECTURES, build_random, gnu, gnu_target, random};
use xtask::suite::{Suite, cargo, cargo_for, folder, quietly, variable};
use xtask::wine::{Wine, for_windows};
use xtask::{CAPACITY, benches, library};

use crate::host;

#[path = "../../tests/windows/build_dll.rs"]
pub mod build_dll;

/// Runs the suite; returns whether all passed.
pub fn run() -> Result<bool> {
    let wine = Wine::start()?;
    let mut suite = Suite::new("windows", 4 + ARCHITECTURES.len() * 8);
    let mut targets = Vec::new();

    suite.check("formatting and lints", || {
        quietly(cargo().args(["fmt", "--check", "--manifest-path", MSVC_MANIFEST]))?;
        for arch in ARCHITECTURES {
            // Clippy takes what `thread_local!` makes of a `const` initializer on this target for none.
            let lints = ["--", "-Dwarnings", "-Aclippy::missing_const_for_thread_local"];
            quietly(gnu(arch, "clippy")?.args(programs(arch, "clippy")).args(lints))?;
            quietly(msvc(arch, "clippy", "rustc")?.args(["--", "-Dwarnings"]))?;
        }
        Ok(())
    });

    for arch in ARCHITECTURES {
        let random = build_random(arch)?;
        let c_side = build_c_side(arch)?;
        for (title, arguments) in [("", [].as_slice()), (", optimised", &["--profile=optimised"])] {
            let before = suite.passed();
            let target = format!("{}{title}", gnu_target(arch));
            suite.tests(
                &format!("all tests, among them real APIs and C callers, {target}"),
                wine.set(&mut gnu(arch, "test")?)
                    .arg("--no-fail-fast")
                    .args(programs(arch, "test"))
                    .args(arguments)
                    .env("WINEPATH", for_windows(&random))
                    .env(variable(&gnu_target(arch), "RUNNER"), wine.runner())
                    .env(build_dll::VARIABLE, for_windows(&c_side)),
            );
            targets.push((target, suite.passed() - before));
        }

        suite.check(&format!("the examples, {}", gnu_target(arch)), || examples(&wine, arch, &random));

        let run = |flags: &str| -> Result<Command> {
            let mut run = cargo_for(&gnu_target(arch), "run", flags)?;
            wine.set(&mut run).env(variable(&gnu_target(arch), "RUNNER"), wine.runner());
            run.env("WINEPATH", for_windows(&random));
            Ok(run)
        };
        suite.check(
            &format!("two versions in one program, as one text of rustc's assembler, {}", gnu_target(arch)),
            || {
                let mut run = run("")?;
                run.args(["--profile=fat", "--features=capi"]).env("CALLTABLE_ASSEMBLER", "rustc");
                host::two_versions("windows", &mut run).map(drop)
            },
        );
        if arch == "x86_64" {
            let title = "a program that uses the crate by way of a Rust dylib, optimised";
            suite.check(&format!("{title}, {}", gnu_target(arch)), || in_dylib(&random, run("-Cprefer-dynamic")?));
        }

        for assembler in ASSEMBLERS {
            let before = suite.passed();
            check_msvc(&mut suite, arch, assembler, &wine.runner(), |command| {
                wine.set(command);
            });
            targets.push((format!("{}, assembled by {assembler}", msvc_target(arch)), suite.passed() - before));
        }
    }

    suite.program("the programs that docs/migrate.md compares ours with", || other_ways(&wine));
    suite.check("a program for drivers imports nothing", || check_driver("x86_64"));

    for (target, passed) in targets {
        println!("{target}: {passed} cases passed");
    }
    Ok(suite.finish())
}

/// What `CALLTABLE_ASSEMBLER` may be.
pub const ASSEMBLERS: [&str; 2] = ["rustc", "cc"];

/// Two steps: links the program without std, and runs it.
pub fn check_msvc(suite: &mut Suite, arch: &str, assembler: &str, runner: &str, set: impl FnOnce(&mut Command)) {
    let target = format!("{}, assembled by {assembler}", msvc_target(arch));
    let mut program = None;
    suite.check(&format!("links and lists every entry as a guarded call target, {target}"), || {
        let built = build_msvc(arch, assembler, "calltable-msvc", &[])?;
        check_guard_list(arch, &built)?;
        program = Some(built);
        Ok(())
    });
    suite.program(&format!("real APIs without std, {target}"), || {
        let program = program.as_ref().context("there is no such program, see above")?;
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{runner} {}", program.display())]);
        set(&mut command);
        Ok(command)
    });
}

/// Programs of other crates and of none, as they would be for x86_64.
fn other_ways(wine: &Wine) -> Result<Command> {
    let target = gnu_target("x86_64");
    let mut build = cargo_for(&target, "build", "")?;
    build.args(["--manifest-path", benches::MANIFEST, "--target-dir", "target/windows"]);
    quietly(build.args(["--example=tasks", "--features=rivals"]))?;
    let mut command = Command::new("sh");
    let program = Path::new("target/windows").join(target).join("debug/examples/tasks.exe");
    command.args(["-c", &format!("{} {}", wine.runner(), program.display())]);
    wine.set(&mut command).env("WINEPATH", random("x86_64")?);
    Ok(command)
}

fn in_dylib(random: &Path, mut run: Command) -> Result<()> {
    let folder = std::env::current_dir()?.join(host::in_dylib("windows")?);
    let target = gnu_target("x86_64");
    // GCC's unwinder, which such programs have as a DLL.
    let mut gcc = Command::new("x86_64-w64-mingw32-gcc");
    let unwinder = PathBuf::from(quietly(gcc.arg("-print-file-name=libgcc_s_seh-1.dll"))?.trim());
    let release = folder.join("target").join(&target).join("release");
    let deps = release.join("deps");
    let (unwinder, library) = (unwinder.parent().context("GCC has no such DLL")?, library::folder_of(&target)?);
    let folders = [&release, &deps, random, unwinder, &library].map(for_windows);
    run.arg("--release");
    run.env("WINEPATH", folders.join(";")).current_dir(&folder);
    host::check_dylib(&quietly(&mut run)?)
}

/// Runs the examples for Windows: one opens a window, the other must list it.
fn examples(wine: &Wine, arch: &str, random: &Path) -> Result<()> {
    let cargo = |command: &str| -> Result<Command> {
        let mut cargo = gnu(arch, command)?;
        let runner = variable(&gnu_target(arch), "RUNNER");
        wine.set(&mut cargo).args(["--quiet", "--all-features"]).env(runner, wine.runner());
        cargo.env("WINEPATH", for_windows(random));
        Ok(cargo)
    };
    quietly(cargo("build")?.args(["--example=window", "--example=enum_windows"]))?;
    // On a busy machine the window may have closed before the other example is there.
    for seconds in [5, 15, 45] {
        let mut open = cargo("run")?;
        open.args(["--example=window", "--", "--close-after", &format!("{seconds}000")]);
        println!("    {open:?}");
        // Files, since the first program to run starts Wine's desktop, which would keep a pipe open as long as it
        // lives.
        let folder = folder("examples")?;
        let (said, listed, complained) = (folder.join("window"), folder.join("list"), folder.join("complaint"));
        let mut window = open.stdout(fs::File::create(&said)?).stderr(Stdio::null()).spawn()?;
        let mut list = String::new();
        while !list.lines().any(|title| title == "A closure's window") && window.try_wait()?.is_none() {
            let mut enumerate = cargo("run")?;
            enumerate.arg("--example=enum_windows").stdout(fs::File::create(&listed)?);
            let status = enumerate.stderr(fs::File::create(&complained)?).status()?;
            list = fs::read_to_string(&listed)?;
            ensure!(status.success(), "enum_windows: {status}\n{list}{}", fs::read_to_string(&complained)?);
        }
        let status = window.wait()?;
        let text = fs::read_to_string(said)?;
        ensure!(status.success() && text.contains(" messages, "), "{status}: {text}");
        ensure!(!text.contains(" 0 of them"), "the window procedure was never entered again: {text}");
        if list.lines().any(|title| title == "A closure's window") {
            let count = list.lines().count() - 1;
            ensure!(list.ends_with(&format!("\n({count} windows have a title)\n")), "{list}");
            return Ok(());
        }
    }
    bail!("the window was open for up to 45 seconds and never listed")
}

fn msvc_target(arch: &str) -> String {
    format!("{arch}-pc-windows-msvc")
}

/// Those of the workspace that run on Windows.
const PACKAGES: [&str; 5] = [
    "--package=calltable",
    "--package=calltable-callers",
    "--package=calltable-capi",
    "--package=calltable-lua",
    "--package=calltable-torture",
];

/// What cargo is to build: all that the target has. On i686 some examples lack a convention that they could use.
fn programs(arch: &str, command: &str) -> Vec<&'static str> {
    let mut programs = vec!["--all-features"];
    match (arch, command) {
        ("i686", _) => programs.push("--tests"),
        (_, "clippy") => {
            programs.push("--all-targets");
            programs.extend(PACKAGES);
        }
        _ => {} // documentation, too
    }
    programs
}

/// The DLL that calls back, in C and C++.
fn build_c_side(arch: &str) -> Result<PathBuf> {
    let out = std::env::current_dir()?.join(folder(&format!("windows/{arch}"))?);
    let tools = ["gcc", "g++"].map(|tool| format!("{arch}-w64-mingw32-{tool}"));
    for mut step in build_dll::steps(arch, &tools, Path::new("tests/windows"), &out) {
        quietly(&mut step)?;
    }
    Ok(out.join(build_dll::NAME))
}

const MSVC_MANIFEST: &str = "tests/windows/msvc/Cargo.toml";
const MSVC_FOLDER: &str = "target/msvc";

/// A command of cargo for the program without std, which lld-link links.
pub fn msvc(arch: &str, command: &str, assembler: &str) -> Result<Command> {
    let target = msvc_target(arch);
    let mut cargo = cargo_for(&target, command, "-Clinker-flavor=lld-link -Ccontrol-flow-guard -Zehcont-guard")?;
    let for_cc = target.replace('-', "_");
    // Optimised: else compiler_builtins asks for functions of a C library.
    cargo
        .args(["--release", "--manifest-path", MSVC_MANIFEST, "--target-dir", MSVC_FOLDER])
        .env(variable(&target, "LINKER"), "lld-link-19")
        .env(format!("CC_{for_cc}"), "clang-19")
        .env(format!("AR_{for_cc}"), "llvm-lib-19")
        .env("CALLTABLE_ASSEMBLER", assembler)
        .env("CALLTABLE_CAPACITY", CAPACITY.to_string());
    Ok(cargo)
}

/// Builds one of its programs, with default features or without.
fn build_msvc(arch: &str, assembler: &str, program: &str, features: &[&str]) -> Result<PathBuf> {
    quietly(msvc(arch, "build", assembler)?.args(["--bin", program]).args(features))?;
    Ok(Path::new(MSVC_FOLDER).join(msvc_target(arch)).join("release").join(program).with_extension("exe"))
}

/// A driver cannot be loaded if it imports from a DLL of user mode.
pub fn check_driver(arch: &str) -> Result<()> {
    let program = build_msvc(arch, "cc", "driver", &["--no-default-features"])?;
    let imports = quietly(Command::new("llvm-readobj-19").arg("--coff-imports").arg(program))?;
    ensure!(!imports.contains("Import {"), "{imports}");
    Ok(())
}

/// Reads the load configuration of an image: Windows would refuse to call an entry that is not listed, to run a handler
/// of SEH, or to continue after an exception at an address that is not.
fn check_guard_list(arch: &str, program: &Path) -> Result<()> {
    const STRIDE: u64 = 16; // ENTRY_STRIDE of Windows, on all architectures
    let text =
        quietly(Command::new("llvm-readobj-19").args(["--coff-load-config", "--coff-debug-directory"]).arg(program))?;
    let list = |name: &str| -> Result<Vec<u64>> {
        let start = format!("{name} [");
        let list = text.split_once(&start).with_context(|| format!("no {name} in the load configuration"))?.1;
        let lines = list.lines().skip(1).map_while(|line| line.trim().strip_prefix("0x"));
        Ok(lines.filter_map(|digits| u64::from_str_radix(digits, 16).ok()).collect())
    };
    let addresses = list("GuardFidTable")?;
    let mut longest = 0;
    let mut run = 0;
    for pair in addresses.windows(2) {
        run = if pair[1] == pair[0] + STRIDE { run + 1 } else { 0 };
        longest = longest.max(run + 1);
    }
    ensure!(addresses.len() > CAPACITY, "only {} call targets are listed", addresses.len());
    ensure!(longest >= CAPACITY, "only {longest} entries in a row are listed");
    ensure!(text.contains("CF_INSTRUMENTED"), "the image is not marked for Control Flow Guard");
    if arch == "x86_64" {
        ensure!(text.contains("EX_CET_COMPAT"), "the image is not marked for shadow stacks");
    }
    if arch != "i686" {
        let resume = list("GuardEHContTable")?.len();
        ensure!(resume == 1, "{resume} addresses to continue at are listed, not the one of the dispatcher");
    } else {
        let handlers = list("SEHTable")?.len();
        ensure!(handlers == 1, "{handlers} handlers of SEH are listed, not the one of the dispatcher");
    }
    Ok(())
}
