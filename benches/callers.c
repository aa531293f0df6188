// The foreign side: loops that call function pointers in turn, and handlers in C. Also built as the DLL that calls the
// Go runtime's callbacks.

#include <stddef.h>
#include <stdint.h>

#ifdef __x86_64__
#define CALLBACK __attribute__((ms_abi))
#else
#define CALLBACK __attribute__((stdcall))
#endif
#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT
#endif

typedef intptr_t Word;
typedef void *Code;

// Calls each of the pointers in turn, `passes` times, and returns the sum of what came back. Two loops, so that a
// processor which predicts a call's target from the branches before it has some to go by.
#define LOOP(name, Sum, call)                                              \
    EXPORT double loop_##name(Code *codes, size_t slots, size_t passes) {  \
        Sum sum = 0;                                                       \
        for (; passes != 0; passes--) {                                    \
            for (size_t slot = 0; slot < slots; slot++) {                  \
                sum += call;                                               \
            }                                                              \
        }                                                                  \
        return (double)sum;                                                \
    }
#define SHAPE(name, Result, arguments, ...)                                \
    typedef CALLBACK Result (*name##_callback)(__VA_ARGS__);               \
    LOOP(name, Result, ((name##_callback)codes[slot]) arguments)

SHAPE(int0, Word, (), void)
SHAPE(int2, Word, (1, 2), Word, Word)
SHAPE(int4, Word, (1, 2, 3, 4), Word, Word, Word, Word)
SHAPE(int8, Word, (1, 2, 3, 4, 5, 6, 7, 8), Word, Word, Word, Word, Word, Word, Word, Word)
SHAPE(double4, double, (1, 2, 3, 4), double, double, double, double)
SHAPE(mixed12, double, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), Word, double, int32_t, float, Word, double, int32_t,
      float, Word, double, int32_t, float)

// The same call from some functions further down. Each returns to a place of its own, so that a processor that has lost
// its place on the way back is wrong in each of them.
#define DOWN(depth, below)                                                 \
    static __attribute__((noipa)) Word down##depth(int4_callback code) {          \
        Word result = below;                                               \
        __asm__ volatile("");                                              \
        return result;                                                     \
    }
DOWN(2, code(1, 2, 3, 4))
DOWN(3, down2(code))
DOWN(4, down3(code))
DOWN(5, down4(code))
DOWN(6, down5(code))
DOWN(7, down6(code))
DOWN(8, down7(code))
DOWN(9, down8(code))
DOWN(10, down9(code))
DOWN(11, down10(code))
DOWN(12, down11(code))
LOOP(int4_depth3, Word, down3((int4_callback)codes[slot]))
LOOP(int4_depth12, Word, down12((int4_callback)codes[slot]))

// Handlers of the direct lane: what the callback gets, and the data. Each counts its calls and adds up its arguments,
// as all handlers here do.
CALLBACK Word handler_int0(size_t *count) {
    ++*count;
    return 0;
}
CALLBACK Word handler_int2(Word a, Word b, size_t *count) {
    ++*count;
    return a + b;
}
CALLBACK Word handler_int4(Word a, Word b, Word c, Word d, size_t *count) {
    ++*count;
    return a + b + c + d;
}
CALLBACK Word handler_int8(Word a, Word b, Word c, Word d, Word e, Word f, Word g, Word h, size_t *count) {
    ++*count;
    return a + b + c + d + e + f + g + h;
}
CALLBACK double handler_double4(double a, double b, double c, double d, size_t *count) {
    ++*count;
    return a + b + c + d;
}
CALLBACK double handler_mixed12(Word a, double b, int32_t c, float d, Word e, double f, int32_t g, float h, Word i,
                                double j, int32_t k, float l, size_t *count) {
    ++*count;
    return (double)(a + c + e + g + i + k) + (b + f + j) + (double)(d + h + l);
}

// A plain function, the floor.
static size_t direct_count;
EXPORT CALLBACK Word direct_int4(Word a, Word b, Word c, Word d) {
    ++direct_count;
    return a + b + c + d;
}
