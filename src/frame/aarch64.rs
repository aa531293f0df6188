//! AArch64: a call as `calltable_frame` lays it out.

use core::ffi::c_void;
use core::mem::{MaybeUninit, offset_of};

use static_assertions::{const_assert, const_assert_eq};

use crate::abi::{Location, is_structure_hidden, locate};
use crate::layout::*;
use crate::signature::Signature;
use crate::types::Type;

/// One call, as the frame lane's dispatcher lays it out for a [`FrameHandler`](crate::table::FrameHandler).
#[repr(C)]
#[derive(Debug)]
pub struct RawFrame {
    /// The result: returned in X0 and X1, and both halves in V0. Zero when the handler starts.
    pub result: [u64; 2],
    /// What V1 to V3 may be loaded from, too: see `element`. Zero at first.
    pub more_results: [[u64; 2]; 3],
    /// The arguments on the stack, in words of 8 bytes.
    pub arguments: *mut u64,
    /// X8: the address for a result in memory.
    pub memory: u64,
    /// If the result is a homogeneous structure, the size of one of its elements: V0 to V3 are loaded from so many
    /// bytes each after the one before. Zero at first.
    pub element: u64,
    /// Nothing.
    pub unused: u64,
    /// X0 to X7.
    pub registers: [u64; REGISTERS],
    /// V0 to V7, each in two halves. Not set in a build without floating-point registers.
    pub floats: [[u64; 2]; REGISTERS],
}

const_assert_eq!(size_of::<RawFrame>(), FRAME_SIZE);
const_assert_eq!(offset_of!(RawFrame, result), FRAME_RESULT);
const_assert_eq!(offset_of!(RawFrame, more_results), FRAME_MORE_RESULTS);
const_assert_eq!(offset_of!(RawFrame, arguments), FRAME_ARGUMENTS);
const_assert_eq!(offset_of!(RawFrame, memory), FRAME_MEMORY);
const_assert_eq!(FRAME_MEMORY, FRAME_ARGUMENTS + 8); // one instruction stores both
const_assert_eq!(offset_of!(RawFrame, element), FRAME_ELEMENT);
const_assert_eq!(offset_of!(RawFrame, registers), FRAME_REGISTERS);
const_assert_eq!(offset_of!(RawFrame, floats), FRAME_FLOATS);
const_assert!(FRAME_SIZE % 16 == 0 && LINK_SIZE % 16 == 0);

/// Homogeneous structures that came with each element in a register of its own, as they are in memory; each begins
/// where its first register is in [`RawFrame::floats`].
pub type Gathered = MaybeUninit<[[u64; 2]; REGISTERS]>;

/// How far below the arguments lie, in the outermost lane's link, the address that stands for the entry, and the return
/// address in the foreign code.
pub(super) const RETURN_ADDRESSES: [usize; 2] = [LINK_SIZE - LINK_ENTRY, LINK_SIZE - LINK_CALLER];

/// A return address as it was before it was signed, if it was (asm/aarch64.S, SIGN).
pub(super) fn without_signature(address: *const c_void) -> *const c_void {
    let mut number = address.addr();
    // SAFETY: XPACLRI, which changes X30 alone; processors that sign nothing take it for a NOP.
    unsafe { core::arch::asm!("hint #7", inout("x30") number, options(nomem, nostack, preserves_flags)) };
    address.with_addr(number)
}

impl RawFrame {
    /// The first word of an argument.
    ///
    /// # Safety
    /// The foreign code must have passed that argument; so for all below.
    unsafe fn at(&self, signature: &Signature, index: usize) -> *const u64 {
        match locate(&signature.prototype(), index).0 {
            Some(Location::Integer(register)) => self.registers.as_ptr().wrapping_add(register),
            Some(Location::Float(register)) => self.floats.as_ptr().wrapping_add(register).cast(),
            Some(Location::Stack(word)) => self.arguments.wrapping_add(word),
            None => self.arguments,
        }
    }

    #[doc(hidden)]
    #[inline]
    pub unsafe fn bits(&self, signature: &Signature, index: usize, declared: Type) -> u128 {
        // SAFETY: by the caller's promise the words of the argument are there.
        unsafe {
            let at = self.at(signature, index);
            let high = if declared.size() == 16 { at.add(1).read() } else { 0 };
            u128::from(at.read()) | u128::from(high) << 64
        }
    }

    /// The bytes of a structure: gathered, or where it is, or where it points to.
    #[doc(hidden)]
    pub unsafe fn structure(
        &self,
        signature: &Signature,
        index: usize,
        declared: Type,
        gathered: &Gathered,
    ) -> *const u8 {
        if let (Type::Homogeneous { .. }, Some(Location::Float(first))) =
            (declared, locate(&signature.prototype(), index).0)
        {
            return gathered.as_ptr().cast::<[u64; 2]>().wrapping_add(first).cast();
        }
        // SAFETY: by the caller's promise.
        let at = unsafe { self.at(signature, index) };
        if is_structure_hidden(signature.convention(), declared) {
            // SAFETY: as above.
            let address = unsafe { at.read() };
            core::ptr::with_exposed_provenance(address as usize)
        } else {
            at.cast()
        }
    }

    /// Puts the elements of structures side by side that came in registers of their own.
    #[doc(hidden)]
    pub unsafe fn gather(&self, signature: &Signature) -> Gathered {
        let mut gathered = Gathered::uninit();
        for (index, ty) in signature.parameters().iter().enumerate() {
            let Type::Homogeneous { element, count } = *ty else { continue };
            let Some(Location::Float(first)) = locate(&signature.prototype(), index).0 else { continue };
            let to = gathered.as_mut_ptr().cast::<[u64; 2]>().wrapping_add(first).cast::<u8>();
            for (member, register) in self.floats.iter().skip(first).take(count.into()).enumerate() {
                // SAFETY: the elements of a structure take no more room than their registers, which nobody else has.
                unsafe { to.add(member * element.size()).copy_from((&raw const *register).cast(), element.size()) };
            }
        }
        gathered
    }

    /// Says where the elements of a homogeneous result are: side by side.
    #[inline]
    pub(super) fn expect_result(&mut self, ty: Option<Type>) {
        if let Some(Type::Homogeneous { element, .. }) = ty {
            self.element = element.size() as u64;
        }
    }

    /// The address for a result that is returned in memory: X8, of a method what follows `this`.
    pub(crate) unsafe fn hidden_argument(&self, signature: &Signature) -> *mut u8 {
        let before = signature.before_hidden_result();
        let address = if before == 0 { self.memory } else { self.registers.get(before).copied().unwrap_or_default() };
        core::ptr::with_exposed_provenance_mut(address as usize)
    }

    /// How the dispatcher of a refused call returns: as it does for every signature.
    pub(crate) unsafe fn return_as(&mut self, _signature: &Signature) {}

    /// The same call before it has a result.
    pub(crate) fn without_result(&self) -> Self {
        let &Self { arguments, memory, registers, floats, .. } = self;
        Self { result: [0; 2], more_results: [[0; 2]; 3], arguments, memory, element: 0, unused: 0, registers, floats }
    }

    #[doc(hidden)]
    #[inline]
    pub fn set_result(&mut self, _ty: Type, bits: u128) {
        self.result = [bits as u64, (bits >> 64) as u64];
    }
}
