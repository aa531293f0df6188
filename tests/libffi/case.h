/* Included before each of libffi's tests, each of which is a program: its `main`, which compilers treat in a way of
   its own, gets the symbol LIBFFI_TEST. */
#ifdef LIBFFI_TEST
int main(void) __asm__(LIBFFI_TEST);
#endif

/* What the cases of a file of many are in place of `main`: on i686 that has a frame which does not depend on how many
   bytes a callback has taken off the stack. */
#ifdef __i386__
#define LIBFFI_CASE __attribute__((force_align_arg_pointer))
#else
#define LIBFFI_CASE
#endif
