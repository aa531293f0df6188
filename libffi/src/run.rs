//! A call: from the slot's frame to the closure's function, and back.
//!
//! The handler is C (`calltable_closure.c`): it has [`begin`] find the function and what that gets, calls it, and has
//! [`end`] give the result to the foreign code.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use calltable::table::FrameHandler;
use calltable::{RawFrame, Type};
use static_assertions::const_assert;

use crate::Block;
use crate::abi::{Plan, Returned, address, in_register};
use crate::types::{Cif, Closure, Function};

unsafe extern "C" {
    #[link_name = "calltable_libffi_handler"]
    fn handler();
}

/// The handler of each closure's slot, whose data is the block.
pub(crate) fn frame_handler() -> FrameHandler {
    // SAFETY: `calltable_closure.c` declares it so. (Rust need not know that exceptions may leave it, since no Rust
    // calls it.)
    unsafe { core::mem::transmute::<*const (), FrameHandler>(handler as *const ()) }
}

/// What `calltable_closure.c` calls `struct call`, on the stack of the handler.
#[repr(C)]
struct Call {
    function: Option<Function>,
    cif: *mut Cif,
    result: *mut c_void,
    arguments: *mut *mut c_void,
    user_data: *mut c_void,
    room: Room,
}

struct Room {
    /// Where a number that goes back in a register is written to: where in these there are 16 aligned bytes.
    results: [u64; 4],
    raw: *mut RawFrame,
    /// Not in the plan: the closure may be freed by its own function.
    returned: Returned,
    gathered: Gathered,
}

/// Structures that came in several registers, as they are in memory; each begins where its first register is.
pub(crate) type Gathered = MaybeUninit<[[u64; 2]; 8]>;

/// As `build.rs` has told `calltable_closure.c`.
const ROOM: usize = {
    let text = env!("CALL_ROOM").as_bytes();
    let (mut number, mut at) = (0, 0);
    while at < text.len() {
        number = number * 10 + (text[at] - b'0') as usize;
        at += 1;
    }
    number
};

const_assert!(size_of::<Room>() <= ROOM && align_of::<Room>() <= align_of::<u64>());

/// A closure without a function does nothing.
unsafe extern "C-unwind" fn nothing(_: *mut Cif, _: *mut c_void, _: *mut *mut c_void, _: *mut c_void) {}

/// How many arguments the closure's function gets.
///
/// # Safety
/// The block must be that of a closure that `ffi_prep_closure_loc` has prepared.
#[unsafe(export_name = "calltable_libffi_count")]
unsafe extern "C" fn count(block: *const Block) -> usize {
    // SAFETY: by the caller's promise.
    unsafe { Plan::places((*block).plan).len() }
}

/// # Safety
/// As for [`count`]; the frame must be that of a call as the closure's plan says, and `call` the handler's own, with
/// room for as many arguments.
#[unsafe(export_name = "calltable_libffi_begin")]
unsafe extern "C" fn begin(block: *mut Block, raw: *mut RawFrame, call: *mut Call) {
    // SAFETY: by the caller's promise.
    unsafe {
        let Closure { cif, fun, user_data, .. } = *(&raw const (*block).closure).cast::<Closure>();
        let plan = (*block).plan;
        let returned = (*plan).returned;
        let room = &raw mut (*call).room;
        let gathered = &raw mut (*room).gathered;
        for (index, place) in Plan::places(plan).iter().enumerate() {
            (*call).arguments.add(index).write(address(raw, *place, gathered));
        }
        let results = (&raw mut (*room).results).cast::<c_void>();
        (*call).result = match returned {
            Returned::Hidden(place) => address(raw, place, gathered),
            Returned::Bytes(_) => (&raw mut (*raw).result).cast(),
            Returned::Number(..) | Returned::Nothing => results.wrapping_add(results.align_offset(16)),
        };
        if matches!(returned, Returned::Number(..)) {
            (*call).result.cast::<u128>().write(0);
        }
        (*room).raw = raw;
        (*room).returned = returned;
        (*call).function = Some(fun.unwrap_or(nothing));
        (*call).cif = cif;
        (*call).user_data = user_data;
    }
}

/// # Safety
/// [`begin`] must have filled it, in the same call.
#[unsafe(export_name = "calltable_libffi_end")]
unsafe extern "C" fn end(call: *mut Call) {
    // SAFETY: by the caller's promise; the frame is the dispatcher's, and still there.
    unsafe {
        let (raw, result) = ((*call).room.raw, (*call).result);
        match (*call).room.returned {
            Returned::Nothing => {}
            Returned::Number(ty, kind) => (*raw).set_result(ty, in_register(kind, ty, result)),
            // They are where they should be.
            #[cfg_attr(not(target_arch = "aarch64"), allow(unused_variables, reason = "only there they are spread"))]
            Returned::Bytes(element) => {
                #[cfg(target_arch = "aarch64")]
                {
                    (*raw).element = element as u64;
                }
            }
            Returned::Hidden(_) => (*raw).set_result(Type::Pointer, result.expose_provenance() as u128),
        }
    }
}
