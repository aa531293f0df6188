//! Registers of the processor that Rust has no name for, and the interrupt controller.

/// Reads a system register.
macro_rules! system_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reads a register.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, nomem, preserves_flags))
        };
        value
    }};
}
pub(super) use system_register;

/// Reads a register of a device that only this module's parent uses.
pub fn read(address: usize) -> u32 {
    // SAFETY: the page tables map it, and it is such.
    unsafe { core::ptr::with_exposed_provenance::<u32>(address).read_volatile() }
}

/// Writes one.
pub fn write(address: usize, value: u32) {
    // SAFETY: as above.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>(address).write_volatile(value) };
}

/// The interrupt controller, a GICv2 (Arm IHI 0048).
pub mod gic {
    use super::super::paging::GIC;
    use super::{read, write};

    const DISTRIBUTOR: usize = GIC;
    const INTERFACE: usize = GIC + 0x1_0000;

    /// Lets the controller hand out interrupts.
    pub fn start() {
        write(DISTRIBUTOR, 1);
    }

    /// Lets the processor that runs this take those of its own: of its timer, and of other processors.
    pub fn start_processor() {
        const ENABLE: usize = 0x100;
        const PRIORITY: usize = 4;
        write(DISTRIBUTOR + ENABLE, !0);
        write(INTERFACE + PRIORITY, 0xff);
        write(INTERFACE, 1);
    }

    /// Interrupts processors, one for each bit.
    pub fn interrupt(processors: u32, number: u32) {
        const SEND: usize = 0xf00;
        write(DISTRIBUTOR + SEND, processors << 16 | number);
    }

    /// Takes the interrupt that has come; `end` wants what this returns, whose low 10 bits are its number.
    pub fn take() -> u32 {
        read(INTERFACE + 0xc)
    }

    pub fn end(taken: u32) {
        write(INTERFACE + 0x10, taken);
    }
}
