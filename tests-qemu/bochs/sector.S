// Boot sector for Bochs, whose BIOS cannot load a kernel itself: reads the flat image after it on the disk to 1 MB,
// and jumps to its first byte in the state that QEMU starts it in: 32 bits, flat segments, no paging.
//
// IMAGE_CHUNKS, which the build gives, is the image's size in chunks.
.intel_syntax noprefix

.set CHUNK_SECTORS, 64
.set CHUNK, CHUNK_SECTORS * 512                 // read below 1 MB, then moved by the BIOS
.set BUFFER, 0x10000
.set IMAGE, 0x100000

    .text
    .code16
    .globl start
start:
    xor     ax, ax
    mov     ds, ax
    mov     es, ax
    mov     ss, ax
    mov     sp, 0x7c00
    cld
    mov     [drive], dl                         // the BIOS says which disk this is
next:
    mov     si, offset packet
    mov     dl, [drive]
    mov     ah, 0x42                            // read sectors by their number
    int     0x13
    jc      failed
    mov     si, offset descriptors
    mov     cx, CHUNK / 2
    mov     ah, 0x87                            // move words to above 1 MB
    int     0x15
    jc      failed
    add     dword ptr [packet_sector], CHUNK_SECTORS
    add     dword ptr [target_base], CHUNK      // its high byte, the access rights, is never reached
    dec     word ptr [chunks]
    jnz     next

    in      al, 0x92                            // line A20 on: addresses above 1 MB are no longer folded
    or      al, 2
    out     0x92, al
    cli
    lgdt    [gdt_pointer]
    mov     eax, cr0
    or      al, 1
    mov     cr0, eax
    .att_syntax prefix                          // the other syntax has no far jump in all assemblers
    ljmp    $8, $flat
    .intel_syntax noprefix
failed:
    mov     al, '!'                             // on the console: the runner misses the closing line
    out     0xe9, al
    hlt
    jmp     failed

    .code32
flat:
    mov     ax, 0x10
    mov     ds, ax
    mov     es, ax
    mov     ss, ax
    mov     eax, IMAGE
    jmp     eax

    .p2align 3
gdt:
    .quad   0
    .quad   0x00cf9b000000ffff                  // code
    .quad   0x00cf93000000ffff                  // data
gdt_pointer:
    .word   gdt_pointer - gdt - 1
    .long   gdt

descriptors:                                    // for the move: two that the BIOS fills in, from where, to where,
    .quad   0, 0                                // and two more
    .quad   0x0000930000000000 | (BUFFER << 16) | (CHUNK - 1)
    .word   CHUNK - 1
target_base:
    .long   IMAGE | 0x93000000
    .word   0
    .quad   0, 0

packet:                                         // of the read: its size, sectors, buffer, first sector
    .word   16, CHUNK_SECTORS
    .word   0, BUFFER >> 4
packet_sector:
    .quad   1
chunks:
    .word   IMAGE_CHUNKS
drive:
    .byte   0

    .org    510, 0
    .word   0xaa55                              // what the BIOS knows a boot sector by
