//! The suites `bare` and `cet`: a kernel of our own, booted by emulators.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use xtask::emulator::Machine;
use xtask::suite::{Suite, cargo, cargo_for, cargo_with_library, folder, quietly};
use xtask::{library, setup};

const MANIFEST: &str = "tests-qemu/kernel/Cargo.toml";
const FOLDER: &str = "target/kernel";

/// A kernel: what it is built for, and how it greets.
#[derive(Clone, Copy)]
struct Kernel {
    target: &'static str,
    qemu: &'static str,
    greeting: &'static str,
}

/// For 64 bits with SSE and for 32 bits there are no targets of Rust without an operating system; these have the same
/// code.
const KERNELS: [Kernel; 3] = [
    Kernel { target: "x86_64-unknown-none", qemu: "qemu-system-x86_64", greeting: "x86_64, no SSE" },
    Kernel { target: "x86_64-unknown-linux-gnu", qemu: "qemu-system-x86_64", greeting: "x86_64, SSE" },
    Kernel { target: "i686-unknown-linux-gnu", qemu: "qemu-system-i386", greeting: "i686, SSE" },
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
            let greeting = format!("calltable kernel: {}, 2 processors, no CET", kernel.greeting);
            suite.machine(&title, &greeting, || {
                let image = build(kernel, optimised)?;
                let mut command = Command::new(kernel.qemu);
                command.arg("-kernel").arg(&image).args(["-m", "64", "-smp", "2", "-cpu", "max"]);
                Ok(qemu(command, format!("bare-{}{level}", kernel.target), Some(image)))
            });
        }
    }
    Ok(suite.finish())
}

const FLOAT: &str = "NotByValueOnThisTargetPassAPointer";
const WORDS: &str = "at most 128 words of 4 bytes on the stack: use a dynamic signature";

/// For a target the features of `tests/refused` that must not compile, and what the compiler says then.
const REFUSALS: [(&str, &[(&str, &str)]); 4] = [
    ("x86_64-unknown-none", &[("float_parameter", FLOAT), ("float_result", FLOAT)]),
    ("x86_64-unknown-uefi", &[("float_parameter", FLOAT), ("float_result", FLOAT)]),
    ("i686-unknown-uefi", &[("float_result", FLOAT), ("many_words", WORDS)]),
    ("i686-unknown-linux-gnu", &[("many_words", WORDS)]),
];

/// Everything else of that package must compile.
fn refuses(target: &str, refused: &[(&str, &str)]) -> Result<()> {
    let build = || {
        let mut cargo = cargo_for(target, "build", "")?;
        cargo.args(["--manifest-path", "tests/refused/Cargo.toml", "--target-dir", "target/refused"]);
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

/// A machine that prints through its serial port and sets an exit code.
pub fn qemu(mut command: Command, name: String, program: Option<PathBuf>) -> Machine {
    // The device's exit code is twice the value that is written and 1; the kernel writes 16 when all is well.
    const WELL: i32 = 33;
    command
        .args(["-accel", "tcg", "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    Machine { command, name: name.replace(", ", "-"), code: Some(WELL), limit: Duration::from_secs(300), program }
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
    let flags = "-Clinker=ld.lld-19 -Clinker-flavor=ld.lld";
    let mut cargo = cargo_with_library(kernel.target, command, library::KERNEL, flags)?;
    let for_cc = kernel.target.replace('-', "_");
    cargo
        .args(["--manifest-path", MANIFEST, "--target-dir", FOLDER])
        .env(format!("CC_{for_cc}"), "clang-19")
        .env(format!("AR_{for_cc}"), "llvm-ar-19");
    Ok(cargo)
}
