//! Windows' own unwinder on table and dispatchers of AArch64, from every instruction of a call.
//!
//! The processor's single steps are not for programs of user mode there. So every instruction but the one that runs
//! next is a breakpoint, in all of the dispatchers: no other test may call through the table meanwhile.
#![cfg(all(windows, target_arch = "aarch64"))]

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::fmt::Write as _;
use std::ops::Range;
use std::ptr::{null_mut, with_exposed_provenance_mut};

use calltable::seh::{Exception, ExceptionFilter, Outcome, Verdict};
use calltable::table::{self, Binding, ENTRY_STRIDE, Location};
use calltable::{Convention, RawFrame, Signature, Type, set_stale_handler};
use windows_sys::Win32::Foundation::EXCEPTION_BREAKPOINT;
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, CONTEXT, EXCEPTION_POINTERS, FlushInstructionCache, RemoveVectoredExceptionHandler,
    RtlCaptureStackBackTrace, RtlLookupFunctionEntry, RtlVirtualUnwind, UNW_FLAG_NHANDLER,
};
use windows_sys::Win32::System::Memory::{PAGE_EXECUTE_READWRITE, VirtualProtect};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

// Calls X0 with a mark in every register that the convention preserves: 0x11 times its number, 0x1000 more in D8 to
// D15. Notes its stack pointer at X1.
std::arch::global_asm!(
    "
    .globl calltable_test_marked, calltable_test_marked_return
    .def calltable_test_marked; .scl 2; .type 32; .endef
    .seh_proc calltable_test_marked
calltable_test_marked:
    stp x29, x30, [sp, #-0xa0]!
    .seh_save_fplr_x 0xa0
    stp x19, x20, [sp, #0x10]
    .seh_save_regp x19, 0x10
    stp x21, x22, [sp, #0x20]
    .seh_save_regp x21, 0x20
    stp x23, x24, [sp, #0x30]
    .seh_save_regp x23, 0x30
    stp x25, x26, [sp, #0x40]
    .seh_save_regp x25, 0x40
    stp x27, x28, [sp, #0x50]
    .seh_save_regp x27, 0x50
    stp d8, d9, [sp, #0x60]
    .seh_save_fregp d8, 0x60
    stp d10, d11, [sp, #0x70]
    .seh_save_fregp d10, 0x70
    stp d12, d13, [sp, #0x80]
    .seh_save_fregp d12, 0x80
    stp d14, d15, [sp, #0x90]
    .seh_save_fregp d14, 0x90
    .seh_endprologue
    mov x9, x0
    mov x10, sp
    str x10, [x1]
    .irp number, 8, 9, 10, 11, 12, 13, 14, 15
    mov x10, #0x1000 + 0x11 * \\number
    fmov d\\number, x10
    .endr
    .irp number, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29
    mov x\\number, #0x11 * \\number
    .endr
    blr x9
calltable_test_marked_return:
    nop
    .seh_startepilogue
    ldp d14, d15, [sp, #0x90]
    .seh_save_fregp d14, 0x90
    ldp d12, d13, [sp, #0x80]
    .seh_save_fregp d12, 0x80
    ldp d10, d11, [sp, #0x70]
    .seh_save_fregp d10, 0x70
    ldp d8, d9, [sp, #0x60]
    .seh_save_fregp d8, 0x60
    ldp x27, x28, [sp, #0x50]
    .seh_save_regp x27, 0x50
    ldp x25, x26, [sp, #0x40]
    .seh_save_regp x25, 0x40
    ldp x23, x24, [sp, #0x30]
    .seh_save_regp x23, 0x30
    ldp x21, x22, [sp, #0x20]
    .seh_save_regp x21, 0x20
    ldp x19, x20, [sp, #0x10]
    .seh_save_regp x19, 0x10
    ldp x29, x30, [sp], #0xa0
    .seh_save_fplr_x 0xa0
    .seh_endepilogue
    ret
    .seh_endproc

    .globl calltable_test_wreck
    .def calltable_test_wreck; .scl 2; .type 32; .endef
calltable_test_wreck:
    .irp number, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29
    mov x\\number, #-1
    .endr
    .irp number, 8, 9, 10, 11, 12, 13, 14, 15
    movi v\\number\\().16b, #0x66
    .endr
    ret
    "
);

unsafe extern "C" {
    /// Calls `code`, and notes its own stack pointer at that moment.
    fn calltable_test_marked(code: *const c_void, stack: *mut u64);
    static calltable_test_marked_return: u8;
    /// A handler that keeps no register but SP and the system's X18.
    fn calltable_test_wreck();
}

unsafe extern "C" fn direct() {}
unsafe extern "efiapi" fn pass_on(_: *mut c_void, _: *const Exception, _: *mut Outcome) -> Verdict {
    Verdict::SEARCH_ON
}
/// Data that begins with a filter, as contained registrations want.
static FILTER: ExceptionFilter = pass_on;
unsafe extern "efiapi" fn frame(_data: *mut c_void, _frame: *mut RawFrame) {}

/// Looks at the stack as a profiler does.
unsafe extern "C" fn trace() {
    let mut frames = [null_mut(); 62];
    // SAFETY: there is room for that many.
    let count = unsafe { RtlCaptureStackBackTrace(0, 62, frames.as_mut_ptr(), null_mut()) };
    let back = (&raw const calltable_test_marked_return).addr();
    // SAFETY: this thread alone uses it while a call runs.
    let steps = unsafe { &mut *STEPS.0.get() };
    steps.is_traced = frames[..usize::from(count)].iter().any(|frame| frame.addr() == back);
}

/// Each way that a call can take through the dispatchers.
fn ways() -> Vec<(&'static str, Binding)> {
    let signature = Signature::new(Convention::Aapcs64, &[Type::I64; 3], None).unwrap();
    let data = (&raw const FILTER).cast_mut().cast();
    // SAFETY: the handlers look at none of their arguments; the data begins with a filter.
    unsafe {
        let direct = |positions| Binding::direct(Convention::Aapcs64, self::direct as *const c_void, positions, data);
        let wreck = calltable_test_wreck as *const c_void;
        let wrecking = |positions| Binding::direct(Convention::Aapcs64, wreck, positions, data);
        let trace = |positions| Binding::direct(Convention::Aapcs64, self::trace as *const c_void, positions, data);
        let frame = Binding::frame(self::frame, &signature, data);
        let foreign = Binding::frame_foreign(wreck, &signature, data);
        vec![
            ("direct, data in a register", direct(3)),
            ("direct, data on the stack", direct(8)),
            ("direct, words on the stack", direct(11)),
            ("direct, saving", wrecking(2).saving()),
            ("direct, saving control words", wrecking(9).saving_control_words()),
            ("direct, tracked", direct(1).tracked()),
            ("direct, exclusive", direct(9).exclusive()),
            ("direct, saving, tracked", wrecking(2).saving().tracked()),
            ("frame", frame),
            ("frame, tracked", frame.tracked()),
            ("frame, foreign", foreign),
            ("frame, foreign, exclusive", foreign.exclusive()),
            ("contained", direct(3).contained()),
            ("contained, words on the stack, tracked", direct(11).contained().tracked()),
            ("contained frame, saving", foreign.contained()),
            ("contained, saving control words", wrecking(2).saving_control_words().contained()),
            ("a trace out of a contained call", trace(0).contained()),
            ("a trace out of the direct lane", trace(0)),
            ("a trace out of the direct lane with a frame", trace(9)),
            ("a trace out of a counted call", trace(0).tracked()),
            ("a trace out of the saving lane", trace(0).saving().tracked()),
        ]
    }
}

const INSTRUCTION: usize = 4;
const BREAKPOINT: u32 = 0xd43e_0000; // brk #0xf000

/// Code whose instructions are breakpoints, and what has been seen of it.
#[derive(Default)]
struct Steps {
    /// The dispatchers, and one entry.
    code: Vec<Range<usize>>,
    /// Their instructions, by address.
    original: Vec<(usize, u32)>,
    /// Addresses that have their instructions again, until the next stop.
    open: Vec<usize>,
    /// Those at which a call was stopped.
    seen: Vec<usize>,
    stack: u64,
    system: u64,
    count: usize,
    wrong: String,
    is_traced: bool,
}

struct Shared(UnsafeCell<Steps>);
// SAFETY: one thread uses it, that of the only test.
unsafe impl Sync for Shared {}

static STEPS: Shared = Shared(UnsafeCell::new(Steps {
    code: Vec::new(),
    original: Vec::new(),
    open: Vec::new(),
    seen: Vec::new(),
    stack: 0,
    system: 0,
    count: 0,
    wrong: String::new(),
    is_traced: false,
}));

fn write(address: usize, instruction: u32) {
    // SAFETY: code of this program, which has been made writable.
    unsafe {
        with_exposed_provenance_mut::<u32>(address).write_volatile(instruction);
        FlushInstructionCache(GetCurrentProcess(), with_exposed_provenance_mut(address), INSTRUCTION);
    }
}

impl Steps {
    fn new(slot: usize, entry: *const c_void) -> Self {
        let first = entry.expose_provenance();
        let table = first - ENTRY_STRIDE * slot + ENTRY_STRIDE * table::CAPACITY;
        let is_dispatcher =
            |address: &usize| table::locate(std::ptr::without_provenance(*address)) == Some(Location::Dispatcher);
        let end = (table..).step_by(INSTRUCTION).find(|address| !is_dispatcher(address)).unwrap();
        let code = vec![first..first + ENTRY_STRIDE, table..end];
        let mut original = Vec::new();
        for range in &code {
            let mut before = 0;
            let start = with_exposed_provenance_mut::<c_void>(range.start);
            // SAFETY: pages of this program's code, which stays executable.
            assert_ne!(unsafe { VirtualProtect(start, range.len(), PAGE_EXECUTE_READWRITE, &mut before) }, 0);
            for address in range.clone().step_by(INSTRUCTION) {
                // SAFETY: an instruction of that code.
                original.push((address, unsafe { with_exposed_provenance_mut::<u32>(address).read() }));
            }
        }
        Self { code, original, ..Self::default() }
    }

    fn set_all(&self, is_breakpoint: bool) {
        self.original.iter().for_each(|&(address, code)| write(address, if is_breakpoint { BREAKPOINT } else { code }));
    }

    /// The instructions that run next: one, or, if an exception between them would have it fail for ever, from a load
    /// that is exclusive to its store.
    fn next(&self, address: usize) -> Vec<(usize, u32)> {
        const KIND: u32 = 0x3fe0_0000;
        const LOAD: u32 = 0x0840_0000;
        const STORE: u32 = 0x0800_0000;
        let from = self.original.iter().position(|(at, _)| *at == address).unwrap();
        let rest = &self.original[from..];
        let count = if rest[0].1 & KIND == LOAD {
            rest.iter().position(|(_, code)| code & KIND == STORE).unwrap() + 1
        } else {
            1
        };
        rest[..count].to_vec()
    }
}

/// `CONTEXT` as C aligns it.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Aligned(CONTEXT);

/// Goes from a function to its caller. All but the innermost function are at a call.
///
/// # Safety
/// The context must be that of code on this thread's stack.
unsafe fn unwind(context: &mut Aligned, is_innermost: bool) {
    let context = &mut context.0;
    let address = if is_innermost { context.Pc } else { context.Pc - INSTRUCTION as u64 };
    let (mut base, mut data, mut establisher) = (0, null_mut(), 0);
    // SAFETY: the entry is the one for this address; else it is a leaf.
    unsafe {
        let entry = RtlLookupFunctionEntry(address as usize, &mut base, null_mut());
        if entry.is_null() {
            context.Pc = context.Anonymous.X[30];
        } else {
            let kind = UNW_FLAG_NHANDLER;
            RtlVirtualUnwind(kind, base, address as usize, entry, context, &mut data, &mut establisher, null_mut());
        }
    }
}

/// What is not as `calltable_test_marked` left it.
fn differs(context: &CONTEXT, steps: &Steps) -> Option<String> {
    // SAFETY: both views of the registers are plain numbers.
    let (general, floats) = unsafe { (context.Anonymous.X, context.V) };
    let mut all = vec![
        ("pc".to_owned(), context.Pc, (&raw const calltable_test_marked_return).addr() as u64),
        ("sp".to_owned(), context.Sp, steps.stack),
    ];
    all.extend((19..30).map(|number| (format!("x{number}"), general[number], 0x11 * number as u64)));
    for (number, value) in floats.iter().enumerate().take(16).skip(8) {
        // SAFETY: as above.
        let low = unsafe { value.Anonymous.Low };
        all.push((format!("d{number}"), low, 0x1000 + 0x11 * number as u64));
    }
    let (name, found, want) = all.into_iter().find(|(_, found, want)| found != want)?;
    Some(format!("{name} is {found:#x}, not {want:#x}"))
}

/// Runs before each instruction.
unsafe extern "system" fn on_step(pointers: *mut EXCEPTION_POINTERS) -> i32 {
    const CONTINUE_EXECUTION: i32 = -1;
    const CONTINUE_SEARCH: i32 = 0;
    // SAFETY: Windows passes the record and the context of the interrupted code; the steps are this thread's.
    let (record, context, steps) =
        unsafe { (&*(*pointers).ExceptionRecord, &mut *(*pointers).ContextRecord, &mut *STEPS.0.get()) };
    let address = context.Pc as usize;
    if record.ExceptionCode != EXCEPTION_BREAKPOINT || !steps.code.iter().any(|range| range.contains(&address)) {
        return CONTINUE_SEARCH;
    }
    let next = steps.next(address);
    for (address, _) in &next {
        steps.count += 1;
        steps.seen.push(*address);
        let mut at = Aligned(*context);
        at.0.Pc = *address as u64;
        // Handler, lane, dispatcher: a few frames.
        for depth in 0..8 {
            // SAFETY: the interrupted code runs on this thread.
            unsafe { unwind(&mut at, depth == 0) };
            if at.0.Pc == (&raw const calltable_test_marked_return).addr() as u64 {
                break;
            }
        }
        if let Some(what) = differs(&at.0, steps) {
            let offset = address - steps.code[1].start;
            writeln!(steps.wrong, "from {offset:#x} of the dispatchers: {what}").unwrap();
        }
        // SAFETY: both views of the registers are plain numbers.
        let system = unsafe { context.Anonymous.X[18] };
        if system != steps.system {
            writeln!(steps.wrong, "x18, the system's own, is {system:#x}").unwrap();
        }
    }
    std::mem::take(&mut steps.open).into_iter().for_each(|address| write(address, BREAKPOINT));
    for (address, code) in next {
        write(address, code);
        steps.open.push(address);
    }
    CONTINUE_EXECUTION
}

/// Steps through one call; returns what was seen.
fn step_through(slot: usize, code: *const c_void) -> Steps {
    let steps = STEPS.0.get();
    // SAFETY: the vectored handler only looks; the code takes any arguments; nobody else uses the steps.
    unsafe {
        *steps = Steps::new(slot, code);
        std::arch::asm!("mov {}, x18", out(reg)(*steps).system);
        (*steps).set_all(true);
        let handle = AddVectoredExceptionHandler(1, Some(on_step));
        calltable_test_marked(code, &raw mut (*steps).stack);
        RemoveVectoredExceptionHandler(handle);
        (*steps).set_all(false);
        std::mem::take(&mut *steps)
    }
}

#[test]
fn rtl_virtual_unwind_from_every_instruction_of_a_call() {
    let mut missing: Option<Vec<usize>> = None;
    let mut look = |way: &str, steps: Steps| {
        println!("{way}: {} instructions", steps.count);
        assert!(steps.wrong.is_empty(), "{way}: unwinding goes wrong\n{}", steps.wrong);
        assert!(steps.count > 20, "{way}: only {} instructions were seen", steps.count);
        assert_eq!(steps.is_traced, way.starts_with("a trace"), "{way}: the caller is in a trace of the stack");
        let instructions =
            steps.original.iter().filter(|(address, code)| steps.code[1].contains(address) && *code != BREAKPOINT);
        let offsets = instructions.map(|(address, _)| address - steps.code[1].start);
        let all = missing.get_or_insert_with(|| offsets.collect());
        all.retain(|offset| !steps.seen.contains(&(steps.code[1].start + offset)));
    };
    for (way, binding) in ways() {
        let key = table::register(&binding).unwrap();
        look(way, step_through(key.index(), key.code().as_ptr()));
        table::release(key).unwrap();
    }
    // SAFETY: every registration that may be refused returns nothing.
    unsafe { set_stale_handler(Some(|_| {})).unwrap() };
    let key = table::register(&ways()[0].1).unwrap();
    let (slot, code) = (key.index(), key.code().as_ptr());
    table::release(key).unwrap();
    look("stale", step_through(slot, code));
    // What only a refused count or an exception leads to: tests/windows has those.
    let missing = missing.unwrap();
    let end = missing.last().map_or(0, |offset| offset / INSTRUCTION);
    assert!(missing.len() * 4 < end, "not seen: {missing:x?}");
}
