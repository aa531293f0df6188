//! Machines that an emulator boots: what they print is streamed and kept, and none outlives its limit or us.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::suite::folder;

/// What is to be booted and how its end is known.
pub struct Machine {
    /// The emulator; the machine's console is its standard output.
    pub command: Command,
    /// Names the file that keeps what is printed.
    pub name: String,
    /// The emulator's exit code if all is well, where the machine can set one.
    pub code: Option<i32>,
    /// How long it may run.
    pub limit: Duration,
    /// What runs on it, for the names of the addresses that it reports.
    pub program: Option<PathBuf>,
}

/// QEMU for an architecture: its program, and how the machine is told to end it.
#[derive(Clone, Copy)]
pub struct Emulator {
    program: &'static str,
    /// A processor that has all.
    cpu: &'static str,
    arguments: &'static [&'static str],
}

const ISA_DEBUG_EXIT: &[&str] = &["-device", "isa-debug-exit,iobase=0xf4,iosize=4"];
/// 64 bits.
pub const X86_64: Emulator = Emulator { program: "qemu-system-x86_64", cpu: "max", arguments: ISA_DEBUG_EXIT };
/// 32 bits.
pub const I686: Emulator = Emulator { program: "qemu-system-i386", cpu: "max", arguments: ISA_DEBUG_EXIT };
/// The machine that is made for emulators; it signs addresses in the quickest of the ways that it knows.
pub const AARCH64: Emulator = Emulator {
    program: "qemu-system-aarch64",
    cpu: "max,pauth-impdef=on",
    arguments: &["-machine", "virt", "-semihosting"],
};

impl Emulator {
    /// A machine that prints through its serial port and sets an exit code.
    pub fn machine(self, name: &str) -> Machine {
        // On x86 the device's exit code is twice the value that is written and 1.
        const WELL: i32 = 33;
        let mut command = Command::new(self.program);
        command.args(["-accel", "tcg", "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"]);
        command.args(["-cpu", self.cpu]).args(self.arguments);
        let (name, limit) = (name.replace(", ", "-"), Duration::from_secs(300));
        Machine { command, name, code: Some(WELL), limit, program: None }
    }
}

impl Machine {
    /// Runs it to its end. Returns the lines of its console, whatever the firmware printed before them included.
    pub fn run(mut self) -> Result<(Vec<String>, Result<()>)> {
        println!("    {:?}", self.command);
        let path = folder("logs")?.join(&self.name).with_extension("log");
        let mut log = File::create(&path)?;
        let mut emulator = Running::start(&mut self.command)?;
        let deadline = Instant::now() + self.limit;
        let mut lines = Vec::new();
        let end = loop {
            match emulator.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    println!("    {line}");
                    writeln!(log, "{line}")?;
                    lines.push(line);
                }
                // The console is closed: the emulator ends.
                Err(RecvTimeoutError::Disconnected) => break emulator.wait(deadline, self.code),
                Err(RecvTimeoutError::Timeout) => {
                    emulator.stop();
                    for line in emulator.lines.try_iter() {
                        println!("    {line}");
                        writeln!(log, "{line}")?;
                        lines.push(line);
                    }
                    break Err(anyhow::anyhow!("not at its end after {} s", self.limit.as_secs()));
                }
            }
        };
        if let Some(program) = &self.program {
            name_addresses(program, &lines)?;
        }
        println!("    (kept in {})", path.display());
        Ok((lines, end))
    }
}

/// Says where in the source the lines `    at 0x...` of a fault's report are.
fn name_addresses(program: &Path, lines: &[String]) -> Result<()> {
    let words = lines.iter().filter_map(|line| line.strip_prefix("    at ")?.split(' ').next());
    let addresses: Vec<&str> = words.collect();
    if !addresses.is_empty() {
        let mut command = Command::new("llvm-symbolizer-19");
        command.args(["--pretty-print", "--inlines", "--addresses", "--obj"]).arg(program).args(addresses);
        let names = command.output().with_context(|| format!("{command:?}"))?;
        println!("{}", String::from_utf8_lossy(&names.stdout));
    }
    Ok(())
}

/// A running one, killed when this value goes.
struct Running {
    child: Child,
    lines: Receiver<String>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let console = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        let reader = thread::spawn(move || {
            read_lines(console, |line| sender.send(line).is_ok());
        });
        Ok(Self { child, lines, reader: Some(reader) })
    }

    /// Waits for its end and checks its exit code.
    fn wait(&mut self, deadline: Instant, code: Option<i32>) -> Result<()> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("its console is closed but it does not end");
            }
            thread::sleep(Duration::from_millis(10));
        };
        if code.is_some() && status.code() != code {
            bail!("the emulator ended with {status}, not with exit code {}", code.unwrap_or_default());
        }
        Ok(())
    }

    /// Ends it, and waits until all that it has printed has been read.
    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Hands on each line as soon as it is there; firmware prints bytes that are no text, and control sequences.
pub(crate) fn read_lines(console: impl Read, mut take: impl FnMut(String) -> bool) {
    let mut console = BufReader::new(console);
    let mut bytes = Vec::new();
    while console.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&bytes);
        if !take(text.trim_end().chars().filter(|letter| !letter.is_control()).collect()) {
            return;
        }
        bytes.clear();
    }
}
