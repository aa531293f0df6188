//! Traps and interrupts: their descriptors, who handles them, and calls that a fault may end.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::fmt;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::cpu::{self, apic, out_byte};

pub const DEBUG: u8 = 1;
pub const PAGE_FAULT: usize = 14;
pub const CONTROL_PROTECTION: usize = 21;
pub const TIMER: u8 = 0x20;
pub const OTHER_PROCESSOR: u8 = 0x21;
const SPURIOUS: u8 = 0x3f;
const FIRST_INTERRUPT: usize = 0x20;

const TRAPS: usize = 64;

/// What traps_x86_64.S keeps.
#[cfg(target_arch = "x86_64")]
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// RAX RBX RCX RDX RSI RDI RBP R8 to R15.
    pub registers: [usize; 15],
    pub number: usize,
    pub error: usize,
    pub ip: usize,
    cs: usize,
    flags: usize,
    sp: usize,
    ss: usize,
}

/// What traps_x86.S keeps.
#[cfg(target_arch = "x86")]
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// EDI ESI EBP ESP EBX EDX ECX EAX.
    pub registers: [usize; 8],
    pub number: usize,
    pub error: usize,
    pub ip: usize,
    cs: usize,
    flags: usize,
}

impl Frame {
    /// The frame pointer.
    fn bp(&self) -> usize {
        self.registers[if cfg!(target_arch = "x86_64") { 6 } else { 2 }]
    }

    /// The stack pointer of what was interrupted.
    fn sp(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        let sp = self.sp;
        // At one privilege level the processor does not push it: the stack ends here.
        #[cfg(target_arch = "x86")]
        let sp = (&raw const *self).addr() + size_of::<Self>();
        sp
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trap {} (error {:#x}, address {:#x}) ", self.number, self.error, cpu::fault_address())?;
        write!(f, "at {:#x}, flags {:#x}, stack {:#x}, registers", self.ip, self.flags, self.sp())?;
        self.registers.iter().try_for_each(|register| write!(f, " {register:x}"))
    }
}

unsafe extern "C" {
    /// The stub of each trap, 16 bytes apart.
    static trap_stubs: u8;
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

/// A gate of the interrupt descriptor table.
const WORDS: usize = if cfg!(target_arch = "x86_64") { 4 } else { 2 };

#[repr(C, align(16))]
struct Gates(UnsafeCell<[[u32; WORDS]; TRAPS]>);

// SAFETY: written by `start` alone, before there is a second processor.
unsafe impl Sync for Gates {}

static GATES: Gates = Gates(UnsafeCell::new([[0; WORDS]; TRAPS]));

/// Who handles a trap, a `fn(&Frame)`, or null.
static HOOKS: [AtomicPtr<()>; TRAPS] = [const { AtomicPtr::new(null_mut()) }; TRAPS];

/// Fills the gates, silences the interrupt controller of the PC, and starts the processor's own.
pub fn start() {
    const SELECTOR: usize = if cfg!(target_arch = "x86_64") { 0x18 } else { 0x08 };
    for number in 0..TRAPS {
        let stub = (&raw const trap_stubs).addr() + 16 * number;
        // Interrupts come in with further ones held back, traps do not change that.
        let kind = if number < FIRST_INTERRUPT { 0x8f00 } else { 0x8e00 };
        let mut gate = [0; WORDS];
        gate[0] = ((SELECTOR << 16) | (stub & 0xffff)) as u32;
        gate[1] = ((stub & 0xffff_0000) | kind) as u32;
        // SAFETY: the only access before the table is loaded.
        unsafe { (*GATES.0.get())[number] = gate };
    }
    // SAFETY: masks every line of the two controllers.
    unsafe {
        out_byte(0x21, 0xff);
        out_byte(0xa1, 0xff);
    }
    load();
}

/// Has this processor use the gates.
pub fn load() {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: usize,
    }
    let pointer = Pointer { limit: (size_of::<Gates>() - 1) as u16, base: GATES.0.get().addr() };
    // SAFETY: the gates are static and lead to the stubs.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, readonly, preserves_flags)) };
    apic::start(SPURIOUS);
}

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

/// Called by the stubs.
#[unsafe(no_mangle)]
extern "C" fn trap(frame: &mut Frame, shadow: *mut u64) {
    let hook = HOOKS[frame.number].load(Ordering::SeqCst);
    if !hook.is_null() {
        // SAFETY: only `set_hook` stores.
        unsafe { core::mem::transmute::<*mut (), fn(&Frame)>(hook)(frame) };
        if frame.number >= FIRST_INTERRUPT {
            apic::end_of_interrupt();
        }
        return;
    }
    if frame.number == usize::from(SPURIOUS) {
        return;
    }
    if crate::cases::seh::raise(frame) {
        crate::cet::set_return(shadow, frame.ip);
        return;
    }
    let place = PLACE.load(Ordering::SeqCst);
    if place.is_null() || frame.number >= FIRST_INTERRUPT {
        report(frame);
    }
    crate::cases::seh::unwind(frame, CHAIN.load(Ordering::SeqCst));
    for (word, value) in FAULT.iter().zip([frame.number, frame.error, cpu::fault_address()]) {
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
        if crate::paging::code().contains(&word) {
            line!("    at {word:#x} (stack {at:#x})");
            left -= 1;
        }
        at += size_of::<usize>();
    }
    panic!("{frame}, frame pointer {:#x}", frame.bp());
}
