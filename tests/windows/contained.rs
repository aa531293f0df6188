//! Exceptions of handlers: those that end in a callback's policy, and those that pass.

use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::ptr::{null_mut, without_provenance, without_provenance_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::thread;

use calltable::seh::{self, Exception, ExceptionFilter, Outcome, Verdict};
use calltable::table::{self, Binding, FrameHandler, SlotId};
use calltable::{Callback, Contained, Convention, Dynamic, Error, Options, RawFrame, Signature, Type};
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, EXCEPTION_POINTERS, RaiseException, RemoveVectoredExceptionHandler,
};

use windows_sys::Win32::System::Threading::SetThreadStackGuarantee;

use crate::c_side::{LEVELS, function};

#[cfg(target_arch = "aarch64")]
#[path = "after_aarch64.rs"]
mod after;
#[cfg(target_arch = "aarch64")]
pub use after::After;

pub type Unary = unsafe extern "C" fn(i32) -> i64;

/// What can go wrong in a handler; the C side counts them in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    Read,
    Write,
    Execute,
    Division,
    Overflow,
    Illegal,
    Raised,
    Thrown,
    StackOverflow,
    /// Only the C side does that.
    Jump,
}

use Fault::*;

const RAISED: u32 = 0xe0ca_11ab;

/// The faults that need no C++, with their code and parameters.
const PLAIN: &[(Fault, u32, &[usize])] = &[
    (Read, seh::ACCESS_VIOLATION, &[0, 16]),
    (Write, seh::ACCESS_VIOLATION, &[1, 16]),
    (Execute, seh::ACCESS_VIOLATION, &[8, 16]),
    (Division, seh::INTEGER_DIVISION_BY_ZERO, &[]),
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    (Overflow, seh::INTEGER_OVERFLOW, &[]),
    (Illegal, seh::ILLEGAL_INSTRUCTION, &[]),
    (Raised, RAISED, &[3, 5]),
];

/// Wine takes an overflow of the division for a division by zero; the processor raises the same for both.
fn as_windows(fault: Fault, code: u32) -> u32 {
    if fault == Overflow && code == seh::INTEGER_DIVISION_BY_ZERO { seh::INTEGER_OVERFLOW } else { code }
}

pub fn fault(fault: Fault) {
    // SAFETY: not at all; the exceptions are what is tested.
    unsafe {
        match fault {
            None | Thrown | Jump => {}
            Read => drop(black_box(without_provenance::<i32>(16).read_volatile())),
            Write => without_provenance_mut::<i32>(16).write_volatile(1),
            Execute => std::mem::transmute::<*const (), unsafe extern "C" fn()>(without_provenance(16))(),
            Division => divide(7, 0),
            Overflow => divide(i32::MIN, -1),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Illegal => std::arch::asm!("ud2"),
            #[cfg(target_arch = "aarch64")]
            Illegal => std::arch::asm!("udf #0"),
            Raised => RaiseException(RAISED, 0, 2, [3, 5].as_ptr()),
            StackOverflow => drop(black_box(overflow(1))),
        }
    }
}

/// The processor's division; Rust's own looks before it divides.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
unsafe fn divide(number: i32, by: i32) {
    // SAFETY: changes the two registers that it names.
    unsafe { std::arch::asm!("cdq", "idiv {:e}", in(reg) by, inout("eax") number => _, out("edx") _) };
}

/// That of AArch64 raises nothing: compilers for Windows compare first, and have this where it would.
#[cfg(target_arch = "aarch64")]
unsafe fn divide(_number: i32, by: i32) {
    if by == 0 {
        // SAFETY: an exception is what the caller wants.
        unsafe { std::arch::asm!("brk #0xf004") };
    }
}

#[allow(unconditional_recursion)]
#[inline(never)]
fn overflow(depth: usize) -> usize {
    let room = black_box([depth; 100]);
    overflow(depth + 1) + room[depth % 100]
}

/// A slot that ends with this value.
pub struct Registered(pub SlotId);

impl Registered {
    pub fn new(binding: &Binding) -> Self {
        Self(table::register(binding).unwrap().slot())
    }

    fn unary(&self) -> Unary {
        // SAFETY: the tests that use it register such handlers.
        unsafe { self.0.code().cast() }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: `new` has dropped its first key, and nobody uses the slot any more.
        table::release(unsafe { self.0.key() }).unwrap();
    }
}

/// That no call of a slot is counted as running. If one is, releases would wait for ever, so this does not panic.
pub fn assert_idle(slot: SlotId) {
    let entry = table::live_slot(slot.index()).unwrap();
    if entry.in_flight.unwrap_or(0) != 0 {
        eprintln!("calls are counted that do not run: {entry:?}");
        std::process::abort();
    }
}

/// Calls a callback that lives.
fn call(code: Unary, argument: i32) -> i64 {
    // SAFETY: the callers' callbacks live.
    unsafe { code(argument) }
}

#[test]
fn a_policy_ends_every_kind_of_exception() {
    for &(kind, code, parameters) in PLAIN {
        let seen = Mutex::new(Vec::new());
        let handler = Contained::new(
            |argument: i32| {
                fault(if argument == 0 { None } else { kind });
                i64::from(argument) + 100
            },
            |exception| {
                let record = exception.record();
                assert!(!exception.context().is_null());
                seen.lock().unwrap().push((record.code, exception.parameters().to_vec(), exception.address().addr()));
                Some(-5)
            },
        );
        // SAFETY: when the closure faults, neither it nor `fault` holds anything that must be dropped.
        let callback = unsafe { Callback::<Unary>::from_contained(&handler).unwrap() };
        let results: Vec<i64> = [0, 1, 0, 2].map(|argument| call(callback.code(), argument)).to_vec();
        assert_eq!(results, [100, -5, 100, -5], "{kind:?}");
        drop(callback);
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen.len(), 2, "{kind:?}");
        for (found, values, address) in seen {
            // Whether Windows tells execution from reading depends on the processor; QEMU's user mode does not say of
            // AArch64 that memory was written.
            let is_told = kind != Execute && (kind != Write || cfg!(not(target_arch = "aarch64")));
            let values = if is_told { values } else { vec![parameters[0], values[1]] };
            assert_eq!((as_windows(kind, found), values.as_slice()), (code, parameters), "{kind:?}");
            assert_eq!(kind == Execute, address == 16, "{kind:?}");
        }
    }
}

#[test]
fn results_of_every_shape_come_from_the_policy() {
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Bytes<const N: usize>([u8; N]);
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Pair(f64, f32);
    macro_rules! shapes {
        ($($abi:literal ($($argument:tt),*) -> $R:ty: $value:expr;)*) => { $({
            type Function = unsafe extern $abi fn($(shapes!(@ $argument i64)),*) -> $R;
            let value: $R = $value;
            let handler = Contained::new(
                |$(_: shapes!(@ $argument i64)),*| -> $R {
                    fault(Read);
                    unreachable!()
                },
                |_| Some(value),
            );
            // SAFETY: when the closure faults, neither it nor `fault` holds anything that must be dropped.
            let callback = unsafe { Callback::<Function>::from_contained(&handler).unwrap() };
            for _ in 0..10 {
                // SAFETY: the callback lives.
                assert_eq!(unsafe { callback.code()($($argument),*) }, value, "{} {}", $abi, stringify!($R));
            }
        })* };
        (@ $argument:tt $type:ty) => { $type };
    }
    macro_rules! conventions {
        ($($abi:literal)*) => { $(shapes! {
            $abi () -> u8: 0xa5;
            $abi (1) -> i32: -7;
            $abi (1, 2) -> i64: i64::MIN + 3;
            $abi (1, 2, 3, 4, 5) -> u64: u64::MAX - 5;
            $abi (1) -> f32: 1.25;
            $abi (1, 2, 3) -> f64: -2.5e300;
            $abi () -> Bytes<3>: Bytes([1, 2, 3]);
            $abi (1, 2) -> Bytes<4>: Bytes([9; 4]);
            $abi (1, 2, 3, 4) -> Bytes<8>: Bytes([1, 2, 3, 4, 5, 6, 7, 8]);
            $abi (1, 2, 3, 4, 5, 6) -> Bytes<64>: Bytes([77; 64]);
            $abi (1) -> Pair: Pair(1.5, -2.5);
            $abi () -> (): ();
        })* };
    }
    conventions!("C" "system");
    #[cfg(target_arch = "x86")]
    conventions!("fastcall");
    #[cfg(target_arch = "x86_64")]
    shapes! {
        "win64" (1) -> i128: -3;
        "win64" (1, 2, 3, 4, 5) -> u128: u128::MAX - 1;
    }
}

#[test]
fn a_dynamic_policy_sets_the_result_in_a_frame_of_the_call() {
    for (result, kind) in [(Type::F64, Division), (Type::I64, Read), (Type::Struct { size: 72 }, Raised)] {
        let signature = Signature::new(Convention::C, &[Type::F32, Type::I32, Type::F64], Some(result)).unwrap();
        let handler = Dynamic::new(signature, move |_| fault(kind)).contained(move |exception, frame| {
            if exception.code() == 0 {
                return Verdict::SEARCH_ON;
            }
            let sum = f64::from(frame.get::<f32>(0).unwrap())
                + f64::from(frame.get::<i32>(1).unwrap())
                + frame.get::<f64>(2).unwrap();
            match result {
                Type::F64 => frame.set_result(sum).unwrap(),
                Type::I64 => frame.set_result((sum * 1e12) as i64).unwrap(),
                _ => frame.result_bytes().unwrap()[..8].copy_from_slice(&sum.to_le_bytes()),
            }
            Verdict::RETURN
        });
        // SAFETY: when the closure faults, neither it nor `fault` holds anything that must be dropped.
        let callback = unsafe { Callback::from_contained_dynamic(&handler).unwrap() };
        // SAFETY: those are the signatures; the callback lives.
        unsafe {
            match result {
                Type::F64 => {
                    let code: unsafe extern "C" fn(f32, i32, f64) -> f64 = callback.code().cast();
                    assert_eq!([code(0.5, 2, 4.0), code(0.25, 8, 0.0)], [6.5, 8.25]);
                }
                Type::I64 => {
                    let code: unsafe extern "C" fn(f32, i32, f64) -> i64 = callback.code().cast();
                    assert_eq!(code(0.5, 2, 4.0), 6_500_000_000_000);
                }
                _ => {
                    let code: unsafe extern "C" fn(f32, i32, f64) -> [f64; 9] = callback.code().cast();
                    assert_eq!(code(0.5, 2, 4.0), [6.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
                }
            }
        }
    }
}

#[test]
fn handlers_are_asked_from_the_inside_outwards_and_vectored_ones_first() {
    static ORDER: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    thread_local! {
        static WATCHING: Cell<bool> = const { Cell::new(false) };
    }
    unsafe extern "system" fn vectored(pointers: *mut EXCEPTION_POINTERS) -> i32 {
        // SAFETY: Windows passes the record.
        let code = unsafe { (*(*pointers).ExceptionRecord).ExceptionCode as u32 };
        if WATCHING.get() && code == seh::INTEGER_DIVISION_BY_ZERO {
            ORDER.lock().unwrap().push("vectored");
        }
        0
    }
    let inner = Contained::new(
        |_: i32| {
            fault(Division);
            1
        },
        |_| {
            ORDER.lock().unwrap().push("inner");
            Option::None
        },
    );
    // SAFETY: when the closure faults, neither it nor `fault` holds anything that must be dropped.
    let inner = unsafe { Callback::<Unary>::from_contained(&inner).unwrap() };
    let middle = |argument: i32| call(inner.code(), argument);
    let middle = Callback::<Unary>::from_ref(&middle).unwrap();
    let outer = Contained::new(
        |argument: i32| call(middle.code(), argument),
        |_| {
            ORDER.lock().unwrap().push("outer");
            Some(-9)
        },
    );
    // SAFETY: as above; nor do the closures further out.
    let outer = unsafe { Callback::<Unary>::from_contained(&outer).unwrap() };
    WATCHING.set(true);
    // SAFETY: the handler only looks.
    let handle = unsafe { AddVectoredExceptionHandler(1, Some(vectored)) };
    assert_eq!(call(outer.code(), 1), -9);
    // SAFETY: it is ours.
    unsafe { RemoveVectoredExceptionHandler(handle) };
    assert_eq!(*ORDER.lock().unwrap(), ["vectored", "inner", "outer"]);
}

#[test]
fn an_exclusive_closure_is_called_again_after_its_exception_has_ended() {
    let mut calls = 0;
    let mut handler = Contained::new(
        |argument: i32| {
            calls += 1;
            fault(if argument < 0 { Read } else { None });
            calls
        },
        |_| Some(-1),
    );
    // SAFETY: as above; and the count is right at any moment.
    let callback = unsafe { Callback::<Unary>::from_contained_mut(&mut handler).unwrap() };
    for round in 0..100 {
        let results = [1, -1, 2].map(|argument| call(callback.code(), argument));
        assert_eq!(results, [3 * round + 1, -1, 3 * round + 3]);
        assert_idle(callback.slot());
    }
    drop(callback);
    assert_eq!(calls, 300);
}

#[test]
fn a_filter_that_has_mended_it_lets_the_handler_go_on() {
    let handler = Dynamic::new(Signature::new(Convention::C, &[Type::I32], Some(Type::I32)).unwrap(), |frame| {
        fault(Raised);
        frame.set_result(frame.get::<i32>(0).unwrap() + 1).unwrap();
    })
    .contained(|exception, _| if exception.code() == RAISED { Verdict::CONTINUE } else { Verdict::SEARCH_ON });
    // SAFETY: nothing ends here.
    let callback = unsafe { Callback::from_contained_dynamic(&handler).unwrap() };
    // SAFETY: that is the signature; the callback lives.
    let code: unsafe extern "C" fn(i32) -> i32 = unsafe { callback.code().cast() };
    for _ in 0..3 {
        // SAFETY: as above.
        assert_eq!(unsafe { code(41) }, 42);
    }
}

/// The data of the handlers below and of those on the C side.
#[repr(C)]
pub struct Data {
    filter: ExceptionFilter,
    destroyed: AtomicI32,
    alive: AtomicI32,
    last: AtomicU32,
}

impl Data {
    pub fn new(filter: ExceptionFilter) -> Self {
        Self { filter, destroyed: 0.into(), alive: 0.into(), last: 0.into() }
    }

    pub fn as_ptr(&self) -> *mut c_void {
        (&raw const *self).cast_mut().cast()
    }
}

/// Ends every exception with -1.
unsafe extern "efiapi" fn minus_one(data: *mut c_void, exception: *const Exception, outcome: *mut Outcome) -> Verdict {
    // SAFETY: registered with that data; the others are the dispatcher's.
    unsafe {
        (*data.cast::<Data>()).last.store((*exception).code(), Ordering::Relaxed);
        (*outcome).frame.result = [!0, 0];
    }
    Verdict::RETURN
}

/// Ends none.
unsafe extern "efiapi" fn search_on(_: *mut c_void, _: *const Exception, _: *mut Outcome) -> Verdict {
    Verdict::SEARCH_ON
}

fn faulty(level: &str, data: &Data) -> Binding {
    // SAFETY: the handler takes one word and that data, which lives with the registration.
    unsafe {
        let handler = function::<*const c_void>(&format!("faulty_{level}"));
        Binding::direct(Convention::C, handler, 1, data.as_ptr()).contained()
    }
}

type Int = unsafe extern "C" fn(i32) -> i32;

#[test]
fn faults_of_c_and_exceptions_of_cpp_end_in_a_filter() {
    for level in LEVELS {
        let data = Data::new(minus_one);
        let faulty = faulty(level, &data);
        for binding in [faulty, faulty.saving(), faulty.saving_control_words(), faulty.tracked(), faulty.exclusive()] {
            let registered = Registered::new(&binding);
            // SAFETY: that is the C handler's type.
            let code: Int = unsafe { registered.0.code().cast() };
            // SAFETY: the registration lives.
            let call = |fault: Fault| unsafe { code(fault as i32) };
            for &(kind, expected, _) in PLAIN {
                assert_eq!((call(None), call(kind)), (100, -1), "{kind:?} {level}");
                assert_eq!(as_windows(kind, data.last.load(Ordering::Relaxed)), expected, "{kind:?} {level}");
            }
            {
                data.destroyed.store(0, Ordering::Relaxed);
                for _ in 0..100 {
                    assert_eq!(call(Thrown), -1, "{level}");
                    assert_eq!(data.last.load(Ordering::Relaxed), seh::GCC_THROW);
                }
                assert_eq!(data.destroyed.load(Ordering::Relaxed), 200, "two objects on the way, {level}");
                assert_eq!(data.alive.load(Ordering::Relaxed), 0, "a contained exception is destroyed, {level}");
            }
            assert_eq!(call(None), 100);
            assert_idle(registered.0);
        }
    }
}

#[test]
fn an_exception_that_passes_ends_the_count_of_running_calls() {
    let data = Data::new(search_on);
    for binding in [faulty("O2", &data).tracked(), faulty("O2", &data).exclusive()] {
        let inner = Registered::new(&binding);
        let outer = Contained::new(|argument: i32| call(inner.unary(), argument), |_| Some(-3));
        // SAFETY: when the inner handler faults, nothing on the way here must be dropped.
        let outer = unsafe { Callback::<Unary>::from_contained(&outer).unwrap() };
        for _ in 0..100 {
            assert_eq!(call(outer.code(), Read as i32), -3);
            assert_idle(inner.0);
        }
    }
}

/// On i686 `chain` tests that.
#[cfg(not(target_arch = "x86"))]
#[test]
fn a_cpp_exception_passes_from_a_handler_to_the_caller() {
    type Catching = unsafe extern "C" fn(*const c_void, i64) -> i64;
    // SAFETY: that is its type in exceptions.cpp.
    let catching: Catching = unsafe { function("catching") };
    // SAFETY: only the address is used.
    let handler = |name| unsafe { function::<*const c_void>(name) };
    let signature = Signature::new(Convention::C, &[Type::I64; 5], Some(Type::I64)).unwrap();
    let mut destroyed = 0_i32;
    let data = (&raw mut destroyed).cast();
    // SAFETY: the handlers of exceptions.cpp serve these shapes; the data outlives the registrations.
    let ways = unsafe {
        let direct = |name, positions| Binding::direct(Convention::C, handler(name), positions, data);
        let frame = Binding::frame(function("throwing_handler_frame"), &signature, data);
        [
            direct("throwing_handler_short", 1),
            direct("throwing_handler", 5),
            direct("throwing_handler_short", 1).saving(),
            direct("throwing_handler", 5).saving_control_words(),
            direct("throwing_handler", 5).tracked(),
            frame,
            frame.saving(),
            frame.exclusive(),
        ]
    };
    for binding in ways {
        let registered = Registered::new(&binding);
        // SAFETY: written through the raw pointer above only while `catching` runs.
        unsafe { data.cast::<i32>().write(0) };
        for _ in 0..100 {
            // SAFETY: the registration lives, and takes five words.
            assert_eq!(unsafe { catching(registered.0.code().as_ptr(), 1) }, 54321);
        }
        // SAFETY: as above.
        assert_eq!(unsafe { data.cast::<i32>().read() }, 100, "destructors ran on the way");
        assert_idle(registered.0);
    }
    let registered = Registered::new(&ways[1]);
    // SAFETY: as above; a negative argument throws nothing.
    assert_eq!(unsafe { catching(registered.0.code().as_ptr(), -1) }, -1);
}

/// On i686 the program's copy of the runtime library stops at exceptions of the DLL's.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_cpp_exception_passes_through_a_closure() {
    type Five = unsafe extern "C-unwind" fn(i64, i64, i64, i64, i64) -> i64;
    struct Part<'a>(&'a AtomicI32);
    impl Drop for Part<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    // SAFETY: these are their types in exceptions.cpp.
    let (catching, throwing) = unsafe {
        (
            function::<unsafe extern "C-unwind" fn(*const c_void, i64) -> i64>("catching"),
            function::<unsafe extern "C-unwind" fn(i64, i64, i64, i64, i64, *mut c_void) -> i64>("throwing_handler"),
        )
    };
    let (dropped, destroyed) = (AtomicI32::new(0), AtomicI32::new(0));
    let mut closure = |a, b, c, d, e| {
        let _part = Part(&dropped);
        // SAFETY: it counts there when its exception passes, or when it returns.
        unsafe { throwing(a, b, c, d, e, destroyed.as_ptr().cast()) }
    };
    for way in 0..3 {
        let callback = match way {
            0 => Callback::<Five>::from_ref(&closure),
            1 => Callback::from_ref_with(Options::new().tracked(), &closure),
            _ => Callback::from_mut(&mut closure),
        }
        .unwrap();
        for _ in 0..100 {
            // SAFETY: the callback lives.
            assert_eq!(unsafe { catching(callback.code() as *const c_void, 1) }, 54321);
            assert_idle(callback.slot());
        }
        // SAFETY: as above; a negative argument throws nothing, and it is no number that `catching` gives.
        assert_eq!(unsafe { catching(callback.code() as *const c_void, -1) }, -1);
    }
    assert_eq!((dropped.into_inner(), destroyed.into_inner()), (303, 303));
}

#[test]
fn an_exception_of_the_filter_is_not_its_own() {
    let inner = Contained::new(
        |_: i32| {
            fault(Read);
            0
        },
        |_| {
            fault(Division);
            Some(1)
        },
    );
    // SAFETY: when the closure faults, neither it nor `fault` holds anything that must be dropped.
    let inner = unsafe { Callback::<Unary>::from_contained(&inner).unwrap() };
    let seen = AtomicU32::new(0);
    let outer = Contained::new(
        |argument: i32| call(inner.code(), argument),
        |exception| {
            seen.store(exception.code(), Ordering::Relaxed);
            Some(-4)
        },
    );
    // SAFETY: nor does the policy, where it faults, or the closure further out.
    let outer = unsafe { Callback::<Unary>::from_contained(&outer).unwrap() };
    for _ in 0..10 {
        assert_eq!(call(outer.code(), 1), -4);
        assert_eq!(seen.load(Ordering::Relaxed), seh::INTEGER_DIVISION_BY_ZERO);
    }
}

#[test]
fn a_handler_that_makes_the_result_gets_arguments_and_room() {
    type Mixed = unsafe extern "C" fn(i32, f64, f32, f64) -> i64;
    unsafe extern "C" fn fails(_: i32, _: f64, _: f32, _: f64, _: *mut c_void) -> i64 {
        fault(Write);
        0
    }
    unsafe extern "C" fn makes(argument: i32, a: f64, b: f32, c: f64, room: *mut c_void) -> i64 {
        if argument == 99 {
            fault(Division);
        }
        assert_eq!((a, b, c), (1.5, 2.5, 3.5));
        // SAFETY: the filter has put it there.
        unsafe { room.cast::<i64>().read_unaligned() + i64::from(argument) }
    }
    unsafe extern "efiapi" fn filter(data: *mut c_void, _: *const Exception, outcome: *mut Outcome) -> Verdict {
        // SAFETY: registered with that data; the answer is the dispatcher's.
        unsafe {
            (*data.cast::<Data>()).last.fetch_add(1, Ordering::Relaxed);
            (*outcome).handler = makes as *const c_void;
            (&raw mut (*outcome).room).cast::<i64>().write_unaligned(1 << 40);
        }
        // Last of all, so that nothing but the dispatcher gives the arguments back.
        // SAFETY: what callers left in these registers is nobody's.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::asm!("pcmpeqd xmm1, xmm1", "pcmpeqd xmm2, xmm2", "pcmpeqd xmm3, xmm3",
                out("xmm1") _, out("xmm2") _, out("xmm3") _);
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            std::arch::asm!("movi v0.16b, #255", "movi v1.16b, #255", "movi v2.16b, #255",
                out("v0") _, out("v1") _, out("v2") _);
        }
        Verdict::RETURN
    }
    let data = Data::new(filter);
    // On i686 a double takes two words, on AArch64 no place of an integer.
    let positions = if cfg!(target_arch = "x86") {
        6
    } else if cfg!(target_arch = "aarch64") {
        1
    } else {
        4
    };
    // SAFETY: the handlers take these arguments and any data.
    let binding =
        unsafe { Binding::direct(Convention::C, fails as *const c_void, positions, data.as_ptr()).contained() };
    for binding in [binding, binding.saving(), binding.tracked()] {
        let registered = Registered::new(&binding);
        // SAFETY: that is the handlers' type; the registration lives.
        let call_mixed = |argument: i32| unsafe { registered.0.code().cast::<Mixed>()(argument, 1.5, 2.5, 3.5) };
        assert_eq!(call_mixed(5), (1 << 40) + 5);
        // An exception of that handler is for others.
        data.last.store(0, Ordering::Relaxed);
        let outer = Contained::new(|argument: i32| call_mixed(argument), |_| Some(-8));
        // SAFETY: what faults holds nothing that must be dropped.
        let outer = unsafe { Callback::<Unary>::from_contained(&outer).unwrap() };
        assert_eq!(call(outer.code(), 99), -8);
        assert_eq!(data.last.load(Ordering::Relaxed), 1, "asked once");
    }
}

#[test]
fn many_exceptions_leave_neither_stack_nor_slots_behind() {
    let lowest = AtomicU32::new(0);
    let mut places = Vec::new();
    // Emulated they take a hundred times as long.
    for round in 0..if cfg!(target_arch = "aarch64") { 10_000 } else { 100_000_u32 } {
        let handler = Contained::new(
            |_: i32| {
                let here = 0_u8;
                lowest.store(black_box(&raw const here).addr() as u32, Ordering::Relaxed);
                fault(if round % 3 == 0 { Raised } else { Read });
                0
            },
            |_| Some(i64::from(round)),
        );
        // SAFETY: when the closure faults, neither it nor `fault` holds anything that must be dropped.
        let callback = unsafe { Callback::<Unary>::from_contained_with(Options::new().tracked(), &handler).unwrap() };
        assert_eq!(call(callback.code(), 1), i64::from(round));
        places.push(lowest.load(Ordering::Relaxed));
    }
    assert!(places.iter().all(|place| *place == places[0]), "the stack moves: {:#x?}", &places[..10]);
}

#[test]
fn several_threads_fault_at_once() {
    let handler = Contained::new(
        |argument: i32| {
            fault(PLAIN[argument as usize % PLAIN.len()].0);
            0
        },
        |exception| Some(i64::from(exception.code())),
    );
    // SAFETY: when the closure faults, neither it nor `fault` holds anything that must be dropped.
    let callback = unsafe { Callback::<Unary>::from_contained(&handler).unwrap() };
    thread::scope(|scope| {
        for thread in 0..4 {
            let code = callback.code();
            scope.spawn(move || {
                for round in 0..2000 {
                    let argument = thread + round;
                    let (kind, expected, _) = PLAIN[argument as usize % PLAIN.len()];
                    assert_eq!(as_windows(kind, call(code, argument) as u32), expected);
                }
            });
        }
    });
}

#[test]
fn a_stack_overflow_ends_in_the_policy_and_again_after_the_guard_page_is_back() {
    #[link(name = "msvcrt", kind = "raw-dylib")]
    unsafe extern "C" {
        fn _resetstkoflw() -> i32;
    }
    let handler = Contained::new(
        |_: i32| {
            fault(StackOverflow);
            0
        },
        |exception| (exception.code() == seh::STACK_OVERFLOW).then_some(-2),
    );
    // SAFETY: the frames of `overflow` hold numbers.
    let callback = unsafe { Callback::<Unary>::from_contained(&handler).unwrap() };
    thread::scope(|scope| {
        let code = callback.code();
        scope.spawn(move || {
            // Handlers of others run first: that of Rust's std prints a message.
            // SAFETY: only the number is read and written.
            assert_ne!(unsafe { SetThreadStackGuarantee(&mut 0x2_0000) }, 0);
            for _ in 0..5 {
                // Before the first one, too: Wine obeys the guarantee only with a guard page set by a program.
                // SAFETY: the stack is far from its end.
                assert_ne!(unsafe { _resetstkoflw() }, 0);
                assert_eq!(call(code, 1), -2);
            }
        });
    });
}

#[test]
fn a_jump_out_of_a_handler_ends_the_count_of_running_calls() {
    for level in LEVELS {
        let data = Data::new(minus_one);
        // SAFETY: that is its type in faults.cpp.
        let jumping: unsafe extern "C" fn(Unary, i32) -> i32 = unsafe { function(&format!("jumping_{level}")) };
        for binding in [faulty(level, &data), faulty(level, &data).tracked(), faulty(level, &data).exclusive()] {
            let registered = Registered::new(&binding);
            for _ in 0..100 {
                // SAFETY: the registration lives.
                let results = unsafe { [jumping(registered.unary(), 0), jumping(registered.unary(), Jump as i32)] };
                assert_eq!(results, [100, -2], "{level}");
                assert_idle(registered.0);
            }
        }
        assert_eq!(data.last.load(Ordering::Relaxed), 0, "a jump is no exception that a filter sees");
    }
}

#[test]
fn a_registration_that_contains_needs_a_filter() {
    unsafe extern "efiapi" fn nothing(_: *mut c_void, _: *mut RawFrame) {}
    let handler: FrameHandler = nothing;
    let signature = Signature::new(Convention::C, &[], Option::None).unwrap();
    // SAFETY: refused.
    let binding = unsafe { Binding::frame(handler, &signature, null_mut()).contained() };
    assert_eq!(table::register(&binding), Err(Error::NullFilter));
}

/// What a call leaves in registers; filled in by the assembly below.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[repr(C)]
#[derive(Debug, Default, PartialEq)]
pub struct After {
    /// On x86_64 RBX, RBP, RSI, RDI, R12 to R15; on i686 EBX, EBP, ESI, EDI.
    kept: [usize; if cfg!(target_arch = "x86") { 4 } else { 8 }],
    /// How far the stack pointer is from where it was before the call.
    moved: usize,
    direction: usize,
    mxcsr: u32,
    /// As FNSTENV stores it: control word, status word, tag word, in 4 bytes each.
    x87: [u32; 7],
    /// XMM6 to XMM15, on x86_64.
    xmm: [[u64; 2]; 10],
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
impl After {
    /// Compares with what the assembly below had there before the call.
    pub fn check(&self, shown: &str) {
        assert!(self.kept.iter().copied().eq(1..=self.kept.len()), "{shown}");
        assert_eq!((self.moved, self.direction), (0, 0), "{shown}");
        assert_eq!(self.mxcsr & 0xffc0, 0x3f80, "{shown}");
        assert_eq!((self.x87[0] & 0xffff, self.x87[2] & 0xffff), (0x077f, 0xffff), "{shown}");
        #[cfg(target_arch = "x86_64")]
        assert!(self.xmm.iter().zip(6..).all(|(found, number)| *found == [0x100 + number; 2]), "{shown}");
    }
}

unsafe extern "C" {
    /// Calls `code` with one argument, a mark in every register that is to be preserved, and control words that nobody
    /// else uses.
    pub fn calltable_test_after(code: Unary, argument: i32, after: *mut After) -> i64;
    /// A handler of one argument that faults with other control words, on x86 with DF set and the x87 stack full, too.
    fn calltable_test_wreck_and_fault();
    /// The same, after it has wrecked every register that is to be preserved but the stack pointer.
    fn calltable_test_wreck_all_and_fault();
}

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    "
    .globl calltable_test_after
    .def calltable_test_after; .scl 2; .type 32; .endef
    .seh_proc calltable_test_after
calltable_test_after:
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
    sub rsp, 0xe8
    .seh_stackalloc 0xe8
    .seh_endprologue
    mov [rsp + 0x20], r8
    stmxcsr [rsp + 0x28]
    fnstcw [rsp + 0x2c]
    mov dword ptr [rsp + 0x30], 0x3f80          // rounds down; all exceptions masked
    ldmxcsr [rsp + 0x30]
    mov dword ptr [rsp + 0x30], 0x077f          // the same in x87
    fldcw [rsp + 0x30]
    movups [rsp + 0x40], xmm6
    movups [rsp + 0x50], xmm7
    movups [rsp + 0x60], xmm8
    movups [rsp + 0x70], xmm9
    movups [rsp + 0x80], xmm10
    movups [rsp + 0x90], xmm11
    movups [rsp + 0xa0], xmm12
    movups [rsp + 0xb0], xmm13
    movups [rsp + 0xc0], xmm14
    movups [rsp + 0xd0], xmm15
    .altmacro
    .macro CALLTABLE_TEST_EACH what
    .set number, 6
    .rept 10
        what %number
        .set number, number + 1
    .endr
    .endm
    .macro CALLTABLE_TEST_MARK number
    mov eax, 0x100 + number
    movq xmm\\number, rax
    punpcklqdq xmm\\number, xmm\\number
    .endm
    .macro CALLTABLE_TEST_NOTE number
    movups [r8 + 112 + 16 * (number - 6)], xmm\\number
    .endm
    .macro CALLTABLE_TEST_BACK number
    movups xmm\\number, [rsp + 0x40 + 16 * (number - 6)]
    .endm
    CALLTABLE_TEST_EACH CALLTABLE_TEST_MARK
    mov rax, rcx
    mov ecx, edx
    mov ebx, 1
    mov esi, 3
    mov edi, 4
    mov r12d, 5
    mov r13d, 6
    mov r14d, 7
    mov r15d, 8
    mov rbp, rsp
    call rax
    mov r8, [rbp + 0x20]
    sub rbp, rsp
    mov [r8 + 64], rbp
    lea rsp, [rsp + rbp]
    mov qword ptr [r8 + 8], 2
    mov [r8 + 0], rbx
    mov [r8 + 16], rsi
    mov [r8 + 24], rdi
    mov [r8 + 32], r12
    mov [r8 + 40], r13
    mov [r8 + 48], r14
    mov [r8 + 56], r15
    pushfq
    pop rcx
    cld
    and ecx, 0x400
    mov [r8 + 72], rcx
    stmxcsr [r8 + 80]
    fnstenv [r8 + 84]
    CALLTABLE_TEST_EACH CALLTABLE_TEST_NOTE
    CALLTABLE_TEST_EACH CALLTABLE_TEST_BACK
    .noaltmacro
    ldmxcsr [rsp + 0x28]
    fninit
    fldcw [rsp + 0x2c]
    add rsp, 0xe8
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

    .globl calltable_test_wreck_and_fault, calltable_test_wreck_all_and_fault
    .def calltable_test_wreck_and_fault; .scl 2; .type 32; .endef
    .def calltable_test_wreck_all_and_fault; .scl 2; .type 32; .endef
calltable_test_wreck_all_and_fault:
    mov rbx, -1
    .irp register, rbp, rsi, rdi, r12, r13, r14, r15
    mov \\register, rbx
    .endr
    .irp number, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    pcmpeqd xmm\\number, xmm\\number
    .endr
calltable_test_wreck_and_fault:
    std
    fldpi
    fldpi
    fldpi
    fldpi
    fldpi
    fldpi
    fldpi
    fldpi
    mov dword ptr [rsp + 8], 0x1f80
    ldmxcsr [rsp + 8]
    mov dword ptr [rsp + 8], 0x037f
    fldcw [rsp + 8]
    ud2
    "
);

#[cfg(target_arch = "x86")]
std::arch::global_asm!(
    "
    .globl _calltable_test_after
    .def _calltable_test_after; .scl 2; .type 32; .endef
_calltable_test_after:
    push ebx
    push ebp
    push esi
    push edi
    sub esp, 0x10
    fnstcw [esp + 4]
    stmxcsr [esp + 8]
    mov dword ptr [esp], 0x3f80
    ldmxcsr [esp]
    mov dword ptr [esp], 0x077f
    fldcw [esp]
    mov eax, [esp + 0x24]
    mov edx, [esp + 0x28]
    mov [esp], edx
    mov ebx, 1
    mov ebp, 2
    mov esi, 3
    mov edi, 4
    mov [esp + 0xc], esp
    call eax
    mov ecx, [esp + 0x2c]
    mov [ecx + 0], ebx
    mov [ecx + 4], ebp
    mov [ecx + 8], esi
    mov [ecx + 12], edi
    mov ebx, [esp + 0xc]
    sub ebx, esp
    mov [ecx + 16], ebx
    pushfd
    pop ebx
    cld
    and ebx, 0x400
    mov [ecx + 20], ebx
    stmxcsr [ecx + 24]
    fnstenv [ecx + 28]
    fninit
    fldcw [esp + 4]
    ldmxcsr [esp + 8]
    add esp, 0x10
    pop edi
    pop esi
    pop ebp
    pop ebx
    ret

    .globl _calltable_test_wreck_and_fault, _calltable_test_wreck_all_and_fault
    .def _calltable_test_wreck_and_fault; .scl 2; .type 32; .endef
    .def _calltable_test_wreck_all_and_fault; .scl 2; .type 32; .endef
_calltable_test_wreck_all_and_fault:
_calltable_test_wreck_and_fault:
    std
    fldpi
    fldpi
    fldpi
    fldpi
    fldpi
    fldpi
    fldpi
    fldpi
    mov dword ptr [esp + 4], 0x1f80
    ldmxcsr [esp + 4]
    mov dword ptr [esp + 4], 0x037f
    fldcw [esp + 4]
    mov ebx, -1
    mov ebp, -1
    mov esi, -1
    mov edi, -1
    ud2
    "
);

#[test]
fn an_exception_that_ended_leaves_registers_as_the_convention_promises() {
    let data = Data::new(minus_one);
    let [wreck, wreck_all] = [calltable_test_wreck_and_fault, calltable_test_wreck_all_and_fault]
        .map(|handler: unsafe extern "C" fn()| handler as *const c_void);
    let signature = Signature::new(Convention::C, &[Type::I32], Some(Type::I32)).unwrap();
    // SAFETY: the handler looks at nothing that it gets.
    let ways = unsafe {
        let direct = |handler| Binding::direct(Convention::C, handler, 1, data.as_ptr()).contained();
        let frame = Binding::frame_foreign(wreck_all, &signature, data.as_ptr()).contained();
        [
            direct(wreck),
            direct(wreck_all).saving(),
            direct(wreck_all).saving_control_words(),
            direct(wreck).tracked(),
            direct(wreck_all).exclusive().saving(),
            frame,
            frame.saving_control_words(),
            frame.tracked(),
        ]
    };
    for binding in ways {
        let registered = Registered::new(&binding);
        let mut after = After::default();
        // SAFETY: the registration lives.
        let result = unsafe { calltable_test_after(registered.unary(), 1, &mut after) };
        let shown = format!("{binding:?}\n{after:x?}");
        assert_eq!(result as i32, -1, "{shown}");
        assert_eq!(data.last.load(Ordering::Relaxed), seh::ILLEGAL_INSTRUCTION);
        after.check(&shown);
    }
}
