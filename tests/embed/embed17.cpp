// calltable.hpp from C++17: callables as callbacks, on every target that has a compiler for it.
#if defined(__linux__) && !defined(EMBED_BARE)
#define HAS_CHILDREN 1
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#elif defined(_WIN32) && !defined(EMBED_BARE)
#define HAS_THREADS 1
#include <windows.h>
#endif
#if (defined(_WIN32) || defined(HAS_CHILDREN)) && !(defined(__linux__) && defined(__i386__))
// Calls that wait for themselves are seen: on Windows always, elsewhere once exceptions are declared.
#define SEES_OWN_CALLS 1
#endif
#include "calltable.hpp"
#include "foreign.h"
#include "platform.h"

#if defined(__cpp_exceptions)
#define HAS_EXCEPTIONS 1
#else
#define HAS_EXCEPTIONS 0
#endif

using calltable::callback;
using calltable::callback_ref;
using calltable::make_callback;
using calltable::make_callback_ref;
using calltable::options;
using calltable::pointer;

#if defined(__aarch64__)
template <> struct calltable::type_of<three> : calltable::structure<three> {};
template <> struct calltable::type_of<eight> : calltable::structure<eight> {};
template <> struct calltable::type_of<twenty_four> : calltable::structure<twenty_four> {};
#endif
// Elsewhere only the size counts, but it may be said.
template <> struct calltable::type_of<spot> : calltable::homogeneous<double, 3> {};

#if !__has_include(<new>)
// Nobody has a heap here.
namespace {
struct block {
    bool is_taken;
    alignas(16) char bytes[256];
};
block heap[64];
} // namespace

void *operator new(size_t size) {
    for (block &one : heap) {
        if (!one.is_taken && size <= sizeof one.bytes) {
            one.is_taken = true;
            return one.bytes;
        }
    }
    __builtin_trap();
}

void operator delete(void *bytes) noexcept {
    for (block &one : heap) {
        if (bytes == one.bytes) {
            one.is_taken = false;
        }
    }
}

void operator delete(void *bytes, size_t) noexcept {
    operator delete(bytes);
}
#endif

namespace {

template <class Type> Type &&move(Type &value) {
    return static_cast<Type &&>(value);
}

bool is_live(uint32_t count) {
    return calltable_live_count() == count;
}

// Counts what is alive of it.
struct token {
    explicit token(int *count) : count(count) {
        *count += 1;
    }
    token(const token &other) : count(other.count) {
        *count += 1;
    }
    token &operator=(const token &) = delete;
    ~token() {
        *count -= 1;
    }
    int *count;
};

calltable_stale_call last_stale;

void stale(const calltable_stale_call *call) {
    last_stale = *call;
    calltable_stale_set(call, 4711);
}

// Signatures.

int32_t twice(int32_t number) {
    return 2 * number;
}

int32_t CALLTABLE_CALL thrice(int32_t number) noexcept {
    return 3 * number;
}

struct counter {
    int32_t operator()(int32_t number) {
        return total += number;
    }
    int32_t get(int32_t factor) const noexcept {
        return total * factor;
    }
    int32_t add(int32_t number) {
        return (*this)(number);
    }
    // As methods of COM interfaces are.
    int32_t FOREIGN_STDCALL com(int32_t number) const {
        return total - number;
    }
    int32_t total;
};

template <class A, class B> constexpr bool is_same = false;
template <class A> constexpr bool is_same<A, A> = true;

// Whether a result is a handle with such a code pointer.
template <class Result, class Code> constexpr bool has_code = false;
template <class Handle, class Code>
constexpr bool has_code<calltable::result<Handle>, Code> = is_same<Code, typename Handle::code_type>;

// Ends a handle here.
template <class Handle> void end(Handle &handle) {
    handle = Handle();
}

void signatures() {
    const int32_t numbers[] = {7, 38, 99, 43};
    int calls = 0;
    {
        auto made = make_callback([&calls](const int32_t *a, const int32_t *b) -> int32_t {
            const auto distance = [](int32_t number) { return number < 40 ? 40 - number : number - 40; };
            calls += 1;
            return distance(*a) - distance(*b);
        });
        expect("a lambda", made.status(), CALLTABLE_OK);
        static_assert(has_code<decltype(made), int32_t(CALLTABLE_CALL *)(const int32_t *, const int32_t *)>, "");
        check("it finds the number that is nearest to 40", *foreign_smallest(numbers, 4, made->code()) == 38);
        check("it was called for each but the first", calls == 3);
        check("it is live", is_live(1));
    }
    check("its end of life has released it", is_live(0));
    {
        counter first = {0}, second = {1000};
        auto one = make_callback_ref(first), two = make_callback_ref(second);
        auto copied = make_callback(second);
        auto get = make_callback(calltable::bind<&counter::get>(first));
        auto add = make_callback(calltable::bind<&counter::add>(second));
        auto com = make_callback(calltable::bind<&counter::com>(const_cast<const counter &>(first)));
        auto function = make_callback(twice), of_c = make_callback(&thrice);
        check("each is live", is_live(8));
        check("objects: each call reaches its own", one->code()(3) == 3 && two->code()(4) == 1004);
        check("objects: a copy is one of its own", copied->code()(1) == 1001 && second.total == 1004);
        check("member functions", get->code()(7) == 21 && add->code()(-1004) == 0 && second.total == 0
            && com->code()(1) == 2);
        check("functions", function->code()(21) == 42 && of_c->code()(5) == 15);
    }
    check("all have been released", is_live(0));
    {
        // Where nothing can be deduced, the type says it.
        const auto generic = [](auto a, auto... more) { return static_cast<int64_t>(a) + (0 + ... + more); };
        auto named = callback<int64_t(int32_t, int8_t)>::make(generic);
        auto pointer_named = callback<int64_t(CALLTABLE_CALL *)(int32_t)>::make(generic);
        auto not_throwing = callback<int64_t(CALLTABLE_CALL *)(int32_t) noexcept>::make(generic);
        auto nothing = callback<void(int32_t *)>::make([](int32_t *number) { return *number += 1; });
        auto from_const = callback_ref<int64_t(int32_t)>::make(generic);
        int32_t number = 1;
        nothing->code()(&number);
        check("types that are named", named->code()(40, 2) == 42 && pointer_named->code()(7) == 7
            && not_throwing->code()(8) == 8 && number == 2 && from_const->code()(9) == 9);
    }
    {
        // What cannot be copied is moved.
        struct owner {
            explicit owner(int *count) : kept(count) {}
            owner(owner &&other) : kept(other.kept) {}
            int32_t operator()() const {
                return *kept.count;
            }
            token kept;
        };
        int count = 0;
        auto made = make_callback(owner(&count));
        check("a callable that is moved", made->code()() == 1 && count == 1);
        expect("its release", made->release(), CALLTABLE_OK);
        check("its destruction", count == 0 && is_live(0));
    }
}

// Types.

void types() {
    bool well = false;
    auto all = callback<foreign_all>::make(
        [&well](bool truth, int8_t i8, uint8_t u8, int16_t i16, uint16_t u16, int32_t i32, uint32_t u32, int64_t i64,
            uint64_t u64, const int32_t *number, color green, float f32, double f64, three small, eight middle,
            twenty_four large, spot here, float last, double third, const spot &there) -> int32_t {
            well = truth && i8 == -8 && u8 == 208 && i16 == -1600 && u16 == 61616 && i32 == -320000
                && u32 == 3232323232u && i64 == INT64_C(-6464646464646464) && u64 == UINT64_C(12345678901234567890)
                && *number == 77 && green == GREEN && f32 == 1.5f && f64 == -2.5 && small.bytes[0] == 1
                && small.bytes[2] == 3 && middle.width == 4 && middle.height == 5 && large.words[0] == 6
                && large.words[2] == 8 && here.x == 1.25 && here.y == -2.25 && here.z == 3.25 && last == -4.5f
                && third == 3.5 && there.x == 5.5 && there.z == -7.5;
            return -77;
        });
    expect("every type", all.status(), CALLTABLE_OK);
    check("every type: result", foreign_call_all(all->code()) == -77);
    check("every type: arguments", well);

    auto by_reference = callback<int32_t(const int32_t &, int32_t &, int32_t &&, enum color, decltype(nullptr))>::make(
        [](const int32_t &a, int32_t &b, int32_t &&c, color d, decltype(nullptr)) {
            b += a;
            return b + c + d;
        });
    const int32_t three_hundred = 300;
    int32_t twenty = 20;
    check("references and enumerations", by_reference->code()(three_hundred, twenty, 5, RED, nullptr) == 324
        && twenty == 320);

    const auto get_three = [](int32_t number) -> three {
        const auto byte = static_cast<uint8_t>(number);
        return {{byte, static_cast<uint8_t>(byte + 1), static_cast<uint8_t>(byte + 2)}};
    };
    const auto get_eight = [](int32_t number) -> eight { return {number, number + 1}; };
    const auto get_large = [](int32_t number) -> twenty_four {
        const auto wide = static_cast<uint64_t>(number);
        return {{wide, wide + 1, wide + 2}};
    };
    auto one = make_callback(get_three);
    auto two = make_callback(calltable::stdcall, get_eight);
    auto large = make_callback(get_large);
    auto stdcall = make_callback(calltable::stdcall, get_large);
    auto spots = make_callback([](float number) -> spot { return {number, number + 1, number + 2}; });
    const three small = foreign_get_three(one->code(), 7);
    check("a result of 3 bytes", small.bytes[0] == 7 && small.bytes[1] == 8 && small.bytes[2] == 9);
    const eight middle = foreign_get_eight(two->code(), -70000);
    check("a result of 8 bytes", middle.width == -70000 && middle.height == -69999);
    const twenty_four large_ones[] = {
        foreign_get_twenty_four(large->code(), 40), foreign_get_twenty_four_stdcall(stdcall->code(), 40)};
    for (const twenty_four &result : large_ones) {
        check("a result of 24 bytes", result.words[0] == 40 && result.words[1] == 41 && result.words[2] == 42);
    }
    const spot found = foreign_get_spot(spots->code(), 0.5f);
    check("a result of floating-point numbers", found.x == 0.5 && found.y == 1.5 && found.z == 2.5);

    auto f32 = make_callback([](double number) { return static_cast<float>(number) * 2; });
    auto f64 = make_callback([](float number) { return number * 2.0; });
    auto truth = make_callback([](int64_t number) { return number > INT64_C(1) << 40; });
    auto wide = make_callback([](bool negate) { return negate ? -(INT64_C(1) << 40) : INT64_C(1) << 40; });
#if defined(__i386__)
    // With MSVC it is a double.
    auto longer = make_callback(calltable::stdcall, [](long double a, int8_t b) { return a * b; });
    auto with_structure = make_callback([](long double a, int8_t b) -> spot { return {double(a), double(b), 0.25}; });
    const spot scaled = with_structure->code()(0.75L, -2);
    check("long double", longer->code()(0.5L, -3) == -1.5L && scaled.x == 0.75 && scaled.y == -2 && scaled.z == 0.25);
#endif
    auto address = make_callback([](int32_t *number) -> int32_t & { return *number; });
    auto colour = make_callback([](int8_t number) { return number < 0 ? RED : GREEN; });
    check("results of each kind", f32->code()(1.25) == 2.5f && f64->code()(-1.25f) == -2.5
        && truth->code()((INT64_C(1) << 40) + 1) && !truth->code()(-1) && wide->code()(true) == -(INT64_C(1) << 40)
        && &address->code()(&twenty) == &twenty && colour->code()(-3) == RED && colour->code()(3) == GREEN);
}

// Conventions.

void conventions() {
    const auto five = [](int32_t a, double b, int64_t c, three d, int8_t e) -> int32_t {
        return a + static_cast<int32_t>(b * 2) + static_cast<int32_t>(c) + d.bytes[0] + d.bytes[1] + d.bytes[2] + e;
    };
    const int32_t sum = 100 + 41 - 4 + 6 - 100;
    int calls = 0;
    const auto none = [&calls] { return calls += 1; };
    auto c = make_callback(calltable::c, five);
    auto stdcall = make_callback(calltable::stdcall, five);
    auto stdcall_none = make_callback(calltable::stdcall, none);
    auto fastcall_none = make_callback_ref(calltable::fastcall, none);
    auto fastcall_one = make_callback(calltable::fastcall, [](int32_t a, int64_t b, double c) -> int32_t {
        return a + static_cast<int32_t>(b) + static_cast<int32_t>(c * 2);
    });
    auto fastcall_two = make_callback(calltable::fastcall,
        [](int16_t a, const int32_t *b, int32_t c, three d, int32_t e) -> int32_t {
            return a + *b + c + d.bytes[0] + d.bytes[2] + e;
        });
    auto fastcall_wide = make_callback(calltable::fastcall, [](double a, int64_t b) -> int32_t {
        return static_cast<int32_t>(a * 2) + static_cast<int32_t>(b);
    });
    check("C", foreign_c(c->code()) == sum);
    check("stdcall", foreign_stdcall(stdcall->code()) == sum && foreign_stdcall_none(stdcall_none->code()) == 1);
    check("fastcall, nothing in registers", foreign_fastcall_none(fastcall_none->code()) == 2
        && foreign_fastcall_wide(fastcall_wide->code()) == 41 - 4);
    check("fastcall, one in a register", foreign_fastcall_one(fastcall_one->code()) == 100 - 4 + 41);
    check("fastcall, two in registers",
        foreign_fastcall_two(fastcall_two->code()) == -300 + 77 + 1000 + 4 + 20000);

#if defined(__i386__)
    // The convention is a part of the type, and nobody but the callee removes the arguments.
    static_assert(!is_same<pointer<int(int)>, pointer<int(int), calltable::stdcall_t>>, "");
    static_assert(has_code<decltype(stdcall_none), int32_t(__attribute__((stdcall)) *)()>, "");
    auto named = callback<int32_t(__attribute__((stdcall)) *)(int32_t)>::make(twice);
    auto thiscall = make_callback(calltable::thiscall, [](void *self, int64_t a, int8_t b) -> int32_t {
        return *static_cast<int32_t *>(self) + static_cast<int32_t>(a) + b;
    });
    auto hidden = make_callback([](int32_t number) -> twenty_four { return {{static_cast<uint64_t>(number), 0, 0}}; });
    int32_t self = 1000;
    twenty_four memory = {{0, 0, 0}};
    const auto number = [](const void *at) { return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(at)); };
    const uint32_t words[] = {4, 0xffffffff, 0xffffffff, 7, 0x12345678, 0x12345678};
    const uint32_t for_hidden[] = {number(&memory), 44};
    const auto call = [&](calltable_slot slot, const uint32_t *words, uint32_t count, uint32_t ecx, uint32_t edx) {
        foreign_call made = {calltable_code(slot), words, count, ecx, edx, 0, 0xaaaaaaaa};
        foreign_call_words(&made);
        return made;
    };
    foreign_call made = call(named->slot(), words, 1, 0, 0);
    check("ESP: stdcall", made.eax == 8 && made.removed == 4);
    made = call(stdcall_none->slot(), words, 0, 0, 0);
    check("ESP: stdcall without parameters", made.removed == 0);
    made = call(stdcall->slot(), words, 6, 0, 0);
    check("ESP: stdcall, six words and a byte", made.removed == 28);
    made = call(c->slot(), words, 6, 0, 0);
    check("ESP: C", made.removed == 0);
    made = call(thiscall->slot(), words + 1, 3, number(&self), 0);
    check("ESP: thiscall", made.eax == 1006 && made.removed == 12);
    made = call(fastcall_none->slot(), words, 0, 1, 2);
    check("ESP: fastcall without parameters", made.removed == 0);
    made = call(fastcall_one->slot(), words, 4, 1, 2);
    check("ESP: fastcall with one in a register", made.removed == 16);
    made = call(fastcall_two->slot(), words, 3, 5, number(&self));
    check("ESP: fastcall with two in registers", made.eax == 5u + 1000 + 4 + 255 + 255 + 0xffffffff
        && made.removed == 12);
    made = call(fastcall_wide->slot(), words, 4, 1, 2);
    check("ESP: fastcall with none in registers", made.removed == 16);
    made = call(hidden->slot(), for_hidden, 2, 0, 0);
    // C of Linux has the callee remove the address of the result.
#if defined(_WIN32)
    check("ESP: a hidden result", memory.words[0] == 44 && made.eax == number(&memory) && made.removed == 0);
#else
    check("ESP: a hidden result", memory.words[0] == 44 && made.eax == number(&memory) && made.removed == 4);
#endif
#endif
}

// Methods.

#if defined(_MSC_VER)
struct virtual_object {
    virtual int32_t area(int32_t a, int64_t b) = 0;
    virtual eight size(int16_t a) = 0;
};
#endif

void methods() {
    using area = pointer<int32_t(foreign_object *, int32_t, int64_t), calltable::thiscall_t>;
    using size = pointer<eight(foreign_object *, int16_t), calltable::thiscall_t>;
    int calls = 0;
    auto first = callback<calltable::method<area>>::make([&calls](foreign_object *self, int32_t a, int64_t b) {
        calls += 1;
        return self->scale * a * static_cast<int32_t>(b);
    });
    auto second = callback<calltable::method<size>>::make([&calls](foreign_object *self, int16_t a) -> eight {
        calls += 1;
        return {self->scale * a, self->scale + a};
    });
    static_assert(has_code<decltype(first), area>, "");
    using hidden = pointer<eight *(foreign_object *, eight *, int16_t), calltable::thiscall_t>;
    static_assert(has_code<decltype(second), hidden>, "");
    const calltable_function table[] = {calltable_code(first->slot()), calltable_code(second->slot())};
    foreign_object object = {table, 3};
    check("a method", foreign_area(&object, 5, -2) == -30);
    const eight got = foreign_size(&object, 7);
    check("a method that returns a structure", got.width == 21 && got.height == 10 && calls == 2);
#if defined(_MSC_VER)
    // As C++ calls it by Microsoft's rule; the compiler cannot know what it calls.
    virtual_object *volatile unknown = reinterpret_cast<virtual_object *>(&object);
    virtual_object *const self = unknown;
    check("a virtual call", self->area(5, -2) == -30);
    const eight again = self->size(7);
    check("a virtual call that returns a structure", again.width == 21 && again.height == 10 && calls == 4);
#endif
#if defined(__i386__)
    eight memory = {0, 0};
    const uint32_t words[] = {static_cast<uint32_t>(reinterpret_cast<uintptr_t>(&memory)), 9};
    foreign_call made = {calltable_code(second->slot()), words, 2,
        static_cast<uint32_t>(reinterpret_cast<uintptr_t>(&object)), 0, 0, 0xaaaaaaaa};
    foreign_call_words(&made);
    check("ESP: a method that returns a structure", made.removed == 8 && made.eax == words[0] && memory.width == 27);
#endif
}

// Handles.

void handles() {
    int tokens = 0;
    const token one(&tokens);
    auto made = make_callback([one](int32_t number) { return number + 1; });
    using handle = callback<pointer<int32_t(int32_t)>>;
    static_assert(is_same<handle &, decltype(*made)>, "");
    check("one copy", tokens == 2 && is_live(1));
    handle moved = move(*made);
    const auto code = moved.code();
    check("moved: the other one is empty", !*made && made->code() == nullptr && made->slot() == CALLTABLE_NO_SLOT);
    check("moved: it is the same", moved && code(1) == 2 && tokens == 2 && is_live(1));
    handle &itself = moved;
    moved = move(itself);
    check("moved to itself", code(1) == 2 && tokens == 2);
    handle assigned = *handle::make([one](int32_t number) { return number + 10; });
    check("another one", tokens == 3 && is_live(2) && assigned.code() != code);
    assigned = move(moved);
    check("moved over it", tokens == 2 && is_live(1) && assigned.code() == code && code(1) == 2);
    expect("release", assigned.release(), CALLTABLE_OK);
    check("released", !assigned && tokens == 1 && is_live(0));
    expect("release again", assigned.release(), CALLTABLE_NOT_LIVE);
    expect("try to release again", assigned.try_release(), CALLTABLE_NOT_LIVE);
    check("a call of it is stale", code(1) == 4711 && last_stale.reason == CALLTABLE_RELEASED);
    assigned.retire();

    // Rebinding.
    expect("rebind an empty handle", assigned.rebind([one](int32_t number) { return number - 1; }), CALLTABLE_OK);
    const auto rebound = assigned.code();
    check("bound", rebound(5) == 4 && tokens == 2);
    expect("rebind", assigned.rebind([one](int32_t number) { return number - 2; }, options().named("again")),
        CALLTABLE_OK);
    check("rebound: same code, another callable", assigned.code() == rebound && rebound(5) == 3 && tokens == 2);
    expect("try to release", assigned.try_release(), CALLTABLE_OK);
    check("nothing is left", tokens == 1 && is_live(0));

    // Somebody releases the slot by its number.
    handle robbed = *handle::make([one](int32_t number) { return number; });
    expect("a release by the slot", calltable_release(robbed.slot()), CALLTABLE_OK);
    expect("rebind what is released", robbed.rebind([one](int32_t number) { return number; }), CALLTABLE_NOT_LIVE);
    check("nothing of it is left", tokens == 2);
    end(robbed);
    check("it is destroyed", tokens == 1 && is_live(0));

    // References.
    const auto plus = [](int32_t number) { return number + 1; };
    const auto minus = [](int32_t number) { return number - 1; };
    auto reference = make_callback_ref(plus);
    callback_ref<pointer<int32_t(int32_t)>> other = move(*reference), third;
    check("a reference that was moved", !*reference && other.code()(1) == 2 && !third && third.code() == nullptr);
    const auto other_code = other.code();
    third = move(other);
    expect("a reference is rebound", third.rebind(minus), CALLTABLE_OK);
    check("same code", third.code() == other_code && other_code(1) == 0);
    expect("a reference is released", third.release(), CALLTABLE_OK);
    expect("and again", third.try_release(), CALLTABLE_NOT_LIVE);
    check("nothing is live", is_live(0));

    // For ever.
    handle kept = *handle::make([](int32_t number) { return number + 5; });
    const calltable_slot slot = kept.slot();
    const auto leaked = kept.leak();
    end(kept);
    check("a leaked one", leaked(1) == 6 && is_live(1)
        && calltable_code(slot) == reinterpret_cast<calltable_function>(leaked));
    expect("its release", calltable_release(slot), CALLTABLE_OK);
}

void all_options() {
    const auto look = [](calltable_slot slot) {
        calltable_live_slot live = {};
        uint32_t index = 0;
        expect("its index", calltable_index_of(calltable_code(slot), &index), CALLTABLE_OK);
        expect("it is listed", calltable_live_slot_at(index, &live), CALLTABLE_OK);
        return live;
    };
    const auto plus = [](int32_t number) { return number + 1; };
    auto plain = make_callback(plus);
    auto named = make_callback(plus, options().untracked().named("adds one"));
    calltable_live_slot live = look(plain->slot());
    check("calls are counted; no name", live.in_flight == 0 && live.name == nullptr && live.uses == 0);
    live = look(named->slot());
    check("calls are not counted; a name", live.in_flight == CALLTABLE_NOT_COUNTED && live.name_size == 8
        && live.name[0] == 'a' && live.name[7] == 'e');
    expect("framed", make_callback(plus, options().framed()).status(), CALLTABLE_OK);
    expect("keeping X18", make_callback(plus, options().keeping_x18()).status(), CALLTABLE_OK);
    check("their bits", options().framed().keeping_x18().exclusive().bits()
        == (CALLTABLE_TRACKED | CALLTABLE_FRAMED | CALLTABLE_KEEPING_X18 | CALLTABLE_EXCLUSIVE));

    // A mutable lambda that calls itself.
    int32_t (CALLTABLE_CALL *self)(int32_t) = nullptr;
    int32_t inner = 0, total = 0;
    auto exclusive = make_callback(
        [&self, &inner, total](int32_t number) mutable -> int32_t {
            inner = self(number);
            return total += number;
        },
        options().exclusive());
    self = exclusive->code();
    check("exclusive: the outer calls run", self(5) == 5 && self(6) == 11 && total == 0);
    check("exclusive: an inner one is stale", inner == 4711 && last_stale.reason == CALLTABLE_RUNNING);
}

void full_table() {
    static calltable_slot slots[65536];
    const auto plus = [](int32_t number) { return number + 1; };
    uint32_t count = 0;
    bool well = true;
    while (count < 65536) {
        auto made = callback_ref<int32_t(int32_t)>::make(plus);
        if (!made) {
            expect("a full table", made.status(), CALLTABLE_TABLE_FULL);
            check("it says so", made.text() == calltable_status_text(CALLTABLE_TABLE_FULL));
            check("it gives an empty handle", !*made);
            break;
        }
        well = well && made->code()(static_cast<int32_t>(count)) == static_cast<int32_t>(count) + 1;
        slots[count] = made->slot();
        made->leak();
        count += 1;
    }
    check("every slot", well && count == calltable_capacity() && is_live(count));
    int tokens = 0;
    expect("a callable for a full table", make_callback([one = token(&tokens)] { return *one.count; }).status(),
        CALLTABLE_TABLE_FULL);
    check("it is destroyed", tokens == 0);
#if HAS_EXCEPTIONS
    try {
        const callback none([] {});
        check("a full table throws", false);
    } catch (const std::exception &thrown) {
        check("a full table throws", thrown.what() == calltable_status_text(CALLTABLE_TABLE_FULL));
    }
    try {
        const auto none = make_callback([] {}).value();
        check("so does a result that is none", false);
    } catch (const calltable::error &thrown) {
        check("so does a result that is none", thrown.status() == CALLTABLE_TABLE_FULL);
    }
#endif
    for (uint32_t index = 0; index < count; index += 1) {
        well = well && calltable_release(slots[index]) == CALLTABLE_OK;
    }
    check("every slot is free again", well && is_live(0));
}

// The end of handles whose calls run.

void retire() {
    int tokens = 0;
    const token one(&tokens);
    callback<int32_t(int32_t)> own;
    int32_t (CALLTABLE_CALL *code)(int32_t) = nullptr;
    bool was_there = false;
    int32_t inner = 0;
    const auto ends = [&, one](int32_t number) -> int32_t {
        own.retire();
        was_there = !own && tokens == 3 && is_live(1);
        calltable::release_pending(); // which must see that this call runs
        inner = code(number);
        return number + *one.count;
    };
    check("not yet", tokens == 2);
    own = *callback<int32_t(int32_t)>::make(ends);
    code = own.code();
    check("a call that ends its handle", code(10) == 13);
    check("its callable was there until it returned", was_there && tokens == 3);
    check("a call of its own after that is stale", inner == 4711);
    check("its slot waits", is_live(1));
    calltable::release_pending();
    check("it is free, and the callable destroyed", is_live(0) && tokens == 2);

    own = *callback<int32_t(int32_t)>::make(ends);
    code = own.code();
    check("again", code(10) == 13 && tokens == 3);
    own = *callback<int32_t(int32_t)>::make(twice);
    check("a registration looks for it, too", tokens == 2 && is_live(1));
    end(own);
    own.retire();
    own = *callback<int32_t(int32_t)>::make([one](int32_t number) { return number; });
    own.retire();
    check("retired while no call runs", tokens == 2 && is_live(0));
}

#if SEES_OWN_CALLS
// By the ways that would wait for the call that they are in.
void own_call() {
    int tokens = 0;
    {
        const token one(&tokens);
        callback<int32_t()> own;
        calltable_status released = CALLTABLE_OK, rebound = CALLTABLE_OK, tried = CALLTABLE_OK;
        own = *callback<int32_t()>::make([&, one] {
            rebound = own.rebind([one] { return 1; });
            tried = own.try_release();
            released = own.release();
            const bool is_there = static_cast<bool>(own);
            end(own);
            return is_there && !own && tokens == 2 ? 42 : 0;
        });
        check("a handle that dies in its call", own.code()() == 42);
        expect("rebind in it", rebound, CALLTABLE_OWN_CALL);
        expect("try to release in it", tried, CALLTABLE_IN_FLIGHT);
        expect("release in it", released, CALLTABLE_OWN_CALL);
        check("its slot and callable wait", is_live(1) && tokens == 2);
        const auto next = make_callback([] {});
        check("until there is another one", is_live(1) && tokens == 1);
    }
    check("nothing is left of it", is_live(0) && tokens == 0);
}

#endif

#if HAS_CHILDREN || HAS_THREADS
struct shared {
    int32_t (CALLTABLE_CALL *code)();
    int is_in, may_leave, has_left;
};

int look(const int &flag) {
    return __atomic_load_n(&flag, __ATOMIC_SEQ_CST);
}

void tell(int &flag) {
    __atomic_store_n(&flag, 1, __ATOMIC_SEQ_CST);
}

#if HAS_CHILDREN
void *call(void *state) {
    static_cast<shared *>(state)->code();
    return nullptr;
}
#else
DWORD WINAPI call(void *state) {
    static_cast<shared *>(state)->code();
    return 0;
}
#endif

// The end of a handle waits for a call of another thread, so what the callable refers to may go after it.
void waits() {
    shared state = {nullptr, 0, 0, 0};
    int tokens = 0;
    auto made = make_callback([&state, one = token(&tokens)] {
        tell(state.is_in);
        while (look(state.may_leave) == 0) {
        }
        // Long enough for whoever does not wait.
        for (int left = 20000000; left > 0; left -= 1) {
            look(state.is_in);
        }
        const int there = *one.count;
        tell(state.has_left);
        return there;
    });
    state.code = made->code();
#if HAS_CHILDREN
    pthread_t thread;
    check("a thread", pthread_create(&thread, nullptr, call, &state) == 0);
#else
    HANDLE thread = CreateThread(nullptr, 0, call, &state, 0, nullptr);
#endif
    while (look(state.is_in) == 0) {
    }
    expect("without waiting", made->try_release(), CALLTABLE_IN_FLIGHT);
    check("the callable is there", *made && tokens == 1);
    tell(state.may_leave);
    end(*made);
    check("the end of a handle waits for calls", look(state.has_left) == 1 && tokens == 0 && is_live(0));
#if HAS_CHILDREN
    pthread_join(thread, nullptr);
#else
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
#endif
}
#endif

// Exceptions.

void exceptions() {
    int32_t total = 0;
    const auto limited = [&total](int32_t number) -> int32_t {
        total += number;
#if HAS_EXCEPTIONS
        if (number > 2) {
            total -= number;
            throw number;
        }
#endif
        return number;
    };
    auto value = make_callback(calltable::on_exception(limited, -1));
    auto function = callback<int32_t(int32_t)>::make(calltable::on_exception(limited, [&total]() -> int32_t {
        total += 300;
#if HAS_EXCEPTIONS
        try {
            throw;
        } catch (int32_t thrown) {
            total += 100 * thrown;
            return -thrown;
        }
#endif
        return 0;
    }));
    auto nothing = callback<void(int32_t)>::make(calltable::on_exception(
        [&limited](int32_t number) { limited(number); }, [&total] { total += 10000; }));
    check("no exception", value->code()(1) == 1 && function->code()(2) == 2 && total == 3);
#if HAS_EXCEPTIONS
    total = 0;
    check("a value instead of an exception", value->code()(3) == -1 && value->code()(2) == 2 && total == 2);
    check("a function looks at the exception", function->code()(7) == -7 && total == 1002);
    nothing->code()(3);
    check("one without a result", total == 11002);

    const callback thrower(calltable::on_exception(limited, 5), options().named("a thrower"));
    const callback convention(calltable::stdcall, twice);
    const callback_ref reference(limited);
    const callback_ref with_convention(calltable::fastcall, limited, options().exclusive());
    check("constructors", thrower.code()(8) == 5 && convention.code()(4) == 8 && reference.code()(1) == 1
        && with_convention.code()(2) == 2 && is_live(7));
#endif
    nothing->code()(1);
    expect("no call of it runs any more", nothing->try_release(), CALLTABLE_OK);
    expect("nor of the others", function->try_release(), CALLTABLE_OK);
}

#if HAS_CHILDREN && HAS_EXCEPTIONS
// What a child of this process ends with.
template <class Work> int end_of(Work work) {
    const pid_t child = fork();
    if (child == 0) {
        std::set_terminate([] { _exit(42); });
        work();
        _exit(1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void ends() {
    check("an exception that leaves a callable ends the program", end_of([] {
        const callback thrower([](int32_t number) -> int32_t { throw number; });
        try {
            thrower.code()(1);
        } catch (int32_t) {
        }
    }) == 42);
}
#endif

#if HAS_CHILDREN && SEES_OWN_CALLS
// One thread makes calls that are looked for, so one block does for all.
calltable_thread_block thread_block = {CALLTABLE_CHAIN_END, 0, 0};

calltable_thread_block *CALLTABLE_CALL find_block() {
    return &thread_block;
}

void declare() {
    thread_block.stack_base = reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) + 0x1000;
    thread_block.stack_limit = thread_block.stack_base - 0x10000;
    expect("exceptions", calltable_declare_exceptions(find_block), CALLTABLE_OK);
    own_call();
#if HAS_EXCEPTIONS
    check("a reference that dies in its call ends the program", end_of([] {
        callback_ref<pointer<void()>> own;
        const auto dies = [&own] { end(own); };
        own = callback_ref<pointer<void()>>(dies);
        own.code()();
    }) == 42);
#endif
}
#endif

// The last one: there is no way back.
void seals() {
    int tokens = 0;
    const token one(&tokens);
    auto made = make_callback([one](int32_t number) { return number + *one.count; }, options().untracked());
    auto reference = make_callback_ref(twice, options().untracked());
    const auto code = made->code();
    const void *first = nullptr, *last = nullptr;
    expect("sealing", calltable_seal(&first, &last), CALLTABLE_OK);
    expect("release in a sealed table", made->release(), CALLTABLE_SEALED);
    check("the handle is as it was", *made && tokens == 2);
    end(*made);
    end(*reference);
    check("what is sealed stays, and its callable", !*made && is_live(2) && tokens == 2 && code(40) == 42);
    expect("registering in a sealed table", make_callback([one] { return 1; }).status(), CALLTABLE_SEALED);
    check("its callable is destroyed", tokens == 2);
}

} // namespace

int run() {
    expect("a stale handler", calltable_set_stale_handler(stale), CALLTABLE_OK);
    signatures();
    types();
    conventions();
    methods();
    handles();
    all_options();
    full_table();
    retire();
#if defined(_WIN32)
    own_call();
#endif
#if HAS_CHILDREN || HAS_THREADS
    waits();
#endif
    exceptions();
#if HAS_CHILDREN && HAS_EXCEPTIONS
    ends();
#endif
#if HAS_CHILDREN && SEES_OWN_CALLS
    declare();
#endif
    check("nothing is live", is_live(0));
    seals();
    return finish();
}
