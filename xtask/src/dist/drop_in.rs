//! The drop-in for libffi's closures, in the folder of a target.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{build, strip};
use crate::suite::quietly;

/// What it takes the place of.
pub const FUNCTIONS: [&str; 4] = ["ffi_closure_alloc", "ffi_closure_free", "ffi_prep_closure_loc", "ffi_prep_closure"];

/// What it wants of a program beside what [`super::WANTED`] says: on Windows also what makes sure that there is stack,
/// of which closures with many arguments take more than a page. Where there is malloc, there is that.
const WANTED: &[&str] =
    &["malloc", "free", "__chkstk", "_chkstk", "_alloca", "__alloca", "___chkstk_ms", "__chkstk_ms"];

pub(super) const PACKAGE: &str = "calltable-libffi";
/// Where it is built.
pub(super) const FOLDER: &str = "target/other/libffi";
/// How many closures there may be at a time: language runtimes free theirs when the garbage collector gets to it.
pub(super) const SLOTS: &str = "16384";

/// Its libraries.
pub struct DropIn {
    /// The static one.
    pub archive: PathBuf,
    /// For Linux, where a program may get it by LD_PRELOAD.
    pub shared: Option<PathBuf>,
}

/// Makes its libraries in a folder.
pub fn drop_in(target: &str, lib: &Path) -> Result<DropIn> {
    fs::create_dir_all(lib)?;
    let name = if target.ends_with("-msvc") { "calltable-libffi.lib" } else { "libcalltable-libffi.a" };
    let archive = lib.join(name);
    fs::copy(build(PACKAGE, target, None)?, &archive)?;
    strip(target, &archive, WANTED)?;
    let Some(arch) = target.strip_suffix("-unknown-linux-gnu") else { return Ok(DropIn { archive, shared: None }) };
    let (compiler, flags): (_, &[_]) = match arch {
        "aarch64" => ("clang-19", &["--target=aarch64-linux-gnu", "-fuse-ld=lld"]),
        "i686" => ("gcc", &["-m32"]),
        _ => ("gcc", &["-m64"]),
    };
    let script = lib.join("exports");
    fs::write(&script, format!("{{ global: {}; local: *; }};\n", FUNCTIONS.join("; ")))?;
    let shared = lib.join("libcalltable-libffi.so");
    let mut link = Command::new(compiler);
    link.args(flags).args(["-shared", "-nostartfiles", "-Wl,-z,now,-z,defs", "-Wl,--whole-archive"]).arg(&archive);
    link.arg("-Wl,--no-whole-archive").arg(format!("-Wl,--version-script,{}", script.display()));
    let soname = shared.file_name().context("it has a name")?;
    quietly(link.arg(format!("-Wl,-soname,{}", soname.display())).arg("-o").arg(&shared))?;
    fs::remove_file(script)?;
    Ok(DropIn { archive, shared: Some(shared) })
}
