//! What the kernel prints: through the first serial port, and through Bochs' port 0xE9. And how it ends.

use core::fmt::{self, Write};

use crate::cpu::{in_byte, out_byte, out_word};

const SERIAL: u16 = 0x3f8;
const BOCHS: u16 = 0xe9;

/// The console. Each call of [`print!`] is a whole line, and only one processor prints.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const LINE_STATUS: u16 = SERIAL + 5;
        const EMPTY: u8 = 0x20;
        for byte in text.bytes() {
            // SAFETY: the kernel owns the port; Bochs' is nobody's elsewhere. Where there is no port, all bits are 1.
            unsafe {
                while in_byte(LINE_STATUS) & EMPTY == 0 {}
                out_byte(SERIAL, byte);
                out_byte(BOCHS, byte);
            }
        }
        Ok(())
    }
}

/// Prints a line.
macro_rules! line {
    ($($part:tt)*) => {{
        use core::fmt::Write as _;
        // The console takes everything.
        let _ = writeln!($crate::console::Console, $($part)*);
    }};
}
pub(crate) use line;

/// Ends the machine.
pub fn end(all_is_well: bool) -> ! {
    const QEMU: u16 = 0xf4; // isa-debug-exit: the exit code is twice the value and 1
    const BOCHS_END: u16 = 0x8900;
    // SAFETY: these ports end the machine, or are nobody's.
    unsafe {
        out_word(QEMU, if all_is_well { 16 } else { 17 });
        for letter in *b"Shutdown" {
            out_byte(BOCHS_END, letter);
        }
    }
    loop {
        core::hint::spin_loop();
    }
}
