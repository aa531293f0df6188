//! SQLite as the DLL exports it, driven the way sqlite3.h says: its files, functions, orders and rows are callbacks.

mod vfs;

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use calltable::{Callback, Options, table};
use calltable_host_dll::exports;
use flate2::Crc;

use crate::Result;
pub use vfs::Disk;
use vfs::{Methods, Vfs};

const SQLITE_OK: i32 = 0;
const SQLITE_IOERR: i32 = 10;
const SQLITE_NOTFOUND: i32 = 12;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_ROW: i32 = 100;
const SQLITE_DONE: i32 = 101;
const SQLITE_OPEN_READWRITE: i32 = 0x2;
const SQLITE_OPEN_CREATE: i32 = 0x4;
const SQLITE_UTF8: i32 = 1;
const SQLITE_DETERMINISTIC: i32 = 0x800;
const SQLITE_BLOB: i32 = 4;

type Scalar = unsafe extern "win64" fn(*mut c_void, i32, *const *mut c_void);
type Final = unsafe extern "win64" fn(*mut c_void);
type Destroy = unsafe extern "win64" fn(*mut c_void);
type Compare = unsafe extern "win64" fn(*mut c_void, i32, *const u8, i32, *const u8) -> i32;
type Row = unsafe extern "win64" fn(*mut c_void, i32, *const *const c_char, *const *const c_char) -> i32;

exports! {
    sqlite3_libversion: () -> *const c_char;
    sqlite3_compileoption_get: (i32) -> *const c_char;
    sqlite3_vfs_register: (*mut Vfs, i32) -> i32;
    sqlite3_vfs_unregister: (*mut Vfs) -> i32;
    sqlite3_shutdown: () -> i32;
    sqlite3_memory_used: () -> i64;
    sqlite3_open_v2: (*const c_char, *mut *mut c_void, i32, *const c_char) -> i32;
    sqlite3_close: (*mut c_void) -> i32;
    sqlite3_errmsg: (*mut c_void) -> *const c_char;
    sqlite3_exec: (*mut c_void, *const c_char, Option<Row>, *mut c_void, *mut *mut c_char) -> i32;
    sqlite3_prepare_v2: (*mut c_void, *const c_char, i32, *mut *mut c_void, *mut *const c_char) -> i32;
    sqlite3_bind_int64: (*mut c_void, i32, i64) -> i32;
    sqlite3_bind_blob: (*mut c_void, i32, *const u8, i32, Option<Destroy>) -> i32;
    sqlite3_step: (*mut c_void) -> i32;
    sqlite3_reset: (*mut c_void) -> i32;
    sqlite3_finalize: (*mut c_void) -> i32;
    sqlite3_column_blob: (*mut c_void, i32) -> *const u8;
    sqlite3_column_bytes: (*mut c_void, i32) -> i32;
    sqlite3_create_function_v2: (
        *mut c_void, *const c_char, i32, i32, *mut c_void,
        Option<Scalar>, Option<Scalar>, Option<Final>, Option<Destroy>
    ) -> i32;
    sqlite3_create_collation_v2: (*mut c_void, *const c_char, i32, *mut c_void, Compare, Option<Destroy>) -> i32;
    sqlite3_aggregate_context: (*mut c_void, i32) -> *mut c_void;
    sqlite3_value_type: (*mut c_void) -> i32;
    sqlite3_value_blob: (*mut c_void) -> *const u8;
    sqlite3_value_bytes: (*mut c_void) -> i32;
    sqlite3_value_int64: (*mut c_void) -> i64;
    sqlite3_result_int64: (*mut c_void, i64);
    sqlite3_result_null: (*mut c_void);
    sqlite3_result_error: (*mut c_void, *const c_char, i32);
}

/// The database that is left in the folder.
pub const FILE: &str = "pieces.sqlite";

/// What SQLite has called, and how often.
#[derive(Default)]
pub struct Calls {
    pub function: AtomicU64,
    pub aggregate: AtomicU64,
    pub collation: AtomicU64,
    pub rows: AtomicU64,
    pub destroyed: AtomicU64,
}

/// What was found, all of it compared with what is right.
pub struct Report {
    pub version: String,
    pub compiler: String,
    pub pieces: usize,
    pub callbacks: usize,
    pub calls: Calls,
    pub disk: Disk,
}

/// Cuts the bytes into pieces, and has the DLL keep them in a database in the folder.
///
/// # Safety
/// The exports' image must be bound, and its entry point have run.
pub unsafe fn run(exports: &Exports, folder: &Path, bytes: &[u8]) -> Result<Report> {
    let (calls, disk) = (Calls::default(), Disk::new(folder));
    let _ = std::fs::remove_file(folder.join(FILE));
    let pieces: Vec<&[u8]> = bytes.chunks(bytes.len().div_ceil(200).max(1)).collect();
    let before = table::live_count();
    let callbacks;
    {
        let mut methods = Methods::new(&disk)?;
        let vfs = methods.vfs();
        // SAFETY: by the promise to this function; the structure and its callbacks live until they are taken back.
        expect(unsafe { (exports.sqlite3_vfs_register)(vfs, 1) }, "sqlite3_vfs_register")?;
        let result = with_database(exports, &calls, &pieces, &disk);
        // SAFETY: no database is open any more.
        expect(unsafe { (exports.sqlite3_vfs_unregister)(vfs) }, "sqlite3_vfs_unregister")?;
        let of_database = result?;
        callbacks = methods.callbacks.len() + of_database;
    }
    // SAFETY: by the promise to this function; nothing is open.
    let left = unsafe {
        expect((exports.sqlite3_shutdown)(), "sqlite3_shutdown")?;
        (exports.sqlite3_memory_used)()
    };
    same("bytes that SQLite has kept", left, 0)?;
    same("files that SQLite has kept open", disk.open_files(), 0)?;
    same("callbacks that SQLite has let go", calls.destroyed.load(Relaxed), DESTROYED)?;
    same("slots", table::live_count(), before)?;
    // SAFETY: both return string constants; all options are in the list, whose end is null.
    let (version, options) = unsafe {
        let options = (0..).map(|index| (exports.sqlite3_compileoption_get)(index)).take_while(|it| !it.is_null());
        (text((exports.sqlite3_libversion)()), options.map(text).collect::<Vec<_>>())
    };
    let compiler = options.iter().find_map(|option| option.strip_prefix("COMPILER=")).unwrap_or("unknown").into();
    Ok(Report { version, compiler, pieces: pieces.len(), callbacks, calls, disk })
}

/// Registrations with a function for their end.
const DESTROYED: u64 = 3;

/// All that is done while the database is open. Returns how many callbacks there were beside those of the files.
fn with_database(exports: &Exports, calls: &Calls, pieces: &[&[u8]], disk: &Disk) -> Result<usize> {
    let crc = |context: *mut c_void, _count: i32, values: *const *mut c_void| {
        calls.function.fetch_add(1, Relaxed);
        // SAFETY: SQLite passes as many values as were announced, which stay for the call: one.
        unsafe {
            let value = values.read();
            match (exports.sqlite3_value_type)(value) {
                SQLITE_BLOB => (exports.sqlite3_result_int64)(context, crc32(value_bytes(exports, value)).into()),
                _ => (exports.sqlite3_result_error)(context, c"crc32 wants a BLOB".as_ptr(), -1),
            }
        }
    };
    // Where the aggregate keeps a group's numbers: a pointer to a list of them, which starts as null.
    let numbers = |context, bytes| {
        // SAFETY: SQLite gives the same place for all calls of one group; null if there was none before the last.
        unsafe { (exports.sqlite3_aggregate_context)(context, bytes).cast::<*mut Vec<i64>>().as_mut() }
    };
    let step = |context: *mut c_void, _count: i32, values: *const *mut c_void| {
        calls.aggregate.fetch_add(1, Relaxed);
        let Some(place) = numbers(context, size_of::<*mut Vec<i64>>() as i32) else { return };
        if place.is_null() {
            *place = Box::into_raw(Box::default());
        }
        // SAFETY: the list is there until the last call of the group; one value is passed.
        unsafe { (**place).push((exports.sqlite3_value_int64)(values.read())) };
    };
    let last = |context: *mut c_void| {
        calls.aggregate.fetch_add(1, Relaxed);
        let place = numbers(context, 0).filter(|place| !place.is_null());
        // SAFETY: `step` has made the box, and this is the last call of the group.
        let middle = place.and_then(|place| median(*unsafe { Box::from_raw(*place) }));
        // SAFETY: SQLite passes the context of this call.
        unsafe {
            match middle {
                Some(number) => (exports.sqlite3_result_int64)(context, number),
                None => (exports.sqlite3_result_null)(context),
            }
        }
    };
    let compare = |_: *mut c_void, a_length: i32, a: *const u8, b_length: i32, b: *const u8| {
        calls.collation.fetch_add(1, Relaxed);
        // SAFETY: SQLite passes two strings of these lengths.
        let (a, b) = unsafe { (bytes_of(a, a_length), bytes_of(b, b_length)) };
        natural_order(a, b) as i32
    };
    let destroy = |_: *mut c_void| {
        calls.destroyed.fetch_add(1, Relaxed);
    };
    let crc = Callback::<Scalar>::from_ref_with(Options::new().named("crc32"), &crc)?;
    let step = Callback::<Scalar>::from_ref_with(Options::new().named("median, step"), &step)?;
    let last = Callback::<Final>::from_ref_with(Options::new().named("median, final"), &last)?;
    let compare = Callback::<Compare>::from_ref_with(Options::new().named("numbered"), &compare)?;
    let destroy = Callback::<Destroy>::from_ref_with(Options::new().named("xDestroy"), &destroy)?;

    // Opened again, so that all is read from the file.
    let database = Database::open(exports, calls)?;
    database.fill(pieces)?;
    database.close()?;
    let database = Database::open(exports, calls)?;
    let (flags, code) = (SQLITE_UTF8 | SQLITE_DETERMINISTIC, destroy.code());
    // SAFETY: the database is open; the callbacks live until it is closed.
    unsafe {
        let function = exports.sqlite3_create_function_v2;
        let (crc, step, last) = (crc.code(), step.code(), last.code());
        let (db, none) = (database.pointer, null_mut());
        database.expect(function(db, c"crc32".as_ptr(), 1, flags, none, Some(crc), None, None, Some(code)))?;
        let result = function(db, c"median".as_ptr(), 1, flags, none, None, Some(step), Some(last), Some(code));
        database.expect(result)?;
        let collation = exports.sqlite3_create_collation_v2;
        let result = collation(db, c"numbered".as_ptr(), SQLITE_UTF8, none, compare.code(), Some(code));
        database.expect(result)?;
    }
    crate::demo::note_slots();
    database.check(pieces, disk)?;
    database.close()?;
    // The five above, and that of the rows.
    Ok(6)
}

struct Database<'a> {
    exports: &'a Exports,
    calls: &'a Calls,
    pointer: *mut c_void,
}

impl<'a> Database<'a> {
    fn open(exports: &'a Exports, calls: &'a Calls) -> Result<Self> {
        let mut database = Self { exports, calls, pointer: null_mut() };
        let (name, flags) = (CString::new(FILE)?, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
        // SAFETY: the strings stay for the call, and the place is for a database.
        let result = unsafe {
            (exports.sqlite3_open_v2)(name.as_ptr(), &raw mut database.pointer, flags, Methods::NAME.as_ptr())
        };
        database.expect(result)?;
        Ok(database)
    }

    fn fill(&self, pieces: &[&[u8]]) -> Result<()> {
        self.run("CREATE TABLE piece (number INTEGER PRIMARY KEY, name TEXT NOT NULL, bytes BLOB NOT NULL)")?;
        self.run("BEGIN")?;
        let mut insert = self.prepare("INSERT INTO piece VALUES (?1, 'piece' || ?1, ?2)")?;
        for (piece, number) in pieces.iter().zip(1..) {
            insert.bind(number, piece)?;
            insert.step()?;
        }
        drop(insert);
        self.run("COMMIT")
    }

    /// Compares what comes out of the database with what is right.
    fn check(&self, pieces: &[&[u8]], disk: &Disk) -> Result<()> {
        self.compare(pieces)?;

        // The collation: 2 comes before 10, which no order of bytes would say.
        let names: Vec<String> = (1..=pieces.len()).map(|number| format!("piece{number}")).collect();
        let found = self.rows("SELECT name FROM piece ORDER BY name COLLATE numbered")?;
        same("the names in natural order", found, names.clone())?;
        let mut by_bytes = names;
        by_bytes.sort();
        same("the names by bytes", self.rows("SELECT name FROM piece ORDER BY name")?, by_bytes)?;

        // The function and the aggregate.
        let sum: i64 = pieces.iter().map(|piece| i64::from(crc32(piece))).sum();
        let middle = median(pieces.iter().map(|piece| piece.len() as i64).collect());
        let right = format!("{sum}|{}", middle.map_or("NULL".into(), |middle| middle.to_string()));
        let query =
            "SELECT coalesce(sum(crc32(bytes)), 0) || '|' || coalesce(median(length(bytes)), 'NULL') FROM piece";
        same("checksums and median", self.rows(query)?, vec![right])?;
        same("an error of the function", self.error("SELECT crc32('text')")?, "crc32 wants a BLOB".into())?;

        // What is taken back was never done, although the file has it already: there is room for ten pages in memory.
        let overwritten = "SELECT count(*) FROM piece WHERE bytes = zeroblob(length(bytes)) AND number < 0";
        self.run("PRAGMA cache_size = 10; BEGIN; UPDATE piece SET number = -number, bytes = zeroblob(length(bytes))")?;
        same("pieces, overwritten", self.rows(overwritten)?, vec![pieces.len().to_string()])?;
        self.run("ROLLBACK")?;
        self.compare(pieces)?;
        // A full disk does no harm.
        disk.is_full.store(true, Relaxed);
        let error = self.error("CREATE TABLE large AS SELECT zeroblob(1000000)")?;
        disk.is_full.store(false, Relaxed);
        same("a full disk", error, "database or disk is full".into())?;
        self.compare(pieces)?;
        same("PRAGMA integrity_check", self.rows("PRAGMA integrity_check")?, vec!["ok".into()])
    }

    /// All rows, byte for byte.
    fn compare(&self, pieces: &[&[u8]]) -> Result<()> {
        let mut select = self.prepare("SELECT bytes FROM piece ORDER BY number")?;
        for piece in pieces {
            same("a row", select.step()?, true)?;
            if select.blob() != *piece {
                return Err("a piece that came back is not the one that went in".into());
            }
        }
        same("a row after the last", select.step()?, false)
    }

    fn run(&self, sql: &str) -> Result<()> {
        self.rows(sql).map(drop)
    }

    /// The first column of each row, as text.
    fn rows(&self, sql: &str) -> Result<Vec<String>> {
        let mut rows = Vec::new();
        let mut row = |_: *mut c_void, _count: i32, values: *const *const c_char, _names: *const *const c_char| {
            self.calls.rows.fetch_add(1, Relaxed);
            // SAFETY: SQLite passes the values of a row, of which there is one at least; null is NULL.
            rows.push(unsafe { if (*values).is_null() { "NULL".into() } else { text(*values) } });
            0
        };
        // SAFETY: this thread alone runs the query, so the closure is called by no other.
        let callback = Callback::<Row>::from_mut(&mut row)?;
        self.execute(sql, callback.code())?;
        drop(callback);
        Ok(rows)
    }

    /// The message about an error that must come.
    fn error(&self, sql: &str) -> Result<String> {
        match self.run(sql) {
            Err(error) => Ok(error.to_string()),
            Ok(()) => Err(format!("there was no error: {sql}").into()),
        }
    }

    fn execute(&self, sql: &str, row: Row) -> Result<()> {
        let sql = CString::new(sql)?;
        // SAFETY: the database is open; the string and the callback live for the call.
        self.expect(unsafe {
            (self.exports.sqlite3_exec)(self.pointer, sql.as_ptr(), Some(row), null_mut(), null_mut())
        })
    }

    fn prepare(&self, sql: &str) -> Result<Statement<'_>> {
        let sql = CString::new(sql)?;
        let mut statement = Statement { database: self, pointer: null_mut() };
        // SAFETY: the database is open; the string lives for the call, and the place is for a statement.
        self.expect(unsafe {
            let prepare = self.exports.sqlite3_prepare_v2;
            prepare(self.pointer, sql.as_ptr(), -1, &raw mut statement.pointer, null_mut())
        })?;
        Ok(statement)
    }

    fn expect(&self, result: i32) -> Result<()> {
        match result {
            SQLITE_OK => Ok(()),
            // SAFETY: it takes null, too, and returns a string that stays until the next call.
            _ => Err(text(unsafe { (self.exports.sqlite3_errmsg)(self.pointer) }).into()),
        }
    }

    fn close(self) -> Result<()> {
        // SAFETY: it is open, and its statements are gone.
        expect(unsafe { (self.exports.sqlite3_close)(self.pointer) }, "sqlite3_close")?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `close`; null is allowed.
        unsafe { (self.exports.sqlite3_close)(self.pointer) };
    }
}

struct Statement<'a> {
    database: &'a Database<'a>,
    pointer: *mut c_void,
}

impl Statement<'_> {
    /// Parameters 1 and 2; the bytes must stay until the next call.
    fn bind(&mut self, number: i64, bytes: &[u8]) -> Result<()> {
        let exports = self.database.exports;
        // SAFETY: the statement is there, and the bytes stay while it is used (`None`: it need not copy them).
        unsafe {
            self.database.expect((exports.sqlite3_reset)(self.pointer))?;
            self.database.expect((exports.sqlite3_bind_int64)(self.pointer, 1, number))?;
            let length = i32::try_from(bytes.len())?;
            self.database.expect((exports.sqlite3_bind_blob)(self.pointer, 2, bytes.as_ptr(), length, None))
        }
    }

    /// Whether there is a row.
    fn step(&mut self) -> Result<bool> {
        // SAFETY: the statement is there.
        match unsafe { (self.database.exports.sqlite3_step)(self.pointer) } {
            SQLITE_ROW => Ok(true),
            SQLITE_DONE => Ok(false),
            error => self.database.expect(error).map(|()| false),
        }
    }

    /// The row's first column.
    fn blob(&self) -> &[u8] {
        let exports = self.database.exports;
        // SAFETY: there is a row, which stays until the next step.
        unsafe {
            let start = (exports.sqlite3_column_blob)(self.pointer, 0);
            bytes_of(start, (exports.sqlite3_column_bytes)(self.pointer, 0))
        }
    }
}

impl Drop for Statement<'_> {
    fn drop(&mut self) {
        // SAFETY: the statement is there, or null.
        unsafe { (self.database.exports.sqlite3_finalize)(self.pointer) };
    }
}

/// Without a database to ask for a message.
fn expect(result: i32, what: &str) -> Result<()> {
    match result {
        SQLITE_OK => Ok(()),
        error => Err(format!("{what} failed with {error}").into()),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, right: T) -> Result<()> {
    match found == right {
        true => Ok(()),
        false => Err(format!("{what}: {found:?} instead of {right:?}").into()),
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The lower one of the two, where two are in the middle.
fn median(mut numbers: Vec<i64>) -> Option<i64> {
    numbers.sort_unstable();
    numbers.get(numbers.len().saturating_sub(1) / 2).copied()
}

/// Digits count as numbers, as people order names.
fn natural_order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let split = |text: &[u8]| {
        let digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (name, digits) = text.split_at(text.len() - digits);
        let number = digits.iter().fold(0_u64, |sum, digit| sum.wrapping_mul(10) + u64::from(digit - b'0'));
        (name.to_vec(), number)
    };
    split(a).cmp(&split(b))
}

/// # Safety
/// The value must stay.
unsafe fn value_bytes<'a>(exports: &Exports, value: *mut c_void) -> &'a [u8] {
    // SAFETY: by the promise; the pointer is asked for first, as sqlite3.h wants it.
    unsafe {
        let start = (exports.sqlite3_value_blob)(value);
        bytes_of(start, (exports.sqlite3_value_bytes)(value))
    }
}

/// # Safety
/// So many bytes must be there, or none: then the pointer may be null.
unsafe fn bytes_of<'a>(start: *const u8, length: i32) -> &'a [u8] {
    match start.is_null() {
        true => &[],
        // SAFETY: by the promise.
        false => unsafe { std::slice::from_raw_parts(start, length as usize) },
    }
}

/// A string of SQLite's.
fn text(string: *const c_char) -> String {
    // SAFETY: the callers have it from functions that return or pass such.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}
