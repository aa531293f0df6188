//! Page tables: everything is mapped to itself, code read-only and guarded, so that branches come in at landing pads
//! alone; data never executable, nothing at address 0.

use core::cell::UnsafeCell;

use super::cpu::system_register;

// Code, then constants, then variables, the contexts among them; from linker/.
unsafe extern "C" {
    static code_start: u8;
    static code_end: u8;
    static constants_end: u8;
    static bss_end: u8;
    static calltable_text_start: u8;
    static calltable_text_end: u8;
    static calltable_contexts_start: u8;
    static calltable_contexts_end: u8;
    /// What both processors take for their tables.
    static mut page_root: usize;
    fn paging_on();
}

pub const GIC: usize = 0x0800_0000;
pub const UART: usize = 0x0900_0000;

pub const PAGE: usize = 0x1000;
const LARGE: usize = 0x20_0000;
const GIB: usize = 1 << 30;
/// Where the machine's memory is, and the 2 MB in it where the kernel begins.
const MEMORY: usize = GIB;
const FIRST: usize = 1;
/// What is mapped by small pages.
const COUNT: usize = 4;

const PRESENT: usize = 1;
const IS_TABLE: usize = 2; // of the last level: a page
const DEVICE: usize = 1 << 2; // start.S, MAIR_EL1
const READ_ONLY: usize = 1 << 7;
const SHARED: usize = 3 << 8;
const ACCESSED: usize = 1 << 10;
const GUARDED: usize = 1 << 50;
const NO_EXECUTE: usize = 1 << 53;
const NO_EXECUTE_BELOW: usize = 1 << 54;

const CODE: usize = READ_ONLY | GUARDED;
const CONSTANTS: usize = READ_ONLY | NO_EXECUTE;
const VARIABLES: usize = NO_EXECUTE;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[usize; 512]>);

// SAFETY: written by the first processor alone.
unsafe impl Sync for Table {}

impl Table {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; 512]))
    }

    fn set(&self, index: usize, entry: usize) {
        // SAFETY: within the table; but for the processors, who may read it at any moment, this is the only access.
        unsafe { self.0.get().cast::<usize>().add(index % 512).write_volatile(entry) };
    }

    fn entry(&self) -> usize {
        self.0.get().addr() | PRESENT | IS_TABLE
    }
}

static PAGES: [Table; COUNT] = [const { Table::new() }; COUNT];
static FIRST_GIB: Table = Table::new();
static SECOND_GIB: Table = Table::new();
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
    code().contains(&page)
}

pub fn pages() -> impl Iterator<Item = usize> {
    (MEMORY..MEMORY + 0x1000_0000).step_by(PAGE).chain([GIC, UART])
}

/// How a page is to be mapped, if at all.
fn kind(address: usize) -> Option<usize> {
    if is_code(address) {
        Some(CODE)
    } else if address < code().end {
        None
    } else if address < (&raw const constants_end).addr() {
        Some(CONSTANTS)
    } else if address < (&raw const bss_end).addr() {
        Some(VARIABLES)
    } else {
        None
    }
}

/// The entry of a page of memory.
fn page(address: usize, kind: usize) -> usize {
    address | PRESENT | IS_TABLE | ACCESSED | SHARED | NO_EXECUTE_BELOW | kind
}

/// Fills the tables, and switches to them.
pub fn start() {
    for (number, pages) in PAGES.iter().enumerate() {
        for index in 0..512 {
            let address = MEMORY + (FIRST + number) * LARGE + index * PAGE;
            pages.set(index, kind(address).map_or(0, |kind| page(address, kind)));
        }
        SECOND_GIB.set(FIRST + number, pages.entry());
    }
    for device in [GIC, UART] {
        FIRST_GIB.set(device / LARGE, device | PRESENT | ACCESSED | DEVICE | NO_EXECUTE | NO_EXECUTE_BELOW);
    }
    ROOT.set(0, FIRST_GIB.entry());
    ROOT.set(MEMORY / GIB, SECOND_GIB.entry());
    // SAFETY: the tables map what is running to itself.
    unsafe {
        page_root = ROOT.0.get().addr();
        paging_on();
    }
    assert!(
        (&raw const bss_end).addr() <= MEMORY + (FIRST + COUNT) * LARGE,
        "the kernel is larger than what is mapped"
    );
}

/// Makes whole pages of variables read-only; processors may continue as before until they [`forget`].
pub fn make_read_only(pages: core::ops::Range<*const u8>) {
    for address in (pages.start.addr()..pages.end.addr()).step_by(PAGE) {
        let pages = &PAGES[(address - MEMORY) / LARGE - FIRST];
        pages.set(address % LARGE / PAGE, page(address, CONSTANTS));
    }
    forget();
}

/// Has this processor forget what it remembers of the tables.
pub fn forget() {
    // SAFETY: the same tables again.
    unsafe { core::arch::asm!("dsb ish", "tlbi vmalle1", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Whether a page may be written and executed, as the tables say that the processor uses.
pub fn rights(address: usize) -> Option<(bool, bool)> {
    let mut table = system_register!("ttbr0_el1") as usize;
    for shift in [30, 21, 12] {
        let index = (address >> shift) % 512;
        // SAFETY: tables are mapped to themselves.
        let entry = unsafe { core::ptr::with_exposed_provenance::<usize>(table).add(index).read_volatile() };
        if entry & PRESENT == 0 {
            return None;
        }
        if entry & IS_TABLE == 0 || shift == 12 {
            return Some((entry & READ_ONLY == 0, entry & NO_EXECUTE == 0));
        }
        table = entry & 0x0000_ffff_ffff_f000;
    }
    None
}
