/* In C99: see foreign.h. */
#include "foreign.h"

const int32_t *foreign_smallest(
    const int32_t *numbers, size_t count, int32_t(CALLTABLE_CALL *compare)(const int32_t *, const int32_t *)) {
    const int32_t *found = numbers;
    for (size_t i = 1; i < count; i += 1) {
        found = compare(&numbers[i], found) < 0 ? &numbers[i] : found;
    }
    return found;
}

int32_t foreign_call_all(foreign_all code) {
    const int32_t number = 77;
    const three small = {{1, 2, 3}};
    const eight middle = {4, 5};
    const twenty_four large = {{6, 7, 8}};
    const spot here = {1.25, -2.25, 3.25}, there = {5.5, 6.5, -7.5};
    return code(1, -8, 208, -1600, 61616, -320000, 3232323232u, INT64_C(-6464646464646464),
        UINT64_C(12345678901234567890), &number, GREEN, 1.5f, -2.5, small, middle, large, here, -4.5f, 3.5, there);
}

int32_t foreign_c(int32_t(CALLTABLE_CALL *code)(int32_t, double, int64_t, three, int8_t)) {
    const three small = {{1, 2, 3}};
    return code(100, 20.5, INT64_C(-4), small, -100);
}

int32_t foreign_stdcall(int32_t(FOREIGN_STDCALL *code)(int32_t, double, int64_t, three, int8_t)) {
    const three small = {{1, 2, 3}};
    return code(100, 20.5, INT64_C(-4), small, -100);
}

int32_t foreign_stdcall_none(int32_t(FOREIGN_STDCALL *code)(void)) {
    return code();
}

int32_t foreign_fastcall_none(int32_t(FOREIGN_FASTCALL *code)(void)) {
    return code();
}

int32_t foreign_fastcall_one(int32_t(FOREIGN_FASTCALL *code)(int32_t, int64_t, double)) {
    return code(100, INT64_C(-4), 20.5);
}

int32_t foreign_fastcall_two(int32_t(FOREIGN_FASTCALL *code)(int16_t, const int32_t *, int32_t, three, int32_t)) {
    const int32_t number = 77;
    const three small = {{1, 2, 3}};
    return code(-300, &number, 1000, small, 20000);
}

int32_t foreign_fastcall_wide(int32_t(FOREIGN_FASTCALL *code)(double, int64_t)) {
    return code(20.5, INT64_C(-4));
}

three foreign_get_three(three(CALLTABLE_CALL *code)(int32_t), int32_t number) {
    return code(number);
}

eight foreign_get_eight(eight(FOREIGN_STDCALL *code)(int32_t), int32_t number) {
    return code(number);
}

twenty_four foreign_get_twenty_four(twenty_four(CALLTABLE_CALL *code)(int32_t), int32_t number) {
    return code(number);
}

twenty_four foreign_get_twenty_four_stdcall(twenty_four(FOREIGN_STDCALL *code)(int32_t), int32_t number) {
    return code(number);
}

spot foreign_get_spot(spot(CALLTABLE_CALL *code)(float), float number) {
    return code(number);
}

/* GCC finds it pedantic to have a thiscall function that is no method. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wattributes"
#endif

typedef int32_t(FOREIGN_THISCALL *area)(foreign_object *, int32_t, int64_t);
typedef eight *(FOREIGN_THISCALL *size)(foreign_object *, eight *, int16_t);

int32_t foreign_area(foreign_object *object, int32_t a, int64_t b) {
    return ((area)object->methods[0])(object, a, b);
}

eight foreign_size(foreign_object *object, int16_t a) {
    eight result = {0, 0};
    const eight *returned = ((size)object->methods[1])(object, &result, a);
    result.height += returned == &result ? 0 : 1000;
    return result;
}

#if defined(__i386__) || defined(_M_IX86)
void foreign_call_words(foreign_call *call) {
    __asm__ volatile("movl %%esp, %%edi\n"
                     /* room for the words, aligned as Linux has it */
                     "movl 8(%%esi), %%ecx\n"
                     "leal (,%%ecx,4), %%eax\n"
                     "movl %%esp, %%edx\n"
                     "subl %%eax, %%edx\n"
                     "andl $-16, %%edx\n"
                     "movl %%edx, %%esp\n"
                     "movl 4(%%esi), %%edx\n"
                     "1: testl %%ecx, %%ecx\n"
                     "jz 2f\n"
                     "decl %%ecx\n"
                     "movl (%%edx,%%ecx,4), %%eax\n"
                     "movl %%eax, (%%esp,%%ecx,4)\n"
                     "jmp 1b\n"
                     "2: movl %%esp, %%ebx\n"
                     "movl 12(%%esi), %%ecx\n"
                     "movl 16(%%esi), %%edx\n"
                     "call *(%%esi)\n"
                     "movl %%eax, 20(%%esi)\n"
                     "movl %%esp, %%eax\n"
                     "subl %%ebx, %%eax\n"
                     "movl %%eax, 24(%%esi)\n"
                     "movl %%edi, %%esp\n"
                     :
                     : "S"(call)
                     : "eax", "ebx", "ecx", "edx", "edi", "memory", "cc");
}
#endif
