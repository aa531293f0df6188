// Lambdas and objects as callbacks, from C++11.
#include "platform.h"

namespace {

using Compare = int32_t(CALLTABLE_CALL *)(const void *, const void *);

// Stands for foreign code: it takes a function pointer and nothing else.
const int32_t *smallest(const int32_t *numbers, size_t count, Compare compare) {
    const int32_t *found = numbers;
    for (size_t i = 1; i < count; i += 1) {
        if (compare(&numbers[i], found) < 0) {
            found = &numbers[i];
        }
    }
    return found;
}

// A callback of one type: owns a slot, and calls an object with operator().
template <typename Type> class Callback;

template <typename Result, typename... Parameters> class Callback<Result(Parameters...)> {
public:
    using Code = Result(CALLTABLE_CALL *)(Parameters...);

    template <typename Object> explicit Callback(Object &object) {
        // Each parameter here takes one position, or on i686 one word.
        calltable_binding binding = CALLTABLE_DIRECT(&handle<Object>, sizeof...(Parameters), &object);
        binding.options = CALLTABLE_TRACKED;
        status = calltable_register(&binding, &slot);
    }
    ~Callback() {
        calltable_release_and_wait(slot);
    }
    Callback(const Callback &) = delete;
    Callback &operator=(const Callback &) = delete;

    Code code() const {
        return reinterpret_cast<Code>(calltable_code(slot));
    }

    calltable_status status;

private:
    template <typename Object> static Result CALLTABLE_CALL handle(Parameters... parameters, void *object) {
        return (*static_cast<Object *>(object))(parameters...);
    }

    calltable_slot slot;
};

void lambdas() {
    const int32_t numbers[] = {7, 38, 99, 43};
    int calls = 0;
    const auto by_distance = [&calls](const void *a, const void *b) -> int32_t {
        const auto distance = [](const void *number) {
            const int32_t from_40 = *static_cast<const int32_t *>(number) - 40;
            return from_40 < 0 ? -from_40 : from_40;
        };
        calls += 1;
        return distance(a) - distance(b);
    };
    {
        auto object = by_distance;
        const Callback<int32_t(const void *, const void *)> callback(object);
        expect("a lambda", callback.status, CALLTABLE_OK);
        check("it finds the number that is nearest to 40", *smallest(numbers, 4, callback.code()) == 38);
        check("it was called for each but the first", calls == 3);
        check("it is live", calltable_live_count() == 1);
    }
    check("its end of life has released it", calltable_live_count() == 0);
}

struct Counter {
    int32_t operator()(int32_t number) {
        return total += number;
    }
    int32_t total;
};

void objects() {
    Counter first = {0}, second = {1000};
    const Callback<int32_t(int32_t)> one(first), two(second);
    check("objects: each call reaches its own", one.code()(3) == 3 && two.code()(4) == 1004 && one.code()(5) == 8);
    check("objects: their values", first.total == 8 && second.total == 1004);
}

// Frame lane, with structures and the forms for types.
void CALLTABLE_CALL multiply(void *data, calltable_frame *frame) {
    const calltable_signature *const signature = static_cast<calltable_signature *>(data);
    int64_t wide = 0;
    bool negate = false;
    calltable_get_i64(frame, signature, 0, &wide);
    calltable_get_bool(frame, signature, 1, &negate);
    calltable_set_i64(frame, signature, wide * (negate ? -2 : 2));
}

void frames() {
    const calltable_type types[] = {CALLTABLE_I64, CALLTABLE_BOOL};
    static calltable_signature signature;
    expect("frame lane: signature", calltable_signature_init(&signature, CALLTABLE_C, types, 2, CALLTABLE_I64),
        CALLTABLE_OK);
    const calltable_binding binding = CALLTABLE_FRAME(multiply, &signature, &signature);
    calltable_slot slot;
    expect("frame lane: registration", calltable_register(&binding, &slot), CALLTABLE_OK);
    const auto code = reinterpret_cast<int64_t(CALLTABLE_CALL *)(int64_t, bool)>(calltable_code(slot));
    check("frame lane: results", code(INT64_C(1) << 40, true) == -(INT64_C(2) << 40) && code(-5, false) == -10);
    expect("frame lane: release", calltable_release(slot), CALLTABLE_OK);
}

#ifndef EMBED_BARE
int32_t CALLTABLE_CALL throw_above_two(int32_t number, void *) {
    if (number > 2) {
        throw number;
    }
    return number;
}

// Not counted: outside of Windows a call that an exception leaves would count for ever.
void exceptions() {
    const calltable_binding binding = CALLTABLE_DIRECT(throw_above_two, 1, nullptr);
    calltable_slot slot;
    expect("a thrower", calltable_register(&binding, &slot), CALLTABLE_OK);
    const auto code = reinterpret_cast<int32_t(CALLTABLE_CALL *)(int32_t)>(calltable_code(slot));
    int32_t caught = 0;
    for (int32_t number = 1; number <= 4; number += 1) {
        try {
            caught -= code(number);
        } catch (int32_t thrown) {
            caught += 100 * thrown;
        }
    }
    check("its exceptions pass through the table", caught == 700 - 3);
    expect("a thrower: release", calltable_release(slot), CALLTABLE_OK);
}
#endif

} // namespace

int run() {
    lambdas();
    objects();
    frames();
#ifndef EMBED_BARE
    exceptions();
#endif
    return finish();
}
