// What calltable.hpp refuses, and the message that says why. Each case is compiled by itself, for the targets that its
// line names, and CASE 0, which is right, for all of them.
#include "calltable.hpp"

#include "foreign.h"

namespace {

struct copied {
    copied(const copied &) {}
    int32_t number;
};
struct empty {};
struct alignas(16) wide {
    int32_t numbers[4];
};
class constructed {
public:
    constructed(int32_t number) : number_(number) {}
    int32_t number() const {
        return number_;
    }

private:
    int32_t number_;
};
struct floats {
    float x, y;
};
using calltable::callback;
using calltable::make_callback;

} // namespace

template <> struct calltable::type_of<eight> : calltable::structure<eight> {};
template <> struct calltable::type_of<floats> : calltable::homogeneous<float, 3> {};

int run(calltable_slot) {
    int32_t number = 1;
#if CASE == 0
    return make_callback([&number](eight value) -> eight { return {value.width, number}; }).status();
#elif CASE == 1 // all: this class is not trivially copyable
    return make_callback([&number](copied value) { return value.number + number; }).status();
#elif CASE == 2 // all: this class is not trivially copyable
    return callback<copied(int32_t)>::make([&number](int32_t) -> copied { return copied(number); }).status();
#elif CASE == 3 // all: an empty class is nothing that C could pass by value
    return make_callback([&number](empty) { return number; }).status();
#elif CASE == 4 // i686: how a structure of alignment 16 is passed
    return make_callback([&number](wide value) { return value.numbers[0] + number; }).status();
#elif CASE == 5 // aarch64: specialise calltable::type_of for it
    return make_callback([&number](three value) { return value.bytes[0] + number; }).status();
#elif CASE == 6 // all: calltable::type_of names a structure of another size
    return make_callback([&number](floats value) { return value.x + static_cast<float>(number); }).status();
#elif CASE == 7 // msvc: Microsoft's rule returns a class with constructors or private members otherwise
    return callback<constructed()>::make([&number] { return constructed(number); }).status();
#elif CASE == 8 // 64-linux: compilers do not agree how a long double is passed
    return make_callback([&number](long double value) { return number + static_cast<int32_t>(value); }).status();
#elif CASE == 9 // all: this callable does not take the callback's parameters
    return callback<int32_t(int32_t)>::make([&number](int32_t, int32_t) { return number; }).status();
#elif CASE == 10 // all: or its result is not the callback's
    return callback<int32_t *(int32_t)>::make([&number](int32_t) { return number; }).status();
#elif CASE == 11 // x86_64-linux: it is CALLTABLE_CALL where the compiler has another convention
    return callback<int32_t (*)(int32_t)>::make([&number](int32_t) { return number; }).status();
#elif CASE == 12 // all: it is not variadic
    return callback<int32_t(CALLTABLE_CALL *)(int32_t, ...)>::make([&number](int32_t) { return number; }).status();
#elif CASE == 13 // i686: the first parameter of a thiscall function is `this`, a pointer
    return make_callback(calltable::thiscall, [&number](double) { return number; }).status();
#elif CASE == 14 // i686: say calltable::method
    return make_callback(calltable::thiscall, [&number](void *) -> eight { return {1, number}; }).status();
#elif CASE == 15 // i686: compilers do not agree how a fastcall function returns this structure
    return make_callback(calltable::fastcall, [&number](void *) -> three { return {{1, 2, 3}}; }).status();
#elif CASE == 16 // i686: which of these parameters fastcall passes in registers
    return make_callback(calltable::fastcall, [&number](int64_t, int32_t) { return number; }).status();
#elif CASE == 17 // all: the first parameter of calltable::method is `this`, a pointer
    return callback<calltable::method<calltable::pointer<eight(int32_t)>>>::make(
        [&number](int32_t) -> eight { return {1, number}; }).status();
#elif CASE == 18 // all: no matching function for call to
    return make_callback([&number](auto value) { return value + number; }).status();
#elif CASE == 19 // all: use of deleted function|call to deleted
    auto made = make_callback([&number] { return number; });
    auto copy = *made;
    return copy.release();
#else
#error "there is no such case"
#endif
}
