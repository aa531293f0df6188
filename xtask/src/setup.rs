//! Installs what is missing: Debian packages, nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::debian;
use crate::suite::{folder, quietly};

/// A package, and a file or command that is there when it is installed.
#[derive(Clone, Copy)]
pub struct Package {
    name: &'static str,
    proof: &'static str,
}

const fn package(name: &'static str, proof: &'static str) -> Package {
    Package { name, proof }
}

/// For the demo.
pub const DEMO: &[Package] = &[
    package("gcc", "gcc"),
    package("libc6-dev", "/usr/include/stdio.h"),
    package("libz-mingw-w64", DLL),
    package("python3-pip", "pip3"), // for the other DLLs
];

/// For the suite `host`.
pub const HOST: &[Package] = &[
    package("gcc", "gcc"),
    package("g++", "g++"),
    package("libc6-dev", "/usr/include/stdio.h"),
    package("gcc-multilib", "/usr/include/asm/types.h"),
    package("clang-19", "clang-19"),
    package("lld-19", "ld.lld-19"),
    package("libclang-rt-19-dev", LIBFUZZER),
    package("gcc-mingw-w64-x86-64", "x86_64-w64-mingw32-gcc"),
    package("g++-mingw-w64-x86-64", "x86_64-w64-mingw32-g++"),
    package("gcc-mingw-w64-i686", "i686-w64-mingw32-gcc"),
    package("g++-mingw-w64-i686", "i686-w64-mingw32-g++"),
    package("gdb", "gdb"),
    package("gdb-multiarch", "gdb-multiarch"),
    // For AArch64, whose GCC would take gcc-multilib off.
    package("qemu-user", "qemu-aarch64"),
    package("libc6-dev-arm64-cross", "/usr/aarch64-linux-gnu/include/stdio.h"),
    package("libgcc-12-dev-arm64-cross", "/usr/lib/gcc-cross/aarch64-linux-gnu/12/libgcc.a"),
    package("llvm-19", "llvm-ar-19"),
    package("valgrind", "valgrind"),
    package("libz-mingw-w64", DLL),
    package("python3-pip", "pip3"), // for the demo's other DLLs
    package("sqlite3", "sqlite3"),
    package("zstd", "zstd"),
    // A matched compiler and library source, for targets whose `core` rustup has not installed.
    package("rustc-web", DEBIAN_RUSTC),
    package("cargo-web", DEBIAN_CARGO),
    package("rust-web-src", DEBIAN_LIBRARY),
];

/// For the suite `windows`, beside those above.
pub const WINDOWS: &[Package] = &[
    package("wine64", WINE),
    package("xvfb", "Xvfb"),
    package("xauth", "xauth"),
    package("lld-19", "lld-link-19"),
    package("llvm-19", "llvm-readobj-19"),
    package("rust-web-clippy", DEBIAN_CLIPPY),
    package("make", "make"), // for libffi
];

/// For the suites `windows-arm64` and `torture`, beside those of `host`. What these do not have is loaded without
/// installing it.
pub const WINDOWS_ARM64: &[Package] = &[
    package("lld-19", "lld-link-19"),
    package("llvm-19", "llvm-readobj-19"),
    package("rust-web-clippy", DEBIAN_CLIPPY),
    package("python3-pip", "pip3"),
    package("debian-archive-keyring", debian::KEYRING),
];

/// For the suite `embed`, beside those of `host` and `windows`.
pub const EMBED: &[Package] = &[
    package("g++-multilib", "/usr/share/doc/g++-multilib"),
    package("cmake", "cmake"),
    package("pkg-config", "pkg-config"),
    package("meson", "meson"),
    package("ninja-build", "ninja"),
    package("doxygen", "doxygen"),
    // A compiler that cannot say a handler's convention.
    package("tcc", "tcc"),
];

/// For language runtimes that are loaded without installing them (`xtask/src/runtime.rs`).
pub const RUNTIMES: &[Package] = &[
    package("qemu-user", "qemu-aarch64"),
    package("xz-utils", "xz"),
    package("debian-archive-keyring", debian::KEYRING),
];

/// For the suite `libffi`, beside those of `host`, `windows` and `windows-arm64`.
pub const LIBFFI: &[Package] = &[
    package("g++-multilib", "/usr/share/doc/g++-multilib"),
    package("libstdc++-12-dev-arm64-cross", "/usr/aarch64-linux-gnu/include/c++/12/new"),
];

/// For the suites `bare`, `uefi` and `cet`.
pub const BARE: &[Package] = &[
    package("gcc", "gcc"), // for the build scripts
    package("libc6-dev", "/usr/include/stdio.h"),
    package("clang-19", "clang-19"),
    package("lld-19", "ld.lld-19"),
    package("llvm-19", "llvm-objcopy-19"),
    package("rustc-web", DEBIAN_RUSTC),
    package("cargo-web", DEBIAN_CARGO),
    package("rust-web-src", DEBIAN_LIBRARY),
    package("rust-web-clippy", DEBIAN_CLIPPY),
    package("qemu-system-x86", "qemu-system-x86_64"),
    package("ovmf", OVMF),
    package("ovmf-ia32", OVMF_32),
    package("qemu-system-arm", "qemu-system-aarch64"),
    package("qemu-efi-aarch64", AAVMF),
    package("bochs", "bochs"),
    package("bochsbios", BOCHS_BIOS),
    package("vgabios", BOCHS_VGA),
];

/// For the suite `races`.
pub const RACES: &[Package] = &[
    package("gcc", "gcc"), // for the build scripts
    package("libc6-dev", "/usr/include/stdio.h"),
    package("clang-19", "clang-19"),
    package("libclang-rt-19-dev", "/usr/lib/llvm-19/lib/clang/19/lib/linux/libclang_rt.tsan-x86_64.a"),
    package("rustc-web", DEBIAN_RUSTC),
    package("cargo-web", DEBIAN_CARGO),
    package("rust-web-src", DEBIAN_LIBRARY),
];

/// For `cargo xtask bench`, beside those for `host` and `windows`.
pub const BENCH: &[Package] = &[package("golang-go", "go")];

/// Firmware for UEFI, 64 bits.
pub const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// The same, 32 bits.
pub const OVMF_32: &str = "/usr/share/OVMF/OVMF32_CODE_4M.secboot.fd";
/// The same for AArch64.
pub const AAVMF: &str = "/usr/share/AAVMF/AAVMF_CODE.fd";
/// The ROMs of the machine that Bochs emulates.
pub const BOCHS_BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
/// Its screen's.
pub const BOCHS_VGA: &str = "/usr/share/vgabios/vgabios.bin";

/// Clang's own build of libFuzzer.
pub const LIBFUZZER: &str = "/usr/lib/llvm-19/lib/clang/19/lib/linux/libclang_rt.fuzzer-x86_64.a";

/// Debian keeps it out of PATH.
const WINE: &str = "/usr/lib/wine/wine64";
/// The real Windows DLL that the demo hosts.
pub const DLL: &str = "/usr/x86_64-w64-mingw32/lib/zlib1.dll";
/// Its 32-bit twin, which the demo must refuse.
pub const DLL_32: &str = "/usr/i686-w64-mingw32/lib/zlib1.dll";
/// Debian's Rust: one version of compiler, cargo, Clippy and the library's source.
pub const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Of the same.
pub const DEBIAN_RUSTDOC: &str = "/usr/bin/rustdoc";
/// Of the same.
pub const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
/// Of the same.
pub const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// Of the same.
pub const DEBIAN_LIBRARY: &str = "/usr/lib/rustlib/src/rust/library";

/// Installs the packages of the list that are not there.
pub fn install(packages: &[Package]) -> Result<()> {
    let mut missing: Vec<&str> =
        packages.iter().filter(|package| !is_there(package.proof)).map(|package| package.name).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    let line = format!("apt-get update && apt-get install -y --no-install-recommends {}", missing.join(" "));
    let sudo = if is_root() { "" } else { "sudo " };
    if (!is_root() && !is_there("sudo")) || !is_there("apt-get") {
        bail!("please run this as root, or install the same with your own package manager:\n  {line}");
    }
    for step in line.split(" && ") {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{sudo}{step}")]).env("DEBIAN_FRONTEND", "noninteractive");
        if !command.status()?.success() {
            bail!("`{sudo}{step}` failed; please run it yourself:\n  {line}");
        }
    }
    Ok(())
}

/// GCC for AArch64, where it is unpacked.
pub const GCC_FOR_AARCH64: &str = "target/xtask/gcc-aarch64/gcc";

/// Unpacks it, since to install it would take gcc-multilib off: a compiler and an assembler for objects.
pub fn unpack_gcc_for_aarch64() -> Result<()> {
    const PACKAGES: [&str; 3] = ["gcc-12-aarch64-linux-gnu", "cpp-12-aarch64-linux-gnu", "binutils-aarch64-linux-gnu"];
    let program = std::env::current_dir()?.join(GCC_FOR_AARCH64);
    if program.exists() {
        return Ok(());
    }
    let folder = std::env::current_dir()?.join(folder("gcc-aarch64")?);
    println!("unpacking a GCC for AArch64 in {} (30 MB to load, once)", folder.display());
    // It would else become a user who may not write here.
    quietly(
        Command::new("apt-get").args(["-oAPT::Sandbox::User=root", "download"]).args(PACKAGES).current_dir(&folder),
    )?;
    for file in fs::read_dir(&folder)? {
        let file = file?.path();
        if file.extension().is_some_and(|end| end == "deb") {
            quietly(Command::new("dpkg").arg("-x").arg(&file).arg(&folder))?;
            fs::remove_file(file)?;
        }
    }
    // Written last, so that half of it is not taken for the whole.
    let made = program.with_extension("made");
    let usr = folder.join("usr").display().to_string();
    let text = format!(
        "#!/bin/sh\nexport LD_LIBRARY_PATH={usr}/lib/x86_64-linux-gnu\nexec {usr}/bin/aarch64-linux-gnu-gcc-12 \
         -B{usr}/lib/gcc-cross/aarch64-linux-gnu/12 -B{usr}/aarch64-linux-gnu/bin \"$@\"\n"
    );
    fs::write(&made, text)?;
    quietly(Command::new("chmod").arg("+x").arg(&made))?;
    Ok(fs::rename(made, program)?)
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

/// Whether a path exists, or a command of that name.
fn is_there(proof: &str) -> bool {
    if proof.starts_with('/') {
        return Path::new(proof).exists();
    }
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(proof).exists()))
}
