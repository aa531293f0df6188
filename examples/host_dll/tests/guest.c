// A DLL for the suite `host`, whose options say what its entry point does. What it imports is always the same.

#define WIN32_LEAN_AND_MEAN
#include <process.h>
#include <stdlib.h>
#include <windows.h>

__declspec(dllimport) int by_number(void);
__declspec(dllimport) int late(void);

// The linker's code for delayed imports wants it. This host binds those when it loads, so nobody calls it.
void *__delayLoadHelper2(void *descriptor, void *place) {
    (void)descriptor, (void)place;
    abort();
}

#ifndef VARIABLE
#define VARIABLE 0
#endif

static _Thread_local int variable = VARIABLE;
static _Thread_local int attached;
static int in_thread, attached_in_thread, at_end;

int answer(void) { return variable; }

static unsigned __stdcall run(void *argument) {
    in_thread = variable;
    attached_in_thread = attached;
    return argument == &in_thread ? 0 : 1;
}

static void count(void) { at_end++; }

// Waits for a thread in the entry point, which Windows forbids: there each thread runs it, one after the other.
static BOOL check(HINSTANCE dll) {
    uintptr_t thread;
    // In vain, for it has variables.
    if (DisableThreadLibraryCalls(dll) || variable++ != VARIABLE || _fmode != 0 || atexit(count) != 0) {
        return FALSE;
    }
    thread = _beginthreadex(NULL, 0, run, &in_thread, 0, NULL);
    return thread != 0 && WaitForSingleObject((HANDLE)thread, INFINITE) == WAIT_OBJECT_0 && CloseHandle((HANDLE)thread)
        && in_thread == VARIABLE && attached_in_thread == 1 && variable == VARIABLE + 1 && attached == 0;
}

BOOL WINAPI DllMain(HINSTANCE dll, DWORD reason, LPVOID reserved) {
    (void)reserved;
    if (reason == DLL_THREAD_ATTACH) {
        attached = 1;
    }
    if (reason != DLL_PROCESS_ATTACH) {
        return TRUE;
    }
#if defined BY_NAME
    Beep(750, 300);
#elif defined BY_NUMBER
    by_number();
#elif defined LATE
    late();
#elif defined REFUSE
    return FALSE;
#endif
    // Never done, or the linker would leave them out.
    if (at_end != 0) {
        Beep(by_number(), late());
    }
    return check(dll);
}
