//! Zstandard as the DLL exports it, driven the way zstd.h and zdict.h say: threads of the DLL's own, an allocator of
//! ours.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use calltable::{Callback, Error};
use calltable_host_dll::{Address, Heap, exports};

use crate::Result;

type Allocate = unsafe extern "win64" fn(*mut c_void, usize) -> Address;
type Free = unsafe extern "win64" fn(*mut c_void, Address);

/// `ZSTD_customMem`, which is passed by value.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CustomMemory {
    allocate: Allocate,
    free: Free,
    opaque: *mut c_void,
}

/// `ZSTD_inBuffer`.
#[repr(C)]
pub struct Input {
    start: *const u8,
    size: usize,
    position: usize,
}

/// `ZSTD_outBuffer`.
#[repr(C)]
pub struct Output {
    start: *mut u8,
    size: usize,
    position: usize,
}

/// `ZDICT_cover_params_t`.
#[derive(Default)]
#[repr(C)]
pub struct Cover {
    segment: u32,
    word: u32,
    steps: u32,
    threads: u32,
    split: f64,
    shrink: [u32; 2],
    level: i32,
    notifications: u32,
    dictionary: u32,
}

const _: () = assert!(size_of::<Cover>() == 48);

exports! {
    ZSTD_versionString: () -> *const c_char;
    ZSTD_isError: (usize) -> u32;
    ZSTD_getErrorName: (usize) -> *const c_char;
    ZSTD_createCCtx_advanced: (CustomMemory) -> *mut c_void;
    ZSTD_createDCtx_advanced: (CustomMemory) -> *mut c_void;
    ZSTD_freeCCtx: (*mut c_void) -> usize;
    ZSTD_freeDCtx: (*mut c_void) -> usize;
    ZSTD_CCtx_setParameter: (*mut c_void, i32, i32) -> usize;
    ZSTD_CCtx_loadDictionary: (*mut c_void, *const u8, usize) -> usize;
    ZSTD_DCtx_loadDictionary: (*mut c_void, *const u8, usize) -> usize;
    ZSTD_compressStream2: (*mut c_void, *mut Output, *mut Input, i32) -> usize;
    ZSTD_decompressStream: (*mut c_void, *mut Output, *mut Input) -> usize;
    ZDICT_trainFromBuffer_cover: (*mut u8, usize, *const u8, *const usize, u32, Cover) -> usize;
    ZDICT_isError: (usize) -> u32;
    ZDICT_getErrorName: (usize) -> *const c_char;
}

const LEVEL: (i32, i32) = (100, 6);
const CHECKSUM: (i32, i32) = (201, 1);
/// Threads of the DLL that compress.
pub const WORKERS: i32 = 2;
const NUMBER_OF_WORKERS: (i32, i32) = (400, WORKERS);
const CONTINUE: i32 = 0;
const END: i32 = 2;

/// Buffers are much smaller than the data, so that zstd has to stop and continue.
const CHUNK: usize = 64 << 10;

/// What zstd allocates and frees while it works for us, through callbacks of its own, which its threads call as well.
#[derive(Default)]
pub struct Allocator {
    heap: Heap,
    pub allocated: AtomicU64,
    pub freed: AtomicU64,
}

/// The DLL's zstd, ready for work.
pub struct Zstd<'a> {
    exports: &'a Exports,
    allocate: Callback<'a, Allocate>,
    free: Callback<'a, Free>,
}

impl<'a> Zstd<'a> {
    /// # Safety
    /// The exports' image must outlive this, its imports be bound, and its entry point have run.
    pub unsafe fn new(exports: &'a Exports, allocator: &'a Allocator) -> std::result::Result<Self, Error> {
        Ok(Self {
            exports,
            allocate: Callback::<Allocate>::from_fn(allocator, |allocator, _opaque, size| {
                allocator.allocated.fetch_add(1, Relaxed);
                allocator.heap.allocate(size)
            })?,
            free: Callback::<Free>::from_fn(allocator, |allocator, _opaque, block| {
                if !block.is_null() && allocator.heap.free(block) {
                    allocator.freed.fetch_add(1, Relaxed);
                }
            })?,
        })
    }

    pub fn version(&self) -> String {
        // SAFETY: by the promise to `new`; it returns a string constant.
        text(unsafe { (self.exports.ZSTD_versionString)() })
    }

    fn memory(&self) -> CustomMemory {
        CustomMemory { allocate: self.allocate.code(), free: self.free.code(), opaque: null_mut() }
    }

    /// Compresses, in threads of the DLL unless there is a dictionary.
    pub fn compress(&self, bytes: &[u8], dictionary: Option<&[u8]>) -> Result<Vec<u8>> {
        // SAFETY: by the promise to `new`; the callbacks live as long as `self`.
        let context = Context::new(unsafe { (self.exports.ZSTD_createCCtx_advanced)(self.memory()) }, |context| {
            // SAFETY: it is such a context, and this the only call for it.
            unsafe { (self.exports.ZSTD_freeCCtx)(context) }
        })?;
        let mut parameters = vec![LEVEL, CHECKSUM];
        if let Some(bytes) = dictionary {
            // SAFETY: it is such a context; the dictionary is copied.
            self.check(unsafe {
                (self.exports.ZSTD_CCtx_loadDictionary)(context.pointer, bytes.as_ptr(), bytes.len())
            })?;
        } else {
            parameters.push(NUMBER_OF_WORKERS);
        }
        for (parameter, value) in parameters {
            // SAFETY: it is such a context.
            self.check(unsafe { (self.exports.ZSTD_CCtx_setParameter)(context.pointer, parameter, value) })?;
        }
        let mut compressed = Vec::new();
        let chunks = bytes.chunks(CHUNK).map(|chunk| (chunk, CONTINUE)).chain([(&[][..], END)]);
        for (chunk, mode) in chunks {
            self.run(chunk, &mut compressed, |output, input| {
                // SAFETY: it is such a context; the buffers are as long as they say.
                let rest =
                    self.check(unsafe { (self.exports.ZSTD_compressStream2)(context.pointer, output, input, mode) })?;
                Ok(mode == CONTINUE || rest == 0)
            })?;
        }
        Ok(compressed)
    }

    /// Decompresses one frame, whose checksum must be right.
    pub fn decompress(&self, compressed: &[u8], dictionary: Option<&[u8]>) -> Result<Vec<u8>> {
        // SAFETY: as for the other kind.
        let context = Context::new(unsafe { (self.exports.ZSTD_createDCtx_advanced)(self.memory()) }, |context| {
            // SAFETY: it is such a context, and this the only call for it.
            unsafe { (self.exports.ZSTD_freeDCtx)(context) }
        })?;
        if let Some(bytes) = dictionary {
            // SAFETY: it is such a context; the dictionary is copied.
            self.check(unsafe {
                (self.exports.ZSTD_DCtx_loadDictionary)(context.pointer, bytes.as_ptr(), bytes.len())
            })?;
        }
        let (mut bytes, mut rest) = (Vec::new(), 1);
        for chunk in compressed.chunks(CHUNK) {
            self.run(chunk, &mut bytes, |output, input| {
                // SAFETY: it is such a context; the buffers are as long as they say.
                rest = self.check(unsafe { (self.exports.ZSTD_decompressStream)(context.pointer, output, input) })?;
                Ok(true)
            })?;
        }
        match rest {
            0 => Ok(bytes),
            _ => Err("zstd wants more than the whole compressed frame".into()),
        }
    }

    /// Feeds one chunk, and collects what comes out, until the chunk is used up, there was room left, and the step says
    /// that this is all.
    fn run(
        &self,
        chunk: &[u8],
        collected: &mut Vec<u8>,
        mut step: impl FnMut(*mut Output, *mut Input) -> Result<bool>,
    ) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        let start = if chunk.is_empty() { null() } else { chunk.as_ptr() };
        let mut input = Input { start, size: chunk.len(), position: 0 };
        loop {
            let mut output = Output { start: buffer.as_mut_ptr(), size: buffer.len(), position: 0 };
            let is_all = step(&raw mut output, &raw mut input)?;
            collected.extend_from_slice(buffer.get(..output.position).unwrap_or_default());
            if is_all && input.position == input.size && output.position < output.size {
                return Ok(());
            }
        }
    }

    /// A dictionary for samples that lie one behind the other. It takes the C runtime's `qsort`, which calls back.
    pub fn train(&self, samples: &[u8], size: usize) -> Result<Vec<u8>> {
        let sizes: Vec<usize> = samples.chunks(size).map(<[u8]>::len).collect();
        let mut dictionary = vec![0; 16 << 10];
        let cover = Cover { segment: 64, word: 8, split: 1.0, ..Cover::default() };
        // SAFETY: by the promise to `new`; the buffers are as long as is said here.
        let (result, is_error) = unsafe {
            let (room, length) = (dictionary.as_mut_ptr(), dictionary.len());
            let (samples, count) = (samples.as_ptr(), sizes.len() as u32);
            let train = self.exports.ZDICT_trainFromBuffer_cover;
            let result = train(room, length, samples, sizes.as_ptr(), count, cover);
            (result, (self.exports.ZDICT_isError)(result) != 0)
        };
        if is_error {
            // SAFETY: it returns a string constant.
            let name = text(unsafe { (self.exports.ZDICT_getErrorName)(result) });
            return Err(format!("zstd has made no dictionary: {name}").into());
        }
        dictionary.truncate(result);
        Ok(dictionary)
    }

    fn check(&self, result: usize) -> Result<usize> {
        // SAFETY: by the promise to `new`.
        match unsafe { (self.exports.ZSTD_isError)(result) } {
            0 => Ok(result),
            // SAFETY: it returns a string constant.
            _ => Err(format!("zstd: {}", text(unsafe { (self.exports.ZSTD_getErrorName)(result) })).into()),
        }
    }
}

/// A context, freed when it goes.
struct Context<F: Fn(*mut c_void) -> usize> {
    pointer: *mut c_void,
    free: F,
}

impl<F: Fn(*mut c_void) -> usize> Context<F> {
    fn new(pointer: *mut c_void, free: F) -> Result<Self> {
        match pointer.is_null() {
            true => Err("zstd has made no context".into()),
            false => Ok(Self { pointer, free }),
        }
    }
}

impl<F: Fn(*mut c_void) -> usize> Drop for Context<F> {
    fn drop(&mut self) {
        (self.free)(self.pointer);
    }
}

/// A string constant of the DLL.
fn text(string: *const c_char) -> String {
    // SAFETY: the callers have it from functions that return such.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().escape_debug().to_string()
}
