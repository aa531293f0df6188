//! The suite `uefi`: an application of our own under OVMF, whose build for Arm is called AAVMF.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use xtask::emulator::{self, Emulator, Machine};
use xtask::setup;
use xtask::suite::{Suite, cargo, cargo_for, folder, quietly, variable};

const MANIFEST: &str = "tests-qemu/uefi/Cargo.toml";
const FOLDER: &str = "target/uefi";

/// A width: how Rust and QEMU call it, what the firmware boots from a disk, the firmware and its variables, and what
/// its build wants of the machine.
#[derive(Clone, Copy)]
struct Width {
    name: &'static str,
    emulator: Emulator,
    boots: &'static str,
    code: &'static str,
    variables: &'static str,
    machine: &'static [&'static str],
}

const WIDTHS: [Width; 3] = [
    Width {
        name: "x86_64",
        emulator: emulator::X86_64,
        boots: "BOOTX64.EFI",
        code: setup::OVMF,
        variables: "/usr/share/OVMF/OVMF_VARS_4M.fd",
        machine: &["-machine", "q35"],
    },
    Width {
        name: "i686",
        emulator: emulator::I686,
        boots: "BOOTIA32.EFI",
        code: setup::OVMF_32,
        variables: "/usr/share/OVMF/OVMF32_VARS_4M.fd",
        // Debian's 32-bit build is one that can do Secure Boot (which is not set up); it keeps its variables in SMM.
        machine: &["-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"],
    },
    Width {
        name: "aarch64",
        emulator: emulator::AARCH64,
        boots: "BOOTAA64.EFI",
        code: setup::AAVMF,
        variables: "/usr/share/AAVMF/AAVMF_VARS.fd",
        machine: &[],
    },
];

/// Runs the suite; returns whether all passed.
pub fn run() -> Result<bool> {
    let mut suite = Suite::new("uefi", 1 + 2 * WIDTHS.len());
    suite.check("formatting and lints", || {
        quietly(cargo().args(["fmt", "--check", "--manifest-path", MANIFEST]))?;
        for width in WIDTHS {
            quietly(cargo_for_uefi(width, "clippy")?.args(["--", "-Dwarnings"]))?;
        }
        Ok(())
    });
    for width in WIDTHS {
        for optimised in [false, true] {
            let level = if optimised { ", optimised" } else { "" };
            let title = format!("application under OVMF: {}{level}", width.name);
            let greeting = format!("calltable on UEFI: {}", width.name);
            suite.machine(&title, &greeting, || machine(width, optimised));
        }
    }
    Ok(suite.finish())
}

/// A machine that boots the application, beside the image that this one loads.
fn machine(width: Width, optimised: bool) -> Result<Machine> {
    let profile = if optimised { "release" } else { "debug" };
    quietly(cargo_for_uefi(width, "build")?.args(optimised.then_some("--release")))?;
    let built = Path::new(FOLDER).join(format!("{}-unknown-uefi", width.name)).join(profile);
    boot(width, profile, &built.join("calltable-uefi.efi"), &[&built.join("caller.efi")])
}

/// The same for a program of another language; `arch` is the first part of its target's name.
pub fn boot_program(arch: &str, program: &Path) -> Result<Machine> {
    let width = WIDTHS.into_iter().find(|width| width.name == arch).context("there is no firmware of that width")?;
    boot(width, "embed", program, &[])
}

/// A machine whose disk is a folder with an application and with other files.
fn boot(width: Width, name: &str, application: &Path, others: &[&Path]) -> Result<Machine> {
    let folder = folder(&format!("uefi/{}-{name}", width.name))?;
    let (disk, variables) = (folder.join("disk"), folder.join("variables.fd"));
    fs::create_dir_all(disk.join("EFI/BOOT"))?;
    fs::copy(application, disk.join("EFI/BOOT").join(width.boots))?;
    for other in others {
        fs::copy(other, disk.join(other.file_name().context("a file has a name")?))?;
    }
    // The firmware writes to them.
    fs::copy(width.variables, &variables)?;
    let flash = "if=pflash,format=raw";
    let mut machine = width.emulator.machine(&format!("uefi-{}-{name}", width.name));
    let command = &mut machine.command;
    command.args(width.machine).args(["-m", "256", "-net", "none"]);
    command.arg("-drive").arg(format!("{flash},unit=0,readonly=on,file={}", width.code));
    command.arg("-drive").arg(format!("{flash},unit=1,file={}", variables.display()));
    command.arg("-drive").arg(format!("format=raw,file=fat:rw:{}", disk.display()));
    Ok(machine)
}

/// A command of cargo for the application.
fn cargo_for_uefi(width: Width, command: &str) -> Result<Command> {
    let target = format!("{}-unknown-uefi", width.name);
    let mut cargo = cargo_for(&target, command, "")?;
    cargo.args(["--manifest-path", MANIFEST, "--target-dir", FOLDER]).env(variable(&target, "LINKER"), "lld-link-19");
    Ok(cargo)
}
