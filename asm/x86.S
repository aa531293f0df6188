// The CALL table and its dispatcher for i686: stdcall, cdecl of both kinds, thiscall, fastcall.
//
// Way of one call: foreign code -> entry -> calltable_dispatch, which answers with the address of the handler -> entry,
// which jumps to it -> foreign code. Where something has to be done after the handler, the address is that of
// calltable_select, which calls the handler from a frame of its own.
//
//   address     on entry to calltable_dispatch
//   esp+0x08+   arguments on the stack
//   esp+0x04    return address in the foreign caller
//   esp+0x00    return address in the entry: table + ENTRY_STRIDE * slot + ENTRY_RETURN
//
//   address     in a frame, EBP being its pointer (build.rs, FROM_EBP)
//   ebp+0x10+   arguments on the stack
//   ebp+0x0c    return address in the foreign caller
//   ebp+0x08    return address in the entry: so it is the entry that unwinders find as the caller
//   ebp+0x04    the context's generation, as this call found it
//   ebp+0x00    the caller's EBP
//   ebp-LOCALS_SIZE  the names that begin with AT_, below
//
// The conventions: arguments on the stack in words of 4 bytes, lowest address first; thiscall has the first small one
// in ECX, fastcall the first two in ECX and EDX. Results in EAX, EDX:EAX or ST0. To be preserved: EBX ESI EDI EBP, the
// x87 control word; DF is clear. EAX is nobody's at a call. Who removes the arguments: with cdecl the caller, else the
// callee, which is the handler or, after a handler that was called from a frame, the dispatcher; by the System V
// convention the caller, but for the address of a result, which the callee removes.
//
// A frame has a record in the chain of SEH handlers at FS:[0] if the registration is in the frame lane, contained,
// counted, saving, or asks for one (STATE_RECORD): on Windows, and elsewhere once the embedder has declared that FS
// points to a thread information block (src/seh). calltable_leave takes it off; whoever unwinds the stack past the
// dispatcher has done so before.
//
// calltable_dispatch   finds the context; names handlers that get their data in ECX or EDX and have the foreign call's
//                      arguments where they are: closures by stdcall, thiscall and fastcall (src/abi/x86.rs)
// calltable_released   refuses a call that a release has overtaken in between
// calltable_select     makes a frame for all others, reads handler and data, counts the call if it is to be counted
// calltable_direct     direct lane: the handler has the foreign call's own convention, and the data after its arguments
// calltable_direct_framed
//                      the same with a record
// calltable_frame      frame lane: a cdecl handler of data and frame; stale calls take it too
// calltable_direct_saving, calltable_frame_saving
//                      the same two for handlers that keep no register but ESP
// calltable_leave      in calltable_select: removes the arguments and returns to the foreign caller
// calltable_enter      counts a call, unless its generation has ended or it is exclusive and runs already
// calltable_resume     where a contained call continues when an exception has ended
//
// The file is read by GAS, by Clang and by rustc's global_asm!; see x86_64.S.

.intel_syntax noprefix

// The locals (build.rs, X86; src/seh/x86.rs, Locals), as offsets from EBP.
.set AT_OUTCOME,  -LOCALS_SIZE                  // contained calls only: what the filter says
.set AT_RECORD,   LOCALS_RECORD - LOCALS_SIZE   // the SEH record: next record, handler; that is 0 where there is none
.set AT_X87,      LOCALS_X87 - LOCALS_SIZE      // these eight: the saving lanes and contained calls only
.set AT_ASKED,    LOCALS_ASKED - LOCALS_SIZE
.set AT_MXCSR,    LOCALS_MXCSR - LOCALS_SIZE
.set AT_SHADOW,   LOCALS_SHADOW - LOCALS_SIZE
.set AT_FLAGS,    LOCALS_FLAGS - LOCALS_SIZE
.set AT_EDI,      LOCALS_EDI - LOCALS_SIZE
.set AT_ESI,      LOCALS_ESI - LOCALS_SIZE
.set AT_EBX,      LOCALS_EBX - LOCALS_SIZE
.set AT_HANDLER,  LOCALS_HANDLER - LOCALS_SIZE
.set AT_DATA,     LOCALS_DATA - LOCALS_SIZE
.set AT_CLEANUP,  LOCALS_CLEANUP - LOCALS_SIZE  // bytes of arguments to remove
.set AT_STATE,    LOCALS_STATE - LOCALS_SIZE    // the flags for this call; STATE_COUNTED as long as it is counted
.set AT_CONTEXT,  LOCALS_CONTEXT - LOCALS_SIZE
.set AT_ECX,      LOCALS_ECX - LOCALS_SIZE      // as the foreign code passed them: ECX and EDX are one array
.set AT_EDX,      LOCALS_ECX + 4 - LOCALS_SIZE

// Registrations whose frames have a record.
.set STATE_RECORD, STATE_FRAME | STATE_SAVE | STATE_COUNTED | STATE_CONTAIN | STATE_FRAMED

// --- What differs between ELF and COFF: sections, symbols, unwind data -------------------------------------------

// Opens a function; `class` is its COFF storage class: 3 for those that only this file names, 2 for an external one.
.macro PROC name, class=3
    .p2align 4, 0xcc
.if ELF
    .type \name, @function
.else
    .def \name; .scl \class; .type 32; .endef
.endif
\name:
.if CFI
    .cfi_startproc
.endif
.endm

// Opens a function that is jumped to with the dispatcher's frame in EBP.
.macro PROC_IN_FRAME name, class=3, unasked=0
    PROC \name, \class
.if CFI
    .cfi_def_cfa ebp, FROM_EBP_CALLER
    .cfi_offset ebp, -FROM_EBP_CALLER
.endif
.ifeq \unasked
    CPP_PERSONALITY
    PERSONALITY
.endif
.endm

// Names the function that looks at exceptions of C++ when they leave the function just opened: GCC for i686 Windows
// does not make SEH exceptions of them.
.macro CPP_PERSONALITY
.if CFI & WINDOWS
    .cfi_personality 0, calltable_personality
.endif
.endm

// From here on EBX, ESI and EDI may be anything, and the locals hold what they were; so much for unwinders.
.macro KEPT_IN_LOCALS
.if CFI
    .cfi_offset ebx, AT_EBX - FROM_EBP_CALLER
    .cfi_offset esi, AT_ESI - FROM_EBP_CALLER
    .cfi_offset edi, AT_EDI - FROM_EBP_CALLER
.endif
.endm

// Loads them again. The locals still hold them, for unwinders, up to calltable_leave.
.macro RELOAD
    mov     ebx, [ebp + AT_EBX]
    mov     esi, [ebp + AT_ESI]
    mov     edi, [ebp + AT_EDI]
.endm

.macro END_PROC name
.if CFI
    .cfi_endproc
.endif
.if ELF
    .size \name, . - \name
.endif
.endm

// What indirect branches may go to under indirect-branch tracking. A processor below i686 takes ENDBR32 for invalid.
.macro LANDING_PAD
.if CET
    endbr32                                     // 4 bytes,
.else
    .byte   0x90, 0x90, 0x90, 0x90              // as these are: entries keep their size
.endif
.endm

// --- The table ----------------------------------------------------------------------------------------------------

.if ELF
    .section .text.calltable, "ax", @progbits
    .hidden calltable_table
    .hidden calltable_text_end
    .hidden calltable_contexts
    .hidden calltable_stale
    .hidden calltable_seh_handler
    .hidden calltable_exception
    .hidden calltable_end
    .hidden calltable_resume
.else
    .text
.endif

    .p2align 6, 0xcc                            // as in x86_64.S
    .globl calltable_table
PROC calltable_table, 2
.macro ENTRY slot
    NAME_ENTRY \slot
    LANDING_PAD                                 // 4 bytes
    call    calltable_dispatch                  // 5 bytes: pushes table + ENTRY_STRIDE * slot + ENTRY_RETURN
    jmp     eax                                 // 2 bytes
    .byte   0xcc, 0xcc, 0xcc, 0xcc, 0xcc        // to ENTRY_STRIDE; stops straight-line speculation past the JMP
.endm
    EACH_SLOT ENTRY
END_PROC calltable_table

.if ELF
// Position-independent code finds itself by a call that is answered: the processor's return stack stays balanced.
PROC calltable_here
    mov     eax, [esp]
    ret
    int3
END_PROC calltable_here
.endif

// Finds the context of the entry whose return address is at ESP, and puts its address in EAX. If there is none, EAX is
// anything, and the macro goes to `none`. Keeps all other registers.
.macro FIND_CONTEXT none
.if ELF
    push    ecx
.if CFI
    .cfi_adjust_cfa_offset 4
.endif
    mov     ecx, [esp + 4]
    call    calltable_here
7:
.att_syntax prefix                              // the other syntax has no differences of symbols in all assemblers
    subl    %eax, %ecx
    addl    $(7b - calltable_table - ENTRY_RETURN), %ecx            // from the first entry to the one that was called
    cmpl    calltable_contexts + CONTEXTS_SPAN - 7b(%eax), %ecx     // for the JAE below
    movl    calltable_contexts + CONTEXTS_FIRST - 7b(%eax), %eax
.intel_syntax noprefix
    lea     eax, [eax + 2 * ecx]                // a context is two entries long
    pop     ecx
.if CFI
    .cfi_adjust_cfa_offset -4
.endif
    jae     \none
.else
    mov     eax, [esp]
    sub     eax, offset calltable_table + ENTRY_RETURN              // from the first entry to the one that was called
    cmp     eax, [calltable_contexts + CONTEXTS_SPAN]
    jae     \none
    add     eax, eax                            // a context is two entries long
    add     eax, [calltable_contexts + CONTEXTS_FIRST]
.endif
.endm

// Has the entry jump to `target`, a function of this file. The return address in the entry stays for it, as if the
// entry had called it; a copy answers the CALL.
.macro ANSWER target
    push    dword ptr [esp]
.if CFI
    .cfi_def_cfa_offset 8                       // of the two, the one that stays is the return address
.endif
.if ELF
    call    calltable_here
7:
.att_syntax prefix
    leal    \target - 7b(%eax), %eax
.intel_syntax noprefix
.else
    mov     eax, offset \target
.endif
    ret
    int3
.endm

// --- calltable_dispatch: slot, context, what the entry jumps to ---------------------------------------------------
//
// The second byte of the state has all flags that choose a lane. A handler with its data in ECX or EDX, and none of the
// other flags, finds its arguments where the foreign code has put them, and removes what that expects to be removed. So
// nothing is left to do after it. The register is nobody's: the convention has no argument there, or none in this call.
//
// The CALL is answered before the handler runs, so that each entry has a jump of its own: the processor predicts it by
// its address, however many slots with however many handlers there are (docs/design/entry.md).
//
//   address     from the PUSH of the generation on
//   esp+0x08    return address in the foreign caller
//   esp+0x04    return address in the entry
//   esp+0x00    the context's generation
//
// On systems other than Windows, compilers rely on a stack pointer that is a multiple of 16 at each call, and code for
// Windows keeps it a multiple of 4: then the handler is called from a frame, which sets that right.
    .p2align 6, 0xcc
PROC calltable_dispatch
    FIND_CONTEXT 3f
    push    dword ptr [eax + CONTEXT_GENERATION]                    // before all else that may change: see below
.if CFI
    .cfi_def_cfa_offset 8
.endif
    cmp     byte ptr [eax + CONTEXT_STATE + 1], STATE_DATA_ECX >> 8
    jne     1f
.if ELF
    lea     edx, [esp + 0x0c]                   // ESP before the foreign CALL
    test    dl, 15
    jnz     2f
.endif
    mov     edx, [eax + CONTEXT_HANDLER]
    mov     ecx, [eax + CONTEXT_DATA]
    mov     eax, [eax + CONTEXT_GENERATION]
    cmp     eax, [esp]                          // same generation before and after: state, handler and data are of one
    jne     4f                                  // registration
    mov     eax, edx
    add     esp, 4
.if CFI
    .cfi_def_cfa_offset 4
.endif
    ret
    int3
.if CFI
    .cfi_def_cfa_offset 8
.endif
1:  cmp     byte ptr [eax + CONTEXT_STATE + 1], STATE_DATA_EDX >> 8
    jne     2f
.if ELF
    lea     edx, [esp + 0x0c]
    test    dl, 15
    jnz     2f
.endif
    push    dword ptr [eax + CONTEXT_HANDLER]
.if CFI
    .cfi_def_cfa_offset 12
.endif
    mov     edx, [eax + CONTEXT_DATA]
    mov     eax, [eax + CONTEXT_GENERATION]
    cmp     eax, [esp + 4]
    pop     eax
.if CFI
    .cfi_def_cfa_offset 8
.endif
    jne     4f
    add     esp, 4
.if CFI
    .cfi_def_cfa_offset 4
.endif
    ret
    int3
.if CFI
    .cfi_def_cfa_offset 8
.endif
2:  add     esp, 4
.if CFI
    .cfi_def_cfa_offset 4
.endif
3:  ANSWER calltable_select
4:  add     esp, 4                              // released while we read: no later registration gets this call
.if CFI
    .cfi_def_cfa_offset 4
.endif
    ANSWER calltable_released
END_PROC calltable_dispatch

// --- calltable_select: a frame for everything else ----------------------------------------------------------------
//
// In: the return address in the entry at ESP, after it that in the foreign caller.

// Puts the frame's record first in the chain of SEH handlers, if there is a chain. In: EAX, the state. EDX is lost.
.macro PUSH_RECORD
.if WINDOWS
    mov     edx, offset calltable_seh_handler
.else
.if ELF
    call    calltable_here
7:
.att_syntax prefix
    movl    calltable_contexts + CONTEXTS_SEH - 7b(%eax), %edx
.intel_syntax noprefix
    mov     eax, [ebp + AT_STATE]
.else
    mov     edx, [calltable_contexts + CONTEXTS_SEH]
.endif
    test    edx, edx
    jz      9f
.endif
    mov     [ebp + AT_RECORD + 4], edx
    mov     edx, fs:[0]
    mov     [ebp + AT_RECORD], edx
    lea     edx, [ebp + AT_RECORD]
    mov     fs:[0], edx
9:
.endm

// Takes it off again, and with it whatever the handler has left before it.
.macro POP_RECORD
    cmp     dword ptr [ebp + AT_RECORD + 4], 0
    je      9f
    mov     ecx, [ebp + AT_RECORD]
    mov     fs:[0], ecx
9:
.endm

// Back to the foreign code, the callee's cleanup done: the return address moves up by AT_CLEANUP bytes, over the
// arguments. EAX, EDX and ST0 stay. (A macro called LEAVE would be taken for the instruction.)
.macro RETURN_TO_CALLER
    mov     ecx, [ebp + AT_CLEANUP]
    test    ecx, ecx                            // of cdecl calls: ESP need not wait for a number in memory
    jz      8f
    leave
.if CFI
    .cfi_def_cfa esp, 8
    .cfi_restore ebp
.endif
    add     esp, 8                              // generation, return address in the entry
.if CFI
    .cfi_def_cfa_offset 4                       // the foreign code is the caller
.endif
    add     ecx, esp                            // ECX is where the return address goes
    push    dword ptr [esp]                     // a POP alone would leave it below ESP, if it stays where it is
.if CFI
    .cfi_def_cfa_offset 8
.endif
    pop     dword ptr [ecx]
.if CFI
    .cfi_def_cfa_offset 4
.endif
    mov     esp, ecx
    ret
    int3
.if CFI
    .cfi_def_cfa ebp, FROM_EBP_CALLER
    .cfi_offset ebp, -FROM_EBP_CALLER
.endif
8:  leave
.if CFI
    .cfi_def_cfa esp, 8
    .cfi_restore ebp
.endif
    add     esp, 8
.if CFI
    .cfi_def_cfa_offset 4
.endif
    ret
    int3
.endm

// As calltable_select, for a call that a release has overtaken: with a generation that the context never has, so that
// the call is refused.
PROC calltable_released
    LANDING_PAD                                 // the entry jumps here
    FIND_CONTEXT calltable_no_context
    push    dword ptr [eax + CONTEXT_GENERATION]
.if CFI
    .cfi_def_cfa_offset 8
.endif
    not     dword ptr [esp]                     // 2^31 releases away
    jmp     calltable_framed
END_PROC calltable_released

PROC calltable_select
    LANDING_PAD                                 // the entry jumps here
    FIND_CONTEXT calltable_no_context
    push    dword ptr [eax + CONTEXT_GENERATION]                    // before all else that may change
.if CFI
    .cfi_def_cfa_offset 8
.endif
calltable_framed:                               // with the context in EAX, 0 if there is none
    push    ebp
.if CFI
    .cfi_def_cfa_offset FROM_EBP_CALLER
    .cfi_offset ebp, -FROM_EBP_CALLER
.endif
    mov     ebp, esp
.if CFI
    .cfi_def_cfa_register ebp
.endif
    sub     esp, LOCALS_SIZE
    mov     [ebp + AT_ECX], ecx
    mov     [ebp + AT_EDX], edx
    xor     edx, edx
    mov     [ebp + AT_RECORD + 4], edx
    mov     ecx, eax
    test    eax, eax
    jz      5f                                  // no context: a state of 0, and nothing to remove
    mov     eax, [ecx + CONTEXT_STATE]
    mov     edx, [ecx + CONTEXT_CLEANUP]        // it outlives the registration, for stale calls
5:  mov     [ebp + AT_CONTEXT], ecx
    mov     [ebp + AT_STATE], eax
    mov     [ebp + AT_CLEANUP], edx
    test    eax, STATE_COUNTED | STATE_CONTAIN
    jnz     4f
calltable_counted:                              // with the context in ECX and the state in EAX, 0 to refuse
    test    eax, STATE_RECORD
    jz      1f
    PUSH_RECORD
1:  test    eax, eax
    jz      3f                                  // not live
    mov     edx, [ecx + CONTEXT_HANDLER]
    mov     [ebp + AT_HANDLER], edx
    mov     edx, [ecx + CONTEXT_DATA]
    mov     [ebp + AT_DATA], edx
    mov     ecx, [ecx + CONTEXT_GENERATION]     // same generation before and after: state, handler and data are of one
    cmp     ecx, [ebp + FROM_EBP_GENERATION]    // registration
    je      calltable_lanes
    jmp     calltable_overtaken
calltable_leave:
    POP_RECORD
    mov     ecx, [ebp + AT_STATE]
    test    ecx, STATE_COUNTED
    jnz     6f
1:  RETURN_TO_CALLER
.if CFI
    .cfi_def_cfa ebp, FROM_EBP_CALLER           // as it is where the branches come from
    .cfi_offset ebp, -FROM_EBP_CALLER
.endif
6:  test    ecx, STATE_EXCLUSIVE
    mov     ecx, [ebp + AT_CONTEXT]
    jnz     2f
    lock dec dword ptr [ecx + CONTEXT_CALLS]
    jmp     1b
2:  mov     dword ptr [ecx + CONTEXT_CALLS], 0  // while it runs nobody else changes the number: see x86_64.S
    jmp     1b
// What an exception looks at is filled before the record is in the chain. A CALL reaches below all locals, so that the
// stack does not end between them and the record.
4:  test    eax, STATE_CONTAIN
    jz      1f
    call    calltable_save                      // what an exception leaves in registers is anything
    xor     edx, edx
    mov     [ebp + AT_ASKED], edx
    pushfd
    pop     dword ptr [ebp + AT_FLAGS]
.if CET
.ifeq WINDOWS
    rdsspd  edx                                 // does nothing on processors without shadow stacks, or with theirs off
    mov     [ebp + AT_SHADOW], edx
.endif
.endif
1:  test    eax, STATE_COUNTED
    jz      calltable_counted
    call    calltable_enter
    jz      calltable_counted
    and     dword ptr [ebp + AT_STATE], STATE_FLOAT | STATE_F80     // refused, and not counted
    xor     eax, eax
    jmp     calltable_counted
calltable_overtaken:
    mov     ecx, [ebp + AT_CONTEXT]             // released while we read
3:  mov     [ebp + AT_DATA], ecx                // the stale handler's data is the context, or null; one more says that
    and     dword ptr [ebp + AT_STATE], STATE_COUNTED | STATE_EXCLUSIVE | STATE_FLOAT | STATE_F80
.if ELF                                         // the registration runs (src/stale.rs)
    call    calltable_here
1:
.att_syntax prefix
    leal    calltable_stale - 1b(%eax), %eax
.intel_syntax noprefix
.else
    mov     eax, offset calltable_stale
.endif
    mov     [ebp + AT_HANDLER], eax
    jmp     calltable_frame
calltable_lanes:                                // calltable_resume comes here, too: the state in EAX, the data in EDX
    test    eax, STATE_FRAME | STATE_SAVE | STATE_DATA_ECX | STATE_DATA_EDX
    jz      5f
    test    eax, STATE_FRAME
    jnz     6f
    test    eax, STATE_DATA_ECX                 // a register of the data's is nobody's
    jz      1f
    mov     [ebp + AT_ECX], edx
1:  test    eax, STATE_DATA_EDX
    jz      1f
    mov     [ebp + AT_EDX], edx
1:  test    eax, STATE_SAVE
    jnz     calltable_direct_saving
5:  test    eax, STATE_RECORD
    jnz     calltable_direct_framed
    jmp     calltable_direct
6:  test    eax, STATE_SAVE
    jz      calltable_frame
    jmp     calltable_frame_saving
calltable_no_context:
.if CFI
    .cfi_def_cfa esp, 4                         // as it is where the branch comes from
    .cfi_restore ebp
.endif
    push    0                                   // no context, and no generation: a hook has moved the CALL, or nothing
.if CFI                                         // was ever registered in that slot
    .cfi_def_cfa_offset 8
.endif
    xor     eax, eax
    jmp     calltable_framed
END_PROC calltable_select

// Counts the call, which is to be counted, with the context in ECX. In one step with the comparison of the generation,
// as in calltable_count, x86_64.S. ZF says that it has entered; else ECX is the context, or one more if the
// registration runs. Keeps EAX.
//
//   address     after the pushes
//   esp+0x0c    return address
//   esp+0x08    the state, EAX
//   esp+0x04    EBX
//   esp+0x00    ESI
PROC calltable_enter
    push    eax
.if CFI
    .cfi_adjust_cfa_offset 4
.endif
    push    ebx
.if CFI
    .cfi_adjust_cfa_offset 4
    .cfi_rel_offset ebx, 0
.endif
    push    esi
.if CFI
    .cfi_adjust_cfa_offset 4
    .cfi_rel_offset esi, 0
.endif
    mov     esi, ecx
    mov     edx, [ebp + FROM_EBP_GENERATION]    // the high half of the word: the generation whose calls are counted,
    mov     ecx, edx                            // before and after;
    mov     eax, [esi + CONTEXT_CALLS]          // the low half: their number
1:  test    dword ptr [esp + 8], STATE_EXCLUSIVE
    jz      2f
    test    eax, eax
    jnz     3f                                  // an exclusive handler is running already, or the generation has ended
2:  lea     ebx, [eax + 1]
    lock cmpxchg8b [esi + CONTEXT_CALLS]        // EDX:EAX is what is there, if it is something else
    jz      4f
    cmp     edx, ecx
    je      1b                                  // another call came first
    mov     edx, 0                              // the generation has ended
    jmp     5f
3:  mov     edx, [esi + CONTEXT_CALLS + 4]
    cmp     edx, ecx
    mov     edx, 0
    jne     5f
    inc     edx
5:  mov     ecx, esi
    add     ecx, edx                            // the context or one more: not 0, as ZF says
    jmp     6f
4:  mov     ecx, esi
6:  pop     esi
.if CFI
    .cfi_adjust_cfa_offset -4
    .cfi_restore esi
.endif
    pop     ebx
.if CFI
    .cfi_adjust_cfa_offset -4
    .cfi_restore ebx
.endif
    pop     eax
.if CFI
    .cfi_adjust_cfa_offset -4
.endif
    ret
    int3
END_PROC calltable_enter

// --- Direct lane --------------------------------------------------------------------------------------------------
//
//   address            while the handler runs (the first is a multiple of 16)
//   esp+4*words        the data, if it comes on the stack
//   esp+0x00           copy of the foreign call's words

// In: EAX, the state.
.macro CALL_DIRECT
    and     eax, STATE_POSITIONS                // words + 1
    mov     ecx, eax
    neg     ecx
    lea     esp, [esp + 4 * ecx]
    and     esp, -16                            // a multiple of 16 when all have been pushed
    lea     esp, [esp + 4 * eax]
    push    dword ptr [ebp + AT_DATA]
    jmp     2f
1:  push    dword ptr [ebp + FROM_EBP_ARGUMENTS + 4 * eax - 4]
2:  dec     eax
    jnz     1b
    mov     ecx, [ebp + AT_ECX]
    mov     edx, [ebp + AT_EDX]
    call    [ebp + AT_HANDLER]
    jmp     calltable_leave
.endm

// A frame without a record has nothing to say about exceptions.
PROC_IN_FRAME calltable_direct, unasked=1
    CALL_DIRECT
END_PROC calltable_direct

PROC_IN_FRAME calltable_direct_framed
    CALL_DIRECT
END_PROC calltable_direct_framed

// --- Direct lane, saving ------------------------------------------------------------------------------------------

// A handler that keeps only ESP has lost EBP. It is found again on the stack: above the arguments, if the handler has
// removed them, else at a fixed place, and in the word above that, should the handler have removed the address of its
// result.
.set DIRECT_ROOM, (4 * (MAX_POSITIONS + 3) + 15) & -16
.set DIRECT_EBP, DIRECT_ROOM - 8

PROC_IN_FRAME calltable_direct_saving
    call    calltable_save
    KEPT_IN_LOCALS
    sub     esp, DIRECT_ROOM
    and     esp, -16
    mov     ecx, [ebp + AT_STATE]
    and     ecx, STATE_POSITIONS                // words + 1
    mov     eax, [ebp + AT_DATA]
    mov     [esp + 4 * ecx - 4], eax
    jmp     2f
1:  mov     eax, [ebp + FROM_EBP_ARGUMENTS + 4 * ecx - 4]
    mov     [esp + 4 * ecx - 4], eax
2:  dec     ecx
    jnz     1b
    mov     ecx, [ebp + AT_ECX]
    mov     edx, [ebp + AT_EDX]
    mov     [esp + DIRECT_EBP], ebp
    mov     [esp + DIRECT_EBP + 4], ebp
    mov     eax, [ebp + AT_STATE]
    test    eax, STATE_HANDLER_POPS
    jz      3f
    test    eax, STATE_DATA_ECX | STATE_DATA_EDX
    jz      1f
    and     eax, STATE_POSITIONS                // the words alone: in the place of the data, which is in a register
    mov     [esp + 4 * eax - 4], ebp
1:  and     eax, STATE_POSITIONS                // the words, and the data
    mov     [esp + 4 * eax], ebp
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
//   esp+0x28           EBP, for the saving lane
//   esp+0x10           the frame (src/frame/x86.rs): result, arguments, registers
//   esp+0x04           address of the frame
//   esp+0x00           data
.set FRAME_AT,   0x10
.set FRAME_EBP,  FRAME_AT + FRAME_SIZE
.set FRAME_ROOM, FRAME_EBP + 4

.macro ARGUMENTS_FRAME
    sub     esp, FRAME_ROOM
    and     esp, -16
    lea     eax, [ebp + FROM_EBP_ARGUMENTS]
    mov     [esp + FRAME_AT + FRAME_ARGUMENTS], eax
    mov     eax, [ebp + AT_ECX]
    mov     [esp + FRAME_AT + FRAME_REGISTERS + 0], eax
    mov     eax, [ebp + AT_EDX]
    mov     [esp + FRAME_AT + FRAME_REGISTERS + 4], eax
    xor     eax, eax
    mov     [esp + FRAME_AT + FRAME_RESULT + 0], eax    // a handler that sets no result returns 0
    mov     [esp + FRAME_AT + FRAME_RESULT + 4], eax
    mov     [esp + FRAME_AT + FRAME_RESULT + 8], eax
    mov     eax, [ebp + AT_DATA]
    mov     [esp + 0x00], eax
    lea     eax, [esp + FRAME_AT]
    mov     [esp + 0x04], eax
.endm

// Loads the result that is at `at`, and goes on behind the macro.
.macro LOAD_RESULT at:vararg
    mov     eax, [\at + 0]
    mov     edx, [\at + 4]
    test    dword ptr [ebp + AT_STATE], STATE_FLOAT | STATE_F80
    jz      9f
    test    dword ptr [ebp + AT_STATE], STATE_F80
    jnz     8f
    fld     qword ptr [\at]
    jmp     9f
8:  fld     tbyte ptr [\at]
9:
.endm

PROC_IN_FRAME calltable_frame
    ARGUMENTS_FRAME
    call    [ebp + AT_HANDLER]
    LOAD_RESULT esp + FRAME_AT + FRAME_RESULT
    jmp     calltable_leave
END_PROC calltable_frame

PROC_IN_FRAME calltable_frame_saving
    call    calltable_save
    KEPT_IN_LOCALS
    ARGUMENTS_FRAME
    mov     [esp + FRAME_EBP], ebp
    cld                                         // the handler's own convention may rely on it
    call    [ebp + AT_HANDLER]
    mov     ebp, [esp + FRAME_EBP]
    LOAD_RESULT esp + FRAME_AT + FRAME_RESULT
    jmp     calltable_restore
END_PROC calltable_frame_saving

// --- What a handler that keeps nothing may have wrecked ------------------------------------------------------------

// Called with the dispatcher's frame in EBP, where it saves what calltable_restore restores; the control words only for
// those who asked.
PROC calltable_save
    mov     [ebp + AT_EBX], ebx
    mov     [ebp + AT_ESI], esi
    mov     [ebp + AT_EDI], edi
    test    dword ptr [ebp + AT_STATE], STATE_CONTROL | STATE_CONTAIN
    jz      1f
    fnstcw  [ebp + AT_X87]
.if FPU
    stmxcsr [ebp + AT_MXCSR]
.endif
1:  ret
    int3
END_PROC calltable_save

PROC_IN_FRAME calltable_restore
    KEPT_IN_LOCALS
    cld                                         // the foreign caller relies on it
    test    dword ptr [ebp + AT_STATE], STATE_CONTROL
    jz      1f
    fnstsw  [ebp + AT_X87 + 2]
    mov     ecx, [ebp + AT_X87]
    mov     esi, ecx
    not     ecx                                 // what the foreign code has not masked,
    shr     esi, 16                             // and the handler has left pending,
    and     ecx, esi                            // would be raised by the foreign code's next x87 instruction
    test    ecx, 0x3f
    jz      2f
    fnclex
2:  fldcw   [ebp + AT_X87]
.if FPU
    ldmxcsr [ebp + AT_MXCSR]
.endif
1:  RELOAD
    jmp     calltable_leave
END_PROC calltable_restore

// --- Exceptions ---------------------------------------------------------------------------------------------------

// The handler of the dispatcher's SEH record, in assembly so that this object can list it for SafeSEH.
    .globl  calltable_seh_handler
PROC calltable_seh_handler, 2
    LANDING_PAD                                 // called through the record
    jmp     calltable_exception                 // src/seh/x86.rs
END_PROC calltable_seh_handler

// Ends an exception: calltable_end(record of the dispatcher, exception, function that unwinds the stack). It is
// given the dispatcher's frame here, since RtlUnwind keeps EBP and no other register.
    .globl  calltable_end
PROC calltable_end, 2
    LANDING_PAD                                 // Rust may call it through a pointer in memory
    mov     ecx, [esp + 4]
    mov     edx, [esp + 8]
    mov     eax, [esp + 12]
    lea     ebp, [ecx - AT_RECORD]
.if CFI
    .cfi_def_cfa ebp, FROM_EBP_CALLER
    .cfi_offset ebp, -FROM_EBP_CALLER
.endif
    KEPT_IN_LOCALS
    push    0                                   // RtlUnwind(frame, where to continue, exception, result)
    push    edx
.ifeq ELF                                       // there seh::unwind is called, which returns
    mov     edx, offset calltable_resume
.endif
    push    edx
    push    ecx
    call    eax
    jmp     calltable_resume
END_PROC calltable_end

    .globl  calltable_resume
PROC_IN_FRAME calltable_resume, 2
    KEPT_IN_LOCALS
    lea     esp, [ebp - LOCALS_SIZE]
.if CET
.ifeq WINDOWS
    mov     edx, [ebp + AT_SHADOW]              // Windows has done that itself
    test    edx, edx
    jz      2f
    rdsspd  eax
    sub     edx, eax
    shr     edx, 2                              // return addresses, and what the processor keeps for an exception
1:  mov     eax, 255                            // the most that can be dropped at once
    cmp     edx, eax
    cmovb   eax, edx
    incsspd eax
    sub     edx, eax
    jnz     1b
2:
.endif
.endif
    cld                                         // the handler may have been anywhere, in the middle of a string
    fninit                                      // instruction or of x87 code
    fldcw   [ebp + AT_X87]
.if FPU
    ldmxcsr [ebp + AT_MXCSR]
.endif
    RELOAD
    mov     edx, [ebp + AT_OUTCOME + OUTCOME_HANDLER]
    test    edx, edx
    jz      2f
    mov     [ebp + AT_HANDLER], edx             // the same call again, to a handler that makes the result
    lea     edx, [ebp + AT_OUTCOME + OUTCOME_ROOM]
    mov     [ebp + AT_DATA], edx
    mov     eax, [ebp + AT_STATE]
    jmp     calltable_lanes
2:  LOAD_RESULT ebp + AT_OUTCOME + FRAME_RESULT
    jmp     calltable_leave
END_PROC calltable_resume

    .globl  calltable_text_end                  // src/entry.rs, locate
calltable_text_end:

// --- What the unwinder is asked (src/seh/unwound.rs) ---------------------------------------------------------------

.if UNWINDER
    .hidden calltable_personality
    .text                                       // no part of the dispatchers
// The value of a register, by a function of the unwinder that runs; no other one needs to be linked. 0 if it is not
// known here: the image was linked or loaded without it.
    .weak   _Unwind_GetGR
    .globl  calltable_unwinder_register
    .hidden calltable_unwinder_register
PROC calltable_unwinder_register
    LANDING_PAD                                 // Rust may call it through a pointer in memory
    call    calltable_here
.att_syntax prefix
    addl    $_GLOBAL_OFFSET_TABLE_, %eax        // from this instruction, which is what the linker puts there
    movl    _Unwind_GetGR@GOT(%eax), %eax
.intel_syntax noprefix
    test    eax, eax
    jz      1f
    jmp     eax
1:  ret
    int3
END_PROC calltable_unwinder_register
.endif

// --- Notes for the linker -----------------------------------------------------------------------------------------

    STACK_NOTE
.if CET
    PROPERTY_NOTE 4, 0xc0000002, 3              // GNU_PROPERTY_X86_FEATURE_1_AND: IBT | SHSTK
.endif

.if GUARD & WINDOWS
    .safeseh calltable_seh_handler              // an image with a list of handlers may run no other
.endif

    GUARD_LIST 0x801                            // this object lists its guard targets and its SEH handlers
    .text
