//! The suites `bare` and `cet`: a kernel of our own, booted by emulators.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use xtask::emulator::{self, Emulator, Machine};
use xtask::suite::{Suite, cargo, cargo_for, cargo_with_library, folder, quietly};
use xtask::{library, setup};

const MANIFEST: &str = "tests-qemu/kernel/Cargo.toml";
const FOLDER: &str = "target/kernel";

/// A kernel: what it is built for, with flags of its own, and how it greets.
#[derive(Clone, Copy)]
struct Kernel {
    target: &'static str,
    flags: &'static str,
    emulator: Emulator,
    greeting: &'static str,
    /// What checks returns and branches under QEMU.
    protection: &'static str,
}

const X86: Kernel = Kernel { target: "", flags: "", emulator: emulator::X86_64, greeting: "", protection: "no CET" };
const AARCH64: Kernel = Kernel { emulator: emulator::AARCH64, protection: "BTI and PAC", ..X86 };

/// For x86_64 with SSE and for i686 there are no targets of Rust without an operating system; these have the same code.
/// On AArch64 a loop of LDXR and STXR does not end when it is stepped through: with LSE there is none.
const KERNELS: [Kernel; 5] = [
    Kernel { target: "x86_64-unknown-none", greeting: "x86_64, no SSE", ..X86 },
    Kernel { target: "x86_64-unknown-linux-gnu", greeting: "x86_64, SSE", ..X86 },
    Kernel { target: "i686-unknown-linux-gnu", emulator: emulator::I686, greeting: "i686, SSE", ..X86 },
    Kernel {
        target: "aarch64-unknown-none",
        flags: "-Ctarget-feature=+lse",
        greeting: "AArch64, floating point, LSE",
        ..AARCH64
    },
    Kernel { target: "aarch64-unknown-none-softfloat", greeting: "AArch64, no floating point", ..AARCH64 },
];

/// Runs the suite `bare`; returns whether all passed.
pub fn run() -> Result<bool> {
    let mut suite = Suite::new("bare", 1 + REFUSALS.len() + 2 * KERNELS.len());
    suite.check("formatting and lints", || {
        quietly(cargo().args(["fmt", "--check", "--manifest-path", MANIFEST]))?;
        for kernel in KERNELS {
            quietly(cargo_for_kernel(kernel, "clippy")?.args(["--", "-Dwarnings"]))?;
        }
        Ok(())
    });
    for (target, features) in REFUSALS {
        suite.check(&format!("what cannot work does not compile: {target}"), || refuses(target, features));
    }
    for kernel in KERNELS {
        // Where the compiler inlines nothing, other instructions are interrupted, and other frames unwound.
        for optimised in [false, true] {
            let level = if optimised { ", optimised" } else { "" };
            let title = format!("kernel under QEMU: {}{level}", kernel.greeting);
            let greeting = format!("calltable kernel: {}, 2 processors, {}", kernel.greeting, kernel.protection);
            suite.machine(&title, &greeting, || {
                let image = build(kernel, optimised)?;
                let mut machine = kernel.emulator.machine(&format!("bare-{}{level}", kernel.target));
                machine.command.arg("-kernel").arg(&image).args(["-m", "64", "-smp", "2"]);
                machine.program = Some(image);
                Ok(machine)
            });
        }
    }
    Ok(suite.finish())
}

const FLOAT: &str = "NotByValueOnThisTargetPassAPointer";
const WORDS: &str = "at most 128 words of 4 bytes on the stack: use a dynamic signature";

/// For a target the features of `tests/refused` that must not compile, and what the compiler says then.
const REFUSALS: [(&str, &[(&str, &str)]); 6] = [
    ("x86_64-unknown-none", &[("float_parameter", FLOAT), ("float_result", FLOAT)]),
    ("x86_64-unknown-uefi", &[("float_parameter", FLOAT), ("float_result", FLOAT)]),
    ("i686-unknown-uefi", &[("float_result", FLOAT), ("many_words", WORDS)]),
    ("i686-unknown-linux-gnu", &[("many_words", WORDS)]),
    ("aarch64-unknown-none", &[]),
    ("aarch64-unknown-none-softfloat", &[("float_parameter", FLOAT), ("float_result", FLOAT)]),
];

/// Everything else of that package must compile.
fn refuses(target: &str, refused: &[(&str, &str)]) -> Result<()> {
    let build = || {
        let mut cargo = cargo_for(target, "build", "")?;
        cargo.args(["--manifest-path", "tests/refused/Cargo.toml", "--target-dir", "target/refused"]);
        cargo.env(format!("CC_{}", target.replace('-', "_")), "clang-19");
        anyhow::Ok(cargo)
    };
    let all = ["float_parameter", "float_result", "many_words"];
    let accepted: Vec<_> = all.into_iter().filter(|name| refused.iter().all(|(feature, _)| feature != name)).collect();
    quietly(build()?.arg(format!("--features={}", accepted.join(","))))?;
    for (feature, message) in refused {
        let output = build()?.arg(format!("--features={feature}")).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && text.contains(message), "{feature}: {text}");
    }
    Ok(())
}

/// Runs the suite `cet`; returns whether all passed.
pub fn run_cet() -> Result<bool> {
    let kernels = [KERNELS[1], KERNELS[2]];
    let mut suite = Suite::new("cet", kernels.len());
    for kernel in kernels {
        let title = format!("kernel under Bochs, shadow stack and branch tracking on: {}", kernel.greeting);
        let greeting = format!("calltable kernel: {}, 1 processor, CET", kernel.greeting);
        suite.machine(&title, &greeting, || bochs(kernel));
    }
    Ok(suite.finish())
}

/// A machine with shadow stacks and indirect-branch tracking. It sets no exit code.
fn bochs(kernel: Kernel) -> Result<Machine> {
    const SECTOR: usize = 512;
    /// What the boot sector reads at once.
    const CHUNK: usize = 64 * SECTOR;
    /// A disk's size is a whole number of these.
    const CYLINDER: usize = 16 * 63 * SECTOR;
    let program = build(kernel, true)?;
    let folder = std::env::current_dir()?.join(folder(&format!("bochs/{}", kernel.target))?);
    let [flat, object, sector, disk] =
        ["kernel.bin", "sector.o", "sector.bin", "disk.img"].map(|name| folder.join(name));
    quietly(Command::new("llvm-objcopy-19").args(["-O", "binary"]).arg(&program).arg(&flat))?;
    let mut image = fs::read(flat)?;
    image.resize(image.len().next_multiple_of(CHUNK), 0);
    quietly(
        Command::new("clang-19")
            .args(["--target=i686-none-elf", &format!("-DIMAGE_CHUNKS={}", image.len() / CHUNK), "-c"])
            .args(["tests-qemu/bochs/sector.S", "-o"])
            .arg(&object),
    )?;
    let link = ["-Ttext=0x7c00", "--oformat=binary", "-e", "start", "-o"];
    quietly(Command::new("ld.lld-19").args(link).arg(&sector).arg(object))?;
    let mut bytes = fs::read(sector)?;
    ensure!(bytes.len() == SECTOR, "the boot sector has {} bytes", bytes.len());
    bytes.append(&mut image);
    bytes.resize(bytes.len().next_multiple_of(CYLINDER), 0);
    fs::write(&disk, &bytes)?;

    let (settings, start) = (folder.join("bochsrc"), folder.join("start"));
    fs::write(&settings, bochs_settings(&disk, bytes.len() / CYLINDER, &folder))?;
    // What is typed into its debugger: go.
    fs::write(&start, "c\n")?;
    let mut command = Command::new("bochs");
    command.arg("-q").arg("-f").arg(settings).arg("-rc").arg(start);
    let limit = Duration::from_secs(300);
    Ok(Machine { command, name: format!("cet-{}", kernel.target), code: None, limit, program: Some(program) })
}

fn bochs_settings(disk: &Path, cylinders: usize, folder: &Path) -> String {
    format!(
        "display_library: rfb, options=\"timeout=0\"\n\
         cpu: model=tigerlake, reset_on_triple_fault=0, ips=200000000\n\
         memory: guest=64, host=64\n\
         romimage: file={}\n\
         vgaromimage: file={}\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=disk, path=\"{}\", mode=flat, cylinders={cylinders}, heads=16, spt=63\n\
         boot: disk\n\
         port_e9_hack: enabled=1\n\
         panic: action=fatal\n\
         sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
         log: {}\n",
        setup::BOCHS_BIOS,
        setup::BOCHS_VGA,
        disk.display(),
        folder.join("bochs.log").display(),
    )
}

fn build(kernel: Kernel, optimised: bool) -> Result<PathBuf> {
    let mut cargo = cargo_for_kernel(kernel, "build")?;
    let profile = if optimised { "release" } else { "debug" };
    quietly(cargo.args(optimised.then_some("--release")))?;
    Ok(Path::new(FOLDER).join(kernel.target).join(profile).join("calltable-kernel"))
}

/// A command of cargo for the kernel. Always Debian's, since the library, too, is to have landing pads and no red zone.
fn cargo_for_kernel(kernel: Kernel, command: &str) -> Result<Command> {
    let flags = format!("-Clinker=ld.lld-19 -Clinker-flavor=ld.lld {}", kernel.flags);
    let mut cargo = cargo_with_library(kernel.target, command, library::kernel(kernel.target), &flags)?;
    let for_cc = kernel.target.replace('-', "_");
    cargo
        .args(["--manifest-path", MANIFEST, "--target-dir", FOLDER])
        .env(format!("CC_{for_cc}"), "clang-19")
        .env(format!("AR_{for_cc}"), "llvm-ar-19");
    Ok(cargo)
}
