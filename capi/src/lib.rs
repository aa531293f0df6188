//! The C interface of calltable. What each function and structure means is said in `include/calltable.h`; the test
//! `header` compares the two.
//!
//! A Rust program that says `use calltable_capi as _;` gives the functions to the C code in it; `cargo xtask dist`
//! makes libraries for C programs. A program can have one C interface: the names carry no version.
#![no_std]
#![allow(missing_docs, clippy::missing_safety_doc, reason = "the header has the text")]

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::MaybeUninit;

use calltable::internal;
use calltable::seh::ExceptionRecord;
use calltable::table::{self, FrameHandler, Location, SlotKey};
use calltable::{
    CAPACITY, Convention, Element, Error, Frame, MAX_PARAMETERS, NotRebound, RawFrame, RebindError, ReleaseError,
    SignatureError, StaleReason, Type,
};
use static_assertions::const_assert;

pub type Status = c_int;
pub type Function = Option<unsafe extern "C" fn()>;
#[cfg(any(not(windows), target_arch = "x86"))]
pub use calltable::seh::ThreadBlock;
/// There is none where the system asks.
#[cfg(all(windows, target_pointer_width = "64"))]
pub enum ThreadBlock {}

pub type FindBlock = Option<unsafe extern "efiapi" fn() -> *mut ThreadBlock>;
pub type StaleHandler = Option<unsafe extern "C" fn(call: *const StaleCall)>;

pub const VERSION: u32 = 1;
pub const NOT_COUNTED: u32 = u32::MAX;
pub const NO_SLOT: u64 = 0;
pub const NO_INDEX: u32 = u32::MAX;
pub const USERS: usize = 4;
/// As many bytes of a name are read.
const NAME_BYTES: usize = 255;

/// Numbers of the interface, and for the test `header` their list.
macro_rules! numbers {
    ($list:ident: $ty:ty { $($name:ident = $value:literal,)* }) => {
        $(pub const $name: $ty = $value;)*
        pub const $list: &[(&str, i64)] = &[$((stringify!($name), $value)),*];
    };
}

/// Statuses, and the sentence for each.
macro_rules! statuses {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        numbers! { STATUSES: Status { $($name = $value,)* } }

        fn text_of(status: Status) -> &'static CStr {
            match status {
                $($name => $text,)*
                _ => c"this number is no status of this version: look for the function that it really came from",
            }
        }
    };
}

statuses! {
    OK = 0, c"all is well";
    NULL_POINTER = 1, c"a pointer that must not be null is null: give the address that the header asks for";
    OTHER_VERSION = 2, c"the header is of another version than the library: compile with the library's own header";
    UNKNOWN_OPTION = 3, c"the options have bits that mean nothing: join CALLTABLE_TRACKED and the like, or give 0";
    UNKNOWN_CONVENTION = 4, c"there is no convention of this number: give CALLTABLE_NATIVE or another constant";
    UNKNOWN_TYPE = 5, c"there is no type of this number: give CALLTABLE_I32 or another constant, \
        CALLTABLE_STRUCT(size), CALLTABLE_ALIGNED(size) or CALLTABLE_HOMOGENEOUS(element, count)";
    TABLE_FULL = 6, c"every slot is live: release callbacks that are no longer called (calltable_largest_users says \
        whose they are, calltable_live_slot_at which), or build the library with a larger CALLTABLE_CAPACITY (in a \
        Rust program one of calltable's features slots-4000 to slots-65536 does it, too)";
    NULL_HANDLER = 7, c"the handler is a null pointer: give the address of a function";
    TOO_MANY_POSITIONS = 8, c"the direct lane passes on at most 64 argument positions, on i686 128 words, on AArch64 \
        64 words beside the registers: use the frame lane";
    CONVENTION_UNAVAILABLE = 9, c"this target has no such convention: use CALLTABLE_NATIVE or CALLTABLE_C";
    TOO_MANY_USES = 10, c"this registration is shared 4294967295 times: release uses that have ended";
    NO_EXCEPTIONS = 11, c"there are no exceptions here that could be contained: register without CALLTABLE_CONTAINED, \
        or call calltable_declare_exceptions first";
    NULL_FILTER = 12, c"the data of a registration that contains exceptions is a null pointer: give the address of a \
        structure that begins with a calltable_filter";
    BUSY = 13, c"the table is locked by a registration or release under way: try again after it, or use the function \
        without try, which waits";
    NOT_LIVE = 14, c"there is no such registration, or it was released before: release each registration once";
    IN_FLIGHT = 15, c"calls of this callback are still running: release it again when they have returned";
    NOT_AN_ENTRY = 16, c"this is not the address of an entry of the table: give what calltable_code has returned";
    NO_SUCH_SLOT = 17, c"there is no slot with this index: stay below calltable_capacity()";
    TOO_MANY_PARAMETERS = 18, c"a signature holds at most 255 parameters: pass a pointer to a structure instead";
    ZERO_SIZED = 19, c"a parameter or result has no bytes: leave it out, C has no such type";
    TYPE_UNAVAILABLE = 20, c"this target cannot pass a parameter or result of this type by value: pass a pointer to it";
    BAD_SIGNATURE = 21, c"this is no signature: fill it with calltable_signature_init first";
    NO_SUCH_PARAMETER = 22, c"the signature has no parameter with this index: count from 0";
    OTHER_TYPE = 23, c"the signature declares another type here, or no result: use what it declares";
    SEALED = 24, c"the table is sealed, and stays as it is: do this before calltable_seal";
    COUNTED = 25, c"the table cannot be sealed while a tracked or exclusive registration is live, or a call of one is \
        running: release it and let its calls return first, or register it without counting";
    BAD_CHAIN = 26, c"a record of this thread's chain of exceptions is corrupt, or the block has the bounds of another \
        stack: look for what has overwritten it";
    OWN_CALL = 27, c"this release would wait for the call that it is made in: let the handler return first and release \
        then, or use calltable_release, which does not wait for calls, and again when the call has returned";
    TOO_MANY_BYTES = 28, c"the arguments take more bytes of the stack than the 65532 that a callee can remove: pass a \
        pointer to a structure instead";
    NOT_A_METHOD = 29, c"a method's first parameter is a pointer, and its convention one of Microsoft's: give \
        CALLTABLE_POINTER first, or leave out CALLTABLE_METHOD";
    NO_SUCH_STRUCTURE = 30, c"a parameter or result is no structure that C has: give CALLTABLE_HOMOGENEOUS 1 to 4 \
        elements, CALLTABLE_ALIGNED a multiple of 16 bytes";
    OTHER_USES = 31, c"this registration is shared, and others rely on it: release the other uses first, or register the new \
        handler in a slot of its own";
    USED_UP = 32, c"this slot cannot be rebound any more: register the new handler in another slot, and release this one";
    NOT_VARIADIC = 33, c"this signature has a fixed number of arguments: join CALLTABLE_VARIADIC to CALLTABLE_C, or to \
        another convention by which the caller removes them";
}

numbers! {
    CONVENTIONS: u32 {
        NATIVE = 0, C = 1, WIN64 = 2, STDCALL = 3, CDECL = 4, THISCALL = 5, FASTCALL = 6, SYSV = 7,
        AAPCS64 = 8,
    }
}

numbers! {
    TYPES: u32 {
        VOID = 0, BOOL = 1, I8 = 2, U8 = 3, I16 = 4, U16 = 5, I32 = 6, U32 = 7, I64 = 8, U64 = 9, I128 = 10, U128 = 11,
        F32 = 12, F64 = 13, POINTER = 14, VECTOR8 = 15, VECTOR16 = 16, F80 = 17,
    }
}

/// In a convention: the signature is a method's.
pub const METHOD: u32 = 0x8000_0000;

/// In a convention: more arguments may follow the parameters.
pub const VARIADIC: u32 = 0x4000_0000;

/// In a type: the other bits are the size of a structure.
const STRUCT: u32 = 0x8000_0000;
/// In a type: the other bits are the size of an aligned structure.
const ALIGNED: u32 = 0x4000_0000;
/// In a type: the number of elements of a homogeneous structure begins here; below is that of the element's type.
const COUNT: u32 = 0x100;
/// What is above that number.
const COUNT_END: u32 = 0x1_0000;

numbers! {
    OPTIONS: u32 {
        TRACKED = 1, EXCLUSIVE = 2, SAVING = 4, SAVING_CONTROL_WORDS = 8, CONTAINED = 16, DIRECT_LANE = 32, FRAMED = 64,
        KEEPING_X18 = 128,
    }
}

const ALL_OPTIONS: u32 =
    TRACKED | EXCLUSIVE | SAVING | SAVING_CONTROL_WORDS | CONTAINED | DIRECT_LANE | FRAMED | KEEPING_X18;

numbers! { REASONS: i32 { NEVER_REGISTERED = 0, RELEASED = 1, RUNNING = 2, MOVED = 3, UNBOUND = 4, } }

/// Says that a signature has been filled.
const MARK: usize = 0x6361_6c6c;

#[repr(C)]
pub struct Signature {
    pub mark: usize,
    pub words: MaybeUninit<[u32; SIGNATURE_WORDS]>,
}

/// The header's number.
pub const SIGNATURE_WORDS: usize = 518;

const_assert!(size_of::<calltable::Signature>() <= size_of::<[u32; SIGNATURE_WORDS]>());
const_assert!(MAX_PARAMETERS == 255); // TOO_MANY_PARAMETERS says it
const_assert!(align_of::<calltable::Signature>() <= align_of::<usize>());

#[repr(C)]
pub struct Rest {
    pub words: MaybeUninit<[usize; REST_WORDS]>,
}

/// The header's number: a copy of all words goes in it on AArch64 Windows.
pub const REST_WORDS: usize = if cfg!(all(windows, target_arch = "aarch64")) { 74 } else { 4 };

const_assert!(size_of::<calltable::Rest<'_>>() <= size_of::<Rest>());
const_assert!(align_of::<calltable::Rest<'_>>() <= align_of::<Rest>());

#[repr(C)]
pub struct Binding {
    pub version: u32,
    pub options: u32,
    pub handler: Function,
    pub data: *mut c_void,
    pub signature: *const Signature,
    pub convention: u32,
    pub positions: u32,
    pub name: *const c_char,
}

#[repr(C)]
pub struct LiveSlot {
    pub slot: u64,
    pub code: Function,
    pub handler: Function,
    pub data: *mut c_void,
    pub uses: u32,
    pub in_flight: u32,
    pub name: *const c_char,
    pub name_size: usize,
}

#[repr(C)]
pub struct User {
    pub name: *const c_char,
    pub name_size: usize,
    pub slots: u32,
}

#[repr(C)]
pub struct StaleCall {
    pub index: u32,
    pub reason: i32,
    pub code: Function,
    pub caller: *const c_void,
    /// A `calltable::StaleCall`.
    pub internal: *mut c_void,
    pub name: *const c_char,
    pub name_size: usize,
}

impl StaleCall {
    /// # Safety
    /// The pointer must be null or the one that the stale handler which is running got.
    unsafe fn get<'a>(call: *const Self) -> Result<&'a mut calltable::StaleCall<'a>, NotOk> {
        // SAFETY: by the caller's promise; the handler's functions are the only ones that use it.
        unsafe { call.as_ref().and_then(|call| call.internal.cast::<calltable::StaleCall<'_>>().as_mut()) }
            .ok_or(NotOk(NULL_POINTER))
    }
}

impl From<Error> for NotOk {
    fn from(error: Error) -> Self {
        Self(match error {
            Error::TableFull { .. } => TABLE_FULL,
            Error::Busy => BUSY,
            Error::NullHandler => NULL_HANDLER,
            Error::TooManyPositions { .. } => TOO_MANY_POSITIONS,
            Error::ConventionUnavailable(_) => CONVENTION_UNAVAILABLE,
            Error::TooManyUses => TOO_MANY_USES,
            Error::NoExceptions => NO_EXCEPTIONS,
            Error::NullFilter => NULL_FILTER,
            Error::Sealed => SEALED,
            Error::Counted { .. } => COUNTED,
            _ => OTHER_VERSION, // an error that only another version of the crate has
        })
    }
}

impl From<ReleaseError> for NotOk {
    fn from(error: ReleaseError) -> Self {
        Self(match error {
            ReleaseError::NotLive => NOT_LIVE,
            ReleaseError::Busy => BUSY,
            ReleaseError::InFlight => IN_FLIGHT,
            ReleaseError::OwnCall => OWN_CALL,
            ReleaseError::Sealed => SEALED,
            _ => OTHER_VERSION, // an error that only another version of the crate has
        })
    }
}

impl From<RebindError> for NotOk {
    fn from(error: RebindError) -> Self {
        match error {
            RebindError::Refused(error) => error.into(),
            RebindError::NotEnded(error) => error.into(),
            RebindError::Shared { .. } => Self(OTHER_USES),
            RebindError::UsedUp => Self(USED_UP),
            _ => Self(OTHER_VERSION), // an error that only another version of the crate has
        }
    }
}

impl From<SignatureError> for NotOk {
    fn from(error: SignatureError) -> Self {
        Self(match error {
            SignatureError::ConventionUnavailable(_) => CONVENTION_UNAVAILABLE,
            SignatureError::TooManyParameters { .. } => TOO_MANY_PARAMETERS,
            SignatureError::TooManyBytes { .. } => TOO_MANY_BYTES,
            SignatureError::NotAMethod => NOT_A_METHOD,
            SignatureError::NotVariadic(_) => NOT_VARIADIC,
            SignatureError::ZeroSized { .. } => ZERO_SIZED,
            SignatureError::NoSuchStructure { .. } => NO_SUCH_STRUCTURE,
            SignatureError::TypeUnavailable { .. } => TYPE_UNAVAILABLE,
            _ => OTHER_VERSION, // an error that only another version of the crate has
        })
    }
}

/// Any status but `OK`.
struct NotOk(Status);

fn status(result: Result<(), NotOk>) -> Status {
    match result {
        Ok(()) => OK,
        Err(NotOk(status)) => status,
    }
}

/// Writes what a function gives.
///
/// # Safety
/// `at` must be null or writable; then there is no value without a place for it.
unsafe fn give<T>(at: *mut T, value: impl FnOnce() -> Result<T, NotOk>) -> Status {
    if at.is_null() {
        return NULL_POINTER;
    }
    // SAFETY: not null, so by the caller's promise.
    status(value().map(|value| unsafe { at.write(value) }))
}

fn convention_of(number: u32) -> Result<Convention, NotOk> {
    Ok(match number {
        NATIVE => Convention::NATIVE,
        C => Convention::C,
        WIN64 => Convention::Win64,
        STDCALL => Convention::Stdcall,
        CDECL => Convention::Cdecl,
        THISCALL => Convention::Thiscall,
        FASTCALL => Convention::Fastcall,
        SYSV => Convention::Sysv,
        AAPCS64 => Convention::Aapcs64,
        _ => return Err(NotOk(UNKNOWN_CONVENTION)),
    })
}

fn type_of(number: u32) -> Result<Type, NotOk> {
    Ok(match number {
        BOOL => Type::Bool,
        I8 => Type::I8,
        U8 => Type::U8,
        I16 => Type::I16,
        U16 => Type::U16,
        I32 => Type::I32,
        U32 => Type::U32,
        I64 => Type::I64,
        U64 => Type::U64,
        I128 => Type::I128,
        U128 => Type::U128,
        F32 => Type::F32,
        F64 => Type::F64,
        F80 => Type::F80,
        POINTER => Type::Pointer,
        COUNT..COUNT_END => Type::Homogeneous { element: element_of(number % COUNT)?, count: (number / COUNT) as u8 },
        ALIGNED..STRUCT => Type::Aligned { size: number - ALIGNED },
        STRUCT.. => Type::Struct { size: number - STRUCT },
        _ => return Err(NotOk(UNKNOWN_TYPE)),
    })
}

fn element_of(number: u32) -> Result<Element, NotOk> {
    Ok(match number {
        F32 => Element::F32,
        F64 => Element::F64,
        VECTOR8 => Element::Vector8,
        VECTOR16 => Element::Vector16,
        _ => return Err(NotOk(UNKNOWN_TYPE)),
    })
}

impl Signature {
    /// # Safety
    /// The pointer must be null or point to a signature, filled or not.
    unsafe fn get<'a>(signature: *const Self) -> Result<&'a calltable::Signature, NotOk> {
        // SAFETY: by the caller's promise; with the mark there is what `calltable_signature_init` has written.
        unsafe {
            match signature.as_ref() {
                None => Err(NotOk(NULL_POINTER)),
                Some(Self { mark: MARK, words }) => Ok(&*words.as_ptr().cast()),
                Some(_) => Err(NotOk(BAD_SIGNATURE)),
            }
        }
    }
}

impl Binding {
    /// # Safety
    /// The pointer must be null or point to a registration, which must be true of its handler and data.
    unsafe fn get(binding: *const Self) -> Result<table::Binding, NotOk> {
        // SAFETY: by the caller's promise. Only the version is read of a structure that may be another one.
        unsafe {
            if binding.is_null() {
                return Err(NotOk(NULL_POINTER));
            }
            if (&raw const (*binding).version).read() != VERSION {
                return Err(NotOk(OTHER_VERSION));
            }
            let Self { options, handler, data, signature, convention, positions, name, .. } = *binding;
            if options & !ALL_OPTIONS != 0 {
                return Err(NotOk(UNKNOWN_OPTION));
            }
            let Some(handler) = handler else { return Err(NotOk(NULL_HANDLER)) };
            let mut binding = if options & DIRECT_LANE != 0 {
                table::Binding::direct_as(handler as *const c_void, Signature::get(signature)?, data)
            } else if signature.is_null() {
                let convention = convention_of(convention)?;
                table::Binding::direct(convention, handler as *const c_void, positions as usize, data)
            } else {
                let handler = core::mem::transmute::<unsafe extern "C" fn(), FrameHandler>(handler);
                table::Binding::frame(handler, Signature::get(signature)?, data)
            };
            if options & TRACKED != 0 {
                binding = binding.tracked();
            }
            if options & EXCLUSIVE != 0 {
                binding = binding.exclusive();
            }
            if options & SAVING != 0 {
                binding = binding.saving();
            }
            if options & SAVING_CONTROL_WORDS != 0 {
                binding = binding.saving_control_words();
            }
            if options & FRAMED != 0 {
                binding = binding.framed();
            }
            if options & KEEPING_X18 != 0 {
                binding = binding.keeping_x18();
            }
            if options & CONTAINED != 0 {
                binding = binding.contained();
            }
            if let Some(name) = name_of(name) {
                binding = binding.named(name);
            }
            Ok(binding)
        }
    }
}

/// A name that a C program gives, as far as it is UTF-8, and no more of it than the header says.
///
/// # Safety
/// The pointer must be null or that of a string that is there for ever.
unsafe fn name_of(name: *const c_char) -> Option<&'static str> {
    if name.is_null() || !cfg!(feature = "names") {
        return None;
    }
    // SAFETY: by the caller's promise, and no byte after the zero is read.
    unsafe {
        let size = (0..NAME_BYTES).find(|at| name.add(*at).read() == 0).unwrap_or(NAME_BYTES);
        let bytes = core::slice::from_raw_parts(name.cast::<u8>(), size);
        bytes.utf8_chunks().next().map(|chunk| chunk.valid()).filter(|name| !name.is_empty())
    }
}

/// A name for a C program, whose strings end in a zero, and Rust's do not: so with its size.
fn name_and_size(name: Option<&str>) -> (*const c_char, usize) {
    name.map_or((core::ptr::null(), 0), |name| (name.as_ptr().cast(), name.len()))
}

/// # Safety
/// The caller must have registered, and release each use once.
unsafe fn key_of(number: u64) -> Result<SlotKey, NotOk> {
    // SAFETY: by the caller's promise; a number that is released again is told from later ones.
    unsafe { SlotKey::from_raw(number) }.ok_or(NotOk(NOT_LIVE))
}

fn function(address: *const c_void) -> Function {
    // SAFETY: a function pointer that may be null.
    unsafe { core::mem::transmute::<*const c_void, Function>(address) }
}

fn live_slot_of(index: u32, found: Option<table::LiveSlot>) -> Result<LiveSlot, NotOk> {
    let (name, name_size) = name_and_size(found.and_then(|live| live.name));
    match found {
        Some(live) => Ok(LiveSlot {
            // SAFETY: C programs see to it themselves that nobody relies on what they release.
            slot: unsafe { live.slot.key() }.into_raw(),
            code: function(live.slot.code().as_ptr()),
            handler: function(live.handler),
            data: live.data,
            uses: live.uses,
            in_flight: live.in_flight.unwrap_or(NOT_COUNTED),
            name,
            name_size,
        }),
        None if index as usize >= CAPACITY => Err(NotOk(NO_SUCH_SLOT)),
        None => Err(NotOk(NOT_LIVE)),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn calltable_status_text(status: Status) -> *const c_char {
    text_of(status).as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn calltable_check_version(version: u32) -> Status {
    if version == VERSION { OK } else { OTHER_VERSION }
}

#[unsafe(no_mangle)]
pub extern "C" fn calltable_capacity() -> u32 {
    CAPACITY as u32
}

/// # Safety
/// As the header says of each pointer; so for all below.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_signature_init(
    signature: *mut Signature,
    convention: u32,
    parameters: *const u32,
    count: usize,
    result: u32,
) -> Status {
    if signature.is_null() || (parameters.is_null() && count != 0) {
        return NULL_POINTER;
    }
    // Made where it is to be: two of them on the stack would take a page of it.
    let make = || {
        let is_method = convention & METHOD != 0;
        let is_variadic = convention & VARIADIC != 0;
        let convention = convention_of(convention & !(METHOD | VARIADIC))?;
        let result = if result == VOID { None } else { Some(type_of(result)?) };
        // SAFETY: not null, so it is a signature's memory, which is large and aligned enough, see the assertions; the
        // array has as many elements as the caller says.
        unsafe {
            (*signature).mark = 0;
            let at = (*signature).words.as_mut_ptr().cast::<calltable::Signature>();
            at.write(calltable::Signature::empty(convention, is_method, result)?);
            if is_variadic {
                (*at).set_variadic();
            }
            for index in 0..count {
                (*at).push(type_of(parameters.add(index).read())?)?;
            }
            (*at).check()?;
            (*signature).mark = MARK;
        }
        Ok(())
    };
    status(make())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_get(
    frame: *const RawFrame,
    signature: *const Signature,
    index: u32,
    ty: u32,
    value: *mut c_void,
) -> Status {
    let get = || {
        if frame.is_null() || value.is_null() {
            return Err(NotOk(NULL_POINTER));
        }
        // SAFETY: the handler passes on its own frame, the signature of its registration, and room for such a value.
        unsafe {
            let signature = Signature::get(signature)?;
            let ty = type_of(ty)?;
            match signature.parameters().get(index as usize) {
                None => return Err(NotOk(NO_SUCH_PARAMETER)),
                Some(declared) if *declared != ty => return Err(NotOk(OTHER_TYPE)),
                Some(_) => {}
            }
            if ty.is_in_bytes() {
                let gathered = (*frame).gather(signature);
                let at = RawFrame::address(frame, signature, index as usize, ty, &gathered);
                value.cast::<u8>().copy_from(at, ty.size());
            } else {
                let bits = normal((*frame).bits(signature, index as usize, ty), ty);
                value.cast::<u8>().copy_from(bits.to_le_bytes().as_ptr(), ty.size());
            }
        }
        Ok(())
    };
    status(get())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_set(
    frame: *mut RawFrame,
    signature: *const Signature,
    ty: u32,
    value: *const c_void,
) -> Status {
    let set = || {
        if frame.is_null() || value.is_null() {
            return Err(NotOk(NULL_POINTER));
        }
        // SAFETY: as above; the value has the type's size.
        unsafe {
            let signature = Signature::get(signature)?;
            let ty = type_of(ty)?;
            if signature.result() != Some(ty) {
                return Err(NotOk(OTHER_TYPE));
            }
            if let Ok(bytes) = Frame::new(&mut *frame, signature).result_bytes() {
                bytes.as_mut_ptr().copy_from(value.cast(), bytes.len());
            } else {
                let mut bytes = [0; 16];
                bytes.as_mut_ptr().copy_from(value.cast(), ty.size());
                (*frame).set_result(ty, normal(u128::from_le_bytes(bytes), ty));
            }
        }
        Ok(())
    };
    status(set())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_rest_init(
    rest: *mut Rest,
    frame: *const RawFrame,
    signature: *const Signature,
) -> Status {
    let init = || {
        if rest.is_null() || frame.is_null() {
            return Err(NotOk(NULL_POINTER));
        }
        // SAFETY: the handler passes on its own frame, which is there as long as it uses the arguments.
        let found = unsafe { calltable::Rest::new(&*frame, Signature::get(signature)?) };
        let found = found.map_err(|_| NotOk(NOT_VARIADIC))?;
        // SAFETY: not null, so it is memory for such a structure, see the assertions.
        unsafe { rest.cast::<calltable::Rest<'_>>().write(found) };
        Ok(())
    };
    status(init())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_rest_next(rest: *mut Rest, ty: u32, value: *mut c_void) -> Status {
    let next = || {
        if rest.is_null() || value.is_null() {
            return Err(NotOk(NULL_POINTER));
        }
        let ty = type_of(ty)?;
        if ty.is_in_bytes() || ty == Type::F32 {
            return Err(NotOk(TYPE_UNAVAILABLE));
        }
        // SAFETY: as the header says: `calltable_rest_init` has filled it, and there is another argument.
        unsafe {
            let bits = normal((*rest.cast::<calltable::Rest<'_>>()).next_bits(ty), ty);
            value.cast::<u8>().copy_from(bits.to_le_bytes().as_ptr(), ty.size());
        }
        Ok(())
    };
    status(next())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_rest_list(rest: *mut Rest) -> *mut c_void {
    // SAFETY: as the header says: null, or filled by `calltable_rest_init`.
    unsafe { rest.cast::<calltable::Rest<'_>>().as_mut() }.map_or(core::ptr::null_mut(), calltable::Rest::va_list)
}

/// A value's bits with what lies above its type put right; as the foreign code might, wrongly, rely on it.
fn normal(bits: u128, ty: Type) -> u128 {
    match ty {
        Type::Bool => (bits as u8 != 0).into(),
        Type::I8 => bits as i8 as u128,
        Type::I16 => bits as i16 as u128,
        Type::I32 => bits as i32 as u128,
        _ => bits,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_register(binding: *const Binding, slot: *mut u64) -> Status {
    // SAFETY: as the header says.
    unsafe { bind(binding, slot, table::register) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_try_register(binding: *const Binding, slot: *mut u64) -> Status {
    // SAFETY: as the header says.
    unsafe { bind(binding, slot, table::try_register) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_share(binding: *const Binding, slot: *mut u64) -> Status {
    // SAFETY: as the header says.
    unsafe { bind(binding, slot, table::share) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_try_share(binding: *const Binding, slot: *mut u64) -> Status {
    // SAFETY: as the header says.
    unsafe { bind(binding, slot, table::try_share) }
}

unsafe fn bind(binding: *const Binding, slot: *mut u64, bind: fn(&table::Binding) -> Result<SlotKey, Error>) -> Status {
    // SAFETY: as the header says.
    unsafe { give_slot(slot, || Ok(bind(&Binding::get(binding)?)?)) }
}

/// As `give`; the slot is none if there is an error.
unsafe fn give_slot(slot: *mut u64, bind: impl FnOnce() -> Result<SlotKey, NotOk>) -> Status {
    // SAFETY: as the header says.
    unsafe {
        if !slot.is_null() {
            slot.write(NO_SLOT);
        }
        give(slot, || Ok(bind()?.into_raw()))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_reserve(slot: *mut u64) -> Status {
    // SAFETY: as the header says.
    unsafe { give_slot(slot, || Ok(table::register(&table::Binding::unbound())?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_try_rebind(slot: *mut u64, binding: *const Binding) -> Status {
    // SAFETY: as the header says.
    unsafe { rebind(slot, binding, table::try_rebind) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_rebind_and_wait(slot: *mut u64, binding: *const Binding) -> Status {
    // SAFETY: as the header says.
    unsafe { rebind(slot, binding, table::rebind) }
}

unsafe fn rebind(
    slot: *mut u64,
    binding: *const Binding,
    rebind: fn(SlotKey, &table::Binding) -> Result<SlotKey, NotRebound<SlotKey>>,
) -> Status {
    if slot.is_null() {
        return NULL_POINTER;
    }
    // SAFETY: as the header says.
    unsafe {
        give(slot, || Ok(rebind(key_of(*slot)?, &Binding::get(binding)?).map_err(|failed| failed.error)?.into_raw()))
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn calltable_code(slot: u64) -> Function {
    // SAFETY: the key is only looked at.
    unsafe { key_of(slot) }.ok().and_then(|key| function(key.code().as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_release(slot: u64) -> Status {
    // SAFETY: as the header says.
    status(unsafe { key_of(slot) }.and_then(|key| Ok(table::release_at_once(key).map_err(|failed| failed.error)?)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_try_release(slot: u64) -> Status {
    // SAFETY: as the header says.
    status(unsafe { key_of(slot) }.and_then(|key| Ok(table::try_release(key).map_err(|failed| failed.error)?)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_release_and_wait(slot: u64) -> Status {
    // SAFETY: as the header says.
    status(unsafe { key_of(slot) }.and_then(|key| Ok(table::release(key).map_err(|failed| failed.error)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn calltable_live_count() -> u32 {
    table::live_count() as u32
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_largest_users(users: *mut User) -> Status {
    if users.is_null() {
        return NULL_POINTER;
    }
    let found = table::users();
    let mut largest = found.largest();
    for at in 0..USERS {
        let (name, slots) = match largest.next() {
            Some((name, slots)) => (Some(name), slots),
            None => (None, if at == USERS - 1 { found.unnamed() } else { 0 }),
        };
        let (name, name_size) = name_and_size(name);
        // SAFETY: as the header says, there is room for as many.
        unsafe { users.add(at).write(User { name, name_size, slots: slots as u32 }) };
    }
    OK
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_live_slot_at(index: u32, live_slot: *mut LiveSlot) -> Status {
    // SAFETY: as the header says.
    unsafe { give(live_slot, || live_slot_of(index, table::live_slot(index as usize))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_try_live_slot_at(index: u32, live_slot: *mut LiveSlot) -> Status {
    // SAFETY: as the header says.
    unsafe { give(live_slot, || live_slot_of(index, table::try_live_slot(index as usize)?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_index_of(code: Function, index: *mut u32) -> Status {
    let code = code.map_or(core::ptr::null(), |code| code as *const c_void);
    // SAFETY: as the header says.
    unsafe { give(index, || table::slot_of(code).map(|slot| slot as u32).ok_or(NotOk(NOT_AN_ENTRY))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_locate(address: *const c_void, index: *mut u32) -> Status {
    let locate = || match table::locate(address) {
        Some(Location::Entry { slot }) => Ok(slot as u32),
        Some(Location::Dispatcher) => Ok(NO_INDEX),
        None => Err(NotOk(NOT_AN_ENTRY)),
    };
    // SAFETY: as the header says.
    unsafe { give(index, locate) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_seal(start: *mut *const c_void, end: *mut *const c_void) -> Status {
    if end.is_null() {
        return NULL_POINTER;
    }
    // SAFETY: as the header says.
    unsafe {
        give(start, || {
            let pages = table::seal()?;
            end.write(pages.end.cast());
            Ok(pages.start.cast())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_set_stale_handler(handler: StaleHandler) -> Status {
    let data = handler.map_or(core::ptr::null_mut(), |handler| handler as *mut ());
    // SAFETY: as the header says; what that handler sets is what the foreign code gets.
    let set =
        unsafe { internal::set_stale_handler(handler.map(|_| call_stale_handler as calltable::StaleHandler), data) };
    status(set.map_err(NotOk::from))
}

fn call_stale_handler(call: &mut calltable::StaleCall<'_>) {
    let (name, name_size) = name_and_size(call.name);
    let call = StaleCall {
        index: call.slot.map_or(u32::MAX, |slot| slot as u32),
        reason: match call.reason {
            StaleReason::NeverRegistered => NEVER_REGISTERED,
            StaleReason::Released => RELEASED,
            StaleReason::Running => RUNNING,
            StaleReason::Unbound => UNBOUND,
            _ => MOVED, // the one that is left
        },
        code: function(call.code),
        caller: call.caller,
        internal: (&raw mut *call).cast(),
        name,
        name_size,
    };
    // SAFETY: it holds null or what `calltable_set_stale_handler` was given, which may be called by every thread.
    unsafe {
        if let Some(handler) = core::mem::transmute::<*mut (), StaleHandler>(internal::stale_data()) {
            handler(&call);
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_stale_set(call: *const StaleCall, result: u64) -> Status {
    // SAFETY: as the header says.
    status(unsafe { StaleCall::get(call) }.map(|call| call.set_result(result)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_stale_frame(
    call: *const StaleCall,
    signature: *const Signature,
    frame: *mut *mut RawFrame,
) -> Status {
    // SAFETY: as the header says.
    unsafe { give(frame, || Ok(StaleCall::get(call)?.raw_frame(Signature::get(signature)?))) }
}

cfg_if::cfg_if! {
    if #[cfg(windows)] {
        /// The system knows.
        unsafe fn declare(_: FindBlock) -> Result<(), NotOk> {
            Ok(())
        }
    } else if #[cfg(target_arch = "x86")] {
        unsafe fn declare(_: FindBlock) -> Result<(), NotOk> {
            // SAFETY: as the header says.
            Ok(unsafe { calltable::seh::declare() }?)
        }
    } else {
        unsafe fn declare(find: FindBlock) -> Result<(), NotOk> {
            let find = find.ok_or(NotOk(NULL_POINTER))?;
            // SAFETY: as the header says.
            Ok(unsafe { calltable::seh::declare(find) }?)
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_declare_exceptions(find: FindBlock) -> Status {
    // SAFETY: as the header says.
    status(unsafe { declare(find) })
}

cfg_if::cfg_if! {
    if #[cfg(all(windows, target_pointer_width = "64"))] {
        /// The system asks.
        unsafe fn ask(_: *mut ExceptionRecord, _: *mut c_void) -> Result<i32, NotOk> {
            Err(NotOk(NO_EXCEPTIONS))
        }
    } else {
        unsafe fn ask(exception: *mut ExceptionRecord, context: *mut c_void) -> Result<i32, NotOk> {
            // SAFETY: as the header says.
            unsafe { calltable::seh::dispatch(exception, context) }.map(i32::from).map_err(|_| NotOk(BAD_CHAIN))
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_dispatch_exception(
    exception: *mut ExceptionRecord,
    context: *mut c_void,
    goes_on: *mut i32,
) -> Status {
    if exception.is_null() {
        return NULL_POINTER;
    }
    // SAFETY: as the header says.
    unsafe { give(goes_on, || ask(exception, context)) }
}

// With the feature `std`, there is one already.
#[cfg(all(feature = "panic-handler", not(feature = "std")))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    internal::trap()
}
