//! Control-flow enforcement: a shadow stack and indirect-branch tracking for the kernel itself, where the processor has
//! them (Intel SDM volume 1, chapter 17).

use core::sync::atomic::{AtomicBool, Ordering};

#[cfg(target_arch = "x86")]
use core::arch::x86::__cpuid_count;
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::__cpuid_count;

use super::paging;

/// Whether it is on.
pub static IS_ON: AtomicBool = AtomicBool::new(false);

fn is_available() -> bool {
    const SHADOW_STACKS: u32 = 1 << 7; // ECX
    const BRANCH_TRACKING: u32 = 1 << 20; // EDX
    if __cpuid_count(0, 0).eax < 7 {
        return false;
    }
    let features = __cpuid_count(7, 0);
    features.ecx & SHADOW_STACKS != 0 && features.edx & BRANCH_TRACKING != 0
}

/// Lays down the token that says where the shadow stack begins, as long as its page is writable.
pub fn prepare() {
    let token = paging::shadow_top() - 8;
    // SAFETY: the page belongs to the shadow stack alone.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(token).write_volatile(token as u64) };
}

/// Switches both on, if the processor has them. What called the function that this becomes part of cannot be returned
/// to, since the shadow stack does not know of it.
#[inline(always)]
pub fn start() {
    if !is_available() {
        return;
    }
    IS_ON.store(true, Ordering::SeqCst);
    const SHADOW_STACK: u32 = 1;
    const WRITES: u32 = 1 << 1; // by WRSS, for `set_return`
    const LANDING_PADS: u32 = 1 << 2;
    const NO_TRACK: u32 = 1 << 4; // compilers mark jumps through tables of their own as not to be tracked
    // SAFETY: the token lies where the first register is told, on a page that is mapped as a shadow stack; all code of
    // the kernel is compiled with landing pads.
    unsafe {
        core::arch::asm!(
            "mov {scratch}, cr4",
            "or {scratch}, 1 << 23",
            "mov cr4, {scratch}",
            "xor edx, edx",
            "mov ecx, 0x6a4", // IA32_PL0_SSP
            "wrmsr",
            "mov eax, {flags}",
            "mov ecx, 0x6a2", // IA32_S_CET
            "wrmsr",
            "setssbsy",
            scratch = out(reg) _,
            flags = const SHADOW_STACK | WRITES | LANDING_PADS | NO_TRACK,
            inout("eax") (paging::shadow_top() - 8) as u32 => _,
            out("ecx") _,
            out("edx") _,
        );
    }
}

/// Has the return from a trap accept another instruction pointer. `shadow` is the shadow stack as the trap has left it,
/// or null: the shadow stack's pointer before, the instruction pointer, CS.
pub fn set_return(shadow: *mut u64, ip: usize) {
    if shadow.is_null() {
        return;
    }
    // SAFETY: that word belongs to the trap that returns next.
    unsafe {
        let place = shadow.add(1);
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!("wrssq [{}], {}", in(reg) place, in(reg) ip, options(nostack, preserves_flags));
        #[cfg(target_arch = "x86")]
        core::arch::asm!("wrssd [{}], {}", in(reg) place, in(reg) ip, options(nostack, preserves_flags));
    }
}
