// A C++ exception that crosses a callback: thrown in a handler, caught by the code that called the entry.

#include <stdint.h>

namespace {
struct Thrown {
    int64_t value;
};
// Its destructor must run when the exception passes.
struct Guard {
    int *destroyed;
    ~Guard() { ++*destroyed; }
};
} // namespace

extern "C" {

// A handler of the direct lane: the data, here where to count destructors, comes last.
__declspec(dllexport) int64_t throwing_handler(int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, void *data) {
    Guard guard = {static_cast<int *>(data)};
    if (a < 0)
        return b;
    throw Thrown{a + b * 10 + c * 100 + d * 1000 + e * 10000};
}

// The same for a callback of one argument.
__declspec(dllexport) int64_t throwing_handler_short(int64_t a, void *data) {
    return throwing_handler(a, 2, 3, 4, 5, data);
}

// And of the frame lane: data first, then the frame.
__declspec(dllexport) void throwing_handler_frame(void *data, void *) { throwing_handler(1, 2, 3, 4, 5, data); }

// Calls the entry; returns what was thrown, or -1 if nothing came, or -2 if something else did.
__declspec(dllexport) int64_t catching(int64_t (*callback)(int64_t, int64_t, int64_t, int64_t, int64_t), int64_t a) {
    try {
        callback(a, 2, 3, 4, 5);
        return -1;
    } catch (const Thrown &thrown) {
        return thrown.value;
    } catch (...) {
        return -2;
    }
}

#ifdef __i386__
// Here exceptions find their way by data that each image registers with the runtime library; this DLL has one of its
// own, which has yet to hear of the program.
void __register_frame_info(const void *begin, void *object);

__declspec(dllexport) void register_frames(const void *begin) {
    static void *object[16]; // larger than the library's structure
    __register_frame_info(begin, object);
}
#endif
}
