//! Windows' own unwinder on table and dispatchers: from every instruction of a call, from inside a handler, and with
//! exceptions of the system that pass through.
#![cfg(target_arch = "x86_64")]

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::fmt::Write as _;
use std::ptr::{null, null_mut};
use std::sync::Mutex;

use calltable::table::{self, Binding, CAPACITY, ENTRY_RETURN, ENTRY_STRIDE, SlotId};
use calltable::{CodePointer, Convention, RawFrame, Signature, Type};
use windows_sys::Win32::Foundation::{EXCEPTION_ACCESS_VIOLATION, EXCEPTION_SINGLE_STEP};
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, CONTEXT, EXCEPTION_POINTERS, M128A, RaiseException, RemoveVectoredExceptionHandler,
    RtlCaptureStackBackTrace, RtlLookupFunctionEntry, RtlVirtualUnwind, UNW_FLAG_NHANDLER,
};
use windows_sys::Win32::System::LibraryLoader::GetModuleHandleW;
use windows_sys::w;

use crate::c_side::{self, LEVELS, function};
use crate::contained::{After, calltable_test_after};

// Calls RCX with a mark in every register that the convention preserves, under the trap flag from just before the CALL
// to just after it. The marks: 0x11 times the number that instructions give the register; XMM registers hold 0x100 more
// in both halves.
std::arch::global_asm!(
    "
    .globl calltable_test_marked, calltable_test_marked_return
    .def calltable_test_marked; .scl 2; .type 32; .endef
    .seh_proc calltable_test_marked
calltable_test_marked:
    push rbx
    .seh_pushreg rbx
    push rbp
    .seh_pushreg rbp
    push rsi
    .seh_pushreg rsi
    push rdi
    .seh_pushreg rdi
    push r12
    .seh_pushreg r12
    push r13
    .seh_pushreg r13
    push r14
    .seh_pushreg r14
    push r15
    .seh_pushreg r15
    sub rsp, 0x148
    .seh_stackalloc 0x148
    .altmacro
    .macro EACH_XMM what
    .set number, 6
    .rept 10
        what %number
        .set number, number + 1
    .endr
    .endm
    .macro SAVE number
    movaps [rsp + 0xa0 + 16 * (number - 6)], xmm\\number
    .seh_savexmm xmm\\number, 0xa0 + 16 * (number - 6)
    .endm
    .macro RESTORE number
    movaps xmm\\number, [rsp + 0xa0 + 16 * (number - 6)]
    .endm
    .macro MARK number
    mov eax, 0x100 + 0x11 * number
    movq xmm\\number, rax
    punpcklqdq xmm\\number, xmm\\number
    .endm
    EACH_XMM SAVE
    .seh_endprologue
    EACH_XMM MARK
    mov ebx, 0x33
    mov ebp, 0x55
    mov esi, 0x66
    mov edi, 0x77
    mov r12d, 0xcc
    mov r13d, 0xdd
    mov r14d, 0xee
    mov r15d, 0xff
    mov rax, rcx
    mov [rdx], rsp
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    call rax
calltable_test_marked_return:
    nop
    EACH_XMM RESTORE
    .noaltmacro
    add rsp, 0x148
    pop r15
    pop r14
    pop r13
    pop r12
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    ret
    .seh_endproc

    .globl calltable_test_wreck
    .def calltable_test_wreck; .scl 2; .type 32; .endef
calltable_test_wreck:
    mov rbx, -1
    mov rbp, rbx
    mov rsi, rbx
    mov rdi, rbx
    mov r12, rbx
    mov r13, rbx
    mov r14, rbx
    mov r15, rbx
    pcmpeqd xmm6, xmm6
    pcmpeqd xmm11, xmm11
    pcmpeqd xmm15, xmm15
    ret

    .globl calltable_test_guarded
    .def calltable_test_guarded; .scl 2; .type 32; .endef
    .seh_proc calltable_test_guarded
    .seh_handler __C_specific_handler, @except
calltable_test_guarded:
    push rbx
    .seh_pushreg rbx
    sub rsp, 0x20
    .seh_stackalloc 0x20
    .seh_endprologue
    mov rbx, rdx
    mov rax, rcx
    mov ecx, 0x1234
.Lcalltable_test_try:
    call rax
    nop
.Lcalltable_test_end_of_try:
    jmp 1f
.Lcalltable_test_except:
    mov byte ptr [rbx], 1
1:  add rsp, 0x20
    pop rbx
    ret
    .seh_handlerdata
    .long 1
    .rva .Lcalltable_test_try, .Lcalltable_test_end_of_try
    .rva {filter}
    .rva .Lcalltable_test_except
    .text
    .seh_endproc
    ",
    filter = sym filter,
);

unsafe extern "C" {
    /// Calls `code`, and notes its own stack pointer at that moment.
    fn calltable_test_marked(code: *const c_void, stack: *mut u64);
    static calltable_test_marked_return: u8;
    /// A handler that keeps no register.
    fn calltable_test_wreck();
    /// Calls `code` with 0x1234 in what C would write as `__try`; `__except (filter(..))` notes that it caught.
    fn calltable_test_guarded(code: *const c_void, caught: *mut bool) -> i64;
}

/// Takes every exception, and notes which.
unsafe extern "C" fn filter(pointers: *mut EXCEPTION_POINTERS, _frame: *mut c_void) -> i32 {
    // SAFETY: Windows passes the record.
    CODE.set(unsafe { (*(*pointers).ExceptionRecord).ExceptionCode });
    1
}

thread_local! {
    static CODE: Cell<i32> = const { Cell::new(0) };
}

unsafe extern "win64" fn direct() {}
unsafe extern "efiapi" fn frame(_data: *mut c_void, _frame: *mut RawFrame) {}

/// Each way that a call can take through the dispatchers.
fn ways() -> Vec<(&'static str, Binding)> {
    let signature = Signature::new(Convention::Win64, &[Type::I64; 3], None).unwrap();
    let data = null_mut();
    // SAFETY: the handlers look at none of their arguments.
    unsafe {
        let direct = |positions| Binding::direct(Convention::Win64, self::direct as *const c_void, positions, data);
        let wreck = calltable_test_wreck as *const c_void;
        let wrecking = Binding::direct(Convention::Win64, wreck, 2, data);
        let frame = Binding::frame(self::frame, &signature, data);
        let foreign = Binding::frame_foreign(wreck, &signature, data);
        vec![
            ("direct, 0 positions", direct(0)),
            ("direct, 4 positions", direct(4)),
            ("direct, 9 positions", direct(9)),
            ("direct, saving", wrecking.saving()),
            ("direct, saving control words", wrecking.saving_control_words()),
            ("direct, tracked", direct(1).tracked()),
            ("direct, exclusive", direct(6).exclusive()),
            ("direct, 4 positions, exclusive", direct(4).exclusive()),
            ("direct, saving, tracked", wrecking.saving().tracked()),
            ("frame", frame),
            ("frame, tracked", frame.tracked()),
            ("frame, foreign", foreign),
            ("frame, foreign, exclusive", foreign.exclusive()),
        ]
    }
}

/// A slot that ends with this value.
struct Registered(SlotId);

impl Registered {
    fn new(binding: &Binding) -> Self {
        Self(table::register(binding).unwrap().slot())
    }

    fn code(&self) -> CodePointer {
        self.0.code()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: `new` has dropped its first key, and nobody uses the slot any more.
        table::release(unsafe { self.0.key() }).unwrap();
    }
}

/// Start of the function and base of the image that hold an address, by the system's own search.
fn function_at(address: u64) -> Option<(u64, u64)> {
    let mut base = 0;
    // SAFETY: looks the address up in tables, and does not read there.
    let entry = unsafe { RtlLookupFunctionEntry(address, &mut base, null_mut()) };
    // SAFETY: what it finds is an entry of a loaded image's table.
    (!entry.is_null()).then(|| (base + u64::from(unsafe { (*entry).BeginAddress }), base))
}

/// `CONTEXT` as C aligns it.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Aligned(CONTEXT);

/// Goes from a function to its caller.
///
/// # Safety
/// The context must be that of code on this thread's stack.
unsafe fn unwind(context: &mut Aligned) {
    let context = &mut context.0;
    let mut base = 0;
    // SAFETY: the entry is the one for this address; else it is a leaf, and the return address is on top.
    unsafe {
        let entry = RtlLookupFunctionEntry(context.Rip, &mut base, null_mut());
        if entry.is_null() {
            context.Rip = *std::ptr::with_exposed_provenance::<u64>(context.Rsp as usize);
            context.Rsp += 8;
        } else {
            let (mut data, mut establisher) = (null_mut(), 0);
            let rip = context.Rip;
            RtlVirtualUnwind(UNW_FLAG_NHANDLER, base, rip, entry, context, &mut data, &mut establisher, null_mut());
        }
    }
}

thread_local! {
    /// Stack pointer of `calltable_test_marked`, while it runs.
    static MARKED_STACK: Cell<u64> = const { Cell::new(0) };
    /// Instructions stepped, and addresses from which unwinding went wrong, with how.
    static STEPS: Cell<usize> = const { Cell::new(0) };
    static WRONG: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs before each instruction under the trap flag.
unsafe extern "system" fn on_step(pointers: *mut EXCEPTION_POINTERS) -> i32 {
    // SAFETY: Windows passes the record and the context of the interrupted code.
    let (record, context) = unsafe { (&*(*pointers).ExceptionRecord, &mut *(*pointers).ContextRecord) };
    if record.ExceptionCode != EXCEPTION_SINGLE_STEP {
        return 0;
    }
    let back = (&raw const calltable_test_marked_return).addr() as u64;
    if context.Rip == back {
        context.EFlags &= !0x100;
        return -1;
    }
    STEPS.set(STEPS.get() + 1);
    let mut at = Aligned(*context);
    // Handler, lane, dispatcher, entry: a few frames.
    for _ in 0..8 {
        // SAFETY: the interrupted code runs on this thread.
        unsafe { unwind(&mut at) };
        if at.0.Rip == back {
            break;
        }
    }
    if let Some(what) = differs(&at.0, back) {
        WRONG.with_borrow_mut(|text| writeln!(text, "from {:#x}: {what}", context.Rip).unwrap());
    }
    context.EFlags |= 0x100;
    -1
}

/// What is not as `calltable_test_marked` left it.
fn differs(context: &CONTEXT, back: u64) -> Option<String> {
    let general = [
        ("rip", context.Rip, back),
        ("rsp", context.Rsp, MARKED_STACK.get()),
        ("rbx", context.Rbx, 0x33),
        ("rbp", context.Rbp, 0x55),
        ("rsi", context.Rsi, 0x66),
        ("rdi", context.Rdi, 0x77),
        ("r12", context.R12, 0xcc),
        ("r13", context.R13, 0xdd),
        ("r14", context.R14, 0xee),
        ("r15", context.R15, 0xff),
    ];
    if let Some((name, found, want)) = general.into_iter().find(|(_, found, want)| found != want) {
        return Some(format!("{name} is {found:#x}, not {want:#x}"));
    }
    // SAFETY: both views of the floating-point state are plain numbers.
    let xmm: &[M128A; 16] = unsafe { &context.Anonymous.FltSave.XmmRegisters };
    (6..16).find_map(|number| {
        let want = 0x100 + 0x11 * number as u64;
        (xmm[number].Low != want || xmm[number].High as u64 != want)
            .then(|| format!("xmm{number} is {:#x}, not {want:#x}", xmm[number].Low))
    })
}

/// Steps through one call; returns the number of instructions.
fn step_through(way: &str, code: *const c_void) -> usize {
    STEPS.set(0);
    WRONG.take();
    // SAFETY: the vectored handler only looks; the code takes any arguments.
    unsafe {
        let handle = AddVectoredExceptionHandler(1, Some(on_step));
        MARKED_STACK.with(|stack| calltable_test_marked(code, stack.as_ptr()));
        RemoveVectoredExceptionHandler(handle);
    }
    let wrong = WRONG.take();
    assert!(wrong.is_empty(), "{way}: unwinding goes wrong\n{wrong}");
    STEPS.get()
}

#[test]
fn rtl_virtual_unwind_from_every_instruction_of_a_call() {
    for (way, binding) in ways() {
        let steps = step_through(way, Registered::new(&binding).code().as_ptr());
        println!("{way}: {steps} instructions");
        assert!(steps > 20, "{way}: only {steps} instructions were seen");
    }
}

#[test]
fn a_call_leaves_registers_as_the_convention_promises() {
    for (way, binding) in ways() {
        let mut after = After::default();
        // SAFETY: the registration lives, and takes any arguments.
        unsafe { calltable_test_after(Registered::new(&binding).code().cast(), 1, &mut after) };
        after.check(&format!("{way}: {after:x?}"));
    }
}

#[test]
fn rtl_lookup_function_entry_finds_the_whole_table() {
    let registered = Registered::new(&ways()[0].1);
    const STRIDE: u64 = ENTRY_STRIDE as u64;
    let first = registered.code().as_ptr().addr() as u64 - STRIDE * registered.0.index() as u64;
    // SAFETY: null stands for the program itself.
    let image = unsafe { GetModuleHandleW(null()) }.addr() as u64;
    for address in first..first + STRIDE * CAPACITY as u64 {
        let entry = address - (address - first) % STRIDE;
        assert_eq!(function_at(address), Some((entry, image)), "at {:#x} of the table", address - first);
    }
}

/// Return addresses on the stack of this thread, innermost first.
fn backtrace() -> Vec<u64> {
    let mut frames = [null_mut(); 62];
    // SAFETY: there is room for that many.
    let count = unsafe { RtlCaptureStackBackTrace(0, 62, frames.as_mut_ptr(), null_mut()) };
    frames[..usize::from(count)].iter().map(|frame| frame.addr() as u64).collect()
}

static FRAMES: Mutex<Vec<u64>> = Mutex::new(Vec::new());

unsafe extern "win64" fn capture_direct(value: i64, _data: *mut c_void) -> i64 {
    *FRAMES.lock().unwrap() = backtrace();
    value
}

unsafe extern "efiapi" fn capture_frame(_data: *mut c_void, _frame: *mut RawFrame) {
    *FRAMES.lock().unwrap() = backtrace();
}

#[inline(never)]
fn call_from_c(code: *const c_void, level: &str) {
    // SAFETY: that is the type of `nest`; the code pointer serves what it calls.
    unsafe {
        let nest: unsafe extern "C" fn(*const c_void, isize) -> isize = function(&format!("nest_win64_{level}"));
        nest(code, 1);
    }
    std::hint::black_box(level);
}

#[test]
fn a_stack_trace_from_a_handler_reaches_the_start_of_the_thread() {
    let signature = Signature::new(Convention::Win64, &[Type::I64], None).unwrap();
    // SAFETY: the handlers take any data.
    let (direct, four, frame) = unsafe {
        (
            Binding::direct(Convention::Win64, capture_direct as *const c_void, 1, null_mut()),
            Binding::direct(Convention::Win64, capture_direct as *const c_void, 4, null_mut()),
            Binding::frame(capture_frame, &signature, null_mut()),
        )
    };
    for binding in
        [direct, direct.saving(), direct.tracked(), four.exclusive(), frame, frame.saving(), frame.exclusive()]
    {
        for level in LEVELS {
            let registered = Registered::new(&binding);
            let entry = registered.code().as_ptr().addr() as u64;
            call_from_c(registered.code().as_ptr(), level);
            let frames = std::mem::take(&mut *FRAMES.lock().unwrap());
            let functions: Vec<_> = frames.iter().map(|frame| function_at(*frame)).collect();
            let shown = format!("{frames:x?} {functions:x?}");
            let at =
                frames.iter().position(|frame| (entry..entry + ENTRY_STRIDE as u64).contains(frame)).expect(&shown);
            assert_eq!(frames[at], entry + ENTRY_RETURN as u64, "returns after the CALL of the entry");
            let (table, image) = functions[at].expect(&shown);
            let (below, its_image) = functions[at - 1].expect("a handler, or a dispatcher, has unwind data");
            assert!(below != table && its_image == image, "{shown}");
            assert_eq!(functions[at + 1].expect(&shown).1, c_side::module() as u64, "the C caller: {shown}");
            let caller = function_at(call_from_c as *const () as u64);
            assert_eq!(functions[at + 2], caller, "the test's own function: {shown}");
            // SAFETY: the name ends in a zero.
            let kernel = unsafe { GetModuleHandleW(w!("kernel32.dll")) }.addr() as u64;
            assert!(functions.iter().flatten().any(|(_, base)| *base == kernel), "the thread's start: {shown}");
        }
    }
}

/// What a C compiler makes of `__try` and `__except` around the foreign call.
#[test]
fn except_around_the_call_catches_what_a_handler_raises() {
    for level in LEVELS {
        for (name, code) in
            [("raising_handler", 0xe0ca_11ab_u32 as i32), ("faulting_handler", EXCEPTION_ACCESS_VIOLATION)]
        {
            // SAFETY: only the address is used; the handler serves one argument and null data by raising.
            let binding = unsafe {
                let handler = function::<*const c_void>(&format!("{name}_win64_{level}"));
                Binding::direct(Convention::Win64, handler, 1, null_mut())
            };
            for binding in [binding, binding.saving()] {
                let registered = Registered::new(&binding);
                for _ in 0..100 {
                    let mut caught = false;
                    CODE.set(0);
                    // SAFETY: the registration lives.
                    unsafe { calltable_test_guarded(registered.code().as_ptr(), &mut caught) };
                    assert_eq!((caught, CODE.get()), (true, code), "{name}_{level}");
                }
            }
        }
    }
    // A counted call that is left in this way is not running any more: an exclusive one can be called again.
    unsafe extern "win64-unwind" fn raise(_: usize, _: usize, _: usize, _: usize, _: *mut c_void) {
        // SAFETY: somebody takes it; nothing here has to be dropped.
        unsafe { RaiseException(0xe0ca_11ab, 0, 0, null()) };
    }
    for positions in [4, 5] {
        // SAFETY: the handler looks at none of its arguments.
        let binding = unsafe { Binding::direct(Convention::Win64, raise as *const c_void, positions, null_mut()) };
        for binding in [binding.tracked(), binding.exclusive()] {
            let registered = Registered::new(&binding);
            for _ in 0..100 {
                let mut caught = false;
                CODE.set(0);
                // SAFETY: the registration lives.
                unsafe { calltable_test_guarded(registered.code().as_ptr(), &mut caught) };
                assert_eq!((caught, CODE.get()), (true, 0xe0ca_11ab_u32 as i32), "{binding:?}");
                let live = table::live_slot(registered.0.index()).unwrap();
                assert_eq!(live.in_flight, Some(0), "{binding:?}");
            }
        }
    }
    let value = 5_i64;
    // SAFETY: the handler reads the value, which lives.
    let binding = unsafe {
        let data = (&raw const value).cast_mut().cast();
        Binding::direct(Convention::Win64, function::<*const c_void>("faulting_handler_win64_O2"), 1, data)
    };
    let mut caught = false;
    // SAFETY: the registration lives.
    let result = unsafe { calltable_test_guarded(Registered::new(&binding).code().as_ptr(), &mut caught) };
    assert_eq!((result, caught), (0x1234 + 5, false), "nothing was raised");
}
