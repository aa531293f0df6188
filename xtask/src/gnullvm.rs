//! Programs for Windows on ARM64 with std: rustc compiles them, and Zig links them, with its MinGW libraries. Debian 12
//! has none of that processor. Zig is a package of PyPI's, and so are Microsoft's own DLLs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::pypi;
use crate::suite::{cargo_for, quietly, variable};

/// As Rust calls it.
pub const TARGET: &str = "aarch64-pc-windows-gnullvm";

/// A package of PyPI's, with its version.
const ZIG: &str = "ziglang==0.17.1";
/// The C and C++ libraries of Visual Studio, which are ARM64X: code of ARM64 and ARM64EC in one file.
const MICROSOFT: &str = "msvc-runtime==14.44.35112";

/// A command of cargo for such programs.
pub fn cargo(command: &str, flags: &str) -> Result<Command> {
    let linker = compiler("cc")?;
    let mut cargo = cargo_for(TARGET, command, &format!("-Clinker-flavor=gcc -Clink-self-contained=no {flags}"))?;
    let for_cc = TARGET.replace('-', "_");
    cargo
        .args(["--target-dir", "target/windows"])
        .env(variable(TARGET, "LINKER"), linker)
        .env(format!("CC_{for_cc}"), "clang-19")
        .env(format!("AR_{for_cc}"), "llvm-ar-19")
        // Its headers are the same for all processors.
        .env(format!("CFLAGS_{for_cc}"), "--target=aarch64-w64-mingw32 -isystem /usr/share/mingw-w64/include");
    Ok(cargo)
}

/// A compiler, which links too, for C (`cc`) or C++ (`c++`). Its command line is GCC's.
pub fn compiler(language: &str) -> Result<PathBuf> {
    let package = pypi::package(ZIG, &[])?;
    let compiler = package.join(language);
    let zig = package.join("ziglang/zig");
    let text = format!(
        r#"#!/bin/sh
# Leaves out what rustc asks of MinGW's GCC and this has not, or has under other names; and what would make an archive
# of a DLL: all but the system's DLLs is static here.
export ZIG_GLOBAL_CACHE_DIR={0}/cache ZIG_LOCAL_CACHE_DIR={0}/cache
count=$#
while [ $count -gt 0 ]; do
    argument=$1
    shift
    count=$((count - 1))
    case $argument in
    -static | -Wl,--disable-auto-image-base | -Wl,--dynamicbase | -Wl,--high-entropy-va) ;;
    -lgcc_eh | -lgcc | -lgcc_s | -l:libpthread.a | -lmingwex | -lmingw32 | -lmsvcrt) ;;
    *) set -- "$@" "$argument" ;;
    esac
done
exec {0}/ziglang/zig {1} -target aarch64-windows-gnu -fno-sanitize=all -Wno-unused-command-line-argument "$@"
"#,
        package.to_str().context("the folder's path is not UTF-8")?,
        language
    );
    if fs::read_to_string(&compiler).is_ok_and(|found| found == text) {
        return Ok(compiler);
    }
    let written = package.join(format!("{language}.new"));
    fs::write(&written, text)?;
    quietly(Command::new("chmod").arg("+x").arg(&written).arg(zig))?;
    fs::rename(written, &compiler)?;
    Ok(compiler)
}

/// The folder of Microsoft's DLLs.
pub fn microsoft() -> Result<PathBuf> {
    let platform = ["--platform=win_arm64", "--python-version=3.11", "--implementation=cp"];
    let package = pypi::package(MICROSOFT, &platform)?;
    let version = MICROSOFT.replace("==", "-").replace("msvc-", "msvc_");
    Ok(package.join(format!("{version}.data/data/Scripts")))
}
