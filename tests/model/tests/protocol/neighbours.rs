//! What the registry needs of the modules that are not looked at here.

/// A table of which only the addresses matter.
pub mod entry {
    use std::ffi::c_void;
    use std::ptr::NonNull;

    use crate::layout::{CAPACITY, ENTRY_STRIDE};

    static TABLE: [u8; CAPACITY * ENTRY_STRIDE] = [0; CAPACITY * ENTRY_STRIDE];

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CodePointer(NonNull<c_void>);

    // SAFETY: nothing is read or written there.
    unsafe impl Send for CodePointer {}

    impl CodePointer {
        pub fn as_ptr(self) -> *const c_void {
            self.0.as_ptr()
        }
    }

    pub enum Location {}

    pub fn entry(slot: usize) -> CodePointer {
        CodePointer(NonNull::new((&raw const TABLE).cast_mut().wrapping_byte_add(slot * ENTRY_STRIDE).cast()).unwrap())
    }

    pub fn slot_at(_code: *const c_void) -> Option<usize> {
        None
    }

    pub fn locate(_code: *const c_void) -> Option<Location> {
        None
    }
}

pub mod abi {
    use crate::convention::Convention;

    #[derive(Clone, Copy, Debug)]
    pub struct Shape {
        pub positions: usize,
        pub flags: usize,
        pub cleanup: u32,
    }

    pub struct Prototype;

    pub const FRAMED: usize = 0;
    pub const X18: usize = 0;

    pub fn shape_of(_convention: Convention, positions: usize) -> Shape {
        Shape { positions, flags: 0, cleanup: 0 }
    }

    pub fn shape_of_direct(_prototype: &Prototype) -> Shape {
        Shape { positions: 0, flags: 0, cleanup: 0 }
    }

    pub fn shape_of_frame(_prototype: &Prototype) -> Shape {
        Shape { positions: 0, flags: 0, cleanup: 0 }
    }
}

pub mod frame {
    pub struct RawFrame;
}

pub mod stale {
    pub unsafe extern "efiapi" fn unbound(_data: *mut std::ffi::c_void, _frame: *mut super::frame::RawFrame) {}
}

pub mod seh {
    pub fn unwinder() -> *mut () {
        std::ptr::null_mut()
    }

    pub fn is_available() -> bool {
        false
    }

    pub fn counts_here(_context: *const crate::context::Context) -> bool {
        false
    }
}

pub mod signature {
    use super::abi::Prototype;
    use crate::convention::Convention;

    pub struct Signature;

    impl Signature {
        pub fn convention(&self) -> Convention {
            Convention::Win64
        }

        pub fn prototype(&self) -> Prototype {
            Prototype
        }
    }
}

/// `src/lock.rs` without an operating system below it.
pub mod lock {
    use spin::mutex::{SpinMutex, SpinMutexGuard};

    pub struct Lock<T>(SpinMutex<T>);

    #[allow(dead_code, reason = "no process is copied or ends here")]
    pub trait Recover {
        fn recover(&mut self);
        fn inherit(&mut self);
    }

    impl<T: Recover> Lock<T> {
        pub const fn new(contents: T) -> Self {
            Self(SpinMutex::new(contents))
        }

        pub fn lock(&self) -> SpinMutexGuard<'_, T> {
            self.0.lock()
        }

        pub fn try_lock(&self) -> Option<SpinMutexGuard<'_, T>> {
            self.0.try_lock()
        }
    }
}

/// `src/platform` where there is none.
pub mod platform {
    pub fn is_ending() -> bool {
        false
    }

    pub struct Wait;

    impl Wait {
        pub const fn new() -> Self {
            Self
        }

        pub fn slept(&self) -> u32 {
            0
        }

        pub fn is_getting_long(&self) -> bool {
            false
        }

        pub fn pause(&mut self) {
            core::hint::spin_loop();
        }
    }
}

pub mod own_call {
    pub fn is_on_stack(_slot: usize) -> bool {
        false
    }
}
