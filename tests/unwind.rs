//! Walking the stack through a call: by the unwinder of the C runtime from inside a handler, and by gdb from every
//! instruction of the table and the dispatchers.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "object/image.rs"]
#[allow(dead_code, reason = "tests/object.rs uses all of it")]
mod image;

use std::cell::UnsafeCell;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::c_void;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use calltable::seh::{self, CHAIN_END, Exception, ExceptionFilter, ExceptionRecord, Outcome, ThreadBlock, Verdict};
use calltable::table::{Binding, ENTRY_RETURN, ENTRY_STRIDE, FrameHandler, register, release};
use calltable::{Callback, CodePointer, Convention, MAX_POSITIONS, RawFrame, Signature, Type};
use iced_x86::{Instruction, Mnemonic, Register};
use image::{Code, Function};
use object::{Object, ObjectSymbol};

std::arch::global_asm!(include_str!("unwind/caller.S"), options(raw));

unsafe extern "C" {
    /// Calls `code` by the win64 convention. A debugger is to make it look as if the slot had been released during the
    /// call if `is_released` is 1.
    fn unwind_caller(code: *const c_void, is_released: u32) -> u64;
    fn unwind_reenter();
    fn unwind_reenter_4();
    fn unwind_plain();
    fn unwind_wreck();
    fn unwind_raise();
    fn unwind_wreck_control();
    fn unwind_wreck_frame();
    fn unwind_wreck_control_frame();
    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_table")]
    static unwind_table: u8;
}

unsafe extern "efiapi" {
    fn unwind_plain_frame(data: *mut c_void, frame: *mut RawFrame);
}

/// The table.
const TABLE: &str = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_table");

/// Where a contained call continues after an exception.
const RESUME: &str = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_resume");

/// What every handler here returns, and what a stale call returns.
const RESULT: u64 = 7;
const STALE: u64 = 9;

/// Calls an entry by way of `unwind_caller`, whose own caller it is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unwind_parent(code: CodePointer, is_released: u32) -> u64 {
    // SAFETY: the entries that tests pass here serve handlers that take no more than the caller's 32 positions.
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
    /// These keep no register but RSP; the last two change the control words, too.
    saving: *const c_void,
    foreign: *const c_void,
    saving_control: *const c_void,
    foreign_control: *const c_void,
}

/// One way through the dispatchers.
struct Lane {
    name: String,
    binding: Binding,
    /// The functions in whose frames a handler finds itself, innermost first, up to the table; none if the dispatcher
    /// has jumped to it.
    functions: Vec<&'static str>,
}

fn lanes(handlers: &Handlers) -> Vec<Lane> {
    const COUNT: &str = "calltable_count";
    let signature = Signature::new(Convention::Win64, &[Type::U64, Type::F64], Some(Type::U64)).unwrap();
    let data = std::ptr::null_mut();
    // SAFETY: the handlers take any arguments, ignore the data and live for ever.
    let direct = |handler, positions| unsafe { Binding::direct(Convention::Win64, handler, positions, data) };
    // SAFETY: as above.
    let frame = unsafe { Binding::frame(handlers.frame, &signature, data) };
    // SAFETY: as above; they return with the stack pointer as `ret` leaves it.
    let foreign = |handler| unsafe { Binding::frame_foreign(handler, &signature, data) };
    let saving = direct(handlers.saving, 3).saving();
    let saving_control = direct(handlers.saving_control, MAX_POSITIONS).saving_control_words();
    let foreign_control = foreign(handlers.foreign_control).saving_control_words();
    let lane = |name: &str, binding, functions: &[_]| Lane { name: name.into(), binding, functions: functions.into() };
    let by_positions = (0..=5).chain([MAX_POSITIONS]).map(|positions| {
        let functions: &[_] = if positions <= 4 { &[] } else { &["calltable_long"] };
        lane(&format!("direct, {positions} positions"), direct(handlers.direct, positions), functions)
    });
    let others = [
        lane("tracked", direct(handlers.direct, 2).tracked(), &["calltable_direct", COUNT]),
        lane("exclusive", direct(handlers.direct, 0).exclusive(), &["calltable_direct", COUNT]),
        // With a chain of exceptions; without one there is calltable_exclusive alone.
        lane("exclusive, 4 positions", direct(handlers.direct, 4).exclusive(), &["calltable_direct", COUNT]),
        lane("tracked, 6 positions", direct(handlers.direct, 6).tracked(), &["calltable_direct", COUNT]),
        lane("saving", saving, &["calltable_saving"]),
        lane("saving, tracked", saving.tracked(), &["calltable_saving", COUNT]),
        lane("saving, control words", saving_control, &["calltable_saving"]),
        lane("frame", frame, &["calltable_frame_alone"]),
        lane("frame, tracked", frame.tracked(), &["calltable_frame", COUNT]),
        lane("frame, foreign", foreign(handlers.foreign), &["calltable_saving"]),
        lane("frame, foreign, exclusive", foreign(handlers.foreign).exclusive(), &["calltable_saving", COUNT]),
        lane("frame, foreign, control words", foreign_control, &["calltable_saving"]),
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
    const COUNT: &str = "calltable_count";
    const CONTAIN: &str = "calltable_contain";
    let signature = Signature::new(Convention::Win64, &[Type::U64, Type::F64], Some(Type::U64)).unwrap();
    let data = (&raw const FILTER).cast_mut().cast();
    // SAFETY: as in `lanes`; the data begins with a filter.
    let (direct, saving, frame, foreign) = unsafe {
        (
            Binding::direct(Convention::Win64, handlers.direct, 3, data).contained(),
            Binding::direct(Convention::Win64, handlers.saving_control, 5, data).contained().saving_control_words(),
            Binding::frame(handlers.frame, &signature, data).contained(),
            Binding::frame_foreign(handlers.foreign, &signature, data).contained(),
        )
    };
    [
        ("contained", direct, &["calltable_direct", CONTAIN][..]),
        ("contained, tracked", direct.tracked(), &["calltable_direct", CONTAIN, COUNT]),
        ("contained, saving, control words", saving, &["calltable_saving", CONTAIN]),
        ("contained, frame", frame, &["calltable_frame", CONTAIN]),
        ("contained, frame, foreign, exclusive", foreign.exclusive(), &["calltable_saving", CONTAIN, COUNT]),
    ]
    .map(|(name, binding, functions)| Lane { name: name.into(), binding, functions: functions.into() })
    .into()
}

/// The program that runs, as its file has it.
struct Program {
    code: Code,
    functions: BTreeMap<u64, String>,
    symbols: BTreeMap<String, u64>,
}

impl Program {
    fn read() -> Self {
        let data = fs::read(env::current_exe().unwrap()).unwrap();
        let file = object::File::parse(&*data).unwrap();
        let defined = || file.symbols().filter(|symbol| !symbol.is_undefined());
        let functions = defined().filter(|symbol| symbol.kind() == object::SymbolKind::Text);
        let plain = |name| image::plain(name, TABLE);
        Self {
            code: Code::read(&file).expect("no table: is the test program stripped?"),
            functions: functions.map(|symbol| (symbol.address(), plain(symbol.name().unwrap()))).collect(),
            symbols: defined().map(|symbol| (symbol.name().unwrap().to_owned(), symbol.address())).collect(),
        }
    }

    fn address(&self, name: &str) -> u64 {
        *self.symbols.get(name).unwrap_or_else(|| panic!("no symbol {name}: is the test program stripped?"))
    }

    /// The function that a return address lies in.
    fn function(&self, return_address: usize) -> &str {
        let bias = unwind_caller as *const () as u64 - self.address("unwind_caller");
        let call = (return_address as u64).wrapping_sub(bias + 1);
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

unsafe extern "win64" fn trace_direct() -> u64 {
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
    let expected = [functions, &[&program.code.functions[0].name, "unwind_caller", "unwind_parent"]].concat();
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
    let addresses = TRACE.lock().unwrap();
    let entry = addresses[start + functions.len()].wrapping_sub(code.as_ptr() as usize);
    assert_eq!(entry, ENTRY_RETURN, "{lane}: the frame of the table is not that of the called entry, after its CALL");
}

#[test]
fn c_runtime_walks_from_handlers_to_the_test() {
    let _alone = alone();
    trace_every_lane(&Program::read());
}

/// In a process of its own, which has no chain of exceptions.
#[test]
fn c_runtime_walks_through_the_exclusive_lane() {
    const CASE: &str = "CALLTABLE_TEST_CASE";
    const NAME: &str = "c_runtime_walks_through_the_exclusive_lane";
    if env::var(CASE).is_ok() {
        return trace_every_lane_without_a_chain(&Program::read());
    }
    let child = Command::new(env::current_exe().unwrap()).args(["--exact", NAME]).env(CASE, NAME).output().unwrap();
    assert!(child.status.success(), "{child:?}");
}

#[inline(never)]
fn trace_every_lane_without_a_chain(program: &Program) {
    // SAFETY: the handler takes any arguments.
    let binding = unsafe { Binding::direct(Convention::Win64, trace_direct as *const c_void, 4, std::ptr::null_mut()) };
    let slot = register(&binding.exclusive()).unwrap();
    assert_trace(program, "exclusive, 4 positions", slot.code(), &["calltable_exclusive"], "trace_");
    release(slot).unwrap();
    let mut closure = trace;
    let callback = Callback::<unsafe extern "win64" fn() -> u64>::from_mut(&mut closure).unwrap();
    assert_trace(program, "closure", callback.slot().code(), &["calltable_exclusive"], "thunk");
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
    for lane in lanes(&handlers).into_iter().chain(contained_lanes(&handlers)) {
        let slot = register(&lane.binding).unwrap();
        assert_trace(program, &lane.name, slot.code(), &lane.functions, "trace_");
        release(slot).unwrap();
    }
    let mut calls = 0;
    let mut closure = || {
        calls += 1;
        trace()
    };
    let callback = Callback::<unsafe extern "win64" fn() -> u64>::from_mut(&mut closure).unwrap();
    let functions = ["calltable_direct", "calltable_count"];
    assert_trace(program, "closure", callback.slot().code(), &functions, "thunk");
    drop(callback);
    assert_eq!(calls, 1);
    let callback = Callback::<unsafe extern "win64" fn() -> u64>::from_ref(&|| trace()).unwrap();
    assert_trace(program, "shared closure", callback.slot().code(), &[], "thunk");
}

/// Each way through the dispatchers, with handlers of a few instructions. By itself it shows that each comes back with
/// the right result; the next test has gdb step through it.
#[test]
fn every_lane_returns_to_a_caller_in_assembly() {
    let _alone = alone();
    // SAFETY: every callback of this program returns a number.
    unsafe { calltable::set_stale_handler(Some(|_| STALE)).unwrap() };
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
    let run = |lanes: Vec<Lane>| {
        for lane in lanes {
            let key = register(&lane.binding).unwrap();
            let code = key.code();
            assert_eq!(unwind_parent(code, 0), RESULT, "{}", lane.name);
            let result = unwind_parent(code, 1);
            assert!(matches!(result, RESULT | STALE), "{}: {result}", lane.name);
            release(key).unwrap();
            assert_eq!(unwind_parent(code, 0), STALE, "{}, after its release", lane.name);
        }
    };
    run(lanes(&handlers));
    reenter(); // in the exclusive lane
    declare();
    run(lanes(&handlers).into_iter().filter(|lane| lane.name.contains("tracked")).collect());
    run(contained_lanes(&handlers));
    let raise = unwind_raise as *const c_void;
    run(contained_lanes(&Handlers {
        direct: raise,
        // SAFETY: it looks at no argument, and does not return.
        frame: unsafe { std::mem::transmute::<*const c_void, FrameHandler>(raise) },
        saving: raise,
        foreign: raise,
        saving_control: raise,
        foreign_control: raise,
    }));
    reenter(); // in the counting lane
}

/// Exclusive registrations whose handler calls them again.
fn reenter() {
    let mut code = std::ptr::null::<c_void>();
    let data = (&raw mut code).cast();
    // The handlers call what the data points to, which is an entry before the first call.
    let [again, again_4] = [(unwind_reenter as *const c_void, 0), (unwind_reenter_4 as *const c_void, 4)]
        // SAFETY: they take these positions and that data.
        .map(|(handler, positions)| unsafe { Binding::direct(Convention::Win64, handler, positions, data) });
    let run = |again: Binding| {
        let slot = register(&again.exclusive()).unwrap();
        // SAFETY: `code` lives and nobody else uses it now.
        unsafe { data.cast::<*const c_void>().write(slot.code().as_ptr()) };
        assert_eq!(unwind_parent(slot.code(), 0), STALE, "the inner call");
        release(slot).unwrap();
    };
    run(again);
    run(again_4);
}

#[test]
fn gdb_finds_the_caller_and_its_registers_from_every_instruction() {
    let program = Program::read();
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unwind-report");
    fs::remove_file(&report).ok();
    let functions = &program.code.functions;
    let contain = functions.iter().find(|function| function.name == "calltable_contain").unwrap();
    let instructions = || functions[1..].iter().flat_map(|function| &function.instructions);
    let compares_state = |i: &&Instruction| {
        i.mnemonic() == Mnemonic::Cmp && i.op0_register() == Register::R10 && i.memory_base() == Register::R11
    };
    let compares: Vec<_> = instructions().filter(compares_state).map(Instruction::ip).collect();
    assert_eq!(
        compares.len(),
        5,
        "the state is compared in calltable_dispatch, twice, in calltable_short, _long and _frame_alone"
    );
    let exclusive = functions.iter().find(|function| function.name == "calltable_exclusive").unwrap();
    let enters = |i: &&Instruction| i.mnemonic() == Mnemonic::Cmpxchg;
    let enters = exclusive.instructions.iter().find(enters).expect("it compares no state, but a word").ip();
    let [caller, call, returned, handlers, handlers_end] =
        ["unwind_caller", "unwind_call", "unwind_returned", "unwind_plain", "unwind_end"]
            .map(|name| program.address(name));
    let (table, end) = (functions[0].range.start, functions.last().unwrap().range.end);
    let (contain, resume) = (contain.range.start, program.address(RESUME));
    let plan = format!(
        "{{\"report\": {report:?}, \"stale\": {STALE}, \"compares\": {compares:?}, \"enters\": {enters}, \
         \"caller\": {caller}, \"call\": {call}, \"returned\": {returned}, \"handlers\": {handlers}, \
         \"handlers_end\": {handlers_end}, \"contain\": {contain}, \"resume\": {resume}, \"table\": {table}, \
         \"end\": {end}}}"
    );
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-iex", "set debuginfod enabled off", "-iex", "set auto-load no", "-x"]);
    gdb.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/unwind/step.py")).arg("--args");
    gdb.arg(env::current_exe().unwrap()).args(["--exact", "every_lane_returns_to_a_caller_in_assembly"]);
    gdb.args(["--nocapture", "--test-threads=1"]).env("CALLTABLE_UNWIND", plan);
    let output = gdb.output();
    let output = output.unwrap_or_else(|error| panic!("gdb does not start ({error}): install it, with Python"));
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
        visited.range(..functions[1].range.start).map(|address| (address - table) % ENTRY_STRIDE as u64).collect();
    assert_eq!(of_entries, [0, 4, 8, 13, 17].into(), "offsets of the visited instructions in entries");
    // There is no shadow stack here: the kernel's cases go through what unwinds one.
    let unwinds_shadow = |function: &Function, instruction: &Instruction| {
        let skips = |branch: &&Instruction| {
            let skipped = branch.next_ip()..branch.near_branch_target();
            let has_incssp = |i: &Instruction| i.mnemonic() == Mnemonic::Incsspq && skipped.contains(&i.ip());
            branch.mnemonic() == Mnemonic::Je
                && skipped.contains(&instruction.ip())
                && function.instructions.iter().any(has_incssp)
        };
        function.instructions.iter().any(|branch| skips(&branch))
    };
    let missed: Vec<_> = functions[1..]
        .iter()
        .flat_map(|function| function.instructions.iter().map(move |instruction| (function, instruction)))
        // INT3 stands after RET and fills up; nothing runs into it.
        .filter(|(_, instruction)| instruction.mnemonic() != Mnemonic::Int3 && !visited.contains(&instruction.ip()))
        .filter(|(function, instruction)| !unwinds_shadow(function, instruction))
        .map(|(f, i)| format!("{}+{:#x}: {}", f.name, i.ip() - f.range.start, program.code.text(i)))
        .collect();
    assert!(missed.is_empty(), "no call went through these, so nothing is known of them: {missed:#?}");
    let distinct = visited.range(functions[1].range.start..).count() + of_entries.len();
    assert!(checked >= distinct as i64);
    println!("unwound from {checked} steps of {calls} calls; {distinct} instructions were visited, all that there are");
}
