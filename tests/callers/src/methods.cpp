// Calls the methods of an object whose table of methods is the test's (tests/methods.rs). Each function returns a bit
// for each method that has returned what it should.
#if defined(__i386__)
#define STDCALL __attribute__((stdcall))
#define CDECL __attribute__((cdecl))
#define THISCALL __attribute__((thiscall))
#define FASTCALL __attribute__((fastcall))
#else
#define STDCALL
#endif
#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)

template <int SIZE> struct Bytes {
    unsigned char bytes[SIZE];

    bool is(int first, long long second) const {
        for (int i = 0; i < SIZE; i++)
            if (bytes[i] != (unsigned char)((i + 1) * first + second))
                return false;
        return true;
    }
};

#define METHODS(name, convention)                                                                                      \
    struct JOIN(name, Object) {                                                                                        \
        virtual convention Bytes<1> get1(int first, long long second) = 0;                                             \
        virtual convention Bytes<4> get4(int first, long long second) = 0;                                             \
        virtual convention Bytes<8> get8(int first, long long second) = 0;                                             \
        virtual convention Bytes<12> get12(int first, long long second) = 0;                                           \
        virtual convention Bytes<24> get24(int first, long long second) = 0;                                           \
        virtual convention int number(int first, long long second) = 0;                                                \
    };                                                                                                                 \
    extern "C" int JOIN(JOIN(methods, name), VARIANT)(JOIN(name, Object) * object) {                                   \
        const long long second = 0x123456789a;                                                                         \
        int well = object->get1(-3, second).is(-3, second);                                                            \
        well |= object->get4(-5, second).is(-5, second) << 1;                                                          \
        well |= object->get8(7, second).is(7, second) << 2;                                                            \
        well |= object->get12(9, second).is(9, second) << 3;                                                           \
        well |= object->get24(11, second).is(11, second) << 4;                                                         \
        return well | (object->number(13, second) == 13 + (int)second) << 5;                                           \
    }

METHODS(stdcall, STDCALL)
#if defined(__i386__)
METHODS(cdecl, CDECL)
#ifdef _MSC_VER // the others do not agree with it, nor with each other
METHODS(thiscall, THISCALL)
METHODS(fastcall, FASTCALL)
#endif
#endif
