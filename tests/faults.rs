//! Foreign callers that leave the processor in a state that they should not, and handlers that do not return or turn on
//! their own slot: the lines of `docs/faults.md` that no other test shows.
#![cfg(any(target_os = "linux", windows))]

use std::arch::asm;
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::{LazyLock, Mutex, MutexGuard};

use calltable::table::{self, Binding, CAPACITY, SlotKey};
use calltable::{
    Callback, Convention, Error, NotReleased, RawFrame, ReleaseError, Signature, StaleCall, StaleHandler, StaleReason,
    Type,
};

/// They fill the table and set the stale handler: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

type Direct2 = unsafe extern "efiapi" fn(usize, usize, *mut c_void) -> usize;
type Direct6 = unsafe extern "efiapi" fn(usize, usize, usize, usize, usize, usize, *mut c_void) -> usize;

/// A registration in each lane and with each option that needs no exceptions, all with the same data. Those that follow
/// have the full save.
fn every_lane(few: Direct2, many: Direct6, frame: table::FrameHandler, data: *mut c_void) -> [Binding; 8] {
    static SIGNATURE: LazyLock<Signature> =
        LazyLock::new(|| Signature::new(Convention::C, &[Type::USIZE; 6], Some(Type::USIZE)).unwrap());
    // SAFETY: the handlers are of those types, and take the data.
    unsafe {
        let few = Binding::direct(Convention::C, few as *const c_void, 2, data);
        let many = Binding::direct(Convention::C, many as *const c_void, 6, data);
        let frame = Binding::frame(frame, &SIGNATURE, data);
        [
            few,
            many,
            frame,
            few.tracked(),
            many.exclusive(),
            few.saving(),
            many.saving_control_words(),
            frame.saving_control_words().tracked(),
        ]
    }
}
const FULL_SAVE: std::ops::Range<usize> = 5..8;

/// What a foreign caller does to the processor, and finds after the call; what the handler sees.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    mmx: u64,
    mxcsr: u32,
    /// By how much the stack pointer is lower than it may be.
    misaligned: usize,
    flags: usize,
    /// As `fnstenv` gives it before the next MMX instruction; nothing that a caller sets.
    x87: [u32; 7],
}

impl State {
    /// Whether no x87 register is empty: two bits for each, 3 for an empty one.
    fn is_mmx(&self) -> bool {
        (0..8).all(|register| self.x87[2] >> (2 * register) & 3 != 3)
    }
}

const DIRECTION_FLAG: usize = 1 << 10;
/// All exceptions masked; rounds to nearest, as every thread does at first.
const MXCSR: u32 = 0x1f80;
const MXCSR_CONTROL: u32 = 0xffc0;

/// Calls with that state, and returns the result.
fn call(code: *const c_void, state: &mut State) -> usize {
    let result;
    // SAFETY: the handlers take six numbers, or fewer; what is changed is set back, but for what `clobber_abi` names.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "mov r12, rsp", "sub rsp, 128", "sub rsp, r14",
            "ldmxcsr [r13 + 8]", "movq mm0, [r13]", "push qword ptr [r13 + 24]", "popfq",
            "call rax",
            "pushfq", "cld", "pop qword ptr [r13 + 24]", "fnstenv [r13 + 32]", "movq [r13], mm0", "emms",
            "stmxcsr [r13 + 8]",
            "mov rsp, r12", "push {standard}", "ldmxcsr [rsp]", "pop rcx",
            standard = const MXCSR, inout("rax") code => result, in("r13") &raw mut *state,
            in("r14") state.misaligned, out("r12") _, clobber_abi("win64"),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "x86")]
    unsafe {
        asm!(
            "mov ebx, esp", "sub esp, 128", "sub esp, ecx",
            "ldmxcsr [edi + 8]", "movq mm0, [edi]", "push dword ptr [edi + 16]", "popfd",
            "call eax",
            "pushfd", "cld", "pop dword ptr [edi + 16]", "fnstenv [edi + 20]", "movq [edi], mm0", "emms",
            "stmxcsr [edi + 8]",
            "mov esp, ebx", "push {standard}", "ldmxcsr [esp]", "pop ecx",
            standard = const MXCSR, inout("eax") code => result, in("edi") &raw mut *state,
            in("ecx") state.misaligned, out("ebx") _, clobber_abi("C"),
        );
    }
    result
}

// Handlers for each lane that note the state in the data, and return its address. Rust's would save registers where a
// wrong stack pointer makes that fault. i686 Windows has an underscore before each name.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl faults_few, faults_many, faults_frame",
    "faults_frame:",
    "mov [rdx], rcx",
    "mov rax, rcx",
    "jmp 1f",
    "faults_many:",
    "mov rax, [rsp + 56]",
    "jmp 1f",
    "faults_few:",
    "mov rax, r8",
    "1: pushfq",
    "pop qword ptr [rax + 24]",
    "stmxcsr [rax + 8]",
    "fnstenv [rax + 32]",
    "movq [rax], mm0",
    "ret",
);
#[cfg(target_arch = "x86")]
std::arch::global_asm!(
    ".globl faults_few, faults_many, faults_frame, _faults_few, _faults_many, _faults_frame",
    "faults_frame: _faults_frame:",
    "mov eax, [esp + 4]",
    "mov edx, [esp + 8]",
    "mov [edx], eax",
    "jmp 1f",
    "faults_many: _faults_many:",
    "mov eax, [esp + 28]",
    "jmp 1f",
    "faults_few: _faults_few:",
    "mov eax, [esp + 12]",
    "1: pushfd",
    "pop dword ptr [eax + 16]",
    "stmxcsr [eax + 8]",
    "fnstenv [eax + 20]",
    "movq [eax], mm0",
    "ret",
);

unsafe extern "efiapi" {
    fn faults_few(_: usize, _: usize, data: *mut c_void) -> usize;
    fn faults_many(_: usize, _: usize, _: usize, _: usize, _: usize, _: usize, data: *mut c_void) -> usize;
    fn faults_frame(data: *mut c_void, frame: *mut RawFrame);
}

#[test]
fn dispatchers_work_in_whatever_state_the_foreign_caller_leaves_the_processor() {
    let _alone = alone();
    let usual = State { mxcsr: MXCSR, flags: 2, ..State::default() };
    // Rounds up, denormal numbers are zero; on i686 a stack pointer is a multiple of 4.
    let unusual = State { mxcsr: 0xdfc0, mmx: 0x0123_4567_89ab_cdef, flags: 2 | DIRECTION_FLAG, ..usual };
    let step = if cfg!(target_arch = "x86") { 4 } else { 1 };
    let misaligned = (0..16).step_by(step).map(|misaligned| State { misaligned, ..usual });
    for before in misaligned.chain([unusual, State { misaligned: 8, ..unusual }]) {
        let mut seen = State::default();
        let data = (&raw mut seen).cast();
        for (index, binding) in every_lane(faults_few, faults_many, faults_frame, data).iter().enumerate() {
            let slot = table::register(binding).unwrap();
            let mut after = before;
            assert_eq!(call(slot.code().as_ptr(), &mut after), data.addr(), "{binding:?}, {before:?}");
            table::release(slot).unwrap();
            let df = if FULL_SAVE.contains(&index) { 0 } else { before.flags & DIRECTION_FLAG };
            for state in [after, seen] {
                assert_eq!(state.flags & DIRECTION_FLAG, df, "{binding:?}, {before:?}: {state:?}");
                assert_eq!(state.mxcsr & MXCSR_CONTROL, before.mxcsr & MXCSR_CONTROL, "{binding:?}: {state:?}");
                assert!(state.mmx == before.mmx && state.is_mmx(), "{binding:?}: {state:?}");
            }
        }
    }
}

/// Upper halves of the YMM registers are nobody's by the convention: the caller may leave anything there.
#[cfg(target_arch = "x86_64")]
#[test]
fn upper_halves_of_ymm_registers_are_what_the_handler_leaves() {
    if !std::is_x86_feature_detected!("avx") {
        println!("this processor has none");
        return;
    }
    let _alone = alone();
    let before: [[u64; 4]; 16] = std::array::from_fn(|register| [register as u64 + 0x00c0_ffee; 4]);
    let mut seen = State::default();
    let data = (&raw mut seen).cast();
    for binding in every_lane(faults_few, faults_many, faults_frame, data) {
        let slot = table::register(&binding).unwrap();
        let mut after = [[0; 4]; 16];
        let result: usize;
        // SAFETY: as in `call`; the processor has the registers.
        unsafe {
            asm!(
                ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                "vmovdqu ymm\\n, ymmword ptr [r12 + 32 * \\n]",
                ".endr",
                "sub rsp, 64", "call rax", "add rsp, 64",
                ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                "vmovdqu ymmword ptr [r13 + 32 * \\n], ymm\\n",
                ".endr",
                "vzeroupper",
                inout("rax") slot.code().as_ptr() => result, in("r12") &before, in("r13") &mut after,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _, clobber_abi("win64"),
            );
        }
        table::release(slot).unwrap();
        assert_eq!(result, data.addr());
        for (register, (before, after)) in before.iter().zip(&after).enumerate() {
            assert_eq!(after[2..], before[2..], "YMM{register}, {binding:?}");
            assert!(register < 6 || after == before, "XMM{register}, {binding:?}");
        }
    }
}

/// A handler that jumps out of its call as `longjmp` does. On Windows, where that unwinds, `tests/windows` has it.
#[cfg(target_os = "linux")]
mod jump {
    use super::*;

    /// Stack pointer, place to go to, frame pointer, base register of position-independent code.
    pub type Buffer = [usize; 4];

    /// Calls an entry; comes back by the handler's jump.
    pub fn call_to_jump(code: *const c_void, buffer: *mut Buffer) {
        // SAFETY: the handler continues after the call; registers are lost as said below, or brought back by the jump.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            asm!(
                "mov [r8], rsp", "lea r9, [rip + 2f]", "mov [r8 + 8], r9", "mov [r8 + 16], rbp", "mov [r8 + 24], rbx",
                "sub rsp, 64", "call rax", "ud2", "2:",
                in("rax") code, in("r8") buffer, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                out("rdi") _, out("rsi") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _,
                out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _, clobber_abi("win64"),
            );
        }
        // SAFETY: as above.
        #[cfg(target_arch = "x86")]
        unsafe {
            asm!(
                "mov [edx], esp", "call 3f", "jmp 2f", "3:", "pop ecx", "mov [edx + 4], ecx", "mov [edx + 8], ebp",
                "mov [edx + 12], esi",
                "sub esp, 64", "call eax", "ud2", "2:",
                in("eax") code, in("edx") buffer, out("ebx") _, out("edi") _, clobber_abi("C"),
            );
        }
    }

    /// # Safety
    /// The call that filled the buffer must run.
    pub unsafe fn jump(buffer: *mut Buffer) -> ! {
        // SAFETY: by the caller's promise; no frame in between holds anything.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!(
                "mov rsp, [rax]", "mov rbp, [rax + 16]", "mov rbx, [rax + 24]", "jmp qword ptr [rax + 8]",
                in("rax") buffer, options(noreturn)
            );
            #[cfg(target_arch = "x86")]
            asm!(
                "mov esp, [eax]", "mov ebp, [eax + 8]", "mov esi, [eax + 12]", "jmp dword ptr [eax + 4]",
                in("eax") buffer, options(noreturn)
            );
        }
    }
}

thread_local! {
    static STALE: Cell<Option<StaleReason>> = const { Cell::new(None) };
}

fn set_stale_handler(handler: Option<StaleHandler>) {
    // SAFETY: every callback of this program returns a number or nothing.
    unsafe { calltable::set_stale_handler(handler).unwrap() };
}

fn on_stale(call: &mut StaleCall<'_>) {
    STALE.set(Some(call.reason));
}

/// Calls; returns why the call was stale, if it was.
fn why_stale(code: *const c_void) -> Option<StaleReason> {
    STALE.set(None);
    call(code, &mut State { mxcsr: MXCSR, flags: 2, ..State::default() });
    STALE.take()
}

/// What is left when a call has never returned.
#[cfg(target_os = "linux")]
fn assert_left(key: SlotKey, index: usize) {
    let counted = table::live_slot(key.index()).unwrap().in_flight;
    match counted {
        None => assert_eq!(table::release(key), Ok(()), "{index}"),
        Some(running) => {
            assert_eq!(running, 1, "{index}");
            let NotReleased { handle, error } = table::try_release(key).unwrap_err();
            assert_eq!(error, ReleaseError::InFlight, "{index}");
            assert_eq!(why_stale(handle.code().as_ptr()), Some(StaleReason::Released), "{index}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_handler_that_jumps_out_leaves_nothing_but_its_count() {
    unsafe extern "efiapi" fn few(_: usize, _: usize, data: *mut c_void) -> usize {
        // SAFETY: the test's call has filled the buffer; so below.
        unsafe { jump::jump(data.cast()) }
    }
    unsafe extern "efiapi" fn many(
        _: usize,
        _: usize,
        _: usize,
        _: usize,
        _: usize,
        _: usize,
        data: *mut c_void,
    ) -> usize {
        // SAFETY: as above.
        unsafe { jump::jump(data.cast()) }
    }
    unsafe extern "efiapi" fn frame(data: *mut c_void, _: *mut RawFrame) {
        // SAFETY: as above.
        unsafe { jump::jump(data.cast()) }
    }
    let _alone = alone();
    set_stale_handler(Some(on_stale));
    let mut buffer = [0; 4];
    let at = &raw mut buffer;
    for (index, binding) in every_lane(few, many, frame, at.cast()).iter().enumerate() {
        let slot = table::register(binding).unwrap();
        jump::call_to_jump(slot.code().as_ptr(), at);
        if table::live_slot(slot.index()).unwrap().in_flight.is_none() {
            (0..1000).for_each(|_| jump::call_to_jump(slot.code().as_ptr(), at));
        }
        assert_left(slot, index);
    }
    // An exclusive one is running for ever.
    let slot = table::register(&every_lane(few, many, frame, at.cast())[4]).unwrap();
    jump::call_to_jump(slot.code().as_ptr(), at);
    assert_eq!(why_stale(slot.code().as_ptr()), Some(StaleReason::Running));
    set_stale_handler(None);
}

thread_local! {
    /// The key of the slot whose handler this thread calls.
    static OWN: Cell<Option<SlotKey>> = const { Cell::new(None) };
    static TRIED: Cell<Option<Result<(), NotReleased<SlotKey>>>> = const { Cell::new(None) };
}

#[test]
fn a_handler_may_release_its_own_slot() {
    fn try_release(data: *mut c_void) -> usize {
        TRIED.set(OWN.take().map(table::try_release));
        data.addr()
    }
    unsafe extern "efiapi" fn few(_: usize, _: usize, data: *mut c_void) -> usize {
        try_release(data)
    }
    unsafe extern "efiapi" fn many(
        _: usize,
        _: usize,
        _: usize,
        _: usize,
        _: usize,
        _: usize,
        data: *mut c_void,
    ) -> usize {
        try_release(data)
    }
    unsafe extern "efiapi" fn frame(data: *mut c_void, frame: *mut RawFrame) {
        // SAFETY: the dispatcher's frame.
        unsafe { (*frame).result[0] = try_release(data) as _ };
    }
    let _alone = alone();
    set_stale_handler(Some(on_stale));
    for binding in every_lane(few, many, frame, std::ptr::without_provenance_mut(0xda7a)) {
        let key = table::register(&binding).unwrap();
        let slot = key.slot();
        let is_counted = table::live_slot(slot.index()).unwrap().in_flight.is_some();
        OWN.set(Some(key));
        let mut state = State { mxcsr: MXCSR, flags: 2, ..State::default() };
        assert_eq!(call(slot.code().as_ptr(), &mut state), 0xda7a, "{binding:?}");
        let not_released = TRIED.take().unwrap().err();
        let error = not_released.as_ref().map(|not_released| not_released.error);
        assert_eq!(error, is_counted.then_some(ReleaseError::InFlight), "{binding:?}");
        assert_eq!(why_stale(slot.code().as_ptr()), Some(StaleReason::Released), "{binding:?}");
        // For good when the call has ended.
        not_released.into_iter().for_each(|not_released| table::release(not_released.handle).unwrap());
        // SAFETY: it has been released, so that this key is of no use.
        let again = table::release(unsafe { slot.key() });
        assert_eq!(again.unwrap_err().error, ReleaseError::NotLive, "{binding:?}");
    }
    set_stale_handler(None);
}

#[test]
fn a_handler_may_fill_the_table() {
    let _alone = alone();
    let fill = |_: usize| {
        let data = std::ptr::null_mut();
        // SAFETY: never called.
        let filler = unsafe { Binding::direct(Convention::C, faults_few as *const c_void, 2, data) };
        let mut taken = Vec::new();
        let error = loop {
            match table::register(&filler) {
                Ok(slot) => taken.push(slot),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::TableFull { .. }));
        assert_eq!(table::live_count(), CAPACITY);
        taken.into_iter().for_each(|slot| table::release(slot).unwrap());
        table::live_count()
    };
    let callback = Callback::<unsafe extern "efiapi" fn(usize) -> usize>::from_ref(&fill).unwrap();
    // SAFETY: it lives.
    let (live, again) = unsafe { (callback.code()(0), callback.code()(0)) };
    assert_eq!(live, again);
}

/// `pthread_exit` unwinds the stack, and finds its way through table and dispatchers.
#[cfg(target_os = "linux")]
#[test]
fn a_thread_that_ends_in_a_handler_leaves_nothing() {
    #[cfg(target_arch = "x86_64")]
    type Handler = unsafe extern "win64-unwind" fn(*mut c_void);
    #[cfg(target_arch = "x86")]
    type Handler = unsafe extern "C-unwind" fn(*mut c_void);
    macro_rules! handler {
        ($convention:literal) => {{
            unsafe extern $convention fn handler(data: *mut c_void) {
                unsafe extern "C-unwind" {
                    fn pthread_exit(result: *mut c_void) -> !;
                }
                // SAFETY: nothing in the frames of this thread has to be dropped.
                unsafe { pthread_exit(data) }
            }
            handler
        }};
    }
    #[cfg(target_arch = "x86_64")]
    let handler: Handler = handler!("win64-unwind");
    #[cfg(target_arch = "x86")]
    let handler: Handler = handler!("C-unwind");
    unsafe extern "C-unwind" fn start(code: *mut c_void) -> *mut c_void {
        // SAFETY: the test passes an entry whose handler takes nothing but its data.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            std::mem::transmute::<*mut c_void, unsafe extern "win64-unwind" fn()>(code)();
            #[cfg(target_arch = "x86")]
            std::mem::transmute::<*mut c_void, unsafe extern "C-unwind" fn()>(code)();
        }
        code
    }
    let _alone = alone();
    set_stale_handler(Some(on_stale));
    let data = std::ptr::without_provenance_mut(0xda7a);
    // SAFETY: the handler takes any data.
    let plain = unsafe { Binding::direct(Convention::C, handler as *const c_void, 0, data) };
    for binding in [plain, plain.saving(), plain.tracked(), plain.exclusive(), plain.saving().exclusive()] {
        let slot = table::register(&binding).unwrap();
        // SAFETY: the thread has ended when this is over; unwinding passes `start`, which is C to its caller.
        unsafe {
            let start: extern "C" fn(*mut c_void) -> *mut c_void = std::mem::transmute(start as *const c_void);
            let (mut thread, mut result) = (0, std::ptr::null_mut());
            let code = slot.code().as_ptr().cast_mut();
            assert_eq!(libc::pthread_create(&mut thread, std::ptr::null(), start, code), 0);
            assert_eq!(libc::pthread_join(thread, &mut result), 0);
            assert_eq!(result, data);
        }
        assert_eq!(table::live_slot(slot.index()).unwrap().in_flight.unwrap_or(0), 0, "{binding:?}");
        table::release(slot).unwrap();
    }
    set_stale_handler(None);
}
