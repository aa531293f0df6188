//! Between Lua's values and those of foreign code.

use calltable::{Frame, FrameError, Type};
use mlua::{Value, prelude::LuaString};

use crate::callback::Callback;
use crate::memory::Buffer;

/// A Lua value as an argument or result of that type. What it points to lives as long as the value.
pub fn to_bits(value: &Value, ty: Type) -> Result<u64, String> {
    let wrong = || format!("{} is no {}", value.type_name(), name(ty));
    match (ty, value) {
        (Type::Bool, Value::Boolean(value)) => Ok((*value).into()),
        (Type::F32, _) => Ok((value.as_f64().ok_or_else(wrong)? as f32).to_bits().into()),
        (Type::F64, _) => Ok(value.as_f64().ok_or_else(wrong)?.to_bits()),
        (Type::Pointer, Value::Nil) => Ok(0),
        (Type::Pointer, Value::String(value)) => Ok(address_of(value)),
        (Type::Pointer, Value::UserData(data)) => {
            if let Ok(buffer) = data.borrow::<Buffer>() {
                return Ok(buffer.address() as u64);
            }
            Ok(data.borrow::<Callback>().map_err(|_| wrong())?.address()? as u64)
        }
        (Type::Bool, _) => Err(wrong()),
        _ => {
            let integer = value.as_integer().ok_or_else(wrong)?;
            // Signed or not: C's constants are written in either way.
            let bits = 8 * ty.size() as u32;
            let fits = bits == 64 || (-(1i64 << (bits - 1))..1i64 << bits).contains(&integer);
            fits.then_some(integer as u64).ok_or_else(|| format!("{integer} does not fit in {}", name(ty)))
        }
    }
}

/// The bits of a result as a Lua value; what is above its own bits is rubbish.
pub fn from_bits(bits: u64, ty: Option<Type>) -> Value {
    let Some(ty) = ty else { return Value::Nil };
    let above = 64 - 8 * ty.size() as u32;
    match ty {
        Type::Bool => Value::Boolean(bits as u8 != 0),
        Type::F32 => Value::Number(f32::from_bits(bits as u32).into()),
        Type::F64 => Value::Number(f64::from_bits(bits)),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 => Value::Integer((bits << above) as i64 >> above),
        _ => Value::Integer((bits << above >> above) as i64),
    }
}

/// A callback's argument as a Lua value.
pub fn from_argument(argument: calltable::Value<'_>) -> Value {
    use calltable::Value as Argument;
    match argument {
        Argument::Bool(value) => Value::Boolean(value),
        Argument::I8(value) => Value::Integer(value.into()),
        Argument::U8(value) => Value::Integer(value.into()),
        Argument::I16(value) => Value::Integer(value.into()),
        Argument::U16(value) => Value::Integer(value.into()),
        Argument::I32(value) => Value::Integer(value.into()),
        Argument::U32(value) => Value::Integer(value.into()),
        Argument::I64(value) => Value::Integer(value),
        Argument::U64(value) => Value::Integer(value as i64),
        Argument::F32(value) => Value::Number(value.into()),
        Argument::F64(value) => Value::Number(value),
        Argument::Pointer(value) => Value::Integer(value.expose_provenance() as i64),
        // No type string names another one.
        _ => Value::Nil,
    }
}

/// Sets a callback's result.
pub fn set_result(frame: &mut Frame<'_>, bits: u64) -> Result<(), FrameError> {
    match frame.signature().result() {
        None => Ok(()),
        Some(Type::Bool) => frame.set_result(bits != 0),
        Some(Type::I8) => frame.set_result(bits as i8),
        Some(Type::U8) => frame.set_result(bits as u8),
        Some(Type::I16) => frame.set_result(bits as i16),
        Some(Type::U16) => frame.set_result(bits as u16),
        Some(Type::I32) => frame.set_result(bits as i32),
        Some(Type::U32) => frame.set_result(bits as u32),
        Some(Type::I64) => frame.set_result(bits as i64),
        Some(Type::F32) => frame.set_result(f32::from_bits(bits as u32)),
        Some(Type::F64) => frame.set_result(f64::from_bits(bits)),
        Some(Type::Pointer) => frame.set_result(std::ptr::with_exposed_provenance_mut(bits as usize)),
        _ => frame.set_result(bits),
    }
}

/// Of a string's bytes, after which Lua keeps a zero.
fn address_of(string: &LuaString) -> u64 {
    string.as_bytes_with_nul().as_ptr().expose_provenance() as u64
}

fn name(ty: Type) -> String {
    format!("{ty:?}").to_lowercase()
}
