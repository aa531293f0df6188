/* What calltable.h says of the direct lane on x86_64: where the data comes, what the handler owns, and which handlers
   the fast way serves. Elsewhere: where the data comes, and that handlers own their arguments. */
#include "platform.h"

#define CAST(type, slot) ((type)calltable_code(slot))

static calltable_slot register_or_fail(const char *name, calltable_binding binding, uint32_t options) {
    calltable_slot slot;
    binding.options |= options;
    expect(name, calltable_register(&binding, &slot), CALLTABLE_OK);
    return slot;
}

static void release(calltable_slot slot) {
    expect("its release", calltable_release(slot), CALLTABLE_OK);
}

/* Handlers that change every parameter, where it lies in memory. */

typedef uintptr_t word;
typedef word(CALLTABLE_CALL *four)(word, word, word, word);
typedef word(CALLTABLE_CALL *five)(word, word, word, word, word);

static void spoil(volatile word *a, volatile word *b, volatile word *c, volatile word *d) {
    *a = *b = *c = *d = (word)-1;
}

static word CALLTABLE_CALL own_four(word a, word b, word c, word d, word *data) {
    word result = a + 10 * b + 100 * c + 1000 * d + *data;
    spoil(&a, &b, &c, &d);
    *(word *volatile *)&data = NULL;
    return result;
}

static word CALLTABLE_CALL own_five(word a, word b, word c, word d, word e, word *data) {
    word result = a + 10 * b + 100 * c + 1000 * d + 10000 * e + *data;
    spoil(&a, &b, &c, &d);
    *(volatile word *)&e = 0;
    *(word *volatile *)&data = NULL;
    return result;
}

static const uint32_t OPTIONS[] = {
    0,
    CALLTABLE_EXCLUSIVE,
    CALLTABLE_TRACKED,
    CALLTABLE_SAVING,
    CALLTABLE_TRACKED | CALLTABLE_EXCLUSIVE | CALLTABLE_SAVING_CONTROL_WORDS,
};

static void own_arguments(void) {
    for (size_t i = 0; i < sizeof OPTIONS / sizeof OPTIONS[0]; i += 1) {
        word data = 100000;
        calltable_binding of_four = CALLTABLE_DIRECT(own_four, 4, &data);
        calltable_binding of_five = CALLTABLE_DIRECT(own_five, 5, &data);
        calltable_slot slot = register_or_fail("a handler that changes 4 arguments and the data", of_four, OPTIONS[i]);
        check("its result", CAST(four, slot)(1, 2, 3, 4) == 104321 && CAST(four, slot)(1, 2, 3, 4) == 104321);
        release(slot);
        slot = register_or_fail("a handler that changes 5 arguments and the data", of_five, OPTIONS[i]);
        check("its result", CAST(five, slot)(1, 2, 3, 4, 5) == 154321 && CAST(five, slot)(1, 2, 3, 4, 5) == 154321);
        release(slot);
    }
}

#if defined(__x86_64__)

/* The fast way for callbacks of other sizes. */

typedef word(CALLTABLE_CALL *one)(word);

static word CALLTABLE_CALL padded(word a, void *b, void *c, void *d, word *data) {
    (void)b, (void)c, (void)d;
    return a + *data;
}

typedef double(CALLTABLE_CALL *six)(double, word, float, word, word, word);

static double CALLTABLE_CALL short_of(double a, word b, float c, word d, word *data) {
    return a + (double)b + c + (double)d + (double)*data;
}

static void fast_way(void) {
    word data = 40;
    calltable_binding of_one = CALLTABLE_DIRECT(padded, 4, &data);
    calltable_binding of_six = CALLTABLE_DIRECT(short_of, 4, &data);
    calltable_slot slot = register_or_fail("a callback of 1 position, a handler of 4", of_one, 0);
    check("its result", CAST(one, slot)(2) == 42);
    release(slot);
    slot = register_or_fail("a callback of 6 positions, a handler of 4", of_six, 0);
    check("its result", CAST(six, slot)(0.5, 1, 0.25f, 2, 77, 99) == 43.75);
    release(slot);
}

/* A call at which every register and stack word is looked at. `look` is a handler of any number of positions: it notes
   RSP, the registers of arguments and what lies above its return address, spoils all that it owns and every register
   that it need not keep, and returns a number that nobody else knows. `call_with` calls it with known values in the
   registers of arguments and in eight words of the stack, of which four are positions 4 to 7, and notes what has
   become of the registers that must be kept, of RSP, and of the eight words. */

enum { NUMBER = 0x5eed };

typedef struct seen {
    uint64_t rsp, registers[4], stack[10], own;
} seen;

seen calltable_test_seen;
uint64_t CALLTABLE_CALL calltable_test_call_with(calltable_function code, uint64_t kept[10], uint64_t words[8]);
void calltable_test_look(void);

__asm__(
    ".text\n"
    ".globl calltable_test_look\n"
    "calltable_test_look:\n"
    "    lea calltable_test_seen(%rip), %rax\n"
    "    mov %rsp, (%rax)\n"
    "    mov %rcx, 8(%rax)\n"
    "    mov %rdx, 16(%rax)\n"
    "    mov %r8, 24(%rax)\n"
    "    mov %r9, 32(%rax)\n"
    "    xor %ecx, %ecx\n"
    "1:  mov 8(%rsp,%rcx,8), %rdx\n"
    "    mov %rdx, 40(%rax,%rcx,8)\n"
    "    inc %ecx\n"
    "    cmp $10, %ecx\n"
    "    jb 1b\n"
    "    mov 120(%rax), %ecx\n" /* how many words are its own: the home space, and positions from the fifth on */
    "    mov $-1, %rdx\n"
    "2:  mov %rdx, (%rsp,%rcx,8)\n"
    "    dec %ecx\n"
    "    jnz 2b\n"
    "    mov %rdx, %r8\n"
    "    mov %rdx, %r9\n"
    "    mov %rdx, %r10\n"
    "    mov %rdx, %r11\n"
    "    mov $0x5eed, %eax\n"
    "    ret\n"
    ".globl calltable_test_call_with\n"
    "calltable_test_call_with:\n"
    "    push %rbx\n"
    "    push %rbp\n"
    "    push %rdi\n"
    "    push %rsi\n"
    "    push %r12\n"
    "    push %r13\n"
    "    push %r14\n"
    "    push %r15\n"
    "    sub $120, %rsp\n" /* home space, eight words, what is kept here, and to a multiple of 16 */
    "    mov %rcx, %rax\n"
    "    mov %rdx, 96(%rsp)\n"
    "    mov %r8, 104(%rsp)\n"
    "    xor %ecx, %ecx\n"
    "1:  mov (%r8,%rcx,8), %rdx\n"
    "    mov %rdx, 32(%rsp,%rcx,8)\n"
    "    inc %ecx\n"
    "    cmp $8, %ecx\n"
    "    jb 1b\n"
    "    mov $101, %ebx\n"
    "    mov $102, %edi\n"
    "    mov $103, %esi\n"
    "    mov $104, %r12d\n"
    "    mov $105, %r13d\n"
    "    mov $106, %r14d\n"
    "    mov $107, %r15d\n"
    "    mov $11, %ecx\n"
    "    mov $12, %edx\n"
    "    mov $13, %r8d\n"
    "    mov $14, %r9d\n"
    "    mov %rsp, %rbp\n"
    "    call *%rax\n"
    "    mov 96(%rbp), %rdx\n"
    "    mov %rbx, (%rdx)\n"
    "    mov %rdi, 8(%rdx)\n"
    "    mov %rsi, 16(%rdx)\n"
    "    mov %r12, 24(%rdx)\n"
    "    mov %r13, 32(%rdx)\n"
    "    mov %r14, 40(%rdx)\n"
    "    mov %r15, 48(%rdx)\n"
    "    sub %rbp, %rsp\n"
    "    mov %rsp, 56(%rdx)\n" /* 0 if RSP is as before */
    "    mov %rbp, %rsp\n"
    "    mov 104(%rsp), %r8\n"
    "    xor %ecx, %ecx\n"
    "2:  mov 32(%rsp,%rcx,8), %rdx\n"
    "    mov %rdx, (%r8,%rcx,8)\n"
    "    inc %ecx\n"
    "    cmp $8, %ecx\n"
    "    jb 2b\n"
    "    add $120, %rsp\n"
    "    pop %r15\n"
    "    pop %r14\n"
    "    pop %r13\n"
    "    pop %r12\n"
    "    pop %rsi\n"
    "    pop %rdi\n"
    "    pop %rbp\n"
    "    pop %rbx\n"
    "    ret\n");

/* A handler of so many positions: the data is in a register, or at that place above the return address. */
static void look_at(uint32_t positions, uint32_t options) {
    static const char *const NAMES[] = {
        "0 positions: the data is in RCX",          "1 position: the data is in RDX",
        "2 positions: the data is in R8",           "3 positions: the data is in R9",
        "4 positions: the data is 40 bytes above RSP", "5 positions: the data is after one word",
        "6 positions: the data is after two words", "7 positions: the data is after three words",
    };
    uint64_t kept[10] = {0}, words[8], data = 0;
    calltable_binding binding = CALLTABLE_DIRECT(calltable_test_look, positions, &data);
    calltable_slot slot = register_or_fail(NAMES[positions], binding, options);
    seen *seen = &calltable_test_seen;
    uint32_t index;
    int well;
    seen->own = positions < 4 ? 4 : positions + 1;
    for (index = 0; index < 8; index += 1) {
        words[index] = 15 + index;
    }
    well = calltable_test_call_with(calltable_code(slot), kept, words) == NUMBER;
    for (index = 0; index < 4; index += 1) {
        const uint64_t expected = index == positions ? (uint64_t)(uintptr_t)&data : 11 + index;
        well = well && (index > positions || seen->registers[index] == expected);
    }
    for (index = 4; index <= positions; index += 1) {
        const uint64_t expected = index == positions ? (uint64_t)(uintptr_t)&data : 11 + index;
        well = well && seen->stack[index] == expected;
    }
    check("it is there, and so are the arguments", well);
    check("RSP is 8 more than a multiple of 16", seen->rsp % 16 == 8);
    well = kept[7] == 0;
    for (index = 0; index < 7; index += 1) {
        well = well && kept[index] == 101 + index;
    }
    check("RSP and all that is to be kept is as before", well);
    well = 1;
    for (index = 0; index < 8; index += 1) {
        well = well && words[index] == 15 + index;
    }
    check("what the handler has written to its own words is not in the foreign code's", well);
    release(slot);
}

static void all_places(void) {
    const uint32_t options[] = {0, CALLTABLE_EXCLUSIVE, CALLTABLE_TRACKED, CALLTABLE_SAVING};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i += 1) {
        for (uint32_t positions = 0; positions < 8; positions += 1) {
            look_at(positions, options[i]);
        }
    }
}

/* The handler's return address. */

static uint32_t entry_of_return;
static calltable_status located;

static void CALLTABLE_CALL locate(void *a, void *b, void *c, void *d, void *data) {
    (void)a, (void)b, (void)c, (void)d, (void)data;
    located = calltable_locate(__builtin_return_address(0), &entry_of_return);
}

static void return_address(void) {
    calltable_binding binding = CALLTABLE_DIRECT(locate, 4, NULL);
    calltable_slot slot = register_or_fail("a handler that looks for its return address", binding, 0);
    uint32_t index;
    CAST(void(CALLTABLE_CALL *)(void), slot)();
    check("it lies in the slot's entry",
        located == CALLTABLE_OK && calltable_index_of(calltable_code(slot), &index) == CALLTABLE_OK
            && entry_of_return == index);
    release(slot);
}

#endif

int run(void) {
    own_arguments();
#if defined(__x86_64__)
    fast_way();
    all_places();
    return_address();
#endif
    return finish();
}
