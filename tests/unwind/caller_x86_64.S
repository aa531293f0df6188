// The foreign caller, and handlers of a few instructions, for the tests of unwinding. Intel syntax; read by rustc.
// What a debugger must find in the caller's registers while the entry runs is what they hold at unwind_call.

.macro SAVE register
    push    \register
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset \register, 0
.endm
.macro RESTORE register
    pop     \register
    .cfi_adjust_cfa_offset -8
    .cfi_restore \register
.endm
.macro BEGIN name
    .globl \name
    .type \name, @function
\name:
    .cfi_startproc
.endm
.macro END name
    .cfi_endproc
    .size \name, . - \name
.endm

    .text
// u64 unwind_caller(const void *code, ...): System V. Calls `code` by the win64 convention, with 32 positions.
BEGIN unwind_caller
    SAVE    rbx
    SAVE    rbp
    SAVE    r12
    SAVE    r13
    SAVE    r14
    SAVE    r15
    sub     rsp, 0x108
    .cfi_adjust_cfa_offset 0x108
    mov     rax, rdi
    movabs  rbx, 0x0101010101010101
    movabs  rbp, 0x0202020202020202
    movabs  rdi, 0x0303030303030303
    movabs  rsi, 0x0404040404040404
    movabs  r12, 0x0505050505050505
    movabs  r13, 0x0606060606060606
    movabs  r14, 0x0707070707070707
    movabs  r15, 0x0808080808080808
.irp number, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    mov     ecx, 0x11110000 + \number
    movd    xmm\number, ecx
    pshufd  xmm\number, xmm\number, 0
.endr
    mov     dword ptr [rsp], 0x37e              // as a thread begins, but invalid x87 operations are not masked
    fldcw   [rsp]
    mov     ecx, 1
    mov     edx, 2
    mov     r8d, 3
    mov     r9d, 4
    .globl unwind_call
unwind_call:
    call    rax
    .globl unwind_returned
unwind_returned:
    fwait                                       // raises what a handler has left pending
    mov     dword ptr [rsp], 0x37f
    fldcw   [rsp]
    add     rsp, 0x108
    .cfi_adjust_cfa_offset -0x108
    RESTORE r15
    RESTORE r14
    RESTORE r13
    RESTORE r12
    RESTORE rbp
    RESTORE rbx
    ret
END unwind_caller

// Direct lane: returns 7.
BEGIN unwind_plain
    mov     eax, 7
    ret
END unwind_plain

// Frame lane: returns 7 in the frame's result.
BEGIN unwind_plain_frame
    mov     qword ptr [rdx], 7
    ret
END unwind_plain_frame

// Direct lane without arguments; the data points to a code pointer: calls it and returns what it returns.
BEGIN unwind_reenter
    sub     rsp, 0x28
    .cfi_adjust_cfa_offset 0x28
    call    [rcx]
    add     rsp, 0x28
    .cfi_adjust_cfa_offset -0x28
    ret
END unwind_reenter

// The same with 4 positions before the data.
BEGIN unwind_reenter_4
    mov     rcx, [rsp + 0x28]
    sub     rsp, 0x28
    .cfi_adjust_cfa_offset 0x28
    call    [rcx]
    add     rsp, 0x28
    .cfi_adjust_cfa_offset -0x28
    ret
END unwind_reenter_4

// What the saving lanes are for: keep no register but RSP, write to the home space, leave DF set; return 7.
.macro WRECK
    mov     rcx, -1
.irp register, rbx, rbp, rdx, rdi, rsi, r8, r9, r10, r11, r12, r13, r14, r15
    mov     \register, rcx
.endr
.irp number, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    pcmpeqd xmm\number, xmm\number
.endr
.irp home, 8, 16, 24, 32
    mov     [rsp + \home], rcx
.endr
    mov     eax, 7
    std
    ret
.endm
BEGIN unwind_wreck_frame
    mov     qword ptr [rsi], 7
    WRECK
END unwind_wreck_frame
BEGIN unwind_wreck
    WRECK
END unwind_wreck

// Direct lane: wrecks the same registers, and raises an exception.
BEGIN unwind_raise
    sub     rsp, 0x28
    .cfi_adjust_cfa_offset 0x28
    mov     rcx, -1
.irp register, rbx, rbp, rdi, rsi, r12, r13, r14, r15
    mov     \register, rcx
.endr
.irp number, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    pcmpeqd xmm\number, xmm\number
.endr
    fldpi
    mov     dword ptr [rsp], 0x7f80
    ldmxcsr [rsp]
    mov     dword ptr [rsp], 0x0f7f
    fldcw   [rsp]
    call    unwind_dispatch
    ud2
END unwind_raise

// The same, and other rounding in both control words, and an invalid x87 operation, masked.
.macro CONTROL
    mov     dword ptr [rsp + 8], 0x7f80
    ldmxcsr [rsp + 8]
    mov     dword ptr [rsp + 8], 0x0f7f
    fldcw   [rsp + 8]
    fldz
    fldz
    fdivp
    fstp    st(0)
.endm
BEGIN unwind_wreck_control_frame
    mov     qword ptr [rsi], 7
    CONTROL
    WRECK
END unwind_wreck_control_frame
BEGIN unwind_wreck_control
    CONTROL
    WRECK
END unwind_wreck_control
    .globl unwind_end
unwind_end:
