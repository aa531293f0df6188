// Looks at every register around a call, and handlers that wreck them. System V outside, win64 inside. With
// CALLTABLE_NO_FLOATS it touches no floating-point state, for kernels that run with it switched off.
.intel_syntax noprefix

// struct Registers of lib.rs
.set GENERAL, 0
.set XMM,     GENERAL + 16 * 8
.set STACK,   XMM + 16 * 16
.set FLAG_BITS, STACK + 66 * 8
.set MXCSR_AT, FLAG_BITS + 8
.set X87,     MXCSR_AT + 8
.set FRAME,   X87 + 8
.set SIZE,    FRAME + 7 * 8

.macro STORE_ALL base, general_too=1
.if \general_too
    mov     [\base + GENERAL + 0x08], rcx
    mov     [\base + GENERAL + 0x10], rdx
    mov     [\base + GENERAL + 0x18], rbx
    mov     [\base + GENERAL + 0x20], rsp
    mov     [\base + GENERAL + 0x28], rbp
    mov     [\base + GENERAL + 0x30], rsi
    mov     [\base + GENERAL + 0x38], rdi
    mov     [\base + GENERAL + 0x40], r8
    mov     [\base + GENERAL + 0x48], r9
    mov     [\base + GENERAL + 0x50], r10
    mov     [\base + GENERAL + 0x58], r11
    mov     [\base + GENERAL + 0x60], r12
    mov     [\base + GENERAL + 0x68], r13
    mov     [\base + GENERAL + 0x70], r14
    mov     [\base + GENERAL + 0x78], r15
.endif
#ifndef CALLTABLE_NO_FLOATS
    movups  [\base + XMM + 0x00], xmm0
    movups  [\base + XMM + 0x10], xmm1
    movups  [\base + XMM + 0x20], xmm2
    movups  [\base + XMM + 0x30], xmm3
    movups  [\base + XMM + 0x40], xmm4
    movups  [\base + XMM + 0x50], xmm5
    movups  [\base + XMM + 0x60], xmm6
    movups  [\base + XMM + 0x70], xmm7
    movups  [\base + XMM + 0x80], xmm8
    movups  [\base + XMM + 0x90], xmm9
    movups  [\base + XMM + 0xa0], xmm10
    movups  [\base + XMM + 0xb0], xmm11
    movups  [\base + XMM + 0xc0], xmm12
    movups  [\base + XMM + 0xd0], xmm13
    movups  [\base + XMM + 0xe0], xmm14
    movups  [\base + XMM + 0xf0], xmm15
    stmxcsr [\base + MXCSR_AT]
    fnstcw  [\base + X87]
#endif
.endm

.macro LOAD_XMM base
#ifndef CALLTABLE_NO_FLOATS
    movups  xmm0,  [\base + XMM + 0x00]
    movups  xmm1,  [\base + XMM + 0x10]
    movups  xmm2,  [\base + XMM + 0x20]
    movups  xmm3,  [\base + XMM + 0x30]
    movups  xmm4,  [\base + XMM + 0x40]
    movups  xmm5,  [\base + XMM + 0x50]
    movups  xmm6,  [\base + XMM + 0x60]
    movups  xmm7,  [\base + XMM + 0x70]
    movups  xmm8,  [\base + XMM + 0x80]
    movups  xmm9,  [\base + XMM + 0x90]
    movups  xmm10, [\base + XMM + 0xa0]
    movups  xmm11, [\base + XMM + 0xb0]
    movups  xmm12, [\base + XMM + 0xc0]
    movups  xmm13, [\base + XMM + 0xd0]
    movups  xmm14, [\base + XMM + 0xe0]
    movups  xmm15, [\base + XMM + 0xf0]
#endif
.endm

    .text
// void calltable_call_with(code, const Registers *before, Registers *after)
// At the call: 32 bytes of home space, 62 stack arguments, two words that are nobody's and must stay.
    .globl calltable_call_with
    .type calltable_call_with, @function
calltable_call_with:
    endbr64
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    sub     rsp, 8 + 16
#ifndef CALLTABLE_NO_FLOATS
    stmxcsr [rsp]
    fnstcw  [rsp + 4]
#endif
    mov     [rip + after], rdx
    mov     [rip + outer_rsp], rsp
    sub     rsp, 8 * 68                         // RSP is a multiple of 16 again
    mov     [rip + call_rsp], rsp
    mov     r11, rsi
    mov     rcx, 62
1:  mov     rax, [r11 + STACK + 8 * rcx - 8]
    mov     [rsp + 0x20 + 8 * rcx - 8], rax
    dec     rcx
    jnz     1b
    mov     rax, [r11 + STACK + 8 * 62]         // the guard words
    mov     [rsp + 0x20 + 8 * 62], rax
    mov     rax, [r11 + STACK + 8 * 63]
    mov     [rsp + 0x20 + 8 * 63], rax
#ifndef CALLTABLE_NO_FLOATS
    LOAD_XMM r11
    ldmxcsr [r11 + MXCSR_AT]
    fldcw   [r11 + X87]
#endif
    mov     [rip + code], rdi
    push    qword ptr [r11 + FLAG_BITS]
    popfq
    mov     rcx, [r11 + GENERAL + 0x08]
    mov     rdx, [r11 + GENERAL + 0x10]
    mov     rbx, [r11 + GENERAL + 0x18]
    mov     rbp, [r11 + GENERAL + 0x28]
    mov     rsi, [r11 + GENERAL + 0x30]
    mov     rdi, [r11 + GENERAL + 0x38]
    mov     r8,  [r11 + GENERAL + 0x40]
    mov     r9,  [r11 + GENERAL + 0x48]
    mov     r10, [r11 + GENERAL + 0x50]
    mov     r12, [r11 + GENERAL + 0x60]
    mov     r13, [r11 + GENERAL + 0x68]
    mov     r14, [r11 + GENERAL + 0x70]
    mov     r15, [r11 + GENERAL + 0x78]
    mov     r11, [r11 + GENERAL + 0x58]
    call    qword ptr [rip + code]
    mov     [rip + result], rax
    mov     rax, [rip + after]
    STORE_ALL rax
    mov     rcx, [rip + result]
    mov     [rax + GENERAL], rcx
    mov     rcx, [rip + call_rsp]
    sub     [rax + GENERAL + 0x20], rcx         // RSP as a difference: 0 if it is as before
    mov     rdx, [rcx + 0x20 + 8 * 62]
    mov     [rax + STACK + 8 * 62], rdx
    mov     rdx, [rcx + 0x20 + 8 * 63]
    mov     [rax + STACK + 8 * 63], rdx
    mov     rsp, rcx                            // whatever the callee did to it
    pushfq
    pop     qword ptr [rax + FLAG_BITS]
    cld
    mov     rsp, [rip + outer_rsp]
#ifndef CALLTABLE_NO_FLOATS
    ldmxcsr [rsp]
    fldcw   [rsp + 4]
#endif
    add     rsp, 8 + 16
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbp
    pop     rbx
    ret
    .size calltable_call_with, . - calltable_call_with

// Stores what a handler sees. RAX is free at a handler's entry, and so is R10 after it has been stored.
.macro SEE
    pushfq
    pop     qword ptr [rip + calltable_seen + FLAG_BITS]
    lea     rax, [rip + calltable_seen]
    STORE_ALL rax
    mov     r10, 66
1:  mov     r11, [rsp + 8 * r10]                // words above the return address
    mov     [rax + STACK + 8 * r10 - 8], r11
    dec     r10
    jnz     1b
    cmp     byte ptr [rip + calltable_has_frame], 0
    je      3f
    mov     r10, 7
2:  mov     r11, [rdx + 8 * r10 - 8]
    mov     [rax + FRAME + 8 * r10 - 8], r11
    dec     r10
    jnz     2b
    movabs  r11, 0x7e57000000000001             // the frame's result: RAX and both halves of XMM0
    mov     [rdx], r11
    movabs  r11, 0x7e57000000000002
    mov     [rdx + 8], r11
3:
.endm

// All that the convention leaves to the callee: volatile registers, flags, home space. The result is known.
.macro WRECK_VOLATILE
    mov     r11, 0x5bad
    mov     [rsp + 0x08], r11
    mov     [rsp + 0x10], r11
    mov     [rsp + 0x18], r11
    mov     [rsp + 0x20], r11
#ifndef CALLTABLE_NO_FLOATS
    movq    xmm1, r11
    movaps  xmm2, xmm1
    movaps  xmm3, xmm1
    movaps  xmm4, xmm1
    movaps  xmm5, xmm1
#endif
    movabs  rax, 0x7e57000000000001
    movabs  rcx, 0x7e57000000000002
#ifndef CALLTABLE_NO_FLOATS
    movq    xmm0, rax
    movq    xmm1, rcx
    punpcklqdq xmm0, xmm1
#endif
    mov     rcx, r11
    mov     rdx, r11
    mov     r8, r11
    mov     r9, r11
    mov     r10, r11
    add     r11b, 0x7f                          // sign and overflow
    stc
.endm

.macro WRECK_PRESERVED
    mov     r11, 0x6bad
    mov     rbx, r11
    mov     rbp, r11
    mov     rsi, r11
    mov     rdi, r11
    mov     r12, r11
    mov     r13, r11
    mov     r14, r11
    mov     r15, r11
#ifndef CALLTABLE_NO_FLOATS
    movq    xmm6, r11
    movaps  xmm7, xmm6
    movaps  xmm8, xmm6
    movaps  xmm9, xmm6
    movaps  xmm10, xmm6
    movaps  xmm11, xmm6
    movaps  xmm12, xmm6
    movaps  xmm13, xmm6
    movaps  xmm14, xmm6
    movaps  xmm15, xmm6
#endif
    std
.endm

.macro HANDLER name
    .globl \name
    .type \name, @function
\name:
    endbr64
    SEE
.endm

HANDLER calltable_wreck_volatile
    WRECK_VOLATILE
    ret

HANDLER calltable_wreck_preserved
    WRECK_PRESERVED
    WRECK_VOLATILE
    ret

HANDLER calltable_wreck_control
    WRECK_PRESERVED
#ifndef CALLTABLE_NO_FLOATS
    ldmxcsr [rip + other_mxcsr]
    fldcw   [rip + other_x87]
    fldz                                        // an invalid operation, masked: pending, once it is not masked
    fldz
    fdivp
    fstp    st(0)
#endif
    WRECK_VOLATILE
    ret

// The same, with the x87 stack full and, in a kernel, AC set, and then a fault.
HANDLER calltable_wreck_and_fault
    WRECK_PRESERVED
#ifndef CALLTABLE_NO_FLOATS
    ldmxcsr [rip + other_mxcsr]
    fldcw   [rip + other_x87]
.rept 8
    fldpi
.endr
#endif
    mov     eax, cs
    test    al, 3
    jnz     1f
    pushfq                                      // in a kernel: memory of user mode is open (AC)
    or      dword ptr [rsp], 1 << 18
    popfq
1:  ud2

    .section .rodata
    .p2align 2
other_mxcsr:    .long 0x7f80                    // rounds toward zero
other_x87:      .short 0x0c7f                   // rounds toward zero, single precision

    .bss
    .p2align 4
    .globl calltable_seen
calltable_seen: .zero SIZE
    .globl calltable_has_frame
calltable_has_frame: .zero 8
after:          .zero 8
code:           .zero 8
result:         .zero 8
outer_rsp:      .zero 8
call_rsp:       .zero 8

    .section .note.GNU-stack, "", @progbits
