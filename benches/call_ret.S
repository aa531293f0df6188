// A table of CALLs that are answered, as the crate's own, and the least that a dispatcher after it can do: it asks
// neither whether the slot is live nor how many arguments there are. What such a table costs at best.
//
//   address     while the handler runs
//   rsp+0x38    return address in the foreign caller
//   rsp+0x30    return address in the entry
//   rsp+0x20    data
//   rsp+0x00    home space of the handler

.intel_syntax noprefix
.set SLOTS, 2000

.text
.p2align 4
.globl bench_call_ret_table
bench_call_ret_table:
.rept SLOTS
    endbr64                                     // 4 bytes
    .byte   0xe8                                // CALL, 5 bytes however near the dispatcher is
    .long   dispatch - . - 4
    ret                                         // 1 byte
    .p2align 4, 0xcc
.endr

.p2align 6                                     // the way to its branch lies in one line of the cache
dispatch:
    mov     rax, [rsp]
    lea     r11, [rip + bench_call_ret_table + 9]
    sub     rax, r11                            // 16 * slot
    lea     r11, [rip + bench_call_ret_contexts]
    add     r11, rax
    sub     rsp, 0x30
    mov     rax, [r11 + 8]
    mov     [rsp + 0x20], rax
    call    [r11]
    add     rsp, 0x30
    ret

.bss
.p2align 6
.globl bench_call_ret_contexts                  // handler and data of each slot
bench_call_ret_contexts:
    .zero   16 * SLOTS

.section .note.GNU-stack, "", @progbits
