//! What the DLL imports: each function is a callback of the table.
//!
//! A callback's data is the [`Import`] that it stands for, which counts its calls and leads to the [`Host`].

use std::alloc::{self, Layout};
use std::collections::HashMap;
use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use calltable::{Callback, CodePointer, Error, table};

use crate::image::{ImportEntry, Region};

/// The part of Windows that the DLL sees.
#[derive(Default)]
pub struct Host {
    pub heap: Heap,
    /// The image's, for `VirtualQuery`.
    regions: Vec<Region>,
    /// What callbacks that only report have to say, in order.
    log: Mutex<Vec<String>>,
    last_error: AtomicU32,
    errno: AtomicI32,
    /// The C runtime's `FILE`s for standard input, output and error, 48 bytes each. Nobody looks inside.
    streams: [AtomicU64; 3 * 48 / 8],
    /// Critical sections, created less deleted; and those and CRT locks, entered less left.
    sections: AtomicI32,
    entered: AtomicI32,
    most_slots: AtomicUsize,
}

impl Host {
    pub fn new(regions: Vec<Region>) -> Self {
        Self { regions, ..Self::default() }
    }

    pub fn log(&self) -> MutexGuard<'_, Vec<String>> {
        unpoisoned(&self.log)
    }

    /// Locks entered and not left; 0 whenever the DLL is not running.
    pub fn locks_held(&self) -> i32 {
        self.entered.load(Relaxed)
    }

    /// Critical sections created and not deleted.
    pub fn sections_left(&self) -> i32 {
        self.sections.load(Relaxed)
    }

    /// Takes note of how many slots are taken now.
    pub fn count_slots(&self) {
        self.most_slots.fetch_max(table::live_count(), Relaxed);
    }

    pub fn most_slots(&self) -> usize {
        self.most_slots.load(Relaxed)
    }

    fn region(&self, address: Address) -> Option<&Region> {
        self.regions.iter().find(|region| region.addresses.contains(&address.0.addr()))
    }
}

/// One import of the DLL.
pub struct Import<'a> {
    host: &'a Host,
    pub dll: String,
    pub name: String,
    calls: AtomicU64,
}

impl<'a> Import<'a> {
    pub fn new(host: &'a Host, entry: &ImportEntry) -> Self {
        Self { host, dll: entry.dll.clone(), name: entry.name.clone(), calls: AtomicU64::new(0) }
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    fn count(&self) -> u64 {
        self.calls.fetch_add(1, Relaxed)
    }

    /// Registers a callback for this import.
    pub fn bind(&self) -> Result<Bound<'_>, Error> {
        match implemented(self).or_else(|| fatal(self)) {
            Some(callback) => Ok(Bound { implemented: true, callback: callback? }),
            None => Ok(Bound { implemented: false, callback: reported(self)? }),
        }
    }
}

/// A callback for an import, whatever its parameters.
type AnyCallback<'a> = Result<Callback<'a, CodePointer>, Error>;

/// An import's callback, for as long as the DLL may call it.
pub struct Bound<'a> {
    callback: Callback<'a, CodePointer>,
    /// Whether it does more than to report that it was called.
    pub implemented: bool,
}

impl Bound<'_> {
    pub fn address(&self) -> usize {
        self.callback.code().as_ptr().expose_provenance()
    }
}

/// Each line is an import's name, its parameters as the DLL passes them, its result, and what it does.
macro_rules! imports {
    ($host:ident: $($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? $body:block)*) => {
        fn implemented<'a>(import: &'a Import<'_>) -> Option<AnyCallback<'a>> {
            Some(match import.name.as_str() {
                $(stringify!($name) => Callback::<unsafe extern "win64" fn($($type),*) $(-> $result)?>::from_fn(
                        import,
                        |import, $($argument: $type),*| {
                            import.count();
                            #[allow(unused)]
                            let $host = import.host;
                            $body
                        },
                    )
                    .map(Callback::untyped),)*
                _ => return None,
            })
        }
    };
}

imports! { host:
    // KERNEL32: locks. One thread runs the DLL, so counting them is enough.
    InitializeCriticalSection(_section: Address) { add(&host.sections, 1) }
    DeleteCriticalSection(_section: Address) { add(&host.sections, -1) }
    EnterCriticalSection(_section: Address) { add(&host.entered, 1) }
    LeaveCriticalSection(_section: Address) { add(&host.entered, -1) }

    // KERNEL32: the rest.
    GetLastError() -> u32 { host.last_error.load(Relaxed) }
    Sleep(milliseconds: u32) { std::thread::sleep(Duration::from_millis(milliseconds.into())) }
    TlsGetValue(_index: u32) -> Address { host.last_error.store(0, Relaxed); Address::NULL }
    IsDBCSLeadByteEx(_codepage: u32, _byte: u8) -> i32 { 0 }
    VirtualQuery(address: Address, answer: Address, length: usize) -> usize { query(host, address, answer, length) }
    VirtualProtect(address: Address, size: usize, protection: u32, former: Address) -> i32 {
        protect(host, address, size, protection, former)
    }

    // msvcrt: memory.
    malloc(size: usize) -> Address { host.heap.allocate(size) }
    calloc(count: usize, size: usize) -> Address {
        count.checked_mul(size).map_or(Address::NULL, |size| host.heap.allocate(size))
    }
    realloc(block: Address, size: usize) -> Address { host.heap.resize(block, size) }
    free(block: Address) { let _ = host.heap.free(block); }
    memcpy(to: Address, from: Address, length: usize) -> Address { to.copy(from, length) }
    memmove(to: Address, from: Address, length: usize) -> Address { to.copy(from, length) }
    memset(to: Address, byte: i32, length: usize) -> Address { to.fill(byte as u8, length) }
    memchr(block: Address, byte: i32, length: usize) -> Address { block.find(byte as u8, length) }

    // msvcrt: strings. The locale is "C".
    strlen(string: Address) -> usize { string.c_string().count_bytes() }
    strncmp(a: Address, b: Address, length: usize) -> i32 { a.compare(b, length) }
    wcslen(string: Address) -> usize { string.wide_length() }
    ___lc_codepage_func() -> u32 { 0 }
    ___mb_cur_max_func() -> i32 { 1 }
    strerror(_number: i32) -> Address { Address(c"Unknown error".as_ptr().cast_mut().cast()) }

    // msvcrt: the runtime itself.
    _initterm(first: Address, end: Address) { run_initializers(first, end) }
    _lock(_number: i32) { add(&host.entered, 1) }
    _unlock(_number: i32) { add(&host.entered, -1) }
    _errno() -> Address { Address(host.errno.as_ptr().cast()) }
    __iob_func() -> Address { Address(host.streams.as_ptr().cast_mut().cast()) }
}

/// After these, continuing makes no sense.
fn fatal<'a>(import: &'a Import<'_>) -> Option<AnyCallback<'a>> {
    let names = [
        "abort",
        "exit",
        "_exit",
        "_cexit",
        "_amsg_exit",
        "_assert",
        "_wassert",
        "longjmp",
        "ExitProcess",
        "TerminateProcess",
        "RaiseException",
        "RaiseFailFastException",
    ];
    names.contains(&import.name.as_str()).then(|| {
        Callback::<unsafe extern "win64" fn()>::from_fn(import, |import| {
            eprintln!("host_dll: the DLL has stopped itself: it called {} of {}", import.name, import.dll);
            std::process::exit(1)
        })
        .map(Callback::untyped)
    })
}

/// Everything else. On win64 the caller removes the arguments, so a function that looks at none of them can stand for
/// any other, even for a variadic one.
fn reported<'a>(import: &'a Import<'_>) -> AnyCallback<'a> {
    Callback::<unsafe extern "win64" fn() -> i64>::from_fn(import, |import| {
        let result = match import.name.as_str() {
            // Zero would be a file, or success.
            "_open" | "_wopen" | "_read" | "_write" | "_close" | "_lseeki64" | "fputc" => -1,
            _ => 0,
        };
        if import.count() == 0 {
            import
                .host
                .log()
                .push(format!("{} of {} is not implemented; it returned {result}", import.name, import.dll));
        }
        result
    })
    .map(Callback::untyped)
}

fn add(counter: &AtomicI32, change: i32) {
    counter.fetch_add(change, Relaxed);
}

/// "_initterm": calls the functions in a table; those that are null are left out.
fn run_initializers(first: Address, end: Address) {
    let words = end.0.addr().saturating_sub(first.0.addr()) / size_of::<usize>();
    for index in 0..words {
        // SAFETY: the DLL passes the bounds of a table of such functions.
        unsafe {
            if let Some(initialize) = first.0.cast::<Option<unsafe extern "win64" fn()>>().add(index).read() {
                initialize();
            }
        }
    }
}

/// `MEMORY_BASIC_INFORMATION`.
#[repr(C)]
struct MemoryInformation {
    base_address: usize,
    allocation_base: usize,
    allocation_protection: u32,
    partition: u16,
    region_size: usize,
    state: u32,
    protection: u32,
    kind: u32,
}

const _: () = assert!(size_of::<MemoryInformation>() == 48);

const MEM_COMMIT: u32 = 0x1000;
const MEM_IMAGE: u32 = 0x100_0000;
const PAGE_READONLY: u32 = 0x02;
const PAGE_READWRITE: u32 = 0x04;
const PAGE_EXECUTE_READ: u32 = 0x20;

fn windows_protection(region: &Region) -> u32 {
    match region.protection {
        protection if protection & libc::PROT_EXEC != 0 => PAGE_EXECUTE_READ,
        protection if protection & libc::PROT_WRITE != 0 => PAGE_READWRITE,
        _ => PAGE_READONLY,
    }
}

/// "VirtualQuery", for addresses in the image.
fn query(host: &Host, address: Address, answer: Address, length: usize) -> usize {
    let (Some(region), true) = (host.region(address), length >= size_of::<MemoryInformation>()) else { return 0 };
    let information = MemoryInformation {
        base_address: region.addresses.start,
        allocation_base: host.regions.first().map_or(0, |region| region.addresses.start),
        allocation_protection: PAGE_READONLY,
        partition: 0,
        region_size: region.addresses.len(),
        state: MEM_COMMIT,
        protection: windows_protection(region),
        kind: MEM_IMAGE,
    };
    // SAFETY: the DLL passes the address of that many bytes.
    unsafe { answer.0.cast::<MemoryInformation>().write_unaligned(information) };
    size_of::<MemoryInformation>()
}

/// "VirtualProtect", for data of the image. Code stays as it is, and nothing becomes code.
fn protect(host: &Host, address: Address, size: usize, protection: u32, former: Address) -> i32 {
    const ERROR_ACCESS_DENIED: u32 = 5;
    let linux = match protection {
        PAGE_READONLY => Some(libc::PROT_READ),
        PAGE_READWRITE => Some(libc::PROT_READ | libc::PROT_WRITE),
        _ => None,
    };
    let region = host
        .region(address)
        .filter(|region| region.protection & libc::PROT_EXEC == 0 && size <= region.addresses.end - address.0.addr());
    if let (Some(linux), Some(region)) = (linux, region) {
        let start = address.0.map_addr(|address| address & !0xfff);
        // SAFETY: the pages belong to one data section of the image, whose protection is the DLL's to choose.
        if unsafe { libc::mprotect(start.cast(), size + (address.0.addr() - start.addr()), linux) } == 0 {
            // SAFETY: the DLL passes the address of a DWORD.
            unsafe { former.0.cast::<u32>().write_unaligned(windows_protection(region)) };
            return 1;
        }
    }
    host.log().push(format!("VirtualProtect to {protection:#x} was refused"));
    host.last_error.store(ERROR_ACCESS_DENIED, Relaxed);
    0
}

/// An address that the DLL has passed as an argument.
///
/// Its methods are what C's functions do to memory, and are as safe as they: the host trusts the DLL to keep to their
/// contracts, as every process trusts the libraries that it loads.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Address(*mut u8);

impl Address {
    pub const NULL: Self = Self(null_mut());

    fn copy(self, from: Self, length: usize) -> Self {
        // SAFETY: the DLL passes two blocks of that length. For memcpy they do not overlap; this allows it, too.
        unsafe { self.0.copy_from(from.0, length) };
        self
    }

    fn fill(self, byte: u8, length: usize) -> Self {
        // SAFETY: the DLL passes a block of that length.
        unsafe { self.0.write_bytes(byte, length) };
        self
    }

    fn find(self, byte: u8, length: usize) -> Self {
        // SAFETY: the DLL passes a block of at least that length up to the byte that it looks for.
        let found = (0..length).find(|index| unsafe { self.0.add(*index).read() } == byte);
        // SAFETY: inside the block.
        found.map_or(Self::NULL, |index| Self(unsafe { self.0.add(index) }))
    }

    fn c_string<'a>(self) -> &'a CStr {
        // SAFETY: the DLL passes a string that ends with a zero and stays for the call.
        unsafe { CStr::from_ptr(self.0.cast()) }
    }

    /// "strncmp".
    fn compare(self, other: Self, length: usize) -> i32 {
        for index in 0..length {
            // SAFETY: both strings continue: no zero and no difference came before, and the length is not reached.
            let (a, b) = unsafe { (self.0.add(index).read(), other.0.add(index).read()) };
            if a != b || a == 0 {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }

    fn wide_length(self) -> usize {
        // SAFETY: the DLL passes a string of 16-bit units that ends with a zero.
        (0..).take_while(|index| unsafe { self.0.cast::<u16>().add(*index).read_unaligned() } != 0).count()
    }
}

/// Memory for the DLL. It knows its blocks, so a wrong `free` does no harm.
#[derive(Default)]
pub struct Heap {
    blocks: Mutex<HashMap<usize, Layout>>,
    bytes: AtomicUsize,
    most_bytes: AtomicUsize,
}

impl Heap {
    /// Zeroed memory, or null.
    pub fn allocate(&self, size: usize) -> Address {
        let Ok(layout) = Layout::from_size_align(size.max(1), 16) else { return Address::NULL };
        // SAFETY: the layout is not empty.
        let block = unsafe { alloc::alloc_zeroed(layout) };
        if !block.is_null() {
            unpoisoned(&self.blocks).insert(block.expose_provenance(), layout);
            let bytes = self.bytes.fetch_add(layout.size(), Relaxed) + layout.size();
            self.most_bytes.fetch_max(bytes, Relaxed);
        }
        Address(block)
    }

    /// Says whether there was such a block. Null is one.
    pub fn free(&self, block: Address) -> bool {
        match unpoisoned(&self.blocks).remove(&block.0.addr()) {
            Some(layout) => {
                self.bytes.fetch_sub(layout.size(), Relaxed);
                // SAFETY: the block came from `allocate`, with this layout, and nobody can free it again.
                unsafe { alloc::dealloc(block.0, layout) };
                true
            }
            None => block.0.is_null(),
        }
    }

    fn resize(&self, block: Address, size: usize) -> Address {
        let former = unpoisoned(&self.blocks).get(&block.0.addr()).map(Layout::size);
        if former.is_none() && !block.0.is_null() {
            return Address::NULL;
        }
        let new = self.allocate(size);
        if !new.0.is_null() {
            new.copy(block, former.unwrap_or_default().min(size));
            self.free(block);
        }
        new
    }

    /// Blocks that are allocated now.
    pub fn blocks(&self) -> usize {
        unpoisoned(&self.blocks).len()
    }

    pub fn most_bytes(&self) -> usize {
        self.most_bytes.load(Relaxed)
    }
}

/// A panic never leaves a callback, so nobody has been interrupted while he held the lock.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
