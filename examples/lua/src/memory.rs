//! Memory for foreign code: buffers of a script's own, and bytes at an address. Structures are made and taken apart
//! with Lua's own `string.pack` and `string.unpack`, in whose formats `!`, `i4`, `I2`, `T` and the like are C's rules.

use std::ffi::CStr;

use mlua::{Lua, MetaMethod, Result, Table, UserData, UserDataMethods, Value, prelude::LuaString};

use crate::value;

/// Memory that stays in its place as long as Lua knows it. It is aligned for every plain type.
pub struct Buffer {
    words: Box<[u128]>,
    size: usize,
}

impl Buffer {
    fn new(size: usize) -> Self {
        Self { words: vec![0; size.div_ceil(size_of::<u128>())].into(), size }
    }

    pub fn address(&self) -> usize {
        self.words.as_ptr().expose_provenance()
    }
}

impl UserData for Buffer {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("address", |_, buffer, ()| Ok(buffer.address()));
        methods.add_meta_method(MetaMethod::Len, |_, buffer, ()| Ok(buffer.size));
    }
}

/// Adds to the table `ffi`:
/// - `ffi.buffer(size)`, zeros; `ffi.buffer(bytes)`, a copy. `buffer:address()` is where it is, `#buffer` its size.
/// - `ffi.bytes(address, length)`: what is there, as a string.
/// - `ffi.text(address)`: the same up to a zero.
/// - `ffi.copy(address, bytes)`: writes them there.
///
/// An address is a number, a buffer, or a string. As in C, nobody looks whether there is memory.
pub fn add(lua: &Lua, ffi: &Table) -> Result<()> {
    ffi.set(
        "buffer",
        lua.create_function(|_, content: Value| match &content {
            Value::String(bytes) => {
                let buffer = Buffer::new(bytes.as_bytes().len());
                copy(buffer.address(), bytes);
                Ok(buffer)
            }
            size => Ok(Buffer::new(value::to_bits(size, calltable::Type::U32).map_err(mlua::Error::runtime)? as usize)),
        })?,
    )?;
    ffi.set(
        "bytes",
        lua.create_function(|lua, (at, length): (Value, usize)| {
            let start = std::ptr::with_exposed_provenance(address(&at)?);
            // SAFETY: by the script's promise that much memory is there.
            lua.create_string(unsafe { std::slice::from_raw_parts::<u8>(start, length) })
        })?,
    )?;
    ffi.set(
        "text",
        lua.create_function(|lua, at: Value| {
            let start = std::ptr::with_exposed_provenance(address(&at)?);
            // SAFETY: by the script's promise there is a string that ends with a zero.
            lua.create_string(unsafe { CStr::from_ptr(start) }.to_bytes())
        })?,
    )?;
    ffi.set(
        "copy",
        lua.create_function(|_, (at, bytes): (Value, LuaString)| {
            copy(address(&at)?, &bytes);
            Ok(())
        })?,
    )
}

fn address(value: &Value) -> Result<usize> {
    match value::to_bits(value, calltable::Type::Pointer) {
        Ok(0) => Err(mlua::Error::runtime("there is no memory at address 0")),
        Ok(bits) => Ok(bits as usize),
        Err(error) => Err(mlua::Error::runtime(error)),
    }
}

fn copy(address: usize, bytes: &LuaString) {
    let bytes = bytes.as_bytes();
    let start = std::ptr::with_exposed_provenance_mut::<u8>(address);
    // SAFETY: by the script's promise that much memory is there; the bytes may lie in it themselves.
    unsafe { start.copy_from(bytes.as_ptr(), bytes.len()) };
}
