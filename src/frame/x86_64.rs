//! x86_64: a call as `calltable_frame` lays it out.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::offset_of;

use static_assertions::const_assert_eq;

use crate::abi::position_of;
use crate::layout::*;
use crate::signature::Signature;
use crate::types::Type;

/// One call, as the frame lane's dispatcher lays it out for a [`FrameHandler`](crate::table::FrameHandler).
#[repr(C)]
#[derive(Debug)]
pub struct RawFrame {
    /// The result: the first half is returned in RAX, both halves in XMM0. Zero when the handler starts.
    pub result: [u64; 2],
    /// The argument positions in order, 8 bytes each, a hidden result pointer among them (first, or after a method's
    /// `this`). Floating-point arguments of the first four positions are in `floats` instead.
    pub arguments: *mut u64,
    /// The low halves of XMM0 to XMM3, for the first four positions. Not set in a build without SSE.
    pub floats: [u64; FLOATS],
}

/// Positions that floating-point arguments have registers for.
const FLOATS: usize = 4;

const_assert_eq!(size_of::<RawFrame>(), FRAME_SIZE);
const_assert_eq!(offset_of!(RawFrame, result), FRAME_RESULT);
const_assert_eq!(offset_of!(RawFrame, arguments), FRAME_ARGUMENTS);
const_assert_eq!(offset_of!(RawFrame, floats), FRAME_FLOATS);

/// Structures that came in several places: there are none.
#[derive(Debug)]
pub struct Gathered;

/// How far below the arguments the return addresses lie: that in the entry, below the entry's frame, and that in the
/// foreign code.
pub(super) const RETURN_ADDRESSES: [usize; 2] = [ENTRY_FRAME + 16, 8];

impl RawFrame {
    /// # Safety
    /// The foreign code must have passed that argument; so for all below.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn bits(&self, signature: &Signature, index: usize, declared: Type) -> u128 {
        let position = position_of(&signature.prototype(), index);
        // SAFETY: by the caller's promise there are that many positions.
        let word = || unsafe { self.arguments.add(position).read() };
        match declared {
            Type::F32 | Type::F64 => self.floats.get(position).copied().unwrap_or_else(word).into(),
            // SAFETY: the argument is the address of such a value.
            Type::I128 | Type::U128 => unsafe {
                core::ptr::with_exposed_provenance::<u128>(word() as usize).read_unaligned()
            },
            _ => word().into(),
        }
    }

    /// Where an argument is: in its position, or in a register's place in the frame, or where the position points to.
    ///
    /// # Safety
    /// The frame must be there, and the foreign code must have passed that argument.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn address(
        this: *const Self,
        signature: &Signature,
        index: usize,
        declared: Type,
        _gathered: *const Gathered,
    ) -> *const u8 {
        let position = position_of(&signature.prototype(), index);
        // SAFETY: by the caller's promise.
        let (floats, arguments) = unsafe { (&raw const (*this).floats, (*this).arguments) };
        let at = arguments.wrapping_add(position);
        match (declared, declared.size()) {
            (Type::F32 | Type::F64, _) if position < FLOATS => floats.cast::<u64>().wrapping_add(position).cast(),
            (_, 1 | 2 | 4 | 8) => at.cast(),
            // SAFETY: by the caller's promise there is such a position.
            _ => core::ptr::with_exposed_provenance(unsafe { at.read() } as usize),
        }
    }

    /// The address for a result that is returned in memory.
    pub(crate) unsafe fn hidden_argument(&self, signature: &Signature) -> *mut u8 {
        // SAFETY: by the caller's promise there is such an argument.
        let address = unsafe { self.arguments.add(signature.before_hidden_result()).read() };
        core::ptr::with_exposed_provenance_mut(address as usize)
    }

    /// How the dispatcher of a refused call returns: as it does for every signature.
    pub(crate) unsafe fn return_as(&mut self, _signature: &Signature) {}

    /// The same call before it has a result.
    pub(crate) fn without_result(&self) -> Self {
        let &Self { arguments, floats, .. } = self;
        Self { result: [0; 2], arguments, floats }
    }

    /// No structure comes in more than one place.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn gather(&self, _signature: &Signature) -> Gathered {
        Gathered
    }

    /// What is to become of the result's bytes: nothing, they are where they should be.
    #[inline]
    pub(super) fn expect_result(&mut self, _ty: Option<Type>) {}

    #[doc(hidden)]
    #[inline]
    pub fn set_result(&mut self, _ty: Type, bits: u128) {
        self.result = [bits as u64, (bits >> 64) as u64];
    }
}

/// Where the next argument of a variadic call is: the convention puts floating-point ones in integer registers, too, so
/// the positions are one array.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    #[cfg(any(windows, target_os = "uefi", target_os = "cygwin"))]
    at: *mut u64,
    /// C's own `va_list`. Without a register left it finds all arguments in memory, each in 8 bytes of its own.
    #[cfg(not(any(windows, target_os = "uefi", target_os = "cygwin")))]
    list: SystemV,
    frame: PhantomData<&'a RawFrame>,
}

/// "Variable Argument Lists", System V Application Binary Interface, AMD64 supplement.
#[cfg(not(any(windows, target_os = "uefi", target_os = "cygwin")))]
#[derive(Clone, Debug)]
#[repr(C)]
struct SystemV {
    /// From `registers` to the next integer and to the next floating-point number there.
    integers: u32,
    floats: u32,
    memory: *mut u64,
    registers: *mut c_void,
}

impl Cursor<'_> {
    pub(super) fn new(raw: &RawFrame, signature: &Signature) -> Self {
        let prototype = signature.prototype();
        let at = raw.arguments.wrapping_add(position_of(&prototype, prototype.parameters.len()));
        Self {
            #[cfg(any(windows, target_os = "uefi", target_os = "cygwin"))]
            at,
            #[cfg(not(any(windows, target_os = "uefi", target_os = "cygwin")))]
            list: SystemV { integers: 6 * 8, floats: 6 * 8 + 8 * 16, memory: at, registers: core::ptr::null_mut() },
            frame: PhantomData,
        }
    }

    /// The address of the next argument.
    pub(super) fn at(&mut self) -> &mut *mut u64 {
        #[cfg(any(windows, target_os = "uefi", target_os = "cygwin"))]
        return &mut self.at;
        #[cfg(not(any(windows, target_os = "uefi", target_os = "cygwin")))]
        &mut self.list.memory
    }

    /// # Safety
    /// The foreign code must have passed another argument, of this type.
    pub(super) unsafe fn next(&mut self, ty: Type) -> u128 {
        let at = self.at();
        // SAFETY: by the caller's promise there is such a position; of a number of 16 bytes it has the address.
        unsafe {
            let word = at.read();
            *at = at.add(1);
            if ty.size() == 16 {
                core::ptr::with_exposed_provenance::<u128>(word as usize).read_unaligned()
            } else {
                word.into()
            }
        }
    }

    pub(super) fn list(&mut self) -> *mut c_void {
        #[cfg(any(windows, target_os = "uefi", target_os = "cygwin"))]
        return self.at.cast();
        #[cfg(not(any(windows, target_os = "uefi", target_os = "cygwin")))]
        (&raw mut self.list).cast()
    }
}
