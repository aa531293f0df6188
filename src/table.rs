//! The registry: which slot belongs to whom.
//!
//! This is the layer under [`Callback`](crate::Callback), for bindings of other languages: handlers and data are
//! bare pointers, and slots are released by hand.
//!
//! # What holds while a slot changes
//! - A registration is complete when `register` returns: from then on every call of its code pointer, from any thread
//!   that learned the pointer since, runs its handler with its data.
//! - A call never sees the handler of one registration with the data of another.
//! - A slot has 2^40 - 1 registrations (2^32 - 1 on i686) in the life of a program. After the last one it is not used
//!   any more, so that no old caller or key is taken for one of a later registration.
//! - A call that begins after `release` has returned is stale (see [`crate::set_stale_handler`]), until the slot is
//!   given to somebody else. That is as late as can be: a released slot is taken after all others that are free.
//! - A slot that is [rebound](rebind) is released and registered again, but given to nobody else in between.
//! - A call that began before `release`, or while it runs, may still be running when `release` returns, unless the
//!   registration is [tracked](Binding::tracked) or [exclusive](Binding::exclusive): then `release` returns when no
//!   call is running.
//!
//! After [`seal`] nothing changes any more.
//!
//! # What is unsafe, and why the rest is not
//! Unsafe functions make a [`Binding`]: their caller promises that the handler can be called with the data whenever an
//! entry that was registered with the binding, or with a copy, is called. To call is unsafe, too. Safe functions
//! register and release: nothing is called by that. Only the [`SlotKey`] that a registration has returned releases it,
//! once; a [`SlotId`], which [`list`] shows everybody, does not. So safe code cannot give a live callback's slot to
//! another handler.
//!
//! The lock is held for some dozens of instructions and never while user code runs, so a handler may register and
//! release. An interrupt handler, which may have interrupted the holder of the lock, uses the `try_` forms. A thread
//! that waits sleeps, where there is an operating system that may be asked (feature `os`). What happens when the
//! holder's thread is gone: [limits](https://docs.rs/calltable/latest/calltable/guides/limits_and_other_tools).

use core::ffi::c_void;
use core::ops::Range;
use core::ptr::null_mut;

use crate::abi::{self, Shape};
use crate::context::Context;
use crate::convention::Convention;
use crate::entry;
use crate::error::{Error, NotRebound, NotReleased, RebindError, ReleaseError};
use crate::frame::RawFrame;
use crate::layout::*;
use crate::name::Name;
use crate::own_call;
use crate::platform::{self, Wait};
use crate::registry::{Registry, lock, try_lock};
use crate::seh;
use crate::signature::Signature;
use crate::stale;

pub use crate::entry::{CodePointer, Location};
pub use crate::layout::{CAPACITY, MAX_POSITIONS};
pub use crate::name::Users;
// For this crate's own tests and tools.
#[doc(hidden)]
pub use crate::layout::{ENTRY_RETURN, ENTRY_STRIDE};
pub use crate::registry::{Binding, LiveSlot, SlotId, SlotKey};

/// A handler of the frame lane: gets the registration's data and one call's arguments. Example: [`Binding::frame`].
///
/// `efiapi` is win64 on x86_64, cdecl on i686 and the C convention on AArch64; [`Binding::frame_foreign`] takes a
/// handler of another convention.
pub type FrameHandler = unsafe extern "efiapi" fn(data: *mut c_void, frame: *mut RawFrame);

impl Binding {
    /// Direct lane: `handler` has the callback's own signature plus one trailing pointer, which receives `data`.
    ///
    /// `positions` is the number of the callback's parameters, without that pointer, if each of them is a pointer or an
    /// integer no larger than one: for these a number says it on every architecture, and takes no room. On x86_64 it is
    /// so whatever the types, and a result returned through a hidden pointer takes one position more ("x64 calling
    /// convention, Return values"). On i686 it is the number of 4-byte words on the stack, ECX (thiscall) or ECX and
    /// EDX (fastcall) being taken by other parameters; the pointer is the word after them, and a handler of a
    /// convention other than cdecl removes it with the others. For everything else, such as floating-point numbers on
    /// AArch64 or a structure that a [`Convention::Sysv`] function returns, [`Self::direct_as`] asks a signature.
    ///
    /// ```
    /// use calltable::Convention;
    /// use calltable::table::{self, Binding};
    /// use core::ffi::c_void;
    ///
    /// /// The callback is `int f(int, int)`; the handler has one parameter more.
    /// unsafe extern "efiapi" fn scaled_sum(left: i32, right: i32, factor: *const i32) -> i32 {
    ///     // SAFETY: the data is a static.
    ///     (left + right) * unsafe { *factor }
    /// }
    ///
    /// static FACTOR: i32 = 3;
    /// let data = (&raw const FACTOR).cast_mut().cast();
    /// // SAFETY: `scaled_sum` takes two positions and that data.
    /// let binding = unsafe { Binding::direct(Convention::C, scaled_sum as *const c_void, 2, data) };
    /// let key = table::register(&binding)?;
    /// // SAFETY: that is the callback's type.
    /// let code = unsafe { key.code().cast::<unsafe extern "efiapi" fn(i32, i32) -> i32>() };
    /// // SAFETY: the slot is live.
    /// assert_eq!(unsafe { code(3, 4) }, 21);
    /// table::release(key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// While the registration lives, `handler` must be callable that way, by every thread that calls the entry.
    #[must_use]
    pub unsafe fn direct(convention: Convention, handler: *const c_void, positions: usize, data: *mut c_void) -> Self {
        Self {
            handler,
            data,
            convention,
            shape: abi::shape_of(convention, positions),
            flags: 0,
            unwind: null_mut(),
            name: Name::NONE,
        }
    }

    /// Direct lane: as [`Self::direct`], for a callback of that signature, whatever its types. `handler` has the
    /// signature's parameters and result, as its own compiler passes them, and the pointer after the parameters. (One
    /// of a [method](Signature::method) that returns a structure says itself what follows `this`: the address for the
    /// result, which it returns.)
    ///
    /// ```
    /// use calltable::table::{self, Binding};
    /// use calltable::{Convention, Element, Signature, Type};
    /// use core::ffi::c_void;
    ///
    /// /// struct point { float x, y; }
    /// #[repr(C)]
    /// struct Point(f32, f32);
    ///
    /// /// The callback is `float f(struct point)`; the handler has one parameter more.
    /// unsafe extern "efiapi" fn scaled_sum(point: Point, factor: *const f32) -> f32 {
    ///     // SAFETY: the data is a static.
    ///     (point.0 + point.1) * unsafe { *factor }
    /// }
    ///
    /// static FACTOR: f32 = 3.0;
    /// let point = Type::Homogeneous { element: Element::F32, count: 2 };
    /// let signature = Signature::new(Convention::C, &[point], Some(Type::F32))?;
    /// let data = (&raw const FACTOR).cast_mut().cast();
    /// // SAFETY: `scaled_sum` is such a function, and takes that data.
    /// let binding = unsafe { Binding::direct_as(scaled_sum as *const c_void, &signature, data) };
    /// let key = table::register(&binding)?;
    /// // SAFETY: that is the callback's type.
    /// let code = unsafe { key.code().cast::<unsafe extern "efiapi" fn(Point) -> f32>() };
    /// // SAFETY: the slot is live.
    /// assert_eq!(unsafe { code(Point(3.0, 4.0)) }, 21.0);
    /// table::release(key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// As for [`Self::direct`].
    #[must_use]
    pub unsafe fn direct_as(handler: *const c_void, signature: &Signature, data: *mut c_void) -> Self {
        // SAFETY: by the caller's promise.
        unsafe { Self::direct_in_shape(abi::shape_of_direct(&signature.prototype()), handler, data) }
    }

    /// Direct lane, in the shape that a signature or the compiler has shown.
    ///
    /// # Safety
    /// As for [`Self::direct`].
    #[inline]
    pub(crate) unsafe fn direct_in_shape(shape: Shape, handler: *const c_void, data: *mut c_void) -> Self {
        Self { handler, data, convention: Convention::NATIVE, shape, flags: 0, unwind: null_mut(), name: Name::NONE }
    }

    /// Frame lane: `handler` gets the data and the call's arguments in memory, and puts the result there.
    ///
    /// ```
    /// use calltable::table::{self, Binding};
    /// use calltable::{Convention, Frame, RawFrame, Signature, Type};
    /// use core::ffi::c_void;
    ///
    /// unsafe extern "efiapi" fn negate(signature: *mut c_void, frame: *mut RawFrame) {
    ///     // SAFETY: the data is the signature; the frame is this call's own.
    ///     let mut frame = unsafe { Frame::new(&mut *frame, &*signature.cast::<Signature>()) };
    ///     let number = frame.get::<i32>(0).unwrap();
    ///     frame.set_result(-number).unwrap();
    /// }
    ///
    /// let signature = Signature::new(Convention::C, &[Type::I32], Some(Type::I32))?;
    /// let data = (&raw const signature).cast_mut().cast();
    /// // SAFETY: `negate` takes that data, which lives until the release.
    /// let binding = unsafe { Binding::frame(negate, &signature, data) };
    /// let key = table::register(&binding)?;
    /// // SAFETY: that is the signature.
    /// let code = unsafe { key.code().cast::<unsafe extern "efiapi" fn(i32) -> i32>() };
    /// // SAFETY: the slot is live.
    /// assert_eq!(unsafe { code(42) }, -42);
    /// table::release(key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// Whenever an entry is called that was registered with this value or a copy of it, `handler` must be callable with
    /// `data`, by every thread that calls.
    #[must_use]
    pub unsafe fn frame(handler: FrameHandler, signature: &Signature, data: *mut c_void) -> Self {
        // SAFETY: a handler that keeps the preserved registers may also be treated as one that does not; undone below.
        let binding = unsafe { Self::frame_foreign(handler as *const c_void, signature, data) };
        Self { flags: STATE_FRAME, ..binding }
    }

    /// Frame lane, for a handler of another convention than [`FrameHandler`]'s: System V C code on Linux, or a
    /// language runtime's own. It need keep no register but the stack pointer. On x86_64 it gets `(data, frame)` in
    /// RCX, RDX and again in RDI, RSI, and has 32 bytes of home space; on i686 it gets them on the stack and leaves
    /// them there; on AArch64 it gets them in X0 and X1.
    ///
    /// ```
    /// # use calltable::table::{self, Binding};
    /// # use calltable::{Convention, Frame, RawFrame, Signature, Type};
    /// # use core::ffi::c_void;
    /// /// "C" is the system's own convention: on x86_64 Linux that of System V.
    /// unsafe extern "C" fn negate(signature: *mut c_void, frame: *mut RawFrame) {
    ///     // SAFETY: the data is the signature; the frame is this call's own.
    ///     let mut frame = unsafe { Frame::new(&mut *frame, &*signature.cast::<Signature>()) };
    ///     let number = frame.get::<i32>(0).unwrap();
    ///     frame.set_result(-number).unwrap();
    /// }
    ///
    /// let signature = Signature::new(Convention::C, &[Type::I32], Some(Type::I32))?;
    /// let data = (&raw const signature).cast_mut().cast();
    /// // SAFETY: `negate` takes that data, which lives until the release.
    /// let binding = unsafe { Binding::frame_foreign(negate as *const c_void, &signature, data) };
    /// let key = table::register(&binding)?;
    /// # let code = unsafe { key.code().cast::<unsafe extern "efiapi" fn(i32) -> i32>() };
    /// // SAFETY: `code` is the entry, by the signature's type.
    /// assert_eq!(unsafe { code(42) }, -42);
    /// table::release(key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// As for [`Self::frame`]. The handler must return with the stack pointer as a `ret` leaves it.
    #[must_use]
    pub unsafe fn frame_foreign(handler: *const c_void, signature: &Signature, data: *mut c_void) -> Self {
        Self {
            handler,
            data,
            convention: signature.convention(),
            shape: abi::shape_of_frame(&signature.prototype()),
            flags: STATE_FRAME | STATE_SAVE,
            unwind: null_mut(),
            name: Name::NONE,
        }
    }

    /// The handler need not keep the registers that the convention preserves, only the stack pointer: the dispatcher
    /// saves RBX, RBP, RDI, RSI, R12-R15 and XMM6-15 (on i686 EBX, EBP, EDI and ESI; on AArch64 X19 to X29, D8 to D15
    /// and, but for Windows, X18), and restores them whatever the handler did. It clears DF, where there is one, before
    /// the handler and after it.
    ///
    /// ```
    /// # use calltable::Convention;
    /// # use calltable::table::{self, Binding};
    /// # use core::ffi::c_void;
    /// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
    /// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
    /// // SAFETY: the handler takes one position and any data. Another language's compiler has made it, for which RBX
    /// // is a register like any other.
    /// let binding = unsafe { Binding::direct(Convention::C, handler, 1, data).saving() };
    /// let key = table::register(&binding)?;
    /// # let code = unsafe { key.code().cast::<unsafe extern "efiapi" fn(i32) -> i32>() };
    /// // SAFETY: `code` is the entry, by the callback's type.
    /// assert_eq!(unsafe { code(21) }, 42); // and the caller's RBX is what it was
    /// table::release(key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn saving(self) -> Self {
        Self { flags: self.flags | STATE_SAVE, ..self }
    }

    /// As [`Self::saving`], and MXCSR and the x87 control word (on AArch64 FPCR) are restored, too. An x87 exception
    /// that the handler has left pending and the foreign code does not mask is cleared, with the other x87 exception
    /// flags. In a build that touches no SSE registers it is the same as [`Self::saving`].
    ///
    /// ```
    /// # use calltable::Convention;
    /// # use calltable::table::{self, Binding};
    /// # use core::ffi::c_void;
    /// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
    /// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
    /// // SAFETY: the handler takes one position and any data; it may change how the processor rounds.
    /// let binding = unsafe { Binding::direct(Convention::C, handler, 1, data).saving_control_words() };
    /// let key = table::register(&binding)?;
    /// # let code = unsafe { key.code().cast::<unsafe extern "efiapi" fn(i32) -> i32>() };
    /// // SAFETY: `code` is the entry, by the callback's type.
    /// assert_eq!(unsafe { code(21) }, 42); // and the caller's arithmetic rounds as before
    /// table::release(key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn saving_control_words(self) -> Self {
        Self { flags: self.flags | STATE_SAVE | STATE_CONTROL, ..self }
    }

    /// Running calls are counted, so that [`release`] can wait until there are none.
    ///
    /// Each call then writes to the slot twice. On Windows a call that an exception or `longjmp` leaves is no longer
    /// counted; elsewhere it is so where a chain has been declared ([`seh`]) and whoever leaves it unwinds the chain.
    /// Otherwise, and if its thread ends, it stays counted.
    ///
    /// ```
    /// # use calltable::Convention;
    /// # use calltable::table::{self, Binding};
    /// # use core::ffi::c_void;
    /// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
    /// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
    /// // SAFETY: the handler takes one position and any data.
    /// let binding = unsafe { Binding::direct(Convention::C, handler, 1, data).tracked() };
    /// let key = table::register(&binding)?;
    /// assert_eq!(table::live_slot(key.index()).unwrap().in_flight, Some(0)); // they are counted; none is running
    /// table::release(key)?; // from here on nothing uses the data
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn tracked(self) -> Self {
        Self { flags: self.flags | STATE_COUNTED, ..self }
    }

    /// A call that comes while another one runs, on whatever thread, is refused: the stale handler runs with
    /// [`StaleReason::Running`](crate::StaleReason::Running). The registration is [tracked](Self::tracked), too.
    ///
    /// ```
    /// # use calltable::Convention;
    /// # use calltable::table::{self, Binding};
    /// # use core::ffi::c_void;
    /// unsafe extern "efiapi" fn count(calls: *mut u32) {
    ///     // SAFETY: the data is a number, and no other call changes it meanwhile.
    ///     unsafe { *calls += 1 };
    /// }
    ///
    /// let mut calls = 0_u32;
    /// let data = (&raw mut calls).cast();
    /// // SAFETY: `count` takes that data, which lives until the release.
    /// let binding = unsafe { Binding::direct(Convention::C, count as *const c_void, 0, data).exclusive() };
    /// let key = table::register(&binding)?;
    /// # let code = unsafe { key.code().cast::<unsafe extern "efiapi" fn()>() };
    /// // SAFETY: `code` is the entry, by the callback's type.
    /// unsafe { code() };
    /// table::release(key)?;
    /// assert_eq!(calls, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn exclusive(self) -> Self {
        Self { flags: self.flags | STATE_COUNTED | STATE_EXCLUSIVE, ..self }
    }

    /// On i686 each call has a frame of the dispatcher's with a record of its own, the first in the chain of SEH
    /// handlers ([`seh::chain`]) while the handler runs. Calls of the frame lane have one anyway, and those of saving,
    /// tracked, exclusive and contained registrations. The others do without, since the record only has the system
    /// search on: whoever walks the chain, and wants to know the slots of all calls, asks for it.
    ///
    /// On x86_64 and AArch64 this changes nothing: there the unwind data says it.
    ///
    /// ```
    /// # use calltable::Convention;
    /// # use calltable::table::{self, Binding};
    /// # use core::ffi::c_void;
    /// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
    /// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
    /// // SAFETY: the handler takes one position and any data.
    /// let binding = unsafe { Binding::direct(Convention::C, handler, 1, data).framed() };
    /// let key = table::register(&binding)?;
    /// # let code = unsafe { key.code().cast::<unsafe extern "efiapi" fn(i32) -> i32>() };
    /// // SAFETY: `code` is the entry, by the callback's type.
    /// assert_eq!(unsafe { code(21) }, 42);
    /// table::release(key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn framed(self) -> Self {
        Self { flags: self.flags | abi::FRAMED, ..self }
    }

    /// For callbacks that Windows code for ARM64 calls on another system: X18, where that code has its thread's block,
    /// is after the call what it was before. On Linux a handler, and what it calls, may use X18 like any other
    /// register, which AAPCS64 allows. The handler finds the caller's value there. A saving registration keeps X18
    /// anyway, and so does a stale call.
    ///
    /// On Windows, and on other processors than AArch64, this changes nothing.
    ///
    /// ```
    /// # use calltable::Convention;
    /// # use calltable::table::{self, Binding};
    /// # use core::ffi::c_void;
    /// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
    /// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
    /// // SAFETY: the handler takes one position and any data.
    /// let binding = unsafe { Binding::direct(Convention::C, handler, 1, data).keeping_x18() };
    /// let key = table::register(&binding)?;
    /// # let code = unsafe { key.code().cast::<unsafe extern "efiapi" fn(i32) -> i32>() };
    /// // SAFETY: `code` is the entry, by the callback's type.
    /// assert_eq!(unsafe { code(21) }, 42); // and the caller finds its X18 again
    /// table::release(key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn keeping_x18(self) -> Self {
        Self { flags: self.flags | abi::X18, ..self }
    }

    /// What the registration is called where somebody looks for whose it is: [`LiveSlot::name`], the message about a
    /// stale call, [`StaleCall::name`](crate::StaleCall::name). Of a [shared](share) one the first name stays.
    ///
    /// Names are kept with the feature `names`: it takes 16 bytes for each slot, 8 on i686. Without it this method
    /// changes nothing. So a library names what it registers, and the program decides whether that is worth the memory.
    ///
    /// ```
    /// # use calltable::Convention;
    /// # use calltable::table::{self, Binding};
    /// # use core::ffi::c_void;
    /// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
    /// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
    /// // SAFETY: the handler takes one position and any data.
    /// let binding = unsafe { Binding::direct(Convention::C, handler, 1, data).named("my-library: doubling") };
    /// let key = table::register(&binding)?;
    /// let name = table::live_slot(key.index()).unwrap().name;
    /// assert_eq!(name, if cfg!(feature = "names") { Some("my-library: doubling") } else { None });
    /// table::release(key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn named(self, name: &'static str) -> Self {
        Self { name: Name::new(name), ..self }
    }

    /// Exceptions of the handler may end at this call: the [`ExceptionFilter`](seh::ExceptionFilter) at the start of
    /// the data decides. It is asked in the order in which the system asks handlers: after vectored ones, before those
    /// of the foreign caller. What an exception that has ended leaves behind: [`seh`].
    ///
    /// ```
    /// use calltable::seh::{Outcome, Exception, ExceptionFilter, Verdict};
    /// use calltable::table::{self, Binding};
    /// use calltable::Convention;
    /// use core::ffi::c_void;
    ///
    /// #[repr(C)]
    /// struct Divisor {
    ///     filter: ExceptionFilter,
    ///     value: i32,
    /// }
    ///
    /// // int divide(int number), plus the data
    /// unsafe extern "efiapi" fn divide(number: i32, divisor: *const Divisor) -> i32 {
    ///     // SAFETY: the data is a divisor.
    ///     let divisor = unsafe { (*divisor).value };
    ///     let quotient;
    ///     // The processor's own division: Rust's would look before it divides.
    ///     // SAFETY: it changes these two registers, or faults.
    ///     unsafe {
    ///         core::arch::asm!("cdq", "idiv {:e}", in(reg) divisor, inout("eax") number => quotient, out("edx") _);
    ///     }
    ///     quotient
    /// }
    /// unsafe extern "efiapi" fn filter(
    ///     _: *mut c_void,
    ///     exception: *const Exception,
    ///     outcome: *mut Outcome,
    /// ) -> Verdict {
    ///     // SAFETY: a filter gets an exception that it may read,
    ///     if unsafe { (*exception).code() } != calltable::seh::INTEGER_DIVISION_BY_ZERO {
    ///         return Verdict::SEARCH_ON;
    ///     }
    ///     // SAFETY: and an outcome that it may write.
    ///     unsafe { (*outcome).frame.result[0] = 0x7fff_ffff };
    ///     Verdict::RETURN
    /// }
    ///
    /// let mut divisor = Divisor { filter, value: 0 };
    /// // SAFETY: `divide` takes one position and that data, which begins with the filter; it holds nothing.
    /// let binding = unsafe {
    ///     Binding::direct(Convention::C, divide as *const c_void, 1, (&raw mut divisor).cast()).contained()
    /// };
    /// match table::register(&binding) {
    ///     Ok(key) => {
    ///         // SAFETY: that is the callback's type, and the slot is live.
    ///         let code: unsafe extern "efiapi" fn(i32) -> i32 = unsafe { key.code().cast() };
    ///         // SAFETY: as above.
    ///         assert_eq!(unsafe { code(7) }, i32::MAX);
    ///         table::release(key)?;
    ///     }
    ///     Err(error) => assert_eq!(error, calltable::Error::NoExceptions), // nothing is declared
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// While the registration lives, the data must point to a structure that begins with a filter, which must be
    /// callable by every thread that calls the entry. When it ends an exception, no frame between the fault and the
    /// dispatcher may hold anything that must be dropped.
    #[must_use]
    pub unsafe fn contained(self) -> Self {
        Self { flags: self.flags | STATE_CONTAIN, unwind: seh::unwinder(), ..self }
    }

    /// No handler yet: a slot that is registered with this is reserved, and [`rebind`] gives it one. Until then its
    /// calls are stale ([`StaleReason::Unbound`](crate::StaleReason::Unbound)).
    ///
    /// On i686 such a call removes no arguments from the stack, as nobody knows how many there are.
    ///
    /// ```
    /// # use calltable::Convention;
    /// # use calltable::table::{self, Binding};
    /// # use core::ffi::c_void;
    /// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
    /// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
    /// let reserved = table::register(&Binding::unbound())?;
    /// let code = reserved.code(); // may be stored where foreign code will look for it
    /// # let binding = unsafe { Binding::direct(Convention::C, handler, 1, data) };
    /// let key = table::rebind(reserved, &binding)?;
    /// assert_eq!(key.code(), code);
    /// table::release(key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn unbound() -> Self {
        Self::unbound_in_shape(abi::shape_of(Convention::NATIVE, 0))
    }

    /// The same, for calls that remove as many bytes of arguments as that shape says.
    pub(crate) fn unbound_in_shape(shape: Shape) -> Self {
        let (handler, data) = (stale::unbound as *const c_void, null_mut());
        let shape = Shape { positions: 0, flags: 0, ..shape };
        Self {
            handler,
            data,
            convention: Convention::NATIVE,
            shape,
            flags: STATE_FRAME,
            unwind: null_mut(),
            name: Name::NONE,
        }
    }

    /// The low bits of the context's state.
    fn shape(&self) -> Result<usize, Error> {
        if self.handler.is_null() {
            Err(Error::NullHandler)
        } else if !self.convention.is_available() {
            Err(Error::ConventionUnavailable(self.convention))
        } else if self.flags & STATE_FRAME == 0 && self.shape.positions > MAX_POSITIONS {
            Err(Error::TooManyPositions { positions: self.shape.positions })
        } else if self.flags & STATE_CONTAIN != 0 && self.data.is_null() {
            Err(Error::NullFilter)
        } else if self.flags & STATE_CONTAIN != 0 && !seh::is_available() {
            Err(Error::NoExceptions)
        } else {
            Ok(self.flags | self.shape.flags | (self.shape.positions + 1))
        }
    }
}

/// Registers: takes a free slot, whose entry from now on calls the handler with the data. Waits for the lock.
///
/// ```
/// use calltable::Convention;
/// use calltable::table::{self, Binding};
/// use core::ffi::c_void;
///
/// unsafe extern "efiapi" fn double(number: i32, _data: *mut c_void) -> i32 {
///     2 * number
/// }
///
/// // SAFETY: `double` takes one position and any data.
/// let binding = unsafe { Binding::direct(Convention::C, double as *const c_void, 1, core::ptr::null_mut()) };
/// let key = table::register(&binding)?;
/// // SAFETY: that is the callback's type, and the slot is live.
/// let code: unsafe extern "efiapi" fn(i32) -> i32 = unsafe { key.code().cast() };
/// // SAFETY: as above.
/// assert_eq!(unsafe { code(21) }, 42);
/// table::release(key)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::TableFull`], [`Error::Sealed`], and those that say what is wrong with the registration.
pub fn register(binding: &Binding) -> Result<SlotKey, Error> {
    let shape = binding.shape()?;
    lock().bind(binding, shape, |_| ())
}

/// As [`register`], if the lock is free; for interrupt handlers.
///
/// ```
/// # use calltable::{Convention, Error};
/// # use calltable::table::{self, Binding};
/// # use core::ffi::c_void;
/// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
/// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
/// # let binding = unsafe { Binding::direct(Convention::C, handler, 1, data) };
/// let key = loop {
///     match table::try_register(&binding) {
///         Err(Error::Busy) => std::thread::yield_now(), // an interrupt handler would leave it for the next interrupt
///         result => break result?,
///     }
/// };
/// assert!(table::live_slot(key.index()).is_some());
/// table::release(key)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Busy`] at once if it is not; otherwise as [`register`].
pub fn try_register(binding: &Binding) -> Result<SlotKey, Error> {
    let shape = binding.shape()?;
    try_lock().ok_or(Error::Busy)?.bind(binding, shape, |_| ())
}

/// As [`register`]; `tell` learns which registration it will be before any call can come.
#[cfg(feature = "alloc")]
pub(crate) fn register_as(binding: &Binding, no_wait: bool, tell: impl FnOnce(SlotId)) -> Result<SlotKey, Error> {
    let shape = binding.shape()?;
    let mut registry = if no_wait { try_lock().ok_or(Error::Busy)? } else { lock() };
    registry.bind(binding, shape, tell)
}

/// Registers, or counts one more use of a live registration that was made by this function and is equal: same
/// handler, data, convention, lane, positions and options. [`release`] is to be called once for each use. The name may
/// differ: the first one stays.
///
/// Handlers are equal if their addresses are. A Rust function may have more than one, unless it is
/// `#[inline(never)]` and not generic.
///
/// ```
/// # use calltable::Convention;
/// # use calltable::table::{self, Binding};
/// # use core::ffi::c_void;
/// # #[inline(never)]
/// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
/// # static OWN: u8 = 0;
/// # let (handler, data) = (double as *const c_void, (&raw const OWN).cast_mut().cast());
/// # let binding = unsafe { Binding::direct(Convention::C, handler, 1, data) };
/// let first = table::share(&binding)?;
/// let second = table::share(&binding)?;
/// assert_eq!(first.code(), second.code());
/// assert_eq!(table::live_slot(first.index()).unwrap().uses, 2);
/// table::release(first)?; // one use is left
/// assert_eq!(table::live_slot(second.index()).unwrap().uses, 1);
/// table::release(second)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`register`], and [`Error::TooManyUses`].
pub fn share(binding: &Binding) -> Result<SlotKey, Error> {
    let shape = binding.shape()?;
    lock().share(binding, shape)
}

/// As [`share`], if the lock is free; for interrupt handlers.
///
/// ```
/// # use calltable::{Convention, Error};
/// # use calltable::table::{self, Binding};
/// # use core::ffi::c_void;
/// # #[inline(never)]
/// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
/// # static OWN: u8 = 0;
/// # let (handler, data) = (double as *const c_void, (&raw const OWN).cast_mut().cast());
/// # let binding = unsafe { Binding::direct(Convention::C, handler, 1, data) };
/// let first = table::share(&binding)?;
/// let second = loop {
///     match table::try_share(&binding) {
///         Err(Error::Busy) => std::thread::yield_now(), // an interrupt handler would leave it for the next interrupt
///         result => break result?,
///     }
/// };
/// assert_eq!(first.code(), second.code());
/// table::release(first)?;
/// table::release(second)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Busy`] at once if it is not; otherwise as [`share`].
pub fn try_share(binding: &Binding) -> Result<SlotKey, Error> {
    let shape = binding.shape()?;
    try_lock().ok_or(Error::Busy)?.share(binding, shape)
}

/// Releases one use, with the last one the slot: from then on a call of its entry is stale. Waits for the lock and, if
/// the registration is tracked or exclusive, until no call is running.
///
/// ```
/// use calltable::ReleaseError;
/// # use calltable::Convention;
/// # use calltable::table::{self, Binding};
/// # use core::ffi::c_void;
/// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
/// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
/// # let binding = unsafe { Binding::direct(Convention::C, handler, 1, data) };
/// let key = table::register(&binding)?;
/// let slot = key.slot();
/// table::release(key)?;
/// // SAFETY: nobody relies on the registration any more.
/// let second_key = unsafe { slot.key() };
/// assert_eq!(table::release(second_key).unwrap_err().error, ReleaseError::NotLive);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The key comes back, with
/// - [`ReleaseError::NotLive`] if the registration was released before;
/// - [`ReleaseError::Sealed`] if the table is sealed;
/// - [`ReleaseError::OwnCall`] if a call of the registration releases it, so that the release would wait for its own
///   end. Where that cannot be seen, it waits for ever: see
///   [limits](https://docs.rs/calltable/latest/calltable/guides/limits_and_other_tools);
/// - [`ReleaseError::InFlight`], after a while, if the threads of running calls are gone, or may be: at the end of a
///   Windows process, in a child of `fork`.
pub fn release(key: SlotKey) -> Result<(), NotReleased<SlotKey>> {
    release_slot(key.0).map_err(|error| NotReleased { handle: key, error })
}

/// As [`release`], for whoever knows that the slot is its own.
pub(crate) fn release_slot(slot: SlotId) -> Result<(), ReleaseError> {
    ending(slot, |registry| registry.release(slot))
}

/// Does what ends a registration, again and again while calls of it are running.
fn ending<T, E: From<ReleaseError> + PartialEq>(
    slot: SlotId,
    mut end: impl FnMut(&mut Registry) -> Result<T, E>,
) -> Result<T, E> {
    let mut wait = Wait::new();
    loop {
        let mut registry = lock();
        let ended = end(&mut registry);
        if !matches!(&ended, Err(error) if *error == ReleaseError::InFlight.into()) {
            return ended;
        }
        let may_be_lost = registry.may_be_lost.get(slot.index()).is_some_and(|lost| *lost);
        let context = registry.context(slot.index);
        drop(registry);
        // The threads of these calls are gone, or may be.
        if platform::is_ending() || may_be_lost && wait.slept() >= LOST_AFTER {
            return ended;
        }
        if wait.is_getting_long() && context.is_some_and(|context| runs_here(slot.index(), context)) {
            return Err(ReleaseError::OwnCall.into());
        }
        wait.pause();
    }
}

/// Whether a counted call of the registration runs on this thread: its end would be waited for in vain. The slot is not
/// given to the next one before all have returned. Two witnesses, where they can be had; where neither is, nobody
/// knows:
///
/// - The thread's chain of exception records: every counted call has a record in it, on i686 Windows always, on other
///   systems once a chain is declared (`seh`).
/// - The return addresses on the stack.
fn runs_here(slot: usize, context: &Context) -> bool {
    seh::counts_here(context) || own_call::is_on_stack(slot)
}

/// Releases one use, with the last one the slot. Waits for the lock, but not for calls.
///
/// ```
/// use calltable::table::{self, SlotKey};
/// use calltable::ReleaseError;
/// use std::sync::Mutex;
///
/// static KEY: Mutex<Option<SlotKey>> = Mutex::new(None);
/// # use calltable::{Convention, table::Binding};
/// # use core::ffi::c_void;
/// unsafe extern "efiapi" fn last_call(_data: *mut c_void) {
///     let mut key = KEY.lock().unwrap();
///     let not_released = table::release_at_once(key.take().unwrap()).unwrap_err();
///     assert_eq!(not_released.error, ReleaseError::InFlight); // this call is running
///     *key = Some(not_released.handle);
/// }
/// # let (handler, data) = (last_call as *const c_void, core::ptr::null_mut());
/// # let binding = unsafe { Binding::direct(Convention::C, handler, 0, data).tracked() };
///
/// let key = table::register(&binding)?; // it is tracked
/// # let code = unsafe { key.code().cast::<unsafe extern "efiapi" fn()>() };
/// *KEY.lock().unwrap() = Some(key);
/// // SAFETY: `code` is the entry, by the callback's type.
/// unsafe { code() };
/// table::release_at_once(KEY.lock().unwrap().take().unwrap())?; // no call is running any more
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`try_release`], but never [`ReleaseError::Busy`].
pub fn release_at_once(key: SlotKey) -> Result<(), NotReleased<SlotKey>> {
    lock().release(key.0).map_err(|error| NotReleased { handle: key, error })
}

/// How long a child of `fork` waits for calls that may be of its parent's threads, in microseconds.
const LOST_AFTER: u32 = 1_000_000;

/// Releases one use, with the last one the slot, without waiting; for interrupt handlers and finalizers.
///
/// ```
/// use calltable::{NotReleased, ReleaseError};
/// # use calltable::Convention;
/// # use calltable::table::{self, Binding};
/// # use core::ffi::c_void;
/// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
/// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
/// # let binding = unsafe { Binding::direct(Convention::C, handler, 1, data) };
/// let mut key = table::register(&binding)?;
/// while let Err(NotReleased { handle, error }) = table::try_release(key) {
///     assert_eq!(error, ReleaseError::Busy);
///     key = handle; // an interrupt handler would keep it for the next interrupt
/// }
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Errors
/// The key comes back, with
/// - [`ReleaseError::Busy`] if the lock is taken: nothing has changed;
/// - [`ReleaseError::InFlight`] if calls are counted and some are running: new ones are refused already, but the slot
///   is free only when this function or [`release`] has been called again and has succeeded;
/// - [`ReleaseError::NotLive`] and [`ReleaseError::Sealed`] as there.
pub fn try_release(key: SlotKey) -> Result<(), NotReleased<SlotKey>> {
    try_release_slot(key.0).map_err(|error| NotReleased { handle: key, error })
}

/// As [`try_release`], for whoever knows that the slot is its own.
pub(crate) fn try_release_slot(slot: SlotId) -> Result<(), ReleaseError> {
    try_lock().ok_or(ReleaseError::Busy)?.release(slot)
}

/// Gives a slot another handler and data: its code pointer stays, and calls the new handler once this has returned.
/// Waits for the lock and, if the old registration is tracked or exclusive, until no call of it is running.
///
/// All that [holds](self#what-holds-while-a-slot-changes) of a release and a registration holds of this: a call never
/// sees the handler of the one with the data of the other. A call that begins while this function runs is served by the
/// one or the other, or is stale.
///
/// ```
/// use calltable::Convention;
/// use calltable::table::{self, Binding};
/// use core::ffi::c_void;
///
/// unsafe extern "efiapi" fn scale(number: i32, factor: *const i32) -> i32 {
///     // SAFETY: the data is a static.
///     number * unsafe { *factor }
/// }
///
/// static FACTORS: [i32; 2] = [2, 3];
/// // SAFETY: `scale` takes one position and that data.
/// let [double, triple] = [0, 1].map(|factor| unsafe {
///     Binding::direct(Convention::C, scale as *const c_void, 1, (&raw const FACTORS[factor]).cast_mut().cast())
/// });
/// let key = table::register(&double)?;
/// // SAFETY: that is the callback's type, and the slot is live.
/// let code: unsafe extern "efiapi" fn(i32) -> i32 = unsafe { key.code().cast() };
/// let key = table::rebind(key, &triple)?;
/// // SAFETY: as above.
/// assert_eq!(unsafe { code(14) }, 42);
/// table::release(key)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The key comes back, with
/// - [`RebindError::Refused`] for what [`register`] refuses;
/// - [`RebindError::NotEnded`] for what [`release`] refuses;
/// - [`RebindError::Shared`] if the registration is [shared](share) and has other uses;
/// - [`RebindError::UsedUp`] if the slot's registrations are.
pub fn rebind(key: SlotKey, binding: &Binding) -> Result<SlotKey, NotRebound<SlotKey>> {
    let rebound = match binding.shape() {
        Ok(shape) => ending(key.0, |registry| registry.rebind(key.0, binding, shape)),
        Err(error) => Err(RebindError::Refused(error)),
    };
    rebound.map(SlotKey).map_err(|error| NotRebound { handle: key, error })
}

/// As [`rebind`], without waiting; for interrupt handlers.
///
/// ```
/// use calltable::{NotRebound, RebindError, ReleaseError};
/// # use calltable::Convention;
/// # use calltable::table::{self, Binding};
/// # use core::ffi::c_void;
/// # unsafe extern "efiapi" fn double(number: i32, _: *mut c_void) -> i32 { 2 * number }
/// # let (handler, data) = (double as *const c_void, core::ptr::null_mut());
/// # let binding = unsafe { Binding::direct(Convention::C, handler, 1, data) };
/// let mut key = table::register(&Binding::unbound())?;
/// let key = loop {
///     match table::try_rebind(key, &binding) {
///         Err(NotRebound { handle, error: RebindError::NotEnded(ReleaseError::Busy) }) => key = handle,
///         result => break result?,
///     }
/// };
/// table::release(key)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`rebind`]; of [`ReleaseError`] also [`Busy`](ReleaseError::Busy) if the lock is taken, and
/// [`InFlight`](ReleaseError::InFlight) if calls are counted and some are running, which [`try_release`] explains.
pub fn try_rebind(key: SlotKey, binding: &Binding) -> Result<SlotKey, NotRebound<SlotKey>> {
    let rebound = match (binding.shape(), try_lock()) {
        (Err(error), _) => Err(RebindError::Refused(error)),
        (Ok(_), None) => Err(ReleaseError::Busy.into()),
        (Ok(shape), Some(mut registry)) => registry.rebind(key.0, binding, shape),
    };
    rebound.map(SlotKey).map_err(|error| NotRebound { handle: key, error })
}

/// Ends a registration from within a call of it, for whoever knows that the slot is its own: new calls are refused, and
/// the slot comes back by itself when the call has ended. Waits for the lock, and for all other calls that have
/// entered: then the data is this call's alone.
#[cfg(feature = "alloc")]
pub(crate) fn leave_slot(slot: SlotId) -> Result<(), ReleaseError> {
    let mut registry = lock();
    registry.leave(slot)?;
    let context = registry.context(slot.index);
    drop(registry);
    let mut wait = Wait::new();
    while context.is_some_and(|context| context.running() > 1) {
        wait.pause();
    }
    Ok(())
}

/// Waits for the end of a registration that was left.
#[cfg(feature = "alloc")]
pub(crate) fn wait_for_left(slot: SlotId) -> Result<(), ReleaseError> {
    ending(slot, |registry| registry.end_left(slot))
}

/// Gives a slot what another one is registered with, and releases that one, for whoever knows that both are its own.
///
/// # Errors
/// Nothing is lost: the other one is registered as it was, as what comes with the error.
pub(crate) fn rebind_to(slot: SlotId, other: SlotId) -> Result<SlotId, (RebindError, SlotId)> {
    let found = lock().binding(other, seh::unwinder()).ok_or(ReleaseError::NotLive);
    let (binding, shape) = found.map_err(|error| (error.into(), other))?;
    // First that one ends: were both live, calls of an exclusive one could run at once.
    ending(other, |registry| registry.end(other)).map_err(|error| (error.into(), other))?;
    ending(slot, |registry| {
        let rebound = registry.rebind(slot, &binding, shape)?;
        _ = registry.release(other);
        Ok(rebound)
    })
    .map_err(|error| (error, lock().rebind(other, &binding, shape).unwrap_or(other)))
}

/// Ends all change, and returns the pages that hold everything that a call follows to its handler. The embedder can
/// make them read-only: then nobody who can write to memory can lead a code pointer elsewhere. Sealing again returns
/// the same pages. Waits for the lock.
///
/// From then on whatever would change the table is refused with [`Error::Sealed`] or [`ReleaseError::Sealed`]:
/// registering, sharing, rebinding, releasing and [`set_stale_handler`](crate::set_stale_handler). Calls, live or
/// stale, and the functions that only look ([`list`], [`live_count`], [`live_slot`]) continue as before.
///
/// A page has 4096 bytes, and the range begins and ends with a whole one. (Some kernels for AArch64 have larger pages,
/// of which the range need not be whole ones: these cannot make it read-only by itself.) Nothing else lies on them: not
/// the registry's own bookkeeping, which calls do not look at, and not what the handlers' data point to, which stays
/// writable.
///
/// The example is not run here, since no other example could register after it.
///
/// ```no_run
/// # fn protect(_: core::ops::Range<*const u8>) {}
/// use calltable::{Callback, table};
///
/// let double = Callback::<unsafe extern "efiapi" fn(i32) -> i32>::from_ref(&|number| 2 * number)?.leak();
/// // SAFETY: what is registered was leaked, and no call is running.
/// let pages = unsafe { table::seal()? };
/// protect(pages); // `mprotect`, `VirtualProtect`, or the kernel's own page tables
/// // SAFETY: it lives for ever.
/// assert_eq!(unsafe { double(21) }, 42);
/// # Ok::<(), calltable::Error>(())
/// ```
///
/// # Errors
/// [`Error::Counted`]: each call of a tracked or exclusive registration writes to its context.
///
/// # Safety
/// Handlers and data of all live registrations must stay valid for ever: a [`Callback`](crate::Callback) that is
/// dropped later cannot give back its slot. If the pages are made read-only, no call may be running that began while a
/// tracked or exclusive registration of the same slot was live.
pub unsafe fn seal() -> Result<Range<*const u8>, Error> {
    lock().seal()
}

/// The slot whose entry starts at `code`, live or not; `None` if none does.
///
/// ```
/// use calltable::{Callback, table};
///
/// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref(&|| 42)?;
/// let code = callback.code() as *const core::ffi::c_void;
/// assert_eq!(table::slot_of(code), Some(callback.slot().index()));
/// assert_eq!(table::slot_of(code.wrapping_byte_add(1)), None); // not where it starts
/// # Ok::<(), calltable::Error>(())
/// ```
#[must_use]
pub fn slot_of(code: *const c_void) -> Option<usize> {
    entry::slot_at(code)
}

/// Whether a program counter lies in the table or in a dispatcher; for trap handlers, debuggers and profilers.
///
/// An address in a dispatcher does not say for which slot it runs; the return address in the entry does, further up the
/// stack. (On x86_64 that entry is the caller of most handlers: the dispatcher has jumped to them. On i686 the entry
/// has jumped to those closures by stdcall, thiscall and fastcall that are neither tracked, exclusive, contained nor
/// [framed](Binding::framed): nothing of such a call is on the stack, and its caller is the foreign code. On AArch64 no
/// entry is on any stack, and the dispatcher has jumped to the handlers of the direct lane whose data is in a register
/// and which have no option. A frame of a dispatcher, which all others have, keeps an address in the entry: the word 16
/// bytes below the stack pointer of the frame that a walk finds next.) Whoever
/// walks the stack asks about each address that it finds: one walk may find several, those of nested calls, innermost
/// first.
/// Without a walk, where there is a chain of exception records, `seh::slot_of` knows the calls that are in it.
///
/// ```
/// # #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
/// # {
/// use calltable::table::{self, Location};
/// use calltable::Callback;
/// use std::sync::Mutex;
///
/// let found = Mutex::new(Vec::new());
/// let closure = || {
///     backtrace::trace(|frame| {
///         found.lock().unwrap().extend(table::locate(frame.ip()));
///         true
///     });
/// };
/// let callback = Callback::<unsafe extern "efiapi" fn()>::from_ref(&closure)?;
/// assert_eq!(table::locate(callback.code() as *const _), Some(Location::Entry { slot: callback.slot().index() }));
/// // SAFETY: the callback lives.
/// unsafe { callback.code()() };
/// let slot = callback.slot().index();
/// assert_eq!(*found.lock().unwrap(), [Location::Entry { slot }]);
/// # }
/// # Ok::<(), calltable::Error>(())
/// ```
#[must_use]
pub fn locate(code: *const c_void) -> Option<Location> {
    entry::locate(code)
}

/// The number of live slots, and of released ones that wait for running calls. Waits for the lock.
///
/// ```
/// use calltable::{Callback, table};
///
/// let _callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref(&|| 42)?;
/// assert!((1..=table::CAPACITY).contains(&table::live_count()));
/// # Ok::<(), calltable::Error>(())
/// ```
#[must_use]
pub fn live_count() -> usize {
    lock().count_taken()
}

/// Who has the slots: the names that most of them have. With the feature `names` it looks at each slot that was ever
/// taken, under the lock, for which it waits.
///
/// ```standalone_crate
/// use calltable::{Callback, Options, table};
///
/// type Answer = unsafe extern "efiapi" fn() -> i32;
///
/// let options = Options::new().named("the answer");
/// let _named = [(); 2].map(|()| Callback::<Answer>::from_ref_with(options, &|| 42));
/// let _unnamed = Callback::<Answer>::from_ref(&|| 42)?;
/// let users = table::users();
/// if cfg!(feature = "names") {
///     assert!(users.largest().eq([("the answer", 2)]));
///     assert_eq!(users.to_string(), "2 are of \"the answer\", 1 have no name");
/// } else {
///     assert_eq!(users.unnamed(), 3);
/// }
/// # Ok::<(), calltable::Error>(())
/// ```
#[must_use]
pub fn users() -> Users {
    lock().users()
}

/// The registration of one slot, if it is live. Waits for the lock.
///
/// ```
/// use calltable::{Callback, Options, table};
///
/// let options = Options::new().tracked();
/// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref_with(options, &|| 42)?;
/// let live = table::live_slot(callback.slot().index()).unwrap();
/// assert_eq!((live.slot, live.in_flight), (callback.slot(), Some(0)));
/// assert!(table::live_slot(table::CAPACITY).is_none()); // there is no such slot
/// # Ok::<(), calltable::Error>(())
/// ```
#[must_use]
pub fn live_slot(index: usize) -> Option<LiveSlot> {
    lock().live_slot(index)
}

/// As [`live_slot`], if the lock is free; for trap handlers.
///
/// ```
/// use calltable::{Callback, Error, table};
///
/// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref(&|| 42)?;
/// match table::try_live_slot(callback.slot().index()) {
///     Ok(live) => assert_eq!(live.unwrap().slot, callback.slot()),
///     Err(error) => assert_eq!(error, Error::Busy), // whoever was interrupted holds the lock
/// }
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// [`Error::Busy`] if the lock is taken.
pub fn try_live_slot(index: usize) -> Result<Option<LiveSlot>, Error> {
    Ok(try_lock().ok_or(Error::Busy)?.live_slot(index))
}

/// All live slots, for leak reports, in the order of their indices. Each step takes and gives back the lock, so the
/// table may change in between.
///
/// ```
/// use calltable::{Callback, Options, table};
///
/// let options = Options::new().named("the answer");
/// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref_with(options, &|| 42)?;
/// let found: Vec<table::LiveSlot> = table::list().filter(|live| live.slot == callback.slot()).collect();
/// assert_eq!(found.len(), 1);
/// let name = found[0].name.unwrap_or("without a name"); // as all are where the feature `names` is not on
/// println!("slot {}, {name}: handler {:p}, data {:p}", found[0].slot.index(), found[0].handler, found[0].data);
/// # Ok::<(), calltable::Error>(())
/// ```
pub fn list() -> impl Iterator<Item = LiveSlot> {
    (0..CAPACITY).filter_map(live_slot)
}
