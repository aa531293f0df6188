// The CALL table and its dispatcher for i686: stdcall, cdecl, thiscall, fastcall.
//
// Way of one call: foreign code -> entry -> calltable_dispatch -> handler, and back the same way.
//
//   address     on entry to calltable_dispatch   then, EBP being the frame pointer
//   esp+0x08+   arguments on the stack           ebp+0x0c+
//   esp+0x04    return address, foreign caller   ebp+0x08
//   esp+0x00    return address, entry            ebp+0x04   table + 16 * slot + ENTRY_RETURN
//                                                ebp+0x00   the caller's EBP
//                                                ebp-LOCALS the names that begin with AT_, below
//
// The conventions: arguments on the stack in words of 4 bytes, lowest address first; thiscall has the first small one
// in ECX, fastcall the first two in ECX and EDX. Results in EAX, EDX:EAX or ST0. To be preserved: EBX ESI EDI EBP, the
// x87 control word; DF is clear. Who removes the arguments: with cdecl the caller, else the callee, which is the entry.
//
// calltable_dispatch   finds the context, reads handler and data, counts the call if it is to be counted, and goes to
// calltable_direct     direct lane: the handler has the foreign call's own convention, and the data behind its arguments
// calltable_frame      frame lane: a cdecl handler of data and frame; stale calls take it too
// ..._saving           the same for handlers that keep no register but ESP
// calltable_leave      removes the arguments and returns to the entry, which returns to the foreign caller
//
// The file is read by GAS, by Clang and by rustc's global_asm!; see x86_64.S.

.intel_syntax noprefix

.set AT_EDX,     -0x04                          // as the foreign code passed them: ECX and EDX are one array
.set AT_ECX,     -0x08
.set AT_CONTEXT, -0x0c
.set AT_STATE,   -0x10                          // the flags for this call; STATE_COUNTED as long as it is counted
.set AT_CLEANUP, -0x14                          // bytes of arguments to remove
.set AT_DATA,    -0x18
.set AT_HANDLER, -0x1c
.set AT_EBX,     -0x20                          // from here on: the saving lanes only
.set AT_ESI,     -0x24
.set AT_EDI,     -0x28
.set AT_MXCSR,   -0x2c
.set AT_X87,     -0x30
.set LOCALS,      0x30

// --- What differs between ELF and COFF: sections, symbols, unwind data -------------------------------------------

// Opens a function; `class` is its COFF storage class: 3 for those that only this file names, 2 for an external one.
.macro PROC name, class=3
    .p2align 4, 0xcc
.if ELF
    .type \name, @function
\name:
    .cfi_startproc
.else
    .def \name; .scl \class; .type 32; .endef
\name:
.endif
.endm

// Opens a function that is jumped to with the dispatcher's frame in EBP.
.macro PROC_IN_FRAME name
    PROC \name
.if ELF
    .cfi_def_cfa ebp, 8
    .cfi_offset ebp, -8
.endif
.endm

.macro END_PROC name
.if ELF
    .cfi_endproc
    .size \name, . - \name
.endif
.endm

// --- The table ----------------------------------------------------------------------------------------------------

.if ELF
    .section .text.calltable, "ax", @progbits
    .hidden calltable_VERSION_table
    .hidden calltable_VERSION_contexts
    .hidden calltable_VERSION_stale
.else
    .text
.endif

    .globl calltable_VERSION_table
PROC calltable_VERSION_table, 2
.macro ENTRY slot
.if GUARD
    .def calltable_entry_\slot; .scl 3; .type 32; .endef
calltable_entry_\slot:
.endif
    endbr32                                     // 4 bytes: landing pad, wanted under indirect-branch tracking
    call    calltable_dispatch                  // 5 bytes: pushes table + 16 * slot + ENTRY_RETURN
    ret                                         // 1 byte: to the foreign caller, whose arguments are gone by now
    .byte   0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc  // to ENTRY_STRIDE; stops straight-line speculation past the RET
.endm
.altmacro                                       // so that a macro can be given a number by its value: %slot
.set slot, 0
.rept CAPACITY
    ENTRY %slot
    .set slot, slot + 1
.endr
.noaltmacro
END_PROC calltable_VERSION_table

.if ELF
// Position-independent code finds itself by a call that is answered: the processor's return stack stays balanced.
PROC calltable_here
    mov     eax, [esp]
    ret
    int3
END_PROC calltable_here
.endif

// --- calltable_dispatch -------------------------------------------------------------------------------------------
PROC calltable_dispatch
    push    ebp
.if ELF
    .cfi_def_cfa_offset 8
    .cfi_offset ebp, -8
.endif
    mov     ebp, esp
.if ELF
    .cfi_def_cfa_register ebp
.endif
    sub     esp, LOCALS
    mov     [ebp + AT_ECX], ecx
    mov     [ebp + AT_EDX], edx
    mov     ecx, [ebp + 4]
.if ELF
    call    calltable_here
1:  sub     ecx, eax
.att_syntax prefix                              // the other syntax has no differences of symbols in all assemblers
    addl    $(1b - calltable_VERSION_table - ENTRY_RETURN), %ecx    // 16 * slot
    movl    calltable_VERSION_contexts - 1b(%eax), %edx
.intel_syntax noprefix
.else
    sub     ecx, offset calltable_VERSION_table + ENTRY_RETURN      // 16 * slot
    mov     edx, [calltable_VERSION_contexts]
.endif
    lea     ecx, [edx + 2 * ecx]                // a context is two entries long
    mov     [ebp + AT_CONTEXT], ecx
    mov     eax, [ecx + CONTEXT_STATE]
    mov     edx, [ecx + CONTEXT_CLEANUP]        // it outlives the registration, for stale calls
    mov     [ebp + AT_STATE], eax
    mov     [ebp + AT_CLEANUP], edx
    test    eax, STATE_COUNTED
    jz      2f
    mov     edx, 1
    lock xadd dword ptr [ecx + CONTEXT_IN_FLIGHT], edx              // a full barrier: see calltable_count, x86_64.S
    test    edx, edx
    jz      2f
    test    eax, STATE_EXCLUSIVE
    jnz     3f                                  // an exclusive handler is running already: refuse, as if not live
2:  test    ax, ax
    jz      3f                                  // not live
    mov     edx, [ecx + CONTEXT_DATA]
    mov     [ebp + AT_DATA], edx
    mov     edx, [ecx + CONTEXT_HANDLER]
    mov     [ebp + AT_HANDLER], edx
    cmp     eax, [ecx + CONTEXT_STATE]          // same state before and after: handler and data are one pair
    jne     3f
    test    al, STATE_SAVE
    jnz     4f
    test    al, STATE_FRAME
    jnz     calltable_frame
    jmp     calltable_direct
4:  test    al, STATE_FRAME
    jnz     calltable_frame_saving
    jmp     calltable_direct_saving
3:  mov     [ebp + AT_DATA], ecx                // the stale handler's data is the context
    and     dword ptr [ebp + AT_STATE], STATE_COUNTED
.if ELF
    call    calltable_here
1:
.att_syntax prefix
    leal    calltable_VERSION_stale - 1b(%eax), %eax
.intel_syntax noprefix
.else
    mov     eax, offset calltable_VERSION_stale
.endif
    mov     [ebp + AT_HANDLER], eax
    jmp     calltable_frame
END_PROC calltable_dispatch

// --- calltable_leave: back to the entry, the callee's cleanup done -------------------------------------------------
//
// Both return addresses move up by AT_CLEANUP bytes, over the arguments; each is read before one is written. The RET
// here answers the entry's CALL, the entry's RET the foreign one, so that shadow stacks agree. EAX, EDX and ST0 stay.
PROC_IN_FRAME calltable_leave
    test    dword ptr [ebp + AT_STATE], STATE_COUNTED
    jz      1f
    mov     ecx, [ebp + AT_CONTEXT]
    lock dec dword ptr [ecx + CONTEXT_IN_FLIGHT]
1:  lea     esp, [ebp - LOCALS]                 // wherever the handler's own cleanup left it
    push    eax
    push    edx
    mov     ecx, ebp
    add     ecx, [ebp + AT_CLEANUP]
    mov     eax, [ebp + 4]
    mov     edx, [ebp + 8]
.if ELF
    .cfi_def_cfa esp, LOCALS + 16
.endif
    mov     ebp, [ebp]
.if ELF
    .cfi_restore ebp
.endif
    mov     [ecx + 8], edx
    mov     [ecx + 4], eax
.if ELF
    .cfi_def_cfa ecx, 8
.endif
    pop     edx
    pop     eax
    lea     esp, [ecx + 4]
.if ELF
    .cfi_def_cfa esp, 4
.endif
    ret
    int3
END_PROC calltable_leave

// --- Direct lane --------------------------------------------------------------------------------------------------
//
//   address            while the handler runs (the first is a multiple of 16)
//   esp+4*words        the data, if it comes on the stack
//   esp+0x00           copy of the foreign call's words

// Copies the words of the foreign call and the data to ESP, and loads ECX and EDX.
.macro ARGUMENTS_DIRECT
    mov     ecx, [ebp + AT_STATE]
    and     ecx, STATE_POSITIONS                // words + 1
    mov     eax, [ebp + AT_DATA]
    mov     [esp + 4 * ecx - 4], eax
    jmp     2f
1:  mov     eax, [ebp + 0x0c + 4 * ecx - 4]
    mov     [esp + 4 * ecx - 4], eax
2:  dec     ecx
    jnz     1b
    mov     ecx, [ebp + AT_ECX]
    mov     edx, [ebp + AT_EDX]
    test    dword ptr [ebp + AT_STATE], STATE_DATA_ECX
    cmovnz  ecx, [ebp + AT_DATA]
    test    dword ptr [ebp + AT_STATE], STATE_DATA_EDX
    cmovnz  edx, [ebp + AT_DATA]
.endm

PROC_IN_FRAME calltable_direct
    and     eax, STATE_POSITIONS                // EAX is the state
    shl     eax, 2
    sub     esp, eax
    and     esp, -16
    ARGUMENTS_DIRECT
    call    [ebp + AT_HANDLER]
    jmp     calltable_leave
END_PROC calltable_direct

// A handler that keeps only ESP has lost EBP. It is found again on the stack: above the arguments, if the handler has
// removed them, else at a fixed place.
.set DIRECT_ROOM, (4 * (MAX_POSITIONS + 3) + 15) & -16
.set DIRECT_EBP, DIRECT_ROOM - 4

PROC_IN_FRAME calltable_direct_saving
    call    calltable_save
    sub     esp, DIRECT_ROOM
    and     esp, -16
    ARGUMENTS_DIRECT
    mov     [esp + DIRECT_EBP], ebp
    mov     eax, [ebp + AT_STATE]
    test    eax, STATE_HANDLER_POPS
    jz      3f
    mov     ebx, eax
    and     ebx, STATE_POSITIONS                // the words, and the data
    test    eax, STATE_DATA_ECX | STATE_DATA_EDX
    jz      4f
    dec     ebx                                 // or the words alone
4:  mov     [esp + 4 * ebx], ebp
    mov     ebx, [ebp + AT_EBX]
    cld                                         // the handler's own convention may rely on it
    call    [ebp + AT_HANDLER]
    mov     ebp, [esp]
    jmp     calltable_restore
3:  cld
    call    [ebp + AT_HANDLER]
    mov     ebp, [esp + DIRECT_EBP]
    jmp     calltable_restore
END_PROC calltable_direct_saving

// --- Frame lane ---------------------------------------------------------------------------------------------------
//
//   address            while the handler runs (the first is a multiple of 16)
//   esp+0x2c           EBP, for the saving lane
//   esp+0x10           the frame (src/frame.rs, RawFrame): result, arguments, registers
//   esp+0x04           address of the frame
//   esp+0x00           data
.set FRAME_AT,   0x10
.set FRAME_EBP,  0x2c
.set FRAME_ROOM, 0x30

.macro ARGUMENTS_FRAME
    sub     esp, FRAME_ROOM
    and     esp, -16
    lea     eax, [ebp + 0x0c]
    mov     [esp + FRAME_AT + FRAME_ARGUMENTS], eax
    mov     eax, [ebp + AT_ECX]
    mov     [esp + FRAME_AT + FRAME_REGISTERS + 0], eax
    mov     eax, [ebp + AT_EDX]
    mov     [esp + FRAME_AT + FRAME_REGISTERS + 4], eax
    xor     eax, eax
    mov     [esp + FRAME_AT + FRAME_RESULT + 0], eax    // a handler that sets no result returns 0
    mov     [esp + FRAME_AT + FRAME_RESULT + 4], eax
    mov     eax, [ebp + AT_DATA]
    mov     [esp + 0x00], eax
    lea     eax, [esp + FRAME_AT]
    mov     [esp + 0x04], eax
.endm

.macro RESULT_FRAME
    mov     eax, [esp + FRAME_AT + FRAME_RESULT + 0]
    mov     edx, [esp + FRAME_AT + FRAME_RESULT + 4]
    test    dword ptr [ebp + AT_STATE], STATE_FLOAT
    jz      1f
    fld     qword ptr [esp + FRAME_AT + FRAME_RESULT]
1:
.endm

PROC_IN_FRAME calltable_frame
    ARGUMENTS_FRAME
    call    [ebp + AT_HANDLER]
    RESULT_FRAME
    jmp     calltable_leave
END_PROC calltable_frame

PROC_IN_FRAME calltable_frame_saving
    call    calltable_save
    ARGUMENTS_FRAME
    mov     [esp + FRAME_EBP], ebp
    cld                                         // the handler's own convention may rely on it
    call    [ebp + AT_HANDLER]
    mov     ebp, [esp + FRAME_EBP]
    RESULT_FRAME
    jmp     calltable_restore
END_PROC calltable_frame_saving

// --- What a handler that keeps nothing may have wrecked ------------------------------------------------------------

// Called with the dispatcher's frame in EBP, where it saves what calltable_restore restores; the control words only for
// those who asked.
PROC calltable_save
    mov     [ebp + AT_EBX], ebx
    mov     [ebp + AT_ESI], esi
    mov     [ebp + AT_EDI], edi
    test    dword ptr [ebp + AT_STATE], STATE_CONTROL
    jz      1f
    fnstcw  [ebp + AT_X87]
.if SSE
    stmxcsr [ebp + AT_MXCSR]
.endif
1:  ret
    int3
END_PROC calltable_save

PROC_IN_FRAME calltable_restore
    cld                                         // the foreign caller relies on it
    test    dword ptr [ebp + AT_STATE], STATE_CONTROL
    jz      1f
    fldcw   [ebp + AT_X87]
.if SSE
    ldmxcsr [ebp + AT_MXCSR]
.endif
1:  mov     ebx, [ebp + AT_EBX]
    mov     esi, [ebp + AT_ESI]
    mov     edi, [ebp + AT_EDI]
    jmp     calltable_leave
END_PROC calltable_restore

// --- Notes for the linker -----------------------------------------------------------------------------------------

.if ELF
    .section .note.GNU-stack, "", @progbits     // no executable stack is needed

    .section .note.gnu.property, "a", @note     // ready for indirect-branch tracking and shadow stacks; without
    .p2align 2                                  // this note the linker drops both for the whole image
    .long   4                                   // size of the name
    .long   12                                  // size of the description
    .long   5                                   // NT_GNU_PROPERTY_TYPE_0
    .asciz  "GNU"
    .long   0xc0000002                          // GNU_PROPERTY_X86_FEATURE_1_AND
    .long   4                                   // size of the value
    .long   3                                   // IBT | SHSTK
.endif

.if GUARD
// Control Flow Guard: every entry is a target that foreign code may call, though nothing in this program names it.
.macro GUARD_TARGET slot
    .symidx calltable_entry_\slot
.endm
.if FEAT
    .set    "@feat.00", 0x801                   // this object lists its guard targets and its SEH handlers (rustc says
.endif                                          // the second itself, the first if asked for -Ccontrol-flow-guard)
    .section .gfids$y, "dr"
.altmacro
.set slot, 0
.rept CAPACITY
    GUARD_TARGET %slot
    .set slot, slot + 1
.endr
.noaltmacro
.endif
    .text
