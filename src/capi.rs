//! The C interface. What each function and structure means is said in `include/calltable.h`; the test `header` compares
//! the two.
//!
//! A program can have one C interface: the names carry no version.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use core::sync::atomic::Ordering;

use static_assertions::const_assert;

use crate::arch;
use crate::context::CONTEXTS;
use crate::context::layout::CAPACITY;
use crate::convention::Convention;
use crate::error::{Error, ReleaseError, SignatureError};
use crate::frame::{Frame, RawFrame};
use crate::seh::ExceptionRecord;
use crate::signature::{self, Type};
use crate::stale::{self, StaleReason};
use crate::table::{self, FrameHandler, Location, Slot};

pub type Status = c_int;
pub type Function = Option<unsafe extern "C" fn()>;
#[cfg(any(not(windows), target_arch = "x86"))]
pub use crate::seh::Block;
/// There is none where the system asks.
#[cfg(all(windows, target_arch = "x86_64"))]
pub enum Block {}

pub type FindBlock = Option<unsafe extern "efiapi" fn() -> *mut Block>;
pub type StaleHandler = Option<unsafe extern "C" fn(call: *const StaleCall) -> u64>;

pub const VERSION: u32 = 1;
pub const NOT_COUNTED: u32 = u32::MAX;
pub const NO_SLOT: u64 = 0;
pub const NO_INDEX: u32 = u32::MAX;

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
    UNKNOWN_TYPE = 5, c"there is no type of this number: give CALLTABLE_I32 or another constant, or \
        CALLTABLE_STRUCT(size)";
    TABLE_FULL = 6, c"every slot is live: release callbacks that are no longer called (calltable_entry_at shows them), \
        or build the library with a larger CALLTABLE_CAPACITY";
    NULL_HANDLER = 7, c"the handler is a null pointer: give the address of a function";
    TOO_MANY_POSITIONS = 8, c"the direct lane passes on at most 32 argument positions: use the frame lane";
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
    TOO_MANY_PARAMETERS = 18, c"a signature holds at most 32 parameters, a hidden result pointer counted: pass a \
        pointer to a structure instead";
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
}

numbers! { CONVENTIONS: u32 { NATIVE = 0, C = 1, WIN64 = 2, STDCALL = 3, CDECL = 4, THISCALL = 5, FASTCALL = 6, } }

numbers! {
    TYPES: u32 {
        VOID = 0, BOOL = 1, I8 = 2, U8 = 3, I16 = 4, U16 = 5, I32 = 6, U32 = 7, I64 = 8, U64 = 9, I128 = 10, U128 = 11,
        F32 = 12, F64 = 13, POINTER = 14,
    }
}

/// In a type: the other bits are the size of a structure.
const STRUCT: u32 = 0x8000_0000;

numbers! {
    OPTIONS: u32 { TRACKED = 1, EXCLUSIVE = 2, SAVING = 4, SAVING_CONTROL_WORDS = 8, CONTAINED = 16, }
}

const ALL_OPTIONS: u32 = TRACKED | EXCLUSIVE | SAVING | SAVING_CONTROL_WORDS | CONTAINED;

numbers! { REASONS: i32 { NEVER_REGISTERED = 0, RELEASED = 1, RUNNING = 2, } }

/// Says that a signature has been filled.
const MARK: usize = 0x6361_6c6c;

#[repr(C)]
pub struct Signature {
    pub mark: usize,
    pub words: MaybeUninit<[u32; 72]>,
}

const_assert!(size_of::<signature::Signature>() <= size_of::<[u32; 72]>());
const_assert!(align_of::<signature::Signature>() <= align_of::<usize>());

#[repr(C)]
pub struct Registration {
    pub version: u32,
    pub options: u32,
    pub handler: Function,
    pub data: *mut c_void,
    pub signature: *const Signature,
    pub convention: u32,
    pub positions: u32,
}

#[repr(C)]
pub struct Entry {
    pub slot: u64,
    pub code: Function,
    pub handler: Function,
    pub data: *mut c_void,
    pub uses: u32,
    pub in_flight: u32,
}

#[repr(C)]
pub struct StaleCall {
    pub index: u32,
    pub reason: i32,
    pub code: Function,
    pub caller: *const c_void,
}

impl From<Error> for NotOk {
    fn from(error: Error) -> Self {
        Self(match error {
            Error::TableFull => TABLE_FULL,
            Error::Busy => BUSY,
            Error::NullHandler => NULL_HANDLER,
            Error::TooManyPositions { .. } => TOO_MANY_POSITIONS,
            Error::ConventionUnavailable(_) => CONVENTION_UNAVAILABLE,
            Error::TooManyUses => TOO_MANY_USES,
            Error::NoExceptions => NO_EXCEPTIONS,
            Error::NullFilter => NULL_FILTER,
            Error::Sealed => SEALED,
            Error::Counted { .. } => COUNTED,
        })
    }
}

impl From<ReleaseError> for NotOk {
    fn from(error: ReleaseError) -> Self {
        Self(match error {
            ReleaseError::NotLive => NOT_LIVE,
            ReleaseError::Busy => BUSY,
            ReleaseError::InFlight => IN_FLIGHT,
            ReleaseError::Sealed => SEALED,
        })
    }
}

impl From<SignatureError> for NotOk {
    fn from(error: SignatureError) -> Self {
        Self(match error {
            SignatureError::ConventionUnavailable(_) => CONVENTION_UNAVAILABLE,
            SignatureError::TooManyParameters { .. } => TOO_MANY_PARAMETERS,
            SignatureError::ZeroSized { .. } => ZERO_SIZED,
            SignatureError::TypeUnavailable { .. } => TYPE_UNAVAILABLE,
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
        POINTER => Type::Pointer,
        STRUCT.. => Type::Struct { size: number - STRUCT },
        _ => return Err(NotOk(UNKNOWN_TYPE)),
    })
}

impl Signature {
    /// # Safety
    /// The pointer must be null or point to a signature, filled or not.
    unsafe fn get<'a>(signature: *const Self) -> Result<&'a signature::Signature, NotOk> {
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

impl Registration {
    /// # Safety
    /// The pointer must be null or point to a registration, which must be true of its handler and data.
    unsafe fn get(registration: *const Self) -> Result<table::Registration, NotOk> {
        // SAFETY: by the caller's promise. Only the version is read of a structure that may be another one.
        unsafe {
            if registration.is_null() {
                return Err(NotOk(NULL_POINTER));
            }
            if (&raw const (*registration).version).read() != VERSION {
                return Err(NotOk(OTHER_VERSION));
            }
            let Self { options, handler, data, signature, convention, positions, .. } = *registration;
            if options & !ALL_OPTIONS != 0 {
                return Err(NotOk(UNKNOWN_OPTION));
            }
            let Some(handler) = handler else { return Err(NotOk(NULL_HANDLER)) };
            let mut registration = if signature.is_null() {
                let convention = convention_of(convention)?;
                table::Registration::direct(convention, handler as *const c_void, positions as usize, data)
            } else {
                let handler = core::mem::transmute::<unsafe extern "C" fn(), FrameHandler>(handler);
                table::Registration::frame(handler, Signature::get(signature)?, data)
            };
            if options & TRACKED != 0 {
                registration = registration.tracked();
            }
            if options & EXCLUSIVE != 0 {
                registration = registration.exclusive();
            }
            if options & SAVING != 0 {
                registration = registration.saving();
            }
            if options & SAVING_CONTROL_WORDS != 0 {
                registration = registration.saving_control_words();
            }
            if options & CONTAINED != 0 {
                registration = registration.contained();
            }
            Ok(registration)
        }
    }
}

fn slot_of(number: u64) -> Result<Slot, NotOk> {
    Slot::from_number(number).ok_or(NotOk(NOT_LIVE))
}

fn function(address: *const c_void) -> Function {
    // SAFETY: a function pointer that may be null.
    unsafe { core::mem::transmute::<*const c_void, Function>(address) }
}

fn entry_of(index: u32, entry: Option<table::Entry>) -> Result<Entry, NotOk> {
    match entry {
        Some(entry) => Ok(Entry {
            slot: entry.slot.number(),
            code: function(entry.slot.code().as_ptr()),
            handler: function(entry.handler),
            data: entry.data,
            uses: entry.uses,
            in_flight: entry.in_flight.unwrap_or(NOT_COUNTED),
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
    let made = || {
        let convention = convention_of(convention)?;
        let result = if result == VOID { None } else { Some(type_of(result)?) };
        let mut types = heapless::Vec::<Type, { table::MAX_POSITIONS }>::new();
        for index in 0..count {
            // SAFETY: the array has that many elements.
            let ty = type_of(unsafe { parameters.add(index).read() })?;
            types.push(ty).map_err(|_| NotOk(TOO_MANY_PARAMETERS))?;
        }
        Ok(signature::Signature::new(convention, &types, result)?)
    };
    // SAFETY: not null, so it is a signature's memory, which is large and aligned enough, see the assertions.
    unsafe {
        (*signature).mark = 0;
        status(made().map(|made| {
            (*signature).words.as_mut_ptr().cast::<signature::Signature>().write(made);
            (*signature).mark = MARK;
        }))
    }
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
            if let Type::Struct { size } = ty {
                let structure = (*frame).structure(signature, index as usize, ty);
                value.cast::<u8>().copy_from(structure, size as usize);
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
pub unsafe extern "C" fn calltable_register(registration: *const Registration, slot: *mut u64) -> Status {
    // SAFETY: as the header says.
    unsafe { bind(registration, slot, table::register) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_try_register(registration: *const Registration, slot: *mut u64) -> Status {
    // SAFETY: as the header says.
    unsafe { bind(registration, slot, table::try_register) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_share(registration: *const Registration, slot: *mut u64) -> Status {
    // SAFETY: as the header says.
    unsafe { bind(registration, slot, table::share) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_try_share(registration: *const Registration, slot: *mut u64) -> Status {
    // SAFETY: as the header says.
    unsafe { bind(registration, slot, table::try_share) }
}

unsafe fn bind(
    registration: *const Registration,
    slot: *mut u64,
    bind: fn(&table::Registration) -> Result<Slot, Error>,
) -> Status {
    // SAFETY: as the header says.
    unsafe {
        if !slot.is_null() {
            slot.write(NO_SLOT);
        }
        give(slot, || Ok(bind(&Registration::get(registration)?)?.number()))
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn calltable_code(slot: u64) -> Function {
    function(Slot::from_number(slot)?.code().as_ptr())
}

#[unsafe(no_mangle)]
pub extern "C" fn calltable_release(slot: u64) -> Status {
    loop {
        match calltable_try_release(slot) {
            BUSY => core::hint::spin_loop(),
            status => return status,
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn calltable_try_release(slot: u64) -> Status {
    status(slot_of(slot).and_then(|slot| Ok(table::try_release(slot)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn calltable_release_and_wait(slot: u64) -> Status {
    status(slot_of(slot).and_then(|slot| Ok(table::release(slot)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn calltable_live() -> u32 {
    table::live() as u32
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_entry_at(index: u32, entry: *mut Entry) -> Status {
    // SAFETY: as the header says.
    unsafe { give(entry, || entry_of(index, table::entry(index as usize))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_try_entry_at(index: u32, entry: *mut Entry) -> Status {
    // SAFETY: as the header says.
    unsafe { give(entry, || entry_of(index, table::try_entry(index as usize)?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_index_of(code: Function, index: *mut u32) -> Status {
    let code = code.map_or(core::ptr::null(), |code| code as *const c_void);
    // SAFETY: as the header says.
    unsafe { give(index, || arch::slot_at(code).map(|slot| slot as u32).ok_or(NotOk(NOT_AN_ENTRY))) }
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
pub extern "C" fn calltable_set_stale_handler(handler: StaleHandler) -> Status {
    let set = table::unless_sealed(|| {
        // A call that is on its way to a handler that is taken back still finds it.
        if let Some(handler) = handler {
            CONTEXTS.foreign_stale_handler.store(handler as *mut (), Ordering::Release);
        }
        let handler = handler.map_or(null_mut(), |_| call_stale_handler as stale::StaleHandler as *mut ());
        CONTEXTS.stale_handler.store(handler, Ordering::Release);
    });
    status(set.map_err(NotOk::from))
}

fn call_stale_handler(call: &stale::StaleCall) -> u64 {
    let call = StaleCall {
        index: call.slot as u32,
        reason: match call.reason {
            StaleReason::NeverRegistered => NEVER_REGISTERED,
            StaleReason::Released => RELEASED,
            StaleReason::Running => RUNNING,
        },
        code: function(call.code.as_ptr()),
        caller: call.caller,
    };
    // SAFETY: it holds null or what `calltable_set_stale_handler` was given, which may be called by every thread.
    unsafe {
        let handler =
            core::mem::transmute::<*mut (), StaleHandler>(CONTEXTS.foreign_stale_handler.load(Ordering::Acquire));
        handler.map_or(0, |handler| handler(&call))
    }
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
            Ok(unsafe { crate::seh::declare() }?)
        }
    } else {
        unsafe fn declare(find: FindBlock) -> Result<(), NotOk> {
            let find = find.ok_or(NotOk(NULL_POINTER))?;
            // SAFETY: as the header says.
            Ok(unsafe { crate::seh::declare(find) }?)
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_declare_exceptions(find: FindBlock) -> Status {
    // SAFETY: as the header says.
    status(unsafe { declare(find) })
}

cfg_if::cfg_if! {
    if #[cfg(all(windows, target_arch = "x86_64"))] {
        /// The system asks.
        unsafe fn ask(_: *mut ExceptionRecord, _: *mut c_void) -> Result<i32, NotOk> {
            Err(NotOk(NO_EXCEPTIONS))
        }
    } else {
        unsafe fn ask(exception: *mut ExceptionRecord, context: *mut c_void) -> Result<i32, NotOk> {
            // SAFETY: as the header says.
            unsafe { crate::seh::dispatch(exception, context) }.map(i32::from).map_err(|_| NotOk(BAD_CHAIN))
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calltable_dispatch(
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
    arch::trap()
}
