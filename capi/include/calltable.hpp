/*
 * calltable for C++17: any callable as a bare function pointer with a Windows calling convention, owned by a handle.
 *
 *     int calls = 0;
 *     calltable::callback compare([&](const int32_t *a, const int32_t *b) -> int32_t {
 *         calls += 1;
 *         return *a - *b;
 *     });
 *     foreign_code(compare.code());
 *
 * The template argument says how the foreign code calls: a type of its own, such as `callback<WNDPROC>`, or a function
 * type in the convention of C, `callback<int32_t(int32_t)>`. Left out, it is deduced from a callable with one
 * operator(): `callback(lambda)` for C, `callback(calltable::stdcall, lambda)` for another convention.
 *
 * The callable is called with the compiler's own types, by a function that has the callback's parameters and one more:
 * there is no marshalling. Foreign code may call it from several threads at once, and while another call runs;
 * options().exclusive() refuses such calls. Exceptions do not leave it: they end the program, unless on_exception says
 * what the callback returns then. What it captures, and refers to, must be good for as long.
 *
 * The end of a handle:
 * - It releases the slot: later calls of the code pointer are stale (see calltable_set_stale_handler).
 * - It waits until no call runs, and destroys the callable then; so captures by reference are good for every call.
 * - In a call of its own it would wait for itself. Where that is seen (calltable_release_and_wait says where; elsewhere
 *   it waits for ever), it does not wait, for calls of other threads neither: new calls are refused, and a `callback`
 *   keeps slot and callable until a later use of this header finds all calls ended (or see release_pending). What the
 *   callable refers to must be good until then. A `callback_ref`, which has nothing to keep them in, ends the program.
 *   `callback::retire` does the same without waiting, everywhere.
 * - Calls of threads that are gone (at the end of a Windows process, in a forked child) never end: both are kept, too.
 * - In a sealed table the registration stays, and so does the callable.
 * With options().untracked() calls are not counted, which makes them faster. Then nobody waits: no call may run.
 *
 * Errors: make_callback, callback<...>::make and the like return a result<...>, which has a calltable_status.
 * Constructors throw a calltable::error of it; without exceptions there are none that register.
 *
 * Structures are passed by value as C passes them. On AArch64 the compiler's types do not tell how: see type_of.
 *
 * It wants nothing of the standard library but, with exceptions, std::exception. A `callback` allocates by operator new
 * (if that fails, what the operator throws passes); a `callback_ref` allocates nothing.
 */
#ifndef CALLTABLE_HPP
#define CALLTABLE_HPP

#include "calltable.h"

#if !(__cplusplus >= 201703L || (defined(_MSVC_LANG) && _MSVC_LANG >= 201703L))
#error "calltable.hpp wants C++17 or later: calltable.h serves C++11"
#endif

#if (defined(__cpp_exceptions) || defined(_CPPUNWIND)) && __has_include(<exception>)
#define CALLTABLE_HAS_EXCEPTIONS 1
#include <exception>
#else
#define CALLTABLE_HAS_EXCEPTIONS 0
#endif
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

#if defined(__i386__) || defined(_M_IX86)
#define CALLTABLE_I686 1
#else
#define CALLTABLE_I686 0
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
#define CALLTABLE_AARCH64 1
#else
#define CALLTABLE_AARCH64 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic push
/* The macros of calltable.h are those of C. */
#pragma GCC diagnostic ignored "-Wold-style-cast"
#if !defined(__clang__)
/* GCC calls it pedantic to have a thiscall function that is no method. */
#pragma GCC diagnostic ignored "-Wattributes"
#endif
#endif

/* Where a new object lies; the standard's own is in a header that not every program has. */
namespace calltable::detail {
struct place {
    void *at;
};
} // namespace calltable::detail

inline void *operator new(size_t, calltable::detail::place where) noexcept {
    return where.at;
}

/* What the compiler calls if a constructor throws: there is nothing to give back. */
inline void operator delete(void *, calltable::detail::place) noexcept {}

namespace calltable {

// Structures.

/*
 * How a structure or union is passed by value, to be specialised where the default does not serve. On x86 only the size
 * counts, and nothing is to be done. On AArch64 there is no default, since C++ does not tell what is in it:
 *
 *     template <> struct calltable::type_of<point> : calltable::homogeneous<double, 2> {};
 *     template <> struct calltable::type_of<rectangle> : calltable::structure<rectangle> {};
 *
 * calltable.h says at CALLTABLE_STRUCT, CALLTABLE_HOMOGENEOUS and CALLTABLE_ALIGNED which one it is.
 */
template <class Type> struct type_of;

template <class Type> struct structure {
    static constexpr calltable_type value = CALLTABLE_STRUCT(sizeof(Type));
};

template <class Type> struct aligned {
    static_assert(sizeof(Type) % 16 == 0, "calltable: the size of an aligned structure is a multiple of 16");
    static constexpr calltable_type value = CALLTABLE_ALIGNED(sizeof(Type));
};

/* `Element` is float, double, or a vector of 8 or 16 bytes. */
template <class Element, unsigned count> struct homogeneous;

namespace detail {

template <class...> inline constexpr bool never = false;
template <class A, class B> inline constexpr bool same = false;
template <class A> inline constexpr bool same<A, A> = true;

template <bool condition, class Type = void> struct enable_if {};
template <class Type> struct enable_if<true, Type> {
    using type = Type;
};
template <bool condition, class Type = void> using enable_if_t = typename enable_if<condition, Type>::type;

template <bool condition, class Then, class> struct choose {
    using type = Then;
};
template <class Then, class Else> struct choose<false, Then, Else> {
    using type = Else;
};

template <class Type> struct bare {
    using type = Type;
};
template <class Type> struct bare<const Type> {
    using type = Type;
};
template <class Type> struct bare<volatile Type> {
    using type = Type;
};
template <class Type> struct bare<const volatile Type> {
    using type = Type;
};
template <class Type> struct bare<Type &> : bare<Type> {};
template <class Type> struct bare<Type &&> : bare<Type> {};
/* Without reference and qualifiers. */
template <class Type> using bare_t = typename bare<Type>::type;

/* A function cannot be const. */
template <class Type> inline constexpr bool is_function = same<Type, bare_t<Type>> && same<Type, const Type>;
template <class Type> inline constexpr bool is_reference = false;
template <class Type> inline constexpr bool is_reference<Type &> = true;
template <class Type> inline constexpr bool is_reference<Type &&> = true;
template <class Type> inline constexpr bool is_pointer = false;
template <class Type> inline constexpr bool is_pointer<Type *> = true;
template <> inline constexpr bool is_pointer<decltype(nullptr)> = true;
template <class Type> inline constexpr bool is_lvalue = false;
template <class Type> inline constexpr bool is_lvalue<Type &> = true;

template <class Type> Type &&declared() noexcept;

template <class Type, class... Others> inline constexpr bool is_one_of = (same<Type, Others> || ...);

template <class Type>
inline constexpr bool is_integer = is_one_of<Type, char, signed char, unsigned char, wchar_t, char16_t, char32_t,
    short, unsigned short, int, unsigned, long, unsigned long, long long, unsigned long long>;
#if defined(__cpp_char8_t)
template <> inline constexpr bool is_integer<char8_t> = true;
#endif
#if defined(__SIZEOF_INT128__)
__extension__ typedef __int128 int128;
__extension__ typedef unsigned __int128 uint128;
template <> inline constexpr bool is_integer<int128> = true;
template <> inline constexpr bool is_integer<uint128> = true;
#endif

template <class Type> inline constexpr bool is_float = is_one_of<Type, float, double, long double>;
template <class Type> inline constexpr bool is_structure = __is_class(Type) || __is_union(Type);

template <size_t size, bool is_signed> constexpr calltable_type integer() {
    constexpr calltable_type codes[] = {CALLTABLE_U8, CALLTABLE_U16, CALLTABLE_U32, CALLTABLE_U64, CALLTABLE_U128};
    constexpr int which = size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : size == 8 ? 3 : 4;
    return codes[which] - (is_signed ? 1 : 0);
}

/* The type of a parameter or result, after `check`. */
template <class Type> constexpr calltable_type code_of() {
    if constexpr (same<Type, void>) {
        return CALLTABLE_VOID;
    } else if constexpr (is_reference<Type> || is_pointer<Type>) {
        return CALLTABLE_POINTER;
    } else if constexpr (same<Type, bool>) {
        return CALLTABLE_BOOL;
    } else if constexpr (__is_enum(Type)) {
        return code_of<__underlying_type(Type)>();
    } else if constexpr (is_integer<Type>) {
        return integer<sizeof(Type), (static_cast<Type>(-1) < static_cast<Type>(1))>();
    } else if constexpr (is_float<Type>) {
        return sizeof(Type) == 4 ? CALLTABLE_F32 : sizeof(Type) == 8 ? CALLTABLE_F64 : CALLTABLE_F80;
    } else {
        return type_of<Type>::value;
    }
}

/* The bytes of a structure by its type; 0 if it is the type of something else. */
constexpr size_t size_of(calltable_type type) {
    constexpr size_t none = 0;
    if ((type & CALLTABLE_STRUCT(0)) != 0 || (type & CALLTABLE_ALIGNED(0)) != 0) {
        return type & 0x3fffffffu;
    }
    const size_t element = type & 0xffu;
    const size_t size = element == CALLTABLE_F32 ? 4
        : element == CALLTABLE_F64 || element == CALLTABLE_VECTOR8 ? 8
        : element == CALLTABLE_VECTOR16 ? 16
                                        : none;
    return size * (type >> 8);
}

/* Refuses what has no place in a signature of C. */
template <class Type, bool is_result> constexpr bool check() {
    if constexpr (is_reference<Type>) {
        return true;
    } else if constexpr (is_structure<Type>) {
        static_assert(__is_trivially_copyable(Type),
            "calltable: this class is not trivially copyable, so C++ does not pass it by value as C would: pass a "
            "pointer or reference to it, or a plain structure of its members");
        static_assert(!__is_empty(Type),
            "calltable: an empty class is nothing that C could pass by value: leave it out, or pass a pointer");
#if defined(_MSC_VER)
        static_assert(!is_result || __is_aggregate(Type),
            "calltable: Microsoft's rule returns a class with constructors or private members otherwise than a "
            "structure of C: return a plain structure");
#endif
#if CALLTABLE_I686
        static_assert(alignof(Type) <= 8,
            "calltable: compilers for i686 do not agree how a structure of alignment 16 is passed: pass a pointer");
#endif
        static_assert(size_of(type_of<Type>::value) == sizeof(Type),
            "calltable: calltable::type_of names a structure of another size");
        return true;
    } else if constexpr (is_float<Type>) {
        static_assert(sizeof(Type) <= 8 || CALLTABLE_I686,
            "calltable: compilers do not agree how a long double is passed: pass a double, or a pointer");
        return true;
    } else {
        static_assert(same<Type, void> || is_pointer<Type> || same<Type, bool> || __is_enum(Type) || is_integer<Type>,
            "calltable: no convention says how this type is passed by value: pass a pointer to it");
        return true;
    }
}

template <class Type> inline constexpr bool is_plain = !is_structure<Type> && !is_float<Type> && sizeof(Type) <= 8;
template <> inline constexpr bool is_plain<void> = true;
template <class Type> inline constexpr bool is_plain<Type &> = true;
template <class Type> inline constexpr bool is_plain<Type &&> = true;

/* Whether a result comes through a hidden pointer, on x86. */
template <class Type> constexpr bool is_hidden() {
    if constexpr (is_structure<Type>) {
#if CALLTABLE_I686 && !(defined(_WIN32) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__DragonFly__))
        return true;
#else
        return !(sizeof(Type) == 1 || sizeof(Type) == 2 || sizeof(Type) == 4 || sizeof(Type) == 8);
#endif
    } else {
        return false;
    }
}

} // namespace detail

template <class Element, unsigned count> struct homogeneous {
    static_assert(count >= 1 && count <= 4, "calltable: a homogeneous structure has 1 to 4 elements");
    static_assert(detail::is_float<Element> || sizeof(Element) == 8 || sizeof(Element) == 16,
        "calltable: the elements of a homogeneous structure are float, double or vectors of 8 or 16 bytes");
    static constexpr calltable_type value = CALLTABLE_HOMOGENEOUS(
        (detail::same<Element, float>      ? CALLTABLE_F32
            : detail::same<Element, double> ? CALLTABLE_F64
            : sizeof(Element) == 8          ? CALLTABLE_VECTOR8
                                            : CALLTABLE_VECTOR16),
        count);
};

template <class Type> struct type_of : structure<Type> {
    static_assert(!CALLTABLE_AARCH64 || detail::never<Type>,
        "calltable: on AArch64 it must be said how this structure is passed by value: specialise calltable::type_of "
        "for it, as homogeneous, structure or aligned");
};

// Conventions.

/* The convention of C. */
struct c_t {};
/* Those of i686 by name. On other processors all are the convention of C, as they are for Windows' compilers. */
struct stdcall_t {};
struct thiscall_t {};
struct fastcall_t {};

inline constexpr c_t c{};
inline constexpr stdcall_t stdcall{};
inline constexpr thiscall_t thiscall{};
inline constexpr fastcall_t fastcall{};

namespace detail {

template <class Type> inline constexpr bool is_convention = is_one_of<Type, c_t, stdcall_t, thiscall_t, fastcall_t>;

template <class...> struct list {};

template <class Function, class Convention> struct pointer_to;


/* What a type says of its callback. */
template <class Type> struct callback_type {
    static_assert(never<Type>,
        "calltable: the type of a callback is a function pointer, a function, or calltable::method of one; it is not "
        "variadic, and on x86_64 it is CALLTABLE_CALL where the compiler has another convention");
};

template <class Convention, class Result, class... Parameters> struct described {
    using convention = Convention;
    /* of the callable */
    using result = Result;
    using parameters = list<Parameters...>;
    /* of the function that the table calls, beside its data */
    using table_result = Result;
    using table_parameters = parameters;
    using code = typename pointer_to<Result(Parameters...), Convention>::type;
    template <class Call> using adapted = Call;
};

template <class Result, class... Parameters>
struct callback_type<Result(Parameters...)> : described<c_t, Result, Parameters...> {};
template <class Result, class... Parameters>
struct callback_type<Result(Parameters...) noexcept> : described<c_t, Result, Parameters...> {};

/* The function type that a callable says of itself; none if its operator() is a template or has overloads. */
template <class Callable, class = void> struct signature {};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(_WIN32)
/* Functions of the compiler's own convention. */
template <class Result, class... Parameters> struct signature<Result (*)(Parameters...), void> {
    using type = Result(Parameters...);
};
template <class Result, class... Parameters> struct signature<Result (*)(Parameters...) noexcept, void> {
    using type = Result(Parameters...);
};
#endif

/* The function that the table calls. Between its parameters are those that fill registers which would else be the
   data's. */
template <class Convention, class Result, class Before, class Fill, class After> struct handler;

#define CALLTABLE_CONVENTION(convention, attribute)                                                                   \
    template <class Result, class... Parameters> struct pointer_to<Result(Parameters...), convention> {               \
        using type = Result(attribute *)(Parameters...);                                                              \
    };                                                                                                                \
    template <class Result, class... Parameters>                                                                      \
    struct callback_type<Result(attribute *)(Parameters...)> : described<convention, Result, Parameters...> {};       \
    template <class Result, class... Parameters>                                                                      \
    struct callback_type<Result(attribute *)(Parameters...) noexcept>                                                 \
        : described<convention, Result, Parameters...> {};                                                            \
    template <class Result, class... Parameters> struct signature<Result(attribute *)(Parameters...), void> {         \
        using type = Result(Parameters...);                                                                           \
    };                                                                                                                \
    template <class Result, class... Parameters>                                                                      \
    struct signature<Result(attribute *)(Parameters...) noexcept, void> {                                             \
        using type = Result(Parameters...);                                                                           \
    };                                                                                                                \
    template <class Result, class... Before, class... Fill, class... After>                                           \
    struct handler<convention, Result, list<Before...>, list<Fill...>, list<After...>> {                              \
        template <class Call>                                                                                         \
        static Result attribute handle(Before... before, Fill..., After... after, void *data) noexcept {              \
            return Call::template run<Result>(                                                                        \
                data, static_cast<Before &&>(before)..., static_cast<After &&>(after)...);                            \
        }                                                                                                             \
    };

CALLTABLE_CONVENTION(c_t, CALLTABLE_CALL)

#if CALLTABLE_I686
#if defined(_MSC_VER)
CALLTABLE_CONVENTION(stdcall_t, __stdcall)
CALLTABLE_CONVENTION(fastcall_t, __fastcall)
#if defined(__clang__)
CALLTABLE_CONVENTION(thiscall_t, __thiscall)
#endif
#else
CALLTABLE_CONVENTION(stdcall_t, __attribute__((stdcall)))
CALLTABLE_CONVENTION(fastcall_t, __attribute__((fastcall)))
CALLTABLE_CONVENTION(thiscall_t, __attribute__((thiscall)))
#endif
#else
template <class Function> struct pointer_to<Function, stdcall_t> : pointer_to<Function, c_t> {};
template <class Function> struct pointer_to<Function, fastcall_t> : pointer_to<Function, c_t> {};
template <class Function> struct pointer_to<Function, thiscall_t> : pointer_to<Function, c_t> {};
#endif
#undef CALLTABLE_CONVENTION

/* Where the parameters of an i686 convention are, and what the table must be told of them. */

/* Whether fastcall and thiscall pass it in a register, if one is left. */
template <class Type> constexpr bool fits_register() {
    if constexpr (is_reference<Type>) {
        return true;
    } else {
        return is_plain<Type> && sizeof(Type) <= 4;
    }
}

template <class Type> constexpr size_t words() {
    if constexpr (is_reference<Type>) {
        return 1;
    } else {
        return (sizeof(Type) + 3) / 4;
    }
}

/* How many of the first parameters are in registers. */
template <class Convention, class... Parameters> constexpr size_t in_registers() {
    constexpr size_t count = same<Convention, fastcall_t> ? 2 : same<Convention, thiscall_t> ? 1 : 0;
    constexpr bool fit[] = {fits_register<Parameters>()..., false};
    size_t found = 0;
    while (found < count && fit[found]) {
        found += 1;
    }
    return found;
}

/* Whether another one is, after one that is not. */
template <class Convention, class... Parameters> constexpr bool is_mixed() {
    constexpr bool fit[] = {fits_register<Parameters>()..., false};
    bool more = false;
    for (size_t index = in_registers<Convention, Parameters...>(); index < sizeof...(Parameters); index += 1) {
        more = more || fit[index];
    }
    return more && in_registers<Convention, Parameters...>() < 2;
}

template <class Convention, class Result, class... Parameters> constexpr bool check_all() {
    static_assert(check<Result, true>() && (check<Parameters, false>() && ...), "");
    if constexpr (CALLTABLE_I686 && same<Convention, thiscall_t>) {
        static_assert(in_registers<Convention, Parameters...>() == 1,
            "calltable: the first parameter of a thiscall function is `this`, a pointer");
        static_assert(!is_structure<Result>,
            "calltable: compilers do not agree how a thiscall function returns a structure: say calltable::method");
    } else if constexpr (CALLTABLE_I686 && same<Convention, fastcall_t>) {
        static_assert(!is_hidden<Result>(),
            "calltable: compilers do not agree how a fastcall function returns this structure: use a signature and the "
            "frame lane of calltable.h");
        static_assert(!is_mixed<Convention, Parameters...>(),
            "calltable: compilers do not agree which of these parameters fastcall passes in registers: use a signature "
            "and the frame lane of calltable.h");
    }
    return true;
}

template <class Convention, size_t registers, class... Parameters> struct arranged {
    template <class Result> using handler_for = handler<Convention, Result, list<Parameters...>, list<>, list<>>;
};
#if CALLTABLE_I686
template <class... Parameters> struct arranged<fastcall_t, 0, Parameters...> {
    template <class Result>
    using handler_for = handler<fastcall_t, Result, list<>, list<void *, void *>, list<Parameters...>>;
};
template <class First, class... Rest> struct arranged<fastcall_t, 1, First, Rest...> {
    template <class Result>
    using handler_for = handler<fastcall_t, Result, list<First>, list<void *>, list<Rest...>>;
};
#endif

/* Whether positions do not say enough. */
template <class Convention, class Result, class... Parameters> constexpr bool wants_signature() {
    if constexpr (CALLTABLE_AARCH64) {
        return !(is_plain<Result> && (is_plain<Parameters> && ...));
    } else {
#if defined(_WIN32)
        return false;
#else
        return CALLTABLE_I686 && same<Convention, c_t> && is_structure<Result>;
#endif
    }
}

template <class Convention, class Result, class... Parameters> constexpr uint32_t positions() {
    size_t count = sizeof...(Parameters);
    if constexpr (CALLTABLE_I686) {
        count = (size_t{0} + ... + words<Parameters>()) - in_registers<Convention, Parameters...>();
    }
    if constexpr (!CALLTABLE_AARCH64) {
        count += is_hidden<Result>() ? 1 : 0;
    }
    return static_cast<uint32_t>(count);
}

template <class Convention> constexpr uint32_t convention_code() {
    return !CALLTABLE_I686 || same<Convention, c_t> ? CALLTABLE_C
        : same<Convention, stdcall_t>               ? CALLTABLE_STDCALL
        : same<Convention, thiscall_t>              ? CALLTABLE_THISCALL
                                                    : CALLTABLE_FASTCALL;
}

/* Registers, or rebinds, once the binding has handler, data, options and name. */
template <class Convention, class Result, class... Parameters>
calltable_status put(calltable_binding &binding, calltable_slot &slot, bool is_again) noexcept {
    const auto ask = [&] {
        return is_again ? calltable_rebind_and_wait(&slot, &binding) : calltable_register(&binding, &slot);
    };
    if constexpr (wants_signature<Convention, Result, Parameters...>()) {
        constexpr calltable_type types[] = {code_of<Parameters>()..., CALLTABLE_VOID};
        calltable_signature signature;
        const calltable_status status =
            calltable_signature_init(&signature, CALLTABLE_C, types, sizeof...(Parameters), code_of<Result>());
        if (status != CALLTABLE_OK) {
            return status;
        }
        binding.signature = &signature;
        binding.options |= CALLTABLE_DIRECT_LANE;
        return ask();
    } else {
        binding.convention = convention_code<Convention>();
        binding.positions = positions<Convention, Result, Parameters...>();
        return ask();
    }
}

/* What the handler does with its data: the address of a callable, which may be a function. */
template <class Callable> struct calls {
    template <class Result, class... Arguments> static Result run(void *data, Arguments &&...arguments) {
        Callable &callable = *reinterpret_cast<Callable *>(data);
        if constexpr (same<Result, void>) {
            callable(static_cast<Arguments &&>(arguments)...);
        } else {
            return callable(static_cast<Arguments &&>(arguments)...);
        }
    }
};

/* A method that returns a structure: the address comes after `this`, and is returned. */
template <class Call, class Value> struct through_memory {
    template <class, class This, class... Arguments>
    static Value *run(void *data, This &&self, Value *memory, Arguments &&...arguments) {
        return new (place{memory}) Value(Call::template run<Value>(
            data, static_cast<This &&>(self), static_cast<Arguments &&>(arguments)...));
    }
};

template <class Result> struct receiver {
    static void take(Result);
};
template <> struct receiver<void> {};

/* Whether a callable takes such arguments and returns what becomes such a result. */
template <class, class Callable, class Result, class... Arguments> inline constexpr bool takes = false;
template <class Callable, class Result, class... Arguments>
inline constexpr bool takes<decltype(receiver<Result>::take(declared<Callable &>()(declared<Arguments>()...))),
    Callable, Result, Arguments...> = true;
template <class Callable, class... Arguments>
inline constexpr bool takes<decltype(static_cast<void>(declared<Callable &>()(declared<Arguments>()...))), Callable,
    void, Arguments...> = true;

} // namespace detail

// Methods.

/*
 * An instance method of C++ by Microsoft's rule, as those of COM are: `callback<method<Pointer>>` for a function
 * pointer whose first parameter is `this`. A structure that it returns, whatever its size, comes through a hidden
 * pointer after `this`; code() has that as a parameter, and returns it. The callable does not see it. (C++ of MinGW
 * treats a method as a function: there it is none of these.)
 */
template <class Pointer> struct method {};

namespace detail {

template <class Convention, class Result, class Parameters> struct described_method {
    static_assert(never<Convention>, "calltable: the first parameter of calltable::method is `this`, a pointer");
};

template <class Convention, class Result, class This, class... Parameters>
struct described_method<Convention, Result, list<This *, Parameters...>>
    : choose<is_structure<Result>, described<Convention, Result *, This *, Result *, Parameters...>,
          described<Convention, Result, This *, Parameters...>>::type {
    using result = Result;
    using parameters = list<This *, Parameters...>;
    template <class Call>
    using adapted = typename choose<is_structure<Result>, through_memory<Call, Result>, Call>::type;
    static_assert(check<Result, false>(), "");
};

template <class Pointer>
struct callback_type<method<Pointer>>
    : described_method<typename callback_type<Pointer>::convention, typename callback_type<Pointer>::result,
          typename callback_type<Pointer>::parameters> {};

} // namespace detail

/* A function pointer in a convention: `pointer<int32_t(int32_t), stdcall_t>`. */
template <class Function, class Convention = c_t>
using pointer = typename detail::pointer_to<Function, Convention>::type;

// Errors.

#if CALLTABLE_HAS_EXCEPTIONS
class error : public std::exception {
public:
    explicit error(calltable_status status) noexcept : status_(status) {}

    calltable_status status() const noexcept {
        return status_;
    }

    const char *what() const noexcept override {
        return calltable_status_text(status_);
    }

private:
    calltable_status status_;
};
#endif

namespace detail {

[[noreturn]] inline void fail([[maybe_unused]] calltable_status status) {
#if CALLTABLE_HAS_EXCEPTIONS
    throw error(status);
#elif defined(_MSC_VER) && !defined(__clang__)
    __fastfail(7); // FAST_FAIL_FATAL_APP_EXIT
#else
    __builtin_trap();
#endif
}

/* Ends the program; std::terminate says why. */
[[noreturn]] inline void stop(calltable_status status) noexcept {
    fail(status);
}

} // namespace detail

/* A handle, or why there is none. */
template <class Type> class [[nodiscard]] result {
public:
    result(Type &&value) noexcept : value_(static_cast<Type &&>(value)) {}
    result(calltable_status status) noexcept : status_(status) {}

    explicit operator bool() const noexcept {
        return status_ == CALLTABLE_OK;
    }

    calltable_status status() const noexcept {
        return status_;
    }

    /* What is wrong, and what to do about it. */
    const char *text() const noexcept {
        return calltable_status_text(status_);
    }

    /* The handle; an empty one if there is none. */
    Type &operator*() & noexcept {
        return value_;
    }
    Type &&operator*() && noexcept {
        return static_cast<Type &&>(value_);
    }
    Type *operator->() noexcept {
        return &value_;
    }

    /* The handle. If there is none, it throws an error; without exceptions it ends the program. */
    Type &value() & {
        look();
        return value_;
    }
    Type &&value() && {
        look();
        return static_cast<Type &&>(value_);
    }

private:
    void look() const {
        if (status_ != CALLTABLE_OK) {
            detail::fail(status_);
        }
    }

    Type value_;
    calltable_status status_ = CALLTABLE_OK;
};

/* How to register: `calltable::options().named("my-library: keys").exclusive()`. Calls are counted (CALLTABLE_TRACKED)
   unless it says otherwise. */
class options {
public:
    constexpr options() noexcept = default;

    /* What lists and messages call it; the string must be there for ever. */
    constexpr options named(const char *name) const noexcept {
        return {bits_, name};
    }
    /* A call that comes while another one runs is stale (CALLTABLE_EXCLUSIVE). */
    constexpr options exclusive() const noexcept {
        return {bits_ | CALLTABLE_EXCLUSIVE, name_};
    }
    /* Calls are not counted: at the end of the handle none may run. */
    constexpr options untracked() const noexcept {
        return {bits_ & ~uint32_t{CALLTABLE_TRACKED}, name_};
    }
    /* CALLTABLE_FRAMED */
    constexpr options framed() const noexcept {
        return {bits_ | CALLTABLE_FRAMED, name_};
    }
    /* CALLTABLE_KEEPING_X18 */
    constexpr options keeping_x18() const noexcept {
        return {bits_ | CALLTABLE_KEEPING_X18, name_};
    }

    constexpr uint32_t bits() const noexcept {
        return bits_;
    }
    constexpr const char *name() const noexcept {
        return name_;
    }

private:
    constexpr options(uint32_t bits, const char *name) noexcept : bits_(bits), name_(name) {}

    uint32_t bits_ = CALLTABLE_TRACKED;
    const char *name_ = nullptr;
};

// Callables.

namespace detail {

/* What a callable is kept as: as it is, or, if it is a function, as a pointer to it. */
template <class Type>
using kept_t = typename choose<is_function<bare_t<Type>>, bare_t<Type> *, bare_t<Type>>::type;

/* The function type of a pointer to a member function. */
template <class Member> struct member {};

#define CALLTABLE_MEMBER(convention, qualifiers)                                                                      \
    template <class Result, class Class, class... Parameters>                                                         \
    struct member<Result (convention Class::*)(Parameters...) qualifiers> {                                           \
        using type = Result(Parameters...);                                                                           \
    };
#define CALLTABLE_MEMBERS(convention)                                                                                 \
    CALLTABLE_MEMBER(convention, )                                                                                    \
    CALLTABLE_MEMBER(convention, const)                                                                               \
    CALLTABLE_MEMBER(convention, &)                                                                                   \
    CALLTABLE_MEMBER(convention, const &)                                                                             \
    CALLTABLE_MEMBER(convention, noexcept)                                                                            \
    CALLTABLE_MEMBER(convention, const noexcept)                                                                      \
    CALLTABLE_MEMBER(convention, & noexcept)                                                                          \
    CALLTABLE_MEMBER(convention, const & noexcept)

#if CALLTABLE_I686 && !defined(_WIN32)
/* Whichever the compiler's own is: -mrtd sets another one. */
CALLTABLE_MEMBERS(__attribute__((cdecl)))
CALLTABLE_MEMBERS(__attribute__((stdcall)))
#else
CALLTABLE_MEMBERS()
#if CALLTABLE_I686 && defined(_MSC_VER)
CALLTABLE_MEMBERS(__stdcall)
#elif CALLTABLE_I686
CALLTABLE_MEMBERS(__attribute__((stdcall)))
#elif defined(__x86_64__) && defined(__GNUC__) && !defined(_WIN32)
CALLTABLE_MEMBERS(CALLTABLE_CALL)
#endif
#endif
#undef CALLTABLE_MEMBERS
#undef CALLTABLE_MEMBER

template <class Callable> struct signature<Callable, enable_if_t<sizeof(&Callable::operator()) != 0>>
    : member<decltype(&Callable::operator())> {};
template <class Callable> using signature_t = typename signature<kept_t<Callable>>::type;

/* An object and one of its member functions. */
template <auto method, class Object> class bound {
public:
    explicit constexpr bound(Object &object) noexcept : object_(&object) {}

    template <class... Arguments>
    auto operator()(Arguments &&...arguments) const
        -> decltype((declared<Object &>().*method)(static_cast<Arguments &&>(arguments)...)) {
        return (object_->*method)(static_cast<Arguments &&>(arguments)...);
    }

private:
    Object *object_;
};

template <auto method, class Object> struct signature<bound<method, Object>, void> : member<decltype(method)> {};

/* What `otherwise` says, which is a value or a function of no parameters. */
template <class Result, class Otherwise> Result fall_back(Otherwise &otherwise) {
    if constexpr (same<Result, void>) {
        otherwise();
    } else if constexpr (takes<void, Otherwise, Result>) {
        return otherwise();
    } else {
        return static_cast<Result>(otherwise);
    }
}

template <class Callable, class Otherwise> class guarded {
public:
    template <class C, class O>
    constexpr guarded(C &&callable, O &&otherwise)
        : callable_(static_cast<C &&>(callable)), otherwise_(static_cast<O &&>(otherwise)) {}

    template <class... Arguments>
    auto operator()(Arguments &&...arguments)
        -> decltype(declared<Callable &>()(static_cast<Arguments &&>(arguments)...)) {
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
        try {
            return callable_(static_cast<Arguments &&>(arguments)...);
        } catch (...) {
            return fall_back<decltype(declared<Callable &>()(static_cast<Arguments &&>(arguments)...))>(otherwise_);
        }
#else
        return callable_(static_cast<Arguments &&>(arguments)...);
#endif
    }

private:
    Callable callable_;
    Otherwise otherwise_;
};

template <class Callable, class Otherwise>
struct signature<guarded<Callable, Otherwise>, void> : signature<Callable> {};

} // namespace detail

/* An object's member function as a callable: `bind<&window::on_message>(window)`. The object must be there as long as
   calls may come. */
template <auto method, class Object> constexpr detail::bound<method, Object> bind(Object &object) noexcept {
    return detail::bound<method, Object>(object);
}

/*
 * A callable whose exceptions end here. The callback returns `otherwise`: a value, or what a function of no parameters
 * returns, which is called while the exception is there, so that it may rethrow and look at it, or keep it by
 * std::current_exception. An exception of that one ends the program. Without exceptions it is the callable.
 */
template <class Callable, class Otherwise>
constexpr detail::guarded<detail::kept_t<Callable>, detail::kept_t<Otherwise>> on_exception(
    Callable &&callable, Otherwise &&otherwise) {
    return {static_cast<Callable &&>(callable), static_cast<Otherwise &&>(otherwise)};
}

// Handles.

namespace detail {

template <class Call, class Convention, class Result, class... Parameters>
calltable_status put_call(
    calltable_binding &binding, calltable_slot &slot, bool is_again, list<Parameters...>) noexcept {
    static_assert(check_all<Convention, Result, Parameters...>(), "");
    constexpr size_t registers = CALLTABLE_I686 ? in_registers<Convention, Parameters...>() : 0;
    using handler = typename arranged<Convention, registers, Parameters...>::template handler_for<Result>;
    binding.handler = reinterpret_cast<calltable_function>(&handler::template handle<Call>);
    return put<Convention, Result, Parameters...>(binding, slot, is_again);
}

template <class Callable, class Result, class... Parameters> constexpr bool check_callable(list<Parameters...>) {
    static_assert(takes<void, Callable, Result, Parameters...>,
        "calltable: this callable does not take the callback's parameters, or its result is not the callback's");
    return true;
}

/* Registers a callable, or rebinds a slot to it. */
template <class Type, class Callable>
calltable_status put_callable(Callable &callable, const options &how, calltable_slot &slot, bool is_again) noexcept {
    using described = callback_type<Type>;
    static_assert(check_callable<Callable, typename described::result>(typename described::parameters()), "");
    calltable_binding binding{};
    binding.version = CALLTABLE_VERSION;
    binding.options = how.bits();
    binding.name = how.name();
    if constexpr (is_function<Callable>) {
        binding.data = reinterpret_cast<void *>(&callable);
    } else {
        binding.data = const_cast<void *>(static_cast<const volatile void *>(__builtin_addressof(callable)));
    }
    return put_call<typename described::template adapted<calls<Callable>>, typename described::convention,
        typename described::table_result>(binding, slot, is_again, typename described::table_parameters());
}

/* A callable on the heap. */
struct box {
    explicit box(void (*destroyer)(box *)) noexcept : destroy(destroyer) {}

    void (*destroy)(box *);
    box *next = nullptr;
    calltable_slot slot = CALLTABLE_NO_SLOT;
};

template <class Callable> struct box_of : box {
    template <class From>
    explicit box_of(From &&from)
        : box([](box *own) { delete static_cast<box_of *>(own); }), callable(static_cast<From &&>(from)) {}

    Callable callable;
};

/* Those whose handles are gone, while calls of them run: a stack that all threads share. */
inline box *pending = nullptr;

#if defined(_MSC_VER) && !defined(__clang__)
inline box *take_pending() noexcept {
    return static_cast<box *>(
        _InterlockedExchangePointer(reinterpret_cast<void *volatile *>(&pending), nullptr));
}

inline void add_pending(box *own) noexcept {
    void *volatile *const head = reinterpret_cast<void *volatile *>(&pending);
    do {
        own->next = static_cast<box *>(*head);
    } while (_InterlockedCompareExchangePointer(head, own, own->next) != own->next);
}
#else
inline box *take_pending() noexcept {
    return __atomic_exchange_n(&pending, nullptr, __ATOMIC_ACQUIRE);
}

inline void add_pending(box *own) noexcept {
    own->next = __atomic_load_n(&pending, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&pending, &own->next, own, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
    }
}
#endif

/* What becomes of a callable whose release has said that. */
inline void settle(box *own, calltable_status status) noexcept {
    switch (status) {
    case CALLTABLE_OK:
    case CALLTABLE_NOT_LIVE: // somebody has released the slot by its number
        own->destroy(own);
        break;
    case CALLTABLE_SEALED: // the registration stays, for ever
        break;
    default: // calls run, or may
        add_pending(own);
    }
}

} // namespace detail

/*
 * Releases what handles have left behind that died in a call of their own, or were retired while calls ran, as far as
 * these have ended, and destroys the callables. Every registration of a `callback` and every end of one does the same.
 */
inline void release_pending() noexcept {
    detail::box *own = detail::take_pending();
    while (own != nullptr) {
        detail::box *const next = own->next;
        detail::settle(own, calltable_try_release(own->slot));
        own = next;
    }
}

/* A callable that foreign code can call, owned: see the beginning. Empty if it was moved from. */
template <class Type> class callback {
public:
    /* What foreign code calls. */
    using code_type = typename detail::callback_type<Type>::code;

    callback() noexcept = default;

    callback(callback &&other) noexcept : box_(other.box_) {
        other.box_ = nullptr;
    }

    callback &operator=(callback &&other) noexcept {
        if (this != &other) {
            end();
            box_ = other.box_;
            other.box_ = nullptr;
        }
        return *this;
    }

    callback(const callback &) = delete;
    callback &operator=(const callback &) = delete;

    ~callback() {
        end();
    }

    /* Registers a callable, which it moves or copies to the heap. */
    template <class Callable> static result<callback> make(Callable &&callable, const options &how = options()) {
        callback made;
        const calltable_status status = made.put(static_cast<Callable &&>(callable), how, CALLTABLE_NO_SLOT);
        if (status != CALLTABLE_OK) {
            return status;
        }
        return static_cast<callback &&>(made);
    }

#if CALLTABLE_HAS_EXCEPTIONS
    /* The same; throws an error. */
    template <class Callable,
        detail::enable_if_t<!detail::is_convention<detail::bare_t<Callable>>
                && !detail::same<detail::bare_t<Callable>, callback>,
            int> = 0>
    explicit callback(Callable &&callable, const options &how = options())
        : callback(make(static_cast<Callable &&>(callable), how).value()) {}

    /* The same, for a type that is deduced. */
    template <class Convention, class Callable, detail::enable_if_t<detail::is_convention<Convention>, int> = 0>
    callback(Convention, Callable &&callable, const options &how = options())
        : callback(static_cast<Callable &&>(callable), how) {}
#endif

    /* Null if it is empty. */
    code_type code() const noexcept {
        return reinterpret_cast<code_type>(calltable_code(slot()));
    }

    /* For the functions of calltable.h. */
    calltable_slot slot() const noexcept {
        return box_ == nullptr ? CALLTABLE_NO_SLOT : box_->slot;
    }

    explicit operator bool() const noexcept {
        return box_ != nullptr;
    }

    /*
     * Gives the code pointer another callable: calltable_rebind_and_wait. The old one is destroyed. If that fails, the
     * old one is still there, but after CALLTABLE_OWN_CALL and CALLTABLE_IN_FLIGHT new calls are refused.
     */
    template <class Callable> calltable_status rebind(Callable &&callable, const options &how = options()) {
        return put(static_cast<Callable &&>(callable), how, slot());
    }

    /*
     * Releases and waits, as the end of the handle does, and says what has come of it: calltable_release_and_wait. With
     * CALLTABLE_OK the handle is empty. Else it is as before, but after CALLTABLE_OWN_CALL and CALLTABLE_IN_FLIGHT new
     * calls are refused.
     */
    calltable_status release() noexcept {
        return release_by(calltable_release_and_wait);
    }

    /* The same without waiting: calltable_try_release. */
    calltable_status try_release() noexcept {
        return release_by(calltable_try_release);
    }

    /*
     * Ends the handle without waiting for calls, in a call of its own, too: new calls are refused, and once those that
     * run have returned, slot and callable go with a later use of this header (see release_pending). What the callable
     * refers to must be good until then.
     */
    void retire() noexcept {
        if (box_ != nullptr) {
            detail::box *const own = box_;
            box_ = nullptr;
            detail::settle(own, calltable_release(own->slot));
        }
    }

    /* Keeps slot and callable for ever. */
    code_type leak() noexcept {
        const code_type kept = code();
        box_ = nullptr;
        return kept;
    }

private:
    template <class Callable> calltable_status put(Callable &&callable, const options &how, calltable_slot slot) {
        using boxed = detail::box_of<detail::kept_t<Callable>>;
        release_pending();
        boxed *const made = new boxed(static_cast<Callable &&>(callable));
        made->slot = slot;
        const bool is_again = box_ != nullptr;
        const calltable_status status = detail::put_callable<Type>(made->callable, how, made->slot, is_again);
        detail::box *const unused = status == CALLTABLE_OK ? box_ : made;
        if (status == CALLTABLE_OK) {
            box_ = made;
        }
        if (unused != nullptr) {
            unused->destroy(unused);
        }
        return status;
    }

    template <class Release> calltable_status release_by(Release release) noexcept {
        if (box_ == nullptr) {
            return CALLTABLE_NOT_LIVE;
        }
        const calltable_status status = release(box_->slot);
        if (status == CALLTABLE_OK || status == CALLTABLE_NOT_LIVE) {
            detail::box *const own = box_;
            box_ = nullptr;
            own->destroy(own);
        }
        return status;
    }

    void end() noexcept {
        if (box_ != nullptr) {
            detail::box *const own = box_;
            box_ = nullptr;
            detail::settle(own, calltable_release_and_wait(own->slot));
            release_pending();
        }
    }

    detail::box *box_ = nullptr;
};

/*
 * The same for a callable that is not owned: it must be where it is, and live, as long as the handle. Nothing is
 * allocated.
 */
template <class Type> class callback_ref {
public:
    /* What foreign code calls. */
    using code_type = typename detail::callback_type<Type>::code;

    callback_ref() noexcept = default;

    callback_ref(callback_ref &&other) noexcept : slot_(other.slot_) {
        other.slot_ = CALLTABLE_NO_SLOT;
    }

    callback_ref &operator=(callback_ref &&other) noexcept {
        if (this != &other) {
            end();
            slot_ = other.slot_;
            other.slot_ = CALLTABLE_NO_SLOT;
        }
        return *this;
    }

    callback_ref(const callback_ref &) = delete;
    callback_ref &operator=(const callback_ref &) = delete;

    ~callback_ref() {
        end();
    }

    /* Registers a callable. */
    template <class Callable>
    static result<callback_ref> make(Callable &callable, const options &how = options()) noexcept {
        callback_ref made;
        const calltable_status status = detail::put_callable<Type>(callable, how, made.slot_, false);
        if (status != CALLTABLE_OK) {
            return status;
        }
        return static_cast<callback_ref &&>(made);
    }

#if CALLTABLE_HAS_EXCEPTIONS
    /* The same; throws an error. */
    template <class Callable,
        detail::enable_if_t<!detail::is_convention<Callable> && !detail::same<detail::bare_t<Callable>, callback_ref>,
            int> = 0>
    explicit callback_ref(Callable &callable, const options &how = options())
        : callback_ref(make(callable, how).value()) {}

    /* The same, for a type that is deduced. */
    template <class Convention, class Callable, detail::enable_if_t<detail::is_convention<Convention>, int> = 0>
    callback_ref(Convention, Callable &callable, const options &how = options()) : callback_ref(callable, how) {}
#endif

    /* Null if it is empty. */
    code_type code() const noexcept {
        return reinterpret_cast<code_type>(calltable_code(slot_));
    }

    /* For the functions of calltable.h. */
    calltable_slot slot() const noexcept {
        return slot_;
    }

    explicit operator bool() const noexcept {
        return slot_ != CALLTABLE_NO_SLOT;
    }

    /* Gives the code pointer another callable, as callback::rebind does. */
    template <class Callable> calltable_status rebind(Callable &callable, const options &how = options()) noexcept {
        return detail::put_callable<Type>(callable, how, slot_, slot_ != CALLTABLE_NO_SLOT);
    }

    /* As callback::release. */
    calltable_status release() noexcept {
        return release_by(calltable_release_and_wait);
    }

    /* As callback::try_release. */
    calltable_status try_release() noexcept {
        return release_by(calltable_try_release);
    }

    /* Keeps the slot for ever; so must the callable be. */
    code_type leak() noexcept {
        const code_type kept = code();
        slot_ = CALLTABLE_NO_SLOT;
        return kept;
    }

private:
    template <class Release> calltable_status release_by(Release release) noexcept {
        const calltable_status status = release(slot_);
        if (status == CALLTABLE_OK || status == CALLTABLE_NOT_LIVE) {
            slot_ = CALLTABLE_NO_SLOT;
        }
        return status;
    }

    void end() noexcept {
        if (slot_ == CALLTABLE_NO_SLOT) {
            return;
        }
        const calltable_status status = calltable_release_and_wait(slot_);
        slot_ = CALLTABLE_NO_SLOT;
        // A sealed table keeps it; whoever sealed it keeps the callable.
        if (status == CALLTABLE_OK || status == CALLTABLE_NOT_LIVE || status == CALLTABLE_SEALED) {
            return;
        }
#if defined(_WIN32)
        // The process ends: the threads of such calls are gone.
        if (status == CALLTABLE_IN_FLIGHT) {
            return;
        }
#endif
        detail::stop(status);
    }

    calltable_slot slot_ = CALLTABLE_NO_SLOT;
};

/* Registers a callable for the type that is deduced from it: `make_callback(stdcall, lambda)`. */
template <class Callable, detail::enable_if_t<!detail::is_convention<detail::bare_t<Callable>>, int> = 0>
result<callback<pointer<detail::signature_t<Callable>>>> make_callback(
    Callable &&callable, const options &how = options()) {
    return callback<pointer<detail::signature_t<Callable>>>::make(static_cast<Callable &&>(callable), how);
}

template <class Convention, class Callable, detail::enable_if_t<detail::is_convention<Convention>, int> = 0>
result<callback<pointer<detail::signature_t<Callable>, Convention>>> make_callback(
    Convention, Callable &&callable, const options &how = options()) {
    return callback<pointer<detail::signature_t<Callable>, Convention>>::make(
        static_cast<Callable &&>(callable), how);
}

/* The same, of a callable that stays where it is. */
template <class Callable, detail::enable_if_t<!detail::is_convention<Callable>, int> = 0>
result<callback_ref<pointer<detail::signature_t<Callable>>>> make_callback_ref(
    Callable &callable, const options &how = options()) noexcept {
    return callback_ref<pointer<detail::signature_t<Callable>>>::make(callable, how);
}

template <class Convention, class Callable, detail::enable_if_t<detail::is_convention<Convention>, int> = 0>
result<callback_ref<pointer<detail::signature_t<Callable>, Convention>>> make_callback_ref(
    Convention, Callable &callable, const options &how = options()) noexcept {
    return callback_ref<pointer<detail::signature_t<Callable>, Convention>>::make(callable, how);
}

#if CALLTABLE_HAS_EXCEPTIONS
template <class Callable>
callback(Callable &&) -> callback<pointer<detail::signature_t<Callable>>>;
template <class Callable>
callback(Callable &&, options) -> callback<pointer<detail::signature_t<Callable>>>;
template <class Convention, class Callable, class = detail::enable_if_t<detail::is_convention<Convention>>>
callback(Convention, Callable &&) -> callback<pointer<detail::signature_t<Callable>, Convention>>;
template <class Convention, class Callable, class = detail::enable_if_t<detail::is_convention<Convention>>>
callback(Convention, Callable &&, options) -> callback<pointer<detail::signature_t<Callable>, Convention>>;

template <class Callable>
callback_ref(Callable &) -> callback_ref<pointer<detail::signature_t<Callable>>>;
template <class Callable>
callback_ref(Callable &, options) -> callback_ref<pointer<detail::signature_t<Callable>>>;
template <class Convention, class Callable, class = detail::enable_if_t<detail::is_convention<Convention>>>
callback_ref(Convention, Callable &) -> callback_ref<pointer<detail::signature_t<Callable>, Convention>>;
template <class Convention, class Callable, class = detail::enable_if_t<detail::is_convention<Convention>>>
callback_ref(Convention, Callable &, options) -> callback_ref<pointer<detail::signature_t<Callable>, Convention>>;
#endif

} // namespace calltable

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic pop
#endif

#undef CALLTABLE_HAS_EXCEPTIONS
#undef CALLTABLE_I686
#undef CALLTABLE_AARCH64

#endif
