/* Sorts with qsort, whose callback gets no data: here it gets the table that the sorted numbers are places in. On
   Windows that is the C library's own qsort; elsewhere a function as a Windows DLL would have it. */
#include <calltable.h>
#include <stdio.h>
#include <stdlib.h>

typedef int(CALLTABLE_CALL *compare)(const void *, const void *);

#ifdef _WIN32
#define foreign_sort qsort
#else
/* Stands for foreign code: it knows nothing but a function pointer. */
static void CALLTABLE_CALL foreign_sort(void *base, size_t count, size_t size, compare compare) {
    unsigned *numbers = base;
    size_t i, j;
    if (size != sizeof *numbers) {
        abort();
    }
    for (i = 1; i < count; i += 1) {
        for (j = i; j > 0 && compare(&numbers[j - 1], &numbers[j]) > 0; j -= 1) {
            unsigned moved = numbers[j];
            numbers[j] = numbers[j - 1];
            numbers[j - 1] = moved;
        }
    }
}
#endif

typedef struct town {
    const char *name;
    unsigned people;
} town;

/* The callback's two parameters, and the data. */
static int CALLTABLE_CALL by_people(const void *a, const void *b, void *data) {
    const town *towns = data;
    unsigned left = towns[*(const unsigned *)a].people, right = towns[*(const unsigned *)b].people;
    return (left > right) - (left < right);
}

int main(void) {
    static town towns[] = {{"Ulm", 126000}, {"Gera", 93000}, {"Celle", 69000}, {"Trier", 110000}};
    unsigned order[] = {0, 1, 2, 3};
    calltable_binding binding = CALLTABLE_DIRECT(by_people, 2, towns);
    calltable_slot slot;
    calltable_status status = calltable_register(&binding, &slot);
    size_t i;
    if (status != CALLTABLE_OK) {
        fprintf(stderr, "calltable: %s\n", calltable_status_text(status));
        return 1;
    }
    foreign_sort(order, 4, sizeof order[0], (compare)calltable_code(slot));
    calltable_release(slot);
    for (i = 0; i < 4; i += 1) {
        printf("%s\n", towns[order[i]].name);
    }
    return 0;
}
