//! zlib as the DLL exports it, driven the way zlib.h says; and an independent implementation to compare with.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::io::Read;
use std::mem::offset_of;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use calltable::{Callback, Error};
use calltable_host_dll::{Address, Heap, exports};
use flate2::{Decompress, FlushDecompress, Status};

use crate::Result;

type Allocate = unsafe extern "win64" fn(*mut c_void, u32, u32) -> Address;
type Free = unsafe extern "win64" fn(*mut c_void, Address);
type Input = unsafe extern "win64" fn(*mut c_void, *mut *const u8) -> u32;
type Output = unsafe extern "win64" fn(*mut c_void, *const u8, u32) -> i32;

/// `z_stream`, with Windows' `uLong` of 4 bytes.
#[repr(C)]
pub struct Stream {
    next_in: *const u8,
    avail_in: u32,
    total_in: u32,
    next_out: *mut u8,
    avail_out: u32,
    total_out: u32,
    msg: *const c_char,
    state: *mut c_void,
    zalloc: Option<Allocate>,
    zfree: Option<Free>,
    opaque: *mut c_void,
    data_type: i32,
    adler: u32,
    reserved: u32,
}

const SIZE_OF_STREAM: i32 = 88;
const _: () = assert!(size_of::<Stream>() == SIZE_OF_STREAM as usize);
const _: () = assert!(offset_of!(Stream, next_out) == 16 && offset_of!(Stream, msg) == 32);
const _: () = assert!(offset_of!(Stream, zalloc) == 48 && offset_of!(Stream, data_type) == 72);

exports! {
    zlibVersion: () -> *const c_char;
    crc32: (u32, *const u8, u32) -> u32;
    deflateInit2_: (*mut Stream, i32, i32, i32, i32, i32, *const c_char, i32) -> i32;
    deflate: (*mut Stream, i32) -> i32;
    deflateEnd: (*mut Stream) -> i32;
    inflateInit2_: (*mut Stream, i32, *const c_char, i32) -> i32;
    inflate: (*mut Stream, i32) -> i32;
    inflateEnd: (*mut Stream) -> i32;
    inflateBackInit_: (*mut Stream, i32, *mut u8, *const c_char, i32) -> i32;
    inflateBack: (*mut Stream, Input, *mut c_void, Output, *mut c_void) -> i32;
    inflateBackEnd: (*mut Stream) -> i32;
}

const Z_NO_FLUSH: i32 = 0;
const Z_FINISH: i32 = 4;
const Z_OK: i32 = 0;
const Z_STREAM_END: i32 = 1;
const Z_BUF_ERROR: i32 = -5;
const Z_DEFLATED: i32 = 8;
const LEVEL: i32 = 6;
const MEMORY_LEVEL: i32 = 8;
const WINDOW_BITS: i32 = 15;

/// Buffers are much smaller than the data, so that zlib has to stop and continue.
const INPUT: usize = 64 << 10;
const OUTPUT: usize = 16 << 10;

/// How the compressed bytes are wrapped.
#[derive(Clone, Copy, PartialEq)]
pub enum Wrapper {
    Zlib,
    Raw,
}

impl Wrapper {
    fn window_bits(self) -> i32 {
        match self {
            Self::Zlib => WINDOW_BITS,
            Self::Raw => -WINDOW_BITS,
        }
    }
}

/// What zlib allocates and frees while it works for us, through callbacks of its own.
#[derive(Default)]
pub struct Allocator {
    heap: Heap,
    pub allocated: AtomicU64,
    pub freed: AtomicU64,
}

/// The DLL's zlib, ready for work.
pub struct Zlib<'a> {
    exports: &'a Exports,
    allocate: Callback<'a, Allocate>,
    free: Callback<'a, Free>,
    /// Calls of `inflateBack`'s two callbacks.
    pub inputs: Cell<u64>,
    pub outputs: Cell<u64>,
}

impl<'a> Zlib<'a> {
    /// # Safety
    /// The exports' image must outlive this, its imports be bound, and its entry point have run.
    pub unsafe fn new(exports: &'a Exports, allocator: &'a Allocator) -> std::result::Result<Self, Error> {
        Ok(Self {
            exports,
            allocate: Callback::<Allocate>::from_fn(allocator, |allocator, _opaque, items, size| {
                allocator.allocated.fetch_add(1, Relaxed);
                allocator.heap.allocate(items as usize * size as usize)
            })?,
            free: Callback::<Free>::from_fn(allocator, |allocator, _opaque, block| {
                if allocator.heap.free(block) {
                    allocator.freed.fetch_add(1, Relaxed);
                }
            })?,
            inputs: Cell::new(0),
            outputs: Cell::new(0),
        })
    }

    fn version_pointer(&self) -> *const c_char {
        // SAFETY: by the promise to `new`.
        unsafe { (self.exports.zlibVersion)() }
    }

    pub fn version(&self) -> String {
        // SAFETY: it is a string constant of the DLL.
        unsafe { CStr::from_ptr(self.version_pointer()) }.to_string_lossy().escape_debug().to_string()
    }

    pub fn crc32(&self, bytes: &[u8]) -> u32 {
        // SAFETY: by the promise to `new`; the chunk is that long, which fits.
        bytes
            .chunks(INPUT)
            .fold(0, |crc, chunk| unsafe { (self.exports.crc32)(crc, chunk.as_ptr(), chunk.len() as u32) })
    }

    /// Compresses.
    pub fn deflate(&self, bytes: &[u8], wrapper: Wrapper) -> Result<Vec<u8>> {
        let mut session = self.session("deflateInit2_", self.exports.deflateEnd, |stream| {
            let (bits, version) = (wrapper.window_bits(), self.version_pointer());
            // SAFETY: by the promise to `new`; strategy 0 is the default one.
            unsafe {
                (self.exports.deflateInit2_)(stream, LEVEL, Z_DEFLATED, bits, MEMORY_LEVEL, 0, version, SIZE_OF_STREAM)
            }
        })?;
        let mut compressed = Vec::new();
        let mut ended = false;
        for chunk in bytes.chunks(INPUT) {
            session.run("deflate", self.exports.deflate, Z_NO_FLUSH, chunk, |out| {
                compressed.extend_from_slice(out);
                Ok(())
            })?;
        }
        while !ended {
            ended = session.run("deflate", self.exports.deflate, Z_FINISH, &[], |out| {
                compressed.extend_from_slice(out);
                Ok(())
            })?;
        }
        session.end("deflateEnd")?;
        Ok(compressed)
    }

    /// Decompresses a zlib stream; the bytes must be the expected ones.
    pub fn inflate(&self, mut compressed: impl Read, expected: &[u8]) -> Result<usize> {
        let mut session = self.session("inflateInit2_", self.exports.inflateEnd, |stream| {
            // SAFETY: by the promise to `new`.
            unsafe { (self.exports.inflateInit2_)(stream, WINDOW_BITS, self.version_pointer(), SIZE_OF_STREAM) }
        })?;
        let mut check = Comparison { rest: expected };
        let mut buffer = vec![0; INPUT];
        let (mut length, mut ended) = (0, false);
        while !ended {
            let read = compressed.read(&mut buffer)?;
            if read == 0 {
                return Err("inflate wants more than the whole compressed stream".into());
            }
            length += read;
            let chunk = buffer.get(..read).unwrap_or_default();
            ended = session.run("inflate", self.exports.inflate, Z_NO_FLUSH, chunk, |out| check.accept(out))?;
        }
        session.end("inflateEnd")?;
        check.finish()?;
        Ok(length)
    }

    /// Decompresses a raw stream, pulled and pushed by zlib through two callbacks; the bytes must be the expected ones.
    ///
    /// zlib would pass a pointer along to them, which is not needed: each is a closure over this function's variables.
    pub fn inflate_back(&self, mut compressed: &[u8], expected: &[u8]) -> Result<()> {
        let mut window = vec![0; 1 << WINDOW_BITS];
        let mut session = self.session("inflateBackInit_", self.exports.inflateBackEnd, |stream| {
            let (window, version) = (window.as_mut_ptr(), self.version_pointer());
            // SAFETY: by the promise to `new`; the window has 2 to the power of `WINDOW_BITS` bytes.
            unsafe { (self.exports.inflateBackInit_)(stream, WINDOW_BITS, window, version, SIZE_OF_STREAM) }
        })?;
        let mut check = Comparison { rest: expected };
        let (mut inputs, mut outputs) = (0, 0);
        let mut difference = None;

        let mut pull = |_: *mut c_void, next: *mut *const u8| {
            inputs += 1;
            let (chunk, rest) = compressed.split_at(compressed.len().min(OUTPUT));
            compressed = rest;
            // SAFETY: zlib passes the place of a pointer; the bytes stay until `inflateBack` has returned.
            unsafe { next.write(chunk.as_ptr()) };
            chunk.len() as u32
        };
        let mut push = |_: *mut c_void, bytes: *const u8, length: u32| {
            outputs += 1;
            // SAFETY: zlib passes a part of the window, which it has filled.
            difference = check.accept(unsafe { std::slice::from_raw_parts(bytes, length as usize) }).err();
            i32::from(difference.is_some())
        };
        let input = Callback::<Input>::from_mut(&mut pull)?;
        let output = Callback::<Output>::from_mut(&mut push)?;
        crate::demo::note_slots();
        // SAFETY: by the promise to `new`; the callbacks and the window live on.
        let result = unsafe {
            (self.exports.inflateBack)(&raw mut *session.stream, input.code(), null_mut(), output.code(), null_mut())
        };
        drop((input, output));

        self.inputs.set(self.inputs.get() + inputs);
        self.outputs.set(self.outputs.get() + outputs);
        if let Some(difference) = difference {
            return Err(difference);
        }
        if result != Z_STREAM_END {
            return Err(session.error("inflateBack", result));
        }
        if session.stream.avail_in != 0 || !compressed.is_empty() {
            return Err("inflateBack has left some of its input".into());
        }
        session.end("inflateBackEnd")?;
        check.finish()
    }

    fn session(
        &self,
        what: &str,
        end: unsafe extern "win64" fn(*mut Stream) -> i32,
        begin: impl FnOnce(*mut Stream) -> i32,
    ) -> Result<Session> {
        let mut stream = Box::new(Stream {
            next_in: null(),
            avail_in: 0,
            total_in: 0,
            next_out: null_mut(),
            avail_out: 0,
            total_out: 0,
            msg: null(),
            state: null_mut(),
            zalloc: Some(self.allocate.code()),
            zfree: Some(self.free.code()),
            opaque: null_mut(),
            data_type: 0,
            adler: 0,
            reserved: 0,
        });
        let result = begin(&raw mut *stream);
        let session = Session { stream, end, buffer: vec![0; OUTPUT] };
        if result == Z_OK { Ok(session) } else { Err(session.error(what, result)) }
    }
}

/// One stream, from its Init to its End.
struct Session {
    /// In a box, since zlib remembers its address.
    stream: Box<Stream>,
    end: unsafe extern "win64" fn(*mut Stream) -> i32,
    buffer: Vec<u8>,
}

impl Session {
    /// Feeds one chunk, passes on what comes out, and says whether that was the end of the stream.
    fn run(
        &mut self,
        what: &str,
        step: unsafe extern "win64" fn(*mut Stream, i32) -> i32,
        flush: i32,
        chunk: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        self.stream.next_in = chunk.as_ptr();
        self.stream.avail_in = chunk.len() as u32;
        loop {
            self.stream.next_out = self.buffer.as_mut_ptr();
            self.stream.avail_out = self.buffer.len() as u32;
            // SAFETY: the stream was initialized for this function; both buffers are as long as it says.
            let result = unsafe { step(&raw mut *self.stream, flush) };
            let written = self.buffer.len().saturating_sub(self.stream.avail_out as usize);
            sink(self.buffer.get(..written).unwrap_or_default())?;
            match result {
                Z_STREAM_END if self.stream.avail_in == 0 => return Ok(true),
                Z_STREAM_END => return Err(format!("{what} has left some of its input").into()),
                // Room was left, so it has used up the chunk.
                Z_OK | Z_BUF_ERROR if self.stream.avail_out != 0 => return Ok(false),
                Z_OK => {}
                error => return Err(self.error(what, error)),
            }
        }
    }

    fn error(&self, what: &str, result: i32) -> Box<dyn std::error::Error + Send + Sync> {
        let message = match self.stream.msg.is_null() {
            true => String::new(),
            // SAFETY: zlib sets it to null or to a string constant of its own.
            false => unsafe { CStr::from_ptr(self.stream.msg) }.to_string_lossy().escape_debug().to_string(),
        };
        format!("{what} failed with {result} {message}").trim_end().to_owned().into()
    }

    fn end(mut self, what: &str) -> Result<()> {
        // SAFETY: the stream was initialized for this function; a second call is refused by it.
        match unsafe { (self.end)(&raw mut *self.stream) } {
            Z_OK => Ok(()),
            error => Err(self.error(what, error)),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: as in `end`.
        unsafe { (self.end)(&raw mut *self.stream) };
    }
}

/// Bytes that come out piece by piece, against those that should.
struct Comparison<'a> {
    rest: &'a [u8],
}

impl Comparison<'_> {
    fn accept(&mut self, bytes: &[u8]) -> Result<()> {
        self.rest = self.rest.strip_prefix(bytes).ok_or("the bytes that came back are not those that went in")?;
        Ok(())
    }

    fn finish(self) -> Result<()> {
        match self.rest {
            [] => Ok(()),
            rest => Err(format!("the last {} bytes have not come back", rest.len()).into()),
        }
    }
}

/// Decompresses with the independent implementation; the bytes must be the expected ones.
pub fn flate2_inflate(compressed: &[u8], wrapper: Wrapper, expected: &[u8]) -> Result<()> {
    let mut inflate = Decompress::new(wrapper == Wrapper::Zlib);
    let mut check = Comparison { rest: expected };
    let mut buffer = vec![0; OUTPUT];
    loop {
        let rest = compressed.get(inflate.total_in() as usize..).unwrap_or_default();
        let before = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(rest, &mut buffer, FlushDecompress::None)?;
        check.accept(buffer.get(..(inflate.total_out() - before.1) as usize).unwrap_or_default())?;
        if status == Status::StreamEnd {
            return match inflate.total_in() as usize == compressed.len() {
                true => check.finish(),
                false => Err("flate2 has left some of its input".into()),
            };
        }
        if before == (inflate.total_in(), inflate.total_out()) {
            return Err("flate2 wants more than the whole compressed stream".into());
        }
    }
}
