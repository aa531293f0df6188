// As many plain functions as there are slots: the floor where more than one pointer is called in turn. Each counts its
// calls and adds up 4 integers.

.intel_syntax noprefix
.set SLOTS, 2000

.text
.p2align 5
.globl bench_functions
bench_functions:
.set slot, 0
.rept SLOTS
    endbr64
    inc     qword ptr [rip + counts + 8 * slot]
    lea     rax, [rcx + rdx]
    add     r8, r9
    add     rax, r8
    ret
    .p2align 5, 0xcc
    .set slot, slot + 1
.endr

.bss
.p2align 6
counts:
    .zero   8 * SLOTS

.section .note.GNU-stack, "", @progbits
