/* A language whose functions foreign code can call: each has its types and its text in a table, as if read from a file,
   and one handler serves all. It gets the arguments in memory, since no compiler knows the types. */
#include <calltable.h>
#include <stdio.h>
#include <string.h>

/* A function of the language: `types` has a letter for each parameter and, last, the result (d: double, i: int32_t);
   `text` is in reverse Polish notation, in which a, b and c are the parameters. */
typedef struct function {
    const char *name, *types, *text;
    calltable_signature signature;
    calltable_slot slot;
} function;

static double argument(const calltable_frame *frame, const function *self, uint32_t index) {
    double real = 0;
    int32_t whole = 0;
    if (self->types[index] == 'd') {
        calltable_get_f64(frame, &self->signature, index, &real);
        return real;
    }
    calltable_get_i32(frame, &self->signature, index, &whole);
    return whole;
}

/* Runs when foreign code calls any of the functions. */
static void CALLTABLE_CALL run(void *data, calltable_frame *frame) {
    const function *self = data;
    double stack[16] = {0};
    unsigned depth = 0;
    const char *at;
    for (at = self->text; *at != 0 && depth < 15; at += 1) {
        switch (*at) {
        case '+': depth -= 1, stack[depth - 1] += stack[depth]; break;
        case '-': depth -= 1, stack[depth - 1] -= stack[depth]; break;
        case '*': depth -= 1, stack[depth - 1] *= stack[depth]; break;
        default: stack[depth] = argument(frame, self, (uint32_t)(*at - 'a')), depth += 1;
        }
    }
    if (self->types[strlen(self->types) - 1] == 'd') {
        calltable_set_f64(frame, &self->signature, stack[0]);
    } else {
        calltable_set_i32(frame, &self->signature, (int32_t)stack[0]);
    }
}

static calltable_status publish(function *self) {
    calltable_type types[8];
    size_t count = strlen(self->types), i;
    calltable_binding binding = CALLTABLE_FRAME(run, &self->signature, self);
    calltable_status status;
    for (i = 0; i < count; i += 1) {
        types[i] = self->types[i] == 'd' ? CALLTABLE_F64 : CALLTABLE_I32;
    }
    status = calltable_signature_init(&self->signature, CALLTABLE_C, types, count - 1, types[count - 1]);
    binding.name = self->name;
    return status == CALLTABLE_OK ? calltable_register(&binding, &self->slot) : status;
}

int main(void) {
    static function functions[] = {
        {"square of a distance", "ddd", "aa*bb*+", {0, {0}}, CALLTABLE_NO_SLOT},
        {"rest of a budget", "idii", "abc*-", {0, {0}}, CALLTABLE_NO_SLOT},
    };
    size_t i;
    for (i = 0; i < 2; i += 1) {
        calltable_status status = publish(&functions[i]);
        if (status != CALLTABLE_OK) {
            fprintf(stderr, "%s: %s\n", functions[i].name, calltable_status_text(status));
            return 1;
        }
    }
    /* What foreign code would do, which has been given the two pointers. */
    {
        double(CALLTABLE_CALL *square)(double, double) =
            (double(CALLTABLE_CALL *)(double, double))calltable_code(functions[0].slot);
        int32_t(CALLTABLE_CALL *rest)(int32_t, double, int32_t) =
            (int32_t(CALLTABLE_CALL *)(int32_t, double, int32_t))calltable_code(functions[1].slot);
        printf("%s: %g\n", functions[0].name, square(3, 4));
        printf("%s: %d\n", functions[1].name, (int)rest(100, 2.5, 24));
    }
    for (i = 0; i < 2; i += 1) {
        calltable_release(functions[i].slot);
    }
    return 0;
}
