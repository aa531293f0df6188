//! Exceptions without Windows: a block of each thread that the test itself declares, and signals that the test turns
//! into exceptions, as a host of Windows code does.
#![cfg(target_os = "linux")]

#[path = "seh/moments.rs"]
mod moments;
#[allow(dead_code, reason = "the others are run where nothing is declared")]
#[cfg_attr(target_arch = "x86_64", path = "registers/x86_64.rs")]
#[cfg_attr(target_arch = "x86", path = "registers/x86.rs")]
#[cfg_attr(target_arch = "aarch64", path = "registers/aarch64.rs")]
mod registers;
#[path = "seh/signals.rs"]
mod signals;
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[path = "seh/x86.rs"]
mod x86;

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::hint::black_box;
use std::ptr::{null_mut, without_provenance};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use calltable::seh::{
    self, CHAIN_END, ChainError, Exception, ExceptionFilter, ExceptionRecord, Outcome, Record, Verdict,
};
use calltable::table::{self, Binding, SlotId, SlotKey};
use calltable::{
    Callback, CodePointer, Contained, Convention, Dynamic, Frame, Options, RawFrame, ReleaseError, Signature,
    StaleCall, StaleHandler, StaleReason, Type,
};

use signals::{block, declare, raise};

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
#[cfg(target_arch = "x86")]
type Passing = unsafe extern "stdcall-unwind" fn(i32) -> i64;
#[cfg(target_arch = "x86_64")]
type Passing = unsafe extern "win64-unwind" fn(i32) -> i64;
#[cfg(target_arch = "aarch64")]
type Passing = unsafe extern "C-unwind" fn(i32) -> i64;

#[cfg(target_pointer_width = "64")]
const CONVENTIONS: &[Convention] = &[Convention::C];
#[cfg(target_pointer_width = "64")]
type Unary = unsafe extern "efiapi" fn(i32) -> i64;
#[cfg(target_pointer_width = "64")]
type Binary<R> = unsafe extern "efiapi" fn(f64, i32) -> R;

/// The assembly keeps what it sees in static memory.
static SERIAL: Mutex<()> = Mutex::new(());

/// The records of this thread's chain.
fn chain() -> Vec<usize> {
    // SAFETY: this thread has declared its block.
    unsafe { seh::chain() }.map(|record| record.unwrap().addr()).collect()
}

fn head() -> usize {
    // SAFETY: as above.
    unsafe { (*block()).head.addr() }
}

/// The slots whose calls have records, innermost first.
fn slots() -> Vec<Option<usize>> {
    // SAFETY: as above; nothing is taken off meanwhile.
    unsafe { seh::chain().map(|record| seh::slot_of(record.unwrap())).collect() }
}

#[test]
fn the_record_is_first_while_a_handler_runs_and_gone_after_it() {
    thread_local! {
        static SEEN: RefCell<Vec<Vec<usize>>> = const { RefCell::new(Vec::new()) };
    }
    unsafe extern "efiapi" fn frame(_: *mut c_void, _: *mut RawFrame) {
        SEEN.with_borrow_mut(|seen| seen.push(chain()));
    }
    declare();
    let empty = head();
    assert_eq!(empty, CHAIN_END.addr());
    for &convention in CONVENTIONS {
        let signature = Signature::new(convention, &[], None).unwrap();
        // SAFETY: the handler takes any data.
        let plain = unsafe { Binding::frame(frame, &signature, null_mut()) };
        for (is_counted, binding) in [
            (false, plain),
            (false, plain.saving()),
            (true, plain.tracked()),
            (true, plain.exclusive().saving_control_words()),
        ] {
            let slot = table::register(&binding).unwrap();
            // SAFETY: it lives; without arguments all conventions are the same.
            unsafe { slot.code().cast::<unsafe extern "efiapi" fn()>()() };
            table::release(slot).unwrap();
            assert_eq!(head(), empty, "{binding:?}");
            let [during] = SEEN.take().try_into().unwrap();
            assert_eq!(during.len(), usize::from(EVERY_FRAME || is_counted), "{binding:?}");
            let here = 0_u8;
            assert!(during.iter().all(|at| at.abs_diff((&raw const here).addr()) < 0x1_0000), "in this stack");
        }
    }
    // Records of nested calls, seen from the innermost.
    let found = Mutex::new(Vec::new());
    let mut innermost = |_: i32| {
        SEEN.with_borrow_mut(|seen| seen.push(chain()));
        *found.lock().unwrap() = slots();
        0
    };
    let first = Callback::<Unary>::from_mut(&mut innermost).unwrap();
    // SAFETY: they live.
    let middle = |kind: i32| unsafe { first.code()(kind) };
    let second = Callback::<unsafe extern "efiapi" fn(i32) -> i64>::from_ref_with(Options::new().tracked(), &middle);
    let second = second.unwrap();
    // SAFETY: as above.
    let outermost = Contained::new(|kind: i32| unsafe { second.code()(kind) }, |_| None);
    // SAFETY: nothing faults.
    let third = unsafe { Callback::<Unary>::from_contained(&outermost).unwrap() };
    // SAFETY: as above.
    unsafe { third.code()(1) };
    let seen = SEEN.take();
    assert_eq!(seen[0].len(), 3);
    assert!(seen[0].is_sorted(), "further out, further up: {seen:x?}");
    let slots = [first.slot(), second.slot(), third.slot()];
    assert_eq!(*found.lock().unwrap(), slots.map(|slot| Some(slot.index())));
    assert_eq!(head(), empty);
}

#[test]
fn what_a_handler_leaves_on_the_chain_goes_with_its_record() {
    declare();
    let mut closure = || {
        // SAFETY: the stack outlives the record, which goes with the dispatcher's.
        unsafe { seh::push(Box::leak(Box::new(Record { next: null_mut(), handler: None }))) };
    };
    let callback = Callback::<unsafe extern "efiapi" fn()>::from_mut(&mut closure).unwrap();
    // SAFETY: it lives.
    unsafe { callback.code()() };
    assert_eq!(head(), CHAIN_END.addr());
}

/// A panic asks no filter: it is nothing that the embedder has reported.
#[test]
fn what_a_panic_passes_leaves_no_record_and_is_not_counted() {
    declare();
    let empty = head();
    let records = AtomicUsize::new(0);
    let dropped = AtomicUsize::new(0);
    struct Part<'a>(&'a AtomicUsize);
    impl Drop for Part<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let serve = |kind: i32| {
        let _part = Part(&dropped);
        records.store(chain().len(), Ordering::Relaxed);
        if kind < 0 {
            std::panic::resume_unwind(Box::new(kind));
        }
        i64::from(kind)
    };
    /// With nothing to drop, and never inlined: see docs/limits.md.
    #[inline(never)]
    fn plain(code: Passing, kind: i32) -> i64 {
        // SAFETY: it lives.
        unsafe { code(kind) }
    }
    let asked = |_: &Exception| -> Option<i64> { std::process::abort() };
    let mut alone = serve;
    let mut exclusive = Contained::new(serve, asked);
    let shared = Contained::new(serve, asked);
    let (tracked, framed) = (Options::new().tracked(), Options::new().framed());
    // SAFETY: no exception ends within the closures.
    let ways = unsafe {
        [
            (1, Callback::<Passing>::from_mut(&mut alone).unwrap().untyped()),
            (1, Callback::<Passing>::from_ref_with(tracked, &serve).unwrap().untyped()),
            (usize::from(EVERY_FRAME), Callback::<Passing>::from_ref_with(framed, &serve).unwrap().untyped()),
            (1, Callback::<Passing>::from_contained(&shared).unwrap().untyped()),
            (
                if EVERY_FRAME { 1 } else { 2 },
                Callback::<Passing>::from_contained_mut(&mut exclusive).unwrap().untyped(),
            ),
        ]
    };
    for (expected, callback) in ways {
        // SAFETY: that is its type.
        let code = unsafe { callback.code().cast::<Passing>() };
        for round in 1..100 {
            let call = |kind| std::panic::catch_unwind(|| plain(code, kind));
            assert_eq!(call(-round).unwrap_err().downcast_ref(), Some(&-round));
            assert_eq!(head(), empty, "a record is left");
            assert_eq!(records.load(Ordering::Relaxed), expected);
            assert_idle(callback.slot());
            assert_eq!(call(round).unwrap(), i64::from(round));
            assert_eq!(head(), empty);
        }
    }
    assert_eq!(dropped.load(Ordering::Relaxed), 5 * 2 * 99);
}

/// That no call of a slot is counted as running. If one is, releases would wait for ever, so this does not panic.
fn assert_idle(slot: SlotId) {
    let entry = table::live_slot(slot.index()).unwrap();
    if entry.in_flight.unwrap_or(0) != 0 {
        eprintln!("calls are counted that do not run: {entry:?}");
        std::process::abort();
    }
}

fn fault(kind: i32) {
    // SAFETY: not at all; the signals are what is tested.
    unsafe {
        match kind {
            1 => drop(black_box(without_provenance::<i32>(16).read_volatile())),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            2 => std::arch::asm!("cdq", "idiv {:e}", in(reg) 0, inout("eax") 1 => _, out("edx") _),
            #[cfg(target_arch = "aarch64")]
            2 => std::arch::asm!("brk #0xf004"), // what compilers for Windows have in place of a division by zero
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            3 => std::arch::asm!("ud2"),
            #[cfg(target_arch = "aarch64")]
            3 => std::arch::asm!("udf #0"),
            _ => {}
        }
    }
}

/// Bytes of the instruction that is no instruction.
const INVALID_INSTRUCTION: i64 = if cfg!(target_arch = "aarch64") { 4 } else { 2 };

#[test]
fn faults_end_in_a_policy_a_hundred_thousand_times() {
    declare();
    let place = AtomicUsize::new(0);
    let handler = Contained::new(
        |kind: i32| {
            let here = 0_u8;
            place.store(black_box(&raw const here).addr(), Ordering::Relaxed);
            fault(kind);
            i64::from(kind) << 32
        },
        |exception| Some(i64::from(exception.code()) << 8),
    );
    // SAFETY: when the closure faults it holds nothing that must be dropped.
    let callback = unsafe { Callback::<Unary>::from_contained_with(Options::new().tracked(), &handler).unwrap() };
    let codes = [seh::ACCESS_VIOLATION, seh::INTEGER_DIVISION_BY_ZERO, seh::ILLEGAL_INSTRUCTION];
    let mut first = 0;
    for round in 0..100_000 {
        let kind = round % 4;
        // SAFETY: it lives.
        let result = unsafe { callback.code()(kind) };
        let code = kind.checked_sub(1).and_then(|at| codes.get(at as usize)).map(|code| i64::from(*code) << 8);
        assert_eq!(result, code.unwrap_or(i64::from(kind) << 32));
        assert_eq!(head(), CHAIN_END.addr());
        if round == 0 {
            first = place.load(Ordering::Relaxed);
        }
        assert_eq!(place.load(Ordering::Relaxed), first, "the stack moves");
    }
}

#[test]
fn after_a_fault_every_register_is_as_it_must_be() {
    let _serial = SERIAL.lock();
    declare();
    registers::after_a_fault();
}

/// The signal comes on a stack of its own, and the call continues with the one that was used up.
#[test]
fn a_stack_overflow_ends_in_a_policy_and_so_does_the_next() {
    fn descend(depth: usize) -> usize {
        let here = black_box([depth; 64]);
        if depth == usize::MAX { 0 } else { descend(depth + 1) + black_box(here)[0] }
    }
    declare();
    let handler = Contained::new(
        |_: i32| descend(0) as i64,
        |exception| (exception.code() == seh::ACCESS_VIOLATION).then_some(-7),
    );
    // SAFETY: the frames of `descend` hold numbers.
    let callback = unsafe { Callback::<Unary>::from_contained_with(Options::new().tracked(), &handler).unwrap() };
    for _ in 0..3 {
        // SAFETY: it lives.
        assert_eq!(unsafe { callback.code()(0) }, -7);
        assert_idle(callback.slot());
        assert_eq!(head(), CHAIN_END.addr());
    }
}

/// The data of a contained registration whose handler releases it.
#[repr(C)]
struct Data {
    filter: ExceptionFilter,
    key: Cell<Option<SlotKey>>,
}

#[test]
fn a_fault_ends_in_the_filter_even_if_its_slot_has_been_released_meanwhile() {
    unsafe extern "efiapi" fn release_and_fault(data: *const Data) -> usize {
        // SAFETY: the registration's data; so below.
        table::release(unsafe { (*data).key.take().unwrap() }).unwrap();
        fault(1);
        0
    }
    unsafe extern "efiapi" fn filter(data: *mut c_void, _: *const Exception, outcome: *mut Outcome) -> Verdict {
        // SAFETY: as above; the answer is that of the call.
        unsafe { (*outcome).frame.result[0] = data.addr() as _ };
        Verdict::RETURN
    }
    declare();
    let data = Data { filter, key: Cell::new(None) };
    let handler = release_and_fault as *const c_void;
    // SAFETY: the handler takes the data, which begins with a filter.
    let binding =
        unsafe { Binding::direct(Convention::C, handler, 0, (&raw const data).cast_mut().cast()).contained() };
    let key = table::register(&binding).unwrap();
    let slot = key.slot();
    data.key.set(Some(key));
    // SAFETY: the handler is of that type.
    assert_eq!(unsafe { slot.code().cast::<unsafe extern "efiapi" fn() -> usize>()() }, (&raw const data).addr());
    // SAFETY: the handler has released it, so that this key is of no use.
    assert_eq!(table::release(unsafe { slot.key() }).unwrap_err().error, ReleaseError::NotLive);
}

#[test]
fn a_contained_call_cannot_release_its_own_registration() {
    unsafe extern "efiapi" fn release(data: *const Data) -> usize {
        // SAFETY: the registration's data.
        let key = unsafe { &(*data).key };
        let refused = table::release(key.take().unwrap()).unwrap_err();
        key.set(Some(refused.handle));
        usize::from(refused.error == ReleaseError::OwnCall)
    }
    unsafe extern "efiapi" fn filter(_: *mut c_void, _: *const Exception, _: *mut Outcome) -> Verdict {
        Verdict::SEARCH_ON
    }
    declare();
    for option in [Binding::tracked, Binding::exclusive] {
        let data = Data { filter, key: Cell::new(None) };
        let address = (&raw const data).cast_mut().cast();
        // SAFETY: the handler takes the data, which begins with a filter.
        let binding = unsafe { Binding::direct(Convention::C, release as *const c_void, 0, address).contained() };
        for binding in [option(binding), option(binding.saving())] {
            let key = table::register(&binding).unwrap();
            let code = key.code();
            data.key.set(Some(key));
            // SAFETY: the handler is of that type.
            assert_eq!(unsafe { code.cast::<unsafe extern "efiapi" fn() -> usize>()() }, 1);
            table::release(data.key.take().unwrap()).unwrap();
        }
    }
}

#[test]
fn what_a_filter_names_to_make_the_result_is_called_with_the_arguments() {
    /// As a handler and as the function that makes the result.
    macro_rules! functions {
        ($abi:literal) => {
            type Code = unsafe extern $abi fn(f64, f64, f64, f64, i64, i64) -> f64;

            unsafe extern $abi fn faulty(_: f64, _: f64, _: f64, _: f64, _: i64, _: i64, _: *const c_void) -> f64 {
                fault(1);
                0.0
            }

            unsafe extern $abi fn make(a: f64, b: f64, c: f64, d: f64, e: i64, f: i64, room: *const f64) -> f64 {
                let whole = a * 1000.0 + b * 100.0 + c * 10.0 + d + (e * 100_000 + f * 10_000) as f64;
                // SAFETY: the filter has put it there.
                whole + unsafe { room.read_unaligned() }
            }
        };
    }
    #[cfg(target_pointer_width = "64")]
    functions!("efiapi");
    #[cfg(target_arch = "x86")]
    functions!("stdcall");
    unsafe extern "efiapi" fn filter(_: *mut c_void, _: *const Exception, outcome: *mut Outcome) -> Verdict {
        // SAFETY: the answer is that of the call.
        unsafe {
            (*outcome).handler = make as *const c_void;
            (&raw mut (*outcome).room).cast::<f64>().write_unaligned(0.5);
        }
        Verdict::RETURN
    }
    declare();
    let filter: ExceptionFilter = filter;
    // On AArch64 positions are those of integers, and words on the stack.
    let positions = if cfg!(target_arch = "aarch64") { 2 } else { 6 * size_of::<f64>() / size_of::<usize>() };
    let data = (&raw const filter).cast_mut().cast();
    // SAFETY: the handler takes these arguments and any data, which begins with a filter.
    let plain = unsafe { Binding::direct(CONVENTIONS[0], faulty as *const c_void, positions, data).contained() };
    for binding in [plain, plain.tracked(), plain.saving()] {
        let slot = table::register(&binding).unwrap();
        // SAFETY: that is its signature.
        assert_eq!(unsafe { slot.code().cast::<Code>()(1.0, 2.0, 3.0, 4.0, 6, 5) }, 651234.5);
        table::release(slot).unwrap();
    }
}

#[test]
fn what_makes_the_result_finds_it_whatever_the_parameters() {
    macro_rules! ends {
        ($($abi:literal)*; $arguments:tt) => { $(ends!(each $abi $arguments);)* };
        (each $abi:literal [$(($($argument:literal)*))*]) => {$({
            // As bindings have it.
            type Code = Option<unsafe extern $abi fn($(ends!(type $argument)),*) -> i64>;
            let handler = Contained::new(
                |$(_: ends!(type $argument)),*| {
                    fault(1);
                    0
                },
                |_| Some(0x12_3456_789a),
            );
            // SAFETY: when the closure faults it holds nothing that must be dropped.
            let callback = unsafe { Callback::<Code>::from_contained(&handler) }.unwrap();
            // SAFETY: it lives.
            assert_eq!(unsafe { callback.code().unwrap()($($argument),*) }, 0x12_3456_789a, "{}", stringify!($abi $($argument)*));
        })*};
        (type $argument:literal) => { i32 };
    }
    declare();
    #[cfg(target_pointer_width = "64")]
    ends!("efiapi"; [() (1) (1 2) (1 2 3) (1 2 3 4) (1 2 3 4 5) (1 2 3 4 5 6 7 8) (1 2 3 4 5 6 7 8 9)]);
    #[cfg(target_arch = "x86")]
    ends!("stdcall" "cdecl" "thiscall" "fastcall"; [() (1) (1 2) (1 2 3) (1 2 3 4)]);
}

#[test]
fn a_filter_sees_all_of_an_exception_and_may_have_the_handler_go_on() {
    const PLACES: [usize; 2] = [0x1230, 0x4560];
    unsafe extern "efiapi" fn raise_and_go_on(_: *mut c_void) -> usize {
        let [address, context] = PLACES.map(std::ptr::without_provenance_mut);
        let mut record =
            ExceptionRecord { code: 5, flags: 0, nested: null_mut(), address, parameter_count: 2, parameters: [7; 15] };
        // SAFETY: this thread has declared its block.
        usize::from(unsafe { seh::dispatch(&mut record, context).unwrap() })
    }
    unsafe extern "efiapi" fn filter(_: *mut c_void, exception: *const Exception, _: *mut Outcome) -> Verdict {
        // SAFETY: the exception's, while it is decided on.
        let exception = unsafe { &*exception };
        let places = [exception.address().addr(), exception.context().addr()];
        assert_eq!((exception.code(), exception.parameters(), places), (5, &[7; 2][..], PLACES));
        Verdict::CONTINUE
    }
    declare();
    let filter: ExceptionFilter = filter;
    let (handler, data) = (raise_and_go_on as *const c_void, (&raw const filter).cast_mut().cast());
    // SAFETY: the handler takes any data, which begins with a filter.
    let binding = unsafe { Binding::direct(Convention::C, handler, 0, data).contained() };
    let slot = table::register(&binding).unwrap();
    // SAFETY: the handler is of that type.
    assert_eq!(unsafe { slot.code().cast::<unsafe extern "efiapi" fn() -> usize>()() }, 1);
    table::release(slot).unwrap();
}

#[test]
fn the_trap_of_a_stale_call_ends_in_the_policy_of_who_made_it() {
    let _alone = STALE.lock().unwrap();
    declare();
    let closure = || 0;
    let released = Callback::<unsafe extern "efiapi" fn() -> i64>::from_ref(&closure).unwrap().code();
    let handler = Contained::new(
        // SAFETY: that this does no harm but raise an exception is what is tested.
        |_: i32| unsafe { released() },
        |exception| (exception.code() == seh::ILLEGAL_INSTRUCTION).then_some(-7),
    );
    // SAFETY: when the stale call traps, the closure holds nothing.
    let callback = unsafe { Callback::<Unary>::from_contained(&handler).unwrap() };
    // SAFETY: it lives. The slot just released is the last in the line of free ones.
    assert_eq!(unsafe { callback.code()(0) }, -7);
}

thread_local! {
    /// What the stale handler does for a call that is refused while another runs.
    static REFUSED: Cell<i32> = const { Cell::new(0) };
    static CODE: Cell<Option<CodePointer>> = const { Cell::new(None) };
    static AGAIN: Cell<Option<Unary>> = const { Cell::new(None) };
    static TIMES: Cell<usize> = const { Cell::new(0) };
    static SLOT: Cell<usize> = const { Cell::new(0) };
}

/// For the time that a test sets the stale handler, or wants that there is none.
static STALE: Mutex<()> = Mutex::new(());

fn set_stale_handler(handler: Option<StaleHandler>) {
    // SAFETY: every callback that may be refused returns a number.
    unsafe { calltable::set_stale_handler(handler).unwrap() };
}

fn refused(call: &mut StaleCall<'_>) {
    assert_eq!(call.reason, StaleReason::Running);
    fault(REFUSED.get());
    call.set_result(2.5_f64.to_bits());
}

#[test]
fn a_refused_call_leaves_the_chain_as_it_was_and_returns_what_the_stale_handler_does() {
    let _alone = STALE.lock().unwrap();
    declare();
    set_stale_handler(Some(refused));
    let signature = Signature::new(CONVENTIONS[0], &[Type::F64, Type::I32], Some(Type::F64)).unwrap();
    let mut calls = 0;
    let mut handler = Dynamic::new_mut(signature, |frame| {
        calls += 1;
        let before = chain();
        // SAFETY: it lives, and has that signature.
        let result = unsafe { CODE.get().unwrap().cast::<Binary<f64>>()(1.0, 2) };
        assert_eq!((result, chain()), (2.5, before));
        frame.set_result(result + 1.0).unwrap();
    });
    let callback = Callback::from_dynamic_mut(&mut handler).unwrap();
    CODE.set(Some(callback.code()));
    // SAFETY: as above.
    assert_eq!(unsafe { callback.code().cast::<Binary<f64>>()(1.0, 2) }, 3.5);
    drop(callback);
    set_stale_handler(None);
    assert_eq!((calls, head()), (1, CHAIN_END.addr()));
}

#[test]
fn an_exception_of_the_stale_handler_is_none_of_the_refused_registration() {
    let _alone = STALE.lock().unwrap();
    declare();
    set_stale_handler(Some(refused));
    #[inline(never)]
    fn clear_the_stack() {
        black_box([0_usize; 512]);
    }
    let mut runs = 0;
    let mut handler = Contained::new(
        |kind: i32| {
            runs += 1;
            clear_the_stack(); // where the dispatcher's locals will be
            // SAFETY: it lives, and has that signature.
            unsafe { AGAIN.get().unwrap()(kind) }
        },
        |exception| {
            TIMES.set(TIMES.get() + 1);
            (exception.code() == seh::ACCESS_VIOLATION).then_some(-7)
        },
    );
    // SAFETY: when the stale handler of the refused call faults, neither it nor the closure holds anything.
    let callback = unsafe { Callback::<Unary>::from_contained_mut(&mut handler).unwrap() };
    AGAIN.set(Some(callback.code()));
    REFUSED.set(1);
    for round in 1..=20 {
        // SAFETY: as above.
        assert_eq!(unsafe { callback.code()(0) }, -7);
        assert_eq!((TIMES.get(), head()), (round, CHAIN_END.addr()));
    }
    drop(callback);
    assert_eq!(runs, TIMES.get(), "the call from inside is refused: it does not run the closure");
    set_stale_handler(None);
}

#[test]
fn an_exception_that_ends_leaves_the_calls_further_out_alone() {
    declare();
    let inner = Contained::new(
        |kind: i32| {
            fault(kind);
            0
        },
        |_| Some(5),
    );
    // SAFETY: when the closure faults it holds nothing that must be dropped.
    let inner = unsafe { Callback::<Unary>::from_contained_with(Options::new().tracked(), &inner).unwrap() };
    let outer = Contained::new(
        |kind: i32| {
            let before = chain();
            // SAFETY: it lives.
            let result = unsafe { inner.code()(kind) };
            assert_eq!((result, chain()), (5, before));
            assert_eq!(table::live_slot(SLOT.get()).unwrap().in_flight, Some(1));
            fault(kind);
            0
        },
        |_| Some(6),
    );
    // SAFETY: as above: what it has compared is gone by then.
    let outer = unsafe { Callback::<Unary>::from_contained_with(Options::new().tracked(), &outer).unwrap() };
    SLOT.set(outer.slot().index());
    for kind in 1..=3 {
        // SAFETY: as above.
        assert_eq!(unsafe { outer.code()(kind) }, 6);
        assert_idle(outer.slot());
    }
}

#[test]
fn dynamic_policies_and_results_of_every_shape() {
    const BOTH_WORDS: i64 = 0x1_0000_0001;
    declare();
    let of_x87 = if cfg!(target_arch = "x86") { [Type::F80].as_slice() } else { &[] };
    for result in [Type::I64, Type::F32, Type::F64, Type::Struct { size: 72 }].iter().chain(of_x87).copied() {
        let signature = Signature::new(CONVENTIONS[0], &[Type::F64, Type::I32], Some(result)).unwrap();
        let handler = Dynamic::new(signature, |_| fault(1)).contained(move |_, frame| {
            let sum = frame.get::<f64>(0).unwrap() + f64::from(frame.get::<i32>(1).unwrap());
            match result {
                Type::I64 => frame.set_result(sum as i64 * BOTH_WORDS).unwrap(),
                Type::F32 => frame.set_result(sum as f32).unwrap(),
                Type::F64 => frame.set_result(sum).unwrap(),
                // 4.5, with the first digit, which a double leaves out.
                Type::F80 => frame.result_bytes().unwrap()[7..10].copy_from_slice(&[0x90, 0x01, 0x40]),
                _ => frame.result_bytes().unwrap()[..8].copy_from_slice(&sum.to_le_bytes()),
            }
            Verdict::RETURN
        });
        // SAFETY: when the closure faults it holds nothing that must be dropped.
        let callback = unsafe { Callback::from_contained_dynamic(&handler).unwrap() };
        // SAFETY: those are the signatures.
        unsafe {
            let code = callback.code();
            for _ in 0..20 {
                match result {
                    Type::I64 => assert_eq!(code.cast::<Binary<i64>>()(1.5, 3), 4 * BOTH_WORDS),
                    Type::F32 => assert_eq!(code.cast::<Binary<f32>>()(1.5, 3), 4.5),
                    Type::F64 | Type::F80 => assert_eq!(code.cast::<Binary<f64>>()(1.5, 3), 4.5),
                    _ => {
                        let [sum, rest @ ..] = code.cast::<Binary<[u64; 9]>>()(1.5, 3);
                        assert_eq!((f64::from_bits(sum), rest), (4.5, [0; 8]));
                    }
                }
            }
        }
    }
}

/// What a closure has written of a result in memory stays while its policy decides; who reads the result finds nothing
/// else than zeros beside it.
#[test]
fn a_result_in_memory_is_as_the_closure_left_it_or_zero() {
    type Result = [u64; 9];
    const RUBBISH: u64 = 0xcccc_cccc_cccc_cccc;
    /// Calls as for such a result: its address comes first and is returned, on AArch64 in X8.
    ///
    /// # Safety
    /// As for the call.
    unsafe fn call(code: CodePointer, at: *mut Result) -> *mut Result {
        // SAFETY: by the caller's promise.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            let at = code.cast::<unsafe extern "win64" fn(*mut Result, i32) -> *mut Result>()(at, 1);
            #[cfg(target_arch = "x86")]
            let at = code.cast::<unsafe extern "stdcall" fn(*mut Result, i32) -> *mut Result>()(at, 1);
            #[cfg(target_arch = "aarch64")]
            std::arch::asm!(
                "blr {}",
                in(reg) code.as_ptr(),
                in("x8") at,
                inout("x0") 1_usize => _,
                clobber_abi("C"),
            );
            at
        }
    }
    /// What the closure and then the policy do with the result.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Case {
        GoOn,
        GoOnUntouched,
        Return,
        ReturnTouched,
    }
    fn set(frame: &mut Frame<'_>, at: usize, value: u64) {
        frame.result_bytes().unwrap()[8 * at..][..8].copy_from_slice(&value.to_le_bytes());
    }
    declare();
    for (case, expected) in [
        (Case::GoOn, [7, 0, 8, 0, 0, 0, 0, 0, 0]),
        (Case::GoOnUntouched, [0, 0, 8, 0, 0, 0, 0, 0, 0]),
        (Case::Return, [0; 9]),
        (Case::ReturnTouched, [7, 9, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        let signature = Signature::new(CONVENTIONS[0], &[Type::I32], Some(Type::Struct { size: 72 })).unwrap();
        let handler = Dynamic::new(signature, |frame| {
            if case != Case::GoOnUntouched {
                set(frame, 0, 7);
            }
            fault(3);
            set(frame, 2, 8);
        })
        .contained(move |exception, frame| match case {
            Case::GoOn | Case::GoOnUntouched => {
                signals::skip(exception, INVALID_INSTRUCTION);
                Verdict::CONTINUE
            }
            Case::Return => Verdict::RETURN,
            Case::ReturnTouched => {
                set(frame, 1, 9);
                Verdict::RETURN
            }
        });
        // SAFETY: when the closure faults it holds nothing that must be dropped.
        let callback = unsafe { Callback::from_contained_dynamic(&handler).unwrap() };
        let mut result = [RUBBISH; 9];
        let at = &raw mut result;
        // SAFETY: a structure of that size is returned in memory.
        assert_eq!(unsafe { call(callback.code(), at) }, at, "{case:?}");
        assert_eq!(result, expected, "{case:?}");
        assert_eq!(head(), CHAIN_END.addr());
    }
}

/// In registers but on i686, which the function that finds the block wrecks, and then the fault's handler.
#[test]
fn floating_point_arguments_reach_handler_and_policy() {
    declare();
    #[cfg(target_pointer_width = "64")]
    type Four = unsafe extern "efiapi" fn(f64, f64, f64, f64) -> f64;
    #[cfg(target_arch = "x86")]
    type Four = unsafe extern "stdcall" fn(f64, f64, f64, f64) -> f64;
    let join = |a: f64, b: f64, c: f64, d: f64| a * 1000.0 + b * 100.0 + c * 10.0 + d;
    let counted = Callback::<Four>::from_ref_with(Options::new().tracked(), &join).unwrap();
    let signature = Signature::new(CONVENTIONS[0], &[Type::F64; 4], Some(Type::F64)).unwrap();
    let handler = Dynamic::new(signature, |_| fault(1)).contained(|_, frame| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| frame.get::<f64>(index).unwrap());
        frame.set_result(join(a, b, c, d)).unwrap();
        Verdict::RETURN
    });
    // SAFETY: when the closure faults it holds nothing that must be dropped.
    let contained = unsafe { Callback::from_contained_dynamic(&handler).unwrap() };
    // SAFETY: both live, and that is their signature.
    unsafe {
        assert_eq!(counted.code()(1.0, 2.0, 3.0, 4.0), 1234.0);
        assert_eq!(contained.code().cast::<Four>()(1.0, 2.0, 3.0, 4.0), 1234.0);
    }
}

#[test]
fn an_exception_that_passes_goes_outwards_and_ends_the_count() {
    declare();
    let inner = Contained::new(
        |kind: i32| {
            fault(kind);
            0
        },
        |_| None,
    );
    // SAFETY: when the closure faults, neither it nor those further out hold anything that must be dropped.
    let inner = unsafe { Callback::<Unary>::from_contained_with(Options::new().tracked(), &inner).unwrap() };
    // SAFETY: it lives.
    let middle = |kind: i32| unsafe { inner.code()(kind) };
    let middle = Callback::<Unary>::from_ref_with(Options::new().tracked(), &middle).unwrap();
    let outer = Contained::new(
        // SAFETY: as above.
        |kind: i32| unsafe { middle.code()(kind) },
        |exception| Some(-i64::from(exception.code())),
    );
    // SAFETY: as above.
    let outer = unsafe { Callback::<Unary>::from_contained(&outer).unwrap() };
    for _ in 0..100 {
        // SAFETY: as above.
        assert_eq!(unsafe { outer.code()(2) }, -i64::from(seh::INTEGER_DIVISION_BY_ZERO));
        for slot in [inner.slot(), middle.slot()] {
            assert_idle(slot);
        }
        assert_eq!(head(), CHAIN_END.addr());
    }
}

thread_local! {
    /// Which handler saw what: record, code, flags.
    static ASKED: RefCell<Vec<(usize, u32, u32)>> = const { RefCell::new(Vec::new()) };
}

unsafe extern "C" fn note(exception: *mut ExceptionRecord, record: *mut Record, _: *mut c_void, _: *mut c_void) -> i32 {
    // SAFETY: dispatch and unwind pass the exception.
    let (code, flags) = unsafe { ((*exception).code, (*exception).flags) };
    if flags & 2 != 0 {
        assert_eq!(head(), record.addr(), "a record that is unwound is the first one until its handler has returned");
    }
    ASKED.with_borrow_mut(|asked| asked.push((record.addr(), code, flags)));
    i32::from(code != 7)
}

#[test]
fn dispatch_asks_from_the_inside_outwards_and_unwind_takes_off() {
    declare();
    let mut records = [const { Record { next: CHAIN_END, handler: Some(note) } }; 3];
    let [inner, middle, outer] = records.each_mut().map(|record| &raw mut *record);
    // SAFETY: the records are taken off below.
    unsafe {
        seh::push(outer);
        seh::push(middle);
        seh::push(inner);
    }
    assert_eq!(chain(), [inner.addr(), middle.addr(), outer.addr()]);
    assert!(!raise(5, &[], null_mut()), "nobody wants to continue");
    let asked = ASKED.take();
    assert_eq!(asked, [(inner.addr(), 5, 0), (middle.addr(), 5, 0), (outer.addr(), 5, 0)]);
    assert!(raise(7, &[], null_mut()));
    assert_eq!(ASKED.take(), [(inner.addr(), 7, 0)]);
    let mut exception = ExceptionRecord {
        code: 7,
        flags: 1,
        nested: null_mut(),
        address: null_mut(),
        parameter_count: 0,
        parameters: [0; 15],
    };
    // SAFETY: this thread has a block.
    assert_eq!(unsafe { seh::dispatch(&mut exception, null_mut()) }, Ok(false), "cannot continue");
    ASKED.take();
    // SAFETY: `outer` is in the chain.
    unsafe { seh::unwind(outer, &mut exception) };
    assert_eq!(ASKED.take(), [(inner.addr(), 7, 3), (middle.addr(), 7, 3)]);
    assert_eq!(chain(), [outer.addr()]);
    // SAFETY: it is the first one.
    unsafe { seh::pop(outer) };
    assert_eq!(chain(), []);
}

#[test]
fn a_record_that_windows_would_not_accept_ends_the_walk() {
    declare();
    let on_stack: seh::RecordHandler = {
        let place = 0_u8;
        // SAFETY: never called.
        unsafe { std::mem::transmute::<*const u8, seh::RecordHandler>(black_box(&raw const place)) }
    };
    let mut records = [const { Record { next: CHAIN_END, handler: Some(note) } }; 3];
    let [low, high, bad] = records.each_mut().map(|record| &raw mut *record);
    let outside = Box::into_raw(Box::new(Record { next: CHAIN_END, handler: Some(note) }));
    // SAFETY: writes to the records above and to the head of this thread's chain, which is set back.
    unsafe {
        let walk = |first: *mut Record| {
            (*block()).head = first;
            let mut exception: ExceptionRecord = std::mem::zeroed();
            exception.code = 5;
            let result = seh::dispatch(&mut exception, null_mut());
            assert_eq!(exception.flags, if result.is_err() { 8 } else { 0 });
            let walked: Vec<_> = seh::chain().collect();
            (*block()).head = CHAIN_END;
            assert_eq!(walked.last().unwrap().err(), result.err());
            (walked.len(), result)
        };
        (*low).next = high;
        assert_eq!(walk(low), (2, Ok(false)));
        assert_eq!(walk(low.byte_add(2)), (1, Err(ChainError::Unaligned(low.byte_add(2)))));
        (*low).next = outside;
        assert_eq!(walk(low), (2, Err(ChainError::OutsideStack(outside))));
        (*high).next = low;
        assert_eq!(walk(high), (2, Err(ChainError::NotAscending(low))));
        (*high).next = high;
        assert_eq!(walk(high), (2, Err(ChainError::NotAscending(high))), "and it does not go round for ever");
        (*high).next = bad;
        (*bad).handler = Some(on_stack);
        assert_eq!(walk(high), (2, Err(ChainError::BadHandler(bad))));
        (*bad).handler = None;
        assert_eq!(walk(high), (2, Err(ChainError::BadHandler(bad))));
        drop(Box::from_raw(outside));

        let (limit, base) = ((*block()).stack_limit, (*block()).stack_base);
        ((*low).next, (*high).next) = (high, CHAIN_END);
        let walk_between = |first: usize, last: usize| {
            ((*block()).stack_limit, (*block()).stack_base) = (first, last);
            let result = walk(low);
            ((*block()).stack_limit, (*block()).stack_base) = (limit, base);
            result
        };
        let (first, last, word) = (low.addr(), high.addr() + size_of::<Record>(), size_of::<usize>());
        assert_eq!(walk_between(first, last), (2, Ok(false)));
        assert_eq!(walk_between(first + word, last), (1, Err(ChainError::OutsideStack(low))));
        assert_eq!(walk_between(first, last - word), (2, Err(ChainError::OutsideStack(high))));
    }
    assert_eq!(CHAIN_END.addr(), usize::MAX, "as Windows has it");
    assert!(ChainError::BadHandler(bad).to_string().contains("has a handler in the stack"));
}
