//! `cargo xtask dist`: what programs of other languages link, in one folder for each target.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::library;
use crate::suite::{OTHER_FOLDER, cargo, cargo_with_library, quietly};

mod drop_in;
pub use drop_in::{DropIn, FUNCTIONS as REPLACED, drop_in};

/// Where each folder of [`make`] lies.
pub const FOLDER: &str = "target/dist";

/// Those that a folder is made for.
pub const TARGETS: &[&str] = &[
    "x86_64-unknown-linux-gnu",
    "i686-unknown-linux-gnu",
    "x86_64-pc-windows-gnu",
    "i686-pc-windows-gnu",
    "x86_64-pc-windows-msvc",
    "i686-pc-windows-msvc",
    "x86_64-unknown-uefi",
    "i686-unknown-uefi",
    "x86_64-unknown-none",
    "aarch64-unknown-linux-gnu",
    "aarch64-pc-windows-msvc",
    "aarch64-unknown-uefi",
    "aarch64-unknown-none",
    "aarch64-unknown-none-softfloat",
];

/// What is filled for a target, and where it lies in the folder.
const TEMPLATES: [(&str, &str); 4] = [
    ("CMakeLists.txt", include_str!("dist/CMakeLists.txt")),
    ("meson.build", include_str!("dist/meson.build")),
    ("lib/cmake/calltable/calltable-config.cmake", include_str!("dist/calltable-config.cmake")),
    ("lib/cmake/calltable/calltable-config-version.cmake", include_str!("dist/calltable-config-version.cmake")),
];
const PC: &str = include_str!("dist/calltable.pc");
const WRAP: &str = include_str!("dist/calltable.wrap");

/// For people, with the examples.
const DOCUMENTS: [&str; 2] = ["docs/c.md", "CHANGELOG.md"];
const EXAMPLES: &str = "examples/c";

/// Makes the folder of a target and returns it.
pub fn make(target: &str) -> Result<PathBuf> {
    let known = TARGETS.contains(&target);
    ensure!(known, "there is no such target to distribute; these are: {}", TARGETS.join(" "));
    let version = version()?;
    let out = std::env::current_dir()?.join(FOLDER).join(target);
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    let [lib, include, pc, cmake, licences, documents] =
        ["lib", "include", "lib/pkgconfig", "lib/cmake/calltable", "share/licenses/calltable", "share/doc/calltable"]
            .map(|name| out.join(name));
    for folder in [&lib, &include, &pc, &cmake, &licences, &documents] {
        fs::create_dir_all(folder)?;
    }

    let static_name = if target.ends_with("-msvc") { "calltable.lib" } else { "libcalltable.a" };
    fs::copy(build("calltable-capi", target, None)?, lib.join(static_name))?;
    strip(target, &lib.join(static_name), &[])?;
    let shared = share(target, &lib.join(static_name), &out, &version)?;
    if target.contains("-linux-") || target.contains("-windows-") {
        drop_in(target, &lib)?;
    }
    for name in ["calltable.h", "calltable.hpp"] {
        fs::copy(Path::new("capi/include").join(name), include.join(name))?;
    }
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        fs::copy(name, licences.join(name))?;
    }
    quietly(Command::new("cp").args(DOCUMENTS).arg(&documents))?;
    quietly(Command::new("cp").args(["-r", EXAMPLES]).arg(documents.join("examples")))?;
    if Path::new("linker").exists() {
        quietly(Command::new("cp").args(["-r", "linker"]).arg(&out))?;
    }

    let libraries = if target.ends_with("-windows-gnu") { ["ntdll", "kernel32"].as_slice() } else { &[] };
    let import = shared.as_ref().map_or("", |shared| shared.import);
    let pointer = if target.starts_with("i686") { "4" } else { "8" };
    let (family, system) = machine(target);
    let compatible = compatible(&version)?;
    let fill = |text: &str, kind: &str, definitions: &str, libs: &str| {
        [
            ("@STATIC@", static_name),
            ("@LIBRARIES@", &libraries.join(";")),
            ("@SHARED@", shared.as_ref().map_or("", |shared| &shared.file)),
            ("@SONAME@", shared.as_ref().map_or("", |shared| &shared.name)),
            ("@IMPORT@", import),
            ("@TARGET@", target),
            ("@FAMILY@", family),
            ("@SYSTEM@", system),
            ("@VERSION@", &version),
            ("@COMPATIBLE@", &compatible),
            ("@POINTER@", pointer),
            ("@KIND@", kind),
            ("@DEFINITIONS@", definitions),
            ("@LIBS@", libs),
        ]
        .iter()
        .fold(text.to_string(), |text, (mark, value)| text.replace(mark, value))
    };
    for (name, text) in TEMPLATES {
        fs::write(out.join(name), fill(text, "", "", ""))?;
    }
    let libs: String = libraries.iter().map(|name| format!(" -l{name}")).collect();
    fs::write(pc.join("calltable.pc"), fill(PC, "static", "", &format!("${{libdir}}/{static_name}{libs}")))?;
    if shared.is_some() {
        let libs = if import.is_empty() { "-L${libdir} -lcalltable".into() } else { format!("${{libdir}}/{import}") };
        fs::write(pc.join("calltable-shared.pc"), fill(PC, "shared", " -DCALLTABLE_SHARED", &libs))?;
    }
    Ok(out)
}

/// Puts the folder of a target into an archive beside it, with the file by which Meson finds that. Returns both.
pub fn pack(target: &str) -> Result<[PathBuf; 2]> {
    let name = format!("calltable-{}-{target}", version()?);
    let folder = std::env::current_dir()?.join(FOLDER);
    let (archive, wrap) = (folder.join(format!("{name}.tar.gz")), folder.join(format!("{name}.wrap")));
    let mut tar = Command::new("tar");
    // The same bytes for the same files.
    tar.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=go=u,go-w",
        "--mtime=@0",
        "--use-compress-program=gzip -n",
    ]);
    tar.arg(format!("--transform=flags=r;s,^{target},{name},"));
    quietly(tar.arg("-C").arg(&folder).arg("-cf").arg(&archive).arg(target))?;
    let sum = quietly(Command::new("sha256sum").arg(&archive))?;
    let sum = sum.split(' ').next().context("sha256sum says nothing")?;
    fs::write(&wrap, WRAP.replace("@NAME@", &name).replace("@SUM@", sum))?;
    Ok([archive, wrap])
}

/// How Meson calls a target's processor and system.
fn machine(target: &str) -> (&str, &str) {
    let family = target.split('-').next().unwrap_or(target);
    let system = ["linux", "windows"].into_iter().find(|system| target.contains(system));
    (if family == "i686" { "x86" } else { family }, system.unwrap_or_default())
}

/// Versions whose interface is the same, by Semantic Versioning: of 0.x those with the same x, of others those with the
/// same first number.
fn compatible(version: &str) -> Result<String> {
    let (major, rest) = version.split_once('.').context("a version has dots")?;
    Ok(match (major, rest.split_once('.')) {
        ("0", Some((minor, _))) => format!("0.{minor}"),
        _ => major.into(),
    })
}

/// The crate's version.
pub fn version() -> Result<String> {
    let id = quietly(cargo().args(["pkgid", "--package", "calltable"]))?;
    let version = id.trim_end().rsplit(['#', '@']).next();
    Ok(version.context("a package has a version")?.into())
}

/// The static library of a package as cargo makes it; if a file describes the target, it is one for drivers.
pub fn build(package: &str, target: &str, described: Option<&Path>) -> Result<PathBuf> {
    let is_elf = !target.contains("-windows-") && !target.ends_with("-uefi");
    let library = if is_elf { library::landing(target) } else { library::of(target) };
    let file = described.map_or(target.into(), Path::to_string_lossy);
    let is_aarch64 = target.starts_with("aarch64");
    // Else each atomic change is a call of the compiler's library, which asks what the processor has.
    let flags = match (is_aarch64, target.contains("-none")) {
        (true, true) => "-Crelocation-model=pic", // for kernels that lie anywhere; on x86_64 it is Rust's own choice
        (true, false) => "-Ctarget-feature=-outline-atomics",
        (false, _) => "",
    };
    let mut command = cargo_with_library(&file, "rustc", library, flags)?;
    if described.is_some() {
        command.args(["-Zjson-target-spec", "--no-default-features"]);
    }
    command.args(["--package", package, "--lib", "--crate-type=staticlib", "--profile=dist"]);
    command.arg("--features=panic-handler");
    if package == drop_in::PACKAGE {
        // A folder of its own: the other libraries are built for another number of slots.
        command.args(["--target-dir", drop_in::FOLDER]).env("CALLTABLE_CAPACITY", drop_in::SLOTS);
    } else {
        command.args(["--target-dir", OTHER_FOLDER]);
    }
    let for_cc = target.replace('-', "_");
    if target.ends_with("-uefi") || target.ends_with("-msvc") || is_aarch64 {
        command.env(format!("CC_{for_cc}"), "clang-19");
    }
    if target.ends_with("-msvc") {
        command.env(format!("AR_{for_cc}"), "llvm-lib-19");
    } else if is_aarch64 {
        command.env(format!("AR_{for_cc}"), "llvm-ar-19");
    }
    quietly(&mut command)?;
    let folder = Path::new(if package == drop_in::PACKAGE { drop_in::FOLDER } else { OTHER_FOLDER });
    let folder = folder.join(target).join("dist");
    let name = package.replace('-', "_");
    let names = [format!("lib{name}.a"), format!("{name}.lib")].map(|name| folder.join(name));
    names.into_iter().find(|name| name.exists()).context("cargo has made no static library")
}

/// Takes out what Rust adds to every static library, and makes sure that nothing of the rest wants it, or more than is
/// listed.
fn strip(target: &str, library: &Path, more: &[&str]) -> Result<()> {
    let members = quietly(Command::new("llvm-ar-19").arg("t").arg(library))?;
    // Ours are the crate, its assembly, and what imports from DLLs; and arithmetic where Rust uses no floating-point
    // unit.
    let is_soft = target == "i686-unknown-uefi";
    let ours = ["calltable", if is_soft { "compiler_builtins" } else { ".dll" }];
    let added = members.lines().filter(|member| !ours.iter().any(|name| member.contains(name)));
    let list = library.with_extension("added");
    fs::write(&list, added.collect::<Vec<_>>().join("\n"))?;
    quietly(Command::new("llvm-ar-19").arg("d").arg(library).arg(format!("@{}", list.display())))?;
    fs::remove_file(list)?;

    let symbols = quietly(Command::new("llvm-nm-19").arg(library))?;
    let symbols = || symbols.lines().filter_map(|line| line.rsplit_once(' '));
    let defined: Vec<_> = symbols().filter(|(kind, _)| !kind.ends_with('U')).map(|(_, name)| name).collect();
    let is_decorated = target.starts_with("i686") && !target.ends_with("linux-gnu");
    for (_, name) in symbols().filter(|(kind, name)| kind.ends_with('U') && !defined.contains(name)) {
        let plain = name.split('@').next().unwrap_or(name);
        let plain = if is_decorated { plain.strip_prefix('_').unwrap_or(plain) } else { plain };
        let wanted = WANTED.iter().filter(|(targets, _)| target.contains(targets)).flat_map(|(_, names)| *names);
        ensure!(
            wanted.chain(more).any(|wanted| *wanted == plain),
            "the library wants {name}, which not every program has"
        );
    }
    if let Some(name) = defined.iter().find(|name| name.contains("panicking") || name.contains("rust_begin_unwind")) {
        bail!("something in the library may panic, since it has {name}");
    }
    Ok(())
}

/// What the library wants of a program, on targets whose names contain that.
pub const WANTED: &[(&str, &[&str])] = &[
    // Every C compiler wants these, too, even for a machine without a library.
    ("", &["memcpy", "memmove", "memset"]),
    ("linux", &["_GLOBAL_OFFSET_TABLE_"]),
    (
        "windows-gnu",
        &[
            "GetStdHandle",
            "WriteFile",
            "OutputDebugStringA",
            "Sleep",
            "RtlDllShutdownInProgress",
            "RtlUnwind",
            "RtlUnwindEx",
        ],
    ),
    ("x86_64-pc-windows-gnu", &["RtlCaptureStackBackTrace"]),
    // Of Microsoft's C library.
    ("i686-pc-windows-msvc", &["_fltused"]),
    // Of libgcc.
    ("i686-pc-windows-gnu", &["_Unwind_GetCFA", "_Unwind_SetIP"]),
];

/// A shared library.
struct Shared {
    /// The file's name.
    file: String,
    /// What programs that are linked with it ask the system for.
    name: String,
    /// Its import library, where there is one.
    import: &'static str,
}

/// Makes a shared library of a static one, in a folder's `lib` or `bin`, for the systems that have a linker for it
/// here.
fn share(target: &str, library: &Path, out: &Path, version: &str) -> Result<Option<Shared>> {
    match target.split_once('-').context("a target has dashes")? {
        (arch, "unknown-linux-gnu") => {
            let (file, name) = share_linux(arch, library, &out.join("lib"), version, &[])?;
            Ok(Some(Shared { file, name, import: "" }))
        }
        (arch, "pc-windows-gnu") => {
            let (file, import) = ("calltable.dll", "libcalltable.dll.a");
            fs::create_dir_all(out.join("bin"))?;
            let exports = out.join("calltable.def");
            fs::write(&exports, format!("EXPORTS\n{}\n", exported(library)?.join("\n")))?;
            let mut gcc = Command::new(format!("{arch}-w64-mingw32-gcc"));
            whole(&mut gcc, library);
            gcc.arg(&exports).arg(format!("-Wl,--out-implib,{}", out.join("lib").join(import).display()));
            let file_name = out.join("bin").join(file);
            quietly(gcc.arg("-static-libgcc").arg("-o").arg(file_name).args(["-lntdll", "-lkernel32"]))?;
            fs::remove_file(exports)?;
            Ok(Some(Shared { file: file.into(), name: file.into(), import }))
        }
        _ => Ok(None),
    }
}

/// Makes a shared object of a version, with the links by which programs and compilers find it; more functions may be
/// added to it. Returns the file's name, and the one that programs ask for.
///
/// That one is the same for all versions with the same interface: an update of the file reaches the programs that were
/// linked before, and one that would break them is another library to them. Names carry the same version, so that two
/// such libraries can be in one process, where each caller finds its own.
pub fn share_linux(
    arch: &str,
    library: &Path,
    lib: &Path,
    version: &str,
    more: &[(&Path, &str)],
) -> Result<(String, String)> {
    let compatible = compatible(version)?;
    let (file, name) = (format!("libcalltable.so.{version}"), format!("libcalltable.so.{compatible}"));
    let mut names = exported(library)?;
    names.extend(more.iter().map(|(_, name)| String::from(*name)));
    fs::create_dir_all(lib)?;
    let script = lib.join("exports");
    fs::write(&script, format!("CALLTABLE_{compatible} {{ global: {}; local: *; }};\n", names.join("; ")))?;
    let (compiler, flags): (_, &[_]) = match arch {
        "aarch64" => ("clang-19", &["--target=aarch64-linux-gnu", "-fuse-ld=lld"]),
        "i686" => ("gcc", &["-m32"]),
        _ => ("gcc", &["-m64"]),
    };
    let mut link = Command::new(compiler);
    link.args(flags).args(["-nostartfiles", "-Wl,-z,now,-z,defs"]);
    whole(&mut link, library);
    link.args(more.iter().map(|(object, _)| object));
    link.arg(format!("-Wl,-soname,{name}")).arg(format!("-Wl,--version-script,{}", script.display()));
    quietly(link.arg("-o").arg(lib.join(&file)))?;
    fs::remove_file(script)?;
    for (to, link) in [(&file, &name), (&name, &String::from("libcalltable.so"))] {
        quietly(Command::new("ln").args(["-s", to]).arg(lib.join(link)))?;
    }
    Ok((file, name))
}

/// Has a linker make a shared library of all of a static one.
fn whole(linker: &mut Command, library: &Path) {
    linker.arg("-shared").arg("-Wl,--whole-archive").arg(library).arg("-Wl,--no-whole-archive");
}

/// The functions of the interface.
fn exported(library: &Path) -> Result<Vec<String>> {
    let symbols = quietly(Command::new("llvm-nm-19").arg(library))?;
    let header = fs::read_to_string("capi/include/calltable.h")?;
    let defined =
        symbols.lines().filter_map(|line| line.split_once(" T ")).map(|(_, name)| name.trim_start_matches('_'));
    let declared = |name: &&str| header.contains(&format!("{name}("));
    let names: Vec<_> = defined.filter(declared).map(String::from).collect();
    ensure!(!names.is_empty(), "the library exports nothing:\n{symbols}");
    Ok(names)
}
