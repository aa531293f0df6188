//! Signatures from the numbers that a C program gives, and frames of calls that such a signature describes: what is
//! refused and with which status, each argument, each result, and that nothing else is read or written. The arguments
//! lie in memory of exactly their size, so that the address sanitizer sees a step beyond.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::{null, null_mut};

use arbitrary::Arbitrary;
use calltable::{Element, Frame, MAX_POSITIONS, RawFrame, Signature, Type, Value};
use calltable_capi::{self as capi, Status};

use super::call::call;

/// A type's number: one that there is, a structure, or anything.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Plain(u8),
    Struct(u8),
    LargeStruct(u32),
    Any(u32),
}

const STRUCT: u32 = 0x8000_0000;
const ALIGNED: u32 = 0x4000_0000;

impl Number {
    fn get(self) -> u32 {
        match self {
            // An element and a count, of which some are wrong; an aligned structure.
            Self::Plain(number @ 224..) => (u32::from(number) % 6) << 8 | (capi::F32 + u32::from(number) / 6 % 5),
            Self::Plain(number @ 208..) => ALIGNED | (u32::from(number) % 8 * 8),
            Self::Plain(207) => capi::F80,
            Self::Plain(number) => u32::from(number) % (capi::POINTER + 1),
            Self::Struct(size) => STRUCT | u32::from(size),
            Self::LargeStruct(size) => STRUCT | size,
            Self::Any(number) => number,
        }
    }
}

/// What the fuzzer makes up.
#[derive(Arbitrary, Debug)]
pub struct Input {
    convention: u8,
    parameters: Vec<Number>,
    result: Number,
    /// What `calltable_get` and `calltable_set` are asked for beside what the signature declares.
    index: u32,
    asked: Number,
    bytes: [u8; 32],
}

/// The largest structure that is passed in a call here.
const LARGEST: usize = 4096;

/// The type of a number, as the header lists them.
fn type_of(number: u32) -> Option<Type> {
    use Type::*;
    let plain = [Bool, I8, U8, I16, U16, I32, U32, I64, U64, I128, U128, F32, F64, Pointer];
    if number >= STRUCT {
        return Some(Struct { size: number - STRUCT });
    }
    if number >= ALIGNED {
        return Some(Aligned { size: number - ALIGNED });
    }
    if (0x100..0x1_0000).contains(&number) {
        let element = match number % 0x100 {
            capi::F32 => Element::F32,
            capi::F64 => Element::F64,
            capi::VECTOR8 => Element::Vector8,
            capi::VECTOR16 => Element::Vector16,
            _ => return None,
        };
        return Some(Homogeneous { element, count: (number / 0x100) as u8 });
    }
    if number == capi::F80 {
        return Some(F80);
    }
    plain.get((number as usize).checked_sub(1)?).copied()
}

fn number_of(ty: Type) -> u32 {
    let homogeneous = (1..=4).flat_map(|count| (capi::F32..=capi::VECTOR16).map(move |element| count << 8 | element));
    let all = (1..=capi::POINTER).chain(homogeneous).chain([ALIGNED | ty.size() as u32, STRUCT | ty.size() as u32]);
    all.into_iter().find(|&number| type_of(number) == Some(ty)).expect("each type has a number")
}

/// A value that is passed by its address, or a result.
fn is_large(ty: Type) -> bool {
    ty.is_structure() && !matches!(ty.size(), 1 | 2 | 4 | 8)
}

/// What `calltable_signature_init` is to say, by the header.
fn expected(convention: u32, parameters: &[u32], result: u32) -> Status {
    let is_method = convention & capi::METHOD != 0;
    let is_variadic = convention & capi::VARIADIC != 0;
    let convention = convention & !(capi::METHOD | capi::VARIADIC);
    let fault_of = |ty: u32| match type_of(ty) {
        None => Some(capi::UNKNOWN_TYPE),
        Some(Type::Homogeneous { count, .. }) if !(1..=4).contains(&count) => Some(capi::NO_SUCH_STRUCTURE),
        Some(Type::Aligned { size }) if size % 16 != 0 => Some(capi::NO_SUCH_STRUCTURE),
        Some(ty) if ty.size() == 0 => Some(capi::ZERO_SIZED),
        Some(Type::F80) => Some(capi::TYPE_UNAVAILABLE),
        Some(_) => None,
    };
    let fault_of_result = if result == capi::VOID { None } else { fault_of(result) };
    if convention > capi::AAPCS64 {
        capi::UNKNOWN_CONVENTION
    } else if fault_of_result == Some(capi::UNKNOWN_TYPE) {
        capi::UNKNOWN_TYPE
    } else if convention > capi::WIN64 {
        capi::CONVENTION_UNAVAILABLE
    } else if let Some(fault) = fault_of_result.or_else(|| parameters.iter().take(256).find_map(|ty| fault_of(*ty))) {
        fault
    } else if parameters.len() > 255 {
        capi::TOO_MANY_PARAMETERS
    } else if is_method && parameters.first() != Some(&capi::POINTER) {
        capi::NOT_A_METHOD
    } else if is_method && is_variadic {
        capi::NOT_VARIADIC
    } else {
        capi::OK
    }
}

fn filled(length: usize, seed: usize, bytes: &[u8; 32]) -> Vec<u8> {
    (0..length).map(|index| bytes[(index + seed) % 32].wrapping_add((index / 32 + seed) as u8)).collect()
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0xa5; 8]; // above a small argument is rubbish
    word[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
    u64::from_le_bytes(word)
}

/// What C reads of an argument whose memory, or position, holds these bytes.
fn normal(ty: Type, bytes: &[u8]) -> Vec<u8> {
    if ty == Type::Bool { vec![u8::from(bytes[0] != 0)] } else { bytes.to_vec() }
}

fn bytes_of(value: Value) -> Vec<u8> {
    match value {
        Value::Bool(value) => vec![value.into()],
        Value::I8(value) => value.to_le_bytes().into(),
        Value::U8(value) => value.to_le_bytes().into(),
        Value::I16(value) => value.to_le_bytes().into(),
        Value::U16(value) => value.to_le_bytes().into(),
        Value::I32(value) => value.to_le_bytes().into(),
        Value::U32(value) => value.to_le_bytes().into(),
        Value::I64(value) => value.to_le_bytes().into(),
        Value::U64(value) => value.to_le_bytes().into(),
        Value::I128(value) => value.to_le_bytes().into(),
        Value::U128(value) => value.to_le_bytes().into(),
        Value::F32(value) => value.to_bits().to_le_bytes().into(),
        Value::F64(value) => value.to_bits().to_le_bytes().into(),
        Value::Pointer(value) => value.addr().to_le_bytes().into(),
        Value::Struct(bytes) => bytes.to_vec(),
        other => panic!("a new kind of value: {other:?}"),
    }
}

/// One call: what each argument is, and what the handler is to return.
struct Case {
    signature: Signature,
    for_c: capi::Signature,
    values: Vec<Vec<u8>>,
    result: Vec<u8>,
    index: u32,
    asked: u32,
}

thread_local! {
    static CASE: RefCell<Option<Case>> = const { RefCell::new(None) };
}

impl Case {
    /// What a handler can do with its frame.
    fn handle(&self, frame: *mut RawFrame) {
        // SAFETY: the frame is that of a call as the signature says.
        let mut seen = unsafe { Frame::new(&mut *frame, &self.signature) };
        for (index, (want, ty)) in self.values.iter().zip(self.signature.parameters()).enumerate() {
            assert_eq!(&normal(*ty, &bytes_of(seen.value(index).unwrap())), want, "argument {index}, {ty:?}");
        }
        assert_eq!(seen.values().count(), self.values.len());
        assert!(seen.value(self.values.len()).is_err() && seen.get::<u8>(self.index as usize | 0x100).is_err());
        assert_eq!(seen.get::<f64>(0).is_ok(), self.signature.parameters().first() == Some(&Type::F64));
        assert_eq!(seen.get::<u128>(1).is_ok(), self.signature.parameters().get(1) == Some(&Type::U128));
        let declared = self.signature.result();
        assert_eq!(seen.result_bytes().is_ok(), declared.is_some_and(Type::is_structure));
        if let Ok(bytes) = seen.result_bytes() {
            assert!(bytes.iter().all(|byte| *byte == 0) && bytes.len() == declared.unwrap().size());
            bytes.fill(0xee);
        }
        assert_eq!(seen.set_result(0xee_u8).is_ok(), declared == Some(Type::U8));
        assert_eq!(seen.set_result(0xee_i128).is_ok(), declared == Some(Type::I128));
        assert_eq!(seen.set_result(true).is_ok(), declared == Some(Type::Bool));
        for (index, (want, ty)) in self.values.iter().zip(self.signature.parameters()).enumerate() {
            assert_eq!(self.get(frame, index as u32, number_of(*ty), want.len()), Ok(want.clone()), "{index} for C");
        }
        let want = match (self.signature.parameters().get(self.index as usize), type_of(self.asked)) {
            (_, None) => capi::UNKNOWN_TYPE,
            (None, _) => capi::NO_SUCH_PARAMETER,
            (Some(declared), Some(asked)) if *declared != asked => capi::OTHER_TYPE,
            _ => capi::OK,
        };
        let size = if want == capi::OK { type_of(self.asked).unwrap().size() } else { 1 };
        assert_eq!(self.get(frame, self.index, self.asked, size).map_or_else(|status| status, |_| capi::OK), want);
        self.set(frame);
    }

    /// `calltable_get` into memory of that size.
    fn get(&self, frame: *const RawFrame, index: u32, ty: u32, size: usize) -> Result<Vec<u8>, Status> {
        let mut value = vec![0_u8; size];
        // SAFETY: the frame is that of a call as the signature says, and there is room for the value if that is its
        // type.
        unsafe {
            for (frame, at) in [(null(), value.as_mut_ptr().cast()), (frame, null_mut())] {
                assert_eq!(capi::calltable_get(frame, &self.for_c, index, ty, at), capi::NULL_POINTER);
            }
            let at = value.as_mut_ptr().cast();
            assert_eq!(capi::calltable_get(frame, null(), index, ty, at), capi::NULL_POINTER);
            match capi::calltable_get(frame, &self.for_c, index, ty, at) {
                capi::OK => Ok(value),
                status => Err(status),
            }
        }
    }

    fn set(&self, frame: *mut RawFrame) {
        let at = self.result.as_ptr().cast::<c_void>();
        let declared = self.signature.result();
        let set = |ty| {
            // SAFETY: as in `get`.
            unsafe {
                assert_eq!(capi::calltable_set(frame, &self.for_c, ty, null()), capi::NULL_POINTER);
                assert_eq!(capi::calltable_set(frame, null(), ty, at), capi::NULL_POINTER);
                assert_eq!(capi::calltable_set(null_mut(), &self.for_c, ty, at), capi::NULL_POINTER);
                capi::calltable_set(frame, &self.for_c, ty, at)
            }
        };
        match type_of(self.asked) {
            None => assert_eq!(set(self.asked), capi::UNKNOWN_TYPE),
            Some(ty) if declared != Some(ty) => assert_eq!(set(self.asked), capi::OTHER_TYPE),
            Some(_) => {}
        }
        if let Some(ty) = declared {
            assert_eq!(set(number_of(ty)), capi::OK);
        }
    }
}

unsafe extern "efiapi" fn handler(_data: *mut c_void, frame: *mut RawFrame) {
    CASE.with_borrow(|case| case.as_ref().expect("a case").handle(frame));
}

/// Runs one input; panics, or worse, if something is wrong.
pub fn test(input: Input) {
    let convention = u32::from(input.convention);
    let parameters: Vec<u32> = input.parameters.iter().map(|ty| ty.get()).collect();
    let result = input.result.get();
    let mut for_c = Box::new(capi::Signature { mark: 1, words: std::mem::MaybeUninit::uninit() });
    let count = parameters.len();
    // SAFETY: the array has `count` elements; with another count there is none.
    let status = unsafe {
        let init = capi::calltable_signature_init;
        assert_eq!(init(null_mut(), convention, parameters.as_ptr(), count, result), capi::NULL_POINTER);
        assert_eq!(init(&mut *for_c, convention, null(), count + 1, result), capi::NULL_POINTER);
        init(&mut *for_c, convention, parameters.as_ptr(), count, result)
    };
    assert_eq!(status, expected(convention, &parameters, result), "{convention} {parameters:x?} {result:x}");
    let mut slot = 1;
    let binding = capi::Binding {
        version: capi::VERSION,
        options: 0,
        // SAFETY: a function pointer of another type, which the table casts back.
        handler: Some(unsafe {
            std::mem::transmute::<calltable::table::FrameHandler, unsafe extern "C" fn()>(handler)
        }),
        data: null_mut(),
        signature: &*for_c,
        convention: 0,
        positions: 0,
        name: std::ptr::null(),
    };
    if status != capi::OK {
        // SAFETY: a registration that is refused.
        unsafe { assert_eq!(capi::calltable_register(&binding, &mut slot), capi::BAD_SIGNATURE) };
        assert_eq!(slot, capi::NO_SLOT);
        return;
    }
    let types: Vec<Type> = parameters.iter().map(|number| type_of(*number).unwrap()).collect();
    let signature = Signature::new(calltable::Convention::C, &types, type_of(result)).unwrap();
    if types.len() >= MAX_POSITIONS || types.iter().chain(&signature.result()).any(|ty| ty.size() > LARGEST) {
        return; // the call below passes that many, and one may be a result's address
    }

    // The foreign caller: values, those that are passed by address in memory of their own.
    let memory: Vec<Box<[u8]>> =
        types.iter().enumerate().map(|(index, ty)| filled(ty.size(), index, &input.bytes).into()).collect();
    let hidden = signature.result().filter(|ty| is_large(*ty));
    let mut place = vec![0x55_u8; hidden.map_or(0, Type::size)].into_boxed_slice();
    let mut positions: Vec<u64> = hidden.iter().map(|_| place.as_mut_ptr().expose_provenance() as u64).collect();
    let mut floats = [0x7e57; 4];
    for (ty, bytes) in types.iter().zip(&memory) {
        match ty {
            Type::I128 | Type::U128 => positions.push(bytes.as_ptr().expose_provenance() as u64),
            _ if is_large(*ty) => positions.push(bytes.as_ptr().expose_provenance() as u64),
            Type::F32 | Type::F64 if positions.len() < 4 => {
                floats[positions.len()] = word(bytes);
                positions.push(0xbad);
            }
            _ => positions.push(word(bytes)),
        }
    }
    let values = types.iter().zip(&memory).map(|(ty, bytes)| normal(*ty, bytes)).collect();
    let given = filled(signature.result().map_or(1, Type::size), 7, &input.bytes);
    let check = |rax: u64, xmm0: [u64; 2], place: &[u8]| {
        let Some(ty) = signature.result() else { return };
        let want = normal(ty, &given);
        let xmm0 = [xmm0[0].to_le_bytes(), xmm0[1].to_le_bytes()].concat();
        match ty {
            _ if is_large(ty) => assert_eq!((rax, place), (place.as_ptr().addr() as u64, &want[..])),
            Type::F32 | Type::F64 | Type::I128 | Type::U128 => assert_eq!(xmm0[..want.len()], want[..]),
            _ => assert_eq!(rax.to_le_bytes()[..want.len()], want[..]),
        }
    };
    let (index, asked) = (input.index, input.asked.get());
    let case = Case { signature: signature.clone(), for_c: *for_c, values, result: given.clone(), index, asked };

    // A frame whose array of positions has exactly those of the signature.
    let mut exactly = positions.clone().into_boxed_slice();
    let mut frame = RawFrame { result: [0; 2], arguments: exactly.as_mut_ptr(), floats };
    case.handle(&mut frame);
    check(frame.result[0], frame.result, &place);

    // The same call through the table.
    let binding = capi::Binding { signature: &case.for_c, ..binding };
    // SAFETY: the handler takes any frame of the case's signature, and the call below is of that.
    unsafe { assert_eq!(capi::calltable_register(&binding, &mut slot), capi::OK) };
    CASE.set(Some(case));
    place.fill(0x55);
    positions.resize(MAX_POSITIONS, 0xdead);
    let code = capi::calltable_code(slot).expect("a code pointer");
    // SAFETY: the slot is live, and the positions are those of its signature.
    let returned = unsafe { call(code as *const (), positions[..].try_into().unwrap(), &floats) };
    check(returned.rax, returned.xmm0, &place);
    // SAFETY: it is this function's own, and not called any more.
    assert_eq!(unsafe { capi::calltable_release(slot) }, capi::OK);
}
