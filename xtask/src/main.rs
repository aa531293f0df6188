//! `cargo xtask`: everything that is done with this repository.

mod bare;
mod demo;
mod embed;
mod examples;
mod fuzz;
mod host;
mod instructions;
mod libffi;
mod lua;
mod races;
mod runtime;
mod schedule;
mod soak;
mod uefi;
mod windows;
mod windows_arm64;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use schedule::Job;
use setup::Package;
use xtask::{dist, setup, tools};

#[derive(Parser)]
#[command(about = "Setup, demo and tests of calltable", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Install what tests, demo and measurements need (with apt-get, as root or through sudo)
    Setup,
    /// Host real Windows DLLs whose every import is a callback of the table
    Demo {
        /// Other DLLs [default: zlib1.dll of Debian's libz-mingw-w64, SQLite and Zstandard of wheels of PyPI]
        #[arg(long)]
        dll: Vec<PathBuf>,
        /// Where the database and the compressed file stay [default: nowhere]
        #[arg(long)]
        keep: Option<PathBuf>,
        /// An export of the DLL to call instead of the work, with zeros as its arguments
        #[arg(long, requires = "dll")]
        call: Option<PathBuf>,
        /// What the DLLs get to work on [default: the demo's own program]
        file: Option<PathBuf>,
    },
    /// Read what is built for each target and hold it against the crate's rules; reports go to target/audit
    Audit(tools::Audit),
    /// Make what C programs link, in target/dist/TARGET, for all targets if none is named
    Dist {
        /// Put each into an archive, too, with a wrap file for Meson
        #[arg(long)]
        pack: bool,
        /// As Rust calls them
        targets: Vec<String>,
    },
    /// Measure this crate and other ways to turn closures into function pointers, side by side
    Bench {
        #[command(flatten)]
        options: tools::Bench,
        /// Only count instructions, and write them to benches/instructions.txt
        #[arg(long)]
        instructions: bool,
    },
    /// Have threads register, call, release and fault for a while, and check everything all the time
    Soak {
        /// How long, such as 0.2
        minutes: f64,
    },
    /// Give the C interface and the frames random work, with libFuzzer
    Fuzz {
        /// How long, for each of the programs
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// Then reduce what was found to a few inputs, and put them into fuzz/corpus
        #[arg(long)]
        minimise: bool,
    },
    /// Put small mistakes into copies of the source, and see whether the tests notice; takes hours
    Mutants(tools::Mutants),
    /// Run test suites, all of them if none is named
    Test {
        /// The suites
        suites: Vec<SuiteName>,
        /// Some minutes for work in between: what this machine runs by itself, and once
        #[arg(long, conflicts_with = "suites")]
        quick: bool,
    },
    /// Call entries with random signatures in search of a wrong register, stack word or value; a case that fails is
    /// shrunk
    Torture(tools::Torture),
    /// Run a program that is refused new executable memory (PR_SET_MDWE); the tests use this
    #[command(hide = true)]
    UnderMdwe {
        /// Program and arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

/// The longest first, which is the order in which they begin.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SuiteName {
    /// Windows programs, run by Wine: real APIs, C callers, unwinding, the linkers of both kinds
    Windows,
    /// Linux on this machine's processor, and what can be checked of other targets without running them
    Host,
    /// C and C++ programs outside of the workspace that link what `dist` makes; a Lua, on Linux and on Windows
    Embed,
    /// Threads that register, release and call: every order of events (Loom), Miri, ThreadSanitizer
    Races,
    /// The same as `windows` on ARM64, with a Wine of that processor in an emulator
    WindowsArm64,
    /// Random signatures between C compilers and every lane, on Linux and Windows, x86 and AArch64
    Torture,
    /// libffi's own tests of closures, with ours linked before it, on Linux and Windows, x86 and AArch64
    Libffi,
    /// A kernel of our own under QEMU: interrupts, two processors, page tables, faults; with and without SSE;
    /// x86_64, i686, AArch64
    Bare,
    /// A UEFI application under OVMF: notifications, timers, a protocol that another image calls; the same
    /// architectures
    Uefi,
    /// The kernel of `bare` under Bochs, with shadow stacks and indirect-branch tracking
    Cet,
}

/// What is said to whoever names no command.
const NEXT: &str = "\
calltable: closures as bare function pointers, without machine code that is written at run time.

  cargo xtask demo           see it work: real Windows DLLs run here, and call closures
  cargo xtask test --quick   after a change: some minutes
  cargo xtask test           before it lands: every suite
  cargo xtask help           all commands

docs/architecture.md is the page to read first; CONTRIBUTING.md says what changes together.
";

fn main() -> ExitCode {
    let Some(command) = Arguments::parse().command else {
        print!("{NEXT}");
        return ExitCode::SUCCESS;
    };
    match command {
        // A test program runs where cargo has started it.
        Command::UnderMdwe { .. } => xtask::exit_code(run(command)),
        _ => xtask::main(|| run(command)),
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup => {
            install(SuiteName::value_variants())?;
            setup::install(setup::BENCH)
        }
        Command::Demo { dll, keep, call, file } => {
            demo::run(dll, [("--keep", keep), ("--call", call), ("--file", file)])
        }
        Command::Audit(_) => tools::run("audit"),
        Command::Dist { pack, targets } => {
            setup::install(setup::HOST)?;
            setup::install(setup::WINDOWS)?;
            let all = || dist::TARGETS.iter().map(ToString::to_string).collect();
            for target in if targets.is_empty() { all() } else { targets } {
                println!("{}", dist::make(&target)?.display());
                if pack {
                    dist::pack(&target)?.iter().for_each(|file| println!("{}", file.display()));
                }
            }
            Ok(())
        }
        Command::Bench { instructions: true, .. } => {
            setup::install(setup::HOST)?;
            instructions::write()
        }
        Command::Bench { .. } => tools::run("bench"),
        Command::Soak { minutes } => soak::run(minutes),
        Command::Fuzz { minutes, minimise } => {
            fuzz::run((minutes * 60.0) as u64)?;
            if minimise { fuzz::minimise() } else { Ok(()) }
        }
        Command::Mutants(_) => tools::run("mutants"),
        Command::Test { quick: true, .. } => judge(host::run_quick()?),
        Command::Test { suites, .. } => match suites[..] {
            [suite] => {
                install(&suites)?;
                judge(suite.run()?)
            }
            [] => side_by_side(SuiteName::value_variants()),
            _ => side_by_side(&suites),
        },
        Command::Torture(_) => tools::run("torture"),
        Command::UnderMdwe { command } => under_mdwe(&command),
    }
}

impl SuiteName {
    /// What it needs of the machine.
    fn packages(self) -> Vec<Package> {
        match self {
            Self::Host => setup::HOST.to_vec(),
            Self::Windows => [setup::HOST, setup::WINDOWS].concat(),
            Self::Torture => [setup::HOST, setup::WINDOWS, setup::WINDOWS_ARM64].concat(),
            Self::WindowsArm64 => [setup::HOST, setup::WINDOWS_ARM64].concat(),
            Self::Bare | Self::Uefi | Self::Cet => setup::BARE.to_vec(),
            Self::Embed => [setup::HOST, setup::WINDOWS, setup::BARE, setup::EMBED].concat(),
            Self::Races => setup::RACES.to_vec(),
            Self::Libffi => {
                [setup::HOST, setup::WINDOWS, setup::WINDOWS_ARM64, setup::LIBFFI, setup::RUNTIMES].concat()
            }
        }
    }

    /// Returns whether all passed.
    fn run(self) -> Result<bool> {
        match self {
            Self::Host => host::run(),
            Self::Windows => windows::run(),
            Self::WindowsArm64 => windows_arm64::run(),
            Self::Bare => bare::run(),
            Self::Uefi => uefi::run(),
            Self::Embed => embed::run(),
            Self::Cet => bare::run_cet(),
            Self::Races => races::run(),
            Self::Libffi => libffi::run(),
            Self::Torture => tools::run_suite("torture"),
        }
    }
}

/// Installs what the suites need.
fn install(suites: &[SuiteName]) -> Result<()> {
    setup::install(&suites.iter().flat_map(|suite| suite.packages()).collect::<Vec<_>>())
}

/// Runs suites, as many at a time as there are processors for.
fn side_by_side(suites: &[SuiteName]) -> Result<()> {
    install(suites)?;
    let program = std::env::current_exe()?;
    let uses_wine =
        |suite| matches!(suite, SuiteName::Windows | SuiteName::Embed | SuiteName::Libffi | SuiteName::Torture);
    let name = |suite: &SuiteName| suite.to_possible_value().map(|value| value.get_name().to_owned());
    let jobs = suites.iter().filter_map(|suite| Some(Job { name: name(suite)?, uses_wine: uses_wine(*suite) }));
    let width = std::thread::available_parallelism()?.get().min(4);
    judge(schedule::run(jobs.collect(), width, |job| {
        let mut command = std::process::Command::new(&program);
        command.args(["test", &job.name]);
        command
    })?)
}

fn judge(all_passed: bool) -> Result<()> {
    if !all_passed {
        bail!("tests failed; the lines that begin with FAILED name them");
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn under_mdwe(command: &[OsString]) -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    // Inherited by the program; see prctl(2).
    // SAFETY: sets an attribute of this process; no memory is involved.
    if unsafe { libc::prctl(libc::PR_SET_MDWE, libc::PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) } != 0 {
        bail!("this kernel has no PR_SET_MDWE (it came with Linux 6.3): {}", std::io::Error::last_os_error());
    }
    // Or the tests would prove nothing.
    // SAFETY: a new mapping at a place of the kernel's choice; it is not used.
    let refused = unsafe {
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        libc::mmap(std::ptr::null_mut(), 1, all, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) == libc::MAP_FAILED
    };
    if !refused {
        bail!("the kernel still gives out memory that is writable and executable");
    }
    Err(std::process::Command::new(&command[0]).args(&command[1..]).exec().into())
}

#[cfg(not(target_os = "linux"))]
fn under_mdwe(_command: &[OsString]) -> Result<()> {
    bail!("only Linux has PR_SET_MDWE");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn no_two_arguments_of_a_command_are_called_the_same() {
        Arguments::command().debug_assert();
    }
}
