//! `cargo xtask`: everything that is done with this repository.

mod audit;
mod bare;
mod bench;
mod charts;
mod demo;
mod dist;
mod embed;
mod emulator;
mod fuzz;
mod host;
mod instructions;
mod lua;
mod mutants;
mod races;
mod setup;
mod soak;
mod suite;
mod torture;
mod uefi;
mod windows;
mod wine;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(about = "Setup, demo and tests of calltable", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what tests, demo and measurements need (with apt-get, as root or through sudo)
    Setup,
    /// Host a real Windows DLL whose every import is a callback of the table
    Demo {
        /// The DLL [default: zlib1.dll of Debian's libz-mingw-w64]
        #[arg(long)]
        dll: Option<PathBuf>,
        /// The file to compress and decompress [default: the demo's own program]
        file: Option<PathBuf>,
    },
    /// Read what is built for each target and hold it against the crate's rules; reports go to target/audit
    Audit {
        /// Plant a violation of each kind, too, and see it found
        #[arg(long)]
        prove: bool,
        /// As Rust calls them; all if none is named
        targets: Vec<String>,
    },
    /// Make what C programs link, in target/dist/TARGET, for all targets if none is named
    Dist {
        /// As Rust calls them
        targets: Vec<String>,
    },
    /// Measure this crate and other ways to turn closures into function pointers, side by side
    Bench {
        /// A tenth of the rounds
        #[arg(long)]
        quick: bool,
        /// Put numbers and charts into README.md and docs
        #[arg(long)]
        publish: bool,
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
    Mutants {
        /// All if none is named
        parts: Vec<mutants::Part>,
        /// Only a share of them, such as 0/8
        #[arg(long)]
        shard: Option<mutants::Shard>,
        /// Only those in files whose name contains this
        #[arg(long, default_value = "")]
        file: String,
    },
    /// Run test suites, all of them if none is named
    Test {
        /// The suites
        suites: Vec<SuiteName>,
    },
    /// Call entries with random signatures in search of a wrong register, stack word or value; a case that fails is shrunk
    Torture {
        /// How many signatures, for each target
        #[arg(long, default_value_t = 500)]
        signatures: usize,
        /// Makes the same signatures again
        #[arg(long)]
        seed: Option<u64>,
        /// As Rust calls it; may be repeated; all four if none is named
        #[arg(long = "target")]
        targets: Vec<String>,
    },
    /// Run a program that is refused new executable memory (PR_SET_MDWE); the tests use this
    #[command(hide = true)]
    UnderMdwe {
        /// Program and arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SuiteName {
    /// Linux on this machine's processor, and what can be checked of other targets without running them
    Host,
    /// Windows programs, run by Wine: real APIs, C callers, unwinding, the linkers of both kinds
    Windows,
    /// A kernel of our own under QEMU: interrupts, two processors, page tables, faults; with and without SSE; both widths
    Bare,
    /// A UEFI application under OVMF: notifications, timers, a protocol that another image calls; both widths
    Uefi,
    /// C and C++ programs outside of the workspace that link what `dist` makes; a Lua, on Linux and on Windows
    Embed,
    /// The kernel of `bare` under Bochs, with shadow stacks and indirect-branch tracking
    Cet,
    /// Threads that register, release and call: every order of events (Loom), Miri, ThreadSanitizer
    Races,
    /// Random signatures between C compilers and every lane, on Linux and Windows, both widths
    Torture,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    // Every path below is relative to the repository.
    std::env::set_current_dir(root())?;
    match command {
        Command::Setup => {
            setup::install(setup::HOST)?;
            setup::install(setup::WINDOWS)?;
            setup::install(setup::EMBED)?;
            setup::install(setup::BARE)?;
            setup::install(setup::RACES)?;
            setup::install(setup::BENCH)
        }
        Command::Demo { dll, file } => demo::run(dll, file),
        Command::Audit { prove, targets } => audit::run(&targets, prove),
        Command::Dist { targets } => {
            setup::install(setup::HOST)?;
            setup::install(setup::WINDOWS)?;
            let all = || dist::TARGETS.iter().map(ToString::to_string).collect();
            for target in if targets.is_empty() { all() } else { targets } {
                println!("{}", dist::make(&target)?.display());
            }
            Ok(())
        }
        Command::Bench { instructions: true, .. } => {
            setup::install(setup::HOST)?;
            instructions::write()
        }
        Command::Bench { quick, publish, .. } => bench::run(quick, publish),
        Command::Soak { minutes } => soak::run(minutes),
        Command::Fuzz { minutes, minimise } => {
            fuzz::run((minutes * 60.0) as u64)?;
            if minimise { fuzz::minimise() } else { Ok(()) }
        }
        Command::Mutants { parts, shard, file } => mutants::run(&parts, shard, &file),
        Command::Test { mut suites } => {
            if suites.is_empty() {
                suites = SuiteName::value_variants().to_vec();
            }
            let mut failed = false;
            for suite in suites {
                let result = match suite {
                    SuiteName::Host => host::run()?,
                    SuiteName::Windows => windows::run()?,
                    SuiteName::Bare => bare::run()?,
                    SuiteName::Uefi => uefi::run()?,
                    SuiteName::Embed => embed::run()?,
                    SuiteName::Cet => bare::run_cet()?,
                    SuiteName::Races => races::run()?,
                    SuiteName::Torture => torture::run_suite()?,
                };
                failed |= !result;
            }
            if failed {
                bail!("tests failed; the lines that begin with FAILED name them");
            }
            Ok(())
        }
        Command::Torture { signatures, seed, targets } => torture::run(&torture::Options { signatures, seed, targets }),
        Command::UnderMdwe { command } => under_mdwe(&command),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository")
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
