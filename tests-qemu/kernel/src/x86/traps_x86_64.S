// Traps and interrupts of the 64-bit kernel, and calls that a fault may end.
.intel_syntax noprefix

//   address     when Rust's `trap` is called, RDI = RBX = that of RAX (src/traps.rs, Frame), RSI = shadow stack or 0
//   rbx+0x88+   RIP, CS, RFLAGS, RSP, SS, as the processor pushed them
//   rbx+0x80    error code, or 0
//   rbx+0x78    number of the trap
//   rbx+0x00    RAX RBX RCX RDX RSI RDI RBP R8 to R15
//   below       x87 and SSE state, in kernels that use it

// One stub for each trap, 16 bytes from one to the next.
    .text
    .globl trap_stubs
    .p2align 4
trap_stubs:
.set number, 0
.rept 64
    .p2align 4, 0xcc
    endbr64                                     // interrupts count as indirect jumps
.if (number == 8) | ((number >= 10) & (number <= 14)) | (number == 17) | (number == 21)
.else
    push    0                                   // where the processor pushes no error code
.endif
    push    number
    jmp     trap_common
    .set number, number + 1
.endr

    .p2align 4, 0xcc
trap_common:
    push    r15
    push    r14
    push    r13
    push    r12
    push    r11
    push    r10
    push    r9
    push    r8
    push    rbp
    push    rdi
    push    rsi
    push    rdx
    push    rcx
    push    rbx
    push    rax
    cld
    mov     rbx, rsp
    mov     rdi, rsp
    xor     esi, esi
    rdsspq  rsi                                 // does nothing where there is no shadow stack
#ifdef FLOATS
    sub     rsp, 512
#endif
    and     rsp, -16
#ifdef FLOATS
    fxsave  [rsp]
#endif
    call    trap
#ifdef FLOATS
    fxrstor [rsp]
#endif
    mov     rsp, rbx
    pop     rax
    pop     rbx
    pop     rcx
    pop     rdx
    pop     rsi
    pop     rdi
    pop     rbp
    pop     r8
    pop     r9
    pop     r10
    pop     r11
    pop     r12
    pop     r13
    pop     r14
    pop     r15
    add     rsp, 16
    iretq

// usize attempt(function, data, place): calls function(data); 0 when it returns, else what `recover` is given.
// The place is two words: RSP, and the shadow stack's pointer or 0.
    .globl attempt
attempt:
    endbr64
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    pushfq
    mov     [rdx], rsp
    xor     eax, eax
    rdsspq  rax                                 // does nothing where there is no shadow stack
    mov     [rdx + 8], rax
    mov     rax, rdi
    mov     rdi, rsi
    call    rax
    xor     eax, eax
attempt_end:
    popfq
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbp
    pop     rbx
    ret

// recover(place, value): leaves every frame since that `attempt`, which returns the value.
    .globl recover
recover:
    endbr64
    mov     rsp, [rdi]
    xor     eax, eax
    rdsspq  rax
    mov     rcx, [rdi + 8]
    mov     edx, 1
1:  cmp     rax, rcx
    je      2f
    incsspq rdx
    add     rax, 8
    jmp     1b
2:  mov     rax, rsi
    jmp     attempt_end

// wrong_entry(): an entry as the ancestor of the crate had it: the return address of its call is dropped.
    .globl wrong_entry
wrong_entry:
    endbr64
    call    1f
    int3
1:  add     rsp, 8
    ret

// no_landing_pad: a place that nothing may jump to.
    .globl no_landing_pad
no_landing_pad:
    ret

    .section .note.GNU-stack, "", @progbits
