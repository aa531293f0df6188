//! AArch64: what a call leaves in registers.

use std::array;

/// Filled in by the assembly below.
#[repr(C)]
#[derive(Debug, Default, PartialEq)]
pub struct After {
    /// X19 to X28.
    kept: [usize; 10],
    /// How far SP is from X29, which was equal to it before the call.
    moved: usize,
    fpcr: usize,
    /// D8 to D15.
    floats: [u64; 8],
}

impl After {
    /// Compares with what the assembly below had there before the call.
    pub fn check(&self, shown: &str) {
        assert_eq!(self.kept, array::from_fn(|at| at + 1), "{shown}");
        assert_eq!(self.moved, 0, "{shown}");
        assert_eq!(self.fpcr, 0x80_0000, "{shown}");
        assert_eq!(self.floats, array::from_fn(|at| 0x7766_5544_3322_1108 + at as u64), "{shown}");
    }
}

std::arch::global_asm!(
    "
    .macro CALLTABLE_TEST_PAIRS operation, base, at
    \\operation x19, x20, [\\base, #\\at + 0x00]
    \\operation x21, x22, [\\base, #\\at + 0x10]
    \\operation x23, x24, [\\base, #\\at + 0x20]
    \\operation x25, x26, [\\base, #\\at + 0x30]
    \\operation x27, x28, [\\base, #\\at + 0x40]
    .endm
    .macro CALLTABLE_TEST_FLOATS operation, base, at
    \\operation d8, d9, [\\base, #\\at + 0x00]
    \\operation d10, d11, [\\base, #\\at + 0x10]
    \\operation d12, d13, [\\base, #\\at + 0x20]
    \\operation d14, d15, [\\base, #\\at + 0x30]
    .endm

    .globl calltable_test_after
    .def calltable_test_after; .scl 2; .type 32; .endef
    .seh_proc calltable_test_after
calltable_test_after:
    stp     x29, x30, [sp, #-0xb0]!
    .seh_save_fplr_x 0xb0
    CALLTABLE_TEST_PAIRS stp, sp, 0x10
    .seh_save_regp x19, 0x10
    .seh_save_regp x21, 0x20
    .seh_save_regp x23, 0x30
    .seh_save_regp x25, 0x40
    .seh_save_regp x27, 0x50
    CALLTABLE_TEST_FLOATS stp, sp, 0x60
    .seh_save_fregp d8, 0x60
    .seh_save_fregp d10, 0x70
    .seh_save_fregp d12, 0x80
    .seh_save_fregp d14, 0x90
    .seh_endprologue
    mrs     x9, fpcr
    stp     x2, x9, [sp, #0xa0]
    mov     x9, #0x800000                       // rounds down
    msr     fpcr, x9
    .irp number, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28
    mov     x\\number, #\\number - 18
    .endr
    movz    x9, #0x1108
    movk    x9, #0x3322, lsl #16
    movk    x9, #0x5544, lsl #32
    movk    x9, #0x7766, lsl #48
    .irp number, 8, 9, 10, 11, 12, 13, 14, 15
    fmov    d\\number, x9
    add     x9, x9, #1
    .endr
    mov     x29, sp
    mov     x9, x0
    mov     w0, w1
    blr     x9
    ldp     x10, x11, [x29, #0xa0]
    mov     x9, sp
    sub     x12, x29, x9
    mov     sp, x29
    CALLTABLE_TEST_PAIRS stp, x10, 0
    mrs     x13, fpcr
    stp     x12, x13, [x10, #0x50]
    CALLTABLE_TEST_FLOATS stp, x10, 0x60
    msr     fpcr, x11
    .seh_startepilogue
    CALLTABLE_TEST_FLOATS ldp, sp, 0x60
    .seh_save_fregp d14, 0x90
    .seh_save_fregp d12, 0x80
    .seh_save_fregp d10, 0x70
    .seh_save_fregp d8, 0x60
    CALLTABLE_TEST_PAIRS ldp, sp, 0x10
    .seh_save_regp x27, 0x50
    .seh_save_regp x25, 0x40
    .seh_save_regp x23, 0x30
    .seh_save_regp x21, 0x20
    .seh_save_regp x19, 0x10
    ldp     x29, x30, [sp], #0xb0
    .seh_save_fplr_x 0xb0
    .seh_endepilogue
    ret
    .seh_endproc

    .globl calltable_test_wreck_and_fault, calltable_test_wreck_all_and_fault
    .def calltable_test_wreck_and_fault; .scl 2; .type 32; .endef
    .def calltable_test_wreck_all_and_fault; .scl 2; .type 32; .endef
calltable_test_wreck_all_and_fault:
    .irp number, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29
    mov     x\\number, #-1
    .endr
    .irp number, 8, 9, 10, 11, 12, 13, 14, 15
    movi    v\\number\\().16b, #255
    .endr
calltable_test_wreck_and_fault:
    msr     fpcr, xzr
    udf     #0
    "
);
