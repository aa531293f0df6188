/* Runs libffi's tests from the one on whose number it is given, until one fails or all have run. A test ends with
   `exit`, which `case.h` makes `libffi_exit` of. */
#include <ffi.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef _WIN32
#include <windows.h>
#endif

struct test {
    const char *name;
    int (*run)(void);
};

/* The list, which the suite writes; it ends with no name. */
extern const struct test libffi_tests[];

void libffi_exit(int code) __asm__("libffi_exit");

static jmp_buf after;
static int ended_with;

void libffi_exit(int code) {
    ended_with = code;
    longjmp(after, 1);
}

static int run(const struct test *test) {
    if (setjmp(after) == 0) {
        ended_with = test->run();
    }
    return ended_with;
}

#if defined(_WIN32) && defined(__aarch64__)
/* What GCC and Clang call for `__builtin___clear_cache`, which libffi does, and Zig has not for Windows. */
void __clear_cache(void *start, void *end);

void __clear_cache(void *start, void *end) {
    FlushInstructionCache(GetCurrentProcess(), start, (size_t)((char *)end - (char *)start));
}
#endif

/* Whether an address lies in this program's file, which is where code is that nobody writes when it runs. */
static int is_own(const void *code) {
#ifdef _WIN32
    extern const char __ImageBase[];
    const IMAGE_DOS_HEADER *dos = (const IMAGE_DOS_HEADER *)__ImageBase;
    const IMAGE_NT_HEADERS *headers = (const IMAGE_NT_HEADERS *)(__ImageBase + dos->e_lfanew);
    const char *start = __ImageBase, *end = start + headers->OptionalHeader.SizeOfImage;
#else
    extern const char __executable_start[], etext[];
    const char *start = __executable_start, *end = etext;
#endif
    return (const char *)code >= start && (const char *)code < end;
}

int main(int count, char **arguments) {
    static char buffer[1 << 16];
    const struct test *test = &libffi_tests[count > 1 ? atoi(arguments[1]) : 0];
    int code = 0;
    void *address;
    void *closure = ffi_closure_alloc(sizeof(ffi_closure), &address);
    printf("@closures %s\n", closure == NULL ? "none" : is_own(address) ? "own" : "elsewhere");
    ffi_closure_free(closure);
    /* What the first one prints is to be seen if it crashes. For all it would take long on Windows. */
    fflush(stdout);
    setvbuf(stdout, NULL, _IONBF, 0);
    for (; test->name != NULL && code == 0; test += 1) {
        printf("\n@test %s\n", test->name);
        fflush(stdout);
        code = run(test);
        printf("\n@code %d\n", code);
        fflush(stdout);
        setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    }
    return 0;
}
