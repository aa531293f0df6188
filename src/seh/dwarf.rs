//! C++ exceptions of GCC and Clang for i686 Windows. They are none of the system's: they unwind by DWARF data and know
//! nothing of the chain. What the handler in the chain does for the system's, this does for them.

use core::ffi::c_void;
use core::ptr::null_mut;

use super::GCC_THROW;
use super::gcc::{GccException, destroy};
use super::policy::ExceptionRecord;
use super::record::{chain, pop};
use super::x86::{Locals, set_head};
use crate::layout::LOCALS_RECORD;

/// What a personality routine is asked, and what it answers (Itanium C++ ABI, "Exception Handling").
const SEARCH_PHASE: i32 = 1;
const HANDLER_FRAME: i32 = 4;
const HANDLER_FOUND: i32 = 6;
const INSTALL_CONTEXT: i32 = 7;
const CONTINUE_UNWIND: i32 = 8;

// Of the runtime library that every program of this target is linked with. (`_Unwind_GetGR` would give EBP, but stops
// the program if another image's copy of the library is the one that unwinds.)
unsafe extern "C" {
    fn _Unwind_GetCFA(context: *mut c_void) -> usize;
    fn _Unwind_SetIP(context: *mut c_void, address: usize);

    #[link_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_resume")]
    static RESUME: u8;
}

/// Called by the runtime library when an exception leaves a handler, and when the dispatcher's frame is unwound.
#[unsafe(export_name = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_personality"))]
unsafe extern "C" fn personality(
    _version: i32,
    actions: i32,
    _class: u64,
    exception: *mut GccException,
    context: *mut c_void,
) -> i32 {
    // SAFETY: the library passes the state of a dispatcher's frame and an exception of code that it called. The first
    // record beyond what the dispatcher pushed for its handler is that of its own locals; frames further in have been
    // left when the library says that this one is to be.
    unsafe {
        let stack = _Unwind_GetCFA(context);
        let mut records = chain().map_while(Result::ok);
        let Some(record) = records.find(|record| record.addr() >= stack) else { return CONTINUE_UNWIND };
        let locals = record.byte_sub(LOCALS_RECORD).cast::<Locals>();
        if actions & SEARCH_PHASE != 0 {
            let mut record = ExceptionRecord {
                code: GCC_THROW,
                flags: 0,
                nested: null_mut(),
                address: null_mut(),
                parameter_count: 1,
                parameters: [0; 15],
            };
            record.parameters[0] = exception.expose_provenance();
            let ended = Locals::consider(locals, &mut record, null_mut()).is_none();
            if ended { HANDLER_FOUND } else { CONTINUE_UNWIND }
        } else if actions & HANDLER_FRAME != 0 {
            set_head(record);
            destroy(exception);
            _Unwind_SetIP(context, (&raw const RESUME).addr());
            INSTALL_CONTEXT
        } else {
            pop(record);
            (*locals).uncount();
            CONTINUE_UNWIND
        }
    }
}
