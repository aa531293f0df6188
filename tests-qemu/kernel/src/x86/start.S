// Start of each processor, up to the call of Rust. Both widths: everybody begins in 32 bits, without paging.
//
// QEMU finds `start` in a Xen note (PVH boot protocol: 32-bit flat segments, EBX the boot information, which is not
// used); the boot sector for Bochs jumps to it in the same state. The second processor begins in 16 bits at `ap_begin`,
// which Rust copies below 1 MB.

.set CODE_32, 0x08                              // selectors of the table below
.set DATA,    0x10
.set CODE_64, 0x18

.set CR0_PE, 1
.set CR0_MP, 1 << 1
.set CR0_EM, 1 << 2                             // every x87 and SSE instruction faults
.set CR0_NE, 1 << 5
.set CR0_WP, 1 << 16                            // read-only pages are so for the kernel, too; CET wants that
.set CR0_PG, 1 << 31
.set CR4_PAE, 1 << 5
.set CR4_OSFXSR, 1 << 9                         // SSE on
.set CR4_OSXMMEXCPT, 1 << 10
.set EFER, 0xc0000080
.set EFER_LME, 1 << 8
.set EFER_NXE, 1 << 11                          // pages may be forbidden to execute

    .section .note.Xen, "a", @note
    .p2align 2
    .long   4                                   // size of the name
    .long   8                                   // size of the description: QEMU reads 8 bytes in both widths
    .long   18                                  // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz  "Xen"
    .long   start, 0

    .section .start, "ax", @progbits
    .code32
    .intel_syntax noprefix
    .globl start
start:
    cli
    cld
    lgdt    [gdt_pointer]
    .att_syntax prefix                          // the other syntax has no far jump in all assemblers
    ljmp    $CODE_32, $1f
    .intel_syntax noprefix
1:
    mov     ax, DATA
    mov     ds, ax
    mov     es, ax
    mov     ss, ax
    mov     fs, ax
    mov     gs, ax
    mov     edi, offset bss_start
    mov     ecx, offset bss_end
    sub     ecx, edi
    xor     eax, eax
    rep     stosb
    mov     esp, offset stack_end

    // Tables that map the first GB to itself, writable and executable; Rust makes better ones. PAE's format at both
    // widths; the upper halves are the zeros of .bss.
    mov     edi, offset first_directory
    mov     eax, 0x83                           // present, writable, 2 MB
    mov     ecx, 512
2:  mov     [edi], eax
    add     eax, 0x200000
    add     edi, 8
    dec     ecx
    jnz     2b
    mov     eax, offset first_directory + 1     // present; 32-bit mode allows no other bit here
    mov     [first_pointers], eax
    mov     eax, offset first_pointers
#ifdef __x86_64__
    or      dword ptr [first_pointers], 2       // writable
    or      eax, 3
    mov     [first_root], eax
    mov     eax, offset first_root
#endif
    mov     [page_root], eax
    call    paging_on
#ifdef __x86_64__
    .att_syntax prefix
    ljmp    $CODE_64, $1f
    .intel_syntax noprefix
    .code64
1:
#endif
    call    main
    ud2

    .text
    .code32
// Switches paging on with the tables at `page_root`, and SSE if this is a kernel that uses it. In 64-bit kernels the
// caller runs in compatibility mode afterwards.
paging_on:
    mov     eax, cr4
#ifdef FLOATS
    or      eax, CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT
#else
    and     eax, ~CR4_OSFXSR
    or      eax, CR4_PAE
#endif
    mov     cr4, eax
    mov     eax, [page_root]
    mov     cr3, eax
    mov     ecx, EFER
    rdmsr
#ifdef __x86_64__
    or      eax, EFER_NXE | EFER_LME
#else
    or      eax, EFER_NXE
#endif
    wrmsr
    mov     eax, cr0
#ifdef FLOATS
    and     eax, ~(CR0_EM | 1 << 3)             // nor is the x87 state another task's
    or      eax, CR0_PG | CR0_WP | CR0_NE | CR0_MP
#else
    or      eax, CR0_PG | CR0_WP | CR0_NE | CR0_EM
#endif
    mov     cr0, eax
#ifdef FLOATS
    fninit
#endif
    ret

// --- The second processor -----------------------------------------------------------------------------------------

    .section .rodata
    .code16
    .globl ap_begin, ap_begin_end
ap_begin:                                       // runs at 0x8000, so it names no address of its own
    cli
    xor     ax, ax
    mov     ds, ax
    .att_syntax prefix                          // nor has the other syntax differences of symbols
    lgdtl   0x8000 + gdt_pointer_copy - ap_begin
    .intel_syntax noprefix
    mov     eax, cr0
    or      al, CR0_PE
    mov     cr0, eax
    .att_syntax prefix
    ljmpl   $CODE_32, $ap_start
    .intel_syntax noprefix
gdt_pointer_copy:
    .word   gdt_end - gdt - 1
    .long   gdt
ap_begin_end:

    .text
    .code32
ap_start:
    mov     ax, DATA
    mov     ds, ax
    mov     es, ax
    mov     ss, ax
    mov     fs, ax
    mov     gs, ax
    mov     esp, offset ap_stack_end
    call    paging_on
#ifdef __x86_64__
    .att_syntax prefix
    ljmp    $CODE_64, $1f
    .intel_syntax noprefix
    .code64
1:
#endif
    call    ap_main
    ud2

// --- Memory -------------------------------------------------------------------------------------------------------

    .data
    .p2align 3
    .globl gdt                                  // writable: Rust sets the bases of the last two
gdt:
    .quad   0
    .quad   0x00cf9b000000ffff                  // CODE_32
    .quad   0x00cf93000000ffff                  // DATA
    .quad   0x00af9b000000ffff                  // CODE_64
    .quad   0x00cf93000000ffff                  // thread information block of the first processor
    .quad   0x00cf93000000ffff                  // and of the second
gdt_end:
gdt_pointer:
    .word   gdt_end - gdt - 1
    .long   gdt
    .p2align 2
    .globl page_root
page_root:
    .quad   0

    .bss
    .p2align 12
first_directory:
    .zero   4096
first_root:
    .zero   4096
first_pointers:
    .zero   4096
    .globl stack, stack_end, ap_stack, ap_stack_end
stack:                                          // some cases keep all slots on it, without optimisation more than once
    .zero   0x100000
stack_end:
ap_stack:
    .zero   0x10000
ap_stack_end:

    .section .shadow, "aw", @nobits
    .zero   4096

    .section .note.GNU-stack, "", @progbits
