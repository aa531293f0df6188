// C++ on both sides of a callback: what throws, and what catches that; anything else passes.

#include <stdint.h>

#ifdef __x86_64__
#define CALLBACK __attribute__((ms_abi))
#else
#define CALLBACK
#endif

namespace {
struct Thrown {
    intptr_t value;
};
// Its destructor must run whatever passes.
struct Guard {
    int *destroyed;
    ~Guard() { ++*destroyed; }
};
} // namespace

extern "C" {

void calltable_throw(intptr_t value) { throw Thrown{value}; }

intptr_t calltable_catching(intptr_t(CALLBACK *callback)(intptr_t), intptr_t argument, int *destroyed) {
    try {
        Guard guard = {destroyed};
        return callback(argument);
    } catch (const Thrown &thrown) {
        return thrown.value;
    }
}
}
