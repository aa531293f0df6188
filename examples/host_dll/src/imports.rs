//! What a DLL imports: each function is a callback of the table.
//!
//! A callback's data is the [`Import`] that it stands for, which counts its calls and leads to the [`Host`]. It is
//! found by its name, whichever DLL that is imported from: Windows has moved many from one to another. What is not
//! found stops the program when it is called, and says which one it was: a result that is made up would only fail
//! later, elsewhere.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use calltable::{Callback, CodePointer, Error, Options};

use crate::address::Address;
use crate::host::{Host, ThreadStart};
use crate::runtime::{self, Compare};
use crate::thread::{ERRNO, LAST_ERROR};
use crate::{locks, pages};

/// The exit status when a DLL has called a function that this host does not have.
const NOT_IMPLEMENTED: i32 = 3;

/// One import of a DLL.
pub struct Import {
    host: &'static Host,
    /// The DLL that imports it.
    guest: &'static str,
    /// The DLL that it is imported from, and its name there.
    pub dll: String,
    pub name: String,
    /// Both: `KERNEL32.dll!Sleep`. It is the callback's name, which the message about a stale call shows, too.
    pub label: &'static str,
    calls: AtomicU64,
}

impl Import {
    pub fn new(host: &'static Host, guest: &'static str, dll: &str, name: &str) -> &'static Self {
        let label = Box::leak(format!("{dll}!{name}").into_boxed_str());
        let (dll, name, calls) = (dll.into(), name.into(), AtomicU64::new(0));
        Box::leak(Box::new(Self { host, guest, dll, name, label, calls }))
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    fn count(&self) {
        self.calls.fetch_add(1, Relaxed);
    }

    fn options(&self) -> Options {
        Options::new().named(self.label)
    }

    /// Says what shall stand for this import.
    pub fn bind(&'static self) -> Result<Bound, Error> {
        if let Some(callback) = implemented(self).or_else(|| fatal(self)) {
            return Ok(Bound::Implemented(callback?));
        }
        match VARIABLES.iter().position(|name| *name == self.name) {
            Some(index) => Ok(Bound::Variable(&self.host.variables[index])),
            None => Ok(Bound::Reported(reported(self)?)),
        }
    }
}

/// A callback for an import, whatever its parameters.
type AnyCallback = Callback<'static, CodePointer>;

/// What stands for an import, for as long as the DLL may call it.
pub enum Bound {
    Implemented(AnyCallback),
    /// No function: the DLL wants to know where it is.
    Variable(&'static AtomicU64),
    /// It says that it was called, and ends the program.
    Reported(AnyCallback),
}

impl Bound {
    pub fn address(&self) -> usize {
        match self {
            Self::Implemented(callback) | Self::Reported(callback) => callback.code().as_ptr().expose_provenance(),
            Self::Variable(place) => place.as_ptr().expose_provenance(),
        }
    }

    pub fn is_implemented(&self) -> bool {
        !matches!(self, Self::Reported(_))
    }
}

/// C runtimes export them. A PE file does not say which imports are no functions.
const VARIABLES: [&str; 8] =
    ["_fmode", "_commode", "_environ", "_wenviron", "_acmdln", "_wcmdln", "_adjust_fdiv", "__initenv"];

/// Each line is an import's name, its parameters as a DLL passes them, its result, and what it does.
macro_rules! imports {
    ($host:ident: $($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? $body:block)*) => {
        fn implemented(import: &'static Import) -> Option<Result<AnyCallback, Error>> {
            Some(match import.name.as_str() {
                $(stringify!($name) => Callback::<unsafe extern "win64" fn($($type),*) $(-> $result)?>::from_fn_with(
                        import.options(),
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
    // Locks and threads.
    InitializeCriticalSection(section: Address) { host.locks.create(section) }
    DeleteCriticalSection(section: Address) { host.locks.delete(section) }
    EnterCriticalSection(section: Address) { host.locks.enter(section) }
    TryEnterCriticalSection(section: Address) -> i32 { host.locks.try_enter(section).into() }
    LeaveCriticalSection(section: Address) { host.locks.leave(section) }
    InitializeConditionVariable(variable: Address) { variable.put(0_usize) }
    SleepConditionVariableCS(variable: Address, section: Address, milliseconds: u32) -> i32 {
        locks::wait(variable, section, milliseconds).into()
    }
    WakeConditionVariable(variable: Address) { locks::wake_one(variable) }
    WakeAllConditionVariable(variable: Address) { locks::wake_all(variable) }
    InitializeSListHead(list: Address) { list.put([0_u64; 2]) }
    _beginthreadex(
        _security: Address, _stack: u32, start: ThreadStart, argument: Address, _flags: u32, _number: Address
    ) -> usize { host.start_thread(start, argument) }
    WaitForSingleObject(handle: usize, milliseconds: u32) -> u32 { host.wait_for_thread(handle, milliseconds) }
    CloseHandle(handle: usize) -> i32 { host.close(handle).into() }
    DisableThreadLibraryCalls(_image: Address) -> i32 { host.disable_thread_calls().into() }
    Sleep(milliseconds: u32) { std::thread::sleep(Duration::from_millis(milliseconds.into())) }
    // No index was ever given out.
    TlsGetValue(_index: u32) -> Address { LAST_ERROR.set(0); Address::NULL }

    // Process and machine.
    GetLastError() -> u32 { LAST_ERROR.get() }
    SetLastError(error: u32) { LAST_ERROR.set(error) }
    GetCurrentProcess() -> usize { usize::MAX }
    GetCurrentProcessId() -> u32 { std::process::id() }
    // SAFETY: it only says which thread this is.
    GetCurrentThreadId() -> u32 { unsafe { libc::gettid() as u32 } }
    IsDebuggerPresent() -> i32 { 0 }
    // SSE and SSE2; __fastfail, for one, is not there.
    IsProcessorFeaturePresent(feature: u32) -> i32 { matches!(feature, 6 | 10).into() }
    SetUnhandledExceptionFilter(_filter: Address) -> Address { Address::NULL }
    GetSystemInfo(information: Address) { information.put(SystemInformation::now()) }
    IsDBCSLeadByteEx(_codepage: u32, _byte: u8) -> i32 { 0 }
    VirtualQuery(address: Address, answer: Address, length: usize) -> usize {
        pages::query(host, address, answer, length)
    }
    VirtualProtect(address: Address, size: usize, protection: u32, former: Address) -> i32 {
        pages::protect(host, address, size, protection, former)
    }

    // Time.
    GetSystemTimeAsFileTime(time: Address) { time.put(file_time()) }
    QueryPerformanceCounter(count: Address) -> i32 { count.put(nanoseconds()); 1 }
    GetTickCount() -> u32 { (nanoseconds() / 1_000_000) as u32 }
    clock() -> i32 { (nanoseconds() / 1_000_000) as i32 }

    // C: memory.
    malloc(size: usize) -> Address { host.heap.allocate(size) }
    calloc(count: usize, size: usize) -> Address {
        count.checked_mul(size).map_or(Address::NULL, |size| host.heap.allocate(size))
    }
    realloc(block: Address, size: usize) -> Address { host.heap.resize(block, size) }
    free(block: Address) { let _ = host.heap.free(block); }
    _msize(block: Address) -> usize { host.heap.size_of(block) }
    memcpy(to: Address, from: Address, length: usize) -> Address { to.copy(from, length) }
    memmove(to: Address, from: Address, length: usize) -> Address { to.copy(from, length) }
    memset(to: Address, byte: i32, length: usize) -> Address { to.fill(byte as u8, length) }
    memchr(block: Address, byte: i32, length: usize) -> Address { block.find(byte as u8, length) }
    memcmp(a: Address, b: Address, length: usize) -> i32 { a.compare_bytes(b, length) }

    // C: strings. The locale is "C".
    strlen(string: Address) -> usize { string.c_string().count_bytes() }
    strcmp(a: Address, b: Address) -> i32 { a.compare(b, usize::MAX) }
    strncmp(a: Address, b: Address, length: usize) -> i32 { a.compare(b, length) }
    strchr(string: Address, byte: i32) -> Address { string.find_in_string(byte as u8, false) }
    strrchr(string: Address, byte: i32) -> Address { string.find_in_string(byte as u8, true) }
    strspn(string: Address, set: Address) -> usize { string.span(set, true) }
    strcspn(string: Address, set: Address) -> usize { string.span(set, false) }
    wcslen(string: Address) -> usize { string.wide_length() }
    ___lc_codepage_func() -> u32 { 0 }
    ___mb_cur_max_func() -> i32 { 1 }
    strerror(_number: i32) -> Address { Address::of(c"Unknown error".as_ptr()) }
    qsort(first: Address, count: usize, size: usize, compare: Compare) { runtime::sort(first, count, size, compare) }

    // C: the runtime itself.
    _initterm(first: Address, end: Address) { runtime::run_initializers(first, end) }
    _initterm_e(first: Address, end: Address) -> i32 { runtime::run_checked_initializers(first, end) }
    _initialize_onexit_table(table: Address) -> i32 { runtime::initialize_at_exit(table) }
    _register_onexit_function(table: Address, function: Address) -> i32 {
        runtime::add_at_exit(&host.heap, table, function)
    }
    _execute_onexit_table(table: Address) -> i32 { runtime::run_at_exit(&host.heap, table) }
    _configure_narrow_argv(_mode: i32) -> i32 { 0 }
    _initialize_narrow_environment() -> i32 { 0 }
    _cexit() {}
    __std_type_info_destroy_list(_list: Address) {}
    _lock(_number: i32) { host.locks.held.fetch_add(1, Relaxed); }
    _unlock(_number: i32) { host.locks.held.fetch_sub(1, Relaxed); }
    _errno() -> Address { ERRNO.with(|errno| Address::of(errno.as_ptr())) }
    __iob_func() -> Address { Address::of(host.streams.as_ptr()) }
    __acrt_iob_func(number: u32) -> Address { Address::of(host.streams.as_ptr()).plus(48 * number as usize) }
    fflush(_stream: Address) -> i32 { 0 }
}

/// After these, continuing makes no sense.
fn fatal(import: &'static Import) -> Option<Result<AnyCallback, Error>> {
    let names = [
        "abort",
        "exit",
        "_exit",
        "_amsg_exit",
        "_assert",
        "_wassert",
        "longjmp",
        "ExitProcess",
        "TerminateProcess",
        "UnhandledExceptionFilter",
        "RaiseException",
        "RaiseFailFastException",
    ];
    names.contains(&import.name.as_str()).then(|| {
        Callback::<unsafe extern "win64" fn()>::from_fn_with(import.options(), import, |import| {
            eprintln!("host_dll: {} has stopped itself: it called {}", import.guest, import.label);
            std::process::exit(1)
        })
        .map(Callback::untyped)
    })
}

/// Everything else. On win64 the caller removes the arguments, so a function that looks at none of them can stand for
/// any other, even for a variadic one.
fn reported(import: &'static Import) -> Result<AnyCallback, Error> {
    Callback::<unsafe extern "win64" fn()>::from_fn_with(import.options(), import, |import| {
        eprintln!("host_dll: {} called {}, which this host does not implement", import.guest, import.label);
        std::process::exit(NOT_IMPLEMENTED)
    })
    .map(Callback::untyped)
}

/// `SYSTEM_INFO`.
#[repr(C)]
struct SystemInformation {
    architecture: u32,
    page_size: u32,
    addresses: [usize; 2],
    processors_in_use: usize,
    processors: u32,
    processor_type: u32,
    granularity: u32,
    level: u16,
    revision: u16,
}

const _: () = assert!(size_of::<SystemInformation>() == 48);

impl SystemInformation {
    fn now() -> Self {
        const AMD64: u32 = 9;
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        Self {
            architecture: AMD64,
            page_size: 4096,
            addresses: [0x1_0000, 0x7fff_fffe_ffff],
            processors_in_use: usize::MAX >> (usize::BITS - processors.min(usize::BITS)),
            processors,
            processor_type: 8664,
            granularity: 0x1_0000,
            level: 6,
            revision: 0,
        }
    }
}

/// "FILETIME": tenths of microseconds since the year 1601.
fn file_time() -> u64 {
    const FROM_1601_TO_1970: u64 = 116_444_736_000_000_000;
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    FROM_1601_TO_1970 + (since_1970.as_nanos() / 100) as u64
}

/// Since the first call.
fn nanoseconds() -> i64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as i64
}

#[cfg(test)]
mod tests {
    use std::ffi::{CStr, c_char, c_void};
    use std::sync::atomic::{AtomicPtr, AtomicUsize};

    use super::*;

    fn bind(dll: &str, name: &str) -> Bound {
        Import::new(Host::new(Vec::new()), "guest.dll", dll, name).bind().unwrap()
    }

    /// The function as a DLL would find it.
    ///
    /// # Safety
    /// `F` must be the function pointer of the import's type, and the import implemented, or not called.
    unsafe fn function<F: Copy>(bound: &Bound) -> F {
        let address = bound.address();
        assert_eq!(size_of::<F>(), size_of_val(&address));
        // SAFETY: both have that size; for the rest by the promise.
        unsafe { std::mem::transmute_copy(&address) }
    }

    #[test]
    fn an_import_is_found_by_its_name_in_whichever_dll() {
        for dll in ["msvcrt.dll", "VCRUNTIME140.dll", "api-ms-win-crt-heap-l1-1-0.dll"] {
            assert!(matches!(bind(dll, "malloc"), Bound::Implemented(_)));
            assert!(matches!(bind(dll, "_fmode"), Bound::Variable(_)));
            for unknown in ["no such", "#7", ""] {
                assert!(matches!(bind(dll, unknown), Bound::Reported(_)));
            }
        }
    }

    #[test]
    fn strings_are_searched_as_in_c() {
        type OfByte = unsafe extern "win64" fn(*const c_char, i32) -> *const c_char;
        type OfSet = unsafe extern "win64" fn(*const c_char, *const c_char) -> usize;
        type OfTwo = unsafe extern "win64" fn(*const c_char, *const c_char) -> i32;
        let text = c"abcabc";
        // SAFETY: the types are those of the C functions, and the arguments strings.
        unsafe {
            let of_byte = |name, byte| {
                let found = function::<OfByte>(&bind("", name))(text.as_ptr(), byte);
                (!found.is_null()).then(|| found.offset_from(text.as_ptr()))
            };
            assert_eq!([of_byte("strchr", 0x62), of_byte("strrchr", 0x62)], [Some(1), Some(4)]);
            assert_eq!([of_byte("strchr", 0), of_byte("strrchr", 0), of_byte("strchr", 1)], [Some(6), Some(6), None]);
            let of_set = |name, set: &CStr| function::<OfSet>(&bind("", name))(text.as_ptr(), set.as_ptr());
            assert_eq!([of_set("strspn", c"ab"), of_set("strspn", c""), of_set("strspn", c"abc")], [2, 0, 6]);
            assert_eq!([of_set("strcspn", c"c"), of_set("strcspn", c""), of_set("strcspn", c"a")], [2, 6, 0]);
            let compare = |other: &CStr| function::<OfTwo>(&bind("", "strcmp"))(text.as_ptr(), other.as_ptr());
            assert_eq!([compare(c"abcabc"), compare(c"abcab").signum(), compare(c"abd").signum()], [0, 1, -1]);
        }
    }

    #[test]
    fn a_sort_calls_back() {
        type Sort = unsafe extern "win64" fn(*mut c_void, usize, usize, Compare);
        unsafe extern "win64" fn descending(a: *const c_void, b: *const c_void) -> i32 {
            // SAFETY: `qsort` passes elements of the array.
            unsafe { (*b.cast::<u16>()).cmp(&*a.cast::<u16>()) as i32 }
        }
        let mut numbers = [3_u16, 1, 4, 1, 5, 9, 2, 6];
        // SAFETY: as many elements of that size are there.
        unsafe {
            let sort = bind("", "qsort");
            function::<Sort>(&sort)(numbers.as_mut_ptr().cast(), numbers.len(), size_of::<u16>(), descending);
        }
        assert_eq!(numbers, [9, 6, 5, 4, 3, 2, 1, 1]);
    }

    #[test]
    fn functions_for_the_end_run_in_reverse() {
        type Initialize = unsafe extern "win64" fn(*mut [usize; 3]) -> i32;
        type Register = unsafe extern "win64" fn(*mut [usize; 3], unsafe extern "win64" fn()) -> i32;
        static LAST: AtomicUsize = AtomicUsize::new(0);
        unsafe extern "win64" fn first() {
            LAST.store(1, Relaxed);
        }
        unsafe extern "win64" fn other() {
            LAST.fetch_add(2, Relaxed);
        }
        let mut table = [usize::MAX; 3];
        let host = Host::new(Vec::new());
        let bind = |name| Import::new(host, "guest.dll", "", name).bind().unwrap();
        // SAFETY: a table has three words; it is initialized first.
        unsafe {
            let (initialize, execute) = (bind("_initialize_onexit_table"), bind("_execute_onexit_table"));
            let register = bind("_register_onexit_function");
            assert_eq!(function::<Initialize>(&initialize)(&raw mut table), 0);
            assert_eq!(function::<Register>(&register)(&raw mut table, first), 0);
            for _ in 0..100 {
                assert_eq!(function::<Register>(&register)(&raw mut table, other), 0);
            }
            LAST.store(7, Relaxed);
            assert_eq!(function::<Initialize>(&execute)(&raw mut table), 0);
            assert_eq!(LAST.load(Relaxed), 1, "the first one is not the last to run");
            assert_eq!(function::<Initialize>(&execute)(&raw mut table), 0);
        }
        assert_eq!((LAST.load(Relaxed), host.heap.blocks()), (1, 0));
    }

    #[test]
    fn an_import_that_is_gone_is_known_by_its_name() {
        static NAME: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
        // SAFETY: the only stale call of this program is that below, whose result is a number.
        unsafe {
            calltable::set_stale_handler(Some(|call| {
                NAME.store(call.name.map_or(std::ptr::null(), str::as_ptr).cast_mut(), Relaxed);
            }))
            .unwrap();
        }
        let import = Import::new(Host::new(Vec::new()), "guest.dll", "KERNEL32.dll", "GetLastError");
        let bound = import.bind().unwrap();
        // SAFETY: it is the type of that function, and a call after the release runs the handler above.
        let get: unsafe extern "win64" fn() -> u32 = unsafe { function(&bound) };
        drop(bound);
        // There is no name while another test has the table locked.
        for _ in 0..1_000_000 {
            // SAFETY: as above.
            unsafe { get() };
            if !NAME.load(Relaxed).is_null() {
                break;
            }
        }
        assert_eq!(NAME.load(Relaxed).cast_const(), import.label.as_ptr());
        assert_eq!(import.label, "KERNEL32.dll!GetLastError");
    }
}
