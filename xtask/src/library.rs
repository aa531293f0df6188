//! The standard library of targets for which rustup has none installed: built from Debian's source, once for each set
//! of flags, and shared by all that is built for the target, whatever its profile. It is kept where a user's programs
//! keep what they can make again (`~/.cache`): every checkout finds it there, as it would find rustup's.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::setup;
use crate::suite::{quietly, shared_folder, variable};

/// What is built of it, and the flags of the compiler.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    /// As `-Zbuild-std` names them.
    pub parts: &'static str,
    /// For the library's own code.
    pub flags: &'static str,
    /// For the code of programs that are built with it.
    pub for_programs: &'static str,
}

/// For programs of an operating system.
const STD: Library = Library { parts: "std,panic_unwind,panic_abort,test", flags: "", for_programs: "" };

/// Without an operating system.
const CORE: Library = Library { parts: "core,panic_abort", ..STD };

/// With landing pads, and the note that says so: they are not to be had from a released compiler. Kernels link it, too,
/// so there is no red zone. On AArch64 return addresses are signed as well.
pub fn landing(target: &str) -> Library {
    let [flags, for_programs] = match architecture(target) {
        "aarch64" => ["-Cforce-frame-pointers=yes -Zbranch-protection=bti,pac-ret", "-Zbranch-protection=bti,pac-ret"],
        _ => ["-Cforce-frame-pointers=yes -Cno-redzone=yes -Zcf-protection=full", "-Zcf-protection=full"],
    };
    Library { flags, for_programs, ..CORE }
}

/// For kernels.
pub fn kernel(target: &str) -> Library {
    let for_programs = match architecture(target) {
        "aarch64" => "-Crelocation-model=static -Cforce-frame-pointers=yes -Zbranch-protection=bti,pac-ret",
        _ => "-Crelocation-model=static -Cforce-frame-pointers=yes -Cno-redzone=yes -Zcf-protection=full",
    };
    Library { for_programs, ..landing(target) }
}

/// The first part of a target's name.
fn architecture(target: &str) -> &str {
    target.split('-').next().unwrap_or(target)
}

/// With lists for programs that are linked with /guard:cf,ehcont. What the library calls needs no check of its own.
const GUARDED: Library = Library {
    flags: "-Ccontrol-flow-guard=nochecks -Zehcont-guard",
    for_programs: "-Ccontrol-flow-guard=nochecks -Zehcont-guard",
    ..CORE
};

/// What programs for a target want by default.
pub fn of(target: &str) -> Library {
    match target {
        _ if ["-linux-gnu", "-windows-gnu", "-windows-gnullvm"].iter().any(|end| target.ends_with(end)) => STD,
        _ if target.ends_with("-msvc") => GUARDED,
        _ if target.contains("-none") => kernel(target),
        _ => CORE,
    }
}

/// Where rustc finds the library for a target: rustup's if it is installed, else ours.
pub fn folder_of(target: &str) -> Result<PathBuf> {
    match installed(target) {
        Some(folder) => Ok(folder),
        None => Ok(sysroot(target, of(target))?.join("lib/rustlib").join(target).join("lib")),
    }
}

/// The same if rustup has installed it.
pub fn installed(target: &str) -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output().ok()?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end());
    folder.exists().then_some(folder)
}

/// A target as rustc prints it, if it may be named by a file that describes it.
pub fn name_of(target: &str) -> &str {
    Path::new(target).file_stem().filter(|_| target.ends_with(".json")).and_then(|name| name.to_str()).unwrap_or(target)
}

/// The folder that `--sysroot` wants; builds what is missing.
pub fn sysroot(target: &str, library: Library) -> Result<PathBuf> {
    let name = name_of(target);
    // Of all that is built, `core` alone becomes part of what is delivered (`dist`).
    let manifest = "[package]\nname = \"nothing\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
                    [profile.release]\nopt-level = 0\n[profile.release.package.core]\nopt-level = 3\n\
                    [profile.release.package.compiler_builtins]\nopt-level = 3\n";
    let version = Command::new(setup::DEBIAN_RUSTC).arg("-vV").output().context(setup::DEBIAN_RUSTC)?.stdout;
    let mut key = DefaultHasher::new();
    (version, manifest, library.parts, library.flags, fs::read(target).ok()).hash(&mut key);
    let sysroot = shared_folder("rust-library")?.join(format!("{name}-{:016x}", key.finish()));
    let made = sysroot.join("lib/rustlib").join(name).join("lib");
    // Suites that run at the same time may want the same one.
    fs::create_dir_all(&sysroot)?;
    let lock = fs::File::create(sysroot.join("lock"))?;
    lock.lock()?;
    if made.exists() {
        return Ok(sysroot);
    }
    let complete = sysroot.join("complete");
    if complete.exists() {
        fs::remove_dir_all(&complete)?; // of a run that was ended
    }
    build(target, library, manifest, &sysroot, &complete)?;
    // The folder gets its name when all is in it.
    fs::create_dir_all(made.parent().context("a folder in others")?)?;
    fs::rename(complete, made)?;
    Ok(sysroot)
}

/// Builds Debian's source.
fn build(target: &str, library: Library, manifest: &str, sysroot: &Path, complete: &Path) -> Result<()> {
    let name = name_of(target);
    println!("    building Rust's library for {name} (a minute or two, once)");
    let built = sysroot.join("built");
    let package = sysroot.join("package");
    fs::create_dir_all(package.join("src"))?;
    fs::write(package.join("src/lib.rs"), "#![no_std]\n")?;
    fs::write(package.join("Cargo.toml"), manifest)?;
    let mut cargo = debian("build");
    cargo.args(["--release", "--target", target, &format!("-Zbuild-std={}", library.parts)]);
    cargo.args(target.ends_with(".json").then_some("-Zjson-target-spec"));
    cargo.arg("--manifest-path").arg(package.join("Cargo.toml")).arg("--target-dir").arg(&built);
    // Programs may be optimised as a whole (`lto = "fat"`).
    cargo.env(variable(name, "RUSTFLAGS"), format!("-Cembed-bitcode=yes {}", library.flags));
    if library.parts.starts_with("core") {
        cargo.arg("-Zbuild-std-features=compiler-builtins-mem").env("CARGO_PROFILE_RELEASE_PANIC", "abort");
    } else {
        // Without names in the backtraces of panics, which are a fourth of the work.
        cargo.arg("-Zbuild-std-features=panic-unwind");
    }
    quietly(&mut cargo)?;

    fs::create_dir_all(complete)?;
    let mut count = 0;
    for file in fs::read_dir(built.join(name).join("release/deps"))? {
        let file = file?.path();
        let of_the_library = file.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            [".rlib", ".so", ".dll", ".dll.a"].iter().any(|end| name.ends_with(end)) && !name.contains("nothing")
        });
        if of_the_library {
            fs::copy(&file, complete.join(file.file_name().context("a file has a name")?))?;
            count += 1;
        }
    }
    ensure!(count > 1, "cargo has built no library");
    if name == "i686-pc-windows-gnu" {
        add_start(complete)?;
    }
    Ok(fs::remove_dir_all(built)?)
}

/// Two objects that rustc links into every program of i686-pc-windows-gnu; `-Zbuild-std` makes none.
fn add_start(folder: &Path) -> Result<()> {
    for name in ["rsbegin", "rsend"] {
        let mut rustc = Command::new(setup::DEBIAN_RUSTC);
        rustc.args(["--target", "i686-pc-windows-gnu", "--emit=obj"]).env("RUSTC_BOOTSTRAP", "1");
        rustc.arg("-o").arg(folder.join(name).with_extension("o"));
        quietly(rustc.arg(format!("{}/rtstartup/{name}.rs", setup::DEBIAN_LIBRARY)))?;
    }
    Ok(())
}

/// Debian's cargo and compiler, which may use what is not stable.
pub fn debian(command: &str) -> Command {
    // By its name alone rustup's clippy would be found.
    let program = if command == "clippy" { setup::DEBIAN_CLIPPY } else { setup::DEBIAN_CARGO };
    let mut cargo = Command::new(program);
    cargo.arg(command).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
    cargo.env("CARGO", setup::DEBIAN_CARGO).env("RUSTC", setup::DEBIAN_RUSTC).env("RUSTDOC", setup::DEBIAN_RUSTDOC);
    cargo
}
