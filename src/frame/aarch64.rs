//! AArch64: a call as `calltable_frame` lays it out.

use core::ffi::c_void;
#[cfg(not(windows))]
use core::marker::PhantomData;
use core::mem::{MaybeUninit, offset_of};

use static_assertions::{const_assert, const_assert_eq};

use crate::abi::{Location, Places, is_structure_hidden, locate};
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
    /// # Safety
    /// The foreign code must have passed that argument; so for all below. It must be a number.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn bits(&self, signature: &Signature, index: usize, declared: Type) -> u128 {
        // SAFETY: by the caller's promise the words of the argument are there; no number is gathered.
        unsafe {
            let at = Self::address(self, signature, index, declared, core::ptr::null()).cast::<u64>();
            let high = if declared.size() == 16 { at.add(1).read() } else { 0 };
            u128::from(at.read()) | u128::from(high) << 64
        }
    }

    /// Where an argument is: on the stack, in a register's place in the frame, gathered from several, or where one of
    /// these points to.
    ///
    /// # Safety
    /// The frame must be there, and the foreign code must have passed that argument; `gathered` must be what
    /// [`Self::gather`] has made of them, if the argument is homogeneous.
    #[doc(hidden)]
    pub unsafe fn address(
        this: *const Self,
        signature: &Signature,
        index: usize,
        declared: Type,
        gathered: *const Gathered,
    ) -> *const u8 {
        // SAFETY: by the caller's promise.
        let (registers, floats, arguments) =
            unsafe { (&raw const (*this).registers, &raw const (*this).floats, (*this).arguments) };
        let at = match locate(&signature.prototype(), index).0 {
            Some(Location::Float(first)) if matches!(declared, Type::Homogeneous { .. }) => {
                return gathered.cast::<[u64; 2]>().wrapping_add(first).cast();
            }
            Some(Location::Float(register)) => floats.cast::<[u64; 2]>().wrapping_add(register).cast(),
            Some(Location::Integer(register)) => registers.cast::<u64>().wrapping_add(register),
            Some(Location::Stack(word)) => arguments.cast_const().wrapping_add(word),
            None => arguments,
        };
        if is_structure_hidden(signature.convention(), declared) {
            // SAFETY: as above.
            core::ptr::with_exposed_provenance(unsafe { at.read() } as usize)
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

cfg_if::cfg_if! {
    if #[cfg(windows)] {
        /// Where the next argument of a variadic call is: all are words, of which X0 to X7 have the first ("Overview of
        /// ARM64 ABI conventions, Addendum: Variadic functions", Microsoft).
        #[derive(Clone, Debug)]
        pub(super) struct Cursor<'a> {
            raw: &'a RawFrame,
            word: usize,
            /// Side by side, for C, whose `va_list` is a pointer.
            copy: [u64; REGISTERS + MAX_WORDS],
        }

        impl<'a> Cursor<'a> {
            pub(super) fn new(raw: &'a RawFrame, signature: &Signature) -> Self {
                let Places { integers, words, .. } = locate(&signature.prototype(), usize::MAX).1;
                Self { raw, word: integers + words, copy: [0; REGISTERS + MAX_WORDS] }
            }

            fn word(&self, word: usize) -> *const u64 {
                match self.raw.registers.get(word) {
                    Some(register) => register,
                    None => self.raw.arguments.wrapping_add(word - REGISTERS),
                }
            }

            /// # Safety
            /// The foreign code must have passed another argument, of this type.
            pub(super) unsafe fn next(&mut self, ty: Type) -> u128 {
                let is_large = ty.size() == 16;
                self.word += usize::from(is_large) & self.word; // one of alignment 16 begins at an even word
                // SAFETY: by the caller's promise its words are there.
                unsafe {
                    let low = self.word(self.word).read();
                    let high = if is_large { self.word(self.word + 1).read() } else { 0 };
                    self.word += 1 + usize::from(is_large);
                    u128::from(low) | u128::from(high) << 64
                }
            }

            pub(super) fn list(&mut self) -> *mut c_void {
                let end: usize;
                // SAFETY: reads the thread's block, which X18 has: the address after its stack.
                unsafe { core::arch::asm!("ldr {}, [x18, #8]", out(reg) end, options(nostack, readonly)) };
                let (registers, words) = self.copy.split_at_mut(REGISTERS);
                registers.copy_from_slice(&self.raw.registers);
                for (word, to) in words.iter_mut().enumerate() {
                    let at = self.raw.arguments.wrapping_add(word);
                    if at.addr() == end {
                        break; // and with the stack the arguments end
                    }
                    // SAFETY: it is on this thread's stack, where the arguments are, and behind them their caller.
                    *to = unsafe { at.read() };
                }
                self.copy.as_mut_ptr().wrapping_add(self.word).cast()
            }
        }
    } else {
        /// Where the next argument of a variadic call is, as C's own `va_list` says it ("Variable argument lists",
        /// Procedure Call Standard).
        #[derive(Clone, Debug)]
        #[repr(C)]
        pub(super) struct Cursor<'a> {
            stack: *const u64,
            /// What follows the registers.
            integers_end: *const u64,
            floats_end: *const u64,
            /// From there to the next one, in bytes; 0 if there is none.
            integers: i32,
            floats: i32,
            frame: PhantomData<&'a RawFrame>,
        }

        impl<'a> Cursor<'a> {
            pub(super) fn new(raw: &'a RawFrame, signature: &Signature) -> Self {
                let Places { integers, floats, words } = locate(&signature.prototype(), usize::MAX).1;
                let floats = if cfg!(target_feature = "neon") { floats } else { REGISTERS };
                Self {
                    stack: raw.arguments.wrapping_add(words),
                    integers_end: raw.registers.as_ptr_range().end,
                    floats_end: raw.floats.as_ptr_range().end.cast(),
                    integers: 8 * (integers as i32 - REGISTERS as i32),
                    floats: 16 * (floats as i32 - REGISTERS as i32),
                    frame: PhantomData,
                }
            }

            /// # Safety
            /// The foreign code must have passed another argument, of this type.
            pub(super) unsafe fn next(&mut self, ty: Type) -> u128 {
                let words = ty.size().div_ceil(8);
                let at = match ty {
                    Type::F64 if self.floats < 0 => {
                        self.floats += 16;
                        self.floats_end.wrapping_byte_offset(self.floats as isize - 16)
                    }
                    Type::F64 => self.on_stack(1),
                    _ => {
                        // One of two registers begins at an even one.
                        let size = 8 * words as i32;
                        let before = (self.integers + size - 8) & !(size - 1);
                        self.integers = (before + size).min(0);
                        if before < 0 {
                            self.integers_end.wrapping_byte_offset(before as isize)
                        } else {
                            self.on_stack(words)
                        }
                    }
                };
                // SAFETY: by the caller's promise its words are there.
                unsafe {
                    let high = if words == 2 { at.add(1).read() } else { 0 };
                    u128::from(at.read()) | u128::from(high) << 64
                }
            }

            /// One of 16 bytes begins at a multiple of that.
            fn on_stack(&mut self, words: usize) -> *const u64 {
                let first = self.stack.map_addr(|address| (address + (8 * words - 1)) & !(8 * words - 1));
                self.stack = first.wrapping_add(words);
                first
            }

            pub(super) fn list(&mut self) -> *mut c_void {
                (&raw mut *self).cast()
            }
        }
    }
}
