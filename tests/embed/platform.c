/* With a C library; or, if EMBED_BARE says so, with nothing but Windows, Linux or the firmware. */
#include "platform.h"

static unsigned passed, failed;

static void say(const char *text);

static void say_number(unsigned number) {
    char text[11];
    char *at = text + sizeof text - 1;
    *at = 0;
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    say(at);
}

void check(const char *name, int well) {
    *(well ? &passed : &failed) += 1;
    say(well ? "ok " : "FAILED ");
    say(name);
    say("\n");
}

void expect(const char *name, calltable_status status, calltable_status expected) {
    if (status != expected) {
        say("   wanted: ");
        say(calltable_status_text(expected));
        say("\n   got: ");
        say(calltable_status_text(status));
        say("\n");
    }
    check(name, status == expected);
}

int finish(void) {
    say_number(passed);
    say(" passed, ");
    say_number(failed);
    say(" failed\n");
    return failed != 0;
}

#ifndef EMBED_BARE

#include <stdio.h>

static void say(const char *text) {
    fputs(text, stdout);
    fflush(stdout);
}

int main(void) {
    return run();
}

#else

#ifndef EMBED_UEFI
static size_t length(const char *text) {
    size_t count = 0;
    while (text[count] != 0) {
        count += 1;
    }
    return count;
}
#endif

/* What compilers call, and calltable with them. The volatile pointers keep them from becoming calls of themselves. */
void *memcpy(void *to, const void *from, size_t count);
void *memmove(void *to, const void *from, size_t count);
void *memset(void *to, int byte, size_t count);

void *memcpy(void *to, const void *from, size_t count) {
    volatile char *t = (volatile char *)to;
    const char *f = (const char *)from;
    for (size_t i = 0; i < count; i += 1) {
        t[i] = f[i];
    }
    return to;
}

void *memmove(void *to, const void *from, size_t count) {
    volatile char *t = (volatile char *)to;
    const char *f = (const char *)from;
    if ((uintptr_t)to <= (uintptr_t)from) {
        return memcpy(to, from, count);
    }
    while (count != 0) {
        count -= 1;
        t[count] = f[count];
    }
    return to;
}

void *memset(void *to, int byte, size_t count) {
    volatile char *t = (volatile char *)to;
    for (size_t i = 0; i < count; i += 1) {
        t[i] = (char)byte;
    }
    return to;
}

#if defined(_WIN32) && !defined(EMBED_UEFI)

/* Of the linker's, and of programs that use floating point. */
int _fltused = 1;

__declspec(dllimport) void *__stdcall GetStdHandle(uint32_t which);
__declspec(dllimport) int __stdcall WriteFile(
    void *file, const void *bytes, uint32_t count, uint32_t *written, void *overlapped);
__declspec(dllimport) void __stdcall ExitProcess(uint32_t code);
void start(void);

static void say(const char *text) {
    uint32_t written;
    WriteFile(GetStdHandle((uint32_t)-11), text, (uint32_t)length(text), &written, NULL);
}

void start(void) {
    ExitProcess((uint32_t)run());
}

#elif defined(EMBED_UEFI)

/* The start of EFI_SYSTEM_TABLE, and of EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL. */
struct console {
    void *reset;
    size_t(CALLTABLE_CALL *output)(struct console *console, uint16_t *text);
};
struct system {
    char header[24];
    void *vendor;
    uint32_t revision;
    void *in_handle, *in, *out_handle;
    struct console *out;
};

int _fltused = 1;
static struct console *console;
size_t CALLTABLE_CALL efi_main(void *image, struct system *system);

static void say(const char *text) {
    for (; *text != 0; text += 1) {
        uint16_t character[3] = {'\r', '\n', 0};
        if (*text != '\n') {
            character[0] = (uint16_t)*text;
            character[1] = 0;
        }
        console->output(console, character);
    }
}

/* Ends the emulator: its exit code is 33 if all is well. */
static void end(int is_well) {
#if defined(__aarch64__)
    /* Semihosting, SYS_EXIT, of an application. */
    uint64_t block[2] = {0x20026, 35};
    register uint64_t call __asm__("x0") = 0x18;
    register uint64_t *arguments __asm__("x1") = block;
    block[1] -= is_well ? 2 : 0;
    __asm__ volatile("hlt #0xf000" : : "r"(call), "r"(arguments) : "memory");
#else
    /* The code of isa-debug-exit is twice the value and 1. */
    uint32_t code = is_well ? 16 : 17;
    __asm__ volatile("outl %0, %1" : : "a"(code), "Nd"((uint16_t)0xf4));
#endif
}

size_t CALLTABLE_CALL efi_main(void *image, struct system *system) {
    (void)image;
    console = system->out;
    say("calltable in a C program on UEFI\n");
    end(run() == 0);
    return 0;
}

#else

/* A bare machine's library in a Linux process, with the system calls alone. */
void _start(void);

#if defined(__aarch64__)
enum { WRITE = 64, EXIT_GROUP = 94 };

static long call_system(long number, long a, long b, long c) {
    register long which __asm__("x8") = number;
    register long first __asm__("x0") = a;
    register long second __asm__("x1") = b;
    register long third __asm__("x2") = c;
    __asm__ volatile("svc #0" : "+r"(first) : "r"(which), "r"(second), "r"(third) : "memory");
    return first;
}

void _start(void) {
    call_system(EXIT_GROUP, run(), 0, 0);
}
#else
enum { WRITE = 1, EXIT_GROUP = 231 };

static long call_system(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
    return result;
}

__attribute__((force_align_arg_pointer)) void _start(void) {
    call_system(EXIT_GROUP, run(), 0, 0);
}
#endif

static void say(const char *text) {
    call_system(WRITE, 1, (long)text, (long)length(text));
}

#endif
#endif
