//! Methods of C++ by Microsoft's rule: the address of a structure that is returned comes after `this`.
//!
//! On Windows (GNU) the calls are those of Clang for MSVC and of MinGW's C++; elsewhere Rust's, by the same types.
#![cfg(any(target_arch = "x86_64", target_arch = "x86"))] // AArch64: tests/results.rs

use std::ffi::c_void;

use calltable::{Callback, Convention, Dynamic, Method, Signature, Type};

/// An object as foreign code sees it, and what must stay as it is.
#[repr(C)]
struct Object {
    methods: *const *const c_void,
    rest: [u32; 4],
}

type This = *mut Object;

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Bytes<const SIZE: usize>([u8; SIZE]);

impl<const SIZE: usize> Bytes<SIZE> {
    /// What a method returns for its arguments.
    fn of(first: i8, second: i64) -> Self {
        Self(std::array::from_fn(|i| (i as u8 + 1).wrapping_mul(first as u8).wrapping_add(second as u8)))
    }
}

const REST: [u32; 4] = [11, 22, 33, 44];

/// Gives `call` an object whose methods are these.
fn with_object<R>(methods: &[*const c_void], call: impl FnOnce(This) -> R) -> R {
    let mut object = Object { methods: methods.as_ptr(), rest: REST };
    let result = call(&raw mut object);
    assert_eq!((object.methods, object.rest), (methods.as_ptr(), REST), "the object has been overwritten");
    result
}

fn assert_this(this: This) {
    // SAFETY: the object that the caller has.
    assert_eq!(unsafe { (*this).rest }, REST);
}

/// Calls a method as Rust does if everything is said by hand.
macro_rules! call {
    ($abi:literal $size:literal, $code:expr) => {
        with_object(&[], |this| {
            // SAFETY: that is the method's true type; the callback lives.
            unsafe {
                type Code = unsafe extern $abi fn(This, *mut Bytes<$size>, i8, i64) -> *mut Bytes<$size>;
                let code = std::mem::transmute::<*const c_void, Code>($code);
                let mut result = Bytes([0xee; $size]);
                assert_eq!(code(this, &mut result, -3, 1 << 40 | 77), &raw mut result, concat!($abi, " ", $size));
                assert_eq!(result, Bytes::of(-3, 1 << 40 | 77), concat!($abi, " ", $size));
            }
        })
    };
}

macro_rules! typed {
    ($($abi:literal)*: $size:literal) => { $({
        type Code = Method<unsafe extern $abi fn(This, i8, i64) -> Bytes<$size>>;
        let closure = |this: This, first: i8, second: i64| {
            assert_this(this);
            Bytes::of(first, second)
        };
        let callback = Callback::<Code>::from_ref(&closure).unwrap();
        call!($abi $size, callback.code().as_ptr());
        drop(callback);
        let mut calls = 0;
        let mut exclusive = |this: This, first: i8, second: i64| {
            calls += 1;
            closure(this, first, second)
        };
        let callback = Callback::<Code>::from_mut(&mut exclusive).unwrap().untyped();
        call!($abi $size, callback.code().as_ptr());
        drop(callback);
        assert_eq!(calls, 1);
        let by_function = |data: &u64, this: This, first: i8, second: i64| {
            assert_eq!(*data, 0xda7a);
            assert_this(this);
            Bytes::of(first, second)
        };
        let callback = Callback::<Code>::from_fn(&0xda7a, by_function).unwrap();
        call!($abi $size, callback.code().as_ptr());
    })* };
}

/// The frame lane.
macro_rules! dynamic {
    ($($abi:literal $convention:ident)*: $size:literal) => { $({
        let types = [Type::Pointer, Type::I8, Type::I64];
        let result = Some(Type::Struct { size: $size });
        let handler = Dynamic::new(Signature::method(Convention::$convention, &types, result).unwrap(), |frame| {
            assert_this(frame.get::<*mut c_void>(0).unwrap().cast());
            let bytes = Bytes::<$size>::of(frame.get(1).unwrap(), frame.get(2).unwrap());
            frame.result_bytes().unwrap().copy_from_slice(&bytes.0);
        });
        let callback = Callback::from_dynamic(&handler).unwrap();
        call!($abi $size, callback.code().as_ptr());
    })* };
}

macro_rules! for_each_size {
    ($check:ident: $($list:tt)*) => {
        $check!($($list)*: 1);
        $check!($($list)*: 3);
        $check!($($list)*: 4);
        $check!($($list)*: 8);
        $check!($($list)*: 12);
        $check!($($list)*: 24);
        $check!($($list)*: 72);
    };
}

#[test]
fn typed_methods_return_every_structure_after_this() {
    #[cfg(target_arch = "x86_64")]
    for_each_size!(typed: "win64" "efiapi");
    #[cfg(target_arch = "x86")]
    for_each_size!(typed: "stdcall" "cdecl" "thiscall" "fastcall");
}

#[test]
fn dynamic_methods_return_every_structure_after_this() {
    #[cfg(target_arch = "x86_64")]
    for_each_size!(dynamic: "win64" Win64);
    #[cfg(target_arch = "x86")]
    for_each_size!(dynamic: "stdcall" Stdcall "cdecl" Cdecl "thiscall" Thiscall "fastcall" Fastcall);
}

#[test]
fn a_method_that_returns_no_structure_is_a_function() {
    let types = [Type::Pointer, Type::I32];
    let convention = if cfg!(target_arch = "x86") { Convention::Stdcall } else { Convention::Win64 };
    let method = Signature::method(convention, &types, Some(Type::I32)).unwrap();
    assert!(method.is_method() && !Signature::new(convention, &types, Some(Type::I32)).unwrap().is_method());
    let handler = Dynamic::new(method, |frame| frame.set_result(frame.get::<i32>(1).unwrap() + 1).unwrap());
    let callback = Callback::from_dynamic(&handler).unwrap();
    #[cfg(target_arch = "x86_64")]
    type Code = unsafe extern "win64" fn(This, i32) -> i32;
    #[cfg(target_arch = "x86")]
    type Code = unsafe extern "stdcall" fn(This, i32) -> i32;
    // SAFETY: that is its type; it lives.
    assert_eq!(unsafe { callback.code().cast::<Code>()(std::ptr::null_mut(), 41) }, 42);
}

/// What `tests/callers/src/methods.cpp` calls: methods that return 1, 4, 8, 12 and 24 bytes, and one that returns a
/// number.
#[cfg(all(windows, target_env = "gnu"))]
mod foreign {
    use calltable::CodePointer;
    use calltable_callers as _; // brings the callers' objects

    use super::*;

    type Caller = unsafe extern "C" fn(This) -> i32;

    macro_rules! callers {
        ($($name:ident)*) => {
            unsafe extern "C" { $(fn $name(object: This) -> i32;)* }
        };
    }
    callers!(methods_stdcall_msvc_O0 methods_stdcall_msvc_O2 methods_stdcall_mingw_O0 methods_stdcall_mingw_O2);
    #[cfg(target_arch = "x86")]
    callers!(methods_cdecl_msvc_O0 methods_cdecl_msvc_O2 methods_cdecl_mingw_O0 methods_cdecl_mingw_O2
        methods_thiscall_msvc_O0 methods_thiscall_msvc_O2 methods_fastcall_msvc_O0 methods_fastcall_msvc_O2);

    fn check(callbacks: &[Callback<'_, CodePointer>], callers: &[(&str, Caller)]) {
        let methods: Vec<_> = callbacks.iter().map(|callback| callback.code().as_ptr()).collect();
        for (name, caller) in callers {
            // SAFETY: the methods are those that the caller calls.
            let satisfied = with_object(&methods, |this| unsafe { caller(this) });
            assert_eq!(satisfied, 0b11_1111, "{name}: a bit for each method");
        }
    }

    fn dynamic(convention: Convention, is_method: bool, callers: &[(&str, Caller)]) {
        let types = [Type::Pointer, Type::I32, Type::I64];
        let make = if is_method { Signature::method } else { Signature::new };
        let handlers = [1, 4, 8, 12, 24, 0].map(|size| {
            let result = if size == 0 { Type::I32 } else { Type::Struct { size } };
            Dynamic::new(make(convention, &types, Some(result)).unwrap(), |frame| {
                assert_this(frame.get::<*mut c_void>(0).unwrap().cast());
                let (first, second) = (frame.get::<i32>(1).unwrap(), frame.get::<i64>(2).unwrap());
                let bytes = Bytes::<24>::of(first as i8, second);
                match frame.result_bytes() {
                    Ok(result) => {
                        let size = result.len();
                        result.copy_from_slice(&bytes.0[..size]);
                    }
                    Err(_) => frame.set_result(first + second as i32).unwrap(),
                }
            })
        });
        let callbacks = handlers.each_ref().map(|handler| Callback::from_dynamic(handler).unwrap());
        check(&callbacks, callers);
    }

    macro_rules! typed {
        ($abi:literal, $($wrapper:ident)?, $callers:expr) => {{
            macro_rules! structure {
                ($size:literal) => {{
                    let closure = &|this: This, first: i32, second: i64| {
                        assert_this(this);
                        Bytes::<$size>::of(first as i8, second)
                    };
                    type Code = typed!(type $abi $size $($wrapper)?);
                    Callback::<Code>::from_ref(closure).unwrap().untyped()
                }};
            }
            let number = |_: This, first: i32, second: i64| first + second as i32;
            let number = Callback::<unsafe extern $abi fn(This, i32, i64) -> i32>::from_ref(&number).unwrap();
            check(
                &[structure!(1), structure!(4), structure!(8), structure!(12), structure!(24), number.untyped()],
                $callers,
            );
        }};
        (type $abi:literal $size:literal Method) => { Method<unsafe extern $abi fn(This, i32, i64) -> Bytes<$size>> };
        (type $abi:literal $size:literal) => { unsafe extern $abi fn(This, i32, i64) -> Bytes<$size> };
    }

    const STDCALL_MSVC: &[(&str, Caller)] =
        &[("stdcall, MSVC, O0", methods_stdcall_msvc_O0), ("stdcall, MSVC, O2", methods_stdcall_msvc_O2)];
    const STDCALL_MINGW: &[(&str, Caller)] =
        &[("stdcall, MinGW, O0", methods_stdcall_mingw_O0), ("stdcall, MinGW, O2", methods_stdcall_mingw_O2)];

    #[test]
    fn methods_called_by_msvc() {
        typed!("system", Method, STDCALL_MSVC);
        let convention = if cfg!(target_arch = "x86") { Convention::Stdcall } else { Convention::Win64 };
        dynamic(convention, true, STDCALL_MSVC);
        #[cfg(target_arch = "x86")]
        {
            let cdecl: &[(&str, Caller)] =
                &[("cdecl, O0", methods_cdecl_msvc_O0), ("cdecl, O2", methods_cdecl_msvc_O2)];
            typed!("cdecl", Method, cdecl);
            dynamic(Convention::Cdecl, true, cdecl);
            let thiscall: &[(&str, Caller)] =
                &[("thiscall, O0", methods_thiscall_msvc_O0), ("thiscall, O2", methods_thiscall_msvc_O2)];
            typed!("thiscall", Method, thiscall);
            dynamic(Convention::Thiscall, true, thiscall);
            let fastcall: &[(&str, Caller)] =
                &[("fastcall, O0", methods_fastcall_msvc_O0), ("fastcall, O2", methods_fastcall_msvc_O2)];
            typed!("fastcall", Method, fastcall);
            dynamic(Convention::Fastcall, true, fastcall);
        }
    }

    /// They are called as functions are, so the plain types and signatures are right for them.
    #[test]
    fn methods_called_by_mingw() {
        typed!("system", , STDCALL_MINGW);
        let convention = if cfg!(target_arch = "x86") { Convention::Stdcall } else { Convention::Win64 };
        dynamic(convention, false, STDCALL_MINGW);
        #[cfg(target_arch = "x86")]
        {
            let cdecl: &[(&str, Caller)] =
                &[("cdecl, O0", methods_cdecl_mingw_O0), ("cdecl, O2", methods_cdecl_mingw_O2)];
            typed!("cdecl", , cdecl);
            dynamic(Convention::Cdecl, false, cdecl);
        }
    }
}
