// Traps and interrupts of the 32-bit kernel, and calls that a fault may end.
.intel_syntax noprefix

//   address     when Rust's `trap` is called with it (src/traps.rs, Frame) and with the shadow stack or 0
//   ebx+0x28+   EIP, CS, EFLAGS, as the processor pushed them
//   ebx+0x24    error code, or 0
//   ebx+0x20    number of the trap
//   ebx+0x00    EDI ESI EBP ESP EBX EDX ECX EAX, as PUSHAD lays them down
//   below       x87 and SSE state

// One stub for each trap, 16 bytes from one to the next.
    .text
    .globl trap_stubs
    .p2align 4
trap_stubs:
.set number, 0
.rept 64
    .p2align 4, 0xcc
    endbr32                                     // interrupts count as indirect jumps
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
    pushad
    cld
    mov     ebx, esp
    sub     esp, 512
    and     esp, -16
    fxsave  [esp]
    sub     esp, 16
    mov     [esp], ebx
    xor     eax, eax
    rdsspd  eax                                 // does nothing where there is no shadow stack
    mov     [esp + 4], eax
    call    trap
    add     esp, 16
    fxrstor [esp]
    mov     esp, ebx
    popad
    add     esp, 8
    iretd

// usize attempt(function, data, place): calls function(data); 0 when it returns, else what `recover` is given.
// The place is two words: ESP, and the shadow stack's pointer or 0.
    .globl attempt
attempt:
    endbr32
    push    ebx
    push    ebp
    push    esi
    push    edi
    pushfd
    mov     edx, [esp + 4 * 5 + 12]
    mov     [edx], esp
    xor     eax, eax
    rdsspd  eax                                 // does nothing where there is no shadow stack
    mov     [edx + 4], eax
    mov     eax, [esp + 4 * 5 + 4]
    mov     ecx, [esp + 4 * 5 + 8]
    sub     esp, 4                              // the argument's address is a multiple of 16
    push    ecx
    call    eax
    add     esp, 8
    xor     eax, eax
attempt_end:
    popfd
    pop     edi
    pop     esi
    pop     ebp
    pop     ebx
    ret

// recover(place, value): leaves every frame since that `attempt`, which returns the value.
    .globl recover
recover:
    endbr32
    mov     edi, [esp + 4]
    mov     esi, [esp + 8]
    mov     esp, [edi]
    xor     eax, eax
    rdsspd  eax
    mov     ecx, [edi + 4]
    mov     edx, 1
1:  cmp     eax, ecx
    je      2f
    incsspd edx
    add     eax, 4
    jmp     1b
2:  mov     eax, esi
    jmp     attempt_end

// wrong_entry(): an entry as the ancestor of the crate had it: the return address of its call is dropped.
    .globl wrong_entry
wrong_entry:
    endbr32
    call    1f
    int3
1:  add     esp, 4
    ret

// no_landing_pad: a place that nothing may jump to.
    .globl no_landing_pad
no_landing_pad:
    ret

    .section .note.GNU-stack, "", @progbits
