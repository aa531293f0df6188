//! What stands between a C caller and the entry, and between the dispatcher and a handler: it looks at registers and
//! stack words or wrecks them. Each takes the return address off the stack while the function that it calls runs, so
//! that the stack arguments stay where they are.

use std::arch::global_asm;
use std::mem::offset_of;

/// Registers that the conventions preserve: RBX RBP RDI RSI R12-R15, or EBX EBP EDI ESI; XMM6 to XMM15.
const GENERAL: usize = if cfg!(target_arch = "x86_64") { 8 } else { 4 };
const XMM: usize = if cfg!(target_arch = "x86_64") { 10 } else { 0 };

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    pub general: [usize; GENERAL],
    pub xmm: [[u64; 2]; XMM],
    pub mxcsr: u32,
    pub x87: u16,
}

/// Words that are looked at above the stack arguments.
pub const GUARDS: usize = 24;

/// What the checker is told, and what it has seen.
#[repr(C)]
pub struct State {
    /// What it calls.
    pub target: *const (),
    /// Bytes that the target is to remove from the stack.
    pub cleanup: usize,
    /// From the first stack argument, or home space, to what is nobody's.
    pub guards_at: usize,
    /// The first argument in a register (x86_64) or on the stack (i686).
    pub first: usize,
    pub sp: usize,
    pub sp_after: usize,
    pub flags: usize,
    pub guards: [usize; GUARDS],
    pub guards_after: [usize; GUARDS],
    /// What the caller had, what is in the registers at the call, and what after it.
    pub outer: Registers,
    pub before: Registers,
    pub after: Registers,
    pub environment: [u32; 7],
    return_address: usize,
}

/// What the wrapper before a handler is told, and what it has seen.
#[repr(C)]
pub struct Wreck {
    pub target: *const (),
    /// As in `case::WRECKS`.
    pub level: usize,
    /// When the handler begins.
    pub sp: usize,
    pub flags: usize,
    return_address: usize,
    /// What no convention leaves there.
    mxcsr: u32,
    x87: u16,
}

const NOTHING: Registers = Registers { general: [0; GENERAL], xmm: [[0; 2]; XMM], mxcsr: 0, x87: 0 };

pub static mut STATE: State = State {
    target: std::ptr::null(),
    cleanup: 0,
    guards_at: 0,
    first: 0,
    sp: 0,
    sp_after: 0,
    flags: 0,
    guards: [0; GUARDS],
    guards_after: [0; GUARDS],
    outer: NOTHING,
    before: NOTHING,
    after: NOTHING,
    environment: [0; 7],
    return_address: 0,
};

/// Rounds toward zero, x87 with single precision.
pub static mut WRECK: Wreck =
    Wreck { target: std::ptr::null(), level: 0, sp: 0, flags: 0, return_address: 0, mxcsr: 0x7f80, x87: 0x0c7f };

/// Registers with values of their own; rounds up, x87 with double precision.
pub fn pattern() -> Registers {
    Registers {
        general: std::array::from_fn(|index| 0x5ca1_ab1e_usize.wrapping_mul(2 * index + 3)),
        xmm: std::array::from_fn(|index| [0x2200_c0ff_ee00_0000 + index as u64, 0x2300_c0ff_ee00_0000 + index as u64]),
        mxcsr: 0x5f80,
        x87: 0x0a7f,
    }
}

/// What the caller may rely on of its registers.
pub fn registers(state: &State, is_float: bool) -> Result<(), String> {
    let State { before, after, .. } = state;
    let names: &[&str] = if cfg!(target_arch = "x86_64") {
        &["RBX", "RBP", "RDI", "RSI", "R12", "R13", "R14", "R15"]
    } else {
        &["EBX", "EBP", "EDI", "ESI"]
    };
    for (index, name) in names.iter().enumerate() {
        if after.general[index] != before.general[index] {
            return Err(format!("{name} is {:#x} after the call", after.general[index]));
        }
    }
    for (index, value) in after.xmm.iter().enumerate() {
        if *value != before.xmm[index] {
            return Err(format!("XMM{} is {value:#x?} after the call", 6 + index));
        }
    }
    // The lower bits of MXCSR say what has happened, and are nobody's.
    if after.mxcsr & 0xffc0 != before.mxcsr || after.x87 != before.x87 {
        return Err(format!("MXCSR {:#x}, x87 control word {:#x}", after.mxcsr, after.x87));
    }
    if state.flags & 0x400 != 0 {
        return Err("DF is set after the call".into());
    }
    let full = (0..8).filter(|register| state.environment[2] >> (2 * register) & 3 != 3).count();
    if full != usize::from(is_float && cfg!(target_arch = "x86")) {
        return Err(format!("{full} registers of the x87 stack are full"));
    }
    Ok(())
}

unsafe extern "C" {
    /// Calls `STATE.target` with the registers of `STATE.before`; of every convention.
    pub fn torture_check();
    /// Goes on at `WRECK.target`, or calls it and wrecks what `WRECK.level` says; of every convention.
    pub fn torture_wreck();
}

#[cfg(all(not(windows), target_arch = "x86"))]
macro_rules! symbol {
    ($name:literal) => {
        $name
    };
}
#[cfg(all(windows, target_arch = "x86"))]
macro_rules! symbol {
    ($name:literal) => {
        concat!("_", $name)
    };
}

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".macro TORTURE_STORE base",
    "mov [\\base], rbx",
    "mov [\\base + 0x08], rbp",
    "mov [\\base + 0x10], rdi",
    "mov [\\base + 0x18], rsi",
    "mov [\\base + 0x20], r12",
    "mov [\\base + 0x28], r13",
    "mov [\\base + 0x30], r14",
    "mov [\\base + 0x38], r15",
    "movups [\\base + {xmm} + 0x00], xmm6",
    "movups [\\base + {xmm} + 0x10], xmm7",
    "movups [\\base + {xmm} + 0x20], xmm8",
    "movups [\\base + {xmm} + 0x30], xmm9",
    "movups [\\base + {xmm} + 0x40], xmm10",
    "movups [\\base + {xmm} + 0x50], xmm11",
    "movups [\\base + {xmm} + 0x60], xmm12",
    "movups [\\base + {xmm} + 0x70], xmm13",
    "movups [\\base + {xmm} + 0x80], xmm14",
    "movups [\\base + {xmm} + 0x90], xmm15",
    "stmxcsr [\\base + {mxcsr}]",
    "fnstcw [\\base + {x87}]",
    ".endm",
    ".macro TORTURE_LOAD base",
    "mov rbx, [\\base]",
    "mov rbp, [\\base + 0x08]",
    "mov rdi, [\\base + 0x10]",
    "mov rsi, [\\base + 0x18]",
    "mov r12, [\\base + 0x20]",
    "mov r13, [\\base + 0x28]",
    "mov r14, [\\base + 0x30]",
    "mov r15, [\\base + 0x38]",
    "movups xmm6, [\\base + {xmm} + 0x00]",
    "movups xmm7, [\\base + {xmm} + 0x10]",
    "movups xmm8, [\\base + {xmm} + 0x20]",
    "movups xmm9, [\\base + {xmm} + 0x30]",
    "movups xmm10, [\\base + {xmm} + 0x40]",
    "movups xmm11, [\\base + {xmm} + 0x50]",
    "movups xmm12, [\\base + {xmm} + 0x60]",
    "movups xmm13, [\\base + {xmm} + 0x70]",
    "movups xmm14, [\\base + {xmm} + 0x80]",
    "movups xmm15, [\\base + {xmm} + 0x90]",
    "ldmxcsr [\\base + {mxcsr}]",
    "fldcw [\\base + {x87}]",
    ".endm",
    // RCX, RDX, R8, R9 and XMM0 to XMM3 hold arguments.
    ".globl torture_check",
    "torture_check:",
    "lea r10, [rip + {state}]",
    "pop qword ptr [r10 + {return_address}]",
    "mov [r10 + {sp}], rsp",
    "mov [r10 + {first}], rcx",
    "lea rax, [r10 + {outer}]",
    "TORTURE_STORE rax",
    "mov rsi, rsp",
    "add rsi, [r10 + {guards_at}]",
    "lea rdi, [r10 + {guards}]",
    "mov rbx, rcx",
    "mov ecx, {guard_words}",
    "cld",
    "rep movsq",
    "mov rcx, rbx",
    "lea rax, [r10 + {before}]",
    "TORTURE_LOAD rax",
    "call qword ptr [r10 + {target}]",
    // RAX and XMM0 hold the result.
    "lea r10, [rip + {state}]",
    "mov [r10 + {sp_after}], rsp",
    "pushfq",
    "pop qword ptr [r10 + {flags}]",
    "cld",
    "lea rcx, [r10 + {after}]",
    "TORTURE_STORE rcx",
    "fnstenv [r10 + {environment}]",
    "fldenv [r10 + {environment}]",
    "mov rsp, [r10 + {sp}]",
    "mov rsi, rsp",
    "add rsi, [r10 + {guards_at}]",
    "lea rdi, [r10 + {guards_after}]",
    "mov ecx, {guard_words}",
    "rep movsq",
    "lea rcx, [r10 + {outer}]",
    "TORTURE_LOAD rcx",
    "push qword ptr [r10 + {return_address}]",
    "ret",
    ".globl torture_wreck",
    "torture_wreck:",
    "mov [rip + {wreck} + {wreck_sp}], rsp",
    "pushfq",
    "pop qword ptr [rip + {wreck} + {wreck_flags}]",
    "cmp qword ptr [rip + {wreck} + {level}], 0",
    "jne 1f",
    "jmp qword ptr [rip + {wreck} + {wreck_target}]",
    "1:",
    "pop qword ptr [rip + {wreck} + {wreck_return}]",
    "call qword ptr [rip + {wreck} + {wreck_target}]",
    "lea r10, [rip + {wreck}]",
    "mov r11d, 0x6bad",
    "mov [rsp], r11", // home space
    "mov [rsp + 0x08], r11",
    "mov [rsp + 0x10], r11",
    "mov [rsp + 0x18], r11",
    "mov rcx, r11",
    "mov rdx, r11",
    "mov r8, r11",
    "mov r9, r11",
    "movq xmm1, r11",
    "movaps xmm2, xmm1",
    "movaps xmm3, xmm1",
    "movaps xmm4, xmm1",
    "movaps xmm5, xmm1",
    "cmp qword ptr [r10 + {level}], 2",
    "jb 2f",
    "mov rbx, r11",
    "mov rbp, r11",
    "mov rsi, r11",
    "mov rdi, r11",
    "mov r12, r11",
    "mov r13, r11",
    "mov r14, r11",
    "mov r15, r11",
    "movaps xmm6, xmm1",
    "movaps xmm7, xmm1",
    "movaps xmm8, xmm1",
    "movaps xmm9, xmm1",
    "movaps xmm10, xmm1",
    "movaps xmm11, xmm1",
    "movaps xmm12, xmm1",
    "movaps xmm13, xmm1",
    "movaps xmm14, xmm1",
    "movaps xmm15, xmm1",
    "cmp qword ptr [r10 + {level}], 3",
    "jb 3f",
    "ldmxcsr [r10 + {wreck_mxcsr}]",
    "fldcw [r10 + {wreck_x87}]",
    "3: std",
    "2: push qword ptr [r10 + {wreck_return}]",
    "mov r10, r11",
    "ret",
    state = sym STATE,
    wreck = sym WRECK,
    xmm = const offset_of!(Registers, xmm),
    mxcsr = const offset_of!(Registers, mxcsr),
    x87 = const offset_of!(Registers, x87),
    return_address = const offset_of!(State, return_address),
    sp = const offset_of!(State, sp),
    sp_after = const offset_of!(State, sp_after),
    first = const offset_of!(State, first),
    flags = const offset_of!(State, flags),
    guards_at = const offset_of!(State, guards_at),
    guards = const offset_of!(State, guards),
    guards_after = const offset_of!(State, guards_after),
    guard_words = const GUARDS,
    outer = const offset_of!(State, outer),
    before = const offset_of!(State, before),
    after = const offset_of!(State, after),
    environment = const offset_of!(State, environment),
    target = const offset_of!(State, target),
    wreck_return = const offset_of!(Wreck, return_address),
    wreck_target = const offset_of!(Wreck, target),
    wreck_sp = const offset_of!(Wreck, sp),
    wreck_flags = const offset_of!(Wreck, flags),
    wreck_mxcsr = const offset_of!(Wreck, mxcsr),
    wreck_x87 = const offset_of!(Wreck, x87),
    level = const offset_of!(Wreck, level),
);

#[cfg(target_arch = "x86")]
global_asm!(
    ".macro TORTURE_STORE base",
    "mov [\\base], ebx",
    "mov [\\base + 0x04], ebp",
    "mov [\\base + 0x08], edi",
    "mov [\\base + 0x0c], esi",
    "stmxcsr [\\base + {mxcsr}]",
    "fnstcw [\\base + {x87}]",
    ".endm",
    ".macro TORTURE_LOAD base",
    "mov ebx, [\\base]",
    "mov ebp, [\\base + 0x04]",
    "mov edi, [\\base + 0x08]",
    "mov esi, [\\base + 0x0c]",
    "ldmxcsr [\\base + {mxcsr}]",
    "fldcw [\\base + {x87}]",
    ".endm",
    // ECX and EDX may hold arguments.
    concat!(".globl ", symbol!("torture_check")),
    concat!(symbol!("torture_check"), ":"),
    "lea eax, [{state}]",
    "pop dword ptr [eax + {return_address}]",
    "mov [eax + {sp}], esp",
    "add eax, {outer}",
    "TORTURE_STORE eax",
    "lea eax, [{state}]",
    "mov ebx, [esp]",
    "mov [eax + {first}], ebx",
    "mov esi, esp",
    "add esi, [eax + {guards_at}]",
    "lea edi, [eax + {guards}]",
    "mov ebx, ecx",
    "mov ecx, {guard_words}",
    "cld",
    "rep movsd",
    "mov ecx, ebx",
    "add eax, {before}",
    "TORTURE_LOAD eax",
    "call dword ptr [eax - {before} + {target}]",
    // EAX, EDX and ST0 hold the result.
    "lea ecx, [{state}]",
    "mov [ecx + {sp_after}], esp",
    "pushfd",
    "pop dword ptr [ecx + {flags}]",
    "cld",
    "add ecx, {after}",
    "TORTURE_STORE ecx",
    "lea ebx, [{state}]",
    "fnstenv [ebx + {environment}]",
    "fldenv [ebx + {environment}]",
    "mov esp, [ebx + {sp}]",
    "mov esi, esp",
    "add esi, [ebx + {guards_at}]",
    "add esp, [ebx + {cleanup}]",
    "lea edi, [ebx + {guards_after}]",
    "mov ecx, {guard_words}",
    "rep movsd",
    "lea ecx, [ebx + {outer}]",
    "TORTURE_LOAD ecx",
    "push dword ptr [ecx - {outer} + {return_address}]",
    "ret",
    concat!(".globl ", symbol!("torture_wreck")),
    concat!(symbol!("torture_wreck"), ":"),
    "lea eax, [{wreck}]",
    "mov [eax + {wreck_sp}], esp",
    "pushfd",
    "pop dword ptr [eax + {wreck_flags}]",
    "cmp dword ptr [eax + {level}], 0",
    "jne 1f",
    "jmp dword ptr [eax + {wreck_target}]",
    "1:",
    "pop dword ptr [eax + {wreck_return}]",
    "call dword ptr [eax + {wreck_target}]",
    "lea ecx, [{wreck}]",
    "push dword ptr [ecx + {wreck_return}]",
    "cmp dword ptr [ecx + {level}], 2",
    "jb 2f",
    "mov ebx, 0x6bad",
    "mov ebp, ebx",
    "mov esi, ebx",
    "mov edi, ebx",
    "cmp dword ptr [ecx + {level}], 3",
    "jb 3f",
    "ldmxcsr [ecx + {wreck_mxcsr}]",
    "fldcw [ecx + {wreck_x87}]",
    "3: std",
    "2: mov ecx, 0x5bad",
    "ret",
    state = sym STATE,
    wreck = sym WRECK,
    mxcsr = const offset_of!(Registers, mxcsr),
    x87 = const offset_of!(Registers, x87),
    return_address = const offset_of!(State, return_address),
    sp = const offset_of!(State, sp),
    sp_after = const offset_of!(State, sp_after),
    cleanup = const offset_of!(State, cleanup),
    first = const offset_of!(State, first),
    flags = const offset_of!(State, flags),
    guards_at = const offset_of!(State, guards_at),
    guards = const offset_of!(State, guards),
    guards_after = const offset_of!(State, guards_after),
    guard_words = const GUARDS,
    outer = const offset_of!(State, outer),
    before = const offset_of!(State, before),
    after = const offset_of!(State, after),
    environment = const offset_of!(State, environment),
    target = const offset_of!(State, target),
    wreck_return = const offset_of!(Wreck, return_address),
    wreck_target = const offset_of!(Wreck, target),
    wreck_sp = const offset_of!(Wreck, sp),
    wreck_flags = const offset_of!(Wreck, flags),
    wreck_mxcsr = const offset_of!(Wreck, mxcsr),
    wreck_x87 = const offset_of!(Wreck, x87),
    level = const offset_of!(Wreck, level),
);
