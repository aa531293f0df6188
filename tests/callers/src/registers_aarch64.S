// Looks at every register around a call, and handlers that wreck them. With CALLTABLE_NO_FLOATS it touches no
// floating-point state, for kernels that run with it switched off.

// struct Registers of foreign.rs
.set GENERAL, 0
.set VECTORS, GENERAL + 32 * 8
.set STACK,   VECTORS + 32 * 16
.set FPCR_AT, STACK + 66 * 8
.set FRAME,   FPCR_AT + 8
.set SIZE,    FRAME + 36 * 8

// Does something with every pair of registers for which there is a place at X`base`, which is none of them.
.macro VECTORS_OF operation, base
#ifndef CALLTABLE_NO_FLOATS
    add     \base, \base, #VECTORS
    \operation q0, q1, [\base, #0x0]
    \operation q2, q3, [\base, #0x20]
    \operation q4, q5, [\base, #0x40]
    \operation q6, q7, [\base, #0x60]
    \operation q8, q9, [\base, #0x80]
    \operation q10, q11, [\base, #0xa0]
    \operation q12, q13, [\base, #0xc0]
    \operation q14, q15, [\base, #0xe0]
    \operation q16, q17, [\base, #0x100]
    \operation q18, q19, [\base, #0x120]
    \operation q20, q21, [\base, #0x140]
    \operation q22, q23, [\base, #0x160]
    \operation q24, q25, [\base, #0x180]
    \operation q26, q27, [\base, #0x1a0]
    \operation q28, q29, [\base, #0x1c0]
    \operation q30, q31, [\base, #0x1e0]
    sub     \base, \base, #VECTORS
#endif
.endm

// Opens a function that others call.
.macro FUNCTION name
#ifdef __ELF__
    .type   \name, %function
#else
    .def    \name
    .scl    2
    .type   32
    .endef
#endif
    .globl  \name
    .p2align 2
\name:
.endm

    .text
// void calltable_call_with(code, const Registers *before, Registers *after)
// At the call: 64 words of arguments on the stack, two words that are nobody's and must stay.
    FUNCTION calltable_call_with
    hint    #34                                 // bti c
    stp     x29, x30, [sp, #-0xb0]!
    stp     x19, x20, [sp, #0x10]
    stp     x21, x22, [sp, #0x20]
    stp     x23, x24, [sp, #0x30]
    stp     x25, x26, [sp, #0x40]
    stp     x27, x28, [sp, #0x50]
    str     x18, [sp, #0x60]
#ifndef CALLTABLE_NO_FLOATS
    mrs     x9, fpcr
    str     x9, [sp, #0x68]
    stp     d8, d9, [sp, #0x70]
    stp     d10, d11, [sp, #0x80]
    stp     d12, d13, [sp, #0x90]
    stp     d14, d15, [sp, #0xa0]
#endif
    adrp    x9, outer
    add     x9, x9, :lo12:outer
    mov     x10, sp
    stp     x10, x2, [x9]                       // SP, where the registers go
    sub     sp, sp, #8 * 66
    mov     x10, sp
    str     x10, [x9, #16]                      // SP at the call
    mov     x17, x0
    mov     x16, x1
    mov     x10, #66
1:  sub     x10, x10, #1
    add     x11, x16, #STACK
    ldr     x12, [x11, x10, lsl #3]
    str     x12, [sp, x10, lsl #3]
    cbnz    x10, 1b
    VECTORS_OF ldp, x16
#ifndef CALLTABLE_NO_FLOATS
    ldr     x10, [x16, #FPCR_AT]
    msr     fpcr, x10
#endif
    ldp     x0, x1, [x16, #0x0]
    ldp     x2, x3, [x16, #0x10]
    ldp     x4, x5, [x16, #0x20]
    ldp     x6, x7, [x16, #0x30]
    ldp     x8, x9, [x16, #0x40]
    ldp     x10, x11, [x16, #0x50]
    ldp     x12, x13, [x16, #0x60]
    ldp     x14, x15, [x16, #0x70]
    ldp     x18, x19, [x16, #0x90]
    ldp     x20, x21, [x16, #0xa0]
    ldp     x22, x23, [x16, #0xb0]
    ldp     x24, x25, [x16, #0xc0]
    ldp     x26, x27, [x16, #0xd0]
    ldp     x28, x29, [x16, #0xe0]
    blr     x17
    adrp    x17, outer
    add     x17, x17, :lo12:outer
    ldr     x16, [x17, #8]
    stp     x0, x1, [x16, #0x0]
    stp     x2, x3, [x16, #0x10]
    stp     x4, x5, [x16, #0x20]
    stp     x6, x7, [x16, #0x30]
    stp     x8, x9, [x16, #0x40]
    stp     x10, x11, [x16, #0x50]
    stp     x12, x13, [x16, #0x60]
    stp     x14, x15, [x16, #0x70]
    stp     x18, x19, [x16, #0x90]
    stp     x20, x21, [x16, #0xa0]
    stp     x22, x23, [x16, #0xb0]
    stp     x24, x25, [x16, #0xc0]
    stp     x26, x27, [x16, #0xd0]
    stp     x28, x29, [x16, #0xe0]
    ldr     x9, [x17, #16]
    mov     x10, sp
    sub     x10, x10, x9                        // SP as a difference: 0 if it is as before
    str     x10, [x16, #GENERAL + 31 * 8]
    add     x11, x16, #STACK
    ldr     x12, [x9, #64 * 8]
    ldr     x13, [x9, #65 * 8]
    str     x12, [x11, #64 * 8]
    str     x13, [x11, #65 * 8]
    VECTORS_OF stp, x16
#ifndef CALLTABLE_NO_FLOATS
    mrs     x10, fpcr
    str     x10, [x16, #FPCR_AT]
#endif
    ldr     x9, [x17]
    mov     sp, x9
#ifndef CALLTABLE_NO_FLOATS
    ldr     x9, [sp, #0x68]
    msr     fpcr, x9
    ldp     d8, d9, [sp, #0x70]
    ldp     d10, d11, [sp, #0x80]
    ldp     d12, d13, [sp, #0x90]
    ldp     d14, d15, [sp, #0xa0]
#endif
    ldr     x18, [sp, #0x60]
    ldp     x19, x20, [sp, #0x10]
    ldp     x21, x22, [sp, #0x20]
    ldp     x23, x24, [sp, #0x30]
    ldp     x25, x26, [sp, #0x40]
    ldp     x27, x28, [sp, #0x50]
    ldp     x29, x30, [sp], #0xb0
    ret

// Stores what the handler finds; X16 and X17, through which the dispatcher jumps, are lost.
see:
    adrp    x16, calltable_seen
    add     x16, x16, :lo12:calltable_seen
    stp     x0, x1, [x16, #0x0]
    stp     x2, x3, [x16, #0x10]
    stp     x4, x5, [x16, #0x20]
    stp     x6, x7, [x16, #0x30]
    stp     x8, x9, [x16, #0x40]
    stp     x10, x11, [x16, #0x50]
    stp     x12, x13, [x16, #0x60]
    stp     x14, x15, [x16, #0x70]
    stp     x18, x19, [x16, #0x90]
    stp     x20, x21, [x16, #0xa0]
    stp     x22, x23, [x16, #0xb0]
    stp     x24, x25, [x16, #0xc0]
    stp     x26, x27, [x16, #0xd0]
    stp     x28, x29, [x16, #0xe0]
    mov     x9, sp
    str     x9, [x16, #GENERAL + 31 * 8]
    VECTORS_OF stp, x16
    add     x10, x16, #STACK
    mov     x11, #66
1:  sub     x11, x11, #1
    ldr     x12, [x9, x11, lsl #3]
    str     x12, [x10, x11, lsl #3]
    cbnz    x11, 1b
    adrp    x9, calltable_has_frame
    ldr     x9, [x9, :lo12:calltable_has_frame]
    cbz     x9, 3f
    add     x10, x16, #FRAME
    mov     x11, #36
2:  sub     x11, x11, #1
    ldr     x12, [x1, x11, lsl #3]
    str     x12, [x10, x11, lsl #3]
    cbnz    x11, 2b
    adrp    x9, results
    add     x9, x9, :lo12:results
    ldp     x10, x11, [x9]
    stp     x10, x11, [x1]
3:  ret

// A number of its own in a register.
.macro WRECK number
    movz    x\number, #0xdead
    movk    x\number, #\number, lsl #48
.endm
.macro WRECK_VECTOR number
#ifndef CALLTABLE_NO_FLOATS
    movi    v\number\().16b, #0x66
#endif
.endm

// The upper half, which is nobody's.
.macro WRECK_UPPER number
#ifndef CALLTABLE_NO_FLOATS
    ins     v\number\().d[1], x2
#endif
.endm

.macro WRECK_VOLATILE
    .irp number, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
    WRECK \number
    .endr
    .irp number, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    WRECK_VECTOR \number
    .endr
    .irp number, 8, 9, 10, 11, 12, 13, 14, 15
    WRECK_UPPER \number
    .endr
    adrp    x9, results
    add     x9, x9, :lo12:results
    ldp     x0, x1, [x9]
#ifndef CALLTABLE_NO_FLOATS
    ldr     q0, [x9]
#endif
    WRECK   9
.endm

.macro HANDLER name
    FUNCTION \name
    hint    #34                                 // bti c
    mov     x17, x30
    bl      see
.endm

    HANDLER calltable_wreck_volatile
    WRECK_VOLATILE
    ret     x17

// As Linux code may, whose X18 is a register like any other. It is the system's own on Windows: there nobody may.
.macro WRECK_X18
#ifndef _WIN32
    WRECK   18
#endif
.endm

    HANDLER calltable_wreck_x18
    WRECK_VOLATILE
    WRECK_X18
    ret     x17

.macro WRECK_PRESERVED
    WRECK_X18
    .irp number, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
    WRECK \number
    .endr
    .irp number, 8, 9, 10, 11, 12, 13, 14, 15
    WRECK_VECTOR \number
    .endr
.endm

    HANDLER calltable_wreck_preserved
    WRECK_VOLATILE
    WRECK_PRESERVED
    ret     x17

    HANDLER calltable_wreck_control
    WRECK_VOLATILE
    WRECK_PRESERVED
#ifndef CALLTABLE_NO_FLOATS
    msr     fpcr, xzr
#endif
    ret     x17

    HANDLER calltable_wreck_and_fault
    WRECK_PRESERVED
#ifndef CALLTABLE_NO_FLOATS
    msr     fpcr, xzr
#endif
    sub     sp, sp, #0x150
    udf     #0

#ifdef __ELF__
    .section .rodata
#else
    .section .rdata, "dr"
#endif
    .p2align 4
results:
    .quad   0x7e57000000000001, 0x7e57000000000002

    .bss
    .p2align 4
outer:
    .skip   32
    .globl calltable_seen
calltable_seen:
    .skip   SIZE
    .p2align 3
    .globl calltable_has_frame
calltable_has_frame:
    .skip   8

#ifdef __ELF__
    .section .note.GNU-stack, "", %progbits
#endif
