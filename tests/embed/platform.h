/* What the programs need beside calltable: somewhere to print, and to count what passed. */
#ifndef PLATFORM_H
#define PLATFORM_H

#include "calltable.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Prints "ok NAME" or "FAILED NAME". */
void check(const char *name, int passed);

/* Checks that a call said so; prints the status text if it did not. */
void expect(const char *name, calltable_status status, calltable_status expected);

/* Prints "N passed, N failed"; returns what main is to return. */
int finish(void);

/* The program: main calls it, or what starts a program that has no C library. */
int run(void);

#ifdef __cplusplus
}
#endif

#endif
