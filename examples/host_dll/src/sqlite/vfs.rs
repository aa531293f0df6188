//! The files of SQLite: a `sqlite3_vfs` whose every method is a callback, over a folder. The names of constants are
//! those of sqlite3.h.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use calltable::{Callback, CodePointer, Error, Options};
use calltable_host_dll::unpoisoned;

use super::{SQLITE_CANTOPEN, SQLITE_FULL, SQLITE_IOERR, SQLITE_NOTFOUND, SQLITE_OK};

const SQLITE_IOERR_READ: i32 = SQLITE_IOERR | 1 << 8;
const SQLITE_IOERR_SHORT_READ: i32 = SQLITE_IOERR | 2 << 8;
const SQLITE_IOERR_WRITE: i32 = SQLITE_IOERR | 3 << 8;
const SQLITE_IOERR_FSYNC: i32 = SQLITE_IOERR | 4 << 8;
const SQLITE_IOERR_TRUNCATE: i32 = SQLITE_IOERR | 6 << 8;
const SQLITE_IOERR_FSTAT: i32 = SQLITE_IOERR | 7 << 8;
const SQLITE_IOERR_DELETE: i32 = SQLITE_IOERR | 10 << 8;
const SQLITE_OPEN_READONLY: i32 = 0x1;
const SQLITE_OPEN_CREATE: i32 = 0x4;
const SQLITE_OPEN_EXCLUSIVE: i32 = 0x10;
const SQLITE_ACCESS_READWRITE: i32 = 1;

/// `sqlite3_file`: SQLite makes room for it, and `open` says which methods it has. Its address is its name here.
#[repr(C)]
pub struct OpenFile {
    methods: *const IoMethods,
}

type OnFile = unsafe extern "win64" fn(*mut OpenFile) -> i32;
type Read = unsafe extern "win64" fn(*mut OpenFile, *mut u8, i32, i64) -> i32;
type Write = unsafe extern "win64" fn(*mut OpenFile, *const u8, i32, i64) -> i32;
type Truncate = unsafe extern "win64" fn(*mut OpenFile, i64) -> i32;
type Size = unsafe extern "win64" fn(*mut OpenFile, *mut i64) -> i32;
type WithLevel = unsafe extern "win64" fn(*mut OpenFile, i32) -> i32;
type CheckLock = unsafe extern "win64" fn(*mut OpenFile, *mut i32) -> i32;
type Control = unsafe extern "win64" fn(*mut OpenFile, i32, *mut c_void) -> i32;
type Open = unsafe extern "win64" fn(*mut Vfs, *const c_char, *mut OpenFile, i32, *mut i32) -> i32;
type Delete = unsafe extern "win64" fn(*mut Vfs, *const c_char, i32) -> i32;
type Access = unsafe extern "win64" fn(*mut Vfs, *const c_char, i32, *mut i32) -> i32;
type FullName = unsafe extern "win64" fn(*mut Vfs, *const c_char, i32, *mut u8) -> i32;
type Bytes = unsafe extern "win64" fn(*mut Vfs, i32, *mut u8) -> i32;
type Sleep = unsafe extern "win64" fn(*mut Vfs, i32) -> i32;
type Time = unsafe extern "win64" fn(*mut Vfs, *mut f64) -> i32;

/// `sqlite3_io_methods`, version 1.
#[repr(C)]
struct IoMethods {
    version: i32,
    close: OnFile,
    read: Read,
    write: Write,
    truncate: Truncate,
    sync: WithLevel,
    size: Size,
    lock: WithLevel,
    unlock: WithLevel,
    check_reserved_lock: CheckLock,
    control: Control,
    sector_size: OnFile,
    characteristics: OnFile,
}

/// `sqlite3_vfs`, version 1.
#[repr(C)]
pub struct Vfs {
    version: i32,
    file_size: i32,
    longest_name: i32,
    next: *mut Vfs,
    name: *const c_char,
    data: *mut c_void,
    open: Open,
    delete: Delete,
    access: Access,
    full_name: FullName,
    /// What loads extensions: there is nothing to load.
    libraries: [*const c_void; 4],
    randomness: Bytes,
    sleep: Sleep,
    time: Time,
    last_error: Bytes,
}

const _: () = assert!(size_of::<Vfs>() == 136 && size_of::<IoMethods>() == 104);

/// The folder, and what SQLite does with it.
pub struct Disk {
    folder: PathBuf,
    open: Mutex<HashMap<usize, File>>,
    temporary: AtomicU64,
    /// Whether files may not grow any more.
    pub is_full: AtomicBool,
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    pub syncs: AtomicU64,
    pub others: AtomicU64,
}

impl Disk {
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
            open: Mutex::default(),
            temporary: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            others: AtomicU64::new(0),
        }
    }

    pub fn open_files(&self) -> usize {
        unpoisoned(&self.open).len()
    }

    /// Where a file of that name is. A name has no folder.
    fn path(&self, name: *const c_char) -> Option<PathBuf> {
        self.others.fetch_add(1, Relaxed);
        // SAFETY: SQLite passes a string that stays for the call.
        let name = unsafe { CStr::from_ptr(name) }.to_str().ok()?;
        (!name.contains(['/', '\\'])).then(|| self.folder.join(name))
    }

    /// Has the open file do something, whose failure SQLite knows by that code.
    fn with<T>(&self, file: *mut OpenFile, code: i32, action: impl FnOnce(&File) -> io::Result<T>) -> Result<T, i32> {
        let open = unpoisoned(&self.open);
        let file = open.get(&file.addr()).ok_or(code)?;
        action(file).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => SQLITE_FULL,
            io::ErrorKind::UnexpectedEof => SQLITE_IOERR_SHORT_READ,
            _ => code,
        })
    }

    fn create(&self, name: *const c_char, flags: i32) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(flags & SQLITE_OPEN_READONLY == 0);
        if name.is_null() {
            // A file without a name goes away with its last handle.
            let number = self.temporary.fetch_add(1, Relaxed);
            let path = self.folder.join(format!("temporary-{number}"));
            let file = options.create_new(true).open(&path)?;
            fs::remove_file(path)?;
            return Ok(file);
        }
        options.create(flags & SQLITE_OPEN_CREATE != 0);
        options.create_new(flags & SQLITE_OPEN_CREATE != 0 && flags & SQLITE_OPEN_EXCLUSIVE != 0);
        options.open(self.path(name).ok_or(io::ErrorKind::InvalidInput)?)
    }

    fn read(&self, file: *mut OpenFile, bytes: &mut [u8], offset: i64) -> Result<(), i32> {
        self.reads.fetch_add(1, Relaxed);
        // Where the file ends before them, the rest is zeros.
        bytes.fill(0);
        self.with(file, SQLITE_IOERR_READ, |file| {
            let mut done = 0;
            while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
                match file.read_at(rest, offset as u64 + done as u64)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => done += read,
                }
            }
            Ok(())
        })
    }

    fn write(&self, file: *mut OpenFile, bytes: &[u8], offset: i64) -> Result<(), i32> {
        self.writes.fetch_add(1, Relaxed);
        self.with(file, SQLITE_IOERR_WRITE, |file| {
            let end = offset as u64 + bytes.len() as u64;
            if self.is_full.load(Relaxed) && end > file.metadata()?.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.write_all_at(bytes, offset as u64)
        })
    }
}

fn code<T>(result: Result<T, i32>) -> i32 {
    result.err().unwrap_or(SQLITE_OK)
}

/// The structures that SQLite keeps pointers to, and the callbacks in them.
pub struct Methods<'a> {
    vfs: Box<Vfs>,
    _io: Box<IoMethods>,
    pub callbacks: Vec<Callback<'a, CodePointer>>,
}

impl<'a> Methods<'a> {
    pub const NAME: &'static CStr = c"callbacks";

    pub fn vfs(&mut self) -> *mut Vfs {
        &raw mut *self.vfs
    }

    pub fn new(disk: &'a Disk) -> Result<Self, Error> {
        let mut callbacks = Vec::new();
        // Each of them is a function of the disk; `$body` may use its parameters.
        macro_rules! method {
            ($name:literal, $type:ty, |$disk:ident $(, $argument:ident)*| $body:expr) => {{
                let options = Options::new().named($name);
                let callback = Callback::<$type>::from_fn_with(options, disk, |$disk $(, $argument)*| $body)?;
                let code = callback.code();
                callbacks.push(callback.untyped());
                code
            }};
        }

        let io = Box::new(IoMethods {
            version: 1,
            close: method!("xClose", OnFile, |disk, file| {
                unpoisoned(&disk.open).remove(&file.addr());
                SQLITE_OK
            }),
            read: method!("xRead", Read, |disk, file, bytes, length, offset| {
                // SAFETY: SQLite passes a buffer of that length.
                code(disk.read(file, unsafe { std::slice::from_raw_parts_mut(bytes, length as usize) }, offset))
            }),
            write: method!("xWrite", Write, |disk, file, bytes, length, offset| {
                // SAFETY: SQLite passes a buffer of that length.
                code(disk.write(file, unsafe { std::slice::from_raw_parts(bytes, length as usize) }, offset))
            }),
            truncate: method!("xTruncate", Truncate, |disk, file, size| {
                code(disk.with(file, SQLITE_IOERR_TRUNCATE, |file| file.set_len(size as u64)))
            }),
            sync: method!("xSync", WithLevel, |disk, file, _flags| {
                disk.syncs.fetch_add(1, Relaxed);
                code(disk.with(file, SQLITE_IOERR_FSYNC, File::sync_data))
            }),
            size: method!("xFileSize", Size, |disk, file, size| {
                code(disk.with(file, SQLITE_IOERR_FSTAT, File::metadata).map(|metadata| {
                    // SAFETY: SQLite passes the place of such a number.
                    unsafe { size.write(metadata.len() as i64) };
                }))
            }),
            // Nobody else has these files.
            lock: method!("xLock", WithLevel, |_disk, _file, _level| SQLITE_OK),
            unlock: method!("xUnlock", WithLevel, |_disk, _file, _level| SQLITE_OK),
            check_reserved_lock: method!("xCheckReservedLock", CheckLock, |_disk, _file, is_locked| {
                // SAFETY: SQLite passes the place of such a number.
                unsafe { is_locked.write(0) };
                SQLITE_OK
            }),
            control: method!("xFileControl", Control, |_disk, _file, _operation, _argument| SQLITE_NOTFOUND),
            sector_size: method!("xSectorSize", OnFile, |_disk, _file| 4096),
            characteristics: method!("xDeviceCharacteristics", OnFile, |_disk, _file| 0),
        });
        // `open` finds the methods by the structure's own pointer to data.
        let vfs = Box::new(Vfs {
            version: 1,
            file_size: size_of::<OpenFile>() as i32,
            longest_name: 255,
            next: null_mut(),
            name: Self::NAME.as_ptr(),
            data: (&raw const *io).cast_mut().cast(),
            open: method!("xOpen", Open, |disk, vfs, name, file, flags, out_flags| {
                // SAFETY: SQLite passes this structure, room for an open file, and the place of flags or null.
                unsafe {
                    (*file).methods = null();
                    let Ok(opened) = disk.create(name, flags) else { return SQLITE_CANTOPEN };
                    unpoisoned(&disk.open).insert(file.addr(), opened);
                    (*file).methods = (*vfs).data.cast();
                    if !out_flags.is_null() {
                        out_flags.write(flags);
                    }
                }
                SQLITE_OK
            }),
            delete: method!("xDelete", Delete, |disk, _vfs, name, _sync_folder| {
                match disk.path(name).map(fs::remove_file) {
                    Some(Ok(())) => SQLITE_OK,
                    _ => SQLITE_IOERR_DELETE,
                }
            }),
            access: method!("xAccess", Access, |disk, _vfs, name, flags, answer| {
                let metadata = disk.path(name).and_then(|path| fs::metadata(path).ok());
                let has = metadata.is_some_and(|it| flags != SQLITE_ACCESS_READWRITE || !it.permissions().readonly());
                // SAFETY: SQLite passes the place of such a number.
                unsafe { answer.write(has.into()) };
                SQLITE_OK
            }),
            full_name: method!("xFullPathname", FullName, |disk, _vfs, name, length, full| {
                disk.others.fetch_add(1, Relaxed);
                // SAFETY: SQLite passes a string, and room for that many bytes.
                unsafe {
                    let name = CStr::from_ptr(name).to_bytes_with_nul();
                    if name.len() > length as usize {
                        return SQLITE_CANTOPEN;
                    }
                    full.copy_from_nonoverlapping(name.as_ptr(), name.len());
                }
                SQLITE_OK
            }),
            libraries: [null(); 4],
            randomness: method!("xRandomness", Bytes, |_disk, _vfs, length, bytes| {
                // SAFETY: SQLite passes room for that many bytes.
                let bytes = unsafe { std::slice::from_raw_parts_mut(bytes, length as usize) };
                match File::open("/dev/urandom").and_then(|mut random| random.read_exact(bytes)) {
                    Ok(()) => length,
                    Err(_) => 0,
                }
            }),
            sleep: method!("xSleep", Sleep, |_disk, _vfs, microseconds| {
                std::thread::sleep(Duration::from_micros(microseconds as u64));
                microseconds
            }),
            time: method!("xCurrentTime", Time, |_disk, _vfs, days| {
                let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                // SAFETY: SQLite passes the place of such a number: a Julian day.
                unsafe { days.write(2_440_587.5 + since_1970.as_secs_f64() / 86_400.0) };
                SQLITE_OK
            }),
            last_error: method!("xGetLastError", Bytes, |_disk, _vfs, _length, _bytes| 0),
        });
        Ok(Self { vfs, _io: io, callbacks })
    }
}
