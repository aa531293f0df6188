// What all architectures share. The build script puts it after the numbers and before the architecture's own file.

// Gives the macro `for_slot` the number of each slot, as it is written in digits: names can be made of it.
.macro EACH_SLOT for_slot
.altmacro                                       // so that a macro can be given a number by its value: %slot
.set slot, 0
.rept CAPACITY
    \for_slot %slot
    .set slot, slot + 1
.endr
.noaltmacro
.endm

// Opens the entry of a slot: under Control Flow Guard it has a name, for GUARD_LIST.
.macro NAME_ENTRY slot
.if GUARD
    .def calltable_entry_\slot; .scl 3; .type 32; .endef
calltable_entry_\slot:
.endif
.endm

// Control Flow Guard: every entry is a target that foreign code may call, though nothing in this program names it.
.macro GUARD_TARGET slot
    .symidx calltable_entry_\slot
.endm

// `feature` is what an object of this architecture says of its lists to linkers. (rustc says it itself, if it is asked
// for -Ccontrol-flow-guard.)
.macro GUARD_LIST feature
.if GUARD
.if FEAT
    .globl  "@feat.00"
    .set    "@feat.00", \feature
.endif
    .section .gfids$y, "dr"
    EACH_SLOT GUARD_TARGET
.endif
.endm

// With /guard:ehcont Windows lets an unwinder resume only at listed addresses.
.macro CONTINUATION_LIST
.if GUARD & WINDOWS
    .section .gehcont$y, "dr"
    .symidx calltable_resume
.endif
.endm

// ELF files of systems: the unwinder (of a panic, a C++ exception, `pthread_exit`) calls this function when something
// leaves the function just opened, and again when the frame is about to go (src/seh/unwound.rs).
.macro PERSONALITY
.if UNWINDER
    .cfi_personality 0x1b, calltable_personality    // relative to this place, in 32 bits
.endif
.endm

// ELF: no executable stack is needed.
.macro STACK_NOTE
.if ELF
    .section .note.GNU-stack, "", @progbits
.endif
.endm

// ELF: ready for what the processor checks of branches and returns. Without this note the linker drops that for the
// whole image. `word` is the size of a pointer; `type` and `value` are the architecture's property and its bits.
.macro PROPERTY_NOTE word, type, value
.if ELF
    .section .note.gnu.property, "a", @note
    .balign \word
    .long   4                                   // size of the name
    .long   (12 + \word - 1) / \word * \word    // size of the description
    .long   5                                   // NT_GNU_PROPERTY_TYPE_0
    .asciz  "GNU"
    .long   \type
    .long   4                                   // size of the value
    .long   \value
    .balign \word
.endif
.endm
