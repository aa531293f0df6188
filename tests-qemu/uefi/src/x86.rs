//! The machine of i686 and x86_64.

use core::arch::asm;

pub const NAME: &str = if cfg!(target_arch = "x86_64") { "x86_64" } else { "i686" };

/// Writes to the first serial port when it is ready.
pub fn print(byte: u8) {
    const SERIAL: u16 = 0x3f8;
    const LINE_STATUS: u16 = SERIAL + 5;
    const EMPTY: u8 = 0x20;
    // SAFETY: every PC has that port.
    unsafe {
        loop {
            let status: u8;
            asm!("in al, dx", in("dx") LINE_STATUS, out("al") status, options(nostack));
            if status & EMPTY != 0 {
                break;
            }
        }
        asm!("out dx, al", in("dx") SERIAL, in("al") byte, options(nostack));
    }
}

/// Ends the machine; the emulator's exit code is twice the value and 1.
pub fn end(all_is_well: bool) -> ! {
    let value = if all_is_well { 16 } else { 17 };
    // SAFETY: QEMU's isa-debug-exit.
    unsafe { asm!("out dx, eax", in("dx") 0xf4_u16, in("eax") value, options(nostack)) };
    loop {
        core::hint::spin_loop();
    }
}
