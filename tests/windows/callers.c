// Foreign code that calls back. Compiled for each convention of the target, without and with optimisation; CONVENTION
// and LEVEL end the names of the functions.
//
// The callers of one list below call with the values that tests/windows/callers.rs expects, and return whether the
// result is the one that it gives.

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#define COBJMACROS
#include <initguid.h>
#include <windows.h>
#include <objidl.h>
#undef cdecl // an empty macro in MinGW's headers; here the name of a convention

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define EXPORT(name) __declspec(dllexport) JOIN(JOIN(name, CONVENTION), LEVEL)

#ifdef __i386__
#define ATTRIBUTE_(name) __attribute__((__##name##__))
#define ATTRIBUTE(name) ATTRIBUTE_(name)
#define CALLBACK_CONVENTION ATTRIBUTE(CONVENTION)
#else
#define CALLBACK_CONVENTION // there is one
#endif

// Runs `call` and gives what it has moved the stack pointer by, which the caller's own code has not; see build_dll.rs.
// The caller continues with the right one.
#ifdef __i386__
#define MOVED_BY(call)                                                                                                 \
    ({                                                                                                                 \
        char *before, *after;                                                                                          \
        __asm__ volatile("movl %%esp, %0" : "=r"(before));                                                             \
        call;                                                                                                          \
        __asm__ volatile("movl %%esp, %0; movl %1, %%esp" : "=&r"(after) : "r"(before));                               \
        after - before;                                                                                                \
    })
#else
#define MOVED_BY(call) ((call), 0) // no convention of this target has the callee move it
#endif

typedef struct { uint8_t bytes[2]; } Bytes2;
typedef struct { uint8_t bytes[3]; } Bytes3;
typedef struct { uint8_t bytes[8]; } Bytes8;
typedef struct { uint8_t bytes[12]; } Bytes12;
typedef struct { uint8_t bytes[24]; } Bytes24;
typedef struct { float x, y; } FloatPair;
typedef struct { double x, y; } DoublePair;
typedef uintptr_t word;
typedef intptr_t number;
typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

static void fill(void *value, size_t size, int seed) {
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)value)[i] = (uint8_t)(seed * 37 + i * 11 + 5);
}

#define ARGUMENT(type, i) type a##i; fill(&a##i, sizeof a##i, i);

#define PARAMETERS0() void
#define PARAMETERS1(A) A
#define PARAMETERS2(A, B) A, B
#define PARAMETERS3(A, B, C) A, B, C
#define PARAMETERS4(A, B, C, D) A, B, C, D
#define PARAMETERS5(A, B, C, D, E) A, B, C, D, E
#define PARAMETERS6(A, B, C, D, E, F) A, B, C, D, E, F
#define PARAMETERS7(A, B, C, D, E, F, G) A, B, C, D, E, F, G
#define PARAMETERS8(A, B, C, D, E, F, G, H) A, B, C, D, E, F, G, H
#define PARAMETERS9(A, B, C, D, E, F, G, H, I) A, B, C, D, E, F, G, H, I
#define PARAMETERS10(A, B, C, D, E, F, G, H, I, J) A, B, C, D, E, F, G, H, I, J
#define ARGUMENTS0()
#define ARGUMENTS1(A) ARGUMENT(A, 0)
#define ARGUMENTS2(A, B) ARGUMENTS1(A) ARGUMENT(B, 1)
#define ARGUMENTS3(A, B, C) ARGUMENTS2(A, B) ARGUMENT(C, 2)
#define ARGUMENTS4(A, B, C, D) ARGUMENTS3(A, B, C) ARGUMENT(D, 3)
#define ARGUMENTS5(A, B, C, D, E) ARGUMENTS4(A, B, C, D) ARGUMENT(E, 4)
#define ARGUMENTS6(A, B, C, D, E, F) ARGUMENTS5(A, B, C, D, E) ARGUMENT(F, 5)
#define ARGUMENTS7(A, B, C, D, E, F, G) ARGUMENTS6(A, B, C, D, E, F) ARGUMENT(G, 6)
#define ARGUMENTS8(A, B, C, D, E, F, G, H) ARGUMENTS7(A, B, C, D, E, F, G) ARGUMENT(H, 7)
#define ARGUMENTS9(A, B, C, D, E, F, G, H, I) ARGUMENTS8(A, B, C, D, E, F, G, H) ARGUMENT(I, 8)
#define ARGUMENTS10(A, B, C, D, E, F, G, H, I, J) ARGUMENTS9(A, B, C, D, E, F, G, H, I) ARGUMENT(J, 9)
#define CALL0 callback()
#define CALL1 callback(a0)
#define CALL2 callback(a0, a1)
#define CALL3 callback(a0, a1, a2)
#define CALL4 callback(a0, a1, a2, a3)
#define CALL5 callback(a0, a1, a2, a3, a4)
#define CALL6 callback(a0, a1, a2, a3, a4, a5)
#define CALL7 callback(a0, a1, a2, a3, a4, a5, a6)
#define CALL8 callback(a0, a1, a2, a3, a4, a5, a6, a7)
#define CALL9 callback(a0, a1, a2, a3, a4, a5, a6, a7, a8)
#define CALL10 callback(a0, a1, a2, a3, a4, a5, a6, a7, a8, a9)

// Returns 1 if all is well, 0 if the result is another one, 2 if the stack pointer is.
#define CASE(name, result, n, ...)                                                                                     \
    int EXPORT(name)(result(CALLBACK_CONVENTION * callback)(PARAMETERS##n(__VA_ARGS__))) {                             \
        ARGUMENTS##n(__VA_ARGS__) result want, got;                                                                    \
        fill(&want, sizeof want, 99);                                                                                  \
        if (MOVED_BY(got = CALL##n) != 0)                                                                              \
            return 2;                                                                                                  \
        return memcmp(&got, &want, sizeof got) == 0;                                                                   \
    }

CASE(words2, word, 2, word, word)
CASE(words3, word, 3, word, word, word)
CASE(words4, word, 4, word, word, word, word)
CASE(words5, word, 5, word, word, word, word, word)
CASE(words6, word, 6, word, word, word, word, word, word)
CASE(words7, word, 7, word, word, word, word, word, word, word)
CASE(words8, word, 8, word, word, word, word, word, word, word, word)
CASE(words9, word, 9, word, word, word, word, word, word, word, word, word)
CASE(words10, word, 10, word, word, word, word, word, word, word, word, word, word)
CASE(nine_u8, u8, 9, u8, u8, u8, u8, u8, u8, u8, u8, u8)
CASE(nine_u16, u16, 9, u16, u16, u16, u16, u16, u16, u16, u16, u16)
CASE(nine_i8, i8, 9, i8, i8, i8, i8, i8, i8, i8, i8, i8)
CASE(nine_i16, i16, 9, i16, i16, i16, i16, i16, i16, i16, i16, i16)
CASE(nine_u32, u32, 9, u32, u32, u32, u32, u32, u32, u32, u32, u32)
CASE(five_mixed, i32, 5, i8, i16, i32, i64, u8)
CASE(nine_mixed, u16, 9, u8, i16, u32, i64, i8, u16, i32, u64, u8)
CASE(five_pairs, word, 5, Bytes2, Bytes2, Bytes2, Bytes2, Bytes2)
CASE(nine_floats, float, 9, float, float, float, float, float, float, float, float, float)
CASE(nine_doubles, double, 9, double, double, double, double, double, double, double, double, double)
CASE(floats_and_words, double, 9, word, float, word, double, float, word, double, word, float)
CASE(odd_64_bit, i64, 9, i32, i64, i32, u64, i8, i64, u16, double, i32)
CASE(mixed_structures, Bytes8, 7, Bytes3, i32, Bytes8, Bytes12, double, Bytes24, Bytes2)
CASE(words_then_the_rest, Bytes8, 8, word, u8, Bytes3, i64, Bytes8, double, Bytes24, float)
CASE(result_2, Bytes2, 1, word)
CASE(result_3, Bytes3, 2, word, double)
CASE(result_8, Bytes8, 0)
CASE(result_float_pair, FloatPair, 3, float, word, float)
CASE(result_double_pair, DoublePair, 3, double, word, double)
CASE(result_12, Bytes12, 4, word, word, word, word)
CASE(result_24, Bytes24, 5, word, double, i8, i64, float)

// Calls again and again.
number EXPORT(repeat)(number(CALLBACK_CONVENTION *callback)(number), number times) {
    number sum = 0, result;
    for (number i = 0; i < times; i++) {
        if (MOVED_BY(result = callback(i)) != 0)
            return -1;
        sum += result;
    }
    return sum;
}

// Calls once, with a frame of its own on the stack, so that a callback that calls this again nests.
number EXPORT(nest)(number(CALLBACK_CONVENTION *callback)(number), number depth) {
    volatile number guard[4] = {depth, depth, depth, depth};
    number result;
    if (MOVED_BY(result = callback(depth)) != 0)
        return -1;
    return guard[0] == depth && guard[3] == depth ? result : -1;
}

// Calls on a new thread and waits for it.
i64 EXPORT(in_new_thread)(LPTHREAD_START_ROUTINE callback, void *parameter) {
    HANDLE thread = CreateThread(NULL, 0, callback, parameter, 0, NULL);
    DWORD code = 0;
    if (thread == NULL || WaitForSingleObject(thread, 30000) != WAIT_OBJECT_0 || !GetExitCodeThread(thread, &code))
        return -1;
    CloseHandle(thread);
    return code;
}

// Calls each method of a sink; gives the number of references to it, or 0 if a result is wrong.
uint32_t EXPORT(call_sink)(IAdviseSink *sink) {
    void *found, *none;
    FORMATETC format = {0};
    STGMEDIUM medium = {0};
    if (IAdviseSink_QueryInterface(sink, &IID_IAdviseSink, &found) != S_OK || found != sink)
        return 0;
    if (IAdviseSink_QueryInterface(sink, &IID_IStream, &none) != E_NOINTERFACE || none != NULL)
        return 0;
    if (IAdviseSink_AddRef(sink) != 3 || IAdviseSink_Release(sink) != 2)
        return 0;
    IAdviseSink_OnDataChange(sink, &format, &medium);
    IAdviseSink_OnViewChange(sink, DVASPECT_ICON, -1);
    IAdviseSink_OnRename(sink, NULL);
    IAdviseSink_OnSave(sink);
    IAdviseSink_OnClose(sink);
    return IAdviseSink_Release(sink);
}

// Handlers of the direct lane, whose data comes last, that raise an exception: software's and hardware's.
i64 EXPORT(raising_handler)(i64 argument, void *data) {
    ULONG_PTR information[2] = {(ULONG_PTR)argument, (ULONG_PTR)data};
    RaiseException(0xe0ca11ab, EXCEPTION_NONCONTINUABLE, 2, information);
    return argument;
}
i64 EXPORT(faulting_handler)(i64 argument, volatile i64 *data) { return argument + *data; }
