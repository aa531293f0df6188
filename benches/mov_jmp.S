// A table whose entries load their number and jump. The way is the crate's own direct lane for 4 positions otherwise:
// the data is a fifth argument.
//
//   address     while the handler runs
//   rsp+0x28    return address in the foreign caller
//   rsp+0x20    data
//   rsp+0x00    home space of the handler

.intel_syntax noprefix
.set SLOTS, 2000

.text
.p2align 4
.globl bench_mov_jmp_table
bench_mov_jmp_table:
.set slot, 0
.rept SLOTS
    endbr64                                     // 4 bytes
    mov     eax, 16 * slot                      // 5 bytes
    .byte   0xe9                                // JMP, 5 bytes however near the dispatcher is
    .long   dispatch - . - 4
    .p2align 4, 0xcc
    .set slot, slot + 1
.endr

.p2align 6                                     // the way to its branch lies in one line of the cache
dispatch:
    lea     r11, [rip + bench_mov_jmp_contexts]
    add     r11, rax
    sub     rsp, 0x28
    mov     rax, [r11 + 8]
    mov     [rsp + 0x20], rax
    call    [r11]
    add     rsp, 0x28
    ret

.bss
.p2align 6
.globl bench_mov_jmp_contexts                   // handler and data of each slot
bench_mov_jmp_contexts:
    .zero   16 * SLOTS

#ifdef __ELF__
.section .note.GNU-stack, "", @progbits
#endif
