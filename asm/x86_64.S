// The CALL table and its dispatchers for x86_64, Microsoft calling convention.
//
// Way of one call: foreign code -> entry -> calltable_dispatch -> handler, and back the same way.
//
//   address     on entry to calltable_dispatch (RSP is a multiple of 16)
//   rsp+0x30+   positions 4, 5, ... of the foreign call
//   rsp+0x28    home of R9  (position 3) \
//   rsp+0x20    home of R8  (position 2)  | home space: belongs to the callee, so to us;
//   rsp+0x18    home of RDX (position 1)  | together with the words above it makes the
//   rsp+0x10    home of RCX (position 0) /  arguments one array of 8-byte positions
//   rsp+0x08    return address in the foreign caller
//   rsp+0x00    return address in the entry: table + 16 * slot + ENTRY_RETURN
//
// The convention: arguments in RCX RDX R8 R9 or XMM0-3 by position, then on the stack. To be preserved: RBX RBP
// RDI RSI RSP R12-R15, XMM6-15, the control bits of MXCSR, the x87 control word; DF is clear at entry and exit.
// RAX, R10 and R11 carry no argument: the dispatchers work in these three until the others have been stored.
//
// calltable_dispatch   finds the context; itself the direct lane for 0 to 4 positions, else jumps to
// calltable_select     reads handler and data, picks one of the lanes below; through it go also
// calltable_count      calls that are counted while they run (tracked and exclusive registrations)
// calltable_contain    calls whose exceptions the embedder may end here (Windows)
// calltable_direct     direct lane, any number of positions
// calltable_frame      frame lane; stale calls take it too
// calltable_direct_saving, calltable_frame_saving
//                      the same two for handlers that keep no register but RSP
//
// The file has neither #define nor #include: it is read by GAS, by Clang and by rustc's global_asm!. The build
// script puts `.set` lines for the names in capitals (build.rs, SHARED) in front of it and writes the crate's
// version, as 1_2_3, for the word VERSION in symbols, so that two versions of the crate link side by side.

.intel_syntax noprefix

// --- What differs between ELF and COFF: sections, symbols, unwind data -------------------------------------------

// Opens a function; `class` is its COFF storage class: 3 for those that only this file names, 2 for an external one.
// Unwind data says: nothing pushed yet, return address at RSP.
.macro PROC name, class=3
    .p2align 4, 0xcc
.if ELF
    .type \name, @function
\name:
    .cfi_startproc
.else
    .def \name; .scl \class; .type 32; .endef
    .seh_proc \name
\name:
.endif
.endm

// Ends the instructions that change what an unwinder must undo.
.macro END_PROLOGUE
.ifeq ELF
    .seh_endprologue
.endif
.endm

// Names the function that Windows calls when an exception leaves the function just opened (@except: while it looks
// for somebody to handle it; @unwind: when the frame is about to go).
.macro ON_EXCEPTION name, kinds:vararg
.if WINDOWS
    .seh_handler \name, \kinds
.endif
.endm

.macro END_PROC name
.if ELF
    .cfi_endproc
    .size \name, . - \name
.else
    .seh_endproc
.endif
.endm

// Returns; the INT3 stops straight-line speculation past the RET.
.macro RETURN
    ret
    int3
.endm

// Takes `bytes` from the stack; gives them back.
.macro ALLOC bytes
    sub     rsp, \bytes
.if ELF
    .cfi_adjust_cfa_offset \bytes
.else
    .seh_stackalloc \bytes
.endif
.endm

.macro FREE bytes
    add     rsp, \bytes
.if ELF
    .cfi_adjust_cfa_offset -(\bytes)
.endif
.endm

// Saves a preserved integer register; restores it.
.macro SAVE_REG register
    push    \register
.if ELF
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset \register, 0
.else
    .seh_pushreg \register
.endif
.endm

.macro RESTORE_REG register
    pop     \register
.if ELF
    .cfi_adjust_cfa_offset -8
    .cfi_restore \register
.endif
.endm

// Saves the preserved register XMM`number` at RSP + `offset`, a multiple of 16; restores it.
.macro SAVE_XMM number, offset
    movaps  [rsp + \offset], xmm\number
.if ELF
    .cfi_rel_offset xmm\number, \offset
.else
    .seh_savexmm xmm\number, \offset
.endif
.endm

.macro RESTORE_XMM number, offset
    movaps  xmm\number, [rsp + \offset]
.if ELF
    .cfi_restore xmm\number
.endif
.endm

// --- The full save, for handlers that keep no register but RSP ----------------------------------------------------
//
//   address              after SAVE_ALL
//   rsp+room+0xB8+       eight pushed registers, then the stack as the lane found it
//   rsp+room+0xB0        x87 control word
//   rsp+room+0xA8        MXCSR
//   rsp+room+0xA0        the context's state: the handler may wreck every copy of it in a register
//   rsp+room+0x00        XMM6 to XMM15, 16 bytes each
//   rsp+0x00             `room` bytes for the lane: first of all the handler's home space
//
// Eight pushes keep RSP a multiple of 16; the room and what lies above it do, too.
.set SAVED_STATE,   0xA0
.set SAVED_MXCSR,   0xA8
.set SAVED_X87,     0xB0
.set SAVE_AREA,     0xC0

.macro SAVE_ALL room
    SAVE_REG rbx
    SAVE_REG rbp
    SAVE_REG rdi
    SAVE_REG rsi
    SAVE_REG r12
    SAVE_REG r13
    SAVE_REG r14
    SAVE_REG r15
    ALLOC   (\room + SAVE_AREA)
.if SSE
    SAVE_XMM 6,  (\room + 0x00)
    SAVE_XMM 7,  (\room + 0x10)
    SAVE_XMM 8,  (\room + 0x20)
    SAVE_XMM 9,  (\room + 0x30)
    SAVE_XMM 10, (\room + 0x40)
    SAVE_XMM 11, (\room + 0x50)
    SAVE_XMM 12, (\room + 0x60)
    SAVE_XMM 13, (\room + 0x70)
    SAVE_XMM 14, (\room + 0x80)
    SAVE_XMM 15, (\room + 0x90)
.endif
    END_PROLOGUE
    mov     [rsp + \room + SAVED_STATE], r10
.if SSE
    test    r10d, STATE_CONTROL                 // storing and loading the control words is slow:
    jz      1f                                  // only for those who asked
    stmxcsr [rsp + \room + SAVED_MXCSR]
    fnstcw  [rsp + \room + SAVED_X87]
1:
.endif
    cld                                         // the handler's own convention may rely on it
.endm

.macro RESTORE_ALL room
    cld                                         // the foreign caller relies on it
.if SSE
    test    dword ptr [rsp + \room + SAVED_STATE], STATE_CONTROL
    jz      1f
    ldmxcsr [rsp + \room + SAVED_MXCSR]
    fldcw   [rsp + \room + SAVED_X87]
1:
    RESTORE_XMM 6,  (\room + 0x00)
    RESTORE_XMM 7,  (\room + 0x10)
    RESTORE_XMM 8,  (\room + 0x20)
    RESTORE_XMM 9,  (\room + 0x30)
    RESTORE_XMM 10, (\room + 0x40)
    RESTORE_XMM 11, (\room + 0x50)
    RESTORE_XMM 12, (\room + 0x60)
    RESTORE_XMM 13, (\room + 0x70)
    RESTORE_XMM 14, (\room + 0x80)
    RESTORE_XMM 15, (\room + 0x90)
.endif
    FREE    (\room + SAVE_AREA)
    RESTORE_REG r15
    RESTORE_REG r14
    RESTORE_REG r13
    RESTORE_REG r12
    RESTORE_REG rsi
    RESTORE_REG rdi
    RESTORE_REG rbp
    RESTORE_REG rbx
.endm

// --- The table ----------------------------------------------------------------------------------------------------

.if ELF
    .section .text.calltable, "ax", @progbits
    .hidden calltable_VERSION_table             // no use of these names passes through a PLT or a GOT,
    .hidden calltable_VERSION_contexts          // and none becomes part of a shared object's interface
    .hidden calltable_VERSION_stale
.else
    .text
.endif

    .globl calltable_VERSION_table
PROC calltable_VERSION_table, 2
    END_PROLOGUE
// An entry keeps the processor's return stack and shadow stack balanced: its CALL is answered by the dispatcher's
// RET, and its own RET answers the foreign call. RSP is back at the foreign return address between the two.
.macro ENTRY slot
.if GUARD
    .def calltable_entry_\slot; .scl 3; .type 32; .endef
calltable_entry_\slot:
.endif
    endbr64                                     // 4 bytes: landing pad, wanted under indirect-branch tracking
    call    calltable_dispatch                  // 5 bytes: pushes table + 16 * slot + ENTRY_RETURN
    ret                                         // 1 byte: result registers are as the dispatcher left them
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

// --- calltable_dispatch: slot, context; direct lane for 0 to 4 positions ------------------------------------------
//
//   address     while the handler runs          state & 0xffff of a live context on this way is positions + 1,
//   rsp+0x38    return address in the foreign   no flag set; 0, a context that is not live, and everything
//               caller                          else goes to calltable_select
//   rsp+0x30    return address in the entry
//   rsp+0x28    nothing: keeps RSP aligned
//   rsp+0x20    position 4 of the handler: the data if the foreign call has 4 positions
//   rsp+0x00    home space of the handler
PROC calltable_dispatch
    mov     r11, [rsp]
    lea     rax, [rip + calltable_VERSION_table + ENTRY_RETURN]
    sub     r11, rax                            // 16 * slot
    mov     rax, [rip + calltable_VERSION_contexts]
    lea     r11, [rax + 2 * r11]                // a context is two entries long
    mov     r10, [r11 + CONTEXT_STATE]
    movzx   eax, r10w
    dec     eax                                 // positions, if no flag is set; 0 wraps round
    cmp     eax, 4
    ja      calltable_select
    ALLOC   0x30
    END_PROLOGUE
    mov     rax, [r11 + CONTEXT_DATA]
    mov     [rsp + 0x20], rax                   // the data follows the last argument: position 4,
    cmp     r10b, 2                             // or a register that the foreign call does not use
    cmovb   rcx, rax                            // 0 positions
    cmove   rdx, rax                            // 1 position
    cmp     r10b, 4
    cmovb   r8, rax                             // 2 positions, or fewer: then R8 is nobody's
    cmove   r9, rax                             // 3 positions
    mov     rax, [r11 + CONTEXT_HANDLER]
    cmp     r10, [r11 + CONTEXT_STATE]          // same state before and after: handler and data are one pair
    jne     1f
    call    rax
    nop                                         // or the return address would look like an epilogue
    FREE    0x30
    RETURN
.if ELF
    .cfi_adjust_cfa_offset 0x30                 // 0x30 bytes are still taken where the branch comes from
.endif
1:  xor     r10d, r10d                          // released while we read: the arguments no longer matter
    FREE    0x30                                // directly before the JMP: an epilogue, to a Windows unwinder
    jmp     calltable_select
END_PROC calltable_dispatch

// --- calltable_select: everything else ----------------------------------------------------------------------------
//
// In: R11 context, R10 its state. Leaves to the lanes, RSP as it came:
//   RAX  the arguments: home space and what follows     RCX  handler
//   R10  the state, its flags                           RDX  data
PROC calltable_select
    END_PROLOGUE
    lea     rax, [rsp + 0x10]
    test    r10d, STATE_COUNTED
    jnz     calltable_count
calltable_counted:                              // calltable_count calls this with RAX, R10 and R11 set
    mov     [rax + 0x00], rcx                   // all arguments in memory, in order
    mov     [rax + 0x08], rdx
    mov     [rax + 0x10], r8
    mov     [rax + 0x18], r9
    test    r10w, r10w
    jz      1f                                  // not live
    mov     rcx, [r11 + CONTEXT_HANDLER]
    mov     rdx, [r11 + CONTEXT_DATA]
    cmp     r10, [r11 + CONTEXT_STATE]          // same state before and after: handler and data are one pair
    jne     1f
.if WINDOWS
    test    r10d, STATE_CONTAIN
    jnz     calltable_contain
.endif
calltable_lanes:                                // calltable_contain calls this
    test    r10b, STATE_SAVE
    jnz     2f
    test    r10b, STATE_FRAME
    jnz     calltable_frame
    jmp     calltable_direct
2:  test    r10b, STATE_FRAME
    jnz     calltable_frame_saving
    jmp     calltable_direct_saving
1:  lea     rcx, [rip + calltable_VERSION_stale]
    mov     rdx, r11                            // its data is the context
    jmp     calltable_frame
END_PROC calltable_select

// --- calltable_count: tracked and exclusive registrations ---------------------------------------------------------
//
// The locked addition is a full barrier: either a release sees this call in the count, or this call sees the
// release in the state when calltable_select compares it.
//
//   address     while the lane runs
//   rsp+0x20    return address in the foreign caller
//   rsp+0x18    return address in the entry
//   rsp+0x08    nothing: keeps RSP aligned
//   rsp+0x00    context
PROC calltable_count
    ON_EXCEPTION calltable_uncount, @unwind
    ALLOC   0x18
    END_PROLOGUE
    mov     [rsp], r11
    mov     eax, 1
    lock xadd dword ptr [r11 + CONTEXT_IN_FLIGHT], eax
    test    eax, eax
    jz      1f
    test    r10d, STATE_EXCLUSIVE
    jz      1f
    xor     r10d, r10d                          // an exclusive handler is running already: refuse, as if not live
1:  lea     rax, [rsp + 0x18 + 0x10]
    call    calltable_counted
    mov     r11, [rsp]
    lock dec dword ptr [r11 + CONTEXT_IN_FLIGHT]
    FREE    0x18
    RETURN
END_PROC calltable_count

// A call that an exception ends is not running any more. Windows calls this with the frame of calltable_count in RDX.
.if WINDOWS
PROC calltable_uncount
    END_PROLOGUE
    mov     r11, [rdx]
    lock dec dword ptr [r11 + CONTEXT_IN_FLIGHT]
    mov     eax, 1                              // ExceptionContinueSearch: go on unwinding
    RETURN
END_PROC calltable_uncount
.endif

// --- calltable_contain: calls whose exceptions the embedder may end here ------------------------------------------
//
// Windows calls calltable_VERSION_exception (src/seh/x86_64.rs) when an exception leaves the handler. That asks the
// filter at the start of the data; if it is to end the exception, the stack is unwound to here and the call goes on at
// calltable_VERSION_resume, with every general register and XMM register that the convention preserves as it was at
// the CALL. DF, the x87 stack and the control words are mended there.
//
//   address     when the lane is called (RSP becomes a multiple of 16 by that)
//   rsp+0xA0    return address in the foreign caller; frame of calltable_count, if the call is counted
//   rsp+0x98    return address in the entry; in calltable_count
//   rsp+0x00    the contained call (src/seh/x86_64.rs, Call): answer, data, state, control words
.if WINDOWS
PROC calltable_contain
    ON_EXCEPTION calltable_VERSION_exception, @unwind, @except
    ALLOC   CONTAINED_SIZE
    END_PROLOGUE
    mov     [rsp + CONTAINED_DATA], rdx
    mov     [rsp + CONTAINED_STATE], r10
    mov     word ptr [rsp + CONTAINED_ASKED], 0
    mov     [rsp + FRAME_ARGUMENTS], rax
.if SSE
    stmxcsr [rsp + CONTAINED_MXCSR]
    fnstcw  [rsp + CONTAINED_X87]
    movsd   [rsp + FRAME_FLOATS + 0x00], xmm0
    movsd   [rsp + FRAME_FLOATS + 0x08], xmm1
    movsd   [rsp + FRAME_FLOATS + 0x10], xmm2
    movsd   [rsp + FRAME_FLOATS + 0x18], xmm3
.endif
1:  call    calltable_lanes
    nop                                         // or the return address would look like an epilogue
    FREE    CONTAINED_SIZE
    RETURN
    .globl  calltable_VERSION_resume
    .def    calltable_VERSION_resume; .scl 2; .type 32; .endef
calltable_VERSION_resume:
    cld                                         // the handler may have been anywhere, in the middle of a string
.if SSE                                         // instruction or of x87 code
    fninit
    fldcw   [rsp + CONTAINED_X87]
    ldmxcsr [rsp + CONTAINED_MXCSR]
.endif
    mov     rcx, [rsp + ANSWER_HANDLER]
    test    rcx, rcx
    jz      2f
    lea     rdx, [rsp + ANSWER_ROOM]            // the same call again, to a handler that makes the result
    mov     rax, [rsp + FRAME_ARGUMENTS]
    mov     r10, [rsp + CONTAINED_STATE]
.if SSE
    movsd   xmm0, [rsp + FRAME_FLOATS + 0x00]
    movsd   xmm1, [rsp + FRAME_FLOATS + 0x08]
    movsd   xmm2, [rsp + FRAME_FLOATS + 0x10]
    movsd   xmm3, [rsp + FRAME_FLOATS + 0x18]
.endif
    jmp     1b
2:  mov     rax, [rsp + FRAME_RESULT]
.if SSE
    movups  xmm0, [rsp + FRAME_RESULT]
.endif
    FREE    CONTAINED_SIZE
    RETURN
END_PROC calltable_contain
.endif

// --- Direct lane, any number of positions -------------------------------------------------------------------------
//
//   address            while the handler runs
//   rsp+8*positions    data
//   rsp+0x00           copy of the foreign call's positions; the first four are the handler's home space
.set DIRECT_ROOM, (8 * (MAX_POSITIONS + 1) + 15) & -16

// In: as calltable_select leaves it, and the room at RSP.
.macro CALL_DIRECT
    mov     r8d, r10d
    and     r8d, STATE_POSITIONS                // positions + 1
    mov     [rsp + 8 * r8 - 8], rdx             // the data follows the last position
    jmp     4f
3:  mov     r9, [rax + 8 * r8 - 8]
    mov     [rsp + 8 * r8 - 8], r9
4:  dec     r8d
    jnz     3b
    mov     rax, rcx
    mov     rcx, [rsp + 0x00]                   // the register of a position above the data is nobody's
    mov     rdx, [rsp + 0x08]
    mov     r8,  [rsp + 0x10]
    mov     r9,  [rsp + 0x18]
    call    rax
    nop                                         // or the return address would look like an epilogue
.endm

PROC calltable_direct
    ALLOC   DIRECT_ROOM
    END_PROLOGUE
    CALL_DIRECT
    FREE    DIRECT_ROOM
    RETURN
END_PROC calltable_direct

PROC calltable_direct_saving
    SAVE_ALL DIRECT_ROOM
    CALL_DIRECT
    RESTORE_ALL DIRECT_ROOM
    RETURN
END_PROC calltable_direct_saving

// --- Frame lane ---------------------------------------------------------------------------------------------------
//
//   address            while the handler runs
//   rsp+0x58           nothing: keeps RSP aligned
//   rsp+0x20           the frame (src/frame.rs, RawFrame): result, arguments, floats
//   rsp+0x00           home space of the handler
.set FRAME_AT,   0x20
.set FRAME_ROOM, (FRAME_AT + FRAME_SIZE + 15) & -16

// In: as calltable_select leaves it, and the room at RSP.
.macro CALL_FRAME saving
    mov     [rsp + FRAME_AT + FRAME_ARGUMENTS], rax
.if SSE
    movsd   [rsp + FRAME_AT + FRAME_FLOATS + 0x00], xmm0
    movsd   [rsp + FRAME_AT + FRAME_FLOATS + 0x08], xmm1
    movsd   [rsp + FRAME_AT + FRAME_FLOATS + 0x10], xmm2
    movsd   [rsp + FRAME_AT + FRAME_FLOATS + 0x18], xmm3
.endif
    xor     r8d, r8d
    mov     [rsp + FRAME_AT + FRAME_RESULT + 0], r8     // a handler that sets no result returns 0
    mov     [rsp + FRAME_AT + FRAME_RESULT + 8], r8
    mov     rax, rcx
    mov     rcx, rdx                            // first argument: data
    lea     rdx, [rsp + FRAME_AT]               // second argument: the frame
.if \saving
    mov     rdi, rcx                            // the same two for a handler of the System V convention
    mov     rsi, rdx
.endif
    call    rax
    mov     rax, [rsp + FRAME_AT + FRAME_RESULT]        // the result's type decides which one the caller reads
.if SSE
    movq    xmm0, qword ptr [rsp + FRAME_AT + FRAME_RESULT + 0]     // in halves, as they were stored: one load of
    movhps  xmm0, qword ptr [rsp + FRAME_AT + FRAME_RESULT + 8]     // 16 bytes would wait until both are in the cache
.endif
.endm

PROC calltable_frame
    ALLOC   FRAME_ROOM
    END_PROLOGUE
    CALL_FRAME 0
    FREE    FRAME_ROOM
    RETURN
END_PROC calltable_frame

PROC calltable_frame_saving
    SAVE_ALL FRAME_ROOM
    CALL_FRAME 1
    RESTORE_ALL FRAME_ROOM
    RETURN
END_PROC calltable_frame_saving

// --- Notes for the linker -----------------------------------------------------------------------------------------

.if ELF
    .section .note.GNU-stack, "", @progbits     // no executable stack is needed

    .section .note.gnu.property, "a", @note     // ready for indirect-branch tracking and shadow stacks; without
    .p2align 3                                  // this note the linker drops both for the whole image
    .long   4                                   // size of the name
    .long   16                                  // size of the description
    .long   5                                   // NT_GNU_PROPERTY_TYPE_0
    .asciz  "GNU"
    .long   0xc0000002                          // GNU_PROPERTY_X86_FEATURE_1_AND
    .long   4                                   // size of the value
    .long   3                                   // IBT | SHSTK
    .long   0                                   // fills up to 8 bytes
.endif

.if GUARD
// Control Flow Guard: every entry is a target that foreign code may call, though nothing in this program names it.
.macro GUARD_TARGET slot
    .symidx calltable_entry_\slot
.endm
.if FEAT
    .globl  "@feat.00"                          // this object knows about guards: take its list, do not guess
    .set    "@feat.00", 0x4800                  // (rustc sets it itself, if it is asked for -Ccontrol-flow-guard)
.endif
    .section .gfids$y, "dr"
.altmacro
.set slot, 0
.rept CAPACITY
    GUARD_TARGET %slot
    .set slot, slot + 1
.endr
.noaltmacro
.if WINDOWS
// With /guard:ehcont Windows lets an unwinder resume only at listed addresses.
    .section .gehcont$y, "dr"
    .symidx calltable_VERSION_resume
.endif
.endif
    .text
