// The foreign caller, and handlers of a few instructions, for the tests of unwinding. Read by rustc.
// What a debugger must find in the caller's registers while the entry runs is what they hold at unwind_call.

.set WORDS, 64                                  // of arguments on the stack: more than any lane passes

.macro BEGIN name
    .globl \name
    .type \name, %function
    .p2align 2
\name:
    .cfi_startproc
    hint    #34                                 // bti c
.endm
.macro END name
    .cfi_endproc
    .size \name, . - \name
.endm

.macro SAVE one, two, at
    stp     \one, \two, [sp, #\at]
    .cfi_rel_offset \one, \at
    .cfi_rel_offset \two, \at + 8
.endm
.macro RESTORE one, two, at
    ldp     \one, \two, [sp, #\at]
    .cfi_restore \one
    .cfi_restore \two
.endm

// A number of its own, of which all bytes are the same.
.macro FILL register, number
    mov     \register, #0x0101010101010101 * \number
.endm

    .text
// u64 unwind_caller(const void *code, ...): calls `code`, which may read 64 words on the stack.
BEGIN unwind_caller
    stp     x29, x30, [sp, #-0xa0]!
    .cfi_adjust_cfa_offset 0xa0
    .cfi_rel_offset x29, 0
    .cfi_rel_offset x30, 8
    SAVE    x19, x20, 0x10
    SAVE    x21, x22, 0x20
    SAVE    x23, x24, 0x30
    SAVE    x25, x26, 0x40
    SAVE    x27, x28, 0x50
    SAVE    d8, d9, 0x60
    SAVE    d10, d11, 0x70
    SAVE    d12, d13, 0x80
    SAVE    d14, d15, 0x90
    sub     sp, sp, #8 * WORDS
    .cfi_adjust_cfa_offset 8 * WORDS
    mov     x16, x0
.irp number, 8, 9, 10, 11, 12, 13, 14, 15
    movi    v\number\().16b, #0x20 + \number
.endr
    FILL    x18, 0x01
    FILL    x19, 0x02
    FILL    x20, 0x03
    FILL    x21, 0x04
    FILL    x22, 0x06
    FILL    x23, 0x07
    FILL    x24, 0x08
    FILL    x25, 0x0c
    FILL    x26, 0x0e
    FILL    x27, 0x0f
    FILL    x28, 0x10
    FILL    x29, 0x18
    mov     x9, #1 << 22                        // rounds up
    msr     fpcr, x9
    .globl unwind_call
unwind_call:
    blr     x16
    .globl unwind_returned
unwind_returned:
    msr     fpcr, xzr
    add     sp, sp, #8 * WORDS
    .cfi_adjust_cfa_offset -8 * WORDS
    RESTORE d14, d15, 0x90
    RESTORE d12, d13, 0x80
    RESTORE d10, d11, 0x70
    RESTORE d8, d9, 0x60
    RESTORE x27, x28, 0x50
    RESTORE x25, x26, 0x40
    RESTORE x23, x24, 0x30
    RESTORE x21, x22, 0x20
    RESTORE x19, x20, 0x10
    ldp     x29, x30, [sp], #0xa0
    .cfi_adjust_cfa_offset -0xa0
    .cfi_restore x29
    .cfi_restore x30
    ret
END unwind_caller

// Direct lane: returns 7.
BEGIN unwind_plain
    mov     x0, #7
    ret
END unwind_plain

// Frame lane: returns 7 in the frame's result.
BEGIN unwind_plain_frame
    mov     x9, #7
    str     x9, [x1]
    ret
END unwind_plain_frame

// Direct lane without arguments; the data points to a code pointer: calls it and returns what it returns.
BEGIN unwind_reenter
    stp     x29, x30, [sp, #-0x10]!
    .cfi_adjust_cfa_offset 0x10
    .cfi_rel_offset x29, 0
    .cfi_rel_offset x30, 8
    ldr     x16, [x0]
    blr     x16
    ldp     x29, x30, [sp], #0x10
    .cfi_adjust_cfa_offset -0x10
    .cfi_restore x29
    .cfi_restore x30
    ret
END unwind_reenter

// As Linux code may: X18 is any other register.
BEGIN unwind_wreck_x18
    mov     x18, #-1
    mov     x0, #7
    ret
END unwind_wreck_x18

BEGIN unwind_wreck_x18_frame
    mov     x18, #-1
    mov     x9, #7
    str     x9, [x1]
    ret
END unwind_wreck_x18_frame

.macro WRECK_VECTOR number
    movi    v\number\().16b, #0xff
.endm

// What the saving lanes are for: keep no register but SP; return 7.
.macro WRECK
.irp number, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29
    mov     x\number, #-1
.endr
.irp number, 8, 9, 10, 11, 12, 13, 14, 15
    WRECK_VECTOR \number
.endr
    mov     x0, #7
    ret
.endm
BEGIN unwind_wreck_frame
    mov     x9, #7
    str     x9, [x1]
    WRECK
END unwind_wreck_frame
BEGIN unwind_wreck
    WRECK
END unwind_wreck

// Direct lane: wrecks the same registers, and raises an exception.
BEGIN unwind_raise
    stp     x29, x30, [sp, #-0x10]!
    .cfi_adjust_cfa_offset 0x10
    .cfi_rel_offset x29, 0
    .cfi_rel_offset x30, 8
.irp number, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29
    mov     x\number, #-1
.endr
.irp number, 8, 9, 10, 11, 12, 13, 14, 15
    WRECK_VECTOR \number
.endr
    msr     fpcr, xzr
    bl      unwind_dispatch
    brk     #0xf000
END unwind_raise

// The same as unwind_wreck, and other rounding.
BEGIN unwind_wreck_control_frame
    mov     x9, #7
    str     x9, [x1]
    msr     fpcr, xzr
    WRECK
END unwind_wreck_control_frame
BEGIN unwind_wreck_control
    msr     fpcr, xzr
    WRECK
END unwind_wreck_control
    .globl unwind_end
unwind_end:
