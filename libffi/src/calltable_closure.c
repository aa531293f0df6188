/*
 * The call of a closure's function: the slot's handler. In C, since exceptions may leave it, and Rust that aborts on
 * panics stops them. (The name tells its object from others in the static library.)
 */
#include <stddef.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HANDLER __attribute__((ms_abi))
#elif defined(__i386__) && defined(__GNUC__)
#define HANDLER __attribute__((cdecl))
#else
#define HANDLER
#endif

/* Clang has it without a header, for MSVC, too. */
#if defined(__GNUC__) || defined(__clang__)
#define ALLOCA __builtin_alloca
#else
#include <malloc.h>
#define ALLOCA _alloca
#endif

/* As in src/run.rs. */
struct call {
    void (*function)(void *cif, void *result, void **arguments, void *user_data);
    void *cif, *result, **arguments, *user_data;
    /* what the functions below keep; it begins where a number of 8 bytes may be, in both languages */
    unsigned long long room[CALL_ROOM / 8];
};

size_t calltable_libffi_count(const void *block);
void calltable_libffi_begin(void *block, void *frame, struct call *call);
void calltable_libffi_end(struct call *call);

void HANDLER calltable_libffi_handler(void *block, void *frame);

void HANDLER calltable_libffi_handler(void *block, void *frame) {
    struct call call;
    void *few[16];
    size_t count = calltable_libffi_count(block);
    call.arguments = count <= sizeof few / sizeof *few ? few : (void **)ALLOCA(count * sizeof *few);
    calltable_libffi_begin(block, frame, &call);
    call.function(call.cif, call.result, call.arguments, call.user_data);
    calltable_libffi_end(&call);
}
