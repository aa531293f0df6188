//! The fixed part of what `cargo xtask torture` runs: registers what each case says, has the case's C caller call the
//! entry, and looks at every value, register and stack word. The C callers, the C handlers and the typed closures are
//! generated.
//!
//! A caller takes its arguments from a block of memory and puts the result there; a handler puts its arguments into
//! another block and takes the result from there. All else is done here, from the text of the case.
#![allow(missing_docs, reason = "the other part of the program is generated")]

pub mod case;
#[cfg_attr(target_arch = "aarch64", path = "check_aarch64.rs")]
mod check;

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::process::ExitCode;

use calltable::table::{self, Binding, MAX_POSITIONS};
use calltable::{Convention, Element, Error, Frame, RawFrame, Scalar, Signature, Value};

use case::{Case, F80, MOST, Platform, ROOM, Type, VECTORS};
use check::{GUARDS, STATE, WRECK, torture_check, torture_wreck};

const PLATFORM: Platform = Platform {
    is_64_bit: cfg!(target_pointer_width = "64"),
    is_windows: cfg!(windows),
    is_aarch64: cfg!(target_arch = "aarch64"),
};

/// What a call passes, or what it has passed.
#[repr(C, align(64))]
pub struct Block {
    bytes: [u8; (MOST + 1) * ROOM],
}

/// One line of a table that C makes; a null pointer ends it.
#[repr(C)]
pub struct Entry {
    case: usize,
    caller: Option<Caller>,
    handler: *const (),
}

/// A typed closure: registers itself, and has the call made.
pub type Typed = fn(&mut Block, &mut dyn FnMut(*const c_void)) -> Result<(), Error>;

/// # Safety
/// `P` must be the type of that argument; a handler calls it with the block that its call has.
pub unsafe fn put<P>(block: *mut Block, index: usize, value: P) {
    // SAFETY: no type is larger than its room, and rooms are aligned for all.
    unsafe { block.cast::<u8>().add(index * ROOM).cast::<P>().write(value) }
}

/// # Safety
/// `R` must be the type of the result.
pub unsafe fn result<R>(block: *mut Block) -> R {
    // SAFETY: there is a value of that type.
    unsafe { block.cast::<u8>().add(MOST * ROOM).cast::<R>().read() }
}

/// A block that typed closures refer to.
#[derive(Clone, Copy)]
pub struct Shared(pub *mut Block);
// SAFETY: there is one thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}
impl Shared {
    pub fn get(&self) -> *mut Block {
        self.0
    }
}

/// Defines a [`Typed`] that registers by the constructor that is named.
#[macro_export]
macro_rules! typed {
    ($name:ident $abi:literal $constructor:ident ($($index:literal $a:ident $P:ty,)*) $R:ty) => {
        fn $name(
            block: &mut $crate::Block,
            call: &mut dyn FnMut(*const core::ffi::c_void),
        ) -> Result<(), calltable::Error> {
            type Code = unsafe extern $abi fn($($P),*) -> $R;
            let shared = $crate::Shared(block);
            $crate::typed!(@$constructor Code shared call ($($index $a $P,)*) $R)
        }
    };
    (@from_ref $Code:ident $shared:ident $call:ident ($($index:literal $a:ident $P:ty,)*) $R:ty) => {{
        // SAFETY: the types of the case.
        let closure = move |$($a: $P),*| -> $R { unsafe {
            let block = $shared.get();
            $($crate::put(block, $index, $a);)*
            $crate::result(block)
        }};
        let callback = calltable::Callback::<$Code>::from_ref(&closure)?;
        $call(callback.code() as *const _);
        Ok(())
    }};
    (@from_ref_with $Code:ident $shared:ident $call:ident ($($index:literal $a:ident $P:ty,)*) $R:ty) => {{
        // SAFETY: the types of the case.
        let closure = move |$($a: $P),*| -> $R { unsafe {
            let block = $shared.get();
            $($crate::put(block, $index, $a);)*
            $crate::result(block)
        }};
        let options = calltable::Options::new().tracked();
        let callback = calltable::Callback::<$Code>::from_ref_with(options, &closure)?;
        $call(callback.code() as *const _);
        Ok(())
    }};
    (@from_mut $Code:ident $shared:ident $call:ident ($($index:literal $a:ident $P:ty,)*) $R:ty) => {{
        // SAFETY: the types of the case.
        let mut closure = move |$($a: $P),*| -> $R { unsafe {
            let block = $shared.get();
            $($crate::put(block, $index, $a);)*
            $crate::result(block)
        }};
        let callback = calltable::Callback::<$Code>::from_mut(&mut closure)?;
        $call(callback.code() as *const _);
        Ok(())
    }};
    (@from_fn $Code:ident $shared:ident $call:ident ($($index:literal $a:ident $P:ty,)*) $R:ty) => {{
        // SAFETY: the types of the case.
        fn handle(shared: &$crate::Shared, $($a: $P),*) -> $R { unsafe {
            let block = shared.get();
            $($crate::put(block, $index, $a);)*
            $crate::result(block)
        }}
        let callback = calltable::Callback::<$Code>::from_fn(&$shared, handle)?;
        $call(callback.code() as *const _);
        Ok(())
    }};
}

/// Ends the program at the first exception. Nothing else would: what stands between caller and entry has no unwind
/// data, so who looks for a handler finds the same frame for ever.
#[cfg(all(windows, target_arch = "aarch64"))]
fn end_at_exceptions() {
    unsafe extern "system" {
        fn AddVectoredExceptionHandler(is_first: u32, handler: unsafe extern "system" fn(*const *const u32) -> i32);
        fn TerminateProcess(process: isize, code: u32) -> i32;
    }
    unsafe extern "system" fn end(pointers: *const *const u32) -> i32 {
        // SAFETY: the first of them leads to the record, which begins with the exception's code.
        let code = unsafe { **pointers };
        eprintln!("exception {code:#x}");
        // SAFETY: -1 is this process.
        unsafe { TerminateProcess(-1, code) }
    }
    // SAFETY: such a handler, which stays.
    unsafe { AddVectoredExceptionHandler(1, end) };
}

/// Runs the cases of the file that the command line names; with `--verbose` names each before it runs. Prints a line
/// for each that fails, and how many calls there were.
///
/// # Safety
/// Tables and closures must be those of the cases.
pub unsafe fn run(tables: &[*const Entry], typed: &[(usize, Typed)]) -> ExitCode {
    #[cfg(all(windows, target_arch = "aarch64"))]
    end_at_exceptions();
    let mut arguments = std::env::args().skip(1);
    let text = std::fs::read_to_string(arguments.next().expect("a file")).expect("cases");
    let is_verbose = arguments.next().is_some();
    let (mut callers, mut handlers) = (HashMap::new(), HashMap::new());
    let typed: HashMap<_, _> = typed.iter().copied().collect();
    for table in tables {
        let mut entry = *table;
        loop {
            // SAFETY: C's tables end with a line of null pointers.
            let next = unsafe { &*entry };
            if next.caller.is_none() && next.handler.is_null() {
                break;
            }
            callers.extend(next.caller.map(|caller| (next.case, caller)));
            handlers.extend((!next.handler.is_null()).then_some((next.case, next.handler)));
            entry = entry.wrapping_add(1);
        }
    }
    let (mut calls, mut failed) = ([0; 3], 0);
    for (index, line) in text.lines().enumerate() {
        let case = Case::parse(line).expect("a case").received(PLATFORM);
        for lane in &case.lanes {
            if is_verbose {
                println!("RUN {index} {lane}");
            }
            let outcome = match *lane {
                "direct" => direct(&case, callers[&index], handlers[&index]),
                "frame" => frame(&case, callers[&index]),
                _ => closure(&case, callers[&index], typed[&index]),
            };
            calls[case::LANES.iter().position(|known| known == lane).expect("a lane")] += 1;
            if let Err(message) = outcome {
                failed += 1;
                println!("FAIL {index} {lane}: {message}");
            }
        }
    }
    println!("DONE {} {} {} {failed}", calls[0], calls[1], calls[2]);
    ExitCode::SUCCESS
}

type Caller = unsafe extern "efiapi" fn(unsafe extern "C" fn(), *mut Block);
type Outcome = Result<(), String>;

/// Byte `at` of value `index`: no other value has it at that place.
fn pattern(case: &Case, index: usize, at: usize) -> u8 {
    (index * 37 + at * 11 + usize::from(case.seed)) as u8
}

/// What a value consists of; leaves of a union are normalised in its order, so that each of its members is a proper
/// one.
fn fill(case: &Case, ty: &Type, index: usize) -> [u8; ROOM] {
    let mut bytes = [0; ROOM];
    for leaf in ty.leaves(PLATFORM, 0) {
        for (at, byte) in bytes.iter_mut().enumerate().skip(leaf.offset).take(leaf.size) {
            *byte = pattern(case, index, at);
        }
    }
    for leaf in ty.leaves(PLATFORM, 0) {
        let last = &mut bytes[leaf.offset + leaf.size - 1];
        match leaf.scalar.name {
            "bool" => *last = (*last >> 3) & 1,
            // Finite, and no NaN, which x87 registers would change.
            "f32" | "f64" => *last = 0x40 | *last & 0x80,
            F80 => {
                *last = 0x40 | *last & 0x80;
                bytes[leaf.offset + 7] |= 0x80; // the first digit, which is 1
            }
            _ => {}
        }
    }
    bytes
}

fn values(case: &Case) -> impl Iterator<Item = (usize, &Type)> {
    case.parameters.iter().enumerate().chain(case.result.iter().map(|ty| (MOST, ty)))
}

fn blocks(case: &Case) -> (Block, Block) {
    let mut outside = Block { bytes: [0xee; (MOST + 1) * ROOM] };
    let mut inside = Block { bytes: [0xdd; (MOST + 1) * ROOM] };
    for (index, ty) in values(case) {
        let block = if index == MOST { &mut inside } else { &mut outside };
        block.bytes[index * ROOM..][..ROOM].copy_from_slice(&fill(case, ty, index));
    }
    (outside, inside)
}

fn convention(case: &Case) -> Convention {
    match case.convention.as_str() {
        "win64" => Convention::Win64,
        "stdcall" => Convention::Stdcall,
        "cdecl" => Convention::Cdecl,
        "thiscall" => Convention::Thiscall,
        "fastcall" => Convention::Fastcall,
        _ => Convention::Aapcs64,
    }
}

/// Has the caller call `code` and looks at everything that it may rely on.
fn call(case: &Case, caller: Caller, code: *const c_void, outside: &mut Block) -> Outcome {
    let positions = case.positions(PLATFORM);
    let before = check::pattern();
    // SAFETY: there is one thread, and no other call runs; the caller is the case's own.
    let state = unsafe {
        STATE.target = code.cast();
        STATE.cleanup = if PLATFORM.is_64_bit || case.convention == "cdecl" { 0 } else { 4 * positions };
        STATE.guards_at = if PLATFORM.is_aarch64 {
            8 * case.words_on_aarch64(PLATFORM)
        } else if PLATFORM.is_64_bit {
            8 * positions.max(4)
        } else {
            4 * positions
        };
        STATE.before = before;
        caller(torture_check, outside);
        (&raw const STATE).read()
    };
    let is_float = case.result.as_ref().is_some_and(|ty| ty.is_scalar(&["f32", "f64", F80]));
    check::registers(&state, is_float)?;
    let moved = state.sp_after.wrapping_sub(state.sp) as isize;
    if moved != state.cleanup as isize {
        return Err(format!("{moved} bytes were removed, not {}", state.cleanup));
    }
    for index in 0..GUARDS {
        // A result in memory of the caller may lie there.
        let address = state.sp + state.guards_at + index * size_of::<usize>();
        let is_result = case.has_hidden_result(PLATFORM) && address.wrapping_sub(state.first & !7) < ROOM + 8;
        if !is_result && state.guards[index] != state.guards_after[index] {
            let (old, new) = (state.guards[index], state.guards_after[index]);
            return Err(format!("stack word {index} after the arguments was {old:#x}, is {new:#x}"));
        }
    }
    Ok(())
}

/// Compares what came with what went.
fn compare(case: &Case, outside: &Block, inside: &Block) -> Outcome {
    for (index, ty) in values(case) {
        let (got, sent) = if index == MOST { (outside, inside) } else { (inside, outside) };
        let bytes = |block: &Block, at: usize, size: usize| block.bytes[index * ROOM + at..][..size].to_vec();
        for leaf in ty.leaves(PLATFORM, 0) {
            let (got, sent) = (bytes(got, leaf.offset, leaf.size), bytes(sent, leaf.offset, leaf.size));
            if got != sent {
                let what = if index == MOST { "the result".into() } else { format!("argument {index}") };
                return Err(format!("{what}, offset {}: {got:02x?}, not {sent:02x?}", leaf.offset));
            }
        }
    }
    Ok(())
}

fn with_options(case: &Case, binding: Binding) -> Binding {
    let binding = match case.save {
        1 => binding.saving(),
        2 => binding.saving_control_words(),
        _ => binding,
    };
    match case.count {
        1 => binding.tracked(),
        2 => binding.exclusive(),
        _ => binding,
    }
}

/// Puts the wrapper before a handler.
fn wrapped(case: &Case, handler: *const ()) -> *const () {
    // SAFETY: there is one thread, and no call runs.
    unsafe {
        WRECK.target = handler;
        WRECK.level = case.wreck;
        WRECK.sp = 0;
    }
    torture_wreck as *const ()
}

/// What the wrapper has seen when the handler was called.
fn check_entry() -> Outcome {
    // SAFETY: there is one thread, and no call runs.
    let (sp, flags, foreign) = unsafe { (WRECK.sp, WRECK.flags, STATE.sp) };
    let below = if PLATFORM.is_aarch64 { 0 } else { 16 - size_of::<usize>() }; // the return address
    // A handler to which an entry jumps has the stack as the foreign code has it; i686 Windows promises words alone.
    let is_foreign = PLATFORM.is_windows && !PLATFORM.is_64_bit && sp + size_of::<usize>() == foreign;
    if sp == 0 {
        Err("the handler was not called".into())
    } else if sp % 16 != below && !is_foreign {
        Err(format!("the stack pointer is {sp:#x} when the handler begins"))
    } else if flags & 0x400 != 0 {
        Err("DF is set when the handler begins".into())
    } else {
        Ok(())
    }
}

fn register_and_call(case: &Case, caller: Caller, binding: Binding, outside: &mut Block) -> Outcome {
    let key = match table::register(&with_options(case, binding)) {
        Ok(key) => key,
        Err(error) => return Err(format!("refused: {error:?}")),
    };
    let outcome = call(case, caller, key.code().as_ptr(), outside);
    let running = table::live_slot(key.index()).and_then(|entry| entry.in_flight).unwrap_or(0);
    if running != 0 {
        return Err(format!("{running} calls are counted after the call"));
    }
    table::release(key).map_err(|error| format!("release: {error:?}"))?;
    outcome.and_then(|()| check_entry())
}

fn direct(case: &Case, caller: Caller, handler: *const ()) -> Outcome {
    let (mut outside, mut inside) = blocks(case);
    let positions = case.positions(PLATFORM);
    let handler = wrapped(case, handler);
    let (signature, data) = (signature(case)?, (&raw mut inside).cast());
    // SAFETY: the case's own handler, which takes the block as its data.
    let binding = unsafe {
        if case.seed % 2 == 0 && case.is_said_by_positions(PLATFORM) {
            Binding::direct(convention(case), handler.cast(), positions, data)
        } else {
            Binding::direct_as(handler.cast(), &signature, data)
        }
    };
    if positions > MAX_POSITIONS {
        return match table::register(&binding) {
            Err(Error::TooManyPositions { positions: found }) if found == positions => Ok(()),
            other => Err(format!("{positions} positions: {other:?}")),
        };
    }
    register_and_call(case, caller, binding, &mut outside)?;
    compare(case, &outside, &inside)
}

fn signature(case: &Case) -> Result<Signature, String> {
    let types: Vec<_> = case.parameters.iter().map(type_of).collect();
    let signature = Signature::new(convention(case), &types, case.result.as_ref().map(type_of));
    signature.map_err(|error| format!("{} positions: {error:?}", case.positions(PLATFORM)))
}

/// What the frame lane's handler gets as its data.
struct Dynamic<'a> {
    signature: &'a Signature,
    block: &'a mut Block,
    error: Option<String>,
}

fn frame(case: &Case, caller: Caller) -> Outcome {
    let (mut outside, mut inside) = blocks(case);
    let signature = signature(case)?;
    let mut data = Dynamic { signature: &signature, block: &mut inside, error: None };
    let pointer = (&raw mut data).cast();
    let handler = wrapped(case, handle as *const ());
    // SAFETY: a handler of that lane with its data, or the wrapper that calls it.
    let binding = unsafe {
        if case.save == 0 {
            let handler = std::mem::transmute::<*const (), table::FrameHandler>(handler);
            Binding::frame(handler, &signature, pointer)
        } else {
            Binding::frame_foreign(handler.cast(), &signature, pointer)
        }
    };
    register_and_call(case, caller, binding, &mut outside)?;
    match data.error {
        Some(error) => Err(error),
        None => compare(case, &outside, &inside),
    }
}

fn closure(case: &Case, caller: Caller, typed: Typed) -> Outcome {
    let (mut outside, mut inside) = blocks(case);
    let mut outcome = Ok(());
    let registered = typed(&mut inside, &mut |code| outcome = call(case, caller, code, &mut outside));
    let positions = case.positions(PLATFORM);
    match registered {
        Ok(()) if positions <= MAX_POSITIONS => outcome.and_then(|()| compare(case, &outside, &inside)),
        Err(Error::TooManyPositions { .. }) if positions > MAX_POSITIONS => Ok(()),
        other => Err(format!("{positions} positions: {other:?}")),
    }
}

fn type_of(ty: &Type) -> calltable::Type {
    let is_padded_union = ty.any(&|ty| matches!(ty, Type::Union(_))) && ty.any(&|ty| matches!(ty, Type::Aligned(..)));
    // `Type::structure` cannot tell.
    if let (Some((element, count)), true) = (ty.homogeneous(PLATFORM), ty.has(VECTORS) || is_padded_union) {
        let element = match element.name {
            "f32" => Element::F32,
            "f64" => Element::F64,
            "v64" => Element::Vector8,
            _ => Element::Vector16,
        };
        return calltable::Type::Homogeneous { element, count: count as u8 };
    }
    let Type::Scalar(scalar) = ty else {
        let (size, align) = (ty.size(PLATFORM) as u32, ty.align(PLATFORM) as u32);
        let mut members: Vec<_> =
            ty.leaves(PLATFORM, 0).iter().map(|leaf| type_of(&Type::Scalar(leaf.scalar))).collect();
        if is_padded_union {
            members.clear(); // and so it is not homogeneous
        }
        // Of i686 nothing but the size counts, and compilers do not agree on more.
        return calltable::Type::structure(size, if PLATFORM.is_64_bit { align } else { 1 }, &members);
    };
    match scalar.name {
        "bool" => calltable::Type::Bool,
        "i8" => calltable::Type::I8,
        "u8" => calltable::Type::U8,
        "i16" => calltable::Type::I16,
        "u16" => calltable::Type::U16,
        "i32" => calltable::Type::I32,
        "u32" => calltable::Type::U32,
        "i64" => calltable::Type::I64,
        "u64" => calltable::Type::U64,
        "i128" => calltable::Type::I128,
        "u128" => calltable::Type::U128,
        "f32" => calltable::Type::F32,
        "f64" => calltable::Type::F64,
        F80 => calltable::Type::F80,
        _ => calltable::Type::Pointer,
    }
}

/// The frame lane's handler of every case.
unsafe extern "efiapi" fn handle(data: *mut c_void, raw: *mut RawFrame) {
    // SAFETY: the data is such a structure, whose call this is.
    let data = unsafe { &mut *data.cast::<Dynamic<'_>>() };
    // SAFETY: this call's frame, and the signature that it was made by.
    let mut frame = unsafe { Frame::new(&mut *raw, data.signature) };
    for index in 0..data.signature.parameters().len() {
        match frame.value(index) {
            Ok(Value::Bool(value)) => same(&frame, data.block, index, value),
            Ok(Value::I8(value)) => same(&frame, data.block, index, value),
            Ok(Value::U8(value)) => same(&frame, data.block, index, value),
            Ok(Value::I16(value)) => same(&frame, data.block, index, value),
            Ok(Value::U16(value)) => same(&frame, data.block, index, value),
            Ok(Value::I32(value)) => same(&frame, data.block, index, value),
            Ok(Value::U32(value)) => same(&frame, data.block, index, value),
            Ok(Value::I64(value)) => same(&frame, data.block, index, value),
            Ok(Value::U64(value)) => same(&frame, data.block, index, value),
            Ok(Value::I128(value)) => same(&frame, data.block, index, value),
            Ok(Value::U128(value)) => same(&frame, data.block, index, value),
            Ok(Value::F32(value)) => same(&frame, data.block, index, value),
            Ok(Value::F64(value)) => same(&frame, data.block, index, value),
            Ok(Value::F80(bytes)) => data.block.bytes[index * ROOM..][..bytes.len()].copy_from_slice(&bytes),
            Ok(Value::Pointer(value)) => same(&frame, data.block, index, value),
            Ok(Value::Struct(bytes)) => data.block.bytes[index * ROOM..][..bytes.len()].copy_from_slice(bytes),
            other => data.error = Some(format!("argument {index}: {other:?}")),
        }
    }
    if let Some(ty) = data.signature.result() {
        if let Err(error) = set_result(&mut frame, ty, &data.block.bytes[MOST * ROOM..]) {
            data.error = Some(format!("result: {error:?}"));
        }
    }
}

/// Stores an argument; with rubbish in its place if the two ways to get at it differ.
fn same<T: Scalar + PartialEq>(frame: &Frame<'_>, block: &mut Block, index: usize, value: T) {
    if frame.get::<T>(index) == Ok(value) {
        // SAFETY: a scalar, in its room.
        unsafe { put(block, index, value) };
    }
}

fn set_result(frame: &mut Frame<'_>, ty: calltable::Type, bytes: &[u8]) -> Result<(), calltable::FrameError> {
    fn read<T: Scalar>(bytes: &[u8]) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the room holds a value of every scalar's size.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast(), size_of::<T>());
            value.assume_init()
        }
    }
    match ty {
        calltable::Type::Bool => frame.set_result(read::<bool>(bytes)),
        calltable::Type::I8 => frame.set_result(read::<i8>(bytes)),
        calltable::Type::U8 => frame.set_result(read::<u8>(bytes)),
        calltable::Type::I16 => frame.set_result(read::<i16>(bytes)),
        calltable::Type::U16 => frame.set_result(read::<u16>(bytes)),
        calltable::Type::I32 => frame.set_result(read::<i32>(bytes)),
        calltable::Type::U32 => frame.set_result(read::<u32>(bytes)),
        calltable::Type::I64 => frame.set_result(read::<i64>(bytes)),
        calltable::Type::U64 => frame.set_result(read::<u64>(bytes)),
        calltable::Type::I128 => frame.set_result(read::<i128>(bytes)),
        calltable::Type::U128 => frame.set_result(read::<u128>(bytes)),
        calltable::Type::F32 => frame.set_result(read::<f32>(bytes)),
        calltable::Type::F64 => frame.set_result(read::<f64>(bytes)),
        calltable::Type::Pointer => frame.set_result(read::<*mut c_void>(bytes)),
        _ => frame.result_bytes().map(|result| {
            let length = result.len();
            result.copy_from_slice(&bytes[..length]);
        }),
    }
}
