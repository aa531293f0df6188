//! A call: from the slot's frame to the closure's function, and back.
//!
//! The handler is C (`calltable_closure.c`): it has [`begin`] find the function and what that gets, calls it, and has
//! [`end`] give the result to the foreign code.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use calltable::table::FrameHandler;
use calltable::{Frame, MAX_PARAMETERS, RawFrame, Type};
use static_assertions::const_assert;

use crate::Block;
use crate::abi::result_in_registers;
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
    /// Where a result that goes in registers is written to: where in these there are 16 aligned bytes.
    results: [u64; 4],
    in_room: *mut c_void,
    raw: *mut RawFrame,
    /// How the result goes back. Not in the plan: the closure may be freed by its own function.
    returned: Option<Type>,
    kind: u16,
    is_passed: bool,
    /// Holds the structures that came in several places.
    frame: MaybeUninit<Frame<'static>>,
    arguments: [MaybeUninit<*mut c_void>; MAX_PARAMETERS],
}

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

/// # Safety
/// The block must be that of a closure that `ffi_prep_closure_loc` has prepared, the frame that of a call as its plan
/// says, and `call` the handler's own.
#[unsafe(export_name = "calltable_libffi_begin")]
unsafe extern "C" fn begin(block: *mut Block, raw: *mut RawFrame, call: *mut Call) {
    // SAFETY: by the caller's promise.
    unsafe {
        let Closure { cif, fun, user_data, .. } = *(&raw const (*block).closure).cast::<Closure>();
        let plan = &*(*block).plan;
        let room = &raw mut (*call).room;
        let frame = (*room).frame.write(Frame::new(&mut *raw, &plan.signature));
        let arguments = (&raw mut (*room).arguments).cast::<*mut c_void>();
        for (index, place) in plan.places().enumerate() {
            arguments.add(index).write(frame.address(place).unwrap_or(core::ptr::null_mut()));
        }
        let passed = if plan.result_is_passed { frame.address(0).ok() } else { None };
        let results = (&raw mut (*room).results).cast::<c_void>();
        let in_room = results.wrapping_add(results.align_offset(16));
        in_room.cast::<u128>().write(0);
        let result = match passed {
            Some(at) => at.cast::<*mut c_void>().read(),
            None => frame.result_bytes().map_or(in_room, |bytes| bytes.as_mut_ptr().cast()),
        };
        (*room).in_room = in_room;
        (*room).raw = raw;
        (*room).returned = plan.signature.result();
        (*room).kind = plan.result;
        (*room).is_passed = plan.result_is_passed;
        (*call).function = Some(fun.unwrap_or(nothing));
        (*call).cif = cif;
        (*call).result = result;
        (*call).arguments = arguments;
        (*call).user_data = user_data;
    }
}

/// # Safety
/// [`begin`] must have filled it, in the same call.
#[unsafe(export_name = "calltable_libffi_end")]
unsafe extern "C" fn end(call: *mut Call) {
    // SAFETY: by the caller's promise; the frame is the dispatcher's, and still there.
    unsafe {
        let room = &raw const (*call).room;
        let (raw, in_room) = ((*room).raw, (*room).in_room);
        match (*room).returned {
            Some(ty) if (*room).is_passed => (*raw).set_result(ty, (*call).result.expose_provenance() as u128),
            Some(ty) if (*call).result == in_room => {
                (*raw).set_result(ty, result_in_registers((*room).kind, ty, in_room));
            }
            _ => {} // it is where it should be
        }
    }
}
