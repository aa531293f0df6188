//! What stands between a C caller and the entry, and between the dispatcher and a handler: it looks at registers and
//! stack words or wrecks them. Neither moves the stack pointer, so that the stack arguments stay where they are.

use std::arch::global_asm;
use std::mem::offset_of;

/// Registers that the convention preserves: X19 to X29, and the low halves of V8 to V15.
const GENERAL: usize = 11;
const FLOATS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    pub general: [usize; GENERAL],
    pub fpcr: u64,
    pub floats: [u64; FLOATS],
}

/// Words that are looked at above the stack arguments.
pub const GUARDS: usize = 24;

/// What the checker is told, and what it has seen.
#[repr(C)]
pub struct State {
    /// What it calls.
    pub target: *const (),
    /// Bytes that the target is to remove from the stack: none.
    pub cleanup: usize,
    /// From the first stack argument to what is nobody's.
    pub guards_at: usize,
    /// X8, the address of a result in memory.
    pub first: usize,
    pub sp: usize,
    pub sp_after: usize,
    pub guards: [usize; GUARDS],
    pub guards_after: [usize; GUARDS],
    /// What the caller had, what is in the registers at the call, and what after it.
    pub outer: Registers,
    pub before: Registers,
    pub after: Registers,
    return_address: usize,
    /// X18 at the call, before a handler with a wrapper, and after the call.
    x18: [usize; 3],
}

/// What the wrapper before a handler is told, and what it has seen.
#[repr(C)]
pub struct Wreck {
    pub target: *const (),
    /// As in `case::WRECKS`.
    pub level: usize,
    /// When the handler begins.
    pub sp: usize,
    /// There is none that a convention speaks of.
    pub flags: usize,
    return_address: usize,
    /// What no convention leaves there.
    fpcr: u64,
}

const NOTHING: Registers = Registers { general: [0; GENERAL], fpcr: 0, floats: [0; FLOATS] };

pub static mut STATE: State = State {
    target: std::ptr::null(),
    cleanup: 0,
    guards_at: 0,
    first: 0,
    sp: 0,
    sp_after: 0,
    guards: [0; GUARDS],
    guards_after: [0; GUARDS],
    outer: NOTHING,
    before: NOTHING,
    after: NOTHING,
    return_address: 0,
    x18: [0; 3],
};

/// Rounds toward zero.
pub static mut WRECK: Wreck =
    Wreck { target: std::ptr::null(), level: 0, sp: 0, flags: 0, return_address: 0, fpcr: 0xc0_0000 };

/// Registers with values of their own; rounds up.
pub fn pattern() -> Registers {
    Registers {
        general: std::array::from_fn(|index| 0x5ca1_ab1e_usize.wrapping_mul(2 * index + 3)),
        fpcr: 0x40_0000,
        floats: std::array::from_fn(|index| 0x2200_c0ff_ee00_0000 + index as u64),
    }
}

/// What the caller may rely on of its registers.
pub fn registers(state: &State, _is_float: bool) -> Result<(), String> {
    let State { before, after, .. } = state;
    for (index, value) in after.general.iter().enumerate() {
        if *value != before.general[index] {
            return Err(format!("X{} is {value:#x} after the call", 19 + index));
        }
    }
    for (index, value) in after.floats.iter().enumerate() {
        if *value != before.floats[index] {
            return Err(format!("D{} is {value:#x} after the call", 8 + index));
        }
    }
    if after.fpcr != before.fpcr {
        return Err(format!("FPCR is {:#x} after the call", after.fpcr));
    }
    // The thread's block, which is never anything else.
    let [block, inside, outside] = state.x18;
    if cfg!(windows) && [inside, outside] != [block; 2] {
        return Err(format!("X18 is {block:#x}, {inside:#x} in the handler, {outside:#x} after the call"));
    }
    Ok(())
}

unsafe extern "C" {
    /// Calls `STATE.target` with the registers of `STATE.before`.
    pub fn torture_check();
    /// Goes on at `WRECK.target`, or calls it and wrecks what `WRECK.level` says.
    pub fn torture_wreck();
}

// X9 to X17 carry no argument.
global_asm!(
    ".macro TORTURE_STORE base",
    "stp x19, x20, [\\base, #0x00]",
    "stp x21, x22, [\\base, #0x10]",
    "stp x23, x24, [\\base, #0x20]",
    "stp x25, x26, [\\base, #0x30]",
    "stp x27, x28, [\\base, #0x40]",
    "mrs x17, fpcr",
    "stp x29, x17, [\\base, #0x50]",
    "stp d8, d9, [\\base, #0x60]",
    "stp d10, d11, [\\base, #0x70]",
    "stp d12, d13, [\\base, #0x80]",
    "stp d14, d15, [\\base, #0x90]",
    ".endm",
    ".macro TORTURE_LOAD base",
    "ldp x19, x20, [\\base, #0x00]",
    "ldp x21, x22, [\\base, #0x10]",
    "ldp x23, x24, [\\base, #0x20]",
    "ldp x25, x26, [\\base, #0x30]",
    "ldp x27, x28, [\\base, #0x40]",
    "ldp x29, x17, [\\base, #0x50]",
    "msr fpcr, x17",
    "ldp d8, d9, [\\base, #0x60]",
    "ldp d10, d11, [\\base, #0x70]",
    "ldp d12, d13, [\\base, #0x80]",
    "ldp d14, d15, [\\base, #0x90]",
    ".endm",
    // Copies the words that are nobody's to X9 + `to`.
    ".macro TORTURE_GUARDS to",
    "ldr x10, [x9, #{guards_at}]",
    "add x10, sp, x10",
    "add x11, x9, #\\to",
    "mov x12, #{guard_words}",
    "1:",
    "ldr x13, [x10], #8",
    "str x13, [x11], #8",
    "subs x12, x12, #1",
    "b.ne 1b",
    ".endm",
    ".globl torture_check",
    ".p2align 2",
    "torture_check:",
    "adrp x9, {state}",
    "add x9, x9, :lo12:{state}",
    "str x30, [x9, #{return_address}]",
    "mov x10, sp",
    "str x10, [x9, #{sp}]",
    "str x8, [x9, #{first}]",
    "str x18, [x9, #{x18}]",
    "str x18, [x9, #{x18} + 8]", // if the handler has no wrapper
    "add x10, x9, #{outer}",
    "TORTURE_STORE x10",
    "TORTURE_GUARDS {guards}",
    "add x10, x9, #{before}",
    "TORTURE_LOAD x10",
    "ldr x16, [x9, #{target}]",
    "blr x16",
    // X0, X1 and V0 to V3 hold the result.
    "adrp x9, {state}",
    "add x9, x9, :lo12:{state}",
    "mov x10, sp",
    "str x10, [x9, #{sp_after}]",
    "str x18, [x9, #{x18} + 16]",
    "add x10, x9, #{after}",
    "TORTURE_STORE x10",
    "ldr x10, [x9, #{sp}]",
    "mov sp, x10",
    "TORTURE_GUARDS {guards_after}",
    "add x10, x9, #{outer}",
    "TORTURE_LOAD x10",
    "ldr x30, [x9, #{return_address}]",
    "ret",
    ".globl torture_wreck",
    ".p2align 2",
    "torture_wreck:",
    "adrp x9, {state}",
    "add x9, x9, :lo12:{state}",
    "str x18, [x9, #{x18} + 8]",
    "adrp x9, {wreck}",
    "add x9, x9, :lo12:{wreck}",
    "mov x10, sp",
    "str x10, [x9, #{wreck_sp}]",
    "ldr x16, [x9, #{wreck_target}]",
    "ldr x10, [x9, #{level}]",
    "cbnz x10, 1f",
    "br x16",
    "1:",
    "str x30, [x9, #{wreck_return}]",
    "blr x16",
    "adrp x9, {wreck}",
    "add x9, x9, :lo12:{wreck}",
    "ldr x30, [x9, #{wreck_return}]",
    "ldr x11, [x9, #{level}]",
    "ldr x12, [x9, #{wreck_fpcr}]",
    "mov x10, #0x6bad",
    ".irp number, 2,3,4,5,6,7,8,9,13,14,15,16,17",
    "mov x\\number, x10",
    ".endr",
    ".irp number, 4,5,6,7,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "dup v\\number\\().2d, x10",
    ".endr",
    ".irp number, 8,9,10,11,12,13,14,15", // the upper half, which is nobody's
    "ins v\\number\\().d[1], x10",
    ".endr",
    "cmp x11, #2",
    "b.lo 2f",
    ".if {is_x18_free}",
    "mov x18, x10",
    ".endif",
    ".irp number, 19,20,21,22,23,24,25,26,27,28,29",
    "mov x\\number, x10",
    ".endr",
    ".irp number, 8,9,10,11,12,13,14,15",
    "dup v\\number\\().2d, x10",
    ".endr",
    "cmp x11, #3",
    "b.lo 2f",
    "msr fpcr, x12",
    "2:",
    "mov x11, x10",
    "mov x12, x10",
    "ret",
    state = sym STATE,
    wreck = sym WRECK,
    return_address = const offset_of!(State, return_address),
    sp = const offset_of!(State, sp),
    sp_after = const offset_of!(State, sp_after),
    first = const offset_of!(State, first),
    guards_at = const offset_of!(State, guards_at),
    guards = const offset_of!(State, guards),
    guards_after = const offset_of!(State, guards_after),
    guard_words = const GUARDS,
    outer = const offset_of!(State, outer),
    before = const offset_of!(State, before),
    after = const offset_of!(State, after),
    target = const offset_of!(State, target),
    x18 = const offset_of!(State, x18),
    is_x18_free = const !cfg!(windows) as usize,
    wreck_return = const offset_of!(Wreck, return_address),
    wreck_target = const offset_of!(Wreck, target),
    wreck_sp = const offset_of!(Wreck, sp),
    wreck_fpcr = const offset_of!(Wreck, fpcr),
    level = const offset_of!(Wreck, level),
);

const _: () = assert!(
    offset_of!(Registers, fpcr) == 0x58 && offset_of!(Registers, floats) == 0x60 && size_of::<Registers>() == 0xa0
);
