// The way of 2013: a table of bare 5-byte CALLs. The dispatcher takes the return address from the stack, computes the
// slot by a division, and returns past the table to the foreign code.
//
// Everything around that is as in the crate's own direct lane for 4 positions: the data is a fifth argument.
//
//   address     while the handler runs
//   rsp+0x28    return address in the foreign caller
//   rsp+0x20    data
//   rsp+0x00    home space of the handler

.intel_syntax noprefix
.set SLOTS, 2000

.text
.p2align 4
.globl bench_ancestor_table
bench_ancestor_table:
.rept SLOTS
    .byte   0xe8                                // CALL, of this size however near the dispatcher is
    .long   dispatch - . - 4
.endr
    int3

.p2align 6                                     // the way to its branch lies in one line of the cache
dispatch:
    pop     rax                                 // table + 5 * slot + 5; nobody returns there
    lea     r11, [rip + bench_ancestor_table]
    sub     rax, r11
    mov     r10, rdx                            // DIV needs it
    xor     edx, edx
    mov     r11d, 5
    div     r11d                                // slot + 1
    mov     rdx, r10
    shl     eax, 4
    lea     r11, [rip + bench_ancestor_contexts]
    add     r11, rax
    sub     rsp, 0x28
    mov     rax, [r11 - 8]
    mov     [rsp + 0x20], rax
    call    [r11 - 16]
    add     rsp, 0x28
    ret

.bss
.p2align 6
.globl bench_ancestor_contexts                  // handler and data of each slot
bench_ancestor_contexts:
    .zero   16 * SLOTS

.section .note.GNU-stack, "", @progbits
