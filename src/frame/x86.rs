//! i686: a call as `calltable_frame` lays it out.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::offset_of;

use static_assertions::const_assert_eq;

use crate::abi::{Location, Shape, bytes_of_arguments, locate, registers, shape_of_frame};
use crate::layout::*;
use crate::signature::Signature;
use crate::types::Type;

/// One call, as the frame lane's dispatcher lays it out for a [`FrameHandler`](crate::table::FrameHandler).
#[repr(C)]
#[derive(Debug)]
pub struct RawFrame {
    /// The result, for EAX and EDX; a floating-point one as the bits of a double, for ST0. Zero when the handler
    /// starts.
    pub result: [u32; 2],
    /// The upper 16 bits of a result that is a [`Type::F80`]. Zero at first.
    pub more_result: u32,
    /// The arguments on the stack, in words of 4 bytes.
    pub arguments: *mut u32,
    /// ECX and EDX.
    pub registers: [u32; 2],
}

const_assert_eq!(size_of::<RawFrame>(), FRAME_SIZE);
const_assert_eq!(offset_of!(RawFrame, result), FRAME_RESULT);
const_assert_eq!(offset_of!(RawFrame, more_result), FRAME_RESULT + 8);
const_assert_eq!(offset_of!(RawFrame, arguments), FRAME_ARGUMENTS);
const_assert_eq!(offset_of!(RawFrame, registers), FRAME_REGISTERS);

/// Structures that came in several places: there are none.
#[derive(Debug)]
pub struct Gathered;

/// How far below the arguments the return addresses lie: that in the entry, and that in the foreign code.
pub(super) const RETURN_ADDRESSES: [usize; 2] =
    [FROM_EBP_ARGUMENTS - FROM_EBP_ENTRY, FROM_EBP_ARGUMENTS - FROM_EBP_CALLER];

impl RawFrame {
    /// # Safety
    /// The foreign code must have passed that argument; so for all below.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn bits(&self, signature: &Signature, index: usize, declared: Type) -> u128 {
        // SAFETY: by the caller's promise the words of the argument are there; one in a register has one.
        unsafe {
            let at = Self::address(self, signature, index, declared, &Gathered).cast::<u32>();
            let high = if declared.size() == 8 { at.add(1).read() } else { 0 };
            u128::from(at.read()) | u128::from(high) << 32
        }
    }

    /// Where an argument is: on the stack, or in a register's place in the frame.
    ///
    /// # Safety
    /// The frame must be there, and the foreign code must have passed that argument.
    #[doc(hidden)]
    pub unsafe fn address(
        this: *const Self,
        signature: &Signature,
        index: usize,
        _declared: Type,
        _gathered: *const Gathered,
    ) -> *const u8 {
        // SAFETY: by the caller's promise.
        let (registers, arguments) = unsafe { (&raw const (*this).registers, (*this).arguments) };
        match locate(&signature.prototype(), index).0 {
            Some(Location::Register(register)) => registers.cast::<u32>().wrapping_add(register).cast(),
            Some(Location::Stack(word)) => arguments.wrapping_add(word).cast(),
            None => arguments.cast(),
        }
    }

    /// Has the dispatcher of a refused call, which may know of no registration or of another one, return as a signature
    /// says: with a result in ST0 or with none, and without the arguments that the callee removes.
    ///
    /// # Safety
    /// The frame must be the one that the dispatcher gave to the handler of a refused call, and the foreign code must
    /// have called as the signature says.
    pub(crate) unsafe fn return_as(&mut self, signature: &Signature) {
        let Shape { flags, cleanup, .. } = shape_of_frame(&signature.prototype());
        let locals = self.arguments.wrapping_byte_sub(FROM_EBP_ARGUMENTS + LOCALS_SIZE);
        // SAFETY: by the caller's promise the dispatcher's locals are there, which it reads when the handler has
        // returned.
        unsafe {
            locals.byte_add(LOCALS_CLEANUP).write(cleanup);
            let state = locals.byte_add(LOCALS_STATE);
            const FLOATS: usize = STATE_FLOAT | STATE_F80;
            state.write(state.read() & !(FLOATS as u32) | (flags & FLOATS) as u32);
        }
    }

    /// The address for a result that is returned in memory: the first word, or what follows a method's `this`.
    pub(crate) unsafe fn hidden_argument(&self, signature: &Signature) -> *mut u8 {
        let before = signature.before_hidden_result();
        let [_, edx] = self.registers;
        let address = match registers(signature.convention()) {
            2 if before == 1 => edx,
            // SAFETY: by the caller's promise there is a hidden argument, on the stack; so is `this`, if no register is
            // for arguments.
            0 => unsafe { self.arguments.add(before).read() },
            // SAFETY: as above; what is before it is in a register.
            _ => unsafe { self.arguments.read() },
        };
        core::ptr::with_exposed_provenance_mut(address as usize)
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
    pub fn set_result(&mut self, ty: Type, bits: u128) {
        let bits = match ty {
            Type::F32 => f64::from(f32::from_bits(bits as u32)).to_bits(),
            _ => bits as u64,
        };
        self.result = [bits as u32, (bits >> 32) as u32];
    }
}

/// Where the next argument of a variadic call is: among the words on the stack, as all are.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    at: *mut u32,
    frame: PhantomData<&'a RawFrame>,
}

impl Cursor<'_> {
    pub(super) fn new(raw: &RawFrame, signature: &Signature) -> Self {
        let at = raw.arguments.wrapping_byte_add(bytes_of_arguments(&signature.prototype()));
        Self { at, frame: PhantomData }
    }

    /// # Safety
    /// The foreign code must have passed another argument, of this type.
    pub(super) unsafe fn next(&mut self, ty: Type) -> u128 {
        // SAFETY: by the caller's promise its words are there.
        unsafe {
            let low = self.at.read();
            let is_large = ty.size() == 8;
            let high = if is_large { self.at.add(1).read() } else { 0 };
            self.at = self.at.add(1 + usize::from(is_large));
            u128::from(low) | u128::from(high) << 32
        }
    }

    pub(super) fn list(&mut self) -> *mut c_void {
        self.at.cast()
    }
}
