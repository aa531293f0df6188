//! Page tables: everything is mapped to itself, code read-only, data never executable, nothing at address 0.
//!
//! Both widths use the same format (PAE), 64-bit kernels one level more.

use core::arch::asm;
use core::cell::UnsafeCell;

use super::cpu::apic;

// Code, then constants, then variables, the contexts among them, then shadow stacks; from linker/.
unsafe extern "C" {
    static code_start: u8;
    static code_end: u8;
    static constants_end: u8;
    static shadow_start: u8;
    static shadow_end: u8;
    static bss_end: u8;
    static calltable_text_start: u8;
    static calltable_text_end: u8;
    static calltable_contexts_start: u8;
    static calltable_contexts_end: u8;
    /// What the second processor takes for its tables.
    static mut page_root: u64;
    static ap_begin: u8;
    static ap_begin_end: u8;
}

/// Where the second processor begins.
pub const AP_PAGE: usize = 0x8000;

pub const PAGE: usize = 0x1000;
const LARGE: usize = 0x20_0000;
/// What is mapped by small pages.
const MEMORY: usize = 3 * LARGE;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const UNCACHED: u64 = 1 << 4;
const DIRTY: u64 = 1 << 6;
const IS_LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: written by the first processor alone.
unsafe impl Sync for Table {}

impl Table {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; 512]))
    }

    fn set(&self, index: usize, entry: u64) {
        // SAFETY: within the table; but for the processors, who may read it at any moment, this is the only access.
        unsafe { self.0.get().cast::<u64>().add(index % 512).write_volatile(entry) };
    }

    fn entry(&self) -> u64 {
        self.0.get().addr() as u64 | PRESENT
    }
}

static PAGES: [Table; MEMORY / LARGE] = [const { Table::new() }; MEMORY / LARGE];
static FIRST_GIB: Table = Table::new();
static FOURTH_GIB: Table = Table::new();
static POINTERS: Table = Table::new();
#[cfg(target_arch = "x86_64")]
static ROOT: Table = Table::new();

/// The CALL table and its dispatchers.
pub fn table() -> core::ops::Range<usize> {
    (&raw const calltable_text_start).addr()..(&raw const calltable_text_end).addr()
}

/// The pages of the contexts.
pub fn contexts() -> core::ops::Range<*const u8> {
    &raw const calltable_contexts_start..&raw const calltable_contexts_end
}

/// All code of the kernel.
pub fn code() -> core::ops::Range<usize> {
    (&raw const code_start).addr()..(&raw const code_end).addr()
}

/// Whether a page has code of the kernel, and those that may be mapped.
pub fn is_code(page: usize) -> bool {
    code().contains(&page) || page == AP_PAGE
}

pub fn pages() -> impl Iterator<Item = usize> {
    (0..0x1000_0000).step_by(PAGE).chain([apic::BASE])
}

/// The top of the shadow stack.
pub fn shadow_top() -> usize {
    (&raw const shadow_end).addr()
}

/// How a page is to be mapped, 0 if not at all.
fn kind(address: usize) -> u64 {
    let shadow = (&raw const shadow_start).addr()..shadow_top();
    if is_code(address) {
        PRESENT
    } else if address < code().end {
        0
    } else if address < (&raw const constants_end).addr() {
        PRESENT | NO_EXECUTE
    } else if shadow.contains(&address) {
        PRESENT | DIRTY | NO_EXECUTE // what is dirty though not writable is a shadow stack
    } else if address < (&raw const bss_end).addr() {
        PRESENT | WRITABLE | NO_EXECUTE
    } else {
        0
    }
}

/// Copies what must lie below 1 MB, fills the tables, and switches to them.
pub fn start() {
    assert!((&raw const bss_end).addr() <= MEMORY, "the kernel is larger than what is mapped");
    // SAFETY: before the switch all memory is writable, and nobody uses that page.
    unsafe {
        let begin = core::slice::from_raw_parts(
            &raw const ap_begin,
            (&raw const ap_begin_end).addr() - (&raw const ap_begin).addr(),
        );
        core::ptr::with_exposed_provenance_mut::<u8>(AP_PAGE).copy_from(begin.as_ptr(), begin.len());
    }
    for (number, pages) in PAGES.iter().enumerate() {
        for index in 0..512 {
            let address = number * LARGE + index * PAGE;
            let kind = kind(address);
            pages.set(index, if kind == 0 { 0 } else { address as u64 | kind });
        }
        FIRST_GIB.set(number, pages.entry() | WRITABLE);
    }
    let controller = apic::BASE & !(LARGE - 1);
    FOURTH_GIB
        .set(controller % (1 << 30) / LARGE, controller as u64 | PRESENT | WRITABLE | UNCACHED | IS_LARGE | NO_EXECUTE);
    let root = &POINTERS;
    // The 32-bit format has no other bit at this level.
    let writable = if cfg!(target_arch = "x86_64") { WRITABLE } else { 0 };
    root.set(0, FIRST_GIB.entry() | writable);
    root.set(3, FOURTH_GIB.entry() | writable);
    #[cfg(target_arch = "x86_64")]
    let root = {
        ROOT.set(0, root.entry() | WRITABLE);
        &ROOT
    };
    let address = root.0.get().addr();
    // SAFETY: the new tables map what is running as the old ones do.
    unsafe {
        page_root = address as u64;
        asm!("mov cr3, {}", in(reg) address, options(nostack));
    }
}

/// Makes whole pages of variables read-only, for this processor; others continue as before until they [`forget`].
pub fn make_read_only(pages: core::ops::Range<*const u8>) {
    for address in (pages.start.addr()..pages.end.addr()).step_by(PAGE) {
        // Not dirty any more either: that would be a shadow stack.
        PAGES[address / LARGE].set(address % LARGE / PAGE, address as u64 | PRESENT | NO_EXECUTE);
    }
    forget();
}

/// Has this processor forget what it remembers of the tables.
pub fn forget() {
    // SAFETY: the same tables again.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags)) };
}

/// Whether a page may be read, written, executed, as the tables say that the processor uses.
pub fn rights(address: usize) -> Option<(bool, bool)> {
    let root: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) root, options(nostack, nomem, preserves_flags)) };
    let mut table = root;
    let (mut writable, mut executable) = (true, true);
    let shifts: &[u32] = if cfg!(target_arch = "x86_64") { &[39, 30, 21, 12] } else { &[30, 21, 12] };
    for &shift in shifts {
        let index = (address as u64 >> shift) as usize % 512;
        // SAFETY: tables are mapped to themselves.
        let entry = unsafe { core::ptr::with_exposed_provenance::<u64>(table).add(index).read_volatile() };
        if entry & PRESENT == 0 {
            return None;
        }
        // At the upper level of 32 bits these bits do not exist.
        if cfg!(target_arch = "x86_64") || shift != 30 {
            writable &= entry & WRITABLE != 0;
            executable &= entry & NO_EXECUTE == 0;
        }
        if entry & IS_LARGE != 0 && shift == 21 {
            break;
        }
        table = (entry & 0x000f_ffff_ffff_f000) as usize;
    }
    Some((writable, executable))
}
