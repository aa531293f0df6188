//! The suite `windows`: programs for Windows, run by Wine.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::setup;
use crate::suite::{Suite, cargo, cargo_for, folder, quietly};

#[path = "../../tests/windows/build_dll.rs"]
mod build_dll;

const GNU: &str = "x86_64-pc-windows-gnu";
const MSVC: &str = "x86_64-pc-windows-msvc";

/// The number of slots that the guarded program is built with.
const CAPACITY: usize = 2000;

/// Runs the suite; returns whether all passed.
pub fn run() -> Result<bool> {
    setup::install(setup::HOST)?;
    setup::install(setup::WINDOWS)?;
    let wine = Wine::start()?;
    let mut suite = Suite::new("windows", 8);
    let mut targets = Vec::new();

    suite.check("formatting and lints", || {
        quietly(cargo().args(["fmt", "--check", "--manifest-path", MSVC_MANIFEST]))?;
        let all = ["--workspace", "--all-features", "--all-targets", "--", "-Dwarnings"];
        // Clippy takes what `thread_local!` makes of a `const` initializer on this target for none.
        quietly(
            cargo_for(GNU, "clippy", "std,panic_unwind").args(all).arg("-Aclippy::missing_const_for_thread_local"),
        )?;
        quietly(msvc("clippy", "rustc").args(["--", "-Dwarnings"])).map(drop)
    });

    for (title, arguments) in [("", [].as_slice()), (", optimised", &["--release"])] {
        let before = suite.passed();
        let target = format!("{GNU}{title}");
        suite.tests(
            &format!("all tests, among them real APIs and C callers, {target}"),
            wine.set(&mut cargo_for(GNU, "test", "std,panic_unwind"))
                .args(["--no-fail-fast", "--all-features"])
                .args(arguments)
                .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", wine.runner())
                .env(build_dll::VARIABLE, for_windows(&build_c_side()?)),
        );
        targets.push((target, suite.passed() - before));
    }

    suite.check(&format!("the examples, {GNU}"), || examples(&wine, GNU));

    for assembler in ["rustc", "cc"] {
        let before = suite.passed();
        let target = format!("{MSVC}, assembled by {assembler}");
        let mut program = None;
        suite.check(&format!("links and lists every entry as a guarded call target, {target}"), || {
            let built = build_msvc(assembler)?;
            check_guard_list(&built)?;
            program = Some(built);
            Ok(())
        });
        suite.program(&format!("real APIs without std, {target}"), || {
            let program = program.as_ref().context("there is no such program, see above")?;
            let mut command = Command::new("timeout");
            wine.set(&mut command).args(["60", &wine.program]).arg(program);
            Ok(command)
        });
        targets.push((target, suite.passed() - before));
    }

    for (target, passed) in targets {
        println!("{target}: {passed} cases passed");
    }
    Ok(suite.finish())
}

/// Runs the examples for Windows: one opens a window, the other must list it.
fn examples(wine: &Wine, target: &str) -> Result<()> {
    let cargo = |command: &str| {
        let mut cargo = cargo_for(target, command, "std,panic_unwind");
        let runner = format!("CARGO_TARGET_{}_RUNNER", target.to_uppercase().replace('-', "_"));
        wine.set(&mut cargo).args(["--quiet", "--all-features"]).env(runner, wine.runner());
        cargo
    };
    quietly(cargo("build").args(["--example=window", "--example=enum_windows"]))?;
    let mut open = cargo("run");
    open.args(["--example=window", "--", "--close-after", "5000"]);
    println!("    {open:?}");
    let mut window = open.stdout(Stdio::piped()).spawn()?;
    let list = loop {
        let list = quietly(cargo("run").arg("--example=enum_windows"))?;
        if list.lines().any(|title| title == "A closure's window") {
            break list;
        }
        ensure!(window.try_wait()?.is_none(), "the window closed and was not listed:\n{list}");
    };
    let count = list.lines().count() - 1;
    ensure!(list.ends_with(&format!("\n({count} windows have a title)\n")), "{list}");
    let output = window.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && text.contains(" messages, "), "{}: {text}", output.status);
    ensure!(!text.contains(" 0 of them"), "the window procedure was never entered again: {text}");
    Ok(())
}

/// A Wine prefix of our own, and a display for it; both end with this value.
struct Wine {
    program: String,
    prefix: PathBuf,
    /// DLLs that Wine lacks.
    extra: PathBuf,
    display: Display,
}

impl Wine {
    fn start() -> Result<Self> {
        let here = std::env::current_dir()?;
        let wine = Self {
            program: setup::WINE.to_owned(),
            prefix: here.join(folder("wine")?),
            extra: here.join(folder("wine-extra")?),
            display: Display::start()?,
        };
        wine.build_random()?;
        let complete = wine.prefix.join("complete");
        if !complete.exists() {
            println!("setting up Wine in {} (some 15 seconds, once)", wine.prefix.display());
            // The two that are left out would ask for packages that nothing here uses.
            quietly(
                wine.set(&mut Command::new(&wine.program))
                    .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
                    .args(["wineboot", "--init"]),
            )?;
            // Without this a program that crashes would wait for a debugger that nobody uses.
            let key = r"HKLM\Software\Microsoft\Windows NT\CurrentVersion\AeDebug";
            quietly(
                wine.set(&mut Command::new(&wine.program)).args(["reg", "add", key, "/v", "Debugger", "/d", "-", "/f"]),
            )?;
            fs::write(complete, "")?;
        }
        Ok(wine)
    }

    /// Has the command, if it runs Wine, use ours.
    fn set<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("WINEPREFIX", &self.prefix)
            .env("WINEDEBUG", "-all")
            .env("WINEPATH", for_windows(&self.extra))
            .env("DISPLAY", &self.display.name)
    }

    /// What cargo puts before the name of a test program. A test that hangs must not hang the suite.
    fn runner(&self) -> String {
        format!("timeout 300 {}", self.program)
    }

    /// Rust's std wants one function of a DLL that Wine 8 has not.
    fn build_random(&self) -> Result<()> {
        let made = self.extra.join("bcryptprimitives.dll");
        if made.exists() {
            return Ok(());
        }
        let source = self.extra.join("bcryptprimitives.c");
        fs::write(
            &source,
            "unsigned char __stdcall SystemFunction036(void *, unsigned long);\n\
             __declspec(dllexport) int __stdcall ProcessPrng(unsigned char *buffer, unsigned long long length) {\n\
             \x20   return SystemFunction036(buffer, (unsigned long)length);\n}\n",
        )?;
        let mut gcc = Command::new("x86_64-w64-mingw32-gcc");
        quietly(gcc.args(["-shared", "-O2", "-o"]).arg(&made).arg(&source).arg("-ladvapi32")).map(drop)
    }
}

impl Drop for Wine {
    fn drop(&mut self) {
        // Ends what runs in this prefix and nothing else.
        let _ = self.set(&mut Command::new(setup::WINESERVER)).arg("--kill").status();
    }
}

/// An X server without a screen.
struct Display {
    server: Child,
    name: String,
}

impl Display {
    fn start() -> Result<Self> {
        let mut command = Command::new("Xvfb");
        command.args(["-displayfd", "1", "-screen", "0", "800x600x24", "-nolisten", "tcp"]);
        let mut server =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
        let mut number = String::new();
        BufReader::new(server.stdout.take().expect("piped")).read_line(&mut number)?;
        let display = Self { server, name: format!(":{}", number.trim_end()) };
        ensure!(!number.is_empty(), "{command:?} found no free display");
        Ok(display)
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A path as Windows programs under Wine see it.
fn for_windows(path: &Path) -> String {
    format!("Z:{}", path.display()).replace('/', "\\")
}

/// The DLL that calls back, in C and C++.
fn build_c_side() -> Result<PathBuf> {
    let out = std::env::current_dir()?.join(folder("windows")?);
    let tools = build_dll::Tools { c: "x86_64-w64-mingw32-gcc", cxx: "x86_64-w64-mingw32-g++" };
    for mut step in build_dll::steps(&tools, Path::new("tests/windows"), &out) {
        quietly(&mut step)?;
    }
    Ok(out.join(build_dll::NAME))
}

const MSVC_MANIFEST: &str = "tests/windows/msvc/Cargo.toml";
const MSVC_FOLDER: &str = "target/msvc";

/// A command of cargo for the program without std, which lld-link links.
fn msvc(command: &str, assembler: &str) -> Command {
    let mut cargo = cargo_for(MSVC, command, "core,panic_abort");
    let variable = MSVC.to_uppercase().replace('-', "_");
    // Optimised: else compiler_builtins asks for functions of a C library.
    cargo
        .args(["--release", "--manifest-path", MSVC_MANIFEST, "--target-dir", MSVC_FOLDER])
        .env(format!("CARGO_TARGET_{variable}_LINKER"), "lld-link-19")
        .env(format!("CARGO_TARGET_{variable}_RUSTFLAGS"), "-Clinker-flavor=lld-link -Ccontrol-flow-guard")
        .env(format!("CC_{}", variable.to_lowercase()), "clang-19")
        .env(format!("AR_{}", variable.to_lowercase()), "llvm-lib-19")
        .env("CALLTABLE_ASSEMBLER", assembler)
        .env("CALLTABLE_CAPACITY", CAPACITY.to_string());
    cargo
}

fn build_msvc(assembler: &str) -> Result<PathBuf> {
    quietly(&mut msvc("build", assembler))?;
    Ok(Path::new(MSVC_FOLDER).join(MSVC).join("release/calltable-msvc.exe"))
}

/// Reads the load configuration of an image: Windows would refuse a call of an entry that is not listed.
fn check_guard_list(program: &Path) -> Result<()> {
    const STRIDE: u64 = 16;
    let text =
        quietly(Command::new("llvm-readobj-19").args(["--coff-load-config", "--coff-debug-directory"]).arg(program))?;
    let list = text.split_once("GuardFidTable [").context("no list of guarded call targets")?.1;
    let addresses: Vec<u64> = list
        .lines()
        .map_while(|line| (line != "]").then(|| line.trim().strip_prefix("0x")))
        .filter_map(|digits| u64::from_str_radix(digits?, 16).ok())
        .collect();
    let mut longest = 0;
    let mut run = 0;
    for pair in addresses.windows(2) {
        run = if pair[1] == pair[0] + STRIDE { run + 1 } else { 0 };
        longest = longest.max(run + 1);
    }
    ensure!(addresses.len() > CAPACITY, "only {} call targets are listed", addresses.len());
    ensure!(longest >= CAPACITY, "only {longest} entries in a row are listed");
    for mark in ["CF_INSTRUMENTED", "EX_CET_COMPAT"] {
        ensure!(text.contains(mark), "the image is not marked {mark}");
    }
    Ok(())
}
