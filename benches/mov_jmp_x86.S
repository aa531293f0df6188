// As mov_jmp.S, for i686 Windows: the crate's own way for a stdcall closure, which is a thiscall function with its data
// in ECX.

.intel_syntax noprefix
.set SLOTS, 2000

.text
.p2align 4
.globl _bench_mov_jmp_table
_bench_mov_jmp_table:
.set slot, 0
.rept SLOTS
    endbr32                                     // 4 bytes
    mov     eax, 8 * slot                       // 5 bytes
    .byte   0xe9                                // JMP, 5 bytes however near the dispatcher is
    .long   dispatch - . - 4
    .p2align 4, 0xcc
    .set slot, slot + 1
.endr

.p2align 6                                     // the way to its branch lies in one line of the cache
dispatch:
    mov     ecx, [_bench_mov_jmp_contexts + eax + 4]
    jmp     [_bench_mov_jmp_contexts + eax]

.bss
.p2align 6
.globl _bench_mov_jmp_contexts                  // handler and data of each slot
_bench_mov_jmp_contexts:
    .zero   8 * SLOTS
