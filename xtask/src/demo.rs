//! The main job: a host for real Windows DLLs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::suite::{cargo, folder, quietly};
use xtask::{pypi, setup};

/// Builds the example and returns its program.
pub fn build() -> Result<PathBuf> {
    quietly(cargo().args(["build", "--release", "--package=calltable-host-dll"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    Ok(target.join("release/host_dll"))
}

/// zlib, SQLite, Zstandard.
fn dlls() -> Result<Vec<PathBuf>> {
    let mut dlls = vec![setup::DLL.into()];
    dlls.extend(pypi::dlls()?);
    Ok(dlls)
}

/// `options` are those of the host, with what the user has said of them.
pub fn run(mut dlls_wanted: Vec<PathBuf>, options: [(&str, Option<PathBuf>); 3]) -> Result<()> {
    setup::install(setup::DEMO)?;
    if dlls_wanted.is_empty() {
        dlls_wanted = dlls()?;
    }
    println!("building the host (half a minute the first time)");
    let program = build()?;
    let mut command = Command::new(&program);
    for (option, value) in options {
        command.args(value.map(|value| [option.into(), value]).into_iter().flatten());
    }
    command.args(dlls_wanted);
    println!("running {command:?}\n");
    if !command.status()?.success() {
        bail!("the demo failed, see above");
    }
    Ok(())
}

/// Text, an empty file, and a program of some megabytes. What the DLLs have written is read by Debian's programs.
pub fn on_real_input() -> Result<()> {
    let (program, dlls, folder) = (build()?, dlls()?, folder("demo")?);
    let guide = fs::read_to_string("docs/host-windows-code.md")?;
    let empty = folder.join("empty");
    fs::write(&empty, "")?;
    for file in [Path::new("Cargo.lock"), &empty, &program] {
        let bytes = fs::read(file)?;
        let text = quietly(Command::new(&program).arg("--file").arg(file).arg("--keep").arg(&folder).args(&dlls))?;
        ensure!(text.trim_end().ends_with("Everything matched."), "{text}");
        ensure!(text.contains("0 after"), "slots were not given back: {text}");
        let of_microsoft = text.lines().filter(|line| line.contains("linker") && line.contains("Microsoft's, 14."));
        ensure!(of_microsoft.count() == 2, "two of them are not by Microsoft's linker: {text}");
        ensure!(text.contains("msvc-19"), "SQLite does not say that MSVC has compiled it: {text}");

        for line in text.lines().filter(|line| line.trim_start().starts_with("imports ")) {
            let counts: Vec<u32> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let row = format!(" | {} | {} |\n", counts.iter().sum::<u32>(), counts[0]);
            ensure!(guide.contains(&row), "docs/host-windows-code.md does not say {row:?}: {line}");
        }

        let plain = folder.join("plain");
        quietly(
            Command::new("zstd").args(["--decompress", "--force", "-o"]).arg(&plain).arg(folder.join("input.zst")),
        )?;
        ensure!(fs::read(plain)? == bytes, "zstd makes something else of what the DLL has compressed");
        let query = "PRAGMA integrity_check; SELECT hex(bytes) FROM piece ORDER BY number";
        let text = quietly(Command::new("sqlite3").arg(folder.join("pieces.sqlite")).arg(query))?;
        let (check, pieces) = text.split_once('\n').context("sqlite3 has printed nothing")?;
        ensure!(check == "ok", "sqlite3 says of the DLL's database: {check}");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        ensure!(pieces.replace('\n', "") == hex, "sqlite3 finds other pieces than the DLL was given");
    }
    Ok(())
}

/// One clear line and a code that is not zero; never a signal.
pub fn on_bad_input() -> Result<()> {
    let (program, folder) = (build()?, folder("demo")?);
    let refused = |dll: &Path, file: &Path, reason: &str| {
        let output = Command::new(&program).arg("--file").args([file, dll]).output()?;
        ensure!(output.stdout.is_empty(), "{dll:?}, {file:?}: {}", String::from_utf8_lossy(&output.stdout));
        let text = message(&output, 1)?;
        ensure!(text.contains(reason), "{dll:?}, {file:?}: {text}");
        Ok(())
    };
    let (dll, file) = (Path::new(setup::DLL), Path::new("Cargo.lock"));
    let no_arguments = Command::new(&program).output()?;
    ensure!(no_arguments.status.code() == Some(2), "without arguments: {no_arguments:?}");
    refused(Path::new("no such.dll"), file, "no such.dll")?;
    refused(dll, Path::new("no such file"), "no such file")?;
    refused(file, file, "it is not a PE file")?;
    refused(Path::new(setup::DLL_32), file, "it is a 32-bit PE file")?;
    let whole = fs::read(dll)?;
    let other = folder.join("other.dll");
    // Where the header starts stands at 0x3c; in it machine and characteristics.
    let header = u32::from_le_bytes(whole[0x3c..0x40].try_into()?) as usize;
    for (offset, value, reason) in
        [(4, 0xaa64_u16, "it is for machine 0xaa64"), (22, 0x22, "it is a program, not a DLL")]
    {
        let mut bytes = whole.clone();
        bytes[header + offset..][..2].copy_from_slice(&value.to_le_bytes());
        fs::write(&other, bytes)?;
        refused(&other, file, reason)?;
    }
    for length in (0..1024).step_by(31).chain((1024..whole.len()).step_by(4001)) {
        fs::write(&other, &whole[..length])?;
        refused(&other, file, "")?;
    }
    Ok(())
}

/// A DLL for each thing that can be asked of a loader. What it has not is reported by its name, by its number, and
/// where it was to be found only when it is called; what it has does what it must.
pub fn on_other_dlls() -> Result<()> {
    let (program, folder) = (build()?, folder("demo/other")?);
    let source = Path::new("examples/host_dll/tests");
    for name in ["other", "late"] {
        let mut dlltool = Command::new("llvm-dlltool-19");
        dlltool.args(["-m", "i386:x86-64", "-d"]).arg(source.join(format!("{name}.def")));
        quietly(dlltool.arg("-l").arg(folder.join(format!("lib{name}.a"))))?;
    }
    // Clang, whose thread-local variables are Windows' own, and LLVM's linker, which delays imports; GNU's do neither.
    let make = |name: &str, option: &str| {
        let dll = folder.join(name);
        let mut clang = Command::new("clang-19");
        clang.args(["--target=x86_64-w64-windows-gnu", "-fuse-ld=/usr/bin/ld.lld-19", "-shared", "-O1", "-Wall"]);
        clang.args(["-Werror", option, "-o"]).arg(&dll).args(["guest.c", "guest.def"].map(|file| source.join(file)));
        clang.arg("-L").arg(&folder).args(["-lother", "-llate", "-Wl,-Xlink=/delayload:LATE.dll"]);
        quietly(&mut clang).map(|_| dll)
    };
    let run = |dlls: &[PathBuf]| Command::new(&program).args(dlls).output();

    for (call, missing) in [("BY_NAME", "KERNEL32.dll!Beep"), ("BY_NUMBER", "OTHER.dll!#7"), ("LATE", "LATE.dll!late")]
    {
        let dll = make("calls.dll", &format!("-D{call}"))?;
        let text = message(&run(&[dll])?, 3)?;
        ensure!(text == format!("host_dll: calls.dll called {missing}, which this host does not implement"), "{text}");
    }
    // Of Microsoft's compiler: a message for a debugger.
    let sqlite = pypi::dlls()?.swap_remove(0);
    let output = Command::new(&program).args(["--call", "sqlite3_win32_write_debug"]).arg(sqlite).output()?;
    let text = message(&output, 3)?;
    ensure!(text.contains("sqlite3.dll called KERNEL32.dll!OutputDebugStringA, which"), "{text}");
    let text = message(&run(&[make("refuses.dll", "-DREFUSE")?])?, 1)?;
    ensure!(text.ends_with("refuses.dll: its entry point says that it cannot be used"), "{text}");
    // Two that have variables of their threads, and start threads.
    let dlls = [make("first.dll", "-DVARIABLE=42")?, make("second.dll", "-DVARIABLE=43")?];
    let output = run(&dlls)?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "  only reported                        KERNEL32.dll!Beep\n",
        "  only reported                        OTHER.dll!#7\n",
        "  only reported                        LATE.dll!late\n",
        "  export                               answer\n",
        "  export                               elsewhere, a forwarder to OTHER.function\n",
        "  first.dll, locks and threads         0 locks held, 1 threads started\n",
        "  second.dll, locks and threads        0 locks held, 1 threads started\n",
        "Everything matched.\n",
    ] {
        ensure!(text.contains(line), "{line:?} is missing: {text}");
    }
    Ok(())
}

/// The one line of a program that has ended with this status.
fn message(output: &Output, status: i32) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(status), "{:?} instead of {status}: {text}", output.status);
    ensure!(text.starts_with("host_dll: ") && text.lines().count() == 1, "{text}");
    Ok(text.trim_end().to_owned())
}
