//! C callers, from two compilers at two levels, against handlers in both lanes: every type in every position.
#![cfg(any(target_os = "linux", all(windows, target_env = "gnu")))]

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};

use calltable::table::{self, Binding, CAPACITY, ENTRY_STRIDE, SlotKey};
use calltable::{
    Callback, Convention, Dynamic, FrameError, RawFrame, ReleaseError, Rest, Signature, SignatureError, StaleReason,
    Type, set_stale_handler,
};
#[cfg(target_arch = "aarch64")]
use calltable_callers::{Aligned, AlignedMore, Doubles3, Doubles4, Float1, Floats3, Floats4, Mixed};
use calltable_callers::{Bytes, DoublePair, FloatPair, Function, Pattern, VARIADIC, VARIADIC_REST, for_each_case};

#[path = "signatures/dynamic.rs"]
mod dynamic;

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

fn called() {
    CALLS.set(CALLS.get() + 1);
}

/// Runs one C function of each variant with the callback, and checks that each called once and liked the result.
macro_rules! run {
    ($callback:expr, [$($caller:ident)*]) => { $(
        CALLS.set(0);
        // SAFETY: the C function calls with the signature of the case, while the callback lives.
        let satisfied = unsafe { calltable_callers::$caller($callback) };
        assert_eq!((satisfied, CALLS.get()), (1, 1), "{}: result, calls", stringify!($caller));
    )* };
}

/// The direct lane: a closure with the case's own types, shared and exclusive. Each case is a function of its own: one
/// large function would take the compiler twice the time.
macro_rules! typed {
    ($case:ident $abi:literal [$($caller:ident)*] ($($a:ident: $P:ty),*) -> $R:ty,
        [$($types:expr),*], $result:expr) => {{
        fn case() {
            type Code = unsafe extern $abi fn($($P),*) -> $R;
            let closure = |$($a: $P),*| -> $R {
                called();
                let mut _index = 0;
                $(
                    assert!($a.is(_index), "{}: argument {_index}", stringify!($case));
                    _index += 1;
                )*
                <$R>::pattern(99)
            };
            let callback = Callback::<Code>::from_ref(&closure).unwrap();
            run!(callback.code() as *const c_void, [$($caller)*]);
            drop(callback);
            let mut exclusive = closure;
            let callback = Callback::<Code>::from_mut(&mut exclusive).unwrap();
            run!(callback.code() as *const c_void, [$($caller)*]);
        }
        case();
    }};
}

/// The frame lane: the same case from its description.
macro_rules! dynamic {
    ($case:ident $abi:literal [$($caller:ident)*] ($($a:ident: $P:ty),*) -> $R:ty,
        [$($types:expr),*], $result:expr) => {{
        fn case() {
            let types: &[Type] = &[$($types),*];
            let signature = Signature::new(dynamic::convention($abi), types, $result).unwrap();
            let handler = Dynamic::new(signature, |frame| {
                called();
                dynamic::check(stringify!($case), frame);
            });
            let callback = Callback::from_dynamic(&handler).unwrap();
            run!(callback.code().as_ptr(), [$($caller)*]);
        }
        case();
    }};
}

/// The direct lane: a handler that the case's description says where to find its data; without a frame and, since it is
/// counted, with one.
macro_rules! described {
    ($case:ident $abi:literal [$($caller:ident)*] ($($a:ident: $P:ty),*) -> $R:ty,
        [$($types:expr),*], $result:expr) => {{
        #[allow(clippy::too_many_arguments, reason = "as many as the case has")]
        unsafe extern $abi fn handler($($a: $P,)* data: *mut c_void) -> $R {
            called();
            let mut _index = 0;
            $(
                assert!($a.is(_index), "{}: argument {_index}", stringify!($case));
                _index += 1;
            )*
            assert_eq!(data.addr(), DATA, "{}: the data", stringify!($case));
            <$R>::pattern(99)
        }
        fn case() {
            let signature = Signature::new(dynamic::convention($abi), &[$($types),*], $result).unwrap();
            let data = std::ptr::without_provenance_mut(DATA);
            // SAFETY: the handler is such a function, which only compares its data.
            let binding = unsafe { Binding::direct_as(handler as *const c_void, &signature, data) };
            for binding in [binding, binding.tracked()] {
                let key = table::register(&binding).unwrap();
                run!(key.code().as_ptr(), [$($caller)*]);
                table::release(key).unwrap();
            }
        }
        case();
    }};
}
const DATA: usize = 0xda7a_0007;

thread_local! {
    /// The entry that is called though it refuses all calls, why it does, and what the stale handler is to find.
    static REFUSING: Cell<*const c_void> = const { Cell::new(std::ptr::null()) };
    static REASON: Cell<Option<StaleReason>> = const { Cell::new(None) };
    static REFUSED: RefCell<Option<(&'static str, Signature)>> = const { RefCell::new(None) };
}

/// The stale handler: the same case from its description, to an entry of another one.
macro_rules! refused {
    ($case:ident $abi:literal [$($caller:ident)*] ($($a:ident: $P:ty),*) -> $R:ty,
        [$($types:expr),*], $result:expr) => {{
        fn case() {
            let signature = Signature::new(dynamic::convention($abi), &[$($types),*], $result).unwrap();
            REFUSED.set(Some((stringify!($case), signature)));
            run!(REFUSING.get(), [$($caller)*]);
        }
        case();
    }};
}

fn call_every_case(entry: *const c_void, reason: StaleReason) {
    REFUSING.set(entry);
    REASON.set(Some(reason));
    for_each_case!(refused);
}

#[test]
fn typed_closures_get_every_type_in_every_position() {
    for_each_case!(typed);
}

#[test]
fn dynamic_closures_get_every_type_in_every_position() {
    for_each_case!(dynamic);
}

#[test]
fn handlers_that_a_signature_describes_get_every_type_in_every_position_and_their_data() {
    for_each_case!(described);
}

#[test]
fn the_stale_handler_gets_every_type_in_every_position_and_sets_every_result() {
    // SAFETY: the stale handler sets a result by the signature of the case, which the C function calls by.
    unsafe {
        set_stale_handler(Some(|call| {
            called();
            assert_eq!(Some(call.reason), REASON.get());
            REFUSED.with_borrow(|refused| {
                let (case, signature) = refused.as_ref().unwrap();
                dynamic::check(case, &mut call.frame(signature));
            });
        }))
        .unwrap();
    }
    // While this one runs, its slot is nobody else's. Its result and what it removes from the stack are not those of
    // most cases.
    unsafe extern "efiapi" fn run(key: *mut c_void, _: *mut RawFrame) {
        // SAFETY: it is the place of the key.
        let key = unsafe { &mut *key.cast::<Option<SlotKey>>() };
        let slot = key.as_ref().unwrap().slot();
        call_every_case(slot.code().as_ptr(), StaleReason::Running);
        let not_released = table::release_at_once(key.take().unwrap()).unwrap_err();
        assert_eq!(not_released.error, ReleaseError::InFlight);
        call_every_case(slot.code().as_ptr(), StaleReason::Released);
        *key = Some(not_released.handle);
        call_every_case(
            slot.code().as_ptr().wrapping_byte_add((CAPACITY - 1 - slot.index()) * ENTRY_STRIDE),
            StaleReason::NeverRegistered,
        );
    }
    #[cfg(target_arch = "x86")]
    type Code = unsafe extern "system" fn(i32, i32, i32) -> f64;
    #[cfg(not(target_arch = "x86"))]
    type Code = unsafe extern "efiapi" fn(i32, i32, i32) -> f64;
    for result in if cfg!(target_arch = "x86") { &[Type::F64, Type::F80][..] } else { &[Type::F64] } {
        let signature = Signature::new(Convention::NATIVE, &[Type::I32; 3], Some(*result)).unwrap();
        let mut key = None;
        // SAFETY: the handler takes the key's place, and runs once.
        let binding = unsafe { Binding::frame(run, &signature, (&raw mut key).cast()) };
        key = Some(table::register(&binding.exclusive()).unwrap());
        // SAFETY: that is the signature; what is in ST0 has any precision.
        unsafe { key.as_ref().unwrap().code().cast::<Code>()(1, 2, 3) };
        table::release(key.unwrap()).unwrap();
    }
}

#[test]
fn variadic_style_calls() {
    type Code = unsafe extern "efiapi" fn(i32, f64, i64, f64, f64, i64, f64) -> i64;
    let want = (-3, 2.5, 0x0123_4567_89ab_cdef, -4.75, 6.125, -7, 8.5);
    let typed = |a: i32, b: f64, c: i64, d: f64, e: f64, f: i64, g: f64| {
        assert_eq!((a, b, c, d, e, f, g), want);
        42
    };
    let typed = Callback::<Code>::from_ref(&typed).unwrap();
    let types = [Type::I32, Type::F64, Type::I64, Type::F64, Type::F64, Type::I64, Type::F64];
    let dynamic = Dynamic::new(Signature::new(Convention::C, &types, Some(Type::I64)).unwrap(), |frame| {
        let (a, b, c, d) = (frame.get(0), frame.get(1), frame.get(2), frame.get(3));
        let (e, f, g) = (frame.get(4), frame.get(5), frame.get(6));
        let got = (a.unwrap(), b.unwrap(), c.unwrap(), d.unwrap(), e.unwrap(), f.unwrap(), g.unwrap());
        assert_eq!(got, want);
        frame.set_result(42_i64).unwrap();
    });
    // By Microsoft's x64 convention a variadic callee may as well read floating-point arguments from the integer
    // registers.
    let types = types.map(|ty| if ty == Type::F64 { Type::U64 } else { ty });
    let as_bits = Dynamic::new(Signature::new(Convention::C, &types, Some(Type::I64)).unwrap(), |frame| {
        for (index, want) in [(1, want.1), (3, want.3), (4, want.4), (6, want.6)] {
            assert_eq!(f64::from_bits(frame.get(index).unwrap()), want);
        }
        frame.set_result(42_i64).unwrap();
    });
    let dynamic = Callback::from_dynamic(&dynamic).unwrap();
    let as_bits = Callback::from_dynamic(&as_bits).unwrap();
    for caller in VARIADIC {
        let codes = [typed.code() as *const c_void, dynamic.code().as_ptr(), as_bits.code().as_ptr()];
        // On AArch64 Windows passes all in integer registers, others pass each class in its own.
        let codes = match (cfg!(target_arch = "aarch64"), cfg!(windows)) {
            (true, true) => &codes[2..],
            (true, false) => &codes[..2],
            (false, _) => &codes[..],
        };
        for &code in codes {
            // SAFETY: the C function calls with that signature.
            assert_eq!(unsafe { caller(code) }, 1);
        }
    }
}

unsafe extern "C" {
    /// That of the system's C library; msvcrt's has another name.
    #[cfg_attr(all(windows, not(target_arch = "aarch64")), link_name = "_vsnprintf")]
    fn vsnprintf(to: *mut c_char, size: usize, format: *const c_void, list: *mut c_void) -> i32;
}

/// Reads all that the C function passes; returns how many those are.
fn read_rest(rest: &mut Rest<'_>) -> i32 {
    // SAFETY: these are the types of what it passes, by C's rules.
    unsafe {
        assert_eq!((rest.next::<i32>(), rest.next::<f64>()), (-3, 2.5));
        let text = rest.next::<*const c_void>().cast::<c_char>();
        assert_eq!(CStr::from_ptr(text), c"text");
        assert_eq!((rest.next::<i64>(), rest.next::<u8>()), (0x0123_4567_89ab_cdef, b'c'));
        assert_eq!((rest.next::<f32>(), rest.next::<f64>()), (0.5, -4.75));
        assert_eq!((rest.next::<i16>(), rest.next::<f64>()), (-7, 6.125));
        // What a function of Windows code would read next.
        #[cfg(target_arch = "x86_64")]
        assert_eq!(rest.clone().windows_va_list().cast::<u64>().read(), 9);
        assert_eq!((rest.next::<u64>(), rest.next::<f64>()), (9, 8.5));
        assert!(!rest.next::<*mut c_void>().is_null());
        assert_eq!((rest.next::<f64>(), rest.next::<i32>()), (-16.25, 17));
    }
    14
}

/// A variadic function that formats as `printf`, or without a format reads what follows.
fn format_rest(frame: &mut calltable::Frame<'_>) {
    assert_eq!(frame.get(0), Ok(1.5));
    let format = frame.get::<*const c_void>(1).unwrap();
    let mut rest = frame.rest().unwrap();
    let length = if format.is_null() {
        read_rest(&mut rest.clone());
        read_rest(&mut rest)
    } else {
        let mut text = [0; 100];
        // SAFETY: the format is that of the arguments, and there is room for its text.
        let length = unsafe { vsnprintf(text.as_mut_ptr(), text.len(), format, rest.va_list()) };
        let want = c"-3 2.50 text 7 -4.750 c -7 0.5 beef 6.1250 more -16.25 17";
        // SAFETY: it ends in a zero.
        assert_eq!(unsafe { CStr::from_ptr(text.as_ptr()) }, want);
        length
    };
    frame.set_result(length).unwrap();
}

#[test]
fn the_rest_of_a_variadic_call_is_read_and_handed_on() {
    let parameters = [Type::F64, Type::Pointer];
    let handler = Dynamic::new(Signature::variadic(Convention::C, &parameters, Some(Type::I32)).unwrap(), format_rest);
    let callback = Callback::from_dynamic(&handler).unwrap();
    for caller in VARIADIC_REST {
        // SAFETY: the C function calls with that signature.
        assert_eq!(unsafe { caller(callback.code().as_ptr()) }, 1);
    }
}

#[test]
fn only_variadic_signatures_have_a_rest() {
    let handler = Dynamic::new(Signature::new(Convention::C, &[], None).unwrap(), |frame| {
        assert_eq!(frame.rest().unwrap_err(), FrameError::NotVariadic);
        called();
    });
    let callback = Callback::from_dynamic(&handler).unwrap();
    CALLS.set(0);
    // SAFETY: that is the signature.
    unsafe { callback.code().cast::<unsafe extern "efiapi" fn()>()() };
    assert_eq!(CALLS.get(), 1);
    #[cfg(target_arch = "x86")]
    for convention in [Convention::Stdcall, Convention::Thiscall, Convention::Fastcall] {
        assert_eq!(Signature::variadic(convention, &[], None), Err(SignatureError::NotVariadic(convention)));
    }
    let structure = Signature::variadic(Convention::C, &[Type::I32, Type::Struct { size: 12 }], None);
    let error = Err(SignatureError::TypeUnavailable { parameter: Some(1) });
    assert_eq!(structure.is_err(), cfg!(all(target_arch = "aarch64", windows)));
    assert!(structure.is_ok() || structure == error);
}
