/* Included before each of libffi's tests, each of which is a program: its `main`, which compilers treat in a way of
   its own, gets the symbol LIBFFI_TEST; `exit` ends the test alone. */
#ifdef LIBFFI_TEST
int main() __asm__(LIBFFI_TEST); /* with or without parameters */
#endif

/* By its symbol, since a test has a macro of that name; in C++, where headers differ on whether it may throw, and take
   macros away, by one that is defined after them. */
#ifdef __cplusplus
#include <cstdlib>
#include <stdlib.h>
extern "C" __attribute__((noreturn)) void libffi_exit(int code) __asm__("libffi_exit");
#define exit libffi_exit
#else
void exit(int code) __asm__("libffi_exit");
#endif

/* What the cases of a file of many are in place of `main`: on i686 that has a frame which does not depend on how many
   bytes a callback has taken off the stack. */
#ifdef __i386__
#define LIBFFI_CASE __attribute__((force_align_arg_pointer))
#else
#define LIBFFI_CASE
#endif
