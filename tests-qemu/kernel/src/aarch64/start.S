// Start of each processor, up to the call of Rust, at EL1 without translation of addresses: QEMU's `virt` has nothing
// above it. PSCI starts the second processor.

.set CPACR_FPEN,  3 << 20                       // else every floating-point instruction faults
.set SCTLR_M,     1                             // addresses are translated,
.set SCTLR_C,     1 << 2                        // data cached,
.set SCTLR_I,     1 << 12                       // and instructions
.set SCTLR_WXN,   1 << 19                       // what can be written cannot be executed
.set SCTLR_ENIA,  1 << 31                       // return addresses are signed by the key A
.set MAIR,        0x04ff                        // kind 0: memory, write-back; 1: devices, nGnRE
.set TCR,         25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 // 39 bits, of TTBR0 alone; tables are cached and shared

    .section .start, "ax", %progbits
    .globl start
start:
    adrp    x0, bss_start
    add     x0, x0, :lo12:bss_start
    adrp    x1, bss_end
    add     x1, x1, :lo12:bss_end
1:  stp     xzr, xzr, [x0], #16                 // both ends are on pages
    cmp     x0, x1
    b.lo    1b
    adrp    x0, stack_end
    add     x0, x0, :lo12:stack_end
    mov     sp, x0
    bl      prepare
    bl      main
    brk     #1

    .text
    .globl ap_start
ap_start:
    adrp    x0, ap_stack_end
    add     x0, x0, :lo12:ap_stack_end
    mov     sp, x0
    bl      prepare
    bl      paging_on
    bl      ap_main
    brk     #1

// All but translation, before anything is signed.
prepare:
    mov     x0, #0
#ifdef FLOATS
    mov     x0, #CPACR_FPEN
#endif
    msr     cpacr_el1, x0
    mov     x0, #MAIR
    msr     mair_el1, x0
    ldr     x0, =TCR
    msr     tcr_el1, x0
    adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     vbar_el1, x0
    ldr     x0, =0x0123456789abcdef
    msr     s3_0_c2_c1_0, x0                    // APIAKeyLo_EL1
    msr     s3_0_c2_c1_1, x0                    // APIAKeyHi_EL1
    msr     oslar_el1, xzr                      // else nothing is stepped through
    mrs     x0, sctlr_el1
    ldr     x1, =SCTLR_ENIA
    orr     x0, x0, x1
    msr     sctlr_el1, x0
    isb
    ret

// Begins to translate, with the tables at `page_root`.
    .globl paging_on
paging_on:
    adrp    x0, page_root
    ldr     x0, [x0, :lo12:page_root]
    msr     ttbr0_el1, x0
    dsb     sy
    tlbi    vmalle1
    dsb     sy
    isb
    mrs     x0, sctlr_el1
    ldr     x1, =SCTLR_M | SCTLR_C | SCTLR_I | SCTLR_WXN
    orr     x0, x0, x1
    msr     sctlr_el1, x0
    isb
    ret
    .ltorg

// --- Memory -------------------------------------------------------------------------------------------------------

    .data
    .p2align 3
    .globl page_root
page_root:
    .quad   0

    .bss
    .p2align 12
    .globl stack, stack_end, ap_stack, ap_stack_end
stack:                                          // some cases keep all slots on it, without optimisation more than once
    .zero   0x100000
stack_end:
ap_stack:
    .zero   0x10000
ap_stack_end:

    .section .note.GNU-stack, "", %progbits
