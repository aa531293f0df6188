//! Structured exception handling on bare machines: FS (i686), GS (x86_64) or TPIDR_EL1 (AArch64) leads to a block of
//! the processor's, and the processor's faults become exceptions that the chain is asked about.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::hint::black_box;
use core::ptr::{null_mut, without_provenance, without_provenance_mut};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

#[cfg(floats)]
use calltable::Dynamic;
use calltable::seh::{self, CHAIN_END, ChainError, ExceptionRecord, Record, ThreadBlock, Verdict};
use calltable::table::{self, Binding};
use calltable::{Callback, Contained, Convention, Error, Options, RawFrame, Signature, Type};

use crate::machine::{TRAP_BYTES, fault_address};
use crate::traps::{DIVIDE, Fault, Frame, INVALID_OPCODE, PAGE_FAULT, PROTECTION, catch};

/// What of a thread information block is used.
#[repr(C)]
struct Tib {
    block: ThreadBlock,
    #[cfg(target_arch = "x86")]
    unused: [usize; 3],
    this: *mut Self,
}

/// Where `this` is.
const THIS: usize = 24;
const _: () = assert!(core::mem::offset_of!(Tib, this) == THIS);

/// One for each processor.
struct Blocks(UnsafeCell<[Tib; 2]>);

// SAFETY: each processor writes its own.
unsafe impl Sync for Blocks {}

static BLOCKS: Blocks = Blocks(UnsafeCell::new(
    [const {
        Tib {
            block: ThreadBlock { head: CHAIN_END, stack_base: 0, stack_limit: 0 },
            #[cfg(target_arch = "x86")]
            unused: [0; 3],
            this: null_mut(),
        }
    }; 2],
));

unsafe extern "C" {
    #[cfg(target_arch = "x86")]
    static mut gdt: [u64; 6];
    static stack: u8;
    static stack_end: u8;
    static ap_stack: u8;
    static ap_stack_end: u8;
}

/// Has FS, GS or TPIDR_EL1 of this processor lead to its block.
pub fn set_block(processor: usize) {
    let limits = [(&raw const stack, &raw const stack_end), (&raw const ap_stack, &raw const ap_stack_end)];
    let (limit, base) = limits[processor];
    // SAFETY: this processor's block and descriptor or register; nothing else uses them.
    unsafe {
        let tib = BLOCKS.0.get().cast::<Tib>().add(processor);
        (*tib).block.stack_base = base.addr();
        (*tib).block.stack_limit = limit.addr();
        (*tib).this = tib;
        let address = tib.addr() as u64;
        #[cfg(target_arch = "x86")]
        {
            /// In the descriptor table of start.S.
            const FIRST: usize = 4;
            let descriptor = (&raw mut gdt).cast::<u64>().add(FIRST + processor);
            *descriptor |= (address & 0xff_ffff) << 16 | (address >> 24) << 56;
            asm!("mov fs, {0:e}", in(reg) 8 * (FIRST + processor), options(nostack, preserves_flags));
        }
        #[cfg(target_arch = "x86_64")]
        asm!(
            "wrmsr",
            in("ecx") 0xc000_0101_u32, // IA32_GS_BASE
            in("eax") address as u32,
            in("edx") (address >> 32) as u32,
            options(nostack, preserves_flags),
        );
        #[cfg(target_arch = "aarch64")]
        asm!("msr tpidr_el1, {}", in(reg) address, options(nostack, preserves_flags));
    }
}

/// This processor's block. It wrecks what a function may: the dispatcher that asks has to keep it.
unsafe extern "efiapi" fn block() -> *mut ThreadBlock {
    let block;
    // SAFETY: registers that nobody relies on after a call.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("", inout("rcx") -1_isize => _, inout("rdx") -1_isize => _, inout("r8") -1_isize => _,
            inout("r9") -1_isize => _, inout("r10") -1_isize => _, inout("r11") -1_isize => _);
        #[cfg(floats)]
        asm!("pcmpeqd xmm0, xmm0", "pcmpeqd xmm1, xmm1", "pcmpeqd xmm2, xmm2", "pcmpeqd xmm3, xmm3",
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _);
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(".irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17", "mov x\\number, #-1", ".endr",
            out("x0") _, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _, out("x6") _, out("x7") _,
            out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
            out("x15") _, out("x16") _, out("x17") _);
        #[cfg(floats)]
        asm!(".irp number, 0, 1, 2, 3, 4, 5, 6, 7", "movi v\\number\\().16b, #0x66", ".endr",
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _);
    }
    // SAFETY: FS, GS or TPIDR_EL1 leads to one.
    unsafe {
        #[cfg(target_arch = "aarch64")]
        asm!("mrs {}, tpidr_el1", out(reg) block, options(nostack, nomem, preserves_flags));
        #[cfg(target_arch = "x86")]
        asm!("mov {}, fs:[{}]", out(reg) block, const THIS, options(nostack, readonly, preserves_flags));
        #[cfg(target_arch = "x86_64")]
        asm!("mov {}, gs:[{}]", out(reg) block, const THIS, options(nostack, readonly, preserves_flags));
    }
    block
}

/// From now on there is a chain.
pub fn declare() -> Result<(), Error> {
    set_block(0);
    // SAFETY: FS, GS or TPIDR_EL1 leads to a block, and the second processor sets its own before it calls anything.
    unsafe {
        #[cfg(target_arch = "x86")]
        let declared = seh::declare();
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        let declared = seh::declare(block);
        declared
    }
}

pub fn head() -> *mut Record {
    // SAFETY: this processor's.
    unsafe { (*block()).head }
}

/// # Safety
/// The chain from there on must be one that may be walked.
pub unsafe fn set_head(head: *mut Record) {
    // SAFETY: as above.
    unsafe { (*block()).head = head };
}

/// Why the last walk ended early: the record, and which check it has failed.
static BAD_RECORD: AtomicPtr<Record> = AtomicPtr::new(null_mut());
static BAD_CHECK: AtomicUsize = AtomicUsize::new(0);

fn check(error: ChainError) -> (usize, *const Record) {
    match error {
        ChainError::Unaligned(record) => (1, record),
        ChainError::OutsideStack(record) => (2, record),
        ChainError::NotAscending(record) => (3, record),
        ChainError::BadHandler(record) => (4, record),
        other => panic!("{other}"),
    }
}

fn exception(frame: &Frame) -> Option<ExceptionRecord> {
    let (code, parameters) = match frame.number {
        DIVIDE => (seh::INTEGER_DIVISION_BY_ZERO, None),
        INVALID_OPCODE => (seh::ILLEGAL_INSTRUCTION, None),
        // As Windows has it: the address is not known.
        PROTECTION => (seh::ACCESS_VIOLATION, Some([0, usize::MAX])),
        PAGE_FAULT => (seh::ACCESS_VIOLATION, Some([frame.is_write().into(), fault_address()])),
        _ => return None,
    };
    let mut record = ExceptionRecord {
        code,
        flags: 0,
        nested: null_mut(),
        address: without_provenance_mut(frame.ip),
        parameter_count: if parameters.is_some() { 2 } else { 0 },
        parameters: [0; 15],
    };
    record.parameters[..2].copy_from_slice(&parameters.unwrap_or_default());
    Some(record)
}

/// Asks the chain about a fault. Returns whether what has faulted is to continue.
pub fn raise(frame: &mut Frame) -> bool {
    let Some(mut record) = exception(frame) else { return false };
    frame.admit_interrupts(); // as they were: if a filter ends it, there is no return from the trap
    // SAFETY: the traps run on the stack of what has faulted, whose chain this is.
    match unsafe { seh::dispatch(&mut record, (&raw mut *frame).cast()) } {
        Ok(goes_on) => goes_on,
        Err(error) => {
            let (which, bad) = check(error);
            BAD_RECORD.store(bad.cast_mut(), Ordering::SeqCst);
            BAD_CHECK.store(which, Ordering::SeqCst);
            false
        }
    }
}

/// Before the frames in from `target`'s are left: has their handlers tidy up.
pub fn unwind(frame: &Frame, target: *mut Record) {
    if let Some(mut record) = exception(frame) {
        // SAFETY: `catch` leaves all frames that have come since `target` was the first record.
        unsafe { seh::unwind(target, &mut record) };
    }
}

/// On i686 every frame of the dispatcher's has a record but those of plain handlers in the direct lane, elsewhere those
/// of contained and counted calls.
const EVERY_FRAME: bool = cfg!(target_arch = "x86");

#[cfg(target_arch = "x86")]
const CONVENTIONS: &[Convention] =
    &[Convention::Stdcall, Convention::Cdecl, Convention::Thiscall, Convention::Fastcall];
#[cfg(target_arch = "x86")]
type Unary = unsafe extern "stdcall" fn(i32) -> i64;
#[cfg(target_arch = "x86")]
type Binary<R> = unsafe extern "stdcall" fn(f64, i32) -> R;

#[cfg(target_arch = "x86_64")]
const CONVENTIONS: &[Convention] = &[Convention::Win64];
#[cfg(target_arch = "x86_64")]
type Unary = unsafe extern "win64" fn(i32) -> i64;
#[cfg(all(target_arch = "x86_64", floats))]
type Binary<R> = unsafe extern "win64" fn(f64, i32) -> R;

#[cfg(target_arch = "aarch64")]
const CONVENTIONS: &[Convention] = &[Convention::Aapcs64];
#[cfg(target_arch = "aarch64")]
type Unary = unsafe extern "C" fn(i32) -> i64;
#[cfg(all(target_arch = "aarch64", floats))]
type Binary<R> = unsafe extern "C" fn(f64, i32) -> R;

const CODES: [u32; 4] =
    [seh::ACCESS_VIOLATION, seh::INTEGER_DIVISION_BY_ZERO, seh::ILLEGAL_INSTRUCTION, seh::ACCESS_VIOLATION];

/// #PF, #DE, #UD, #GP, or what AArch64 has instead: a data abort, the BRK of a division by zero, an undefined
/// instruction, an instruction abort. From 5 on nothing.
pub fn fault(kind: i32) {
    // SAFETY: not at all; the faults are what is tested.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        match kind {
            1 => drop(black_box(without_provenance::<i32>(16)).read_volatile()),
            2 => asm!("brk #0xf004"), // "Overview of ARM64 ABI conventions", Microsoft
            3 => asm!("udf #0"),
            4 => asm!("br xzr"),
            _ => {}
        }
    }
    // SAFETY: as above.
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    unsafe {
        match kind {
            1 => drop(black_box(without_provenance::<i32>(16)).read_volatile()),
            2 => asm!("cdq", "idiv {:e}", in(reg) 0, inout("eax") 1 => _, out("edx") _),
            3 => asm!("ud2"),
            4 => asm!("mov gs, {:e}", in(reg) 0x7ff8), // beyond the descriptor table
            _ => {}
        }
    }
}

/// The records of this processor's chain, innermost first, and how many.
fn chain() -> ([usize; 8], usize) {
    let (mut records, mut count) = ([0; 8], 0);
    // SAFETY: FS, GS or TPIDR_EL1 leads to a block.
    for record in unsafe { seh::chain() } {
        match record {
            Ok(record) => records[count] = record.expose_provenance(),
            Err(error) => panic!("{error}"),
        }
        count += 1;
    }
    (records, count)
}

fn in_flight(slot: calltable::table::SlotId) -> Option<u32> {
    table::live_slot(slot.index()).and_then(|entry| entry.in_flight)
}

pub fn record_while_running() {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "efiapi" fn frame(_: *mut c_void, _: *mut RawFrame) {
        let (records, count) = chain();
        let here = 0_u8;
        let is_close = |record: &usize| record.abs_diff((&raw const here).addr()) < 0x1000;
        assert!(records[..count].iter().all(is_close), "in this stack, close by");
        COUNT.store(count, Ordering::SeqCst);
    }
    assert_eq!(head(), CHAIN_END);
    for &convention in CONVENTIONS {
        let Ok(signature) = Signature::new(convention, &[], None) else { panic!("signature") };
        // SAFETY: the handler takes any data.
        let plain = unsafe { Binding::frame(frame, &signature, null_mut()) };
        for (is_counted, binding) in [
            (false, plain),
            (false, plain.saving()),
            (true, plain.tracked()),
            (true, plain.exclusive().saving_control_words()),
        ] {
            let slot = table::register(&binding).expect("a slot");
            // SAFETY: it lives; without arguments all conventions are the same.
            unsafe { slot.code().cast::<unsafe extern "efiapi" fn()>()() };
            assert_eq!(table::release(slot), Ok(()));
            assert_eq!(head(), CHAIN_END, "{binding:?}");
            let expected = usize::from(EVERY_FRAME || is_counted);
            assert_eq!(COUNT.swap(0, Ordering::SeqCst), expected, "{binding:?}");
        }
    }
    // Records of nested calls, seen from the innermost.
    static SLOTS: [AtomicUsize; 3] = [const { AtomicUsize::new(usize::MAX) }; 3];
    let mut innermost = |_: i32| {
        let (records, count) = chain();
        assert!(records[..count].is_sorted(), "further out, further up: {records:x?}");
        for (place, record) in SLOTS.iter().zip(records) {
            // SAFETY: the records are still there.
            let slot = unsafe { seh::slot_of(core::ptr::with_exposed_provenance(record)) };
            place.store(slot.unwrap_or(usize::MAX), Ordering::SeqCst);
        }
        count as i64
    };
    let first = Callback::<Unary>::from_mut(&mut innermost).expect("a slot");
    // SAFETY: they live.
    let middle = |kind: i32| unsafe { first.code()(kind) };
    let second = Callback::<unsafe extern "efiapi" fn(i32) -> i64>::from_ref_with(Options::new().tracked(), &middle);
    let second = second.expect("a slot");
    // SAFETY: as above.
    let outermost = Contained::new(|kind: i32| unsafe { second.code()(kind) }, |_| None);
    // SAFETY: nothing faults.
    let third = unsafe { Callback::<Unary>::from_contained(&outermost).expect("a slot") };
    // SAFETY: as above.
    assert_eq!(unsafe { third.code()(1) }, 3);
    let expected = [first.slot(), second.slot(), third.slot()].map(|slot| slot.index());
    assert_eq!(SLOTS.each_ref().map(|slot| slot.load(Ordering::SeqCst)), expected);
    assert_eq!(head(), CHAIN_END);
}

pub fn left_on_the_chain() {
    let mut closure = || {
        let mut record = Record { next: null_mut(), handler: None };
        // SAFETY: it goes with the dispatcher's record, and nobody walks the chain meanwhile.
        unsafe { seh::push(black_box(&raw mut record)) };
    };
    let callback = Callback::<unsafe extern "efiapi" fn()>::from_mut(&mut closure).expect("a slot");
    // SAFETY: it lives.
    unsafe { callback.code()() };
    assert_eq!(head(), CHAIN_END);
}

pub fn contained() {
    static PLACE: AtomicUsize = AtomicUsize::new(0);
    let handler = Contained::new(
        |kind: i32| {
            let here = 0_u8;
            PLACE.store(black_box(&raw const here).addr(), Ordering::SeqCst);
            fault(kind);
            i64::from(kind) << 32
        },
        |exception| Some(i64::from(exception.code()) << 8),
    );
    // SAFETY: when the closure faults it holds nothing that must be dropped.
    let callback =
        unsafe { Callback::<Unary>::from_contained_with(Options::new().tracked(), &handler).expect("a slot") };
    let mut first = 0;
    for round in 0..10_000 {
        let kind = round % 5;
        // SAFETY: it lives.
        let result = unsafe { callback.code()(kind) };
        let code = CODES.get((kind as usize).wrapping_sub(1)).map(|code| i64::from(*code) << 8);
        assert_eq!(result, code.unwrap_or(i64::from(kind) << 32));
        assert_eq!(head(), CHAIN_END);
        assert_eq!(in_flight(callback.slot()), Some(0));
        let place = PLACE.load(Ordering::SeqCst);
        if round == 0 {
            first = place;
        }
        assert_eq!(place, first, "the stack moves");
    }
}

/// Results of every shape, which a dynamic policy makes from the arguments.
#[cfg(floats)]
pub fn results() {
    for result in [Type::I64, Type::F64, Type::Struct { size: 12 }] {
        let types = [Type::F64, Type::I32];
        let Ok(signature) = Signature::new(CONVENTIONS[0], &types, Some(result)) else { panic!("signature") };
        let handler = Dynamic::new(signature, |_| fault(4)).contained(move |_, frame| {
            let (Ok(a), Ok(b)) = (frame.get::<f64>(0), frame.get::<i32>(1)) else { panic!("arguments") };
            let sum = a + f64::from(b);
            let set = match result {
                Type::I64 => frame.set_result(sum as i64),
                Type::F64 => frame.set_result(sum),
                _ => frame.result_bytes().map(|bytes| bytes[..8].copy_from_slice(&sum.to_le_bytes())),
            };
            assert_eq!(set, Ok(()));
            Verdict::RETURN
        });
        // SAFETY: when the closure faults it holds nothing that must be dropped.
        let callback = unsafe { Callback::from_contained_dynamic(&handler).expect("a slot") };
        let code = callback.code();
        for _ in 0..20 {
            // SAFETY: those are the signatures.
            unsafe {
                match result {
                    Type::I64 => assert_eq!(code.cast::<Binary<i64>>()(1.5, 3), 4),
                    Type::F64 => assert_eq!(code.cast::<Binary<f64>>()(1.5, 3), 4.5),
                    _ => {
                        let words = code.cast::<Binary<[u32; 3]>>()(1.5, 3);
                        let sum = f64::from_bits(u64::from(words[1]) << 32 | u64::from(words[0]));
                        assert_eq!((sum, words[2]), (4.5, 0));
                    }
                }
            }
        }
    }
}

/// The data of the handlers below.
#[repr(C)]
struct Faulty {
    filter: seh::ExceptionFilter,
    kind: i32,
}

/// Ends every exception, with its code for a result.
unsafe extern "efiapi" fn answer_code(
    _: *mut c_void,
    exception: *const seh::Exception,
    outcome: *mut seh::Outcome,
) -> Verdict {
    // SAFETY: `dispatch` passes both.
    unsafe { (*outcome).frame.result[0] = (*exception).code() as _ };
    Verdict::RETURN
}

unsafe extern "efiapi" fn direct(value: isize, data: *const Faulty) -> isize {
    // SAFETY: the data is such.
    fault(unsafe { (*data).kind });
    value
}

unsafe extern "efiapi" fn many(a: isize, _: isize, _: isize, _: isize, _: isize, data: *const Faulty) -> isize {
    // SAFETY: as above.
    fault(unsafe { (*data).kind });
    a
}

unsafe extern "efiapi" fn frame(data: *mut c_void, frame: *mut RawFrame) {
    // SAFETY: as above; the dispatcher passes its frame.
    unsafe {
        fault((*data.cast::<Faulty>()).kind);
        (*frame).result[0] = 5;
    }
}

unsafe extern "C" fn foreign(data: *mut c_void, raw: *mut RawFrame) {
    // SAFETY: as above.
    unsafe { frame(data, raw) };
}

pub fn every_lane() {
    let Ok(signature) = Signature::new(Convention::C, &[Type::ISIZE; 5], Some(Type::ISIZE)) else {
        panic!("signature")
    };
    for kind in 0..=4 {
        let mut data = Faulty { filter: answer_code, kind };
        let data = (&raw mut data).cast::<c_void>();
        // SAFETY: the handlers take these arguments and that data, which begins with its filter.
        let ways = unsafe {
            let direct = Binding::direct(Convention::C, direct as *const c_void, 1, data).contained();
            let many = Binding::direct(Convention::C, many as *const c_void, 5, data).contained();
            let frame = Binding::frame(frame, &signature, data).contained();
            let foreign = Binding::frame_foreign(foreign as *const c_void, &signature, data).contained();
            [
                direct,
                direct.saving(),
                direct.tracked(),
                many,
                many.saving_control_words(),
                many.exclusive().saving(),
                frame,
                frame.exclusive(),
                foreign,
                foreign.tracked(),
                foreign.saving_control_words(),
            ]
        };
        for binding in ways {
            let slot = table::register(&binding).expect("a slot");
            type Five = unsafe extern "efiapi" fn(isize, isize, isize, isize, isize) -> isize;
            for _ in 0..2 {
                // SAFETY: it lives; handlers of one argument do not look at the others.
                let result = unsafe { slot.code().cast::<Five>()(5, 6, 7, 8, 9) };
                let expected = (kind as usize).checked_sub(1).map_or(5, |kind| CODES[kind]);
                assert_eq!((result as u32, head()), (expected, CHAIN_END), "{kind}, {binding:?}");
                assert_eq!(in_flight(slot.slot()).unwrap_or(0), 0, "{kind}, {binding:?}");
            }
            assert_eq!(table::release(slot), Ok(()));
        }
    }
}

pub fn passing() {
    let inner = Contained::new(
        |kind: i32| {
            fault(kind);
            0
        },
        |_| None,
    );
    // SAFETY: when the closure faults, neither it nor those further out hold anything that must be dropped.
    let inner = unsafe { Callback::<Unary>::from_contained_with(Options::new().tracked(), &inner).expect("a slot") };
    // SAFETY: it lives.
    let middle = |kind: i32| unsafe { inner.code()(kind) };
    let middle = Callback::<Unary>::from_ref_with(Options::new().tracked(), &middle).expect("a slot");
    let outer = Contained::new(
        // SAFETY: as above.
        |kind: i32| unsafe { middle.code()(kind) },
        |exception| Some(-i64::from(exception.code())),
    );
    // SAFETY: as above.
    let outer = unsafe { Callback::<Unary>::from_contained(&outer).expect("a slot") };
    for round in 0..400 {
        let kind = round % 4 + 1;
        // SAFETY: as above.
        assert_eq!(unsafe { outer.code()(kind) }, -i64::from(CODES[kind as usize - 1]));
        assert_eq!((in_flight(inner.slot()), in_flight(middle.slot()), head()), (Some(0), Some(0), CHAIN_END));
    }
}

pub fn passing_out() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let inner = Contained::new(
        |kind: i32| {
            fault(kind);
            0
        },
        |_| {
            ASKED.fetch_add(1, Ordering::SeqCst);
            None
        },
    );
    // SAFETY: when the closure faults, neither it nor those further out hold anything that must be dropped.
    let inner = unsafe { Callback::<Unary>::from_contained_with(Options::new().tracked(), &inner).expect("a slot") };
    // SAFETY: it lives.
    let outer = |kind: i32| unsafe { inner.code()(kind) };
    let outer = Callback::<Unary>::from_ref_with(Options::new().tracked(), &outer).expect("a slot");
    for round in 0..40 {
        let kind = round % 4 + 1;
        let ended = catch(|| {
            // SAFETY: as above.
            unsafe { outer.code()(kind) };
        });
        let number = [PAGE_FAULT, DIVIDE, INVALID_OPCODE, PROTECTION][kind as usize - 1];
        assert!(matches!(ended, Err(Fault { number: got, .. }) if got == number), "{ended:?}, not {number}");
        assert_eq!((in_flight(inner.slot()), in_flight(outer.slot()), head()), (Some(0), Some(0), CHAIN_END));
    }
    assert_eq!(ASKED.load(Ordering::SeqCst), 40);
}

pub fn mended() {
    unsafe extern "efiapi" fn filter(
        _: *mut c_void,
        exception: *const seh::Exception,
        _: *mut seh::Outcome,
    ) -> Verdict {
        // SAFETY: `raise` passes the exception and, as its context, the trap's frame.
        unsafe {
            assert_eq!((*exception).code(), seh::ILLEGAL_INSTRUCTION);
            let frame = (*exception).context().cast::<Frame>();
            assert_eq!((*exception).address().addr(), (*frame).ip);
            (*frame).ip += TRAP_BYTES;
        }
        Verdict::CONTINUE
    }
    unsafe extern "efiapi" fn traps_twice(value: isize, _: *mut c_void) -> isize {
        fault(3);
        fault(3);
        value + 1
    }
    static FILTER: seh::ExceptionFilter = filter;
    let data = (&raw const FILTER).cast_mut().cast();
    // SAFETY: it takes one word and its data, which begins with a filter.
    let binding = unsafe { Binding::direct(Convention::C, traps_twice as *const c_void, 1, data).contained() };
    let slot = table::register(&binding).expect("a slot");
    for value in 0..100 {
        // SAFETY: it lives, and this is its type.
        let result = unsafe { slot.code().cast::<unsafe extern "efiapi" fn(isize) -> isize>()(value) };
        assert_eq!((result, head()), (value + 1, CHAIN_END));
    }
    assert_eq!(table::release(slot), Ok(()));
}

/// Which handlers were asked, and with which flags, four bits each: number, then flags. Or how many were.
static ORDER: AtomicU64 = AtomicU64::new(0);

/// A record whose handler writes its number down.
#[repr(C)]
struct Numbered {
    record: Record,
    number: usize,
}

unsafe extern "C" fn number(
    exception: *mut ExceptionRecord,
    record: *mut Record,
    _: *mut c_void,
    _: *mut c_void,
) -> i32 {
    // SAFETY: only records in a `Numbered` have this handler.
    let (number, flags) = unsafe { ((*record.cast::<Numbered>()).number as u64, u64::from((*exception).flags)) };
    let order = ORDER.load(Ordering::SeqCst);
    ORDER.store(order << 8 | number << 4 | flags, Ordering::SeqCst);
    1
}

fn with_record(index: usize, run: impl FnOnce() -> i64) -> i64 {
    let mut numbered = Numbered { record: Record { next: CHAIN_END, handler: Some(number) }, number: index };
    let record = black_box(&raw mut numbered).cast::<Record>();
    // SAFETY: it is taken off below, or with the frames when they are unwound.
    unsafe { seh::push(record) };
    let result = run();
    // SAFETY: it is the first one again.
    unsafe { seh::pop(record) };
    result
}

pub fn unwound_in_order() {
    let inner = |kind: i32| {
        with_record(3, || {
            fault(kind);
            0
        })
    };
    let inner = Callback::<Unary>::from_ref_with(Options::new().tracked(), &inner).expect("a slot");
    // SAFETY: it lives.
    let middle = |kind: i32| with_record(2, || unsafe { inner.code()(kind) });
    let middle = Callback::<Unary>::from_ref_with(Options::new().tracked(), &middle).expect("a slot");
    let outer = Contained::new(
        // SAFETY: as above.
        |kind: i32| with_record(1, || unsafe { middle.code()(kind) }),
        |_| Some(5),
    );
    // SAFETY: records have no destructor, and nothing else on the way here must be dropped.
    let outer = unsafe { Callback::<Unary>::from_contained(&outer).expect("a slot") };
    for kind in 1..=4 {
        ORDER.store(0, Ordering::SeqCst);
        // Outside of all of them: nobody asks or unwinds it.
        // SAFETY: as above.
        let result = with_record(9, || unsafe { outer.code()(kind) });
        // First all are asked, from the inside outwards, then all are unwound (flag 2) in that order.
        let order = ORDER.load(Ordering::SeqCst);
        assert_eq!((result, order), (5, 0x3020_1032_2212), "{order:x}");
        assert_eq!((in_flight(inner.slot()), in_flight(middle.slot()), head()), (Some(0), Some(0), CHAIN_END));
    }
}

pub fn corrupt() {
    let on_stack = black_box([0x90_u8; 4]);
    // SAFETY: never called.
    let on_stack = unsafe { core::mem::transmute::<*const u8, seh::RecordHandler>(on_stack.as_ptr()) };
    let mut records = [const { Record { next: CHAIN_END, handler: Some(pass) } }; 3];
    let [low, high, bad] = records.each_mut().map(|record| &raw mut *record);
    static mut OUTSIDE: Record = Record { next: CHAIN_END, handler: Some(pass) };
    unsafe extern "C" fn pass(_: *mut ExceptionRecord, _: *mut Record, _: *mut c_void, _: *mut c_void) -> i32 {
        ORDER.fetch_add(1, Ordering::SeqCst);
        1
    }
    /// A fault with that chain: how many handlers were asked, and why the walk ended.
    fn walk(first: *mut Record) -> (u64, usize, *mut Record) {
        ORDER.store(0, Ordering::SeqCst);
        BAD_CHECK.store(0, Ordering::SeqCst);
        BAD_RECORD.store(null_mut(), Ordering::SeqCst);
        // SAFETY: the walk is what is tested; `catch` puts the head back.
        let ended = catch(|| unsafe {
            set_head(first);
            fault(3);
        });
        assert!(matches!(ended, Err(Fault { number: INVALID_OPCODE, .. })), "{ended:?}");
        assert_eq!(head(), CHAIN_END);
        (ORDER.load(Ordering::SeqCst), BAD_CHECK.load(Ordering::SeqCst), BAD_RECORD.load(Ordering::SeqCst))
    }
    let outside = &raw mut OUTSIDE;
    // SAFETY: writes to the records above.
    unsafe {
        (*low).next = high;
        assert_eq!(walk(low), (2 + 2, 0, null_mut()), "asked and unwound");
        assert_eq!(walk(low.byte_add(2)), (0, 1, low.byte_add(2)), "misaligned");
        (*low).next = outside;
        assert_eq!(walk(low), (1 + 1, 2, outside), "outside of the stack");
        assert_eq!(walk(null_mut()), (0, 2, null_mut()), "nowhere");
        (*high).next = low;
        assert_eq!(walk(high), (1 + 1, 3, low), "descending");
        (*high).next = high;
        assert_eq!(walk(high), (1 + 1, 3, high), "a loop");
        (*high).next = bad;
        (*bad).handler = Some(on_stack);
        assert_eq!(walk(high), (1 + 1, 4, bad), "a handler in the stack");
        (*bad).handler = None;
        assert_eq!(walk(high), (1 + 1, 4, bad), "no handler");
    }
    // A corrupt chain inside of a callback, too: the fault passes out, and what can be reached is unwound.
    let closure = |_: i32| {
        // SAFETY: as in `walk`.
        unsafe { set_head(without_provenance_mut(3)) };
        fault(1);
        0
    };
    let callback = Callback::<Unary>::from_ref(&closure).expect("a slot");
    let ended = catch(|| {
        // SAFETY: it lives.
        unsafe { callback.code()(0) };
    });
    assert!(matches!(ended, Err(Fault { number: PAGE_FAULT, .. })), "{ended:?}");
    assert_eq!((head(), BAD_CHECK.load(Ordering::SeqCst)), (CHAIN_END, 1));
}
