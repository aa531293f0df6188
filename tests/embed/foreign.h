/* Foreign code: it calls function pointers, and knows nothing else. It is C, and of another compiler where there is
   one. */
#ifndef FOREIGN_H
#define FOREIGN_H

#include "calltable.h"

#if defined(__i386__) || defined(_M_IX86)
#define FOREIGN_STDCALL __attribute__((stdcall))
#define FOREIGN_THISCALL __attribute__((thiscall))
#define FOREIGN_FASTCALL __attribute__((fastcall))
#else
#define FOREIGN_STDCALL CALLTABLE_CALL
#define FOREIGN_THISCALL CALLTABLE_CALL
#define FOREIGN_FASTCALL CALLTABLE_CALL
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct three {
    uint8_t bytes[3];
} three;

typedef struct eight {
    int32_t width, height;
} eight;

typedef struct twenty_four {
    uint64_t words[3];
} twenty_four;

/* All of one kind: on AArch64 each has a register of its own. */
typedef struct spot {
    double x, y, z;
} spot;

enum color { RED = -1, GREEN = 70000 };

/* The first of the smallest numbers. */
const int32_t *foreign_smallest(
    const int32_t *numbers, size_t count, int32_t(CALLTABLE_CALL *compare)(const int32_t *, const int32_t *));

/* Calls with one value of each type, and the address of a number, which is 77. Returns what the callback does. */
#ifdef __cplusplus
#define FOREIGN_BOOL bool
#else
#define FOREIGN_BOOL _Bool
#endif
typedef int32_t(CALLTABLE_CALL *foreign_all)(
    FOREIGN_BOOL, int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t, uint64_t, const int32_t *, enum color,
    float, double, three, eight, twenty_four, spot, float, double, spot);
int32_t foreign_call_all(foreign_all code);

/* The callback adds up what it gets. */
int32_t foreign_c(int32_t(CALLTABLE_CALL *code)(int32_t, double, int64_t, three, int8_t));
int32_t foreign_stdcall(int32_t(FOREIGN_STDCALL *code)(int32_t, double, int64_t, three, int8_t));
int32_t foreign_stdcall_none(int32_t(FOREIGN_STDCALL *code)(void));
int32_t foreign_fastcall_none(int32_t(FOREIGN_FASTCALL *code)(void));
int32_t foreign_fastcall_one(int32_t(FOREIGN_FASTCALL *code)(int32_t, int64_t, double));
int32_t foreign_fastcall_two(int32_t(FOREIGN_FASTCALL *code)(int16_t, const int32_t *, int32_t, three, int32_t));
int32_t foreign_fastcall_wide(int32_t(FOREIGN_FASTCALL *code)(double, int64_t));

/* Results; the callback gets a number, and makes them of it: each element is one more. */
three foreign_get_three(three(CALLTABLE_CALL *code)(int32_t), int32_t number);
eight foreign_get_eight(eight(FOREIGN_STDCALL *code)(int32_t), int32_t number);
twenty_four foreign_get_twenty_four(twenty_four(CALLTABLE_CALL *code)(int32_t), int32_t number);
twenty_four foreign_get_twenty_four_stdcall(twenty_four(FOREIGN_STDCALL *code)(int32_t), int32_t number);
spot foreign_get_spot(spot(CALLTABLE_CALL *code)(float), float number);

/* An object as Microsoft's compilers lay it out: a pointer to the addresses of its methods. */
typedef struct foreign_object {
    const calltable_function *methods;
    int32_t scale;
} foreign_object;

/* Methods 0, `int32_t area(int32_t, int64_t)`, and 1, `eight size(int16_t)`, which returns through memory. */
int32_t foreign_area(foreign_object *object, int32_t a, int64_t b);
eight foreign_size(foreign_object *object, int16_t a);

#if defined(__i386__) || defined(_M_IX86)
/* A call with words on the stack and two registers: what it returns, and how many bytes it has removed. */
typedef struct foreign_call {
    calltable_function code;
    const uint32_t *words;
    uint32_t count;
    uint32_t ecx, edx;
    uint32_t eax, removed;
} foreign_call;
void foreign_call_words(foreign_call *call);
#endif

#ifdef __cplusplus
}
#endif

#endif
