/*
 * What Microsoft's kit links into every driver: the load configuration, and where guarded code looks for the functions
 * that check call targets. The kernel puts its own there; these check nothing.
 *
 * Source: "PE Format, The Load Configuration Structure", Microsoft. The symbols that begin with __guard or __safe_se
 * are the linker's.
 */
#include <stddef.h>
#include <stdint.h>

extern const char __guard_fids_table[], __guard_fids_count[], __guard_flags[];
extern const char __guard_iat_table[], __guard_iat_count[], __guard_longjmp_table[], __guard_longjmp_count[];
extern const char __guard_eh_cont_table[], __guard_eh_cont_count[];
#ifdef _M_IX86
extern const char __safe_se_handler_table[], __safe_se_handler_count[];
#else
#define __safe_se_handler_table NULL
#define __safe_se_handler_count NULL
#endif

#ifdef _M_IX86
/* Objects with a float in a signature refer to it. */
const int _fltused = 0;
#endif

#define READ_ONLY_POINTER __attribute__((section(".00cfg")))

static void check_nothing(void) {}

READ_ONLY_POINTER void (*const __guard_check_icall_fptr)(void) = check_nothing;

#ifdef _M_X64
/* The call target is in RAX. */
__attribute__((naked)) static void dispatch(void) { __asm__("jmp *%rax"); }

READ_ONLY_POINTER void (*const __guard_dispatch_icall_fptr)(void) = dispatch;
#define DISPATCH (&__guard_dispatch_icall_fptr)
#else
#define DISPATCH NULL
#endif

struct load_config {
    uint32_t size;
#ifdef _WIN64
    uint32_t before_cookie[21];
#else
    uint32_t before_cookie[14];
#endif
    const void *security_cookie;
    const void *handler_table, *handler_count;
    const void *check_function, *dispatch_function;
    const void *function_table, *function_count, *flags;
#ifdef _WIN64
    uint32_t code_integrity[2];
#else
    uint32_t code_integrity[3];
#endif
    const void *taken_imports, *taken_imports_count;
    const void *long_jumps, *long_jumps_count;
    uint32_t relocations[sizeof(void *) == 8 ? 18 : 10];
    const void *relocation_check[sizeof(void *) == 8 ? 0 : 1];
    const void *continuations, *continuations_count;
    const void *extended[4];
};

const struct load_config _load_config_used = {
    .size = sizeof(struct load_config),
    .handler_table = __safe_se_handler_table,
    .handler_count = __safe_se_handler_count,
    .check_function = &__guard_check_icall_fptr,
    .dispatch_function = DISPATCH,
    .function_table = __guard_fids_table,
    .function_count = __guard_fids_count,
    .flags = __guard_flags,
    .taken_imports = __guard_iat_table,
    .taken_imports_count = __guard_iat_count,
    .long_jumps = __guard_longjmp_table,
    .long_jumps_count = __guard_longjmp_count,
#ifdef _WIN64
    .continuations = __guard_eh_cont_table,
    .continuations_count = __guard_eh_cont_count,
#endif
};
