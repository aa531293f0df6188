// What the generated C callers are made of.
#include <stddef.h>
#include <stdint.h>
#if __STDC_HOSTED__
#include <string.h>
#else
int memcmp(const void *a, const void *b, size_t length);
#endif

#ifdef __x86_64__
#define MS __attribute__((ms_abi))
#else
#define MS // cdecl, and the one of AArch64
#endif
#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define NAME(name) JOIN(name, VARIANT)

typedef void (MS *Function)(void);
typedef struct { uint8_t bytes[1]; } Bytes1;
typedef struct { uint8_t bytes[2]; } Bytes2;
typedef struct { uint8_t bytes[3]; } Bytes3;
typedef struct { uint8_t bytes[4]; } Bytes4;
typedef struct { uint8_t bytes[8]; } Bytes8;
typedef struct { uint8_t bytes[12]; } Bytes12;
typedef struct { uint8_t bytes[24]; } Bytes24;
typedef struct { float a, b; } FloatPair;
typedef struct { double a, b; } DoublePair;
#ifdef __aarch64__
typedef struct { float a; } Float1;
typedef struct { float a, b, c; } Floats3;
typedef struct { float numbers[4]; } Floats4;
typedef struct { double a; struct { double b, c; } more; } Doubles3;
typedef struct { double a, b, c, d; } Doubles4;
typedef struct { _Alignas(16) int64_t a; int64_t b; } Aligned;
typedef struct { __int128 a; int64_t b, c; } AlignedMore;
typedef struct { double a; int64_t b; } Mixed;
typedef struct { uint8_t bytes[9]; } Bytes9;
typedef struct { uint8_t bytes[16]; } Bytes16;
typedef struct { uint8_t bytes[72]; } Bytes72;
#endif

// The value number `seed` of any type: a pattern of bytes that no other number shares (src/lib.rs, fill).
static void fill(void *value, size_t size, unsigned seed) {
    for (size_t i = 0; i < size; i++) ((uint8_t *)value)[i] = (uint8_t)(seed * 37 + i * 11 + 5);
}
static void fill_bool(_Bool *value, unsigned seed) { *value = seed % 3 != 1; }
#ifndef CALLTABLE_NO_FLOATS
static void fill_float(float *value, unsigned seed) { *value = (float)seed * 1.5f - 7.0f; }
static void fill_double(double *value, unsigned seed) { *value = (double)seed * -2.25 + 3.0; }
#else // no case has any of these
static void fill_float(float *, unsigned);
static void fill_double(double *, unsigned);
#endif

#define FILL(variable, seed) _Generic((variable), \
    _Bool: fill_bool((void *)&variable, seed), \
    float: fill_float((void *)&variable, seed), \
    double: fill_double((void *)&variable, seed), \
    default: fill(&variable, sizeof variable, seed))

#ifndef CALLTABLE_NO_FLOATS
// A call as through a variadic prototype: floating-point arguments come in both register files.
int NAME(variadic)(int64_t (MS *callback)(int32_t, ...)) {
    return callback(-3, 2.5, 0x123456789abcdefLL, -4.75, 6.125, -7LL, 8.5) == 42;
}

// Calls of a variadic function, with more arguments than there are registers: without a format, and as printf.
int NAME(variadic_rest)(int (MS *callback)(double, const char *, ...)) {
    short small = -7;
    float half = 0.5f;
    int count = callback(1.5, 0, -3, 2.5, "text", 0x123456789abcdefLL, 'c', half, -4.75, small, 6.125, 9ULL, 8.5,
        (void *)&callback, -16.25, 17);
    return count == 14
        && callback(1.5, "%d %.2f %s %u %.3f %c %d %.1f %x %.4f %s %.2f %d", -3, 2.5, "text", 7u, -4.75, 'c', small,
               half, 0xbeefu, 6.125, "more", -16.25, 17) == 57;
}
#endif

// Calls again and again, for tests that run several threads.
intptr_t NAME(repeat)(intptr_t (MS *callback)(intptr_t), intptr_t times) {
    intptr_t sum = 0;
    for (intptr_t i = 0; i < times; i++) sum += callback(i);
    return sum;
}

// Passes the callback on to itself: the callback calls this function again with one less.
intptr_t NAME(nest)(intptr_t (MS *callback)(intptr_t), intptr_t depth) { return callback(depth); }
