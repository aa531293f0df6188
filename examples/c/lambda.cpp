// A lambda that foreign code calls by a plain function pointer, from C++11 with nothing but calltable.h: a class owns
// the slot, and a template makes the handler.
#include <calltable.h>

#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

// A callback without a result that takes pointers and integers no larger than one. It must outlive its use.
template <typename Lambda, typename... Parameters> class Callback {
public:
    typedef void(CALLTABLE_CALL *Code)(Parameters...);

    explicit Callback(Lambda lambda) : lambda(lambda) {
        calltable_binding binding = CALLTABLE_DIRECT(&handle, sizeof...(Parameters), this);
        binding.options = CALLTABLE_TRACKED; // so that the destructor can wait for calls of other threads
        const calltable_status status = calltable_register(&binding, &slot);
        if (status != CALLTABLE_OK) {
            throw std::runtime_error(calltable_status_text(status));
        }
    }
    ~Callback() {
        calltable_release_and_wait(slot);
    }
    Callback(const Callback &) = delete;
    Callback &operator=(const Callback &) = delete;

    Code code() const {
        return reinterpret_cast<Code>(calltable_code(slot));
    }

private:
    // The callback's parameters, and the data. No exception may leave it: foreign code does not know of any.
    static void CALLTABLE_CALL handle(Parameters... parameters, void *self) noexcept {
        static_cast<Callback *>(self)->lambda(parameters...);
    }

    Lambda lambda;
    calltable_slot slot;
};

// Stands for foreign code: it reports each word of a text, and has no parameter for data.
typedef void(CALLTABLE_CALL *report)(const char *start, uintptr_t size);

static void CALLTABLE_CALL each_word(const char *text, report report) {
    while (*text != 0) {
        uintptr_t size = 0;
        while (text[size] != 0 && text[size] != ' ') {
            size += 1;
        }
        report(text, size);
        text += text[size] == 0 ? size : size + 1;
    }
}

int main() {
    std::vector<std::string> words;
    const auto keep = [&words](const char *start, uintptr_t size) { words.emplace_back(start, size); };
    const Callback<decltype(keep), const char *, uintptr_t> callback(keep);
    each_word("no code is written", callback.code());
    for (const std::string &word : words) {
        std::printf("%s\n", word.c_str());
    }
}
