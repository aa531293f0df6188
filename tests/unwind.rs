//! Walking the stack through a call: by the unwinder of the C runtime from inside a handler, and by gdb from every
//! instruction of the table and the dispatchers.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

/// What each has of its own: frames, further lanes, and which instructions gdb is to come to.
#[cfg_attr(target_arch = "x86_64", path = "unwind/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "unwind/aarch64.rs")]
mod architecture;

use std::cell::UnsafeCell;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::env::consts::ARCH;
use std::ffi::c_void;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use architecture::{DIRECT, ENTRY, FRAME, REENTERING, SAVING, SAVING_FRAME};
use calltable::seh::{self, CHAIN_END, Exception, ExceptionFilter, ExceptionRecord, Outcome, ThreadBlock, Verdict};
use calltable::table::{
    Binding, CAPACITY, ENTRY_RETURN, ENTRY_STRIDE, FrameHandler, Location, locate, register, release,
};
use calltable::{Callback, CodePointer, Convention, RawFrame, Signature, Type};
use object::{Object, ObjectSymbol};

unsafe extern "C" {
    /// Calls `code` by the convention of [`Convention::C`]. A debugger is to make it look as if the slot had been
    /// released during the call if `is_released` is 1.
    fn unwind_caller(code: *const c_void, is_released: u32) -> u64;
    fn unwind_plain();
    fn unwind_raise();
    fn unwind_wreck();
    fn unwind_wreck_control();
    fn unwind_wreck_frame();
    fn unwind_wreck_control_frame();
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_table")]
    static unwind_table: u8;
}

unsafe extern "efiapi" {
    fn unwind_plain_frame(data: *mut c_void, frame: *mut RawFrame);
}

/// What all names of the assembly begin with.
const PREFIX: &str = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_");

/// What gdb is told by, and the stepped program learns that it is one.
const PLAN: &str = "CALLTABLE_UNWIND";

/// What every handler here returns, and what a stale call returns.
const RESULT: u64 = 7;
const STALE: u64 = 9;

/// Calls an entry by way of `unwind_caller`, whose own caller it is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unwind_parent(code: CodePointer, is_released: u32) -> u64 {
    // SAFETY: the entries that tests pass here serve handlers that take no more than the caller passes.
    let result = unsafe { unwind_caller(code.as_ptr(), is_released) };
    std::hint::black_box(result) // not a tail call
}

/// A test alone has the slots, of which there may be one only, and the place for traces.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handlers that lanes are registered with.
struct Handlers {
    direct: *const c_void,
    frame: FrameHandler,
    /// These keep no register but the stack pointer; the last two change the control words, too.
    saving: *const c_void,
    foreign: *const c_void,
    saving_control: *const c_void,
    foreign_control: *const c_void,
}

const COUNT: &str = "calltable_count";

/// One way through the dispatchers.
struct Lane {
    name: String,
    binding: Binding,
    /// The functions in whose frames a handler finds itself, innermost first, up to the table; none if the dispatcher
    /// has jumped to it.
    functions: Vec<&'static str>,
}

impl Lane {
    fn new(name: &str, binding: Binding, functions: &[&'static str]) -> Self {
        Self { name: name.into(), binding, functions: functions.into() }
    }
}

fn lanes(handlers: &Handlers) -> Vec<Lane> {
    const COUNTED: &[&str] = &["calltable_direct", COUNT];
    let signature = Signature::new(Convention::C, &[Type::U64, Type::F64], Some(Type::U64)).unwrap();
    let data = std::ptr::null_mut();
    // SAFETY: the handlers take any arguments, ignore the data and live for ever.
    let direct = |handler, positions| unsafe { Binding::direct(Convention::C, handler, positions, data) };
    // SAFETY: as above.
    let frame = unsafe { Binding::frame(handlers.frame, &signature, data) };
    // SAFETY: as above; they return with the stack pointer as `ret` leaves it.
    let foreign = |handler| unsafe { Binding::frame_foreign(handler, &signature, data) };
    let saving = direct(handlers.saving, 3).saving();
    let most = DIRECT[DIRECT.len() - 1].0;
    let saving_control = direct(handlers.saving_control, most).saving_control_words();
    let foreign_control = foreign(handlers.foreign_control).saving_control_words();
    let by_positions = DIRECT.iter().map(|(positions, functions)| {
        Lane::new(&format!("direct, {positions} positions"), direct(handlers.direct, *positions), functions)
    });
    let counted = |functions: &[&'static str]| [functions, &[COUNT]].concat();
    let others = [
        Lane::new("tracked", direct(handlers.direct, 2).tracked(), COUNTED),
        // On x86_64 with a chain of exceptions; without one there is calltable_exclusive alone.
        Lane::new("exclusive", direct(handlers.direct, 0).exclusive(), COUNTED),
        Lane::new("exclusive, 4 positions", direct(handlers.direct, 4).exclusive(), COUNTED),
        Lane::new("tracked, 6 positions", direct(handlers.direct, 6).tracked(), COUNTED),
        Lane::new("saving", saving, SAVING),
        Lane::new("saving, tracked", saving.tracked(), &counted(SAVING)),
        Lane::new("saving, control words", saving_control, SAVING),
        Lane::new("frame", frame, FRAME),
        Lane::new("frame, tracked", frame.tracked(), &["calltable_frame", COUNT]),
        Lane::new("frame, foreign", foreign(handlers.foreign), SAVING_FRAME),
        Lane::new("frame, foreign, exclusive", foreign(handlers.foreign).exclusive(), &counted(SAVING_FRAME)),
        Lane::new("frame, foreign, control words", foreign_control, SAVING_FRAME),
    ];
    by_positions.chain(others).collect()
}

thread_local! {
    static BLOCK: UnsafeCell<ThreadBlock> =
        const { UnsafeCell::new(ThreadBlock { head: CHAIN_END, stack_base: 0, stack_limit: 0 }) };
}

/// From now on contained and counted calls are in a chain.
fn declare() {
    unsafe extern "efiapi" fn block() -> *mut ThreadBlock {
        BLOCK.with(UnsafeCell::get)
    }
    // SAFETY: each thread has its own.
    unsafe { seh::declare(block) }.unwrap();
}

/// What `unwind_raise` calls: an exception that ends the call.
#[unsafe(no_mangle)]
extern "C" fn unwind_dispatch() {
    let mut record = ExceptionRecord {
        code: 5,
        flags: 0,
        nested: std::ptr::null_mut(),
        address: std::ptr::null_mut(),
        parameter_count: 0,
        parameters: [0; 15],
    };
    let here = (&raw const record).addr();
    // SAFETY: nobody else uses the block now; the records lie further up in this stack, but not far.
    unsafe {
        let block = BLOCK.with(UnsafeCell::get);
        ((*block).stack_limit, (*block).stack_base) = (here, here + 0x1_0000);
        seh::dispatch(&mut record, std::ptr::null_mut()).unwrap();
    }
}

/// What the data of contained handlers begins with.
static FILTER: ExceptionFilter = {
    unsafe extern "efiapi" fn filter(_: *mut c_void, _: *const Exception, outcome: *mut Outcome) -> Verdict {
        // SAFETY: the answer is that of the call.
        unsafe { (*outcome).frame.result = [RESULT, 0] };
        Verdict::RETURN
    }
    filter
};

/// Ways through the dispatchers that an exception may end at.
fn contained_lanes(handlers: &Handlers) -> Vec<Lane> {
    const CONTAIN: &str = "calltable_contain";
    let signature = Signature::new(Convention::C, &[Type::U64, Type::F64], Some(Type::U64)).unwrap();
    let data = (&raw const FILTER).cast_mut().cast();
    // SAFETY: as in `lanes`; the data begins with a filter.
    let (direct, saving, frame, foreign) = unsafe {
        (
            Binding::direct(Convention::C, handlers.direct, 3, data).contained(),
            Binding::direct(Convention::C, handlers.saving_control, 5, data).contained().saving_control_words(),
            Binding::frame(handlers.frame, &signature, data).contained(),
            Binding::frame_foreign(handlers.foreign, &signature, data).contained(),
        )
    };
    let in_saving = |lane: &[&'static str], more: &[&'static str]| [lane, more].concat();
    [
        ("contained", direct, vec!["calltable_direct", CONTAIN]),
        ("contained, tracked", direct.tracked(), vec!["calltable_direct", CONTAIN, COUNT]),
        ("contained, saving, control words", saving, in_saving(SAVING, &[CONTAIN])),
        ("contained, frame", frame, vec!["calltable_frame", CONTAIN]),
        ("contained, frame, foreign, exclusive", foreign.exclusive(), in_saving(SAVING_FRAME, &[CONTAIN, COUNT])),
    ]
    .map(|(name, binding, functions)| Lane::new(name, binding, &functions))
    .into()
}

/// The program that runs, as its file has it.
struct Program {
    functions: BTreeMap<u64, String>,
    symbols: BTreeMap<String, u64>,
}

impl Program {
    fn read() -> Self {
        let data = fs::read(env::current_exe().unwrap()).unwrap();
        let file = object::File::parse(&*data).unwrap();
        let defined = || file.symbols().filter(|symbol| !symbol.is_undefined());
        let functions = defined().filter(|symbol| symbol.kind() == object::SymbolKind::Text);
        let plain = |name: &str| name.strip_prefix(PREFIX).map_or(name.into(), |name| format!("calltable_{name}"));
        Self {
            functions: functions.map(|symbol| (symbol.address(), plain(symbol.name().unwrap()))).collect(),
            symbols: defined().map(|symbol| (symbol.name().unwrap().to_owned(), symbol.address())).collect(),
        }
    }

    fn address(&self, name: &str) -> u64 {
        *self.symbols.get(name).unwrap_or_else(|| panic!("no symbol {name}: is the test program stripped?"))
    }

    /// How much higher it runs than its file says.
    fn bias(&self) -> u64 {
        unwind_caller as *const () as u64 - self.address("unwind_caller")
    }

    /// The function that a return address lies in.
    fn function(&self, return_address: usize) -> &str {
        let call = (return_address as u64).wrapping_sub(self.bias() + 1);
        self.functions.range(..=call).next_back().map_or("?", |(_, name)| name)
    }
}

/// The return addresses that the last traced handler found.
static TRACE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

fn trace() -> u64 {
    let mut addresses = Vec::new();
    backtrace::trace(|frame| {
        addresses.push(frame.ip() as usize);
        true
    });
    *TRACE.lock().unwrap() = addresses;
    RESULT
}

unsafe extern "efiapi" fn trace_direct() -> u64 {
    trace()
}

unsafe extern "efiapi" fn trace_frame(_data: *mut c_void, frame: *mut RawFrame) {
    // SAFETY: the dispatcher passes its own frame.
    unsafe { (*frame).result = [trace(), 0] }
}

unsafe extern "C" fn trace_saving() -> u64 {
    trace()
}

unsafe extern "C" fn trace_foreign(_data: *mut c_void, frame: *mut RawFrame) {
    // SAFETY: the dispatcher passes its own frame.
    unsafe { (*frame).result = [trace(), 0] }
}

/// Calls the entry, whose handler traces, and compares all frames from the handler to this test.
#[inline(never)]
fn assert_trace(program: &Program, lane: &str, code: CodePointer, functions: &[&str], handler: &str) {
    TRACE.lock().unwrap().clear();
    assert_eq!(unwind_parent(code, 0), RESULT, "{lane}");
    let names: Vec<_> = TRACE.lock().unwrap().iter().map(|address| program.function(*address).to_owned()).collect();
    let expected = [functions, ENTRY, &["unwind_caller", "unwind_parent"]].concat();
    let start = names.iter().position(|name| name == expected[0]);
    let start = start.unwrap_or_else(|| panic!("{lane}: no frame of {} in {names:#?}", expected[0]));
    assert!(names[..start].iter().any(|name| name.contains(handler)), "{lane}: the handler is missing in {names:#?}");
    let (found, outer) = names[start..].split_at(expected.len().min(names.len() - start));
    assert_eq!(found, expected, "{lane}: frames in another order or number; all: {names:#?}");
    assert!(outer[0].contains("assert_trace"), "{lane}: who called `unwind_parent` is missing in {names:#?}");
    assert!(
        outer.iter().any(|name| name.contains("trace_every_lane")),
        "{lane}: the walk ends before the test: {names:#?}"
    );
    if !ENTRY.is_empty() {
        let entry = TRACE.lock().unwrap()[start + functions.len()].wrapping_sub(code.as_ptr() as usize);
        assert_eq!(
            entry, ENTRY_RETURN,
            "{lane}: the frame of the table is not that of the called entry, after its CALL"
        );
    }
}

#[test]
fn c_runtime_walks_from_handlers_to_the_test() {
    let _alone = alone();
    trace_every_lane(&Program::read());
}

/// A test itself may be inlined into the code that runs tests; this function is there to be found.
#[inline(never)]
fn trace_every_lane(program: &Program) {
    let (saving, foreign) = (trace_saving as *const c_void, trace_foreign as *const c_void);
    let handlers = Handlers {
        direct: trace_direct as *const c_void,
        frame: trace_frame,
        saving,
        foreign,
        saving_control: saving,
        foreign_control: foreign,
    };
    declare();
    let contained = contained_lanes(&handlers).into_iter().chain(architecture::more_lanes(&handlers));
    for lane in lanes(&handlers).into_iter().chain(contained) {
        let slot = register(&lane.binding).unwrap();
        assert_trace(program, &lane.name, slot.code(), &lane.functions, "trace_");
        release(slot).unwrap();
    }
    let mut calls = 0;
    let mut closure = || {
        calls += 1;
        trace()
    };
    let callback = Callback::<unsafe extern "efiapi" fn() -> u64>::from_mut(&mut closure).unwrap();
    let functions = ["calltable_direct", "calltable_count"];
    assert_trace(program, "closure", callback.slot().code(), &functions, "thunk");
    drop(callback);
    assert_eq!(calls, 1);
    let callback = Callback::<unsafe extern "efiapi" fn() -> u64>::from_ref(&|| trace()).unwrap();
    assert_trace(program, "shared closure", callback.slot().code(), &[], "thunk");
}

/// Each way through the dispatchers, with handlers of a few instructions. By itself it shows that each comes back with
/// the right result; the next test has gdb step through it.
#[test]
fn every_lane_returns_to_a_caller_in_assembly() {
    let _alone = alone();
    // SAFETY: every callback of this program returns a number.
    unsafe { calltable::set_stale_handler(Some(|call| call.set_result(STALE))).unwrap() };
    // When gdb steps through this test there are no contexts yet.
    // SAFETY: no slot is live, and the stale handler returns.
    assert_eq!(unsafe { unwind_caller((&raw const unwind_table).cast(), 0) }, STALE);
    let handlers = Handlers {
        direct: unwind_plain as *const c_void,
        frame: unwind_plain_frame,
        saving: unwind_wreck as *const c_void,
        foreign: unwind_wreck_frame as *const c_void,
        saving_control: unwind_wreck_control as *const c_void,
        foreign_control: unwind_wreck_control_frame as *const c_void,
    };
    call(lanes(&handlers));
    reenter(); // on x86_64 in the exclusive lane
    declare();
    call(lanes(&handlers).into_iter().filter(|lane| lane.name.contains("tracked")).collect());
    call(contained_lanes(&handlers));
    let raise = unwind_raise as *const c_void;
    call(contained_lanes(&Handlers {
        direct: raise,
        // SAFETY: it looks at no argument, and does not return.
        frame: unsafe { std::mem::transmute::<*const c_void, FrameHandler>(raise) },
        saving: raise,
        foreign: raise,
        saving_control: raise,
        foreign_control: raise,
    }));
    reenter(); // in the counting lane
    architecture::call_more(&handlers);
}

/// Calls each of them: live, released meanwhile if a debugger has it look so, released.
fn call(lanes: Vec<Lane>) {
    for lane in lanes.into_iter().filter(may_be_called) {
        let key = register(&lane.binding).unwrap();
        let code = key.code();
        assert_eq!(unwind_parent(code, 0), RESULT, "{}", lane.name);
        let result = unwind_parent(code, 1);
        assert!(matches!(result, RESULT | STALE), "{}: {result}", lane.name);
        release(key).unwrap();
        assert_eq!(unwind_parent(code, 0), STALE, "{}, after its release", lane.name);
    }
}

/// A debugger can step through it.
fn may_be_called(lane: &Lane) -> bool {
    architecture::COUNTED_CALLS_END || env::var_os(PLAN).is_none() || !lane.functions.contains(&COUNT)
}

/// Exclusive registrations whose handler calls them again.
fn reenter() {
    let mut code = std::ptr::null::<c_void>();
    let data = (&raw mut code).cast();
    for (handler, positions) in REENTERING {
        // SAFETY: the handler takes these positions, and calls what the data points to: an entry before the first call.
        let again = unsafe { Binding::direct(Convention::C, *handler as *const c_void, *positions, data) }.exclusive();
        if !may_be_called(&Lane::new("exclusive, again", again, &[COUNT])) {
            continue;
        }
        let slot = register(&again).unwrap();
        // SAFETY: `code` lives and nobody else uses it now.
        unsafe { data.cast::<*const c_void>().write(slot.code().as_ptr()) };
        assert_eq!(unwind_parent(slot.code(), 0), STALE, "the inner call");
        release(slot).unwrap();
    }
}

#[test]
fn gdb_finds_the_caller_and_its_registers_from_every_instruction() {
    let program = Program::read();
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unwind-report");
    fs::remove_file(&report).ok();
    let [caller, call, returned, handlers, handlers_end] =
        ["unwind_caller", "unwind_call", "unwind_returned", "unwind_plain", "unwind_end"]
            .map(|name| program.address(name));
    let [table, end] = ["table", "text_end"].map(|name| program.address(&format!("{PREFIX}{name}")));
    let dispatchers = table + (CAPACITY * ENTRY_STRIDE) as u64;
    let code = architecture::Dispatchers::read(&program);
    let (remote, of_architecture) = (remote(), code.plan());
    let plan = format!(
        "{{\"report\": {report:?}, \"remote\": {remote:?}, \"stale\": {STALE}, \"caller\": {caller}, \"call\": {call}, \
         \"returned\": {returned}, \"handlers\": {handlers}, \"handlers_end\": {handlers_end}, \"table\": {table}, \
         \"dispatchers\": {dispatchers}, \"end\": {end}, \"entry_return\": {ENTRY_RETURN}, \
         \"architecture\": \"{ARCH}\", {of_architecture}}}"
    );
    let output = debug(&remote, &plan);
    let show = || {
        let lines = [&output.stdout[..], &output.stderr[..]].map(|text| String::from_utf8_lossy(text).into_owned());
        let last = |text: &String| {
            text.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        format!("the last lines of gdb and the program:\n{}\n{}", last(&lines[0]), last(&lines[1]))
    };
    let report = fs::read_to_string(&report);
    let report =
        report.unwrap_or_else(|_| panic!("gdb wrote no report; it needs Python and ptrace. It said:\n{}", show()));
    let mut lines = report.lines();
    let mut line = || lines.next().unwrap();
    let [calls, checked, exit] = [line(), line(), line()].map(|number| number.parse::<i64>().unwrap());
    let visited: BTreeSet<u64> = line().split_whitespace().map(|address| address.parse().unwrap()).collect();
    let problems: Vec<_> = lines.collect();
    assert!(problems.is_empty(), "gdb found, among others:\n{}\n{}", problems.join("\n"), show());
    assert_eq!(exit, 0, "the stepped program failed:\n{}", show());

    // Entries have equal instructions: those of the entries that were called count for all.
    let of_entries: BTreeSet<_> =
        visited.range(..dispatchers).map(|address| (address - table) % ENTRY_STRIDE as u64).collect();
    assert_eq!(of_entries, architecture::ENTRY_OFFSETS.into(), "offsets of the visited instructions in entries");
    let missed = code.missed(&visited);
    assert!(missed.is_empty(), "no call went through these, so nothing is known of them: {missed:#?}");
    let distinct = visited.range(dispatchers..).count() + of_entries.len();
    assert!(checked >= distinct as i64);
    for address in &visited {
        let slot = (address - table) as usize / ENTRY_STRIDE;
        let expected = if *address < dispatchers { Location::Entry { slot } } else { Location::Dispatcher };
        let here = std::ptr::without_provenance((address + program.bias()) as usize);
        assert_eq!(locate(here), Some(expected), "table+{:#x}", address - table);
    }
    println!("unwound from {checked} steps of {calls} calls; {distinct} instructions were visited, all that there are");
}

/// Where gdb and the stepped program meet if that runs under QEMU; else gdb starts it.
fn remote() -> String {
    let is_emulated = env::var_os("CALLTABLE_RUNNER").is_some();
    let socket = env::temp_dir().join(format!("calltable-unwind-{}", std::process::id()));
    if is_emulated { socket.into_os_string().into_string().unwrap() } else { String::new() }
}

/// Has gdb step through the program.
fn debug(remote: &str, plan: &str) -> Output {
    struct Emulator(Child);
    impl Drop for Emulator {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let program = env::current_exe().unwrap();
    let arguments = ["--exact", "every_lane_returns_to_a_caller_in_assembly", "--nocapture", "--test-threads=1"];
    let emulator = env::var("CALLTABLE_RUNNER").ok().map(|runner| {
        let mut words = runner.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(["-g", remote]).args(words).arg(&program).args(arguments).env(PLAN, plan);
        Emulator(command.spawn().unwrap())
    });
    let mut gdb = Command::new(if emulator.is_some() { "gdb-multiarch" } else { "gdb" });
    gdb.args(["-batch", "-nx", "-iex", "set debuginfod enabled off", "-iex", "set auto-load no", "-x"]);
    gdb.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/unwind/step.py")).arg("--args");
    let output = gdb.arg(program).args(arguments).env(PLAN, plan).output();
    drop(emulator);
    fs::remove_file(remote).ok();
    output.unwrap_or_else(|error| panic!("gdb does not start ({error}): install it, with Python"))
}
