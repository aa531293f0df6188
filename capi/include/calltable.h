/**
 * @file
 * calltable: functions with data as bare C function pointers with a Windows calling convention.
 *
 * A code pointer of the table can be given to foreign code that takes a callback and no user pointer. No code is
 * written when the program runs and no memory is allocated. A program has one table with this interface.
 *
 *     static int32_t CALLTABLE_CALL add(int32_t a, int32_t b, void *data) { return a + b + *(int32_t *)data; }
 *
 *     int32_t offset = 40;
 *     calltable_binding binding = CALLTABLE_DIRECT(add, 2, &offset);
 *     calltable_slot slot;
 *     calltable_status status = calltable_register(&binding, &slot);
 *     if (status != CALLTABLE_OK) fail(calltable_status_text(status));
 *     foreign_code((int32_t(CALLTABLE_CALL *)(int32_t, int32_t))calltable_code(slot));
 *     calltable_release(slot);
 *
 * Threads: every function may be called by every thread, by handlers, and while others run. A function that does not
 * say that it waits does not. "Waits for the lock" means some dozens of instructions of another thread, which holds it
 * (the first user fills the table, which takes some 50 microseconds for 2000 slots);
 * an interrupt handler, which may have interrupted that thread, must use the calltable_try_ functions. No lock is held
 * while a handler runs.
 *
 * Errors: each function that can fail returns a calltable_status, and calltable_status_text says what to do. One that
 * fails has changed nothing but what is said of it here, and sets a slot that it should give to CALLTABLE_NO_SLOT.
 *
 * Calling an entry whose slot is not live runs the stale handler: see calltable_set_stale_handler.
 */
#ifndef CALLTABLE_H
#define CALLTABLE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The version of this interface: a registration carries it, and a library of another version refuses it. */
#define CALLTABLE_VERSION 1u

#if defined(_M_ARM64EC)
#error "calltable has no table for ARM64EC: compile for ARM64 or for x64"
#elif defined(__ILP32__) && (defined(__x86_64__) || defined(__aarch64__))
#error "calltable has no table for 64-bit processors with 32-bit pointers: compile without -mx32 or -mabi=ilp32"
#elif defined(__AARCH64EB__)
#error "calltable has no table for big-endian AArch64: compile for little-endian"
#elif !(defined(__x86_64__) || defined(_M_X64) || defined(__i386__) || defined(_M_IX86) || defined(__aarch64__) \
        || defined(_M_ARM64))
#error "calltable has no table for this architecture: it has one for x86_64, for i686 and for AArch64"
#endif

/**
 * The convention of handlers: win64 on x86_64, cdecl on i686, that of C on AArch64. Where C has another one, or may be
 * told to have it (-mrtd, /Gz, /Gv), it is said.
 */
#if defined(__x86_64__) || defined(_M_X64)
#if defined(__has_attribute)
#if __has_attribute(ms_abi)
#define CALLTABLE_CALL __attribute__((ms_abi))
#endif
#elif defined(__GNUC__)
#define CALLTABLE_CALL __attribute__((ms_abi))
#elif defined(_MSC_VER)
#define CALLTABLE_CALL __cdecl
#elif defined(_WIN32)
#define CALLTABLE_CALL
#endif
#ifndef CALLTABLE_CALL
#error "this compiler cannot say the convention of calltable's handlers, __attribute__((ms_abi)): take GCC or Clang"
#endif
#elif defined(__i386__) || defined(_M_IX86)
#if defined(__GNUC__)
#define CALLTABLE_CALL __attribute__((cdecl))
#elif defined(_M_IX86)
#define CALLTABLE_CALL __cdecl
#else
#error "this compiler cannot say the convention of calltable's handlers, cdecl of GCC or of Windows: take GCC or Clang"
#endif
#else
#define CALLTABLE_CALL
#endif

/** The convention of this header's own functions and of stale handlers: that of C, on i686 cdecl. */
#if defined(__i386__) || defined(_M_IX86) || defined(_MSC_VER)
#define CALLTABLE_PLAIN_CALL CALLTABLE_CALL
#else
#define CALLTABLE_PLAIN_CALL
#endif

/** What stands before each function. CALLTABLE_SHARED is defined by whoever links the DLL. */
#if defined(CALLTABLE_SHARED) && defined(_WIN32) && (defined(__GNUC__) || defined(__clang__))
#define CALLTABLE_API __declspec(dllimport) CALLTABLE_PLAIN_CALL
#elif defined(CALLTABLE_SHARED) && defined(_WIN32)
#define CALLTABLE_API __declspec(dllimport)
#elif defined(__GNUC__) || defined(__clang__)
#define CALLTABLE_API CALLTABLE_PLAIN_CALL
#else
#define CALLTABLE_API
#endif

/** What became of a call. New ones may be added. */
typedef int calltable_status;

/** Values of calltable_status. */
enum {
    /** All is well. */
    CALLTABLE_OK = 0,
    /** A pointer that must not be null is. */
    CALLTABLE_NULL_POINTER = 1,
    /** The caller was compiled with the header of another version. */
    CALLTABLE_OTHER_VERSION = 2,
    /** The options have bits that mean nothing. */
    CALLTABLE_UNKNOWN_OPTION = 3,
    /** There is no convention of this number. */
    CALLTABLE_UNKNOWN_CONVENTION = 4,
    /** There is no type of this number. */
    CALLTABLE_UNKNOWN_TYPE = 5,
    /** Every slot is live: calltable_largest_users says whose they are. */
    CALLTABLE_TABLE_FULL = 6,
    /** The handler is null. */
    CALLTABLE_NULL_HANDLER = 7,
    /** More arguments than the direct lane passes on. */
    CALLTABLE_TOO_MANY_POSITIONS = 8,
    /** This target has no such convention. */
    CALLTABLE_CONVENTION_UNAVAILABLE = 9,
    /** The registration is shared as many times as can be counted. */
    CALLTABLE_TOO_MANY_USES = 10,
    /** There are no exceptions here that could be contained: see calltable_declare_exceptions. */
    CALLTABLE_NO_EXCEPTIONS = 11,
    /** The data of a registration with CALLTABLE_CONTAINED is null. */
    CALLTABLE_NULL_FILTER = 12,
    /** A calltable_try_ function found the lock taken. */
    CALLTABLE_BUSY = 13,
    /** No registration: released before, never made, or no handle at all. */
    CALLTABLE_NOT_LIVE = 14,
    /** Released, but calls that began before are running: to be released again. */
    CALLTABLE_IN_FLIGHT = 15,
    /** Not the address of an entry. */
    CALLTABLE_NOT_AN_ENTRY = 16,
    /** An index beyond the capacity. */
    CALLTABLE_NO_SUCH_SLOT = 17,
    /** More than a signature holds. */
    CALLTABLE_TOO_MANY_PARAMETERS = 18,
    /** A parameter or result without bytes, which C does not have. */
    CALLTABLE_ZERO_SIZED = 19,
    /** This target passes no such type by value. */
    CALLTABLE_TYPE_UNAVAILABLE = 20,
    /** A signature that calltable_signature_init has not filled. */
    CALLTABLE_BAD_SIGNATURE = 21,
    /** The signature has no parameter of this index. */
    CALLTABLE_NO_SUCH_PARAMETER = 22,
    /** The signature declares another type here, or no result. */
    CALLTABLE_OTHER_TYPE = 23,
    /** The table stays as it is: see calltable_seal. */
    CALLTABLE_SEALED = 24,
    /** The table cannot be sealed: calls of a slot are counted. */
    CALLTABLE_COUNTED = 25,
    /** The chain of exception records is not as it should be. */
    CALLTABLE_BAD_CHAIN = 26,
    /** A release would wait for the call that it is made in. */
    CALLTABLE_OWN_CALL = 27,
    /** More bytes of arguments than a callee can remove. */
    CALLTABLE_TOO_MANY_BYTES = 28,
    /** A method's first parameter is a pointer, and its convention one of Microsoft's. */
    CALLTABLE_NOT_A_METHOD = 29,
    /** No structure of C is like that. */
    CALLTABLE_NO_SUCH_STRUCTURE = 30,
    /** A slot cannot be rebound while others share its registration. */
    CALLTABLE_OTHER_USES = 31,
    /** A slot cannot be rebound that has had as many registrations as a slot can have. */
    CALLTABLE_USED_UP = 32,
    /** Arguments after the parameters of a signature that has none, or of a convention whose callee removes them. */
    CALLTABLE_NOT_VARIADIC = 33
};

/** A sentence in English that says what is wrong and what to do about it; never null, and there for ever. */
CALLTABLE_API const char *calltable_status_text(calltable_status status);

/**
 * Whether the library has the version of a header: calltable_check_version(CALLTABLE_VERSION). To be asked first by a
 * program that may find another DLL than it was built with.
 *
 * CALLTABLE_OTHER_VERSION.
 */
CALLTABLE_API calltable_status calltable_check_version(uint32_t version);

/** The number of slots that the library was built with. */
CALLTABLE_API uint32_t calltable_capacity(void);

/** Any function; it is to be cast to its own type. */
typedef void (*calltable_function)(void);

/** How the foreign code calls: the convention of a registration, or of a signature. */
enum {
    /** What callbacks of Windows' own interfaces are: on i686 Windows stdcall, else CALLTABLE_C. */
    CALLTABLE_NATIVE = 0,
    /** Plain C of foreign code, and the convention of handlers: win64; CALLTABLE_AAPCS64; on i686 cdecl for Windows and
       UEFI, else CALLTABLE_SYSV. */
    CALLTABLE_C = 1,
    /** x86_64. */
    CALLTABLE_WIN64 = 2,
    /** i686. */
    CALLTABLE_STDCALL = 3,
    /** i686. */
    CALLTABLE_CDECL = 4,
    /** i686. */
    CALLTABLE_THISCALL = 5,
    /** i686. */
    CALLTABLE_FASTCALL = 6,
    /** C of i686 systems that are not Windows: as CALLTABLE_CDECL, but all structures are returned through a hidden
       pointer (on FreeBSD, OpenBSD and DragonFly not those of 1, 2, 4 and 8 bytes), which the callee removes. */
    CALLTABLE_SYSV = 7,
    /** C of AArch64, on Windows and UEFI, too, of functions that are not variadic. */
    CALLTABLE_AAPCS64 = 8
};

/**
 * To be joined by | to the convention of a signature: an instance method of C++ by Microsoft's rule, as the methods of
 * COM are. Its first parameter is `this`, a CALLTABLE_POINTER, and a result that is a structure, whatever its size,
 * comes through a hidden pointer after that. (C++ of MinGW treats a method as a function: there it is not to be
 * joined.)
 */
#define CALLTABLE_METHOD 0x80000000u

/**
 * To be joined by | to the convention of a signature: more arguments may follow the parameters, as printf's do, for
 * calltable_rest_init. For the frame lane, and functions whose caller removes the arguments: CALLTABLE_C, on i686
 * CALLTABLE_CDECL for Windows code. On AArch64 Windows a parameter is no structure of 9 to 16 bytes and no
 * CALLTABLE_HOMOGENEOUS one (CALLTABLE_TYPE_UNAVAILABLE): describe it as the integers that it takes.
 */
#define CALLTABLE_VARIADIC 0x40000000u

/** The type of a parameter or result: one of the constants, or what a macro makes of a structure or union. */
typedef uint32_t calltable_type;

/** Values of calltable_type. */
enum {
    /** No result. */
    CALLTABLE_VOID = 0,
    /** _Bool of C, bool of C++. The Windows type BOOL is a CALLTABLE_I32. */
    CALLTABLE_BOOL = 1,
    CALLTABLE_I8 = 2,   /**< int8_t */
    CALLTABLE_U8 = 3,   /**< uint8_t */
    CALLTABLE_I16 = 4,  /**< int16_t */
    CALLTABLE_U16 = 5,  /**< uint16_t */
    CALLTABLE_I32 = 6,  /**< int32_t */
    CALLTABLE_U32 = 7,  /**< uint32_t */
    CALLTABLE_I64 = 8,  /**< int64_t */
    CALLTABLE_U64 = 9,  /**< uint64_t */
    CALLTABLE_I128 = 10, /**< __int128; not on i686 */
    CALLTABLE_U128 = 11, /**< unsigned __int128; not on i686 */
    CALLTABLE_F32 = 12, /**< float */
    CALLTABLE_F64 = 13, /**< double */
    /** A pointer or handle, to data or to a function. */
    CALLTABLE_POINTER = 14,
    /** A vector of 8 bytes, such as int32x2_t: as an element alone. */
    CALLTABLE_VECTOR8 = 15,
    /** A vector of 16 bytes, such as float32x4_t: as an element alone. */
    CALLTABLE_VECTOR16 = 16,
    /** On i686 alone: long double of GCC and Clang, but not for MSVC; 12 bytes, of which 10 count. (On x86_64 Windows
       that of MinGW is a CALLTABLE_STRUCT(16), on AArch64 Linux a CALLTABLE_HOMOGENEOUS(CALLTABLE_VECTOR16, 1).) */
    CALLTABLE_F80 = 17
};

/** A structure or union passed by value that is none of the two below. On x86 only the size counts. */
#define CALLTABLE_STRUCT(size) ((calltable_type)(0x80000000u | (uint32_t)(size)))

/** One that consists of 1 to 4 elements of one type (CALLTABLE_F32, CALLTABLE_F64, CALLTABLE_VECTOR8 or
   CALLTABLE_VECTOR16) and of nothing else, however they are nested: on AArch64 each has a register of its own. A vector
   by itself is passed there like a structure of one. */
#define CALLTABLE_HOMOGENEOUS(element, count) ((calltable_type)((uint32_t)(count) << 8 | (uint32_t)(element)))

/** One that has a member of alignment 16, such as __int128, and is not homogeneous; the size is a multiple of 16. (On
   Windows it is enough that the structure as a whole is aligned; elsewhere that does not count.) Not on i686, where
   compilers do not agree. */
#define CALLTABLE_ALIGNED(size) ((calltable_type)(0x40000000u | (uint32_t)(size)))

/**
 * What a callback takes and returns, as known when the program runs. The caller provides the memory, and
 * calltable_signature_init fills it. It may be copied, and may go away when nothing uses it any more: a registration
 * does not, but handlers want it to read their arguments.
 */
typedef struct calltable_signature {
    /** Says that it is one, and where it was filled. */
    uintptr_t mark;
    /** What it says. */
    uint32_t words[518];
} calltable_signature;

/**
 * Fills a signature. `parameters` may be null if `count` is 0.
 *
 * CALLTABLE_NULL_POINTER, CALLTABLE_UNKNOWN_CONVENTION, CALLTABLE_CONVENTION_UNAVAILABLE, CALLTABLE_UNKNOWN_TYPE,
 * CALLTABLE_TOO_MANY_PARAMETERS (255), CALLTABLE_TOO_MANY_BYTES (on i686, 65532 on the stack), CALLTABLE_NOT_A_METHOD,
 * CALLTABLE_NOT_VARIADIC (a method, or a convention of i686 whose callee removes the arguments),
 * CALLTABLE_ZERO_SIZED, CALLTABLE_NO_SUCH_STRUCTURE, CALLTABLE_TYPE_UNAVAILABLE (this target passes no such type by
 * value): the signature is not valid then.
 */
CALLTABLE_API calltable_status calltable_signature_init(
    calltable_signature *signature, uint32_t convention, const calltable_type *parameters, size_t count,
    calltable_type result);

/**
 * One call, as a handler of the frame lane gets it; calltable_get and calltable_set read and write it.
 *
 * On x86_64, `arguments` has 8 bytes for each position, a hidden result pointer first, and `floats` the low halves of
 * XMM0 to XMM3. On i686, `arguments` has the words on the stack, and `registers` ECX and EDX. On AArch64, `arguments`
 * has the words of 8 bytes on the stack, `memory` is X8, `registers` are X0 to X7 and `floats` V0 to V7; `result` goes
 * in X0 and X1, and in V0, each of V1 to V3 being loaded from `element` bytes after the one before.
 */
typedef struct calltable_frame {
#if defined(__x86_64__) || defined(_M_X64)
    /** Goes into RAX and XMM0. */
    uint64_t result[2];
    /** Positions of 8 bytes. */
    uint64_t *arguments;
    /** XMM0 to XMM3. */
    uint64_t floats[4];
#elif defined(__aarch64__) || defined(_M_ARM64)
    /** Goes into X0 and X1, and into V0. */
    uint64_t result[2];
    /** Of V1 to V3. */
    uint64_t more_results[3][2];
    /** Words on the stack. */
    uint64_t *arguments;
    /** X8. */
    uint64_t memory;
    /** Bytes from one element of the result to the next. */
    uint64_t element;
    /** Of no use. */
    uint64_t unused;
    /** X0 to X7. */
    uint64_t registers[8];
    /** V0 to V7. */
    uint64_t floats[8][2];
#else
    /** Goes into EAX and EDX, or ST0. */
    uint32_t result[2];
    /** The rest of a CALLTABLE_F80. */
    uint32_t more_result;
    /** Words on the stack. */
    uint32_t *arguments;
    /** ECX and EDX. */
    uint32_t registers[2];
#endif
} calltable_frame;

/** A handler of the frame lane. */
typedef void(CALLTABLE_CALL *calltable_frame_handler)(void *data, calltable_frame *frame);

/**
 * Copies argument `index`, counted from 0, to `value`. `type` must be what the signature declares, and `value` have
 * room for it. For use in a handler, with the signature of its registration; below are forms for each type.
 *
 * CALLTABLE_NULL_POINTER, CALLTABLE_BAD_SIGNATURE, CALLTABLE_UNKNOWN_TYPE, CALLTABLE_NO_SUCH_PARAMETER,
 * CALLTABLE_OTHER_TYPE.
 */
CALLTABLE_API calltable_status calltable_get(
    const calltable_frame *frame, const calltable_signature *signature, uint32_t index, calltable_type type,
    void *value);

/**
 * Copies the result from `value`. `type` must be what the signature declares. A handler that sets no result returns
 * zero; but if the result is a structure, it must set one. The last one that was set counts.
 *
 * CALLTABLE_NULL_POINTER, CALLTABLE_BAD_SIGNATURE, CALLTABLE_UNKNOWN_TYPE, CALLTABLE_OTHER_TYPE.
 */
CALLTABLE_API calltable_status calltable_set(
    calltable_frame *frame, const calltable_signature *signature, calltable_type type, const void *value);

/** calltable_get_i32(frame, signature, index, &value), calltable_set_i32(frame, signature, value); so for each type. */
#define CALLTABLE_FORMS(name, code, type)                                                                             \
    static inline calltable_status calltable_get_##name(                                                              \
        const calltable_frame *frame, const calltable_signature *signature, uint32_t index, type *value) {            \
        return calltable_get(frame, signature, index, code, value);                                                   \
    }                                                                                                                 \
    static inline calltable_status calltable_set_##name(                                                              \
        calltable_frame *frame, const calltable_signature *signature, type value) {                                   \
        return calltable_set(frame, signature, code, &value);                                                         \
    }

#ifdef __cplusplus
CALLTABLE_FORMS(bool, CALLTABLE_BOOL, bool)
#else
CALLTABLE_FORMS(bool, CALLTABLE_BOOL, _Bool)
#endif
CALLTABLE_FORMS(i8, CALLTABLE_I8, int8_t)
CALLTABLE_FORMS(u8, CALLTABLE_U8, uint8_t)
CALLTABLE_FORMS(i16, CALLTABLE_I16, int16_t)
CALLTABLE_FORMS(u16, CALLTABLE_U16, uint16_t)
CALLTABLE_FORMS(i32, CALLTABLE_I32, int32_t)
CALLTABLE_FORMS(u32, CALLTABLE_U32, uint32_t)
CALLTABLE_FORMS(i64, CALLTABLE_I64, int64_t)
CALLTABLE_FORMS(u64, CALLTABLE_U64, uint64_t)
CALLTABLE_FORMS(pointer, CALLTABLE_POINTER, void *)
/* Code that touches no floating-point register cannot even pass such a value. */
#if defined(__SSE2__) || defined(__ARM_NEON) || !(defined(__x86_64__) || defined(__aarch64__))
CALLTABLE_FORMS(f32, CALLTABLE_F32, float)
CALLTABLE_FORMS(f64, CALLTABLE_F64, double)
#endif
#undef CALLTABLE_FORMS

/** The arguments after the parameters of a CALLTABLE_VARIADIC signature: a va_list. The caller provides the memory. A
   copy is what va_copy makes. */
typedef struct calltable_rest {
#if defined(_WIN32) && (defined(__aarch64__) || defined(_M_ARM64))
    /** Where it is. */
    uintptr_t words[74];
#else
    /** Where it is. */
    uintptr_t words[4];
#endif
} calltable_rest;

/**
 * Begins with the first of them. For use in a handler, with the signature of its registration.
 *
 * CALLTABLE_NULL_POINTER, CALLTABLE_BAD_SIGNATURE, CALLTABLE_NOT_VARIADIC.
 */
CALLTABLE_API calltable_status calltable_rest_init(
    calltable_rest *rest, const calltable_frame *frame, const calltable_signature *signature);

/**
 * Copies the next one to `value`: va_arg. The foreign code must have passed one of that type, or of the one that C
 * makes of it: what is smaller than an int comes as an int. A float comes as a double, which is to be read.
 *
 * CALLTABLE_NULL_POINTER, CALLTABLE_UNKNOWN_TYPE, CALLTABLE_TYPE_UNAVAILABLE (CALLTABLE_F32,
 * CALLTABLE_F80, a structure).
 */
CALLTABLE_API calltable_status calltable_rest_next(calltable_rest *rest, calltable_type type, void *value);

/**
 * What is left as a va_list of this target's C: CALLTABLE_VA_LIST makes one of it, for one call of vprintf or the like,
 * after which `rest` is of no use. On x86_64 systems other than Windows and UEFI it is one of the System V convention,
 * made so that it reads what a win64 caller has passed, but for `long double`, structures and `__int128`. On AArch64
 * Windows it ends after 72 words, those of the parameters among them.
 */
CALLTABLE_API void *calltable_rest_list(calltable_rest *rest);

/** What is left of a calltable_rest as a va_list: see calltable_rest_list. */
#if !defined(_WIN32) && (defined(__x86_64__) || defined(__aarch64__))
#define CALLTABLE_VA_LIST(rest) (*(va_list *)calltable_rest_list(rest))
#else
#define CALLTABLE_VA_LIST(rest) ((va_list)calltable_rest_list(rest))
#endif

/** How to register; to be joined by |. */
enum {
    /** Running calls are counted, so that a release can tell whether there are any, or wait for their end. */
    CALLTABLE_TRACKED = 1,
    /** A call that comes while another one runs is stale. Counts, too. */
    CALLTABLE_EXCLUSIVE = 2,
    /** The handler keeps no register but the stack pointer; on x86_64 a handler of the frame lane may also be of the
       System V convention, as plain C functions on Linux are. */
    CALLTABLE_SAVING = 4,
    /** The same, and it may change MXCSR and the x87 control word, on AArch64 FPCR. */
    CALLTABLE_SAVING_CONTROL_WORDS = 8,
    /** Exceptions of the handler may end here: the data points to a structure that begins with a calltable_filter. */
    CALLTABLE_CONTAINED = 16,
    /** The handler is one of the direct lane, and the signature is that of its callback. */
    CALLTABLE_DIRECT_LANE = 32,
    /** On i686 each call puts a record of its own first in the chain of SEH handlers while the handler runs, as it does
       for the frame lane and with the first five options; elsewhere it means nothing. */
    CALLTABLE_FRAMED = 64,
    /** On AArch64, for callbacks that Windows code calls on another system: X18, where that code has its thread's
       block, is after each call what it was before. On Windows, and on other processors, it means nothing. */
    CALLTABLE_KEEPING_X18 = 128
};

/**
 * What is to run when a slot's entry is called. CALLTABLE_DIRECT, CALLTABLE_DIRECT_AS and CALLTABLE_FRAME make one.
 *
 * Direct lane, for signatures known to the compiler: the handler has the callback's own parameters and a trailing
 * pointer, its data. On x86_64 and AArch64 it is CALLTABLE_CALL, whatever Windows code calls the convention; on i686
 * it has the callback's own. If all parameters are pointers, or integers no larger than one, `positions` is their
 * number, and no signature is needed. On x86_64 that is so whatever their types, and a result that is a structure of
 * other than 1, 2, 4 or 8 bytes counts as one more. On i686 it is the number of 4-byte words that they take on the
 * stack (with thiscall and fastcall, registers are not counted, and must be taken by other parameters). For
 * everything else, such as floating-point numbers on AArch64 and structures that CALLTABLE_SYSV functions return, a
 * signature says it: CALLTABLE_DIRECT_AS.
 *
 * A C++ method by Microsoft's rule that returns a structure has a handler that says so itself: it gets the address of
 * the result as the parameter after `this`, counted like any other, and returns that address: `size *CALLTABLE_CALL
 * get_size(void *self, size *result, void *data)` has 2 positions.
 *
 * Frame lane: the handler is a calltable_frame_handler, and the arguments are in memory.
 *
 * A handler of the direct lane is called as any function of its convention is. On x86_64 the first four positions are
 * in the registers in which the foreign code has passed them; a hidden result pointer is position 0. The data comes
 *
 * - with 0, 1, 2 or 3 positions in RCX, RDX, R8 or R9,
 * - with 4 as the fifth argument, on the stack: 40 bytes above RSP at the handler's first instruction,
 * - with more after a copy of those positions that the foreign code has passed on the stack.
 *
 * The handler owns its home space, the 32 bytes above the return address, and its own arguments, the data among them:
 * it may write to all of these, and the foreign code sees nothing of it. What comes after the data is the library's.
 * With up to 4 positions that is the way back to the foreign code: so a handler must not have more parameters than
 * `positions` and one. The handler's return address lies in the slot's entry (calltable_locate), not in the foreign
 * code.
 *
 * The fast way on x86_64 is 4 positions without options: the dispatcher stores the data and jumps to the handler, which
 * returns to the entry. A callback with fewer positions may have such a handler, too: it has parameters that are not
 * used, pointers, between the callback's own and the data, and nothing is known of what they hold. So may one with
 * more, if the handler does without the others. This is so on x86_64 alone; elsewhere `positions` is what the callback
 * has. A handler with fewer takes a few instructions more; one with more has the rest copied. Of the options
 * CALLTABLE_EXCLUSIVE costs a locked instruction (with 4 positions and no other option; else all arguments go through
 * memory, too, as with every option below), CALLTABLE_TRACKED two, CALLTABLE_SAVING that eighteen registers are stored
 * and loaded, CALLTABLE_CONTAINED the same on systems other than Windows.
 *
 * On AArch64 the data comes in the next free one of X0 to X7, and the dispatcher jumps to the handler; if none is free,
 * it comes after the words on the stack, which are copied. On i686 the words on the stack are copied in any case, and
 * the data comes after them: there the frame lane takes no longer. (With a signature of thiscall or fastcall whose
 * registers are not all in use, it comes in ECX or EDX.)
 *
 * While the registration lives, foreign code may call the handler from every thread.
 */
typedef struct calltable_binding {
    /** CALLTABLE_VERSION */
    uint32_t version;
    /** CALLTABLE_TRACKED and the like; 0 for none */
    uint32_t options;
    /** the function that is to run */
    calltable_function handler;
    /** what it gets beside the arguments */
    void *data;
    /** frame lane, and direct lane with CALLTABLE_DIRECT_LANE; else null. Not used after the registration. */
    const calltable_signature *signature;
    /** direct lane without a signature: how the foreign code calls */
    uint32_t convention;
    /** direct lane without a signature: what the arguments take, see above */
    uint32_t positions;
    /** What the registration is called in lists and for stale calls; null or empty for no name. The first 255 bytes of
       it count, and as much of these as is UTF-8. The string must be there for ever, as literals are: a call after the
       release is told it, too. Of a shared registration the first name stays. A library that was built without the
       feature `names` does not look at it. */
    const char *name;
} calltable_binding;

/** Initializer of a binding: direct lane, CALLTABLE_C. */
#define CALLTABLE_DIRECT(handler, positions, data) \
    {CALLTABLE_VERSION, 0, (calltable_function)(handler), data, NULL, CALLTABLE_C, positions, NULL}
/** Initializer of a binding: direct lane, as a signature says. */
#define CALLTABLE_DIRECT_AS(handler, signature, data) \
    {CALLTABLE_VERSION, CALLTABLE_DIRECT_LANE, (calltable_function)(handler), data, signature, CALLTABLE_C, 0, \
     NULL}
/** Initializer of a binding: frame lane. */
#define CALLTABLE_FRAME(handler, signature, data) \
    {CALLTABLE_VERSION, 0, (calltable_function)(handler), data, signature, CALLTABLE_C, 0, NULL}

/** One registration of a slot. A released one is told from later ones of the same slot. */
typedef uint64_t calltable_slot;

/** No registration has this one. */
#define CALLTABLE_NO_SLOT ((calltable_slot)0)

/**
 * Registers, and sets the slot. From now on every call of its code pointer runs the handler. Waits for the lock.
 *
 * CALLTABLE_NULL_POINTER, CALLTABLE_OTHER_VERSION, CALLTABLE_UNKNOWN_OPTION, CALLTABLE_UNKNOWN_CONVENTION,
 * CALLTABLE_CONVENTION_UNAVAILABLE, CALLTABLE_NULL_HANDLER, CALLTABLE_TOO_MANY_POSITIONS (over 64; on i686, over 128
 * words; on AArch64, over 64 words beside the registers), CALLTABLE_BAD_SIGNATURE, CALLTABLE_NULL_FILTER,
 * CALLTABLE_NO_EXCEPTIONS, CALLTABLE_TABLE_FULL.
 */
CALLTABLE_API calltable_status calltable_register(
    const calltable_binding *binding, calltable_slot *slot);

/** The same; if the lock is taken, CALLTABLE_BUSY at once. */
CALLTABLE_API calltable_status calltable_try_register(
    const calltable_binding *binding, calltable_slot *slot);

/**
 * Registers, or counts one more use of a live registration that was made by this function and is equal (handler, data,
 * convention, lane, positions, options): then the slot is the same, and so is its name. To be released once for each
 * use. Waits for the lock.
 *
 * As calltable_register, and CALLTABLE_TOO_MANY_USES.
 */
CALLTABLE_API calltable_status calltable_share(const calltable_binding *binding, calltable_slot *slot);

/** The same; if the lock is taken, CALLTABLE_BUSY at once. */
CALLTABLE_API calltable_status calltable_try_share(
    const calltable_binding *binding, calltable_slot *slot);

/**
 * Reserves a slot, and sets it: its code pointer can be stored where foreign code will look for it, before there is a
 * handler. Until it is rebound its calls are stale, and on i686 remove no arguments from the stack. Waits for the lock.
 *
 * CALLTABLE_NULL_POINTER, CALLTABLE_TABLE_FULL, CALLTABLE_SEALED.
 */
CALLTABLE_API calltable_status calltable_reserve(calltable_slot *slot);

/**
 * Gives a slot another handler and data, and sets `*slot` to the new registration; the code pointer stays, and calls
 * the new handler once this has returned CALLTABLE_OK. What holds of a release and a registration holds of it. A call
 * that begins meanwhile is served by the one or the other, or is stale.
 *
 * As calltable_try_register and calltable_try_release: after CALLTABLE_IN_FLIGHT new calls are refused already, and it
 * is to be called again. CALLTABLE_OTHER_USES if the registration is shared and has other uses, CALLTABLE_USED_UP.
 */
CALLTABLE_API calltable_status calltable_try_rebind(calltable_slot *slot, const calltable_binding *binding);

/** Blocks: the same, and waits for the lock, and until no counted call of the old registration is running. As
   calltable_register and calltable_release_and_wait. */
CALLTABLE_API calltable_status calltable_rebind_and_wait(calltable_slot *slot, const calltable_binding *binding);

/** What foreign code calls. Null for CALLTABLE_NO_SLOT and numbers that no registration can have; whether this one is
   live is not looked at. */
CALLTABLE_API calltable_function calltable_code(calltable_slot slot);

/**
 * Releases one use, with the last one the slot: calls that begin later are stale. Waits for the lock.
 *
 * CALLTABLE_NOT_LIVE (nothing has changed). CALLTABLE_IN_FLIGHT if running calls are counted and there are some, such
 * as the caller's own: new ones are refused already, but the slot is not free, and the data still in use, before
 * another release has returned CALLTABLE_OK. Without CALLTABLE_TRACKED and CALLTABLE_EXCLUSIVE, calls that began before
 * may still be running.
 */
CALLTABLE_API calltable_status calltable_release(calltable_slot slot);

/** The same; if the lock is taken, CALLTABLE_BUSY at once: nothing has changed. */
CALLTABLE_API calltable_status calltable_try_release(calltable_slot slot);

/**
 * Blocks: as calltable_release, and waits until no counted call is running. For a call that never returns it
 * waits for ever.
 *
 * CALLTABLE_NOT_LIVE. CALLTABLE_OWN_CALL: it is called in a call of its own registration, which it would wait for; on
 * Linux and bare machines that is seen only once calltable_declare_exceptions has been called, and before that it waits
 * for ever. CALLTABLE_IN_FLIGHT, after a while, if the calls are of threads that are gone, or may be: at the end of a
 * Windows process, in a child of fork. After these two new calls are refused already; release again when the calls have
 * returned.
 */
CALLTABLE_API calltable_status calltable_release_and_wait(calltable_slot slot);

/** The number of live slots, and of released ones that wait for running calls. Waits for the lock. */
CALLTABLE_API uint32_t calltable_live_count(void);

/** A slot in a list. */
typedef struct calltable_live_slot {
    /** its registration */
    calltable_slot slot;
    /** what foreign code calls */
    calltable_function code;
    /** of the registration */
    calltable_function handler;
    /** of the registration */
    void *data;
    /** how many times it is shared; 0 for one that was registered by itself */
    uint32_t uses;
    /** calls that run now; CALLTABLE_NOT_COUNTED without CALLTABLE_TRACKED and CALLTABLE_EXCLUSIVE */
    uint32_t in_flight;
    /** its name, and the bytes of that: it need not end in a zero, since one that Rust code gave does not; null and 0
       if it has none */
    const char *name;
    /** see `name` */
    size_t name_size;
} calltable_live_slot;

/** `in_flight` of a registration whose calls are not counted. */
#define CALLTABLE_NOT_COUNTED 0xffffffffu

/** Registrations of one name, as in calltable_live_slot, and the number of their slots. */
typedef struct calltable_user {
    /** as in calltable_live_slot */
    const char *name;
    /** as in calltable_live_slot */
    size_t name_size;
    /** how many */
    uint32_t slots;
} calltable_user;

/** How many calltable_largest_users fills. */
#define CALLTABLE_USERS 4u

/**
 * Who has the slots, to be asked after CALLTABLE_TABLE_FULL: fills CALLTABLE_USERS elements. The first three are the
 * names that have the most slots, most first, with 0 slots and null if there are fewer names; the last one is that of
 * all registrations without a name. Of more than eight names, those that have less than a ninth of the slots may be
 * left out. It looks at every slot, under the lock, for which it waits.
 *
 * CALLTABLE_NULL_POINTER.
 */
CALLTABLE_API calltable_status calltable_largest_users(calltable_user *users);

/**
 * Fills `live_slot` with the live registration of a slot. For a leak report, ask for each index from 0 to
 * calltable_capacity() - 1; the table may change in between. Waits for the lock.
 *
 * CALLTABLE_NULL_POINTER, CALLTABLE_NO_SUCH_SLOT, CALLTABLE_NOT_LIVE.
 */
CALLTABLE_API calltable_status calltable_live_slot_at(uint32_t index, calltable_live_slot *live_slot);

/** The same; if the lock is taken, CALLTABLE_BUSY at once. */
CALLTABLE_API calltable_status calltable_try_live_slot_at(uint32_t index, calltable_live_slot *live_slot);

/**
 * Sets `index` to that of the slot whose entry starts at `code`, for calltable_live_slot_at.
 *
 * CALLTABLE_NULL_POINTER, CALLTABLE_NOT_AN_ENTRY.
 */
CALLTABLE_API calltable_status calltable_index_of(calltable_function code, uint32_t *index);

/** What calltable_locate sets for an address in a dispatcher. */
#define CALLTABLE_NO_INDEX 0xffffffffu

/**
 * Where in the library's assembly an address lies, such as an instruction pointer that a trap handler has found or a
 * return address on the stack: sets `index` to that of the slot in whose entry it lies, to CALLTABLE_NO_INDEX if it
 * lies in a dispatcher. On x86_64 each running call has a return address in its slot's entry on the stack; elsewhere
 * those have an address there that have a frame of the dispatcher's.
 *
 * CALLTABLE_NULL_POINTER, CALLTABLE_NOT_AN_ENTRY (it lies elsewhere).
 */
CALLTABLE_API calltable_status calltable_locate(const void *address, uint32_t *index);

/**
 * Ends all change: from now on registering, sharing, rebinding, releasing and setting the stale handler fail, and the
 * pages from `*start` up to `*end`, which say where every call goes, may be made read-only. Handlers and data of what
 * is live must stay valid for ever. No call may be running that began while a counted registration of the same slot was
 * live. Waits for the lock.
 *
 * CALLTABLE_NULL_POINTER, CALLTABLE_COUNTED (a registration with CALLTABLE_TRACKED or CALLTABLE_EXCLUSIVE is live, or a
 * call of one is running: each writes to those pages).
 */
CALLTABLE_API calltable_status calltable_seal(const void **start, const void **end);

/** Why a call is stale. */
enum {
    /** Nothing was ever registered in the slot. */
    CALLTABLE_NEVER_REGISTERED = 0,
    /** The registration was released. */
    CALLTABLE_RELEASED = 1,
    /** It is exclusive, and another call is running. */
    CALLTABLE_RUNNING = 2,
    /** Somebody has moved the entry's code, as inline hooks do: hook the handler instead. `index` is UINT32_MAX then,
       and `code` is what follows the moved CALL. */
    CALLTABLE_MOVED = 3,
    /** It is reserved, and nothing is bound to it yet. */
    CALLTABLE_UNBOUND = 4
};

/** A call that was refused. */
typedef struct calltable_stale_call {
    /** of the slot */
    uint32_t index;
    /** CALLTABLE_RELEASED and the like */
    int32_t reason;
    /** what was called */
    calltable_function code;
    /** where in the foreign code it would have returned to */
    const void *caller;
    /** for the two functions below, while the handler runs */
    void *internal;
    /** the name of the slot's last registration, as in calltable_live_slot; null and 0 if it has none, if the slot is
       live for somebody else by now, or if the table is locked, for which a call does not wait */
    const char *name;
    /** see `name` */
    size_t name_size;
} calltable_stale_call;

/** Runs in place of a handler. It may be called by any thread. The foreign code gets the last result that it sets, zero
   if it sets none. */
typedef void(CALLTABLE_PLAIN_CALL *calltable_stale_handler)(const calltable_stale_call *call);

/**
 * Sets what the foreign code gets, in the integer and the floating-point result register; memory for a result stays as
 * it is. On i686 the floating-point one is ST0: it gets the number, taken for the bits of a double, only if the
 * signature of calltable_stale_frame says so, or that of the registration that runs (CALLTABLE_RUNNING).
 *
 * CALLTABLE_NULL_POINTER.
 */
CALLTABLE_API calltable_status calltable_stale_set(const calltable_stale_call *call, uint64_t result);

/**
 * Sets `frame` to that of a call by this signature, from which calltable_get reads the arguments, and in which
 * calltable_set sets a result of any type. If the result goes through a hidden pointer, that memory is set to zero. The
 * foreign code must have called as the signature says, and the reason must not be CALLTABLE_MOVED: nobody knows what a
 * hook has put on the stack.
 *
 * CALLTABLE_NULL_POINTER, CALLTABLE_BAD_SIGNATURE.
 */
CALLTABLE_API calltable_status calltable_stale_frame(
    const calltable_stale_call *call, const calltable_signature *signature, calltable_frame **frame);

/**
 * Sets what runs when an entry is called that is not live; null sets back the default: a message, where there is
 * somewhere to write it, and an invalid instruction, which stops the program on the spot. Waits for the lock.
 *
 * CALLTABLE_SEALED.
 */
CALLTABLE_API calltable_status calltable_set_stale_handler(calltable_stale_handler handler);

/** EXCEPTION_RECORD of Windows. */
typedef struct calltable_exception_record {
    /** ExceptionCode */
    uint32_t code;
    /** ExceptionFlags */
    uint32_t flags;
    /** ExceptionRecord */
    struct calltable_exception_record *nested;
    /** ExceptionAddress */
    void *address;
    /** NumberParameters */
    uint32_t parameter_count;
    /** ExceptionInformation */
    uintptr_t parameters[15];
} calltable_exception_record;

/** EXCEPTION_POINTERS of Windows. */
typedef struct calltable_exception {
    /** what has happened */
    calltable_exception_record *record;
    /** a CONTEXT; null for a C++ exception of GCC or Clang on i686 */
    void *context;
} calltable_exception;

/** What the callback is to return when an exception has ended. */
typedef struct calltable_outcome {
    /** the call's arguments; and, if `handler` is null, its result: see calltable_set, or write to it */
    calltable_frame frame;
    /** null, or a handler of the registration's own kind: it is called when the stack has been unwound, with the
       arguments and the address of `room` as its data, and makes the result */
    calltable_function handler;
    /** what that handler is to know */
    uint8_t room[64];
} calltable_outcome;

/** What a filter returns. */
enum {
    /** Not ours: other handlers are asked. */
    CALLTABLE_SEARCH_ON = 0,
    /** The exception ends here, and the callback returns the outcome. */
    CALLTABLE_RETURN = 1,
    /** What was wrong has been fixed: the handler continues. */
    CALLTABLE_CONTINUE = -1
};

/**
 * Decides on an exception that leaves a handler registered with CALLTABLE_CONTAINED. It runs on the same stack, while
 * the handler's frames are still there, and gets the registration's data. Frames between the exception and the table
 * are dropped as by longjmp if it ends there: the handler must hold nothing then that has to be freed or unlocked.
 */
typedef int32_t(CALLTABLE_CALL *calltable_filter)(
    void *data, const calltable_exception *exception, calltable_outcome *outcome);

/**
 * On systems other than Windows: what must be known of a thread whose exceptions are asked about, the beginning of
 * Windows' thread information block. A scheduler switches the block with the thread.
 */
typedef struct calltable_thread_block {
    /** the first record of the thread's chain; CALLTABLE_CHAIN_END at first */
    void *head;
    /** the address after its stack */
    uintptr_t stack_base;
    /** the stack's lowest address */
    uintptr_t stack_limit;
} calltable_thread_block;

/** No record: the end of a thread's chain. */
#define CALLTABLE_CHAIN_END ((void *)UINTPTR_MAX)

/** Gives the block of the thread that calls it, or null where there is none. */
typedef calltable_thread_block *(CALLTABLE_CALL *calltable_find_block)(void);

/**
 * Says how to find the thread's block, on systems other than Windows: from then on exceptions can be contained. On
 * x86_64 and AArch64 by `find`, which must always give the same block to the same thread; on i686 FS must point to
 * the block whenever a thread calls an entry, and `find` is not used. On Windows exceptions can always be contained:
 * there it does nothing. Waits for the lock.
 *
 * CALLTABLE_NULL_POINTER (not on i686), CALLTABLE_SEALED.
 */
CALLTABLE_API calltable_status calltable_declare_exceptions(calltable_find_block find);

/**
 * Asks the filters of this thread's running calls about an exception, the innermost first: what a trap handler or
 * signal handler on systems other than Windows calls, with whatever describes the interrupted state as `context`. If
 * one ends the exception, it does not return: the trap handler's frames are dropped with the handler's, and the
 * callback returns. Sets `goes_on` to 1 if one has fixed what was wrong, so that the interrupted code continues, to 0
 * if nobody wants it.
 *
 * CALLTABLE_NULL_POINTER; CALLTABLE_BAD_CHAIN (a record is misaligned, lies outside of the stack or in the wrong order;
 * those before it have been asked); CALLTABLE_NO_EXCEPTIONS (on 64-bit Windows, where the system asks).
 */
CALLTABLE_API calltable_status calltable_dispatch_exception(
    calltable_exception_record *exception, void *context, int32_t *goes_on);

#ifdef __cplusplus
}
#endif

#endif
