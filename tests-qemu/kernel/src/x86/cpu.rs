//! Instructions of the processor that Rust has no name for, and its local interrupt controller.

use core::arch::asm;

/// # Safety
/// The port must be one of a device that the kernel owns; so for all that writes below.
pub unsafe fn out_byte(port: u16, value: u8) {
    // SAFETY: by the caller's promise.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// # Safety
/// As for [`out_byte`].
pub unsafe fn in_byte(port: u16) -> u8 {
    let value;
    // SAFETY: by the caller's promise.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// # Safety
/// The port must belong to a device that ends the machine.
pub unsafe fn out_word(port: u16, value: u32) {
    // SAFETY: by the caller's promise.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
}

/// The address that the last page fault was about.
pub fn fault_address() -> usize {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nostack, nomem, preserves_flags)) };
    value
}

/// Lets interrupts through, or not.
pub fn allow_interrupts(yes: bool) {
    // SAFETY: every vector has a handler.
    unsafe {
        if yes {
            asm!("sti", options(nostack));
        } else {
            asm!("cli", options(nostack));
        }
    }
}

/// Has the processor trap after each instruction, or not.
pub fn step(yes: bool) {
    const TRAP_FLAG: usize = 0x100;
    // SAFETY: the trap has a handler, which returns to the next instruction.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if yes {
            asm!("pushfq", "or qword ptr [rsp], {}", "popfq", const TRAP_FLAG);
        } else {
            asm!("pushfq", "and qword ptr [rsp], ~{}", "popfq", const TRAP_FLAG);
        }
        #[cfg(target_arch = "x86")]
        if yes {
            asm!("pushfd", "or dword ptr [esp], {}", "popfd", const TRAP_FLAG);
        } else {
            asm!("pushfd", "and dword ptr [esp], ~{}", "popfd", const TRAP_FLAG);
        }
    }
}

/// The registers of the local interrupt controller of the processor that runs this.
pub mod apic {
    use core::ptr::with_exposed_provenance_mut;

    /// Where it is; the page tables map it.
    pub const BASE: usize = 0xfee0_0000;

    const END_OF_INTERRUPT: usize = 0xb0;
    const SPURIOUS: usize = 0xf0;
    const COMMAND: usize = 0x300;
    const COMMAND_TARGET: usize = 0x310;
    const TIMER: usize = 0x320;
    const TIMER_COUNT: usize = 0x380;
    const TIMER_DIVIDER: usize = 0x3e0;

    const PENDING: u32 = 1 << 12;
    const ASSERT: u32 = 1 << 14;
    const INIT: u32 = 5 << 8;
    const STARTUP: u32 = 6 << 8;

    fn register(offset: usize) -> *mut u32 {
        with_exposed_provenance_mut(BASE + offset)
    }

    fn write(offset: usize, value: u32) {
        // SAFETY: a register of the controller, which is mapped and which only this module uses.
        unsafe { register(offset).write_volatile(value) };
    }

    /// Switches it on.
    pub fn start(spurious: u8) {
        write(SPURIOUS, 0x100 | u32::from(spurious));
        write(TIMER_DIVIDER, 0b1011); // by 1
    }

    /// One interrupt after that many ticks.
    pub fn set_timer(vector: u8, ticks: u32) {
        write(TIMER, vector.into());
        write(TIMER_COUNT, ticks);
    }

    /// No interrupt of the timer any more.
    pub fn stop_timer() {
        write(TIMER_COUNT, 0);
    }

    pub fn end_of_interrupt() {
        write(END_OF_INTERRUPT, 0);
    }

    fn command(target: u32, value: u32) {
        write(COMMAND_TARGET, target << 24);
        write(COMMAND, value);
        // SAFETY: as in `write`.
        while unsafe { register(COMMAND).read_volatile() } & PENDING != 0 {
            core::hint::spin_loop();
        }
    }

    /// Interrupts another processor.
    pub fn interrupt(target: u32, vector: u8) {
        command(target, ASSERT | u32::from(vector));
    }

    /// Resets another processor; it then waits.
    pub fn reset(target: u32) {
        command(target, INIT | ASSERT);
    }

    /// Has a processor that waits begin at a page below 1 MB.
    pub fn begin(target: u32, page: usize) {
        command(target, STARTUP | ASSERT | (page / 0x1000) as u32);
    }
}
