//! What the processor does at an exception, and what there is to know of it.

use super::cpu::gic;
use crate::traps::Fault;

// Sources of the numbers: "Arm Architecture Reference Manual for A-profile", ESR_EL1.
/// An undefined instruction.
pub const INVALID_OPCODE: usize = 0;
const BRANCH_TARGET: usize = 0x0d;
const AUTHENTICATION: usize = 0x1c;
const INSTRUCTION_ABORT: usize = 0x21;
/// What is not mapped is executed.
pub const PROTECTION: usize = INSTRUCTION_ABORT;
/// A BRK, which the cases have for this.
pub const DIVIDE: usize = 0x3c;
/// A data abort.
pub const PAGE_FAULT: usize = 0x25;
pub const STEP: u8 = 0x33;
/// What traps.S gives interrupts; the controller's numbers come on top.
const FIRST_INTERRUPT: usize = 0x40;
/// The controller's number of what one processor sends another.
pub const SGI: u32 = 1;
pub const OTHER_PROCESSOR: u8 = FIRST_INTERRUPT as u8 + SGI as u8;
/// The virtual timer's.
pub const TIMER: u8 = FIRST_INTERRUPT as u8 + 27;
pub const TRAPS: usize = FIRST_INTERRUPT + 32;

/// Low bits of a syndrome: a page that is there but does not allow it.
const PERMISSION: usize = 0x0f;

/// Of a data abort: a write.
const WRITE: usize = 1 << 6;

/// A write to what may only be read.
pub fn is_write_fault(fault: Fault) -> bool {
    (fault.number, fault.error) == (PAGE_FAULT, WRITE | PERMISSION)
}

/// Execution of what may only be read.
pub fn is_execute_fault(fault: Fault) -> bool {
    (fault.number, fault.error) == (INSTRUCTION_ABORT, PERMISSION)
}

/// A return to an address that is not the one that was signed: processors say so at the check, or it has become one
/// that cannot be.
pub fn is_wrong_return(fault: Fault) -> bool {
    const VALID: u32 = 47; // bits of an address
    fault.number == AUTHENTICATION || fault.number == INSTRUCTION_ABORT && fault.address >> VALID != 0
}

/// A call of what is no landing pad: the syndrome is the kind of branch.
pub fn is_no_landing_pad(fault: Fault) -> bool {
    const CALL: usize = 2;
    (fault.number, fault.error) == (BRANCH_TARGET, CALL)
}

/// What traps.S keeps.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// X0 to X30.
    pub registers: [usize; 31],
    sp: usize,
    /// The exception's class, or the interrupt.
    pub number: usize,
    /// Its syndrome; of an interrupt what ends it.
    pub error: usize,
    pub ip: usize,
    pub flags: usize,
}

impl Frame {
    /// The frame pointer.
    pub fn bp(&self) -> usize {
        self.registers[29]
    }

    /// The stack pointer of what was interrupted.
    pub fn sp(&self) -> usize {
        self.sp
    }

    /// Whether it is a data abort of a write.
    pub fn is_write(&self) -> bool {
        self.error & WRITE != 0
    }

    /// Exceptions hold back interrupts and steps.
    pub fn admit_interrupts(&self) {
        // SAFETY: as it was when the exception came.
        unsafe { core::arch::asm!("msr daif, {}", in(reg) self.flags, options(nostack)) };
    }

    /// Finds out which interrupt it is, if it is one. Returns whether it is to be handled.
    pub fn arrive(&mut self) -> bool {
        if self.is_interrupt() {
            const NUMBER: usize = 0x3ff;
            self.error = gic::take() as usize;
            self.number = FIRST_INTERRUPT + (self.error & NUMBER);
        }
        self.number < TRAPS
    }

    pub fn is_interrupt(&self) -> bool {
        self.number >= FIRST_INTERRUPT
    }

    /// It has been handled, and what was interrupted goes on, where `ip` says.
    pub fn leave(&mut self, _shadow: *mut u64) {
        if self.number == usize::from(STEP) {
            const ONE_INSTRUCTION: usize = 1 << 21; // SPSR_EL1.SS
            self.flags |= ONE_INSTRUCTION;
        }
        if self.is_interrupt() {
            gic::end(self.error as u32);
        }
    }
}
