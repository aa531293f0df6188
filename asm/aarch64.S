// The CALL table and its dispatchers for AArch64: the Procedure Call Standard (AAPCS64), which C follows on Linux, UEFI
// and bare machines, and on Windows but for variadic functions.
//
// Way of one call: foreign code -> entry -> calltable_dispatch, which jumps to the handler -> foreign code.
//
// A CALL (BL) would overwrite X30, which has the foreign return address. So an entry loads its number and jumps, and
// where the handler needs nothing of the dispatcher's, nothing is on the stack: it finds all as the foreign code left
// it, and returns there itself. The other lanes push a link first:
//
//   address     in the outermost lane
//   x17+        the foreign code's arguments on the stack, which X17 points to, its SP
//   x17-0x08    nothing
//   x17-0x10    an address in the entry, as if that had called: table + ENTRY_STRIDE * slot + ENTRY_RETURN
//   x17-0x18    X30: where the foreign code continues; signed, if the build asks for that (PAC)
//   x17-0x20    X29, to which X29 points: a link in the chain of frames
//
// The convention: arguments by class in X0-X7 and V0-V7, then on the stack; X8 has the address for a result in memory.
// To be preserved: X19-X29, SP, the low halves of V8-V15; X18 is the system's own. Windows code expects its thread's
// block there; Linux uses X18 as anything else. X9-X17 carry no argument: the dispatchers work in these.
//
//   X9, X14     anything                       X13  data
//   X10         the context's state            X15  where that is, or the word of running calls
//   X11         the context, 0 if there is none
//   X12         the slot                       X16  handler: a jump through it lands on `bti c`
//
// calltable_dispatch   finds the context; itself the direct lane, if the data goes in a register; else jumps to
// calltable_select     picks one of the lanes below
// calltable_direct     direct lane with a frame: the data on the stack, or a lane further out
// calltable_frame      frame lane; stale calls take it too
// calltable_saving     both lanes for handlers that keep no register but SP
// calltable_keep       any lane, X18 kept; stale calls take it, too (not on Windows)
// calltable_count      calls that are counted while they run (tracked and exclusive registrations)
// calltable_contain    calls whose exceptions the embedder may end here
// calltable_enchain    puts a counted or contained call in the thread's chain, on systems other than Windows
//
// The file has neither #define nor #include: it is read by GAS, by Clang and by rustc's global_asm!. The build
// script puts `.set` lines for the names in capitals (build.rs, numbers) in front of it, and the crate's version into
// every name that the whole defines (asm/names.rs), so that two versions of the crate link side by side.

// --- What differs between ELF and COFF: sections, symbols, unwind data -------------------------------------------

// Opens a function; `class` is its COFF storage class: 3 for those that only this file names, 2 for an external one.
// Unwind data says: nothing pushed yet, return address in X30.
.macro PROC name, class=3
    .p2align 4
.if ELF
    .type \name, %function
\name:
    .cfi_startproc
.else
    .def \name; .scl \class; .type 32; .endef
    .seh_proc \name
\name:
.endif
.endm

// Ends the instructions that change what an unwinder must undo. Windows wants one code for each of them.
.macro END_PROLOGUE
.ifeq ELF
    .seh_endprologue
.endif
.endm

// Windows: the same, and so many instructions before it belong to the prologue, too, though an unwinder has nothing to
// undo of them: while the PC is there, it does not call the function's handler. (A wrong number is not assembled.)
.macro LONG_PROLOGUE instructions
.if WINDOWS
.rept \instructions
    .seh_nop
.endr
    END_PROLOGUE
.endif
.endm

// The end of the prologue on all other systems.
.macro SHORT_PROLOGUE
.ifeq WINDOWS
    END_PROLOGUE
.endif
.endm

// Names the function that Windows calls when an exception leaves the function just opened: while it looks for somebody
// to handle it, and again when the frame is about to go. (There is one bit for both: LLVM sets it by @except alone.) It
// gets as the frame SP as it was at entry. Elsewhere all have the same one.
.macro ON_EXCEPTION name
.if WINDOWS
    .seh_handler \name, @unwind, @except
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

// Around the instructions that undo the prologue, of which Windows wants the same codes.
.macro EPILOGUE
.ifeq ELF
    .seh_startepilogue
.endif
.endm

.macro END_EPILOGUE
.ifeq ELF
    .seh_endepilogue
.endif
.endm

// After a RETURN: link and room are there again, as they are where a branch comes from. (Not `.cfi_restore_state`: LLVM
// adjusts by what it has counted, and does not count that.)
.macro STILL_OPEN room
.if ELF
    .cfi_adjust_cfa_offset \room + LINK_SIZE
    .cfi_rel_offset x29, \room
    .cfi_rel_offset x30, \room + LINK_CALLER
.if PAC
    .cfi_negate_ra_state
.endif
.endif
.endm

// Signs the return address by the foreign code's SP, before it is stored; checks that when it has been loaded. In ELF
// files with the key A, in COFF files with B, which is what Windows' unwind code means. Processors that cannot do it
// take both for NOPs.
.macro SIGN
.if PAC
.if ELF
    hint    #25                                 // paciasp
    .cfi_negate_ra_state
.else
    hint    #27                                 // pacibsp
    .seh_pac_sign_lr
.endif
.endif
.endm

.macro CHECK
.if PAC
.if ELF
    hint    #29                                 // autiasp
    .cfi_negate_ra_state
.else
    hint    #31                                 // autibsp
    .seh_pac_sign_lr
.endif
.endif
.endm

// Pushes the link, but for the entry's address; takes it off.
.macro PUSH_LINK
    SIGN
    stp     x29, x30, [sp, #-LINK_SIZE]!
.if ELF
    .cfi_adjust_cfa_offset LINK_SIZE
    .cfi_rel_offset x29, 0
    .cfi_rel_offset x30, LINK_CALLER
.else
    .seh_save_fplr_x LINK_SIZE
.endif
.endm

.macro POP_LINK
    ldp     x29, x30, [sp], #LINK_SIZE
.if ELF
    .cfi_adjust_cfa_offset -LINK_SIZE
    .cfi_restore x29
    .cfi_restore x30
.else
    .seh_save_fplr_x LINK_SIZE
.endif
    CHECK
.endm

// Takes `bytes`, a multiple of 16, from the stack; gives them back.
.macro ALLOC bytes
    sub     sp, sp, #\bytes
.if ELF
    .cfi_adjust_cfa_offset \bytes
.else
    .seh_stackalloc \bytes
.endif
.endm

.macro FREE bytes
    add     sp, sp, #\bytes
.if ELF
    .cfi_adjust_cfa_offset -(\bytes)
.else
    .seh_stackalloc \bytes
.endif
.endm

// Saves two preserved registers at SP + `at`; restores them. `code` is what Windows calls that: regp for two of X19 to
// X28, fregp for two of D8 to D15.
.macro SAVE_PAIR one, two, at, code
    stp     \one, \two, [sp, #\at]
.if ELF
    .cfi_rel_offset \one, \at
    .cfi_rel_offset \two, \at + 8
.else
    .seh_save_\code \one, \at
.endif
.endm

.macro RESTORE_PAIR one, two, at, code
    ldp     \one, \two, [sp, #\at]
.if ELF
    .cfi_restore \one
    .cfi_restore \two
.else
    .seh_save_\code \one, \at
.endif
.endm

// The same for X18, which handlers leave alone on Windows: there is nothing to be done.
.macro SAVE_X18 at
.ifeq WINDOWS
    str     x18, [sp, #\at]
.if ELF
    .cfi_rel_offset x18, \at
.endif
.endif
.endm

.macro RESTORE_X18 at
.ifeq WINDOWS
    ldr     x18, [sp, #\at]
.if ELF
    .cfi_restore x18
.endif
.endif
.endm

// Returns; the BRK stops straight-line speculation past the RET.
.macro RETURN
    ret
    brk     #0xf000
.endm

// --- What lanes have in common -----------------------------------------------------------------------------------

// Completes the link that was pushed before `room` bytes were taken. The prologue has ended: unwinding does without.
.macro FILL_LINK room
    adrp    x9, calltable_table
    add     x9, x9, :lo12:calltable_table
    add     x9, x9, x12, lsl #4                 // ENTRY_STRIDE
    add     x9, x9, #ENTRY_RETURN
    str     x9, [sp, #\room + LINK_ENTRY]
    add     x29, sp, #\room                     // for whoever follows the chain of frames
.endm

// The arguments in registers, into the frame at SP; from there again.
.macro FILL_FRAME
    stp     x0, x1, [sp, #FRAME_REGISTERS + 0x00]
    stp     x2, x3, [sp, #FRAME_REGISTERS + 0x10]
    stp     x4, x5, [sp, #FRAME_REGISTERS + 0x20]
    stp     x6, x7, [sp, #FRAME_REGISTERS + 0x30]
    stp     x17, x8, [sp, #FRAME_ARGUMENTS]
    stp     xzr, xzr, [sp, #FRAME_ELEMENT]
.if FPU
    stp     q0, q1, [sp, #FRAME_FLOATS + 0x00]
    stp     q2, q3, [sp, #FRAME_FLOATS + 0x20]
    stp     q4, q5, [sp, #FRAME_FLOATS + 0x40]
    stp     q6, q7, [sp, #FRAME_FLOATS + 0x60]
.endif
.endm

.macro LOAD_FRAME
    ldp     x0, x1, [sp, #FRAME_REGISTERS + 0x00]
    ldp     x2, x3, [sp, #FRAME_REGISTERS + 0x10]
    ldp     x4, x5, [sp, #FRAME_REGISTERS + 0x20]
    ldp     x6, x7, [sp, #FRAME_REGISTERS + 0x30]
    ldp     x17, x8, [sp, #FRAME_ARGUMENTS]
.if FPU
    ldp     q0, q1, [sp, #FRAME_FLOATS + 0x00]
    ldp     q2, q3, [sp, #FRAME_FLOATS + 0x20]
    ldp     q4, q5, [sp, #FRAME_FLOATS + 0x40]
    ldp     q6, q7, [sp, #FRAME_FLOATS + 0x60]
.endif
.endm

// Loads the result of the frame at SP; its type decides which registers the caller reads. The elements of a homogeneous
// structure lie side by side: V1 to V3 are loaded with what follows their element, which is nobody's.
.macro LOAD_RESULT
    ldp     x0, x1, [sp, #FRAME_RESULT]
.if FPU
    ldr     x9, [sp, #FRAME_ELEMENT]            // 0, 4, 8 or 16
    add     x10, sp, #FRAME_RESULT
    ldr     q0, [x10]
    ldr     q1, [x10, x9]
    add     x10, x10, x9, lsl #1
    ldr     q2, [x10]
    ldr     q3, [x10, x9]
.endif
.endm

// Reads handler and data, and then the state again, of a call that is not counted: `ne` if it has changed.
//
// The first look was an LDAR: so the pair is not read before it. That the second look is not read before the pair
// follows from its address, which depends on both: X14 is 0, but the processor may not know it any sooner.
.macro READ_PAIR
    ldp     x16, x13, [x11, #CONTEXT_HANDLER]
    eor     x14, x16, x13
    and     x14, x14, xzr
    ldr     x14, [x15, x14]
    cmp     x14, x10                            // same state before and after: handler and data are one pair
.endm

// W9: where the data goes, from the state: below 8 in that X register, else on the stack, W9 - 8 words above the first
// argument there; all ones if the context is not live.
.macro DATA_PLACE
    and     w9, w10, #STATE_POSITIONS
    sub     w9, w9, #1
.endm

// Puts the data into all registers from that one on: they are nobody's. None if W9 is not below 8.
.macro PUT_DATA
    cmp     w9, #1
    csel    x0, x13, x0, lo
    csel    x1, x13, x1, ls
    cmp     w9, #3
    csel    x2, x13, x2, lo
    csel    x3, x13, x3, ls
    cmp     w9, #5
    csel    x4, x13, x4, lo
    csel    x5, x13, x5, ls
    cmp     w9, #7
    csel    x6, x13, x6, lo
    csel    x7, x13, x7, ls
.endm

// --- The table ----------------------------------------------------------------------------------------------------

.if ELF
    .section .text.calltable, "ax", %progbits
    .hidden calltable_table                     // no use of these names passes through a PLT or a GOT,
    .hidden calltable_contexts                  // and none becomes part of a shared object's interface
    .hidden calltable_stale
    .hidden calltable_push_record
    .hidden calltable_resume
    .hidden calltable_text_end
    .hidden calltable_counting
    .hidden calltable_containing
.else
    .text
.endif

    .p2align 6
    .globl calltable_table
PROC calltable_table, 2
    END_PROLOGUE
.macro ENTRY slot
    NAME_ENTRY \slot
    hint    #34                                 // bti c: landing pad
    movz    w12, #\slot                         // clears the upper half, too
    b       calltable_dispatch
    brk     #0xf000                             // stops straight-line speculation; its address stands for the entry
.endm
    EACH_SLOT ENTRY
END_PROC calltable_table

// --- calltable_dispatch: context; direct lane, data in a register -------------------------------------------------
//
// Nothing is pushed, and nothing but X9 to X17 changes, and registers for arguments from the data's on.
    .p2align 6
PROC calltable_dispatch
    END_PROLOGUE
    adrp    x11, calltable_contexts             // with which a page begins
    add     x13, x11, #CONTEXTS_SPAN
    ldar    x13, [x13]                          // before the address of the first context
    cmp     x13, x12, lsl #4                    // ENTRY_STRIDE
    b.ls    3f                                  // no entry with a context
    ldr     x11, [x11, #CONTEXTS_FIRST]
    add     x11, x11, x12, lsl #5               // CONTEXT_SIZE
    add     x15, x11, #CONTEXT_STATE
    ldar    x10, [x15]                          // before handler and data
    tst     w10, #STATE_FLAGS
    b.ne    calltable_select
    READ_PAIR
    b.ne    calltable_refuse
    DATA_PLACE
    cmp     w9, #REGISTERS
    b.hs    2f
    PUT_DATA
    br      x16
2:  mov     x17, sp
    cmn     w9, #1
    b.ne    calltable_direct
    b       calltable_refuse                    // not live
3:  mov     x11, #0                             // no context: never used
calltable_refuse:                               // or not live, or one that was released while we read: lanes come here,
    adrp    x16, calltable_stale                // too, SP and the arguments as they came
    add     x16, x16, :lo12:calltable_stale
    mov     x13, x11                            // its data is the context, or null where there is none; one more says
    mov     x17, sp                             // that the registration runs (src/stale.rs)
.if WINDOWS
    b       calltable_frame
.else
    mov     w10, #STATE_FRAME
    b       calltable_keep                      // nobody knows any more who calls
.endif
END_PROC calltable_dispatch

// --- calltable_select: everything else ----------------------------------------------------------------------------
//
// In: X10 to X12, X15; there is a flag, so the context is live.
PROC calltable_select
    END_PROLOGUE
    mov     x17, sp
    tst     w10, #STATE_COUNTED
    b.ne    calltable_count
    READ_PAIR
    b.ne    calltable_refuse
calltable_counted:                              // calltable_count, _keep call this: X10 to X13, X16, X17
.ifeq WINDOWS
    tst     w10, #STATE_X18
    b.ne    calltable_keep
.endif
    tst     w10, #STATE_CONTAIN
    b.ne    calltable_contain
calltable_lanes:                                // calltable_contain calls this, without X11
    tst     w10, #STATE_SAVE
    b.ne    calltable_saving
    tst     w10, #STATE_FRAME
    b.ne    calltable_frame
    b       calltable_direct
END_PROC calltable_select

// --- calltable_direct: direct lane with a frame -------------------------------------------------------------------
//
//   address              while the handler runs
//   sp+DIRECT_ROOM       the link
//   sp+8*words           data, if no register is free for it
//   sp+0x00              copy of the foreign code's arguments on the stack
//
// Nothing after the handler relies on X29: a handler that keeps no register may be called here, too.
.set DIRECT_ROOM, 8 * (MAX_WORDS + 2)           // SP is a multiple of 16: MAX_WORDS is even

PROC calltable_direct
    PUSH_LINK
    ALLOC   DIRECT_ROOM
    END_PROLOGUE
    FILL_LINK DIRECT_ROOM
    ubfx    w14, w10, #17, #7                   // STATE_WORD
    cbz     w14, 2f
1:  sub     w14, w14, #1
    ldr     x15, [x17, x14, lsl #3]
    str     x15, [sp, x14, lsl #3]
    cbnz    w14, 1b
2:  DATA_PLACE
    PUT_DATA
    subs    w9, w9, #REGISTERS
    b.lo    3f
    str     x13, [sp, x9, lsl #3]               // the data follows the last word
3:  blr     x16
    EPILOGUE
    FREE    DIRECT_ROOM
    POP_LINK
    END_EPILOGUE
    RETURN
END_PROC calltable_direct

// --- calltable_frame: frame lane ----------------------------------------------------------------------------------
//
//   address            while the handler runs: data in X0, the frame in X1
//   sp+FRAME_SIZE      the link
//   sp+0x00            the frame (src/frame/aarch64.rs)
PROC calltable_frame
    PUSH_LINK
    ALLOC   FRAME_SIZE
    END_PROLOGUE
    FILL_LINK FRAME_SIZE
    FILL_FRAME
    stp     xzr, xzr, [sp, #FRAME_RESULT]       // a handler that sets no result returns 0
    stp     xzr, xzr, [sp, #FRAME_MORE_RESULTS + 0x00]
    stp     xzr, xzr, [sp, #FRAME_MORE_RESULTS + 0x10]
    stp     xzr, xzr, [sp, #FRAME_MORE_RESULTS + 0x20]
    mov     x0, x13
    mov     x1, sp
    blr     x16
    LOAD_RESULT
    EPILOGUE
    FREE    FRAME_SIZE
    POP_LINK
    END_EPILOGUE
    RETURN
END_PROC calltable_frame

// --- The full save, for handlers that keep no register but SP -----------------------------------------------------
//
//   address             after SAVE_ALL
//   sp+SAVING_ROOM      the link
//   sp+0xA8             X18, not on Windows
//   sp+0xA0             FPCR
//   sp+0x98             nothing
//   sp+0x90             the context's state
//   sp+0x50             D8 to D15
//   sp+0x00             X19 to X28
.set SAVED_STATE, 0x90
.set SAVED_FPCR,  0xA0
.set SAVED_X18,   0xA8
.set SAVING_ROOM, 0xB0

.macro SAVE_ALL
    ALLOC   SAVING_ROOM
    SAVE_PAIR x19, x20, 0x00, regp
    SAVE_PAIR x21, x22, 0x10, regp
    SAVE_PAIR x23, x24, 0x20, regp
    SAVE_PAIR x25, x26, 0x30, regp
    SAVE_PAIR x27, x28, 0x40, regp
.if FPU
    SAVE_PAIR d8, d9, 0x50, fregp
    SAVE_PAIR d10, d11, 0x60, fregp
    SAVE_PAIR d12, d13, 0x70, fregp
    SAVE_PAIR d14, d15, 0x80, fregp
.endif
.endm

.macro RESTORE_ALL
.if FPU
    RESTORE_PAIR d14, d15, 0x80, fregp
    RESTORE_PAIR d12, d13, 0x70, fregp
    RESTORE_PAIR d10, d11, 0x60, fregp
    RESTORE_PAIR d8, d9, 0x50, fregp
.endif
    RESTORE_PAIR x27, x28, 0x40, regp
    RESTORE_PAIR x25, x26, 0x30, regp
    RESTORE_PAIR x23, x24, 0x20, regp
    RESTORE_PAIR x21, x22, 0x10, regp
    RESTORE_PAIR x19, x20, 0x00, regp
    FREE    SAVING_ROOM
.endm

// --- calltable_saving: both lanes, for handlers that keep no register but SP --------------------------------------
//
// While the lane runs, the link and the full save are on the stack.
PROC calltable_saving
    PUSH_LINK
    SAVE_ALL
    END_PROLOGUE
    FILL_LINK SAVING_ROOM
    str     x10, [sp, #SAVED_STATE]
    SAVE_X18 SAVED_X18
.if FPU
    tst     w10, #STATE_CONTROL
    b.eq    1f
    mrs     x9, fpcr
    str     x9, [sp, #SAVED_FPCR]
1:
.endif
    tst     w10, #STATE_FRAME
    b.ne    2f
    bl      calltable_direct
    b       3f
2:  bl      calltable_frame
3:
.if FPU
    ldr     x10, [sp, #SAVED_STATE]
    tst     w10, #STATE_CONTROL
    b.eq    4f
    ldr     x9, [sp, #SAVED_FPCR]
    msr     fpcr, x9
4:
.endif
    RESTORE_X18 SAVED_X18
    EPILOGUE
    RESTORE_ALL
    POP_LINK
    END_EPILOGUE
    RETURN
END_PROC calltable_saving

// --- The chain of calls that exceptions must know of, on systems other than Windows (src/seh/linked.rs) -----------
//
// Windows finds calls by their unwind data. Elsewhere a record of each contained or counted call is in a chain of the
// thread's, once the embedder has said where the chain begins.

// Puts the record at SP + `at` first in the chain, if there is one. Loses X9, X14, X15.
.macro PUSH_RECORD at, contains
.ifeq WINDOWS
    add     x14, sp, #\at
    str     xzr, [x14, #CHAIN_RECORD_BLOCK]
    adrp    x9, calltable_contexts
    ldr     x9, [x9, #CONTEXTS_SEH]             // no more than whether: Rust reads it again
    cbz     x9, 9f
    mov     w15, #\contains
    bl      calltable_enchain
9:
.endif
.endm

// Takes it off again, and with it whatever the handler has left before it. Keeps the result.
.macro POP_RECORD at
.ifeq WINDOWS
    ldr     x9, [sp, #\at + CHAIN_RECORD_BLOCK]
    cbz     x9, 9f
    ldr     x14, [sp, #\at]                     // the next record
    str     x14, [x9]                           // is the head
9:
.endif
.endm

// Calls Rust with the record X14 and W15; keeps all that a lane or its choice needs.
//
//   address     during the call
//   sp+0x100    the link
//   sp+0x80     V0 to V7
//   sp+0x00     X0 to X8, X10 to X13, X16 to X18
.ifeq WINDOWS
.set ENCHAIN_ROOM, 0x100

PROC calltable_enchain
    PUSH_LINK
    ALLOC   ENCHAIN_ROOM
    END_PROLOGUE
    FILL_LINK ENCHAIN_ROOM
    stp     x0, x1, [sp, #0x00]
    stp     x2, x3, [sp, #0x10]
    stp     x4, x5, [sp, #0x20]
    stp     x6, x7, [sp, #0x30]
    stp     x8, x10, [sp, #0x40]
    stp     x11, x12, [sp, #0x50]
    stp     x13, x16, [sp, #0x60]
    stp     x17, x18, [sp, #0x70]
.if FPU
    stp     q0, q1, [sp, #0x80]
    stp     q2, q3, [sp, #0xA0]
    stp     q4, q5, [sp, #0xC0]
    stp     q6, q7, [sp, #0xE0]
.endif
    mov     x0, x14
    mov     w1, w15
    bl      calltable_push_record
.if FPU
    ldp     q0, q1, [sp, #0x80]
    ldp     q2, q3, [sp, #0xA0]
    ldp     q4, q5, [sp, #0xC0]
    ldp     q6, q7, [sp, #0xE0]
.endif
    ldp     x0, x1, [sp, #0x00]
    ldp     x2, x3, [sp, #0x10]
    ldp     x4, x5, [sp, #0x20]
    ldp     x6, x7, [sp, #0x30]
    ldp     x8, x10, [sp, #0x40]
    ldp     x11, x12, [sp, #0x50]
    ldp     x13, x16, [sp, #0x60]
    ldp     x17, x18, [sp, #0x70]
    EPILOGUE
    FREE    ENCHAIN_ROOM
    POP_LINK
    END_EPILOGUE
    RETURN
END_PROC calltable_enchain
.endif

// --- calltable_keep: any lane, for a caller that wants to find its X18 again ---------------------------------------
//
//   address     while the lane runs
//   sp+0x10     the link
//   sp+0x08     nothing
//   sp+0x00     X18
//
// Not on Windows: there handlers leave X18 alone, and only the system may change it.
.ifeq WINDOWS
.set KEEP_ROOM, 0x10

PROC calltable_keep
    PUSH_LINK
    ALLOC   KEEP_ROOM
    END_PROLOGUE
    FILL_LINK KEEP_ROOM
    SAVE_X18 0
    and     x10, x10, #~STATE_X18               // the lane is next; nothing looks at the generation any more
    bl      calltable_counted
    RESTORE_X18 0
    EPILOGUE
    FREE    KEEP_ROOM
    POP_LINK
    END_EPILOGUE
    RETURN
END_PROC calltable_keep
.endif

// --- calltable_count: tracked and exclusive registrations ---------------------------------------------------------
//
// A call enters by adding 1 to the number of running calls of its own generation, the one in the state that it has
// read. Comparison and addition are one step: a call that a release has overtaken finds another generation there, and
// touches nothing; a release that finds the number 0 ends the generation in the same way, in one step (src/context.rs).
//
// There is no second look at the state: once the call has entered, with acquire, the slot cannot be given to somebody
// else before it ends, and if it was before, the call does not enter. So handler and data, which are read after that,
// are those of the state. While an exclusive call runs, nobody else changes the word, so a plain store takes it off.
//
//   address     while the lane runs
//   sp+0x30     the link
//   sp+0x28     nothing
//   sp+0x20     the context's state
//   sp+0x00     record: the context, and on systems other than Windows what the chain needs
.set COUNT_STATE, CHAIN_RECORD_SIZE
.set COUNT_ROOM,  CHAIN_RECORD_SIZE + 0x10

// The call of the context X11 with the state X10 does not run any more. Loses X9, X10, X13, X15.
.macro LEAVE
    add     x15, x11, #CONTEXT_CALLS
    tst     w10, #STATE_EXCLUSIVE
    b.eq    7f
    and     x10, x10, #-GENERATION              // no call is running
    stlr    x10, [x15]                          // after all that the handler did
    b       8f
7:
.if LSE
    mov     x9, #-1
    staddl  x9, [x15]
.else
    ldxr    x9, [x15]
    sub     x9, x9, #1
    stlxr   w13, x9, [x15]
    cbnz    w13, 7b
.endif
8:
.endm

PROC calltable_count
    ON_EXCEPTION calltable_uncount
    PUSH_LINK
    ALLOC   COUNT_ROOM
    SHORT_PROLOGUE
    FILL_LINK COUNT_ROOM
    str     x11, [sp, #CHAIN_RECORD_CONTEXT]
    str     x10, [sp, #COUNT_STATE]
    add     x15, x11, #CONTEXT_CALLS
.if LSE
    .arch_extension lse
    ldr     x9, [x15]
1:
.else
1:  ldaxr   x9, [x15]
.endif
    eor     x14, x9, x10
    lsr     x14, x14, #24                       // GENERATION
    cbnz    x14, 4f                             // the state's generation has ended
    tst     w9, #GENERATION - 1
    b.eq    2f
    tst     w10, #STATE_EXCLUSIVE
    b.ne    3f                                  // an exclusive handler is running already
2:  add     x14, x9, #1
    tst     w14, #GENERATION - 1
    b.eq    3f                                  // one more cannot be counted
.if LSE
    mov     x13, x9
    casal   x9, x14, [x15]                      // X9 is what is there instead
    cmp     x9, x13
    b.ne    1b
.else
    stlxr   w13, x14, [x15]
    cbnz    w13, 1b
.endif
    LONG_PROLOGUE 22 + 2 * LSE                  // from here on an exception has something to undo
    PUSH_RECORD 0, 0
    ldp     x16, x13, [x11, #CONTEXT_HANDLER]
    bl      calltable_counted
    .globl  calltable_counting                  // src/entry/aarch64.rs: below it on the stack is a call that is counted
calltable_counting:
    POP_RECORD 0
    ldr     x11, [sp, #CHAIN_RECORD_CONTEXT]
    ldr     x10, [sp, #COUNT_STATE]
    LEAVE
    EPILOGUE
    FREE    COUNT_ROOM
    POP_LINK
    END_EPILOGUE
    RETURN
    STILL_OPEN COUNT_ROOM
3:  add     x11, x11, #1                        // refused as running
4:  EPILOGUE
    FREE    COUNT_ROOM
    POP_LINK
    END_EPILOGUE
    b       calltable_refuse                    // as if not live, and not counted
END_PROC calltable_count

// A call that an exception ends is not running any more. Windows calls this with the exception's record in X0, and in
// X1 SP as it was when calltable_count was entered.
.if WINDOWS
PROC calltable_uncount
    END_PROLOGUE
    ldr     w9, [x0, #4]                        // flags
    tst     w9, #6                              // EXCEPTION_UNWINDING, EXCEPTION_EXIT_UNWIND
    b.eq    1f
    sub     x1, x1, #COUNT_ROOM + LINK_SIZE
    ldr     x11, [x1, #CHAIN_RECORD_CONTEXT]
    ldr     x10, [x1, #COUNT_STATE]
    LEAVE
1:  mov     w0, #1                              // ExceptionContinueSearch: continue to search, or to unwind
    RETURN
END_PROC calltable_uncount
.endif

// --- calltable_contain: calls whose exceptions the embedder may end here ------------------------------------------
//
// When an exception leaves the handler, a function of Rust asks the filter at the start of the data: Windows calls
// calltable_exception (src/seh/windows.rs), elsewhere the embedder's trap handler comes to it by the chain
// (src/seh/linked.rs). If the filter ends the exception, the call continues at calltable_resume, with every register
// that the convention preserves as it was at the BL: Windows unwinds the stack for that; elsewhere X0 leads back to
// here, and they have been saved. FPCR and the guarded control stack are put right there.
//
//   address     while the lane runs: Windows
//   sp+0x190    the link
//   sp+0x000    the contained call (src/seh/call.rs, Call): outcome, data, state, slot, whether asked, FPCR
//
//   address     elsewhere
//   sp+0x270    the link
//   sp+0x1C0    the full save, of which state and FPCR are not used
//   sp+0x190    record, pointer of the guarded control stack (src/seh/linked.rs, LinkedCall)
//   sp+0x000    the contained call
//
// Windows asks no filter while the PC is in the prologue: so what a filter reads is filled there.
.if WINDOWS
.set CONTAIN_ROOM, CONTAINED_SIZE
.else
.set CONTAIN_ROOM, LINKED_SIZE + SAVING_ROOM
.endif

PROC calltable_contain
    ON_EXCEPTION calltable_exception
    PUSH_LINK
.if WINDOWS
    ALLOC   CONTAINED_SIZE
.else
    SAVE_ALL
    ALLOC   LINKED_SIZE
.endif
    SHORT_PROLOGUE
    FILL_FRAME
    stp     x13, x10, [sp, #CONTAINED_DATA]     // the state follows
    stp     x12, xzr, [sp, #CONTAINED_SLOT]     // the filter has not been asked
.if FPU
    mrs     x9, fpcr
    str     x9, [sp, #CONTAINED_FPCR]
.endif
    LONG_PROLOGUE 8 + 6 * FPU
    FILL_LINK CONTAIN_ROOM
.ifeq WINDOWS
    SAVE_X18 LINKED_SIZE+SAVED_X18
    str     x11, [sp, #LINKED_RECORD + CHAIN_RECORD_CONTEXT]
    mov     x9, #0
.if GCS
    mov     x14, x16
    mov     x16, #1
    hint    #40                                 // chkfeat x16: 0 where there is a guarded control stack; processors
    cbnz    x16, 1f                             // that know of none do nothing
    mrs     x9, s3_3_c2_c5_1                    // GCSPR_EL0
1:  mov     x16, x14
.endif
    str     x9, [sp, #LINKED_SHADOW]
.endif
    PUSH_RECORD LINKED_RECORD, 1
2:  bl      calltable_lanes
    .globl  calltable_containing                // src/seh/unwound.rs: here the handler's frames are gone
calltable_containing:
    b       6f                                  // what follows a BL is no epilogue, or no handler would be asked
    .globl  calltable_resume
calltable_resume:
.ifeq WINDOWS
.if ELF
    .cfi_def_cfa_register x0
.endif
.endif
    hint    #38                                 // bti jc: Rust may call it through a pointer, or a system jump here
.ifeq WINDOWS
    mov     sp, x0
.if ELF
    .cfi_def_cfa_register sp
.endif
    add     x29, sp, #CONTAIN_ROOM
.if GCS
    ldr     x10, [sp, #LINKED_SHADOW]
    cbz     x10, 4f                             // 0 where there is none
3:  mrs     x9, s3_3_c2_c5_1                    // GCSPR_EL0
    cmp     x9, x10
    b.hs    4f
    sysl    xzr, #3, c7, c7, #1                 // gcspopm: drops the return address of a frame that is gone
    b       3b
4:
.endif
.endif
.if FPU
    ldr     x9, [sp, #CONTAINED_FPCR]
    msr     fpcr, x9
.endif
    ldr     x16, [sp, #OUTCOME_HANDLER]
    cbz     x16, 5f
    LOAD_FRAME                                  // the same call again, to a handler that makes the result
    ldp     x10, x12, [sp, #CONTAINED_STATE]
    add     x13, sp, #OUTCOME_ROOM
    b       2b
5:  LOAD_RESULT                                 // or there is none
6:  POP_RECORD LINKED_RECORD
.ifeq WINDOWS
    RESTORE_X18 LINKED_SIZE+SAVED_X18
.endif
    EPILOGUE
.if WINDOWS
    FREE    CONTAINED_SIZE
.else
    FREE    LINKED_SIZE
    RESTORE_ALL
.endif
    POP_LINK
    END_EPILOGUE
    RETURN
END_PROC calltable_contain

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
    hint    #34                                 // bti c: Rust may call it through a pointer in memory
    adrp    x16, :got:\function
    ldr     x16, [x16, :got_lo12:\function]
    cbz     x16, 1f
    br      x16
1:  mov     x0, #0
    RETURN
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
    PROPERTY_NOTE 8, 0xc0000000, 5+2*PAC        // GNU_PROPERTY_AARCH64_FEATURE_1_AND: BTI 1, PAC 2, GCS 4
    GUARD_LIST 0x4800                           // this object knows about guards: take its lists, do not guess
    CONTINUATION_LIST
    .text
