//! A driver in C, linked with a library for drivers: no DLL of user mode, no XMM register.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use xtask::suite::{folder, quietly};
use xtask::{dist, setup};

use super::artefact::Target;

const SOURCES: &str = "tests/embed/driver";

/// The targets of the libraries: those of Windows, but for floating-point registers. A compiler flag cannot take these
/// away, since calls of Rust's own convention pass values in them; a target can.
pub const TARGETS: [&str; 2] = ["x86_64-softfloat-windows-msvc", "i686-softfloat-windows-msvc"];

/// Makes the static library.
pub fn library(target: &str) -> Result<PathBuf> {
    let ordinary = Target(target).ordinary();
    let mut rustc = Command::new(setup::DEBIAN_RUSTC);
    rustc.args(["-Zunstable-options", "--print=target-spec-json", "--target", &ordinary]).env("RUSTC_BOOTSTRAP", "1");
    let mut specification: serde_json::Value = serde_json::from_str(&quietly(&mut rustc)?)?;
    specification["features"] = "-mmx,-sse,+soft-float".into();
    specification["rustc-abi"] = "softfloat".into();
    specification.as_object_mut().context("a target is described by an object")?.remove("metadata");
    let file = std::env::current_dir()?.join(folder("driver")?).join(target).with_extension("json");
    // Cargo builds anew when it changes.
    let text = serde_json::to_string_pretty(&specification)?;
    if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
        fs::write(&file, text)?;
    }
    dist::build("calltable-capi", target, Some(&file))
}

/// Links the driver. It has a table of symbols, for the audit alone.
pub fn link(target: &str, library: &Path) -> Result<PathBuf> {
    let out = folder(&format!("driver/{target}"))?;
    let is_64 = target.starts_with("x86_64");
    let (imports, kernel) = (out.join("ntoskrnl.def"), out.join("ntoskrnl.lib"));
    // Only C symbols of i686 say how many bytes of arguments there are.
    let exports = fs::read_to_string(Path::new(SOURCES).join("ntoskrnl.def"))?;
    let lines = exports.lines().map(|line| if is_64 { line.split('@').next().unwrap_or(line) } else { line });
    fs::write(&imports, lines.collect::<Vec<_>>().join("\n"))?;
    let mut tool = Command::new("llvm-dlltool-19");
    tool.args(["--kill-at", "-m", if is_64 { "i386:x86-64" } else { "i386" }, "-d"])
        .arg(imports)
        .arg("-l")
        .arg(&kernel);
    quietly(&mut tool)?;

    let driver = out.join("driver.sys");
    let mut link = Command::new("lld-link-19");
    link.args(["/driver", "/subsystem:native", "/entry:DriverEntry", "/nodefaultlib", "/release", "/integritycheck"]);
    link.args(["/guard:cf,ehcont", "/dynamicbase", "/nxcompat", "/section:INIT,ERD", "/debug:symtab"]);
    link.args((!is_64).then_some("/safeseh")).arg(format!("/out:{}", driver.display()));
    // The kernel first: it has RtlUnwindEx, too, which the library would else import from ntdll.dll, and C's functions.
    for name in ["driver", "load_config"] {
        link.arg(compile(target, name)?);
    }
    quietly(link.arg(kernel).arg(library))?;
    Ok(driver)
}

/// Compiles a part of the driver.
pub fn compile(target: &str, name: &str) -> Result<PathBuf> {
    let object = folder(&format!("driver/{target}"))?.join(name).with_extension("o");
    let mut clang = Command::new("clang-19");
    clang.arg(format!("--target={}", Target(target).ordinary()));
    clang.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-mgeneral-regs-only"]);
    clang.args(["-Xclang", "-cfguard", "-Xclang", "-ehcontguard", "-Icapi/include", "-c"]);
    quietly(clang.arg(Path::new(SOURCES).join(name).with_extension("c")).arg("-o").arg(&object))?;
    Ok(object)
}
