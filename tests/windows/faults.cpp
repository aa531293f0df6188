// A handler of the direct lane that ends in an exception of any kind. Compiled without and with optimisation; LEVEL
// ends the function's name.

#include <limits.h>
#include <setjmp.h>
#include <windows.h>

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define EXPORT(name) extern "C" __declspec(dllexport) JOIN(name, LEVEL)

namespace {
// What tests/windows/contained.rs passes as data.
struct Data {
    void *filter;
    int destroyed; // objects in frames that an exception left
    int alive;     // exceptions that nobody has destroyed
};

struct Guard {
    Data *data;
    ~Guard() { ++data->destroyed; }
};

struct Thrown {
    Data *data;
    explicit Thrown(Data *data) : data(data) { ++data->alive; }
    Thrown(const Thrown &other) : data(other.data) { ++data->alive; }
    ~Thrown() { --data->alive; }
};

volatile int zero = 0;
volatile int *volatile nowhere = reinterpret_cast<volatile int *>(16);

__thread jmp_buf target;

__attribute__((noinline)) int throws(Data *data) {
    Guard guard = {data};
    if (zero == 0)
        throw Thrown(data);
    return 0;
}

__attribute__((noinline)) int overflows(volatile char *before) {
    volatile char room[1000];
    room[0] = *before;
    return zero == 0 ? overflows(room) + room[0] : 0;
}
} // namespace

EXPORT(int faulty)(int kind, Data *data) {
    volatile int least = INT_MIN;
    switch (kind) {
    case 1:
        return *nowhere;
    case 2:
        return *nowhere = 1;
    case 3:
        return reinterpret_cast<int (*)()>(const_cast<int *>(nowhere))();
#ifdef __aarch64__
    case 4:
        asm volatile("brk #0xf004"); // what compilers have where a division by zero raises nothing
        return least;
    case 6:
        asm volatile("udf #0");
        return least;
#else
    case 4:
        return 7 / zero;
    case 5:
        return least / (zero - 1);
    case 6:
        __builtin_trap();
#endif
    case 7: {
        ULONG_PTR information[] = {3, 5};
        RaiseException(0xe0ca11ab, 0, 2, information);
        return 70; // if it was continued
    }
    case 8: {
        Guard guard = {data};
        return throws(data);
    }
    case 9: {
        volatile char start = 0;
        return overflows(&start);
    }
    case 10:
        longjmp(target, 1);
#ifdef __i386__
    case 11: {
        // A record of a frame that unwinding by DWARF does not take off.
        struct {
            void *next;
            int (*handler)();
        } record = {nullptr, [] { return 1; }};
        asm volatile("movl %%fs:0, %%eax; movl %%eax, (%0); movl %0, %%fs:0" : : "r"(&record) : "eax", "memory");
        return throws(data);
    }
#endif
    default:
        return 100 + kind;
    }
}

// Calls an entry whose handler is the function above; returns what it returns, or -2 if it jumps.
EXPORT(int jumping)(int (*callback)(int), int kind) { return setjmp(target) ? -2 : callback(kind); }
