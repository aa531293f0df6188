//! A handler of the frame lane for every case of `calltable_callers`.

use core::ffi::c_void;

use calltable::{Convention, Frame, Type, Value};
use calltable_callers::{Bytes, Pattern};

/// The convention that Rust calls `name`.
pub fn convention(name: &str) -> Convention {
    match name {
        "win64" => Convention::Win64,
        "stdcall" => Convention::Stdcall,
        // Plain C, whose compiler is the system's.
        "cdecl" | "C" => Convention::C,
        "thiscall" => Convention::Thiscall,
        "fastcall" => Convention::Fastcall,
        other => panic!("no case has {other}"),
    }
}

/// Looks at every argument, and sets the result that the C function expects.
pub fn check(case: &str, frame: &mut Frame<'_>) {
    for (index, value) in frame.values().enumerate() {
        assert!(value_is(value, index), "{case}: argument {index}");
    }
    set_result(frame);
}

fn value_is(value: Value<'_>, seed: usize) -> bool {
    match value {
        Value::Bool(value) => value.is(seed),
        Value::I8(value) => value.is(seed),
        Value::U8(value) => value.is(seed),
        Value::I16(value) => value.is(seed),
        Value::U16(value) => value.is(seed),
        Value::I32(value) => value.is(seed),
        Value::U32(value) => value.is(seed),
        Value::I64(value) => value.is(seed),
        Value::U64(value) => value.is(seed),
        Value::I128(value) => value.is(seed),
        Value::U128(value) => value.is(seed),
        Value::F32(value) => value.is(seed),
        Value::F64(value) => value.is(seed),
        Value::Pointer(value) => value.is(seed),
        Value::Struct(bytes) => bytes == &Bytes::<72>::pattern(seed).0[..bytes.len()],
        other => panic!("no case has {other:?}"),
    }
}

fn set_result(frame: &mut Frame<'_>) {
    let Some(result) = frame.signature().result() else { return };
    let set = match result {
        Type::Bool => frame.set_result(bool::pattern(99)),
        Type::I8 => frame.set_result(i8::pattern(99)),
        Type::U8 => frame.set_result(u8::pattern(99)),
        Type::I16 => frame.set_result(i16::pattern(99)),
        Type::U16 => frame.set_result(u16::pattern(99)),
        Type::I32 => frame.set_result(i32::pattern(99)),
        Type::U32 => frame.set_result(u32::pattern(99)),
        Type::I64 => frame.set_result(i64::pattern(99)),
        Type::U64 => frame.set_result(u64::pattern(99)),
        Type::I128 => frame.set_result(i128::pattern(99)),
        Type::U128 => frame.set_result(u128::pattern(99)),
        Type::F32 => frame.set_result(f32::pattern(99)),
        Type::F64 => frame.set_result(f64::pattern(99)),
        Type::Pointer => frame.set_result(<*mut c_void>::pattern(99)),
        ty if ty.is_structure() => frame.result_bytes().map(|bytes| {
            let length = bytes.len();
            bytes.copy_from_slice(&Bytes::<72>::pattern(99).0[..length]);
        }),
        other => panic!("no case has {other:?}"),
    };
    assert_eq!(set, Ok(()));
}
