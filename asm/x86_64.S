// The CALL table and its dispatchers for x86_64, Microsoft calling convention.
//
// Way of one call: foreign code -> entry -> calltable_dispatch, which jumps to the handler -> entry -> foreign code.
//
//   address     on entry to calltable_dispatch (RSP is 8 more than a multiple of 16, as at any function's start)
//   rsp+0x58+   positions 4, 5, ... of the foreign call
//   rsp+0x50    home of R9  (position 3) |
//   rsp+0x48    home of R8  (position 2)  | home space: belongs to the callee, so to us;
//   rsp+0x40    home of RDX (position 1)  | together with the words above it makes the
//   rsp+0x38    home of RCX (position 0) |  arguments one array of 8-byte positions
//   rsp+0x30    return address in the foreign caller
//   rsp+0x28    position 4 of the handler                       | the entry's frame
//   rsp+0x08    home space of the handler: its positions 0 to 3 |
//   rsp+0x00    return address in the entry: table + ENTRY_STRIDE * slot + ENTRY_RETURN
//
// The convention: arguments in RCX RDX R8 R9 or XMM0-3 by position, then on the stack. To be preserved: RBX RBP
// RDI RSI RSP R12-R15, XMM6-15, the control bits of MXCSR, the x87 control word; DF is clear at entry and exit.
// RAX, R10 and R11 carry no argument: the dispatchers work in these three until the others have been stored.
//
// calltable_dispatch   finds the context; itself the direct lane for 4 positions; all else continues in
// calltable_frame_alone
//                      frame lane, without options, the arguments in their registers; all else continues in
// calltable_select     picks one of the lanes below, for most of them with all arguments in memory; through it go also
// calltable_short      direct lane, fewer positions, the data in a register
// calltable_exclusive  exclusive calls, 4 positions, the arguments in their registers
// calltable_count      all other calls that are counted while they run (tracked and exclusive registrations)
// calltable_contain    calls whose exceptions the embedder may end here
// calltable_enchain    puts a counted or contained call in the thread's chain, on systems other than Windows
// calltable_long       direct lane, more than 4 positions, four of them in their registers
// calltable_direct     direct lane, any number of positions, all in memory
// calltable_frame      frame lane with options; stale calls take it too
// calltable_saving     both lanes for handlers that keep no register but RSP
//
// The file has neither #define nor #include: it is read by GAS, by Clang and by rustc's global_asm!. The build
// script puts `.set` lines for the names in capitals (build.rs, numbers) in front of it, and the crate's version into
// every name that the whole defines (asm/names.rs), so that two versions of the crate link side by side.

.intel_syntax noprefix

.set ARGUMENTS, ENTRY_FRAME + 0x10              // from RSP on entry to calltable_dispatch
// The shape of a typed closure that is exclusive, and of nothing else.
.set EXCLUSIVE_SHAPE, STATE_COUNTED + STATE_EXCLUSIVE + JUMP_POSITIONS + 1

// --- What differs between ELF and COFF: sections, symbols, unwind data -------------------------------------------

// Opens a function; `class` is its COFF storage class: 3 for those that only this file names, 2 for an external one.
// Unwind data says: nothing pushed yet, return address at RSP.
.macro PROC name, class=3
    .p2align 2, 0xcc                            // more takes room, and gains nothing
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
// for somebody to handle it; @unwind: when the frame is about to go). Elsewhere all have the same one.
.macro ON_EXCEPTION name, kinds:vararg
.if WINDOWS
    .seh_handler \name, \kinds
.else
    PERSONALITY
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

// Saves RFLAGS; FREE takes them off.
.macro SAVE_FLAGS
    pushfq
.if ELF
    .cfi_adjust_cfa_offset 8
.else
    .seh_stackalloc 8
.endif
.endm

// Saves the preserved register XMM`number`, the first being 6, in an array at RSP + `at`, a multiple of 16, of which R9
// is the middle: so the distance takes one byte; restores it. (MOVUPS is as fast as MOVAPS there.)
.macro SAVE_XMM number, at
    movups  [r9 + 16 * (\number - 11)], xmm\number
.if ELF
    .cfi_rel_offset xmm\number, \at + 16 * (\number - 6)
.else
    .seh_savexmm xmm\number, \at + 16 * (\number - 6)
.endif
.endm

.macro RESTORE_XMM number
    movups  xmm\number, [r9 + 16 * (\number - 11)]
.if ELF
    .cfi_restore xmm\number
.endif
.endm

// --- The full save, for handlers that keep no register but RSP ----------------------------------------------------
//
//   address              after SAVE_ALL
//   rsp+room+0xB8+       if asked for, 8 bytes of nothing and RFLAGS; eight pushed registers, then the stack as the
//                        lane found it
//   rsp+room+0xB2        x87 status word, after the handler
//   rsp+room+0xB0        x87 control word
//   rsp+room+0xA8        MXCSR
//   rsp+room+0xA0        the context's state: the handler may wreck every copy of it in a register
//   rsp+room+0x00        XMM6 to XMM15, 16 bytes each
//   rsp+0x00             `room` bytes for the lane: first of all the handler's home space
//
// RSP is a multiple of 16 then, and the room has to be one. With `flags`, RFLAGS are above the other things.
.set SAVED_STATE,   0xA0
.set SAVED_MXCSR,   0xA8
.set SAVED_X87,     0xB0
.set SAVE_AREA,     0xB8                        // with `flags` 8 more

.macro SAVE_ALL room, flags=0
    SAVE_REG rbx
    SAVE_REG rbp
    SAVE_REG rdi
    SAVE_REG rsi
    SAVE_REG r12
    SAVE_REG r13
    SAVE_REG r14
    SAVE_REG r15
.if \flags
    SAVE_FLAGS
.endif
    ALLOC   (\room + SAVE_AREA + 8 * \flags)
.if FPU
    lea     r9, [rsp + \room + 0x50]            // free: the arguments are in memory
    SAVE_XMM 6, \room
    SAVE_XMM 7, \room
    SAVE_XMM 8, \room
    SAVE_XMM 9, \room
    SAVE_XMM 10, \room
    SAVE_XMM 11, \room
    SAVE_XMM 12, \room
    SAVE_XMM 13, \room
    SAVE_XMM 14, \room
    SAVE_XMM 15, \room
.endif
    END_PROLOGUE
.if FPU
    mov     [r9 + SAVED_STATE - 0x50], r10
    test    r10d, STATE_CONTROL                 // storing and loading the control words is slow:
    jz      1f                                  // only for those who asked
    stmxcsr [r9 + SAVED_MXCSR - 0x50]
    fnstcw  [r9 + SAVED_X87 - 0x50]
1:
.endif
    cld                                         // the handler's own convention may rely on it
.endm

.macro RESTORE_ALL room, flags=0
    cld                                         // the foreign caller relies on it
.if FPU
    lea     r9, [rsp + \room + 0x50]
    test    dword ptr [r9 + SAVED_STATE - 0x50], STATE_CONTROL
    jz      1f
    ldmxcsr [r9 + SAVED_MXCSR - 0x50]
.ifeq \flags                                    // (within calltable_contain the inner lane has done it)
    fnstsw  [r9 + SAVED_X87 - 0x50 + 2]
    mov     ecx, [r9 + SAVED_X87 - 0x50]
    mov     edx, ecx
    not     ecx                                 // what the foreign code has not masked,
    shr     edx, 16                             // and the handler has left pending,
    and     edx, ecx                            // would be raised by the foreign code's next x87 instruction
    test    dl, 0x3f
    jz      2f
    fnclex
2:
.endif
    fldcw   [r9 + SAVED_X87 - 0x50]
1:
    RESTORE_XMM 6
    RESTORE_XMM 7
    RESTORE_XMM 8
    RESTORE_XMM 9
    RESTORE_XMM 10
    RESTORE_XMM 11
    RESTORE_XMM 12
    RESTORE_XMM 13
    RESTORE_XMM 14
    RESTORE_XMM 15
.endif
    FREE    (\room + SAVE_AREA + 16 * \flags)
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
    .hidden calltable_table                     // no use of these names passes through a PLT or a GOT,
    .hidden calltable_contexts                  // and none becomes part of a shared object's interface
    .hidden calltable_stale
    .hidden calltable_push_record
    .hidden calltable_resume
    .hidden calltable_text_end
    .hidden calltable_counting
    .hidden calltable_counting_exclusive
    .hidden calltable_containing
.else
    .text
.endif

    .p2align 6, 0xcc
    .globl calltable_table
.if ELF
    .type calltable_table, @function
calltable_table:
    .cfi_startproc
// One rule serves every instruction of every entry, as linkers write it for a PLT: the frame has been taken where the
// address modulo ENTRY_STRIDE is 8 to 15 (from the CALL up to ADD), so there the return address is that much higher.
// DW_CFA_def_cfa_expression: RSP + 8 + ((RIP & (ENTRY_STRIDE - 8)) == 8) * ENTRY_FRAME
    .cfi_escape 0x0f, 12, 0x77, 8, 0x80, 0, 0x30 + ENTRY_STRIDE - 8, 0x1a, 0x38, 0x29, 0x08, ENTRY_FRAME, 0x1e, 0x22
.else
    .def calltable_table; .scl 2; .type 32; .endef
calltable_table:
.endif
// An entry keeps the processor's return stack and shadow stack balanced: its CALL is answered by the RET of the handler
// that the dispatcher jumps to, or of the dispatcher, and its own RET answers the foreign call.
//
//   address     from the CALL on, up to ADD
//   rsp+0x28    return address in the foreign caller
//   rsp+0x20    position 4 of the handler
//   rsp+0x00    home space of the handler
.macro ENTRY slot
    NAME_ENTRY \slot
.ifeq WINDOWS
    endbr64                                     // 4 bytes: landing pad, wanted under indirect-branch tracking
.endif                                          // (which Windows does not use)
    sub     rsp, ENTRY_FRAME                    // 4 bytes: the handler's frame of arguments
    call    calltable_dispatch                  // 5 bytes: pushes table + ENTRY_STRIDE * slot + ENTRY_RETURN
    add     rsp, ENTRY_FRAME                    // 4 bytes: result registers are as the handler left them
    ret                                         // 1 byte
    .skip   ENTRY_STRIDE - ENTRY_RETURN - 5, 0xcc   // INT3 stops straight-line speculation past the RET
.endm
    EACH_SLOT ENTRY
.if ELF
    .cfi_endproc
    .size calltable_table, . - calltable_table
.else
// Windows finds the unwind data of a function by its addresses: each entry is one, and all share the same data. Between
// ADD and RET it knows an epilogue by its bytes; so it does at the return address, with the same outcome.
    .section .xdata, "dr"
    .balign 4
calltable_entry_frame:
    .byte   1                                   // version 1, no handler
    .byte   ENTRY_RETURN - 5                    // size of the prologue
    .byte   1                                   // unwind codes
    .byte   0                                   // no frame register
    .byte   ENTRY_RETURN - 5                    // where the instruction ends that is undone
    .byte   2 + (ENTRY_FRAME / 8 - 1) * 16      // UWOP_ALLOC_SMALL
    .short  0                                   // the number of codes is made even
    .section .pdata, "dr"
    .balign 4
.macro UNWIND_ENTRY slot
    .rva    calltable_table + ENTRY_STRIDE * \slot, calltable_table + ENTRY_STRIDE * (\slot + 1)
    .rva    calltable_entry_frame
.endm
    EACH_SLOT UNWIND_ENTRY
    .text
.endif

// --- calltable_dispatch: slot, context; direct lane for 4 positions -----------------------------------------------
//
// The low 16 bits of the state are positions + 1 where no flag is set, and 0 where the context is not live. One compare
// tells the handlers with 4 positions, to which the dispatcher jumps, from all else, which continues after it. They
// return to the entry. Typed closures have 4 positions if they have fewer, the others being of no use.
//
// The JMP to the handler lies in the 64 bytes in which the dispatcher starts, and no branch is taken on the way to it:
// where it does not, calls of many entries that have several handlers in turn take up to 4 ns more
// (docs/design/entry.md). If the instructions become longer, the `.org` does not assemble.
    .p2align 6, 0xcc
PROC calltable_dispatch
    END_PROLOGUE
    mov     r11, [rsp]
    lea     rax, [rip + calltable_table + ENTRY_RETURN]
    sub     r11, rax                            // from the first entry to the one that was called
    cmp     r11, [rip + calltable_contexts + CONTEXTS_SPAN]
    jae     3f                                  // no entry with a context
.if CONTEXT_SIZE - ENTRY_STRIDE
    add     r11, r11                            // a context is two entries long (src/context.rs), or one
.endif
    add     r11, [rip + calltable_contexts + CONTEXTS_FIRST]
    mov     r10, [r11 + CONTEXT_STATE]
    cmp     r10w, JUMP_POSITIONS + 1
    jne     1f
    mov     rax, [r11 + CONTEXT_DATA]
    mov     [rsp + 8 + 8 * JUMP_POSITIONS], rax // the data follows the last argument, in the entry's frame
    mov     rax, [r11 + CONTEXT_HANDLER]
    cmp     r10, [r11 + CONTEXT_STATE]          // same state before and after: handler and data are one pair
    jne     2f
    jmp     rax
    .org    calltable_dispatch + 64, 0xcc
3:  xor     r11d, r11d                          // no context: never used, or a hook has moved the CALL
2:
calltable_overtaken:                            // or one that was released while we read: the other lanes come here,
    xor     r10d, r10d                          // too, RSP and the arguments as they came
    jmp     calltable_refuse
END_PROC calltable_dispatch

// --- Frame lane, and calltable_frame_alone ------------------------------------------------------------------------
//
// All comes here that is not a handler with 4 positions and without options. What is not in the frame lane, or has
// options there, continues in calltable_select; no branch is taken on the way of the rest.
//
//   address            while the handler runs
//   rsp+0x20           the frame (src/frame/x86_64.rs): result, arguments, floats
//   rsp+0x00           home space of the handler
.set FRAME_AT,   0x20
.set FRAME_ROOM, FRAME_AT + FRAME_SIZE          // RSP is a multiple of 16 then

// In: where the first position is, in RAX, and the room at RSP. Loses R8.
.macro FILL_FRAME
    mov     [rsp + FRAME_AT + FRAME_ARGUMENTS], rax
.if FPU
    movsd   [rsp + FRAME_AT + FRAME_FLOATS + 0x00], xmm0
    movsd   [rsp + FRAME_AT + FRAME_FLOATS + 0x08], xmm1
    movsd   [rsp + FRAME_AT + FRAME_FLOATS + 0x10], xmm2
    movsd   [rsp + FRAME_AT + FRAME_FLOATS + 0x18], xmm3
.endif
    xor     r8d, r8d
    mov     [rsp + FRAME_AT + FRAME_RESULT + 0], r8     // a handler that sets no result returns 0
    mov     [rsp + FRAME_AT + FRAME_RESULT + 8], r8
.endm

.macro LOAD_RESULT
    mov     rax, [rsp + FRAME_AT + FRAME_RESULT]        // the result's type decides which one the caller reads
.if FPU
    movq    xmm0, qword ptr [rsp + FRAME_AT + FRAME_RESULT + 0]     // in halves, as they were stored: one load of
    movhps  xmm0, qword ptr [rsp + FRAME_AT + FRAME_RESULT + 8]     // 16 bytes would wait until both are in the cache
.endif
.endm

// In: R11 context, R10 its state, which is not that of 4 positions alone; the arguments as they came.
PROC calltable_frame_alone
1:  lea     eax, [r10 - 1]                      // AX: positions, if no flag is set; 0 wraps round
    cmp     ah, STATE_FRAME >> 8
    jne     calltable_select
    ALLOC   FRAME_ROOM
    END_PROLOGUE
    lea     rax, [rsp + FRAME_ROOM + ARGUMENTS]
    mov     [rax + 0x00], rcx                   // all arguments in memory, in order
    mov     [rax + 0x08], rdx
    mov     [rax + 0x10], r8
    mov     [rax + 0x18], r9
    FILL_FRAME
    mov     rcx, [r11 + CONTEXT_DATA]
    mov     rax, [r11 + CONTEXT_HANDLER]
    cmp     r10, [r11 + CONTEXT_STATE]          // same state before and after: handler and data are one pair
    jne     1f
    lea     rdx, [rsp + FRAME_AT]
    call    rax
    LOAD_RESULT
    FREE    FRAME_ROOM
    RETURN
.if ELF
    .cfi_adjust_cfa_offset FRAME_ROOM           // as it is where the branch comes from
.endif
1:  FREE    FRAME_ROOM                          // directly before the JMP: an epilogue, to a Windows unwinder
    jmp     calltable_refused
END_PROC calltable_frame_alone

// --- calltable_select: everything else ----------------------------------------------------------------------------
//
// In: R11 context, R10 its state, AX the low half of that, minus 1: positions, if no flag is set.
// At calltable_refuse AX is of no use, and R10 0 as if the context were not live, with R11 0 if there is none.
// Leaves to calltable_short, calltable_long and calltable_exclusive, RSP and the arguments as they came, and to the
// other lanes, RSP as it came:
//   RAX  the arguments: home space and what follows     RCX  handler
//   R10  the state, its flags                           RDX  data
PROC calltable_select
    END_PROLOGUE
    cmp     ax, JUMP_POSITIONS
    jb      calltable_short
    cmp     ax, MAX_POSITIONS
    jbe     calltable_long
    movzx   eax, ax                             // (a number of 16 bits in a compare is slow to decode)
    cmp     eax, EXCLUSIVE_SHAPE - 1
    je      calltable_exclusive
calltable_refuse:                               // with R10 0: as if not live
    lea     rax, [rsp + ARGUMENTS]
    mov     [rax + 0x00], rcx                   // all arguments in memory, in order
    mov     [rax + 0x08], rdx
    mov     [rax + 0x10], r8
    mov     [rax + 0x18], r9
    test    r10d, STATE_COUNTED
    jnz     calltable_count
calltable_counted:                              // calltable_count calls this, with RAX, R10 and R11 set
    test    r10w, r10w
    jz      1f                                  // not live
    mov     rcx, [r11 + CONTEXT_HANDLER]
    mov     rdx, [r11 + CONTEXT_DATA]
    cmp     r10, [r11 + CONTEXT_STATE]          // same state before and after: handler and data are one pair
    jne     1f
    test    r10d, STATE_CONTAIN
    jnz     calltable_contain
calltable_lanes:                                // calltable_contain calls this
    test    r10d, STATE_SAVE
    jnz     calltable_saving
    test    r10d, STATE_FRAME
    jnz     calltable_frame
    jmp     calltable_direct
calltable_refused:                              // from lanes that have put the arguments in memory, RSP as it came
    lea     rax, [rsp + ARGUMENTS]
1:  lea     rcx, [rip + calltable_stale]
    mov     rdx, r11                            // its data is the context, or null where there is none; one more says
                                                // that the registration runs (src/stale.rs)
    jmp     calltable_frame
END_PROC calltable_select

// --- calltable_short: direct lane, fewer than 4 positions ---------------------------------------------------------
//
// In: R11 context, R10 its state; no flag is set. Takes no stack: the data goes into a register that the foreign call
// does not use, and the handler returns to the entry.
PROC calltable_short
    END_PROLOGUE
    mov     rax, [r11 + CONTEXT_DATA]
    cmp     r10b, 2
    cmovb   rcx, rax                            // 0 positions
    cmove   rdx, rax                            // 1 position
    cmp     r10b, 4
    cmovb   r8, rax                             // 2 positions, or fewer: then R8 is nobody's
    cmove   r9, rax                             // 3 positions
    mov     rax, [r11 + CONTEXT_HANDLER]
    cmp     r10, [r11 + CONTEXT_STATE]          // same state before and after: handler and data are one pair
    jne     calltable_overtaken
    jmp     rax
END_PROC calltable_short

// --- The chain of calls that exceptions must know of, on systems other than Windows (src/seh/linked.rs) -----------
//
// Windows finds calls by their unwind data. Elsewhere a record of each contained or counted call is in a chain of the
// thread's, once the embedder has said where the chain begins.

// Puts the record at RSP + `at` first in the chain, if there is one. R8 and R9 are lost, the arguments being in memory.
.macro PUSH_RECORD at, contains
.ifeq WINDOWS
    lea     r8, [rsp + \at]
    mov     r9d, \contains
    mov     qword ptr [r8 + CHAIN_RECORD_BLOCK], 0
    cmp     qword ptr [rip + calltable_contexts + CONTEXTS_SEH], 0
    je      9f
    call    calltable_enchain
9:
.endif
.endm

// Takes it off again, and with it whatever the handler has left before it. Keeps RAX and XMM0, the result.
.macro POP_RECORD at
.ifeq WINDOWS
    mov     rcx, [rsp + \at + CHAIN_RECORD_BLOCK]
    test    rcx, rcx
    jz      9f
    mov     rdx, [rsp + \at]                    // the next record
    mov     [rcx], rdx                          // is the head
9:
.endif
.endm

// Calls Rust with a record; keeps all that a lane or its choice needs.
//
//   address     during the call
//   rsp+0x60    RAX RCX RDX R10 R11
//   rsp+0x20    XMM0 to XMM3
//   rsp+0x00    home space
.ifeq WINDOWS
PROC calltable_enchain
    ALLOC   0x88
    END_PROLOGUE
    mov     [rsp + 0x60], rax
    mov     [rsp + 0x68], rcx
    mov     [rsp + 0x70], rdx
    mov     [rsp + 0x78], r10
    mov     [rsp + 0x80], r11
.if FPU
    movaps  [rsp + 0x20], xmm0
    movaps  [rsp + 0x30], xmm1
    movaps  [rsp + 0x40], xmm2
    movaps  [rsp + 0x50], xmm3
.endif
    mov     rcx, r8
    mov     edx, r9d
    call    calltable_push_record
.if FPU
    movaps  xmm0, [rsp + 0x20]
    movaps  xmm1, [rsp + 0x30]
    movaps  xmm2, [rsp + 0x40]
    movaps  xmm3, [rsp + 0x50]
.endif
    mov     rax, [rsp + 0x60]
    mov     rcx, [rsp + 0x68]
    mov     rdx, [rsp + 0x70]
    mov     r10, [rsp + 0x78]
    mov     r11, [rsp + 0x80]
    FREE    0x88
    RETURN
END_PROC calltable_enchain
.endif

// --- calltable_count: tracked and exclusive registrations ---------------------------------------------------------
//
// A call enters by adding 1 to the number of running calls of its own generation, the one in the state that it has
// read. Comparison and addition are one step: a call that a release has overtaken finds another generation there, and
// touches nothing; a release that finds the number 0 ends the generation in the same way, in one step (src/context.rs).
//
// While an exclusive call runs, nobody else changes that word: others find a number that is not 0. So a plain store
// takes the call off, of the value that the word had before it. (A decrement would load first, and the load wait until
// the locked instruction is over: 4 ns.) That value follows from the state, so that none has to be loaded to enter,
// either.

// Exclusive registrations with a handler of 4 positions and no other option, such as typed closures; not where there is
// a chain of exceptions. In: R11 context, R10 its state, the arguments as they came.
//
// There is no second look at the state: once the call has entered, the slot cannot be given to somebody else before it
// ends, and if it was before, the call does not enter. So handler and data are those of the state.
//
//   address     while the handler runs
//   rsp+0x68    return address in the foreign caller
//   rsp+0x40    the entry's frame
//   rsp+0x38    return address in the entry
//   rsp+0x30    the word of running calls, as it is when this one has ended
//   rsp+0x28    context
//   rsp+0x20    position 4 of the handler: the data
//   rsp+0x00    home space of the handler
.set EXCLUSIVE_CALLS,   EXCLUSIVE_CONTEXT + 8
.set EXCLUSIVE_ROOM,    0x38

PROC calltable_exclusive
    ON_EXCEPTION calltable_uncount_exclusive, @unwind
.ifeq WINDOWS
    cmp     qword ptr [rip + calltable_contexts + CONTEXTS_SEH], 0
    jne     calltable_refuse                    // to calltable_count, which puts the call in the chain
.endif
    ALLOC   EXCLUSIVE_ROOM
    mov     rax, [r11 + CONTEXT_DATA]
    mov     [rsp + 8 * JUMP_POSITIONS], rax
    mov     [rsp + EXCLUSIVE_CONTEXT], r11
    mov     rax, r10
    and     rax, -GENERATION                    // the state's generation, and no call of it running
    mov     [rsp + EXCLUSIVE_CALLS], rax
    lea     r10, [rax + 1]
    lock cmpxchg [r11 + CONTEXT_CALLS], r10
    jne     1f                                  // RAX is what is there instead
    END_PROLOGUE                                // from here on an exception has something to undo
    call    [r11 + CONTEXT_HANDLER]
    .globl  calltable_counting_exclusive        // as calltable_counting
calltable_counting_exclusive:
    mov     r11, [rsp + EXCLUSIVE_CONTEXT]
    mov     r10, [rsp + EXCLUSIVE_CALLS]
    mov     [r11 + CONTEXT_CALLS], r10
    FREE    EXCLUSIVE_ROOM
    RETURN
.if ELF
    .cfi_adjust_cfa_offset EXCLUSIVE_ROOM       // as it is where the branch comes from
.endif
1:  xor     rax, r10
    cmp     rax, GENERATION
    adc     r11, 0                              // one more if the generation is the same: refused as running
    FREE    EXCLUSIVE_ROOM                      // directly before the JMP: an epilogue, to a Windows unwinder
    jmp     calltable_overtaken
END_PROC calltable_exclusive

// All others.
//
//   address     while the lane runs
//   rsp+0x58    return address in the foreign caller
//   rsp+0x30    the entry's frame
//   rsp+0x28    return address in the entry
//   rsp+0x20    the context's state
//   rsp+0x00    record: the context, and on systems other than Windows what the chain needs
.set COUNT_STATE, CHAIN_RECORD_SIZE
.set COUNT_ROOM,  CHAIN_RECORD_SIZE + 8

PROC calltable_count
    ON_EXCEPTION calltable_uncount, @unwind
    ALLOC   COUNT_ROOM
    mov     [rsp + CHAIN_RECORD_CONTEXT], r11
    mov     [rsp + COUNT_STATE], r10
    mov     rax, r10
    and     rax, -GENERATION                    // the state's generation, and no call of it running
    jmp     2f
1:  mov     rcx, rax                            // RAX is what is there instead
    xor     rcx, r10
    cmp     rcx, GENERATION
    jae     3f                                  // the state's generation has ended
    test    r10d, STATE_EXCLUSIVE
    jnz     4f                                  // an exclusive handler is running already
2:  lea     rcx, [rax + 1]
    test    ecx, GENERATION - 1
    jz      4f                                  // one more cannot be counted
    lock cmpxchg [r11 + CONTEXT_CALLS], rcx
    jne     1b
    END_PROLOGUE                                // from here on an exception has something to undo
    PUSH_RECORD 0, 0
    lea     rax, [rsp + COUNT_ROOM + ARGUMENTS]
    call    calltable_counted
    .globl  calltable_counting                  // src/entry/x86_64.rs: below it on the stack is a call that is counted
calltable_counting:
    POP_RECORD 0
    mov     r11, [rsp + CHAIN_RECORD_CONTEXT]
    mov     r10, [rsp + COUNT_STATE]
    test    r10d, STATE_EXCLUSIVE
    jz      1f
    and     r10, -GENERATION                    // no call is running
    mov     [r11 + CONTEXT_CALLS], r10
    jmp     2f
1:  lock dec qword ptr [r11 + CONTEXT_CALLS]
2:  FREE    COUNT_ROOM
    RETURN
.if ELF
    .cfi_adjust_cfa_offset COUNT_ROOM           // as it is where the branches come from
.endif
4:  inc     r11                                 // refused as running
3:  FREE    COUNT_ROOM                          // directly before the JMP: an epilogue, to a Windows unwinder
    jmp     calltable_refused                   // and not counted
END_PROC calltable_count

// A call that an exception ends is not running any more. Windows calls these with the frame of calltable_count, or
// calltable_exclusive, in RDX.
.if WINDOWS
PROC calltable_uncount
    END_PROLOGUE
    mov     r11, [rdx + CHAIN_RECORD_CONTEXT]
    lock dec qword ptr [r11 + CONTEXT_CALLS]
    mov     eax, 1                              // ExceptionContinueSearch: continue unwinding
    RETURN
END_PROC calltable_uncount

PROC calltable_uncount_exclusive
    END_PROLOGUE
    mov     r11, [rdx + EXCLUSIVE_CONTEXT]
    mov     rax, [rdx + EXCLUSIVE_CALLS]
    mov     [r11 + CONTEXT_CALLS], rax
    mov     eax, 1                              // ExceptionContinueSearch: continue unwinding
    RETURN
END_PROC calltable_uncount_exclusive
.endif

// --- calltable_contain: calls whose exceptions the embedder may end here ------------------------------------------
//
// When an exception leaves the handler, a function of Rust asks the filter at the start of the data: Windows calls
// calltable_exception (src/seh/windows.rs), elsewhere the embedder's trap handler comes to it by the chain
// (src/seh/linked.rs). If the filter ends the exception, the call continues at calltable_resume, with every
// register that the convention preserves as it was at the CALL: Windows unwinds the stack for that; elsewhere RCX leads
// back to here, and they have been saved. DF, the x87 stack, the control words and the shadow stack are put
// right there, AC before it (src/seh/ask.rs).
//
//   address     when the lane is called (RSP is a multiple of 16): Windows
//   rsp+0xB0    the entry's frame; frame of calltable_count, if the call is counted
//   rsp+0xA8    return address in the entry; in calltable_count
//   rsp+0xA0    RFLAGS
//   rsp+0x00    the contained call (src/seh/call.rs, Call): outcome, data, state, control words, the low half of RFLAGS
//
//   address     elsewhere
//   rsp+0x1D8   return address in the entry; in calltable_count
//   rsp+0xD0    the full save with RFLAGS, which is described above
//   rsp+0xA0    record, shadow stack's pointer (src/seh/linked.rs, LinkedCall)
//   rsp+0x00    the contained call
//
// Windows asks no filter while RIP is in the prologue: so what a filter reads is filled there.
PROC calltable_contain
    ON_EXCEPTION calltable_exception, @unwind, @except
.if WINDOWS
    SAVE_FLAGS
    ALLOC   CONTAINED_SIZE
    mov     r9d, [rsp + CONTAINED_SIZE]
.else
    SAVE_ALL LINKED_SIZE, 1
    mov     r9d, [rsp + LINKED_SIZE + SAVE_AREA + 8]
.endif
    lea     r8, [rsp + CONTAINED_DATA]          // the distances from here take one byte
    mov     [r8 + CONTAINED_FLAGS - CONTAINED_DATA], r9d
    mov     [r8], rdx
    mov     [r8 + CONTAINED_STATE - CONTAINED_DATA], r10
    xor     r9d, r9d
    mov     [r8 + CONTAINED_ASKED - CONTAINED_DATA], r9w
    mov     [rsp + FRAME_ARGUMENTS], rax
.if FPU
    stmxcsr [r8 + CONTAINED_MXCSR - CONTAINED_DATA]
    fnstcw  [r8 + CONTAINED_X87 - CONTAINED_DATA]
    movsd   [rsp + FRAME_FLOATS + 0x00], xmm0
    movsd   [rsp + FRAME_FLOATS + 0x08], xmm1
    movsd   [rsp + FRAME_FLOATS + 0x10], xmm2
    movsd   [rsp + FRAME_FLOATS + 0x18], xmm3
.endif
.if WINDOWS
    END_PROLOGUE
.else
    rdsspq  r9                                  // does nothing on processors without shadow stacks, or with theirs off
    mov     [r8 + LINKED_SHADOW - CONTAINED_DATA], r9
    mov     [r8 + LINKED_RECORD + CHAIN_RECORD_CONTEXT - CONTAINED_DATA], r11
.endif
    PUSH_RECORD LINKED_RECORD, 1
    jmp     3f
    .globl  calltable_resume
calltable_resume:
.ifeq WINDOWS
.if ELF
    .cfi_def_cfa_register rcx
.endif
    endbr64                                     // Rust may call it through a pointer in memory
    mov     rsp, rcx
.if ELF
    .cfi_def_cfa_register rsp
.endif
    mov     rdx, [rsp + LINKED_SHADOW]          // 0 where there is none
    test    rdx, rdx
    jz      2f
    rdsspq  rax
    sub     rdx, rax
    shr     rdx, 3                              // return addresses, and what the processor keeps for an exception
1:  mov     eax, 255                            // the most that can be dropped at once
    cmp     rdx, rax
    cmovb   rax, rdx
    incsspq rax
    sub     rdx, rax
    jnz     1b
2:
.endif
    cld                                         // the handler may have been anywhere, in the middle of a string
.if FPU
    fninit                                      // instruction or of x87 code
    fldcw   [rsp + CONTAINED_X87]
    ldmxcsr [rsp + CONTAINED_MXCSR]
    movsd   xmm0, [rsp + FRAME_FLOATS + 0x00]
    movsd   xmm1, [rsp + FRAME_FLOATS + 0x08]
    movsd   xmm2, [rsp + FRAME_FLOATS + 0x10]
    movsd   xmm3, [rsp + FRAME_FLOATS + 0x18]
.endif
    lea     rdx, [rsp + OUTCOME_ROOM]           // the same call again, to a handler that makes the result
    mov     rax, [rsp + FRAME_ARGUMENTS]
    mov     r10, [rsp + CONTAINED_STATE]
    mov     rcx, [rsp + OUTCOME_HANDLER]
    test    rcx, rcx
    jnz     3f
    mov     rax, [rsp + FRAME_RESULT]           // or there is none
.if FPU
    movups  xmm0, [rsp + FRAME_RESULT]
.endif
    jmp     4f
3:  call    calltable_lanes
    .globl  calltable_containing                // src/seh/unwound.rs: here the handler's frames are gone
calltable_containing:
    nop                                         // or the return address would look like an epilogue, for which no
                                                // handler is asked
4:  POP_RECORD LINKED_RECORD
.if WINDOWS
    FREE    (CONTAINED_SIZE + 8)
.else
    RESTORE_ALL LINKED_SIZE, 1
.endif
    RETURN
END_PROC calltable_contain

// --- Direct lane, positions in memory -----------------------------------------------------------------------------
//
//   address            while the handler runs
//   rsp+DIRECT_ROOM    return address in the entry, or in whoever has called this lane
//   rsp+8*positions    data
//   rsp+0x00           copy of the foreign call's positions from the fifth on; the first four are the home space of
//                      the handler
.set DIRECT_ROOM, 8 * (MAX_POSITIONS + 1)       // RSP is a multiple of 16 then: MAX_POSITIONS is even
.set SAVING_ROOM, (DIRECT_ROOM + 15) & -16      // the same under SAVE_ALL, where a frame has room, too

// Copies the positions from the fifth on to RSP, last ones first. In: a register with their number + 1; where the first
// position is, as a register and an offset; two registers to lose. Two at a time: with an odd number the fourth goes
// along, from one home space to another.
.macro COPY count, from, offset, one, two
3:  mov     \one, [\from + \offset + 8 * \count - 16]
    mov     \two, [\from + \offset + 8 * \count - 24]
    mov     [rsp + 8 * \count - 16], \one
    mov     [rsp + 8 * \count - 24], \two
    sub     \count, 2
4:  cmp     \count, 5
    ja      3b
.endm

// In: R11 context, R10 its state; more than 4 positions, and no flag.
PROC calltable_long
    ALLOC   DIRECT_ROOM
    END_PROLOGUE
    mov     rax, [r11 + CONTEXT_HANDLER]
    mov     [rsp], rax                          // in the handler's home space, where nothing is copied to
    mov     rax, [r11 + CONTEXT_DATA]
    cmp     r10, [r11 + CONTEXT_STATE]          // same state before and after: handler and data are one pair
    jne     1f
    movzx   r10d, r10b                          // positions + 1
    mov     [rsp + 8 * r10 - 8], rax            // the data follows the last position
    COPY    r10, rsp, (DIRECT_ROOM + ARGUMENTS), rax, r11
    call    [rsp]
    FREE    DIRECT_ROOM
    RETURN
.if ELF
    .cfi_adjust_cfa_offset DIRECT_ROOM          // as it is where the branch comes from
.endif
1:  FREE    DIRECT_ROOM                         // directly before the JMP: an epilogue, to a Windows unwinder
    jmp     calltable_overtaken
END_PROC calltable_long

// In: as calltable_select leaves it, and the room at RSP.
.macro CALL_DIRECT
    mov     r11, rcx
    movzx   r10d, r10b                          // positions + 1
    mov     [rsp + 8 * r10 - 8], rdx            // the data follows the last position,
    mov     r8d, r10d
    jmp     4f
    COPY    r8, rax, 0, rcx, r9
    mov     rcx, [rax + 0x00]
    mov     r8,  [rax + 0x10]
    mov     r9,  [rax + 0x18]
    cmp     r10d, 4                             // or is in a register: see calltable_short
    cmovb   r8, rdx
    cmove   r9, rdx
    cmp     r10d, 2
    cmovb   rcx, rdx
    cmovne  rdx, [rax + 0x08]
    call    r11
.endm

PROC calltable_direct
    ALLOC   DIRECT_ROOM
    END_PROLOGUE
    CALL_DIRECT
    FREE    DIRECT_ROOM
    RETURN
END_PROC calltable_direct

// --- Frame lane, with options -------------------------------------------------------------------------------------

// In: as calltable_select leaves it, and the room at RSP.
.macro CALL_FRAME saving
    FILL_FRAME
    mov     rax, rcx
    mov     rcx, rdx                            // first argument: data
    lea     rdx, [rsp + FRAME_AT]               // second argument: the frame
.if \saving
    mov     rdi, rcx                            // the same two for a handler of the System V convention
    mov     rsi, rdx
.endif
    call    rax
    LOAD_RESULT
.endm

PROC calltable_frame
    ALLOC   FRAME_ROOM
    END_PROLOGUE
    CALL_FRAME 0
    FREE    FRAME_ROOM
    RETURN
END_PROC calltable_frame

// Both lanes, for handlers that keep no register but RSP.
PROC calltable_saving
    SAVE_ALL SAVING_ROOM
    test    r10d, STATE_FRAME
    jnz     5f
    CALL_DIRECT
    jmp     6f
5:  CALL_FRAME 1
6:  RESTORE_ALL SAVING_ROOM
    RETURN
END_PROC calltable_saving

    .globl  calltable_text_end                  // src/entry.rs, locate
calltable_text_end:

// --- What the unwinder is asked (src/seh/unwound.rs) ---------------------------------------------------------------

// Calls a function of the unwinder that runs; no other one needs to be linked. 0 if it is not known here: the image was
// linked or loaded without it.
.macro ASK_UNWINDER name, function
    .weak   \function
    .globl  \name
    .hidden \name
PROC \name
    endbr64                                     // Rust may call it through a pointer in memory
    mov     rax, [rip + \function@GOTPCREL]
    test    rax, rax
    jz      1f
    jmp     rax
1:  RETURN
END_PROC \name
.endm

.if UNWINDER
    .hidden calltable_personality
    .text                                       // no part of the dispatchers
    ASK_UNWINDER calltable_unwinder_place, _Unwind_GetIP
    ASK_UNWINDER calltable_unwinder_stack, _Unwind_GetCFA
.endif

// --- Notes for the linker -----------------------------------------------------------------------------------------

    STACK_NOTE
    PROPERTY_NOTE 8, 0xc0000002, 3              // GNU_PROPERTY_X86_FEATURE_1_AND: IBT | SHSTK
    GUARD_LIST 0x4800                           // this object knows about guards: take its lists, do not guess
    CONTINUATION_LIST
    .text
