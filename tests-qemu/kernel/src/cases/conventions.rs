//! C code, compiled for no operating system by Clang at two levels, calls closures: every type in every position.

use core::ffi::c_void;
use core::sync::atomic::{AtomicIsize, AtomicU32, Ordering};

use calltable::{Callback, Convention, Dynamic, Signature, Type};
#[cfg(target_arch = "aarch64")]
use calltable_callers::{Aligned, AlignedMore};
use calltable_callers::{Bytes, Function, NEST, Pattern, for_each_case};
#[cfg(floats)]
use calltable_callers::{DoublePair, FloatPair};
#[cfg(all(target_arch = "aarch64", floats))]
use calltable_callers::{Doubles3, Doubles4, Float1, Floats3, Floats4, Mixed};

#[path = "../../../../tests/signatures/dynamic.rs"]
mod dynamic;

static CALLS: AtomicU32 = AtomicU32::new(0);

fn called() {
    CALLS.fetch_add(1, Ordering::SeqCst);
}

fn make<T, E: core::fmt::Display>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// Runs one C function of each level with the callback, and checks that each called once and liked the result.
macro_rules! run {
    ($callback:expr, [$($caller:ident)*]) => { $(
        CALLS.store(0, Ordering::SeqCst);
        // SAFETY: the C function calls with the signature of the case, while the callback lives.
        let satisfied = unsafe { calltable_callers::$caller($callback) };
        assert_eq!((satisfied, CALLS.load(Ordering::SeqCst)), (1, 1), "{}: result, calls", stringify!($caller));
    )* };
}

/// The direct lane: a closure with the case's own types.
macro_rules! case_typed {
    ($case:ident $abi:literal [$($caller:ident)*] ($($a:ident: $P:ty),*) -> $R:ty,
        [$($types:expr),*], $result:expr) => {{
        #[inline(never)]
        fn run() {
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
            let callback = make(Callback::<Code>::from_ref(&closure));
            run!(callback.code() as *const c_void, [$($caller)*]);
        }
        run();
    }};
}

/// The frame lane: the same case from its description.
macro_rules! case_dynamic {
    ($case:ident $abi:literal [$($caller:ident)*] ($($a:ident: $P:ty),*) -> $R:ty,
        [$($types:expr),*], $result:expr) => {{
        #[inline(never)]
        fn run() {
            let signature = make(Signature::new(dynamic::convention($abi), &[$($types),*], $result));
            let handler = Dynamic::new(signature, |frame| {
                called();
                dynamic::check(stringify!($case), frame);
            });
            let callback = make(Callback::from_dynamic(&handler));
            run!(callback.code().as_ptr(), [$($caller)*]);
        }
        run();
    }};
}

pub fn typed() {
    for_each_case!(case_typed);
}

pub fn dynamic() {
    for_each_case!(case_dynamic);
}

type Unary = unsafe extern "efiapi" fn(isize) -> isize;

pub fn nested() {
    const DEPTH: isize = 100;
    static CODE: AtomicIsize = AtomicIsize::new(0);
    fn down(depth: isize) -> isize {
        if depth == 0 {
            return 0;
        }
        let code = core::ptr::without_provenance(CODE.load(Ordering::SeqCst) as usize);
        // SAFETY: the callback lives until the outermost call has returned.
        depth + unsafe { NEST(code, depth - 1) }
    }
    let typed = make(Callback::<Unary>::from_ref(&down));
    let signature = make(Signature::new(Convention::C, &[Type::ISIZE], Some(Type::ISIZE)));
    let handler = Dynamic::new(signature, |frame| {
        let result = down(make(frame.get(0)));
        make(frame.set_result(result));
    });
    let dynamic = make(Callback::from_dynamic(&handler));
    for code in [typed.code() as *const c_void, dynamic.code().as_ptr()] {
        CODE.store(code.addr() as isize, Ordering::SeqCst);
        // SAFETY: it lives, and has these types.
        assert_eq!(unsafe { NEST(code, DEPTH) }, DEPTH * (DEPTH + 1) / 2);
    }
}

pub fn exclusive() {
    static CODE: AtomicIsize = AtomicIsize::new(0);
    let mut calls = 0;
    let mut closure = |depth: isize| {
        calls += 1;
        let code = core::ptr::without_provenance(CODE.load(Ordering::SeqCst) as usize);
        // SAFETY: the callback lives. The inner call is stale: its result says so (every_slot.rs).
        unsafe { NEST(code, depth) }
    };
    let callback = make(Callback::<Unary>::from_mut(&mut closure));
    CODE.store(callback.code() as *const c_void as isize, Ordering::SeqCst);
    // SAFETY: it lives.
    let result = unsafe { callback.code()(1) };
    assert_eq!(result, 0x30_0000 + callback.slot().index() as isize);
    drop(callback);
    assert_eq!(calls, 1);
}
