//! What the registry needs of the modules that are not looked at here.

pub use signature::{Signature, Type};

/// A table of which only the addresses matter.
pub mod arch {
    use std::ffi::c_void;

    use super::Signature;
    use crate::context::layout::{CAPACITY, ENTRY_STRIDE};
    use crate::convention::Convention;
    use crate::table::{CodePointer, Location};

    static TABLE: [u8; CAPACITY * ENTRY_STRIDE] = [0; CAPACITY * ENTRY_STRIDE];

    pub const NATIVE: Convention = Convention::Win64;
    pub const C: Convention = Convention::Win64;

    #[derive(Clone, Copy, Debug)]
    pub struct Place {
        pub positions: usize,
        pub flags: usize,
    }

    pub const fn is_available(convention: Convention) -> bool {
        matches!(convention, Convention::Win64)
    }

    pub fn place_of(_convention: Convention, positions: usize) -> Place {
        Place { positions, flags: 0 }
    }

    pub fn place_of_frame(_signature: &Signature) -> Place {
        Place { positions: 0, flags: 0 }
    }

    pub fn entry(slot: usize) -> CodePointer {
        CodePointer::new((&raw const TABLE).wrapping_byte_add(slot * ENTRY_STRIDE).cast())
    }

    pub fn slot_at(_code: *const c_void) -> Option<usize> {
        None
    }

    pub fn locate(_code: *const c_void) -> Option<Location> {
        None
    }
}

pub mod callback {
    use crate::table::CodePointer;

    pub trait FunctionPointer {
        unsafe fn from_code(code: CodePointer) -> Self;
    }
}

pub mod frame {
    pub struct RawFrame;
}

pub mod seh {
    pub fn unwinder() -> *mut () {
        std::ptr::null_mut()
    }

    pub fn prepare(_unwinder: *mut ()) {}

    pub fn is_available() -> bool {
        false
    }
}

pub mod signature {
    use crate::convention::Convention;

    pub struct Signature;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Type;

    impl Signature {
        pub fn convention(&self) -> Convention {
            Convention::Win64
        }
    }
}
