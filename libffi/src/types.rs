//! libffi's structures, as its `ffi.h` and `ffitarget.h` declare them, versions 3.4 to 3.6.

use core::ffi::{c_uint, c_void};

/// `ffi_type`: a type, as libffi describes one.
#[repr(C)]
#[derive(Debug)]
pub struct Type {
    /// In bytes.
    pub size: usize,
    /// In bytes.
    pub alignment: u16,
    /// One of [`kind`].
    pub kind: u16,
    /// Of a structure or complex number: its members, the last one followed by null.
    pub elements: *mut *mut Type,
}

/// What a [`Type`] may be: `FFI_TYPE_VOID` and the like.
#[allow(missing_docs, reason = "each is named as in ffi.h")]
pub mod kind {
    pub const VOID: u16 = 0;
    pub const FLOAT: u16 = 2;
    pub const DOUBLE: u16 = 3;
    pub const LONGDOUBLE: u16 = 4;
    pub const SINT8: u16 = 6;
    pub const SINT16: u16 = 8;
    pub const SINT32: u16 = 10;
    pub const UINT64: u16 = 11;
    pub const SINT64: u16 = 12;
    pub const STRUCT: u16 = 13;
    pub const COMPLEX: u16 = 15;
    pub const UINT128: u16 = 16;
    pub const SINT128: u16 = 17;
}

/// `ffi_cif`: a prepared call interface, which `ffi_prep_cif` has filled.
#[repr(C)]
#[derive(Debug)]
pub struct Cif {
    /// `ffi_abi`; its numbers differ by target.
    pub abi: c_uint,
    /// How many parameters there are.
    pub nargs: c_uint,
    /// That many.
    pub arg_types: *mut *mut Type,
    /// The result.
    pub rtype: *mut Type,
    /// libffi's own.
    pub bytes: c_uint,
    /// libffi's own. On AArch64 bit 8 says that `ffi_prep_cif_var` has filled it.
    pub flags: c_uint,
    // On AArch64 Windows there is a field more, which nobody sets.
}

/// What a closure calls: the call interface, where the result goes, the addresses of the arguments, the user's data.
pub type Function = unsafe extern "C-unwind" fn(*mut Cif, *mut c_void, *mut *mut c_void, *mut c_void);

/// `ffi_closure`.
#[repr(C, align(8))]
#[derive(Debug)]
pub struct Closure {
    /// Machine code of libffi's; here what [`crate::ffi_prep_closure`] finds the closure's entry by.
    pub(crate) trampoline: Trampoline,
    /// As they were given to `ffi_prep_closure_loc`.
    pub cif: *mut Cif,
    /// So was this.
    pub fun: Option<Function>,
    /// And this.
    pub user_data: *mut c_void,
}

/// `FFI_TRAMPOLINE_SIZE`.
const TRAMPOLINE_SIZE: usize = if cfg!(target_arch = "x86_64") {
    32
} else if cfg!(target_arch = "x86") {
    16
} else {
    24
};

/// Its beginning.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Trampoline {
    pub(crate) block: *mut c_void,
    unused: [u8; TRAMPOLINE_SIZE - size_of::<*mut c_void>()],
}

/// `ffi_status`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `FFI_OK`
    Ok = 0,
    /// `FFI_BAD_TYPEDEF`: a type that this convention, or the table, has no place for.
    BadTypedef = 1,
    /// `FFI_BAD_ABI`: a convention that the table does not have, or a closure that is none of its own.
    BadAbi = 2,
}
