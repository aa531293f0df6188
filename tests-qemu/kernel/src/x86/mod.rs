//! i686 and x86_64.

pub mod cet;
mod cpu;
pub mod paging;
pub mod traps;

use core::sync::atomic::Ordering;

pub use apic::stop_timer;
pub use cpu::{allow_interrupts, fault_address, step};
use cpu::{apic, in_byte, out_byte, out_word};

/// How the kernel greets.
pub const NAME: &str = if cfg!(target_arch = "x86_64") { "x86_64" } else { "i686" };
pub const FLOATS: &str = if cfg!(floats) { "SSE" } else { "no SSE" };

/// What checks returns and branches, if it is on.
pub fn protection() -> Option<&'static str> {
    cet::IS_ON.load(Ordering::SeqCst).then_some("CET")
}

pub const NO_PROTECTION: &str = "no CET";

/// Whether atomic changes of memory can be stepped through.
pub const STEPS_ATOMICS: bool = true;

/// `endbrNN; ret`.
pub const RETURN: [u32; 2] = [if cfg!(target_arch = "x86_64") { 0xfa1e_0ff3 } else { 0xfb1e_0ff3 }, 0xc3];

/// Bytes of UD2.
pub const TRAP_BYTES: usize = 2;

/// Where instructions of an entry begin.
pub const ENTRY_INSTRUCTIONS: &[usize] = if cfg!(target_arch = "x86_64") { &[0, 4, 8, 13, 17] } else { &[0, 4, 9] };

/// Prepares the first processor. What called the function that this becomes part of cannot be returned to.
#[inline(always)]
pub fn start() {
    cet::prepare();
    paging::start();
    cet::start();
    traps::start();
}

/// Return addresses are stored as they are.
pub fn without_signature(address: usize) -> usize {
    address
}

/// Asks the second processor to begin, and waits until `is_up`. Returns whether it is.
pub fn start_second(is_up: impl Fn() -> bool) -> bool {
    let pause = |turns| (0..turns).for_each(|_| core::hint::spin_loop());
    apic::reset(SECOND);
    pause(100_000);
    for _ in 0..2 {
        apic::begin(SECOND, paging::AP_PAGE);
        for _ in 0..100 {
            if is_up() {
                return true;
            }
            pause(10_000);
        }
    }
    false
}

/// Prepares the second processor.
pub fn start_on_second() {
    traps::load();
}

/// The number of the second processor's interrupt controller.
const SECOND: u32 = 1;

/// One interrupt after that time.
pub fn set_timer(nanoseconds: u32) {
    // QEMU's controller counts these.
    apic::set_timer(traps::TIMER, nanoseconds);
}

/// Interrupts the second processor.
pub fn interrupt_second() {
    apic::interrupt(SECOND, traps::OTHER_PROCESSOR);
}

/// Prints a byte: through the first serial port, and through Bochs' port 0xE9.
pub fn print(byte: u8) {
    const SERIAL: u16 = 0x3f8;
    const LINE_STATUS: u16 = SERIAL + 5;
    const EMPTY: u8 = 0x20;
    const BOCHS: u16 = 0xe9;
    // SAFETY: the kernel owns the port; Bochs' is nobody's elsewhere. Where there is no port, all bits are 1.
    unsafe {
        while in_byte(LINE_STATUS) & EMPTY == 0 {}
        out_byte(SERIAL, byte);
        out_byte(BOCHS, byte);
    }
}

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
