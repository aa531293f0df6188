//! The closures of libffi, without code that is written when the program runs: a drop-in for its functions
//! `ffi_closure_alloc`, `ffi_closure_free`, `ffi_prep_closure_loc` and `ffi_prep_closure`, to be linked before libffi.
//!
//! A closure's code is an entry of the table, which `ffi_closure_alloc` reserves, and which `ffi_prep_closure_loc`
//! binds to the closure: the code pointer is the same before and after. What foreign code passes stays where it is; the
//! closure's function gets its addresses.
//!
//! | target | conventions |
//! | --- | --- |
//! | x86_64 | `FFI_WIN64` (`FFI_EFI64`), `FFI_GNUW64` |
//! | i686 | `FFI_SYSV`, `FFI_STDCALL`, `FFI_THISCALL`, `FFI_FASTCALL`, `FFI_MS_CDECL` |
//! | AArch64 | `FFI_SYSV`, `FFI_WIN64` |
//!
//! For others, `FFI_UNIX64` among them, `ffi_prep_closure_loc` returns `FFI_BAD_ABI`. When the table is full,
//! `ffi_closure_alloc` returns null, as libffi does without memory. `docs/libffi.md` says how to link.
//!
//! # What holds as with libffi
//! - A closure may be prepared again, and freed in its own call: after its function has returned nobody looks at it.
//! - Nobody waits: a closure must not be prepared or freed while another thread may call it.
//! - Exceptions of C++ pass through, as they do through every slot that nobody counts.
#![no_std]

use core::ffi::{c_int, c_void};
use core::ptr::{NonNull, null_mut};

use calltable::table::{self, Binding, SlotKey};
use static_assertions::const_assert;

pub use calltable::CAPACITY;

mod abi;
mod run;
pub mod types;

use abi::Plan;
use types::{Cif, Closure, Function, Status};

unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn free(memory: *mut c_void);
}

/// What stands in memory before the closure of whoever asked for one.
#[repr(C)]
struct Block {
    /// The slot's registration.
    key: Option<SlotKey>,
    /// Null until it is prepared.
    plan: *mut Plan,
    /// Where the closure is: behind this structure.
    closure: [Closure; 0],
}

// As much as `malloc` gives.
const_assert!(align_of::<Block>() == 8 && align_of::<Closure>() == 8);

impl Block {
    /// The block of a closure.
    ///
    /// # Safety
    /// The memory of a closure must be there, whatever is in it.
    unsafe fn of(closure: *mut Closure) -> Option<NonNull<Self>> {
        let block = closure.wrapping_byte_sub(size_of::<Self>()).cast::<Self>();
        // SAFETY: by the caller's promise. Only `ffi_closure_alloc` writes the address there that comes before.
        let is_ours = unsafe { (&raw const (*closure).trampoline.block).read() } == block.cast();
        NonNull::new(block).filter(|_| is_ours)
    }
}

/// Reserves a slot, and memory for a closure. Null without a slot or without memory, or if `code` is null.
///
/// # Safety
/// `code` must be null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ffi_closure_alloc(size: usize, code: *mut *mut c_void) -> *mut c_void {
    let size = size.max(size_of::<Closure>()).saturating_add(size_of::<Block>());
    if code.is_null() {
        return null_mut();
    }
    // SAFETY: a function of C, for any size.
    let block = unsafe { malloc(size) }.cast::<Block>();
    if block.is_null() {
        return null_mut();
    }
    let Ok(key) = table::register(&Binding::unbound()) else {
        // SAFETY: it was just allocated.
        unsafe { free(block.cast()) };
        return null_mut();
    };
    // SAFETY: as said in `code`'s contract; the memory is ours, and large enough for both structures.
    unsafe {
        code.write(key.code().as_ptr().cast_mut());
        (&raw mut (*block).key).write(Some(key));
        (&raw mut (*block).plan).write(null_mut());
        let closure = (&raw mut (*block).closure).cast::<Closure>();
        closure.write_bytes(0, 1);
        (*closure).trampoline.block = block.cast();
        closure.cast()
    }
}

/// Releases the slot and the memory of a closure; its code is stale from now on.
///
/// # Safety
/// The closure must be null or from [`ffi_closure_alloc`], not freed yet, and no other thread may call it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ffi_closure_free(closure: *mut c_void) {
    if closure.is_null() {
        return;
    }
    let block = closure.wrapping_byte_sub(size_of::<Block>()).cast::<Block>();
    // SAFETY: by the caller's promise it is there, and ours alone.
    unsafe {
        if let Some(key) = (*block).key.take() {
            // It fails in a sealed table alone, which keeps calling the closure: then the memory stays, too.
            if table::release_at_once(key).is_err() {
                return;
            }
        }
        free((*block).plan.cast());
        free(block.cast());
    }
}

/// Binds the closure that `ffi_closure_alloc` has given with the code pointer to a function. `FFI_BAD_ABI` for a
/// convention that the table does not have, or memory from elsewhere; `FFI_BAD_TYPEDEF` for a type that has no place in
/// it, or more arguments than the convention can remove from the stack (65,532 bytes).
///
/// # Safety
/// There must be a closure, and a call interface that `ffi_prep_cif` has filled and that stays as it is while the
/// closure is in use. Foreign code must call by that interface, and no other thread may call the closure now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ffi_prep_closure_loc(
    closure: *mut Closure,
    cif: *mut Cif,
    fun: Option<Function>,
    user_data: *mut c_void,
    code: *mut c_void,
) -> c_int {
    // SAFETY: by the caller's promise.
    let prepare = || unsafe {
        let block = Block::of(closure).ok_or(Status::BadAbi)?.as_ptr();
        let is_its_code = |key: &SlotKey| key.code().as_ptr() == code.cast_const();
        if !(*block).key.as_ref().is_some_and(is_its_code) {
            return Err(Status::BadAbi);
        }
        let (plan, signature) = Plan::new(&*cif)?;
        let binding = Binding::frame(run::frame_handler(), &*signature, block.cast());
        free(signature.cast());
        let rebound = (*block).key.take().map(|key| table::rebind(key, &binding));
        let is_bound = matches!(rebound, Some(Ok(_)));
        (*block).key = rebound.map(|rebound| rebound.unwrap_or_else(|refused| refused.handle));
        if !is_bound {
            free(plan.cast());
            return Err(Status::BadAbi);
        }
        // A call that runs has read what it needs of the old one.
        free(core::mem::replace(&mut (*block).plan, plan).cast());
        (*closure).cif = cif;
        (*closure).fun = fun;
        (*closure).user_data = user_data;
        Ok(())
    };
    prepare().map_or_else(|status: Status| status as c_int, |()| Status::Ok as c_int)
}

/// As [`ffi_prep_closure_loc`], for the code pointer that the closure came with. (With libffi the closure itself is the
/// code, where memory is executable; a closure in any other memory is refused.)
///
/// # Safety
/// As for [`ffi_prep_closure_loc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ffi_prep_closure(
    closure: *mut Closure,
    cif: *mut Cif,
    fun: Option<Function>,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe {
        let key = Block::of(closure).and_then(|block| (*block.as_ptr()).key.as_ref());
        let code = key.map_or(null_mut(), |key| key.code().as_ptr().cast_mut());
        ffi_prep_closure_loc(closure, cif, fun, user_data, code)
    }
}

// With the feature `std`, there is one already.
#[cfg(all(feature = "panic-handler", not(feature = "std")))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    calltable::internal::trap()
}
