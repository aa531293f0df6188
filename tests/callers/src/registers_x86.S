// Looks at every register around a call, and handlers that wreck them. 32-bit; the test program is no
// position-independent code where it uses absolute addresses: they are relocated when it starts.
.intel_syntax noprefix

#ifdef __ELF__
#define FUNCTION(name) .type name, @function
#else                                           // C symbols of 32-bit COFF begin with an underscore
#define FUNCTION(name) .def name; .scl 2; .type 32; .endef
#define calltable_seen _calltable_seen
#define calltable_has_frame _calltable_has_frame
#define calltable_pops _calltable_pops
#define calltable_call_with _calltable_call_with
#define calltable_wreck_volatile _calltable_wreck_volatile
#define calltable_wreck_preserved _calltable_wreck_preserved
#define calltable_wreck_control _calltable_wreck_control
#endif

// struct Registers of lib.rs
.set GENERAL, 0
.set STACK,   GENERAL + 8 * 4
.set FLAG_BITS, STACK + 132 * 4
.set MXCSR_AT, FLAG_BITS + 4
.set X87,     MXCSR_AT + 4
.set FRAME,   X87 + 4
.set SIZE,    FRAME + 6 * 4

    .data                                       // writable, so that relocations of the text are none of text sections
    .p2align 4
    .globl calltable_seen
calltable_seen: .zero SIZE
    .globl calltable_has_frame
calltable_has_frame: .zero 8
    .globl calltable_pops
calltable_pops: .zero 4
after:          .zero 4
code:           .zero 4
outer_esp:      .zero 4
call_esp:       .zero 4
result:         .zero 4
other_mxcsr:    .long 0x7f80                    // rounds toward zero
other_x87:      .short 0x0c7f                   // rounds toward zero, single precision

    .text
// void calltable_call_with(code, const Registers *before, Registers *after), cdecl
    .globl calltable_call_with
    FUNCTION(calltable_call_with)
calltable_call_with:
    endbr32
    push    ebx
    push    ebp
    push    esi
    push    edi
    sub     esp, 12                             // ESP is a multiple of 16 at the call
    stmxcsr [esp]
    fnstcw  [esp + 4]
    mov     eax, [esp + 32]
    mov     [code], eax
    mov     esi, [esp + 36]
    mov     eax, [esp + 40]
    mov     [after], eax
    mov     [outer_esp], esp
    sub     esp, 4 * 132
    mov     [call_esp], esp
    mov     ecx, 132
1:  mov     eax, [esi + STACK + 4 * ecx - 4]
    mov     [esp + 4 * ecx - 4], eax
    dec     ecx
    jnz     1b
    ldmxcsr [esi + MXCSR_AT]
    fldcw   [esi + X87]
    push    dword ptr [esi + FLAG_BITS]
    popfd
    mov     eax, [esi + GENERAL + 0x00]
    mov     ecx, [esi + GENERAL + 0x04]
    mov     edx, [esi + GENERAL + 0x08]
    mov     ebx, [esi + GENERAL + 0x0c]
    mov     ebp, [esi + GENERAL + 0x14]
    mov     edi, [esi + GENERAL + 0x1c]
    mov     esi, [esi + GENERAL + 0x18]
    call    dword ptr [code]
    mov     [result], eax
    mov     eax, [after]
    mov     [eax + GENERAL + 0x04], ecx
    mov     [eax + GENERAL + 0x08], edx
    mov     [eax + GENERAL + 0x0c], ebx
    mov     [eax + GENERAL + 0x14], ebp
    mov     [eax + GENERAL + 0x18], esi
    mov     [eax + GENERAL + 0x1c], edi
    mov     ecx, [result]
    mov     [eax + GENERAL + 0x00], ecx
    mov     ecx, esp
    sub     ecx, [call_esp]
    mov     [eax + GENERAL + 0x10], ecx
    stmxcsr [eax + MXCSR_AT]
    fnstcw  [eax + X87]
    mov     esp, [call_esp]                     // whatever the callee did to it
    pushfd
    pop     dword ptr [eax + FLAG_BITS]
    cld
    mov     ecx, 132
2:  mov     edx, [esp + 4 * ecx - 4]
    mov     [eax + STACK + 4 * ecx - 4], edx
    dec     ecx
    jnz     2b
    mov     esp, [outer_esp]
    ldmxcsr [esp]
    fldcw   [esp + 4]
    add     esp, 12
    pop     edi
    pop     esi
    pop     ebp
    pop     ebx
    ret

// Stores what a handler sees. A frame handler's second argument is the frame; its result is set.
.macro SEE
    pushfd
    pop     dword ptr [calltable_seen + FLAG_BITS]
    mov     [calltable_seen + GENERAL + 0x00], eax
    mov     [calltable_seen + GENERAL + 0x04], ecx
    mov     [calltable_seen + GENERAL + 0x08], edx
    mov     [calltable_seen + GENERAL + 0x0c], ebx
    mov     [calltable_seen + GENERAL + 0x10], esp
    mov     [calltable_seen + GENERAL + 0x14], ebp
    mov     [calltable_seen + GENERAL + 0x18], esi
    mov     [calltable_seen + GENERAL + 0x1c], edi
    mov     ecx, 132
1:  mov     eax, [esp + 4 * ecx]                // words above the return address
    mov     [calltable_seen + STACK + 4 * ecx - 4], eax
    dec     ecx
    jnz     1b
    cmp     byte ptr [calltable_has_frame], 0
    je      3f
    mov     edx, [esp + 8]
    mov     ecx, 6
2:  mov     eax, [edx + 4 * ecx - 4]
    mov     [calltable_seen + FRAME + 4 * ecx - 4], eax
    dec     ecx
    jnz     2b
    mov     dword ptr [edx + 0], 0x7e570001
    mov     dword ptr [edx + 4], 0x7e570002
3:
.endm

// Returns as the convention says, with a known result in EDX:EAX and the flags set.
.macro LEAVE
    mov     eax, [esp]
    add     esp, [calltable_pops]
    mov     [esp], eax                          // over the last argument: shadow stacks want a RET
    mov     eax, 0x7e570001
    mov     edx, 0x7e570002
    mov     ecx, 0x5bad
    stc
    ret
.endm

.macro WRECK_PRESERVED
    mov     ebx, 0x6bad
    mov     ebp, ebx
    mov     esi, ebx
    mov     edi, ebx
.endm

.macro HANDLER name
    .globl \name
    FUNCTION(\name)
\name:
    endbr32
    SEE
.endm

HANDLER calltable_wreck_volatile
    LEAVE

HANDLER calltable_wreck_preserved
    WRECK_PRESERVED
    std
    LEAVE

HANDLER calltable_wreck_control
    WRECK_PRESERVED
    ldmxcsr [other_mxcsr]
    fldcw   [other_x87]
    fldz                                        // an invalid operation, masked: pending, once it is not masked
    fldz
    fdivp
    fstp    st(0)
    std
    LEAVE

// The same, with the x87 stack full and, in a kernel, AC set, and then a fault.
HANDLER calltable_wreck_and_fault
    WRECK_PRESERVED
    ldmxcsr [other_mxcsr]
    fldcw   [other_x87]
.rept 8
    fldpi
.endr
    std
    mov     eax, cs
    test    al, 3
    jnz     1f
    pushfd                                      // in a kernel: memory of user mode is open (AC)
    or      dword ptr [esp], 1 << 18
    popfd
1:  ud2

#ifdef __ELF__
    .section .note.GNU-stack, "", @progbits
#endif
