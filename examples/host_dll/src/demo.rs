//! The demonstration from beginning to end.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use calltable::{Callback, table};
use calltable_host_dll::{Guest, enter, sandbox};
use flate2::{Compression, Crc, read::ZlibEncoder};

use crate::Result;
use crate::report::{Balance, Report};
use crate::zlib::{Wrapper, Zlib, flate2_inflate};
use crate::zstd::Zstd;
use crate::{sqlite, zlib, zstd};

const USAGE: &str = "usage: host_dll [--file FILE] [--keep FOLDER] [--call EXPORT] DLL...
  DLL     for 64-bit Windows; what to do with zlib's, SQLite's and Zstandard's is known, others are listed
  FILE    what they get to work on [default: this program]
  FOLDER  where what SQLite and Zstandard have written stays
  EXPORT  a function to call instead of the work, with zeros as its arguments";

/// What the command line says.
struct Wishes {
    dlls: Vec<PathBuf>,
    file: PathBuf,
    keep: Option<PathBuf>,
    call: Option<String>,
}

impl Wishes {
    fn read(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut wishes = Self { dlls: Vec::new(), file: env::current_exe().ok()?, keep: None, call: None };
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--file") => wishes.file = arguments.next()?.into(),
                Some("--keep") => wishes.keep = Some(arguments.next()?.into()),
                Some("--call") => wishes.call = Some(arguments.next()?.into_string().ok()?),
                Some(option) if option.starts_with('-') => return None,
                _ => wishes.dlls.push(argument.into()),
            }
        }
        (!wishes.dlls.is_empty()).then_some(wishes)
    }
}

pub fn run() -> ExitCode {
    let Some(wishes) = Wishes::read(env::args_os().skip(1)) else {
        eprintln!("host_dll: {USAGE}");
        return ExitCode::from(2);
    };
    match demonstrate(&wishes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host_dll: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(wishes: &Wishes) -> Result<()> {
    let slots_before = table::live_count();
    let file = &wishes.file;
    let input = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let guests = wishes.dlls.iter().map(|path| Guest::load(path)).collect::<Result<Vec<Guest>>>()?;
    let works = guests.iter().map(|guest| Work::of(guest, wishes.call.as_deref())).collect::<Result<Vec<Work>>>()?;
    note_slots();

    let mut report = Report::new(io::stdout().lock());
    for (guest, work) in guests.iter().zip(&works) {
        report.dll(guest, matches!(work, Work::Unknown))?;
    }
    let entered = enter()?;
    for guest in &guests {
        // SAFETY: this thread has entered after it was loaded.
        unsafe { guest.attach() }?;
    }
    report.line(format_args!("\nTheir entry points have run, for DLL_PROCESS_ATTACH: {}.", guests.len()))?;

    // From here on, no new code.
    let sandbox = sandbox::forbid_new_code()?;
    let code_before = sandbox::executable_mappings()?;
    report.sandbox(&sandbox)?;

    // The work. Its callbacks are registered now, and gone when it is done.
    report.input(file, &input)?;
    for (guest, work) in guests.iter().zip(&works) {
        let about_dll = |error| format!("{}: {error}", guest.path.display());
        // SAFETY: the images live until the end of this function, are bound, and their entry points have run.
        unsafe { work.run(guest, &input, wishes.keep.as_deref(), &mut report) }.map_err(about_dll)?;
    }
    let speed = Speed::measure()?;
    for guest in guests.iter().rev() {
        // SAFETY: as for the first time.
        unsafe { guest.detach() }?;
    }
    drop(entered);
    let code_after = sandbox::executable_mappings()?;
    let balances: Vec<Balance> = guests.iter().map(Balance::of).collect();
    drop(guests);
    let slots = [slots_before, MOST_SLOTS.load(Relaxed), table::live_count()];
    report.balance(slots, [code_before.len(), code_after.len()], &balances, &speed)?;

    if code_before != code_after {
        return Err("the executable mappings are not those from before".into());
    }
    if let Some(balance) = balances.iter().find(|balance| balance.locks_held != 0 || balance.handles != 0) {
        return Err(format!("{} has kept a lock or a handle", balance.name).into());
    }
    if slots[0] != slots[2] {
        return Err("some slots have not been given back".into());
    }
    report.line("\nEverything matched.")
}

static MOST_SLOTS: AtomicUsize = AtomicUsize::new(0);

/// Takes note of how many slots are taken now.
pub fn note_slots() {
    MOST_SLOTS.fetch_max(table::live_count(), Relaxed);
}

/// Where files are written; it goes away at the end, unless somebody wants to have them.
struct Folder {
    path: PathBuf,
    stays: bool,
}

impl Folder {
    fn make(wanted: Option<&Path>) -> Result<Self> {
        let about = |path: &Path, error| format!("{}: {error}", path.display());
        if let Some(path) = wanted {
            fs::create_dir_all(path).map_err(|error| about(path, error))?;
            return Ok(Self { path: path.into(), stays: true });
        }
        let mut number = 0;
        loop {
            let path = env::temp_dir().join(format!("host_dll-{}-{number}", std::process::id()));
            // It must be new, so that nobody else has put anything there.
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path, stays: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 100 => number += 1,
                Err(error) => return Err(about(&path, error).into()),
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.stays {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// What is to be done with a DLL, by what it exports.
enum Work {
    Zlib(zlib::Exports),
    Sqlite(Box<sqlite::Exports>),
    Zstd(zstd::Exports),
    /// To call this, the function of that name.
    Call(String, usize),
    Unknown,
}

impl Work {
    fn of(guest: &Guest, call: Option<&str>) -> Result<Self> {
        let is = |name| guest.image.exports().contains_key(name);
        let work = if let Some(name) = call {
            guest.image.function(name).map(|address| Self::Call(name.into(), address))
        } else if is("zlibVersion") {
            zlib::Exports::of(&guest.image).map(Self::Zlib)
        } else if is("sqlite3_libversion") {
            sqlite::Exports::of(&guest.image).map(|exports| Self::Sqlite(Box::new(exports)))
        } else if is("ZSTD_versionString") {
            zstd::Exports::of(&guest.image).map(Self::Zstd)
        } else {
            Ok(Self::Unknown)
        };
        Ok(work.map_err(|error| format!("{}: {error}", guest.path.display()))?)
    }

    /// Does it, and compares the results with what is right.
    ///
    /// # Safety
    /// The guest's entry point must have run.
    unsafe fn run(
        &self,
        guest: &Guest,
        input: &[u8],
        keep: Option<&Path>,
        report: &mut Report<impl io::Write>,
    ) -> Result<()> {
        match self {
            Self::Zlib(exports) => {
                let allocator = zlib::Allocator::default();
                // SAFETY: by the promise to this function.
                let zlib = unsafe { Zlib::new(exports, &allocator) }?;
                let ways = through_zlib(&zlib, input)?;
                let (allocated, freed) = (allocator.allocated.load(Relaxed), allocator.freed.load(Relaxed));
                balanced(allocated, freed)?;
                report.ways(&format!("zlib {}", zlib.version()), input.len(), &ways)?;
                let of_zlib = [
                    ("z_stream.zalloc", allocated),
                    ("z_stream.zfree", freed),
                    ("inflateBack, input", zlib.inputs.get()),
                    ("inflateBack, output", zlib.outputs.get()),
                ];
                report.calls(guest, &of_zlib)
            }
            Self::Sqlite(exports) => {
                let folder = Folder::make(keep)?;
                // SAFETY: by the promise to this function.
                let found = unsafe { sqlite::run(exports, &folder.path, input) }?;
                report.sqlite(&found)?;
                let (calls, disk) = (&found.calls, &found.disk);
                let of_sqlite = [
                    ("crc32(bytes)", &calls.function),
                    ("median(number)", &calls.aggregate),
                    ("collation numbered", &calls.collation),
                    ("rows of sqlite3_exec", &calls.rows),
                    ("xDestroy", &calls.destroyed),
                    ("xRead", &disk.reads),
                    ("xWrite", &disk.writes),
                    ("xSync", &disk.syncs),
                ];
                report.calls(guest, &of_sqlite.map(|(name, count)| (name, count.load(Relaxed))))
            }
            Self::Zstd(exports) => {
                let allocator = zstd::Allocator::default();
                // SAFETY: by the promise to this function.
                let zstd = unsafe { Zstd::new(exports, &allocator) }?;
                let ways = through_zstd(&zstd, input, &Folder::make(keep)?.path)?;
                let (allocated, freed) = (allocator.allocated.load(Relaxed), allocator.freed.load(Relaxed));
                balanced(allocated, freed)?;
                report.ways(&format!("Zstandard {}", zstd.version()), input.len(), &ways)?;
                report.calls(guest, &[("customMem.customAlloc", allocated), ("customMem.customFree", freed)])
            }
            Self::Call(name, address) => {
                type Function = unsafe extern "win64" fn(usize, usize, usize, usize) -> usize;
                // SAFETY: it is code of the image; whether it may be called so, whoever wants it must know.
                let result = unsafe { std::mem::transmute::<usize, Function>(*address)(0, 0, 0, 0) };
                report.line(format_args!("\n{name} has returned {result:#x}."))
            }
            Self::Unknown => Ok(()),
        }
    }
}

fn balanced(allocated: u64, freed: u64) -> Result<()> {
    match allocated == freed {
        true => Ok(()),
        false => Err(format!("{freed} of {allocated} allocations were freed").into()),
    }
}

/// One way through a compressor or a decompressor.
pub struct Way {
    pub name: &'static str,
    pub from: usize,
    pub to: usize,
    pub time: Duration,
}

fn through_zlib(zlib: &Zlib<'_>, input: &[u8]) -> Result<Vec<Way>> {
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
    Ok(ways)
}

/// The frame that is left in the folder.
const FRAME: &str = "input.zst";

/// A dictionary is trained on pieces of that size, if there are enough of them.
const SAMPLE: usize = 1 << 10;
const SAMPLES: usize = 256;

fn through_zstd(zstd: &Zstd<'_>, input: &[u8], folder: &Path) -> Result<Vec<Way>> {
    let plain = input.len();
    let mut ways = Vec::new();
    let mut there_and_back = |names: [&'static str; 2], dictionary: Option<&[u8]>| {
        let (compressed, time) = timed(|| zstd.compress(input, dictionary))?;
        ways.push(Way { name: names[0], from: plain, to: compressed.len(), time });
        let (bytes, time) = timed(|| zstd.decompress(&compressed, dictionary))?;
        ways.push(Way { name: names[1], from: compressed.len(), to: plain, time });
        if bytes != input {
            return Err("the bytes that came back are not those that went in".into());
        }
        Result::Ok(compressed)
    };
    let frame = there_and_back(["compress, two threads", "decompress"], None)?;
    fs::write(folder.join(FRAME), frame)?;
    if let Some(samples) = input.get(..SAMPLE * SAMPLES) {
        let dictionary = zstd.train(samples, SAMPLE)?;
        there_and_back(["compress, dictionary", "decompress, dictionary"], Some(&dictionary))?;
    }
    Ok(ways)
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let result = work()?;
    Ok((result, start.elapsed()))
}

type Function = unsafe extern "win64" fn() -> u32;

/// Nanoseconds per call, the loop around it included.
pub struct Speed {
    pub callback: f64,
    pub function: f64,
}

impl Speed {
    pub const LOOPS: u32 = 9;
    pub const CALLS: u32 = 1_000_000;

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
