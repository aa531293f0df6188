//! AArch64: QEMU's machine `virt`, where the kernel runs at EL1.

mod cpu;
pub mod paging;
pub mod traps;

use core::arch::asm;

use cpu::{gic, system_register};

/// How the kernel greets.
pub const NAME: &str = "AArch64";
pub const FLOATS: &str = match (cfg!(floats), cfg!(target_feature = "lse")) {
    (true, true) => "floating point, LSE",
    (true, false) => "floating point",
    (false, true) => "no floating point, LSE",
    (false, false) => "no floating point",
};

/// What checks returns and branches, if it is on.
pub fn protection() -> Option<&'static str> {
    const SIGNS_BY_A: u64 = 1 << 31; // SCTLR_EL1.EnIA
    const HAS_BTI: u64 = 0xf; // ID_AA64PFR1_EL1.BT
    const HAS_PAC: u64 = 0xff << 4; // ID_AA64ISAR1_EL1.APA and API
    let has_pac = system_register!("id_aa64isar1_el1") & HAS_PAC != 0;
    let signs = system_register!("sctlr_el1") & SIGNS_BY_A != 0;
    // That code is on guarded pages is seen by the cases.
    (has_pac && signs && system_register!("id_aa64pfr1_el1") & HAS_BTI != 0).then_some("BTI and PAC")
}

pub const NO_PROTECTION: &str = "no BTI or PAC";

/// Whether atomic changes of memory can be stepped through. A loop of LDXR and STXR does not end: each trap in it takes
/// the exclusive access off.
pub const STEPS_ATOMICS: bool = cfg!(target_feature = "lse");

/// `bti c; ret`.
pub const RETURN: [u32; 2] = [0xd503_245f, 0xd65f_03c0];

/// Bytes of UDF.
pub const TRAP_BYTES: usize = 4;

/// Where instructions of an entry begin.
pub const ENTRY_INSTRUCTIONS: &[usize] = &[0, 4, 8, 12];

/// Prepares the first processor.
pub fn start() {
    paging::start();
    gic::start();
    gic::start_processor();
}

/// A return address as it was before it was signed.
pub fn without_signature(address: usize) -> usize {
    let mut plain = address;
    // SAFETY: XPACLRI, which changes X30 alone.
    unsafe { asm!("hint #7", inout("x30") plain, options(nomem, nostack, preserves_flags)) };
    plain
}

unsafe extern "C" {
    fn ap_start();
}

/// Asks the second processor to begin, and waits until `is_up`. Returns whether it is.
pub fn start_second(is_up: impl Fn() -> bool) -> bool {
    const CPU_ON: usize = 0xc400_0003; // Power State Coordination Interface, Arm DEN0022
    const SECOND: usize = 1;
    let answer: isize;
    // SAFETY: it begins at `ap_start`, with the page tables of this one.
    unsafe {
        asm!(
            "hvc #0",
            inout("x0") CPU_ON => answer,
            inout("x1") SECOND => _,
            inout("x2") ap_start as *const () => _,
            inout("x3") 0_usize => _,
        );
    }
    if answer != 0 {
        return false;
    }
    while !is_up() {
        core::hint::spin_loop();
    }
    true
}

/// Prepares the second processor.
pub fn start_on_second() {
    gic::start_processor();
}

/// The address that the last abort was about.
pub fn fault_address() -> usize {
    system_register!("far_el1") as usize
}

/// Lets interrupts through, or not.
pub fn allow_interrupts(yes: bool) {
    // SAFETY: every vector has a handler.
    unsafe {
        if yes {
            asm!("msr daifclr, #2", options(nostack));
        } else {
            asm!("msr daifset, #2", options(nostack));
        }
    }
}

/// Has the processor trap before each instruction, or not.
pub fn step(yes: bool) {
    const STEPS_AT_EL1: u64 = 1 << 13 | 1; // MDSCR_EL1.KDE and SS
    let off = system_register!("mdscr_el1") & !STEPS_AT_EL1;
    // SAFETY: the trap has a handler, which has one instruction more run each time (traps.rs, Frame::leave).
    unsafe {
        if yes {
            asm!("msr mdscr_el1, {}", "isb", "msr daifclr, #8", in(reg) off | STEPS_AT_EL1, options(nostack));
        } else {
            asm!("msr daifset, #8", "msr mdscr_el1, {}", "isb", in(reg) off, options(nostack));
        }
    }
}

/// One interrupt after that time.
pub fn set_timer(nanoseconds: u32) {
    const ENABLE: u64 = 1;
    let ticks = u64::from(nanoseconds) * system_register!("cntfrq_el0") / 1_000_000_000;
    // SAFETY: the virtual timer is the kernel's.
    unsafe { asm!("msr cntv_tval_el0, {}", "msr cntv_ctl_el0, {}", in(reg) ticks, in(reg) ENABLE, options(nostack)) };
}

/// No interrupt of the timer any more.
pub fn stop_timer() {
    // SAFETY: as above.
    unsafe { asm!("msr cntv_ctl_el0, xzr", "isb", options(nostack)) };
}

/// Interrupts the second processor.
pub fn interrupt_second() {
    gic::interrupt(1 << 1, traps::SGI);
}

/// Prints a byte through the serial port, a PL011.
pub fn print(byte: u8) {
    const DATA: usize = 0;
    const FLAGS: usize = 0x18;
    const FULL: u32 = 1 << 5;
    while cpu::read(paging::UART + FLAGS) & FULL != 0 {}
    cpu::write(paging::UART + DATA, byte.into());
}

/// Ends the machine.
pub fn end(all_is_well: bool) -> ! {
    const EXIT: usize = 0x18; // Semihosting for AArch32 and AArch64, Arm: SYS_EXIT
    const APPLICATION_EXIT: usize = 0x2_0026;
    let block = [APPLICATION_EXIT, if all_is_well { 33 } else { 35 }]; // as the other kernels
    // SAFETY: asks the emulator, which does not return.
    unsafe { asm!("hlt #0xf000", in("x0") EXIT, in("x1") &raw const block, options(noreturn)) }
}
