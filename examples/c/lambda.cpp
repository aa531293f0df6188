// A lambda that foreign code calls by a plain function pointer (C++17).
#include <calltable.hpp>

#include <cstdio>
#include <string>
#include <vector>

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
    const calltable::callback keep([&words](const char *start, uintptr_t size) { words.emplace_back(start, size); });
    each_word("no code is written", keep.code());
    for (const std::string &word : words) {
        std::printf("%s\n", word.c_str());
    }
}
