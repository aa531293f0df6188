// Exceptions and interrupts of the AArch64 kernel, and calls that a fault may end.

//   address     when Rust's `trap` is called, X0 = X19 = that of X0 (traps.rs, Frame), X1 = 0
//   x19+0x118   SPSR
//   x19+0x110   ELR
//   x19+0x100   number of the trap and its syndrome
//   x19+0xf8    SP
//   x19+0x00    X0 to X30
//   below       floating-point state, in kernels that use it
.set FRAME,  0x120
.set FLOATS_ROOM, 0x210

.set INTERRUPT, 0x40                            // traps.rs, FIRST_INTERRUPT
.set OTHER,     0x3f                            // nobody's

.macro VECTOR kind
    .p2align 7
    sub     sp, sp, #FRAME
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       trap_common
.endm

    .text
    .p2align 11
    .globl vectors
vectors:
    .rept   4                                   // with the other stack pointer
    VECTOR  OTHER
    .endr
    VECTOR  0                                   // what an instruction does
    VECTOR  INTERRUPT
    .rept   10                                  // fast interrupts, errors, lower privilege
    VECTOR  OTHER
    .endr

trap_common:
    stp     x2, x3, [sp, #0x10]
    stp     x4, x5, [sp, #0x20]
    stp     x6, x7, [sp, #0x30]
    stp     x8, x9, [sp, #0x40]
    stp     x10, x11, [sp, #0x50]
    stp     x12, x13, [sp, #0x60]
    stp     x14, x15, [sp, #0x70]
    stp     x16, x17, [sp, #0x80]
    stp     x18, x19, [sp, #0x90]
    stp     x20, x21, [sp, #0xa0]
    stp     x22, x23, [sp, #0xb0]
    stp     x24, x25, [sp, #0xc0]
    stp     x26, x27, [sp, #0xd0]
    stp     x28, x29, [sp, #0xe0]
    add     x1, sp, #FRAME
    stp     x30, x1, [sp, #0xf0]
    mrs     x1, elr_el1
    mrs     x2, spsr_el1
    stp     x1, x2, [sp, #0x110]
    mrs     x1, esr_el1
    cbnz    x0, 1f
    ubfx    x0, x1, #26, #6                     // the class
1:  and     x1, x1, #0x1ffffff
    stp     x0, x1, [sp, #0x100]
    mov     x19, sp
    mov     x0, sp
    mov     x1, #0
#ifdef FLOATS
    sub     sp, sp, #FLOATS_ROOM
    stp     q0, q1, [sp, #0x10]
    stp     q2, q3, [sp, #0x30]
    stp     q4, q5, [sp, #0x50]
    stp     q6, q7, [sp, #0x70]
    stp     q8, q9, [sp, #0x90]
    stp     q10, q11, [sp, #0xb0]
    stp     q12, q13, [sp, #0xd0]
    stp     q14, q15, [sp, #0xf0]
    stp     q16, q17, [sp, #0x110]
    stp     q18, q19, [sp, #0x130]
    stp     q20, q21, [sp, #0x150]
    stp     q22, q23, [sp, #0x170]
    stp     q24, q25, [sp, #0x190]
    stp     q26, q27, [sp, #0x1b0]
    stp     q28, q29, [sp, #0x1d0]
    stp     q30, q31, [sp, #0x1f0]
    mrs     x2, fpcr
    mrs     x3, fpsr
    stp     x2, x3, [sp]
#endif
    bl      trap
#ifdef FLOATS
    ldp     x2, x3, [sp]
    msr     fpcr, x2
    msr     fpsr, x3
    ldp     q0, q1, [sp, #0x10]
    ldp     q2, q3, [sp, #0x30]
    ldp     q4, q5, [sp, #0x50]
    ldp     q6, q7, [sp, #0x70]
    ldp     q8, q9, [sp, #0x90]
    ldp     q10, q11, [sp, #0xb0]
    ldp     q12, q13, [sp, #0xd0]
    ldp     q14, q15, [sp, #0xf0]
    ldp     q16, q17, [sp, #0x110]
    ldp     q18, q19, [sp, #0x130]
    ldp     q20, q21, [sp, #0x150]
    ldp     q22, q23, [sp, #0x170]
    ldp     q24, q25, [sp, #0x190]
    ldp     q26, q27, [sp, #0x1b0]
    ldp     q28, q29, [sp, #0x1d0]
    ldp     q30, q31, [sp, #0x1f0]
#endif
    mov     sp, x19
    ldp     x1, x2, [sp, #0x110]
    msr     elr_el1, x1
    msr     spsr_el1, x2
    ldp     x2, x3, [sp, #0x10]
    ldp     x4, x5, [sp, #0x20]
    ldp     x6, x7, [sp, #0x30]
    ldp     x8, x9, [sp, #0x40]
    ldp     x10, x11, [sp, #0x50]
    ldp     x12, x13, [sp, #0x60]
    ldp     x14, x15, [sp, #0x70]
    ldp     x16, x17, [sp, #0x80]
    ldp     x18, x19, [sp, #0x90]
    ldp     x20, x21, [sp, #0xa0]
    ldp     x22, x23, [sp, #0xb0]
    ldp     x24, x25, [sp, #0xc0]
    ldp     x26, x27, [sp, #0xd0]
    ldp     x28, x29, [sp, #0xe0]
    ldr     x30, [sp, #0xf0]
    ldp     x0, x1, [sp], #FRAME
    eret

// usize attempt(function, data, place): calls function(data); 0 when it returns, else what `recover` is given.
// The place is two words: SP, and what only other architectures have.
    .globl attempt
    .p2align 2
attempt:
    hint    #34                                 // bti c
    stp     x29, x30, [sp, #-0xb0]!
    stp     x19, x20, [sp, #0x10]
    stp     x21, x22, [sp, #0x20]
    stp     x23, x24, [sp, #0x30]
    stp     x25, x26, [sp, #0x40]
    stp     x27, x28, [sp, #0x50]
    mrs     x9, daif                            // interrupts and steps are held back in a trap
    str     x9, [sp, #0x60]
#ifdef FLOATS
    stp     d8, d9, [sp, #0x70]
    stp     d10, d11, [sp, #0x80]
    stp     d12, d13, [sp, #0x90]
    stp     d14, d15, [sp, #0xa0]
#endif
    mov     x9, sp
    str     x9, [x2]
    mov     x9, x0
    mov     x0, x1
    blr     x9
    mov     x0, #0
attempt_end:
    ldr     x9, [sp, #0x60]
    msr     daif, x9
#ifdef FLOATS
    ldp     d8, d9, [sp, #0x70]
    ldp     d10, d11, [sp, #0x80]
    ldp     d12, d13, [sp, #0x90]
    ldp     d14, d15, [sp, #0xa0]
#endif
    ldp     x19, x20, [sp, #0x10]
    ldp     x21, x22, [sp, #0x20]
    ldp     x23, x24, [sp, #0x30]
    ldp     x25, x26, [sp, #0x40]
    ldp     x27, x28, [sp, #0x50]
    ldp     x29, x30, [sp], #0xb0
    ret

// recover(place, value): leaves every frame since that `attempt`, which returns the value.
    .globl recover
recover:
    hint    #34                                 // bti c
    ldr     x9, [x0]
    mov     sp, x9
    mov     x0, x1
    b       attempt_end

// wrong_return_address(): one that is changed when it has been signed.
    .globl wrong_return_address
wrong_return_address:
    hint    #25                                 // paciasp, a landing pad
    eor     x30, x30, #4
    hint    #29                                 // autiasp
    ret

// no_landing_pad: a place that nothing may jump to.
    .globl no_landing_pad
no_landing_pad:
    ret

// jump(value, code): code(value).
    .globl jump
jump:
    hint    #34                                 // bti c
    mov     x16, x1
    br      x16

    .section .note.GNU-stack, "", %progbits
