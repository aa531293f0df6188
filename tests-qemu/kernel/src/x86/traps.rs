//! What the processor does at a trap, and its descriptors.

use core::arch::asm;
use core::cell::UnsafeCell;

use super::cet;
use super::cpu::{apic, out_byte};
use crate::traps::Fault;

pub const STEP: u8 = 1;
pub const DIVIDE: usize = 0;
pub const INVALID_OPCODE: usize = 6;
pub const PROTECTION: usize = 13;
pub const PAGE_FAULT: usize = 14;
pub const TIMER: u8 = 0x20;
pub const OTHER_PROCESSOR: u8 = 0x21;
const SPURIOUS: usize = 0x3f;
const FIRST_INTERRUPT: usize = 0x20;

pub const TRAPS: usize = 64;

/// A write to what may only be read.
pub fn is_write_fault(fault: Fault) -> bool {
    const PRESENT: usize = 1;
    const WRITE: usize = 2;
    (fault.number, fault.error) == (PAGE_FAULT, PRESENT | WRITE)
}

/// Execution of what may only be read.
pub fn is_execute_fault(fault: Fault) -> bool {
    const PRESENT: usize = 1;
    const EXECUTE: usize = 16;
    (fault.number, fault.error) == (PAGE_FAULT, PRESENT | EXECUTE)
}

/// A return to another address than the one that was called from.
pub fn is_wrong_return(fault: Fault) -> bool {
    const NEAR_RETURN: usize = 1;
    (fault.number, fault.error) == (CONTROL_PROTECTION, NEAR_RETURN)
}

/// A call of what is no landing pad.
pub fn is_no_landing_pad(fault: Fault) -> bool {
    const NO_LANDING_PAD: usize = 3;
    (fault.number, fault.error) == (CONTROL_PROTECTION, NO_LANDING_PAD)
}

const CONTROL_PROTECTION: usize = 21;

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
    pub flags: usize,
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
    pub flags: usize,
}

impl Frame {
    /// The frame pointer.
    pub fn bp(&self) -> usize {
        self.registers[if cfg!(target_arch = "x86_64") { 6 } else { 2 }]
    }

    /// The stack pointer of what was interrupted.
    pub fn sp(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        let sp = self.sp;
        // At one privilege level the processor does not push it: the stack ends here.
        #[cfg(target_arch = "x86")]
        let sp = (&raw const *self).addr() + size_of::<Self>();
        sp
    }

    /// Whether it is a page fault of a write.
    pub fn is_write(&self) -> bool {
        self.error & 2 != 0
    }

    /// The gates of faults hold no interrupts back.
    pub fn admit_interrupts(&self) {}

    /// Finds out which interrupt it is, if it is one. Returns whether it is to be handled.
    pub fn arrive(&mut self) -> bool {
        self.number != SPURIOUS
    }

    pub fn is_interrupt(&self) -> bool {
        self.number >= FIRST_INTERRUPT
    }

    /// It has been handled, and what was interrupted goes on, where `ip` says.
    pub fn leave(&mut self, shadow: *mut u64) {
        cet::set_return(shadow, self.ip);
        if self.is_interrupt() {
            apic::end_of_interrupt();
        }
    }
}

unsafe extern "C" {
    /// The stub of each trap, 16 bytes apart.
    static trap_stubs: u8;
}

/// A gate of the interrupt descriptor table.
const WORDS: usize = if cfg!(target_arch = "x86_64") { 4 } else { 2 };

#[repr(C, align(16))]
struct Gates(UnsafeCell<[[u32; WORDS]; TRAPS]>);

// SAFETY: written by `start` alone, before there is a second processor.
unsafe impl Sync for Gates {}

static GATES: Gates = Gates(UnsafeCell::new([[0; WORDS]; TRAPS]));

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
    apic::start(SPURIOUS as u8);
}
