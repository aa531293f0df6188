/* Everything of calltable.h from C99, on every target. */
#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#define HAS_SIGNALS 1
#define _POSIX_C_SOURCE 200809L
#include <signal.h>
#endif
#include "platform.h"

#include <float.h>
#include <stdarg.h>

#define CAST(type, slot) ((type)calltable_code(slot))
/* Rust's libraries for x86_64 firmware, and for kernels, touch no floating-point register. */
#if defined(__i386__) || defined(_M_IX86) || (defined(__SSE2__) && !defined(EMBED_UEFI)) || defined(__ARM_NEON)
#define HAS_FLOATS 1
#else
#define HAS_FLOATS 0
#endif
#if defined(__i386__) && LDBL_MANT_DIG == 64
#define HAS_F80 1
#else
#define HAS_F80 0
#endif
#if defined(__x86_64__) || defined(__aarch64__)
#define POSITIONS(on_64_bits, words) on_64_bits
#else
#define POSITIONS(on_64_bits, words) words
#endif

typedef struct three {
    uint8_t bytes[3];
} three;

typedef struct twenty_four {
    uint64_t words[3];
} twenty_four;

static calltable_slot register_or_fail(const char *name, const calltable_binding *binding) {
    calltable_slot slot;
    expect(name, calltable_register(binding, &slot), CALLTABLE_OK);
    return slot;
}

static calltable_stale_call last_stale;

/* Who is to get a refused call's frame, and with what. */
static calltable_frame_handler stale_reader;
static const calltable_signature *stale_signature;
static void *stale_data;

static void read_stale_calls(calltable_frame_handler reader, const calltable_signature *signature, void *data) {
    stale_reader = reader;
    stale_signature = signature;
    stale_data = data;
}

static void stale(const calltable_stale_call *call) {
    calltable_frame *frame;
    last_stale = *call;
    calltable_stale_set(call, 4711);
    if (stale_reader != NULL) {
        expect("the frame of a refused call", calltable_stale_frame(call, stale_signature, &frame), CALLTABLE_OK);
        stale_reader(stale_data, frame);
    }
}

static void stale_no_call(const calltable_stale_call *call) {
    calltable_signature none = {0, {0}};
    calltable_frame *frame;
    expect("a frame of no signature", calltable_stale_frame(call, &none, &frame), CALLTABLE_BAD_SIGNATURE);
    expect("a frame of a null signature", calltable_stale_frame(call, NULL, &frame), CALLTABLE_NULL_POINTER);
    expect("a frame and nowhere to put it", calltable_stale_frame(call, &none, NULL), CALLTABLE_NULL_POINTER);
    expect("a frame of no call", calltable_stale_frame(NULL, &none, &frame), CALLTABLE_NULL_POINTER);
    expect("a result of no call", calltable_stale_set(NULL, 1), CALLTABLE_NULL_POINTER);
}

/* Statuses and versions. */

static void statuses(void) {
    int all = 1;
    for (calltable_status status = CALLTABLE_OK; status <= CALLTABLE_NOT_VARIADIC; status += 1) {
        const char *text = calltable_status_text(status);
        all = all && text != NULL && text[0] != 0 && text != calltable_status_text(-1);
    }
    check("every status has a text", all);
    check("so has a number that is none", calltable_status_text(123456)[0] != 0);
    expect("the header is the library's", calltable_check_version(CALLTABLE_VERSION), CALLTABLE_OK);
    expect("another header is refused", calltable_check_version(CALLTABLE_VERSION + 1), CALLTABLE_OTHER_VERSION);
}

/* Direct lane. */

typedef int32_t(CALLTABLE_CALL *six)(int32_t, int8_t, uint64_t, void *, int16_t, int32_t);

static int32_t CALLTABLE_CALL add_six(int32_t a, int8_t b, uint64_t c, void *d, int16_t e, int32_t f, void *data) {
    return a + b + (int32_t)c + *(int32_t *)d + e + f + *(int32_t *)data;
}

#if HAS_FLOATS
typedef double(CALLTABLE_CALL *floats)(float, double, int32_t, double, float);

static double CALLTABLE_CALL add_floats(float a, double b, int32_t c, double d, float e, void *data) {
    return a + b + c + d + e + *(double *)data;
}
#endif

typedef twenty_four(CALLTABLE_CALL *widen)(three);

static twenty_four CALLTABLE_CALL widen_three(three value, void *data) {
    twenty_four result = {{value.bytes[0], value.bytes[2], *(uint64_t *)data}};
    return result;
}

#if defined(__i386__) || defined(_M_IX86)
typedef int32_t(__attribute__((stdcall)) *stdcall_two)(int32_t, int32_t);

static int32_t __attribute__((stdcall)) subtract(int32_t a, int32_t b, void *data) {
    return a - b - *(int32_t *)data;
}
#endif

static void direct(void) {
    int32_t seven = 7, hundred = 100;
    calltable_binding binding = CALLTABLE_DIRECT(add_six, POSITIONS(6, 7), &hundred);
    calltable_slot slot = register_or_fail("direct lane", &binding);
    check("its arguments and result", CAST(six, slot)(1, -2, 3, &seven, -5, 6) == 1 - 2 + 3 + 7 - 5 + 6 + 100);
    expect("its release", calltable_release(slot), CALLTABLE_OK);
#if HAS_FLOATS
    {
        static calltable_signature signature;
        const calltable_type types[] = {CALLTABLE_F32, CALLTABLE_F64, CALLTABLE_I32, CALLTABLE_F64, CALLTABLE_F32};
        double half = 0.5;
        calltable_binding with_floats = CALLTABLE_DIRECT_AS(add_floats, &signature, &half);
        expect("its signature",
            calltable_signature_init(&signature, CALLTABLE_C, types, 5, CALLTABLE_F64), CALLTABLE_OK);
        slot = register_or_fail("direct lane with floats", &with_floats);
        check("their sum", CAST(floats, slot)(1.5f, 2.25, 3, 4.125, 5.0f) == 1.5 + 2.25 + 3 + 4.125 + 5.0 + 0.5);
        expect("their release", calltable_try_release(slot), CALLTABLE_OK);
    }
#endif
    {
        static calltable_signature signature;
        const calltable_type small = CALLTABLE_STRUCT(3);
        uint64_t ninety = 90;
        three value = {{1, 2, 3}};
        twenty_four result;
        calltable_binding structures = CALLTABLE_DIRECT_AS(widen_three, &signature, &ninety);
        expect("their signature",
            calltable_signature_init(&signature, CALLTABLE_C, &small, 1, CALLTABLE_STRUCT(24)), CALLTABLE_OK);
        slot = register_or_fail("direct lane with structures", &structures);
        result = CAST(widen, slot)(value);
        check("their values", result.words[0] == 1 && result.words[1] == 3 && result.words[2] == 90);
        expect("their release", calltable_release(slot), CALLTABLE_OK);
    }
#if defined(__i386__) || defined(_M_IX86)
    {
        calltable_binding removing = CALLTABLE_DIRECT(subtract, 2, &seven);
        removing.convention = CALLTABLE_STDCALL;
        slot = register_or_fail("direct lane, stdcall", &removing);
        check("its arguments", CAST(stdcall_two, slot)(50, 8) == 35 && CAST(stdcall_two, slot)(50, 9) == 34);
        expect("stdcall: release", calltable_release(slot), CALLTABLE_OK);
    }
#endif
}

/* Frame lane. What holds a signature is static: it has 2 KB, and where there is no C library, nobody has the function
   that compilers call in functions with more than a page of locals. */

typedef struct method {
    calltable_signature signature;
    int well;
} method;

static const calltable_type ALL_TYPES[] = {
    CALLTABLE_BOOL, CALLTABLE_I8, CALLTABLE_U8, CALLTABLE_I16, CALLTABLE_U16, CALLTABLE_I32, CALLTABLE_U32,
    CALLTABLE_I64, CALLTABLE_U64, CALLTABLE_POINTER, CALLTABLE_STRUCT(sizeof(three)),
    CALLTABLE_STRUCT(sizeof(twenty_four)),
#if HAS_FLOATS
    CALLTABLE_F32, CALLTABLE_F64, CALLTABLE_F64, CALLTABLE_F32, CALLTABLE_HOMOGENEOUS(CALLTABLE_F64, 3),
    CALLTABLE_HOMOGENEOUS(CALLTABLE_F64, 3),
#endif
};
#define TYPES (sizeof ALL_TYPES / sizeof ALL_TYPES[0])

#if HAS_FLOATS
typedef struct place {
    double x, y, z;
} place;

#define FLOAT_PARAMETERS , float, double, double, float, place, place
#define FLOAT_ARGUMENTS , 1.5f, -2.5, 3.5, -4.5f, here, there
#else
#define FLOAT_PARAMETERS
#define FLOAT_ARGUMENTS
#endif
typedef int32_t(CALLTABLE_CALL *all_types)(
    _Bool, int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t, uint64_t, void *, three,
    twenty_four FLOAT_PARAMETERS);

static void CALLTABLE_CALL read_all(void *data, calltable_frame *frame) {
    method *self = (method *)data;
    const calltable_signature *signature = &self->signature;
    _Bool truth;
    int8_t i8;
    uint8_t u8;
    int16_t i16;
    uint16_t u16;
    int32_t i32;
    uint32_t u32;
    int64_t i64;
    uint64_t u64;
    void *pointer;
    three small;
    twenty_four large;
    int got = calltable_get_bool(frame, signature, 0, &truth) | calltable_get_i8(frame, signature, 1, &i8)
        | calltable_get_u8(frame, signature, 2, &u8) | calltable_get_i16(frame, signature, 3, &i16)
        | calltable_get_u16(frame, signature, 4, &u16) | calltable_get_i32(frame, signature, 5, &i32)
        | calltable_get_u32(frame, signature, 6, &u32) | calltable_get_i64(frame, signature, 7, &i64)
        | calltable_get_u64(frame, signature, 8, &u64) | calltable_get_pointer(frame, signature, 9, &pointer)
        | calltable_get(frame, signature, 10, CALLTABLE_STRUCT(sizeof small), &small)
        | calltable_get(frame, signature, 11, CALLTABLE_STRUCT(sizeof large), &large);
    self->well = got == CALLTABLE_OK && truth && i8 == -8 && u8 == 208 && i16 == -1600 && u16 == 61616
        && i32 == -320000 && u32 == 3232323232u && i64 == INT64_C(-6464646464646464)
        && u64 == UINT64_C(12345678901234567890) && pointer == data && small.bytes[0] == 1 && small.bytes[1] == 2
        && small.bytes[2] == 3 && large.words[0] == 4 && large.words[1] == 5 && large.words[2] == 6;
#if HAS_FLOATS
    {
        float f32, last;
        double f64, third;
        place first, second;
        got = calltable_get_f32(frame, signature, 12, &f32) | calltable_get_f64(frame, signature, 13, &f64)
            | calltable_get_f64(frame, signature, 14, &third) | calltable_get_f32(frame, signature, 15, &last)
            | calltable_get(frame, signature, 16, CALLTABLE_HOMOGENEOUS(CALLTABLE_F64, 3), &first)
            | calltable_get(frame, signature, 17, CALLTABLE_HOMOGENEOUS(CALLTABLE_F64, 3), &second);
        self->well = self->well && got == CALLTABLE_OK && f32 == 1.5f && f64 == -2.5 && third == 3.5 && last == -4.5f
            && first.x == 1.25 && first.y == -2.25 && first.z == 3.25 && second.x == 5.5 && second.z == -7.5;
    }
#endif
    expect("the result", calltable_set_i32(frame, signature, -77), CALLTABLE_OK);
    expect("no parameter", calltable_get_i32(frame, signature, TYPES, &i32), CALLTABLE_NO_SUCH_PARAMETER);
    expect("a parameter of another type", calltable_get_i32(frame, signature, 6, &i32), CALLTABLE_OTHER_TYPE);
    expect("a result of another type", calltable_set_u32(frame, signature, 1), CALLTABLE_OTHER_TYPE);
    expect("a parameter of no type", calltable_get(frame, signature, 6, 99, &i32), CALLTABLE_UNKNOWN_TYPE);
    expect("a result of no type", calltable_set(frame, signature, 99, &i32), CALLTABLE_UNKNOWN_TYPE);
    expect("nowhere to put it", calltable_get_i32(frame, signature, 5, NULL), CALLTABLE_NULL_POINTER);
    expect("no result", calltable_set(frame, signature, CALLTABLE_I32, NULL), CALLTABLE_NULL_POINTER);
    expect("no frame to read", calltable_get_i32(NULL, signature, 5, &i32), CALLTABLE_NULL_POINTER);
    expect("no frame to write", calltable_set_i32(NULL, signature, 5), CALLTABLE_NULL_POINTER);
    expect("no signature", calltable_get_i32(frame, NULL, 5, &i32), CALLTABLE_NULL_POINTER);
}

static const void *result_value;
static calltable_type result_type;

static void CALLTABLE_CALL return_value(void *data, calltable_frame *frame) {
    method *self = (method *)data;
    self->well = calltable_set(frame, &self->signature, result_type, result_value) == CALLTABLE_OK;
}

/* A callback that returns a value of one type, of which so many bytes count. */
#define RETURNS_BYTES(type, code, value, size)                                                                        \
    do {                                                                                                              \
        typedef type(CALLTABLE_CALL *callback)(void);                                                                 \
        const type want = value;                                                                                      \
        type got;                                                                                                     \
        method self = {{0, {0}}, 0};                                                                                  \
        calltable_binding binding = CALLTABLE_FRAME(return_value, &self.signature, &self);                            \
        result_type = code;                                                                                           \
        result_value = &want;                                                                                         \
        expect(#code ": signature", calltable_signature_init(&self.signature, CALLTABLE_C, NULL, 0, code),            \
            CALLTABLE_OK);                                                                                            \
        slot = register_or_fail(#code ": registration", &binding);                                                    \
        got = CAST(callback, slot)();                                                                                 \
        check(#code ": result", self.well && is_same(&got, &want, size));                                             \
        expect(#code ": release", calltable_release(slot), CALLTABLE_OK);                                             \
        self.well = 0;                                                                                                \
        read_stale_calls(return_value, &self.signature, &self);                                                       \
        for (int call = 0; call < 9; call += 1) { /* one more than ST0 to ST7 hold */                                 \
            got = CAST(callback, slot)();                                                                             \
            check(#code ": result of a refused call", self.well && is_same(&got, &want, size));                       \
        }                                                                                                             \
        read_stale_calls(NULL, NULL, NULL);                                                                           \
    } while (0)

#define RETURNS(type, code, value) RETURNS_BYTES(type, code, value, sizeof(type))

static int is_same(const void *a, const void *b, size_t size) {
    const uint8_t *x = (const uint8_t *)a, *y = (const uint8_t *)b;
    for (size_t i = 0; i < size; i += 1) {
        if (x[i] != y[i]) {
            return 0;
        }
    }
    return 1;
}

#if HAS_F80
static void CALLTABLE_CALL scale_and_add(void *data, calltable_frame *frame) {
    method *self = (method *)data;
    int32_t factor = 0, more = 0;
    long double number = 0, result;
    self->well = calltable_get_i32(frame, &self->signature, 0, &factor) == CALLTABLE_OK
        && calltable_get(frame, &self->signature, 1, CALLTABLE_F80, &number) == CALLTABLE_OK
        && calltable_get_i32(frame, &self->signature, 2, &more) == CALLTABLE_OK;
    result = factor * number + more;
    self->well = self->well && calltable_set(frame, &self->signature, CALLTABLE_F80, &result) == CALLTABLE_OK;
}

/* As arguments they take three words. */
static void long_doubles(void) {
    const calltable_type parameters[] = {CALLTABLE_I32, CALLTABLE_F80, CALLTABLE_I32};
    static method self;
    const calltable_binding binding = CALLTABLE_FRAME(scale_and_add, &self.signature, &self);
    calltable_slot slot;
    expect("long double: signature",
        calltable_signature_init(&self.signature, CALLTABLE_C, parameters, 3, CALLTABLE_F80), CALLTABLE_OK);
    slot = register_or_fail("long double", &binding);
    /* no double could hold it */
    check("long double: call",
        CAST(long double(CALLTABLE_CALL *)(int32_t, long double, int32_t), slot)(2, 0x1p62L + 0.5L, 40) == 0x1p63L + 41
            && self.well);
    expect("long double: release", calltable_release(slot), CALLTABLE_OK);
}
#endif

#if defined(__linux__) || defined(__x86_64__)
/* On x86_64 Linux of the System V convention. */
static void plain_handler(void *data, calltable_frame *frame) {
    method *self = (method *)data;
    int32_t first;
    self->well = calltable_get_i32(frame, &self->signature, 5, &first) == CALLTABLE_OK && first == -320000
        && calltable_set_i32(frame, &self->signature, 1234) == CALLTABLE_OK;
}
#endif

static void frames(void) {
    static method self = {{0, {0}}, 0};
    three small = {{1, 2, 3}};
    twenty_four large = {{4, 5, 6}};
#if HAS_FLOATS
    place here = {1.25, -2.25, 3.25}, there = {5.5, 6.5, -7.5};
#endif
    calltable_binding binding = CALLTABLE_FRAME(read_all, &self.signature, &self);
    calltable_slot slot;
    expect("a signature of every type",
        calltable_signature_init(&self.signature, CALLTABLE_C, ALL_TYPES, TYPES, CALLTABLE_I32), CALLTABLE_OK);
    slot = register_or_fail("frame lane", &binding);
#define CALL_ALL()                                                                                                    \
    CAST(all_types, slot)(1, -8, 208, -1600, 61616, -320000, 3232323232u, INT64_C(-6464646464646464),                 \
        UINT64_C(12345678901234567890), &self, small, large FLOAT_ARGUMENTS)
    check("every type: result", CALL_ALL() == -77);
    check("every type: arguments", self.well);
    expect("every type: release", calltable_release(slot), CALLTABLE_OK);
    expect("a stale handler", calltable_set_stale_handler(stale), CALLTABLE_OK);
    self.well = 0;
    read_stale_calls(read_all, &self.signature, &self);
    check("every type, refused: result", CALL_ALL() == -77);
    check("every type, refused: arguments", self.well);
    read_stale_calls(NULL, NULL, NULL);
    check("a result that is a number", CALL_ALL() == 4711);
    expect("a stale handler that sets none", calltable_set_stale_handler(stale_no_call), CALLTABLE_OK);
    check("it is zero", CALL_ALL() == 0);
    expect("the stale handler again", calltable_set_stale_handler(stale), CALLTABLE_OK);
#if defined(__linux__) || defined(__x86_64__)
    {
        calltable_binding plain = CALLTABLE_FRAME(plain_handler, &self.signature, &self);
        plain.options = CALLTABLE_SAVING | CALLTABLE_SAVING_CONTROL_WORDS;
        slot = register_or_fail("a handler that keeps no register", &plain);
        check("its result", CALL_ALL() == 1234 && self.well);
        expect("keeps no register: release", calltable_release(slot), CALLTABLE_OK);
    }
#endif
    RETURNS(_Bool, CALLTABLE_BOOL, 1);
    RETURNS(int8_t, CALLTABLE_I8, -8);
    RETURNS(uint8_t, CALLTABLE_U8, 208);
    RETURNS(int16_t, CALLTABLE_I16, -1600);
    RETURNS(uint16_t, CALLTABLE_U16, 61616);
    RETURNS(int32_t, CALLTABLE_I32, -320000);
    RETURNS(uint32_t, CALLTABLE_U32, 3232323232u);
    RETURNS(int64_t, CALLTABLE_I64, INT64_C(-6464646464646464));
    RETURNS(uint64_t, CALLTABLE_U64, UINT64_C(12345678901234567890));
    /* Some callers believe that a small result fills its register. */
    {
        const int8_t want = -8;
        method self8 = {{0, {0}}, 0};
        calltable_binding small8 = CALLTABLE_FRAME(return_value, &self8.signature, &self8);
        result_type = CALLTABLE_I8;
        result_value = &want;
        expect("a small result", calltable_signature_init(&self8.signature, CALLTABLE_C, NULL, 0, CALLTABLE_I8),
            CALLTABLE_OK);
        slot = register_or_fail("a small result: registration", &small8);
        check("a small result fills its register", ((int32_t(CALLTABLE_CALL *)(void))calltable_code(slot))() == -8);
        expect("a small result: release", calltable_release(slot), CALLTABLE_OK);
    }
#if HAS_FLOATS
    RETURNS(float, CALLTABLE_F32, -1.5f);
    RETURNS(double, CALLTABLE_F64, 2.75);
#if HAS_F80
    RETURNS_BYTES(long double, CALLTABLE_F80, -3.0L / 7, 10);
    long_doubles();
#endif
    RETURNS(place, CALLTABLE_HOMOGENEOUS(CALLTABLE_F64, 3), here);
#if defined(__x86_64__) || defined(__aarch64__)
    {
        __extension__ typedef __int128 int128;
        __extension__ typedef unsigned __int128 uint128;
        RETURNS(int128, CALLTABLE_I128, -((int128)1 << 100));
        typedef struct aligned {
            int128 value;
            uint64_t more[2];
        } aligned;
        const aligned wide = {((int128)5 << 100) + 2, {3, 4}};
        RETURNS(uint128, CALLTABLE_U128, ((uint128)3 << 126) + 1);
        RETURNS(aligned, CALLTABLE_ALIGNED(32), wide);
    }
#endif
#endif
    RETURNS(three, CALLTABLE_STRUCT(3), small);
    RETURNS(twenty_four, CALLTABLE_STRUCT(24), large);
}

/* Variadic functions. */

typedef int32_t(CALLTABLE_CALL *variadic)(int32_t, ...);

static int32_t list_sum(int32_t count, va_list list) {
    int32_t sum = 0;
    for (; count > 0; count -= 1) {
        sum += va_arg(list, int);
    }
    return sum;
}

/* Adds so many numbers twice, as they are read one by one and by way of a va_list. */
static void CALLTABLE_CALL sum(void *data, calltable_frame *frame) {
    const calltable_signature *signature = (const calltable_signature *)data;
    calltable_rest rest, again;
    int32_t count, number, total = 0;
    expect("the count", calltable_get_i32(frame, signature, 0, &count), CALLTABLE_OK);
    expect("the rest", calltable_rest_init(&rest, frame, signature), CALLTABLE_OK);
    again = rest;
    for (int32_t left = count; left > 0; left -= 1) {
        expect("the next", calltable_rest_next(&rest, CALLTABLE_I32, &number), CALLTABLE_OK);
        total += number;
    }
    expect("a structure", calltable_rest_next(&rest, CALLTABLE_STRUCT(4), &number), CALLTABLE_TYPE_UNAVAILABLE);
    expect("a long double", calltable_rest_next(&rest, CALLTABLE_F80, &number), CALLTABLE_TYPE_UNAVAILABLE);
    expect("nowhere to put it", calltable_rest_next(&rest, CALLTABLE_I32, NULL), CALLTABLE_NULL_POINTER);
    expect("no rest", calltable_rest_init(NULL, frame, signature), CALLTABLE_NULL_POINTER);
    check("no list", calltable_rest_list(NULL) == NULL);
#if !defined(EMBED_UEFI)
    total += list_sum(count, CALLTABLE_VA_LIST(&again));
#else
    total += total;
    (void)again;
    (void)list_sum;
#endif
    calltable_set_i32(frame, signature, total);
}

static void CALLTABLE_CALL no_rest(void *data, calltable_frame *frame) {
    calltable_rest rest;
    expect("the rest of a fixed number",
        calltable_rest_init(&rest, frame, (const calltable_signature *)data), CALLTABLE_NOT_VARIADIC);
}

static void variadics(void) {
    static calltable_signature signature;
    const calltable_type number = CALLTABLE_I32;
    calltable_binding binding = CALLTABLE_FRAME(sum, &signature, &signature);
    calltable_slot slot;
    expect("a variadic signature",
        calltable_signature_init(&signature, CALLTABLE_C | CALLTABLE_VARIADIC, &number, 1, CALLTABLE_I32),
        CALLTABLE_OK);
    slot = register_or_fail("variadic", &binding);
    check("a variadic call", CAST(variadic, slot)(12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -24) == 84);
    expect("variadic: release", calltable_release(slot), CALLTABLE_OK);
    expect("a variadic method",
        calltable_signature_init(
            &signature, CALLTABLE_C | CALLTABLE_VARIADIC | CALLTABLE_METHOD, NULL, 0, CALLTABLE_VOID),
        CALLTABLE_NOT_A_METHOD);
    expect("not a variadic signature",
        calltable_signature_init(&signature, CALLTABLE_C, &number, 1, CALLTABLE_I32), CALLTABLE_OK);
    binding.handler = (calltable_function)no_rest;
    slot = register_or_fail("not variadic", &binding);
    check("its result", ((int32_t(CALLTABLE_CALL *)(int32_t))calltable_code(slot))(1) == 0);
    expect("not variadic: release", calltable_release(slot), CALLTABLE_OK);
}

/* A slot's life. */

typedef struct guest {
    calltable_slot slot;
    calltable_status released;
    uint32_t in_flight;
    int32_t inner;
} guest;

typedef int32_t(CALLTABLE_CALL *one)(int32_t);

static int32_t CALLTABLE_CALL release_myself(int32_t number, void *data) {
    guest *self = (guest *)data;
    calltable_live_slot entry;
    uint32_t index = 0;
    if (calltable_index_of(calltable_code(self->slot), &index) == CALLTABLE_OK
        && calltable_live_slot_at(index, &entry) == CALLTABLE_OK) {
        self->in_flight = entry.in_flight;
    }
    self->released = calltable_release(self->slot);
    return number + 1;
}

static int32_t CALLTABLE_CALL call_myself(int32_t number, void *data) {
    guest *self = (guest *)data;
    self->inner = CAST(one, self->slot)(number);
    return number + 2;
}

static int32_t CALLTABLE_CALL negate(int32_t number, void *data) {
    (void)data;
    return -number;
}

static int32_t CALLTABLE_CALL identity(int32_t number, void *data) {
    (void)data;
    return number;
}

static int has_name(const char *name, size_t size, const char *wanted) {
    return name != NULL && wanted[size] == 0 && is_same(name, wanted, size);
}

static void lives(void) {
    guest tracked = {CALLTABLE_NO_SLOT, CALLTABLE_OK, 0, 0};
    guest exclusive = tracked;
    one code;
    calltable_binding binding = CALLTABLE_DIRECT(release_myself, 1, &tracked);
    binding.options = CALLTABLE_TRACKED;
    binding.name = "releases itself";
    /* Slots are numbered from 1 before they have been released. */
    code = CAST(one, calltable_capacity());
    check("a slot that nobody has had is stale", code(1) == 4711 && last_stale.reason == CALLTABLE_NEVER_REGISTERED);
    check("the stale call has its index", last_stale.index == calltable_capacity() - 1);
    tracked.slot = register_or_fail("tracked", &binding);
    code = CAST(one, tracked.slot);
    check("tracked: result of a call that releases itself", code(41) == 42);
    expect("tracked: release from inside", tracked.released, CALLTABLE_IN_FLIGHT);
    check("tracked: one call was counted", tracked.in_flight == 1);
    check("tracked: a closed slot is still taken", calltable_live_count() == 1);
    check("tracked: a call of a closed slot is stale", code(1) == 4711 && last_stale.reason == CALLTABLE_RELEASED);
    check("tracked: the stale call names the entry", last_stale.code == (calltable_function)code
        && last_stale.caller != NULL);
    check("tracked: and the registration", has_name(last_stale.name, last_stale.name_size, "releases itself"));
    expect("tracked: release when it has returned", calltable_release_and_wait(tracked.slot), CALLTABLE_OK);
    expect("tracked: double release", calltable_release(tracked.slot), CALLTABLE_NOT_LIVE);
    expect("tracked: double release, waiting", calltable_release_and_wait(tracked.slot), CALLTABLE_NOT_LIVE);
    expect("tracked: double release, trying", calltable_try_release(tracked.slot), CALLTABLE_NOT_LIVE);

    binding.handler = (calltable_function)call_myself;
    binding.data = &exclusive;
    binding.options = CALLTABLE_EXCLUSIVE;
    binding.name = NULL;
    exclusive.slot = register_or_fail("exclusive", &binding);
    check("exclusive: outer call", CAST(one, exclusive.slot)(5) == 7);
    check("exclusive: inner call is stale", exclusive.inner == 4711 && last_stale.reason == CALLTABLE_RUNNING);
    check("exclusive: nobody has named it", last_stale.name == NULL && last_stale.name_size == 0);
    expect("exclusive: release", calltable_release_and_wait(exclusive.slot), CALLTABLE_OK);
    check("nothing is live", calltable_live_count() == 0);
}

static void rebinds(void) {
    int datum = 0;
    calltable_slot slot, before, shared;
    one code;
    calltable_binding binding = CALLTABLE_DIRECT(identity, 1, &datum);
    expect("reserve", calltable_reserve(&slot), CALLTABLE_OK);
    code = CAST(one, slot);
    check("reserved: a call is stale", code(1) == 4711 && last_stale.reason == CALLTABLE_UNBOUND);
    check("reserved: the stale call names the entry", last_stale.code == (calltable_function)code);
    before = slot;
    expect("bind", calltable_rebind_and_wait(&slot, &binding), CALLTABLE_OK);
    check("bound: same code, another registration", CAST(one, slot) == code && slot != before && code(9) == 9);
    binding.handler = (calltable_function)negate;
    expect("rebind", calltable_try_rebind(&slot, &binding), CALLTABLE_OK);
    check("rebound", code(9) == -9);
    expect("rebind with an old handle", calltable_try_rebind(&before, &binding), CALLTABLE_NOT_LIVE);
    binding.handler = NULL;
    before = slot;
    expect("rebind to nothing", calltable_rebind_and_wait(&slot, &binding), CALLTABLE_NULL_HANDLER);
    check("it is as it was", slot == before && code(9) == -9);
    expect("rebind no slot", calltable_try_rebind(NULL, &binding), CALLTABLE_NULL_POINTER);
    expect("release", calltable_release(slot), CALLTABLE_OK);

    binding.handler = (calltable_function)identity;
    expect("share", calltable_share(&binding, &shared), CALLTABLE_OK);
    expect("share again", calltable_share(&binding, &slot), CALLTABLE_OK);
    expect("rebind what others share", calltable_try_rebind(&slot, &binding), CALLTABLE_OTHER_USES);
    expect("release one", calltable_release(shared), CALLTABLE_OK);
    expect("rebind what is left", calltable_try_rebind(&slot, &binding), CALLTABLE_OK);
    check("it is not shared any more", CAST(one, slot)(9) == 9 && calltable_live_count() == 1);
    expect("release the last", calltable_release(slot), CALLTABLE_OK);
}

static void shares(void) {
    int datum = 0;
    calltable_slot first, second, third;
    calltable_binding binding = CALLTABLE_DIRECT(identity, 1, &datum);
    expect("shared", calltable_share(&binding, &first), CALLTABLE_OK);
    binding.name = "it has one, or none";
    expect("shared again", calltable_try_share(&binding, &second), CALLTABLE_OK);
    check("shared: it is the same", first == second && calltable_live_count() == 1);
    binding.data = NULL;
    expect("shared with other data", calltable_share(&binding, &third), CALLTABLE_OK);
    check("shared: it is another", third != first && calltable_live_count() == 2);
    expect("shared: first release", calltable_release(first), CALLTABLE_OK);
    check("shared: it is still there", CAST(one, first)(9) == 9);
    expect("shared: second release", calltable_release(first), CALLTABLE_OK);
    expect("shared: third release", calltable_release(first), CALLTABLE_NOT_LIVE);
    expect("shared: release of the other", calltable_release(third), CALLTABLE_OK);
}

static void lists(void) {
    int data[3];
    calltable_slot slots[3];
    unsigned found = 0, others = 0;
    calltable_live_slot entry;
    for (int i = 0; i < 3; i += 1) {
        calltable_binding binding = CALLTABLE_DIRECT(identity, 1, NULL);
        binding.data = &data[i];
        binding.options = i == 2 ? CALLTABLE_TRACKED : 0;
        binding.name = i == 1 ? "the second" : NULL;
        expect("listed", calltable_try_register(&binding, &slots[i]), CALLTABLE_OK);
    }
    for (uint32_t index = 0; index < calltable_capacity(); index += 1) {
        calltable_status status = calltable_live_slot_at(index, &entry);
        uint32_t own = calltable_capacity();
        if (status == CALLTABLE_NOT_LIVE) {
            continue;
        }
        for (int i = 0; i < 3; i += 1) {
            found += status == CALLTABLE_OK && entry.slot == slots[i] && entry.code == calltable_code(slots[i])
                && entry.handler == (calltable_function)identity && entry.data == &data[i] && entry.uses == 0
                && entry.in_flight == (i == 2 ? 0 : CALLTABLE_NOT_COUNTED)
                && (i == 1 ? has_name(entry.name, entry.name_size, "the second") : entry.name == NULL)
                && calltable_index_of(entry.code, &own) == CALLTABLE_OK && own == index
                && calltable_try_live_slot_at(index, &entry) == CALLTABLE_OK;
        }
        others += 1;
    }
    check("the list has all three", found == 3);
    check("and nothing else", others == 3 && calltable_live_count() == 3);
    for (int i = 0; i < 3; i += 1) {
        expect("listed: release", calltable_release(slots[i]), CALLTABLE_OK);
    }
}

static void full_table(void) {
    static calltable_slot slots[65536];
    calltable_binding binding = CALLTABLE_DIRECT(identity, 1, NULL);
    calltable_slot slot = 1;
    uint32_t count = 0;
    int well = 1;
    calltable_user users[CALLTABLE_USERS];
    while (count < 65536) {
        /* One without a name, one with one, and all others have another. */
        binding.name = count == 0 ? NULL : count == 1 ? "a few" : "full table";
        if (calltable_register(&binding, &slots[count]) != CALLTABLE_OK) {
            break;
        }
        well = well && CAST(one, slots[count])((int32_t)count) == (int32_t)count;
        count += 1;
    }
    check("every slot", well && count == calltable_capacity() && calltable_live_count() == count);
    expect("a full table", calltable_register(&binding, &slot), CALLTABLE_TABLE_FULL);
    check("it gives no slot", slot == CALLTABLE_NO_SLOT);
    expect("who has the slots", calltable_largest_users(users), CALLTABLE_OK);
    check("the largest user", users[0].slots == count - 2 && has_name(users[0].name, users[0].name_size, "full table"));
    check("the next one", users[1].slots == 1 && has_name(users[1].name, users[1].name_size, "a few"));
    check("no third name", users[2].slots == 0 && users[2].name == NULL && users[2].name_size == 0);
    check("one has none", users[3].slots == 1 && users[3].name == NULL && users[3].name_size == 0);
    expect("nowhere to put them", calltable_largest_users(NULL), CALLTABLE_NULL_POINTER);
    for (uint32_t i = 0; i < count; i += 1) {
        well = well && calltable_release(slots[i]) == CALLTABLE_OK;
    }
    check("every slot is free again", well && calltable_live_count() == 0);
}

/* Bad input: a status, and nothing lost. */

static void bad_registrations(void) {
    static method self = {{0, {0}}, 0};
    calltable_slot slot = 1;
    calltable_binding binding = CALLTABLE_DIRECT(identity, 1, NULL);
    expect("no registration", calltable_register(NULL, &slot), CALLTABLE_NULL_POINTER);
    check("no registration gives no slot", slot == CALLTABLE_NO_SLOT);
    expect("no place for the slot", calltable_register(&binding, NULL), CALLTABLE_NULL_POINTER);
    expect("no place for the shared slot", calltable_share(&binding, NULL), CALLTABLE_NULL_POINTER);
#define BAD(name, field, value, status)                                                                               \
    do {                                                                                                              \
        calltable_binding bad = binding;                                                                    \
        bad.field = value;                                                                                            \
        slot = 1;                                                                                                     \
        expect(name, calltable_register(&bad, &slot), status);                                                        \
        check(name ": no slot", slot == CALLTABLE_NO_SLOT);                                                           \
        slot = 1;                                                                                                     \
        expect(name ", trying", calltable_try_register(&bad, &slot), status);                                         \
        check(name ", trying: no slot", slot == CALLTABLE_NO_SLOT);                                                   \
        slot = 1;                                                                                                     \
        expect(name ", sharing", calltable_share(&bad, &slot), status);                                               \
        check(name ", sharing: no slot", slot == CALLTABLE_NO_SLOT);                                                  \
        slot = 1;                                                                                                     \
        expect(name ", trying to share", calltable_try_share(&bad, &slot), status);                                   \
        check(name ", trying to share: no slot", slot == CALLTABLE_NO_SLOT);                                          \
    } while (0)
    BAD("another header", version, CALLTABLE_VERSION + 1, CALLTABLE_OTHER_VERSION);
    BAD("no version", version, 0, CALLTABLE_OTHER_VERSION);
    BAD("an unknown option", options, 0x80000000u, CALLTABLE_UNKNOWN_OPTION);
    BAD("no handler", handler, NULL, CALLTABLE_NULL_HANDLER);
    BAD("an unknown convention", convention, 99, CALLTABLE_UNKNOWN_CONVENTION);
    BAD("a convention of another processor", convention, POSITIONS(CALLTABLE_STDCALL, CALLTABLE_WIN64),
        CALLTABLE_CONVENTION_UNAVAILABLE);
    BAD("too many positions", positions, 129, CALLTABLE_TOO_MANY_POSITIONS);
    BAD("an enormous number of positions", positions, 0xffffffffu, CALLTABLE_TOO_MANY_POSITIONS);
    BAD("a signature that nobody has filled", signature, &self.signature, CALLTABLE_BAD_SIGNATURE);
    BAD("no filter", options, CALLTABLE_CONTAINED, CALLTABLE_NULL_FILTER);
    check("nothing was registered", calltable_live_count() == 0);
}

static void bad_signatures(void) {
    static calltable_signature signature;
    calltable_type types[256];
    calltable_type odd;
    for (int i = 0; i < 256; i += 1) {
        types[i] = CALLTABLE_I32;
    }
#define METHOD (CALLTABLE_METHOD | POSITIONS(CALLTABLE_C, CALLTABLE_STDCALL))
#define SIGNATURE(name, convention, parameters, count, result, status) \
    expect(name, calltable_signature_init(&signature, convention, parameters, count, result), status)
    expect("no place for the signature", calltable_signature_init(NULL, CALLTABLE_C, types, 1, CALLTABLE_VOID),
        CALLTABLE_NULL_POINTER);
    SIGNATURE("parameters at no address", CALLTABLE_C, NULL, 1, CALLTABLE_VOID, CALLTABLE_NULL_POINTER);
    SIGNATURE("no parameters", CALLTABLE_NATIVE, NULL, 0, CALLTABLE_VOID, CALLTABLE_OK);
    SIGNATURE("most parameters", CALLTABLE_C, types, 255, CALLTABLE_STRUCT(24), CALLTABLE_OK);
    SIGNATURE("too many parameters", CALLTABLE_C, types, 256, CALLTABLE_I32, CALLTABLE_TOO_MANY_PARAMETERS);
    odd = CALLTABLE_STRUCT(65532);
    SIGNATURE("most bytes", CALLTABLE_C, &odd, 1, CALLTABLE_I32, CALLTABLE_OK);
    odd = CALLTABLE_STRUCT(65533);
    SIGNATURE("too many bytes", CALLTABLE_C, &odd, 1, CALLTABLE_I32,
        POSITIONS(CALLTABLE_OK, CALLTABLE_TOO_MANY_BYTES));
    odd = CALLTABLE_POINTER;
    SIGNATURE("a method", METHOD, &odd, 1, CALLTABLE_STRUCT(8), CALLTABLE_OK);
    SIGNATURE("a method of no object", METHOD, NULL, 0, CALLTABLE_STRUCT(8), CALLTABLE_NOT_A_METHOD);
    SIGNATURE("a method of a number", METHOD, types, 1, CALLTABLE_STRUCT(8), CALLTABLE_NOT_A_METHOD);
    SIGNATURE("an unknown convention", 99, types, 1, CALLTABLE_I32, CALLTABLE_UNKNOWN_CONVENTION);
    SIGNATURE("a convention of another processor", POSITIONS(CALLTABLE_STDCALL, CALLTABLE_WIN64), types, 1,
        CALLTABLE_I32, CALLTABLE_CONVENTION_UNAVAILABLE);
    odd = 99;
    SIGNATURE("an unknown type", CALLTABLE_C, &odd, 1, CALLTABLE_I32, CALLTABLE_UNKNOWN_TYPE);
    SIGNATURE("an unknown result", CALLTABLE_C, types, 1, 99, CALLTABLE_UNKNOWN_TYPE);
    odd = CALLTABLE_VOID;
    SIGNATURE("a parameter that is nothing", CALLTABLE_C, &odd, 1, CALLTABLE_I32, CALLTABLE_UNKNOWN_TYPE);
    odd = CALLTABLE_STRUCT(0);
    SIGNATURE("a structure of no bytes", CALLTABLE_C, &odd, 1, CALLTABLE_I32, CALLTABLE_ZERO_SIZED);
    SIGNATURE("a result of no bytes", CALLTABLE_C, NULL, 0, odd, CALLTABLE_ZERO_SIZED);
    check("a refused signature is none", signature.mark == 0);
    odd = CALLTABLE_I128;
    SIGNATURE("a type that not every target has", CALLTABLE_C, &odd, 1, CALLTABLE_VOID,
        POSITIONS(CALLTABLE_OK, CALLTABLE_TYPE_UNAVAILABLE));
    odd = CALLTABLE_ALIGNED(32);
    SIGNATURE("an aligned structure", CALLTABLE_C, &odd, 1, CALLTABLE_VOID,
        POSITIONS(CALLTABLE_OK, CALLTABLE_TYPE_UNAVAILABLE));
    odd = CALLTABLE_ALIGNED(24);
    SIGNATURE("an aligned structure of an odd size", CALLTABLE_C, &odd, 1, CALLTABLE_VOID, CALLTABLE_NO_SUCH_STRUCTURE);
    odd = CALLTABLE_HOMOGENEOUS(CALLTABLE_F64, 5);
    SIGNATURE("five elements", CALLTABLE_C, &odd, 1, CALLTABLE_VOID, CALLTABLE_NO_SUCH_STRUCTURE);
    odd = CALLTABLE_HOMOGENEOUS(CALLTABLE_I32, 2);
    SIGNATURE("elements of another type", CALLTABLE_C, &odd, 1, CALLTABLE_VOID, CALLTABLE_UNKNOWN_TYPE);
    odd = CALLTABLE_VECTOR16;
    SIGNATURE("an element by itself", CALLTABLE_C, &odd, 1, CALLTABLE_VOID, CALLTABLE_UNKNOWN_TYPE);
    odd = CALLTABLE_F64;
    SIGNATURE("a type in an XMM register", CALLTABLE_C, &odd, 1, CALLTABLE_VOID,
        HAS_FLOATS ? CALLTABLE_OK : CALLTABLE_TYPE_UNAVAILABLE);
}

static char *code_at(uint32_t index) {
    calltable_live_slot entry;
    return calltable_live_slot_at(index, &entry) == CALLTABLE_OK ? (char *)(uintptr_t)entry.code : NULL;
}

static void bad_slots(void) {
    calltable_live_slot entry;
    uint32_t index = 12345;
    calltable_slot slot, other;
    calltable_binding binding = CALLTABLE_DIRECT(identity, 1, NULL);
    char *code;
    intptr_t stride;
    uint32_t its_index = 0;
    slot = register_or_fail("a slot beside bad ones", &binding);
    other = register_or_fail("another one", &binding);
    code = (char *)(uintptr_t)calltable_code(slot);
    expect("its entry", calltable_index_of(calltable_code(slot), &index), CALLTABLE_OK);
    expect("the other's entry", calltable_index_of(calltable_code(other), &its_index), CALLTABLE_OK);
    stride = ((char *)(uintptr_t)calltable_code(other) - code) / ((intptr_t)its_index - (intptr_t)index);
    expect("the other one", calltable_release(other), CALLTABLE_OK);
#define AT(offset) ((calltable_function)(uintptr_t)(code + (offset)))
    expect("an entry", calltable_index_of(AT(0), &index), CALLTABLE_OK);
    expect("after an entry's start", calltable_index_of(AT(1), &index), CALLTABLE_NOT_AN_ENTRY);
    expect("in an entry", calltable_index_of(AT(8), &index), CALLTABLE_NOT_AN_ENTRY);
    expect("a function of ours", calltable_index_of((calltable_function)identity, &index), CALLTABLE_NOT_AN_ENTRY);
    expect("a null pointer", calltable_index_of((calltable_function)0, &index), CALLTABLE_NOT_AN_ENTRY);
    expect("an entry, and no place for its index", calltable_index_of(AT(0), NULL), CALLTABLE_NULL_POINTER);
    expect("after the table", calltable_index_of(AT(stride * (intptr_t)calltable_capacity()), &index),
        CALLTABLE_NOT_AN_ENTRY);
    expect("no slot of that index", calltable_live_slot_at(calltable_capacity(), &entry), CALLTABLE_NO_SUCH_SLOT);
    expect("nor of that one", calltable_try_live_slot_at(0xffffffffu, &entry), CALLTABLE_NO_SUCH_SLOT);
    expect("the address of an entry", calltable_locate(code, &index), CALLTABLE_OK);
    check("is located in its slot", code_at(index) == code);
    expect("an address in an entry", calltable_locate(code + 9, &index), CALLTABLE_OK);
    check("is located there, too", code_at(index) == code);
    code += stride * (intptr_t)(calltable_capacity() - index);
    expect("an address in a dispatcher", calltable_locate(code, &index), CALLTABLE_OK);
    check("is located in no slot", index == CALLTABLE_NO_INDEX);
    expect("an address elsewhere", calltable_locate(&entry, &index), CALLTABLE_NOT_AN_ENTRY);
    expect("an address, and no place for its index", calltable_locate(code, NULL), CALLTABLE_NULL_POINTER);
    code = (char *)(uintptr_t)calltable_code(slot);
    expect("an entry again", calltable_index_of(AT(0), &index), CALLTABLE_OK);
    expect("a slot that is not live", calltable_live_slot_at((index + 1) % calltable_capacity(), &entry),
        CALLTABLE_NOT_LIVE);
    expect("no place for the entry", calltable_live_slot_at(index, NULL), CALLTABLE_NULL_POINTER);
    check("no slot has no code", calltable_code(CALLTABLE_NO_SLOT) == NULL);
    expect("release of no slot", calltable_release(CALLTABLE_NO_SLOT), CALLTABLE_NOT_LIVE);
    expect("release of rubbish", calltable_release(~(calltable_slot)0), CALLTABLE_NOT_LIVE);
    expect("waiting release of rubbish", calltable_release_and_wait((calltable_slot)1 << 63), CALLTABLE_NOT_LIVE);
    expect("release of a later registration", calltable_release(slot + 0x10000), CALLTABLE_NOT_LIVE);
    check("the slot is still there", CAST(one, slot)(3) == 3 && calltable_live_count() == 1);
    expect("the slot beside bad ones: release", calltable_release(slot), CALLTABLE_OK);
}

/* Exceptions. */

typedef struct guarded {
    calltable_filter filter;
    calltable_signature signature;
    uint32_t code;
} guarded;

static int32_t CALLTABLE_CALL filter(void *data, const calltable_exception *exception, calltable_outcome *outcome) {
    ((guarded *)data)->code = exception->record->code;
    outcome->frame.result[0] = 99;
    return CALLTABLE_RETURN;
}

static int32_t first_argument(const calltable_frame *frame) {
#if defined(__aarch64__)
    return (int32_t)frame->registers[0];
#else
    return (int32_t)frame->arguments[0];
#endif
}

static int32_t CALLTABLE_CALL filter_frame(
    void *data, const calltable_exception *exception, calltable_outcome *outcome) {
    guarded *self = (guarded *)data;
    int32_t argument = 0;
    self->code = exception->record->code;
    calltable_get_i32(&outcome->frame, &self->signature, 0, &argument);
    check("contained, frame lane: the filter sees the argument", argument == first_argument(&outcome->frame));
    calltable_set_i32(&outcome->frame, &self->signature, argument + 50);
    return CALLTABLE_RETURN;
}

static int32_t CALLTABLE_CALL fault(int32_t number, void *data) {
    (void)data;
    return *(volatile int32_t *)(uintptr_t)(uint32_t)number;
}

static void CALLTABLE_CALL fault_frame(void *data, calltable_frame *frame) {
    (void)data;
    /* Sixteen, as the caller passes it: compilers refuse a constant. */
    *(volatile int32_t *)(uintptr_t)first_argument(frame) = 1;
}

#if HAS_SIGNALS
/* One thread makes faults, so one block does for all. */
static calltable_thread_block block = {CALLTABLE_CHAIN_END, 0, 0};

static calltable_thread_block *CALLTABLE_CALL find_block(void) {
    return &block;
}

static void on_signal(int number, siginfo_t *info, void *context) {
    calltable_exception_record record = {0xc0000005u, 0, NULL, info->si_addr, 0, {0}};
    int32_t goes_on;
    calltable_status status = calltable_dispatch_exception(&record, context, &goes_on);
    expect("nobody ended the exception", status, CALLTABLE_OK);
    signal(number, SIG_DFL);
}
#endif

static void contains(void) {
    static guarded direct_lane = {filter, {0, {0}}, 0};
    static guarded frame_lane = {filter_frame, {0, {0}}, 0};
    const calltable_type integer = CALLTABLE_I32;
    calltable_slot slot;
    calltable_binding direct_fault = CALLTABLE_DIRECT(fault, 1, &direct_lane);
    calltable_binding frame_fault = CALLTABLE_FRAME(fault_frame, &frame_lane.signature, &frame_lane);
    direct_fault.options = frame_fault.options = CALLTABLE_CONTAINED;
    expect("a signature for a contained call",
        calltable_signature_init(&frame_lane.signature, CALLTABLE_C, &integer, 1, CALLTABLE_I32), CALLTABLE_OK);
#if HAS_SIGNALS
    {
        struct sigaction action = {0};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigaction(SIGSEGV, &action, NULL);
        /* Of the stack, what the calls below use. */
        block.stack_base = (uintptr_t)(&action + 1);
        block.stack_limit = block.stack_base - 0x10000;
        expect("contained too early", calltable_register(&direct_fault, &slot), CALLTABLE_NO_EXCEPTIONS);
        expect("no way to find a block", calltable_declare_exceptions(NULL), CALLTABLE_NULL_POINTER);
    }
#endif
#if (defined(_WIN32) && !defined(EMBED_UEFI)) || HAS_SIGNALS
#if HAS_SIGNALS
    expect("exceptions of signals", calltable_declare_exceptions(find_block), CALLTABLE_OK);
#else
    expect("exceptions on Windows", calltable_declare_exceptions(NULL), CALLTABLE_OK);
#endif
    slot = register_or_fail("contained", &direct_fault);
    check("contained: the filter's value is returned", CAST(one, slot)(16) == 99);
    check("contained: an access violation", direct_lane.code == 0xc0000005u);
    expect("contained: release", calltable_release(slot), CALLTABLE_OK);
    slot = register_or_fail("contained, frame lane", &frame_fault);
    check("contained, frame lane: the filter's value is returned", CAST(one, slot)(16) == 66);
    check("contained, frame lane: an access violation", frame_lane.code == 0xc0000005u);
    expect("contained, frame lane: release", calltable_release(slot), CALLTABLE_OK);
#else
    expect("contained elsewhere", calltable_register(&direct_fault, &slot), CALLTABLE_NO_EXCEPTIONS);
    expect("contained elsewhere, frame lane", calltable_register(&frame_fault, &slot), CALLTABLE_NO_EXCEPTIONS);
#endif
}

/* The last one: there is no way back. */

static int32_t CALLTABLE_CALL add_data(int32_t number, void *data) {
    return number + *(int32_t *)data;
}

static void seals(void) {
    int32_t eight = 8;
    const void *start = NULL, *end = NULL;
    calltable_slot slot, other;
    calltable_binding binding = CALLTABLE_DIRECT(add_data, 1, &eight);
    binding.options = CALLTABLE_TRACKED;
    slot = register_or_fail("a tracked one before sealing", &binding);
    expect("sealing a table whose calls are counted", calltable_seal(&start, &end), CALLTABLE_COUNTED);
    expect("its release", calltable_release(slot), CALLTABLE_OK);
    binding.options = 0;
    slot = register_or_fail("one that stays", &binding);
    expect("sealing, and no place for the pages", calltable_seal(&start, NULL), CALLTABLE_NULL_POINTER);
    expect("sealing", calltable_seal(&start, &end), CALLTABLE_OK);
    check("whole pages", ((uintptr_t)start | (uintptr_t)end) % 4096 == 0 && (uintptr_t)start < (uintptr_t)end);
    check("a call of a sealed table", CAST(one, slot)(3) == 11);
    other = 1;
    expect("registering in a sealed table", calltable_register(&binding, &other), CALLTABLE_SEALED);
    check("it gives no slot, either", other == CALLTABLE_NO_SLOT);
    expect("releasing in a sealed table", calltable_release(slot), CALLTABLE_SEALED);
    expect("another stale handler for a sealed table", calltable_set_stale_handler(stale), CALLTABLE_SEALED);
#if HAS_SIGNALS
    expect("declaring in a sealed table", calltable_declare_exceptions(find_block), CALLTABLE_SEALED);
#endif
    check("what is sealed is live", calltable_live_count() == 1);
}

int run(void) {
    statuses();
    direct();
    frames();
    variadics();
    lives();
    shares();
    rebinds();
    lists();
    full_table();
    bad_registrations();
    bad_signatures();
    bad_slots();
    contains();
    expect("the stale handler taken back", calltable_set_stale_handler(NULL), CALLTABLE_OK);
    seals();
    return finish();
}
