//! Traps and interrupts: who handles them, and calls that a fault may end.

use core::ffi::c_void;
use core::fmt;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::machine;
pub use crate::machine::traps::*;

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trap {} (error {:#x}, address {:#x}) ", self.number, self.error, machine::fault_address())?;
        write!(f, "at {:#x}, flags {:#x}, stack {:#x}, registers", self.ip, self.flags, self.sp())?;
        self.registers.iter().try_for_each(|register| write!(f, " {register:x}"))
    }
}

unsafe extern "C" {
    fn attempt(function: unsafe extern "C" fn(*mut c_void), data: *mut c_void, place: *mut Place) -> usize;
    fn recover(place: *const Place, value: usize) -> !;
    static stack: u8;
    static stack_end: u8;
}

/// Where `attempt` continues after a fault.
#[repr(C)]
struct Place {
    sp: usize,
    shadow: usize,
}

/// Who handles a trap, a `fn(&Frame)`, or null.
static HOOKS: [AtomicPtr<()>; TRAPS] = [const { AtomicPtr::new(null_mut()) }; TRAPS];

/// Has a function handle a trap or an interrupt, or nobody.
pub fn set_hook(number: u8, hook: Option<fn(&Frame)>) {
    HOOKS[usize::from(number)].store(hook.map_or(null_mut(), |hook| hook as *mut ()), Ordering::SeqCst);
}

/// A fault that ended an [`attempt`](catch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub number: usize,
    pub error: usize,
    pub address: usize,
}

static PLACE: AtomicPtr<Place> = AtomicPtr::new(null_mut());
/// The head of the chain of SEH records then.
static CHAIN: AtomicPtr<calltable::seh::Record> = AtomicPtr::new(null_mut());
static FAULT: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

/// Calls a function of the first processor, which a fault may end. The function's frames are dropped then, so it must
/// hold nothing.
pub fn catch<F: FnMut()>(mut function: F) -> Result<(), Fault> {
    unsafe extern "C" fn call<F: FnMut()>(function: *mut c_void) {
        // SAFETY: `catch` passes the function.
        unsafe { (*function.cast::<F>())() };
    }
    let mut place = Place { sp: 0, shadow: 0 };
    let before = PLACE.swap(&raw mut place, Ordering::SeqCst);
    let (head, outer) = {
        let head = crate::cases::seh::head();
        (head, CHAIN.swap(head, Ordering::SeqCst))
    };
    // SAFETY: the function and the place live as long as the call.
    let ended = unsafe { attempt(call::<F>, (&raw mut function).cast(), &raw mut place) };
    PLACE.store(before, Ordering::SeqCst);
    CHAIN.store(outer, Ordering::SeqCst);
    // SAFETY: the chain as it was.
    unsafe { crate::cases::seh::set_head(head) };
    let [number, error, address] = [0, 1, 2].map(|index| FAULT[index].load(Ordering::SeqCst));
    if ended == 0 { Ok(()) } else { Err(Fault { number, error, address }) }
}

/// Called by the assembly, with what it has kept and with the shadow stack, null if there is none.
#[unsafe(no_mangle)]
extern "C" fn trap(frame: &mut Frame, shadow: *mut u64) {
    if !frame.arrive() {
        return;
    }
    let hook = HOOKS[frame.number].load(Ordering::SeqCst);
    if !hook.is_null() {
        // SAFETY: only `set_hook` stores.
        unsafe { core::mem::transmute::<*mut (), fn(&Frame)>(hook)(frame) };
        frame.leave(shadow);
        return;
    }
    if crate::cases::seh::raise(frame) {
        frame.leave(shadow);
        return;
    }
    let place = PLACE.load(Ordering::SeqCst);
    if place.is_null() || frame.is_interrupt() {
        report(frame);
    }
    crate::cases::seh::unwind(frame, CHAIN.load(Ordering::SeqCst));
    for (word, value) in FAULT.iter().zip([frame.number, frame.error, machine::fault_address()]) {
        word.store(value, Ordering::SeqCst);
    }
    // SAFETY: `catch` is running, and nothing else sets a place.
    unsafe { recover(place, 1) }
}

/// Ends the case by what nobody expected: the registers, and all words of the stack that may be return addresses.
fn report(frame: &Frame) -> ! {
    use crate::console::line;
    line!("    at {:#x}", frame.ip);
    let all = (&raw const stack).addr()..(&raw const stack_end).addr();
    let mut at = frame.sp() & !(size_of::<usize>() - 1);
    let mut left = 24;
    while all.contains(&at) && left > 0 {
        // SAFETY: a word of the stack.
        let word = unsafe { core::ptr::with_exposed_provenance::<usize>(at).read_volatile() };
        let word = machine::without_signature(word);
        if machine::paging::code().contains(&word) {
            line!("    at {word:#x} (stack {at:#x})");
            left -= 1;
        }
        at += size_of::<usize>();
    }
    panic!("{frame}, frame pointer {:#x}", frame.bp());
}
