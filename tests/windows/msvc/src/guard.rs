//! What the C library of an MSVC program says about Control Flow Guard and SEH handlers; this program has none.
//!
//! Source: "PE Format, The Load Configuration Structure", Microsoft; the symbols that begin with `__guard` or
//! `__safe_se` are the linker's.

use core::mem::offset_of;

const IS_64_BIT: bool = cfg!(target_pointer_width = "64");
const BEFORE_COOKIE: usize = if IS_64_BIT { 21 } else { 14 };
const CODE_INTEGRITY: usize = if IS_64_BIT { 2 } else { 3 };

#[repr(C)]
struct LoadConfiguration {
    size: u32,
    before_cookie: [u32; BEFORE_COOKIE],
    security_cookie: Word,
    handler_table: Word,
    handler_count: Word,
    check_function: Word,
    dispatch_function: Word,
    function_table: Word,
    function_count: Word,
    flags: Word,
    code_integrity: [u32; CODE_INTEGRITY],
    taken_imports: Word,
    taken_imports_count: Word,
    long_jumps: Word,
    long_jumps_count: Word,
    #[cfg(target_pointer_width = "64")]
    relocations: [u32; 18],
    #[cfg(target_pointer_width = "64")]
    continuations: Word,
    #[cfg(target_pointer_width = "64")]
    continuations_count: Word,
    #[cfg(target_pointer_width = "64")]
    extended: [Word; 4],
}

const _: () = assert!(offset_of!(LoadConfiguration, function_table) == if IS_64_BIT { 128 } else { 80 });
const _: () = assert!(offset_of!(LoadConfiguration, taken_imports) == if IS_64_BIT { 160 } else { 104 });

#[cfg(target_pointer_width = "64")]
const _: () = assert!(offset_of!(LoadConfiguration, continuations) == 264);

/// An address, or a number that the linker writes as an address.
#[repr(transparent)]
struct Word(*const ());

// SAFETY: never changed by the program.
unsafe impl Sync for Word {}

const NONE: Word = Word(core::ptr::null());

macro_rules! of_the_linker {
    ($($name:ident),*) => {
        unsafe extern "C" { $(static $name: u8;)* }
    };
}
of_the_linker!(
    __guard_fids_table,
    __guard_fids_count,
    __guard_flags,
    __guard_iat_table,
    __guard_iat_count,
    __guard_longjmp_table,
    __guard_longjmp_count
);
#[cfg(target_pointer_width = "64")]
of_the_linker!(__guard_eh_cont_table, __guard_eh_cont_count);
#[cfg(target_arch = "x86")]
of_the_linker!(__safe_se_handler_table, __safe_se_handler_count);

/// Where guarded code looks for the function that checks a call target. Windows puts its own there when it loads the
/// program; these check nothing.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".00cfg")]
static __guard_check_icall_fptr: unsafe extern "C" fn() = check_nothing;
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".00cfg")]
static __guard_dispatch_icall_fptr: unsafe extern "C" fn() = dispatch;

unsafe extern "C" fn check_nothing() {}

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    #[link_name = "calltable_test_dispatch"]
    fn dispatch();
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl calltable_test_dispatch",
    ".def calltable_test_dispatch; .scl 2; .type 32; .endef",
    "calltable_test_dispatch:",
    "jmp rax",
);

#[unsafe(no_mangle)]
#[used]
static _load_config_used: LoadConfiguration = LoadConfiguration {
    size: size_of::<LoadConfiguration>() as u32,
    before_cookie: [0; BEFORE_COOKIE],
    security_cookie: NONE,
    #[cfg(target_pointer_width = "64")]
    handler_table: NONE,
    #[cfg(target_pointer_width = "64")]
    handler_count: NONE,
    #[cfg(target_arch = "x86")]
    handler_table: Word((&raw const __safe_se_handler_table).cast()),
    #[cfg(target_arch = "x86")]
    handler_count: Word((&raw const __safe_se_handler_count).cast()),
    check_function: Word((&raw const __guard_check_icall_fptr).cast()),
    #[cfg(not(target_arch = "x86_64"))]
    dispatch_function: NONE,
    #[cfg(target_arch = "x86_64")]
    dispatch_function: Word((&raw const __guard_dispatch_icall_fptr).cast()),
    function_table: Word((&raw const __guard_fids_table).cast()),
    function_count: Word((&raw const __guard_fids_count).cast()),
    flags: Word((&raw const __guard_flags).cast()),
    code_integrity: [0; CODE_INTEGRITY],
    taken_imports: Word((&raw const __guard_iat_table).cast()),
    taken_imports_count: Word((&raw const __guard_iat_count).cast()),
    long_jumps: Word((&raw const __guard_longjmp_table).cast()),
    long_jumps_count: Word((&raw const __guard_longjmp_count).cast()),
    #[cfg(target_pointer_width = "64")]
    relocations: [0; 18],
    #[cfg(target_pointer_width = "64")]
    continuations: Word((&raw const __guard_eh_cont_table).cast()),
    #[cfg(target_pointer_width = "64")]
    continuations_count: Word((&raw const __guard_eh_cont_count).cast()),
    #[cfg(target_pointer_width = "64")]
    extended: [NONE; 4],
};
