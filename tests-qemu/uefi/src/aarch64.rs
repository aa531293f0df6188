//! The machine of AArch64: QEMU's `virt`.

use core::arch::asm;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

pub const NAME: &str = "aarch64";

/// Writes to the serial port, a PL011, when it is ready.
pub fn print(byte: u8) {
    const SERIAL: usize = 0x0900_0000;
    const FLAGS: usize = SERIAL + 0x18;
    const FULL: u32 = 1 << 5;
    // SAFETY: the machine has that port, and the firmware maps it.
    unsafe {
        while with_exposed_provenance::<u32>(FLAGS).read_volatile() & FULL != 0 {}
        with_exposed_provenance_mut::<u32>(SERIAL).write_volatile(byte.into());
    }
}

/// Ends the machine, with the exit codes of the others.
pub fn end(all_is_well: bool) -> ! {
    const EXIT: usize = 0x18; // Semihosting for AArch32 and AArch64, Arm: SYS_EXIT
    const APPLICATION_EXIT: usize = 0x2_0026;
    let block = [APPLICATION_EXIT, if all_is_well { 33 } else { 35 }];
    // SAFETY: asks the emulator, which does not return.
    unsafe { asm!("hlt #0xf000", in("x0") EXIT, in("x1") &raw const block, options(noreturn)) }
}
