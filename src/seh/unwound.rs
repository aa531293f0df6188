//! Calls that an unwinder ends, on systems whose files say by DWARF data how to unwind: by a panic, an exception of
//! C++, the end of a thread. Such a call is not running any more, and its record leaves the chain.
//!
//! Nothing is linked for it: the dispatchers' data name the function here, and it asks the unwinder that calls it.

use core::ffi::c_void;

/// What a personality routine is asked, and what it answers (Itanium C++ ABI, "Exception Handling").
const CLEANUP_PHASE: i32 = 2;
const CONTINUE_UNWIND: i32 = 8;

/// Called by the unwinder for a frame of a dispatcher, and in the end when the frames further in are gone.
#[unsafe(export_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_personality"))]
unsafe extern "C" fn personality(
    _version: i32,
    actions: i32,
    _class: u64,
    _exception: *mut c_void,
    context: *mut c_void,
) -> i32 {
    if actions & CLEANUP_PHASE != 0 {
        // SAFETY: the unwinder passes the state of a dispatcher's frame, which is about to go.
        unsafe { super::ended(context) };
    }
    CONTINUE_UNWIND
}
