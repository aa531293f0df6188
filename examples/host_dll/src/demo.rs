//! The demonstration from beginning to end, and its report.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use calltable::{CAPACITY, Callback, table};
use flate2::{Compression, Crc, read::ZlibEncoder};

use crate::Result;
use crate::image::{Draft, Image, Reason};
use crate::imports::{Bound, Host, Import};
use crate::sandbox::{self, Sandbox};
use crate::thread;
use crate::zlib::{Allocator, Exports, Wrapper, Zlib, flate2_inflate};

pub fn run() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let [dll, file] = arguments.as_slice() else {
        eprintln!("host_dll: usage: host_dll DLL FILE (DLL: a 64-bit zlib1.dll; FILE: what it is to compress)");
        return ExitCode::from(2);
    };
    match demonstrate(Path::new(dll), Path::new(file)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host_dll: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(dll: &Path, file: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let about_dll = |error| format!("{}: {error}", dll.display());
    let (code, input) = (read(dll)?, read(file)?);
    let mut report = Report(io::stdout().lock());

    // The image, with a callback for each import.
    let slots_before = table::live_count();
    let mut draft = Draft::read(&code).map_err(about_dll)?;
    let host = Host::new(draft.regions.clone());
    let imports: Vec<Import<'_>> = draft.imports.iter().map(|entry| Import::new(&host, entry)).collect();
    let bound = imports.iter().map(Import::bind).collect::<std::result::Result<Vec<_>, _>>()?;
    for (index, callback) in bound.iter().enumerate() {
        draft.bind(index, callback.address()).map_err(about_dll)?;
    }
    let image = draft.load().map_err(about_dll)?;
    let exports = Exports::of(&image).map_err(about_dll)?;

    thread::enter(image.tls_template())?;
    // SAFETY: the imports are bound to functions of their names' types, and GS points to the thread's block.
    unsafe { image.notify(Reason::ProcessAttach) }.map_err(about_dll)?;
    report.dll(dll, &image, &imports, &bound)?;

    // From here on, no new code.
    let sandbox = sandbox::forbid_new_code()?;
    let code_before = sandbox::executable_mappings()?;
    report.sandbox(&sandbox)?;

    // The work. Its callbacks are registered now, and gone when it is done.
    let allocator = Allocator::new(&host);
    let work = {
        // SAFETY: the image lives until the end of this function, is bound, and its entry point has run.
        let zlib = unsafe { Zlib::new(&exports, &allocator) }?;
        work(&zlib, &input)?
    };
    let speed = Speed::measure()?;
    // SAFETY: as for the first time.
    unsafe { image.notify(Reason::ProcessDetach) }.map_err(about_dll)?;
    let code_after = sandbox::executable_mappings()?;
    drop(bound);
    let slots_after = table::live_count();
    report.work(file, &input, &work)?;
    report.calls(&imports, &allocator, &work, &speed)?;

    let (allocated, freed) = (allocator.allocated.load(Relaxed), allocator.freed.load(Relaxed));
    report.heading("\nThe balance")?;
    report.row(
        "slots",
        format!("{slots_before} before, {} at most (of {CAPACITY}), {slots_after} after", host.most_slots()),
    )?;
    report.row("executable mappings", format!("{} before, {} after", code_before.len(), code_after.len()))?;
    report.row("zlib's allocations", format!("{} made, {} freed", grouped(allocated), grouped(freed)))?;
    let heap = (host.heap.blocks(), grouped(host.heap.most_bytes() as u64));
    report.row("the DLL's heap", format!("{} blocks left, {} bytes at most", heap.0, heap.1))?;
    report.row("the DLL's locks", format!("{} left, {} held", host.sections_left(), host.locks_held()))?;
    for line in host.log().iter() {
        report.row("reported", line)?;
    }

    if code_before != code_after {
        return Err("the executable mappings are not those from before".into());
    }
    if allocated != freed {
        return Err("zlib has not freed what it allocated".into());
    }
    if host.locks_held() != 0 {
        return Err("the DLL has kept a lock".into());
    }
    if slots_after != slots_before {
        return Err("some slots have not been given back".into());
    }
    report.line("\nEverything matched.")
}

/// What was done with the file, and how it went.
struct Work {
    version: String,
    crc32: u32,
    ways: Vec<Way>,
    /// Calls of `inflateBack`'s callbacks.
    inputs: u64,
    outputs: u64,
}

/// One way through a compressor or a decompressor.
struct Way {
    name: &'static str,
    from: usize,
    to: usize,
    time: Duration,
}

fn work(zlib: &Zlib<'_>, input: &[u8]) -> Result<Work> {
    let mut crc = Crc::new();
    crc.update(input);
    if zlib.crc32(input) != crc.sum() {
        return Err("the DLL's crc32 is not flate2's".into());
    }

    let plain = input.len();
    let mut ways = Vec::new();
    {
        let (compressed, time) = timed(|| zlib.deflate(input, Wrapper::Zlib))?;
        ways.push(Way { name: "deflate", from: plain, to: compressed.len(), time });
        let (_, time) = timed(|| zlib.inflate(&*compressed, input))?;
        ways.push(Way { name: "inflate", from: compressed.len(), to: plain, time });
        let ((), time) = timed(|| flate2_inflate(&compressed, Wrapper::Zlib, input))?;
        ways.push(Way { name: "the same, inflated by flate2", from: compressed.len(), to: plain, time });
    }
    {
        let (compressed, time) = timed(|| zlib.deflate(input, Wrapper::Raw))?;
        ways.push(Way { name: "deflate, raw", from: plain, to: compressed.len(), time });
        let ((), time) = timed(|| zlib.inflate_back(&compressed, input))?;
        ways.push(Way { name: "inflateBack, raw", from: compressed.len(), to: plain, time });
        let ((), time) = timed(|| flate2_inflate(&compressed, Wrapper::Raw, input))?;
        ways.push(Way { name: "the same, inflated by flate2", from: compressed.len(), to: plain, time });
    }
    // Compressed by flate2, while the DLL inflates.
    let (compressed, time) = timed(|| zlib.inflate(ZlibEncoder::new(input, Compression::default()), input))?;
    ways.push(Way { name: "inflate, deflated by flate2", from: compressed, to: plain, time });

    let (inputs, outputs) = (zlib.inputs.get(), zlib.outputs.get());
    Ok(Work { version: zlib.version(), crc32: crc.sum(), ways, inputs, outputs })
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let result = work()?;
    Ok((result, start.elapsed()))
}

type Function = unsafe extern "win64" fn() -> u32;

/// Nanoseconds per call, the loop around it included.
struct Speed {
    callback: f64,
    function: f64,
}

impl Speed {
    const LOOPS: u32 = 9;
    const CALLS: u32 = 1_000_000;

    /// A callback like `GetLastError`'s: it returns a number that its data holds. And a plain function that does so.
    fn measure() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        unsafe extern "win64" fn plain() -> u32 {
            NUMBER.load(Relaxed)
        }
        let callback = Callback::<Function>::from_fn(&NUMBER, |number| number.load(Relaxed))?;
        Ok(Self { callback: Self::best(callback.code()), function: Self::best(plain) })
    }

    fn best(function: Function) -> f64 {
        let run = |_| {
            let start = Instant::now();
            for _ in 0..Self::CALLS {
                // SAFETY: it is one of the two above, and its callback lives.
                black_box(unsafe { black_box(function)() });
            }
            start.elapsed().as_nanos() as f64 / f64::from(Self::CALLS)
        };
        (0..Self::LOOPS).map(run).fold(f64::INFINITY, f64::min)
    }
}

/// Plain text in columns.
struct Report<W>(W);

impl<W: Write> Report<W> {
    /// Callbacks that are listed one by one.
    const BUSIEST: usize = 12;

    fn line(&mut self, text: impl Display) -> Result<()> {
        writeln!(self.0, "{text}").map_err(|error| format!("cannot write the report: {error}").into())
    }

    fn heading(&mut self, text: impl Display) -> Result<()> {
        let text = text.to_string();
        self.line(format_args!("{text}\n{}", "─".repeat(text.trim().chars().count())))
    }

    fn row(&mut self, name: impl Display, text: impl Display) -> Result<()> {
        self.line(format_args!("  {name:<26}  {text}"))
    }

    fn dll(&mut self, path: &Path, image: &Image, imports: &[Import<'_>], bound: &[Bound<'_>]) -> Result<()> {
        self.heading("The DLL")?;
        self.row("file", path.display())?;
        self.row("in memory", format!("{} bytes", grouped(image.size() as u64)))?;
        self.row("imports", format!("{}, each bound to a callback of the table", imports.len()))?;
        let mut dlls = BTreeMap::<&str, (u32, u32)>::new();
        for (import, callback) in imports.iter().zip(bound) {
            let (implemented, reported) = dlls.entry(&import.dll).or_default();
            *if callback.implemented { implemented } else { reported } += 1;
        }
        for (dll, (implemented, reported)) in dlls {
            self.row(format!("  {dll}"), format!("{implemented:>2} implemented, {reported:>2} only reported"))?;
        }
        self.row("entry point", "has run, for DLL_PROCESS_ATTACH")
    }

    fn sandbox(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.heading("\nNo new code from here on")?;
        if let Some(error) = &sandbox.without_mdwe {
            self.row("PR_SET_MDWE", format!("not in this kernel ({error}): the filter must do alone"))?;
        }
        for attempt in &sandbox.refused {
            self.row(attempt.what, format!("refused by {:<11}  {}", attempt.by, attempt.error))?;
        }
        Ok(())
    }

    fn work(&mut self, path: &Path, input: &[u8], work: &Work) -> Result<()> {
        self.heading(format!("\n{} through zlib {}", path.display(), work.version))?;
        self.row("size", format!("{} bytes", grouped(input.len() as u64)))?;
        self.row("crc32", format!("{:08x}, by the DLL and by flate2", work.crc32))?;
        self.line(format_args!(
            "\n  {:<28} {:>15} {:>15} {:>8} {:>8}",
            "way", "bytes in", "bytes out", "ratio", "MB/s"
        ))?;
        let plain = input.len();
        for Way { name, from, to, time } in &work.ways {
            let compressed = if *from == plain { *to } else { *from };
            let ratio = match plain {
                0 => "-".into(),
                plain => format!("{:.1} %", 100.0 * compressed as f64 / plain as f64),
            };
            let speed = format!("{:.0}", plain as f64 / 1e6 / time.as_secs_f64());
            let (from, to) = (grouped(*from as u64), grouped(*to as u64));
            self.line(format_args!("  {name:<28} {from:>15} {to:>15} {ratio:>8} {speed:>8}"))?;
        }
        Ok(())
    }

    fn calls(&mut self, imports: &[Import<'_>], allocator: &Allocator<'_>, work: &Work, speed: &Speed) -> Result<()> {
        self.heading("\nCallbacks")?;
        let of_zlib = [
            (allocator.allocated.load(Relaxed), "z_stream.zalloc"),
            (allocator.freed.load(Relaxed), "z_stream.zfree"),
            (work.inputs, "inflateBack, input"),
            (work.outputs, "inflateBack, output"),
        ];
        let mut calls: Vec<(u64, &str)> =
            imports.iter().map(|import| (import.calls(), import.name.as_str())).chain(of_zlib).collect();
        calls.sort_by(|a, b| b.cmp(a));
        self.line(format_args!("  {:<26}  {:>15}", "callback", "calls"))?;
        for (calls, name) in calls.iter().filter(|(calls, _)| *calls != 0).take(Self::BUSIEST) {
            self.row(name, format!("{:>15}", grouped(*calls)))?;
        }
        self.row("all together", format!("{:>15}", grouped(calls.iter().map(|(calls, _)| calls).sum())))?;
        let idle = calls.iter().filter(|(calls, _)| *calls == 0).count();
        self.line(format_args!("\n  {idle} of {} callbacks were never called.", calls.len()))?;
        let (loops, count) = (Speed::LOOPS, grouped(Speed::CALLS.into()));
        let build = if cfg!(debug_assertions) { ", in a debug build" } else { "" };
        self.line(format_args!(
            "  One call takes {:.1} ns; of a plain function, {:.1} ns{build}.",
            speed.callback, speed.function
        ))?;
        self.line(format_args!("  (The best of {loops} loops of {count} calls through a pointer, the loop included.)"))
    }
}

/// With a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
