/* Windows alone: a window procedure and a timer's callback that get data of their own, without a global variable and
   without SetWindowLongPtr. The window is one for messages, so nothing is to be seen. */
#include <calltable.h>
#include <stdio.h>
#include <windows.h>

typedef struct state {
    HWND window;
    unsigned ticks;
} state;

/* A WNDPROC with one parameter more. CALLBACK is the convention by which Windows calls, on i686, too. */
static LRESULT CALLBACK procedure(HWND window, UINT message, WPARAM w, LPARAM l, void *data) {
    state *self = data;
    if (message == WM_DESTROY) {
        printf("closed after %u ticks\n", self->ticks);
        PostQuitMessage(0);
        return 0;
    }
    return DefWindowProcW(window, message, w, l);
}

/* A TIMERPROC, likewise. */
static void CALLBACK tick(HWND window, UINT message, UINT_PTR id, DWORD time, void *data) {
    state *self = data;
    (void)message, (void)time;
    self->ticks += 1;
    printf("tick %u\n", self->ticks);
    if (self->ticks == 3) {
        KillTimer(window, id);
        DestroyWindow(window);
    }
}

static calltable_slot register_native(calltable_function handler, void *data) {
    calltable_binding binding = CALLTABLE_DIRECT(handler, 4, data);
    calltable_slot slot;
    calltable_status status;
    binding.convention = CALLTABLE_NATIVE;
    status = calltable_register(&binding, &slot);
    if (status != CALLTABLE_OK) {
        fprintf(stderr, "calltable: %s\n", calltable_status_text(status));
        ExitProcess(1);
    }
    return slot;
}

int main(void) {
    state self = {NULL, 0};
    calltable_slot of_window = register_native((calltable_function)procedure, &self);
    calltable_slot of_timer = register_native((calltable_function)tick, &self);
    HINSTANCE instance = GetModuleHandleW(NULL);
    WNDCLASSW class = {0};
    MSG message;
    class.lpfnWndProc = (WNDPROC)calltable_code(of_window);
    class.hInstance = instance;
    class.lpszClassName = L"calltable";
    RegisterClassW(&class);
    self.window = CreateWindowW(L"calltable", L"", 0, 0, 0, 0, 0, HWND_MESSAGE, NULL, instance, NULL);
    if (self.window == NULL || SetTimer(self.window, 1, 20, (TIMERPROC)calltable_code(of_timer)) == 0) {
        return 1;
    }
    while (GetMessageW(&message, NULL, 0, 0) > 0) {
        DispatchMessageW(&message);
    }
    /* Nobody calls them any more. */
    UnregisterClassW(L"calltable", instance);
    calltable_release(of_timer);
    calltable_release(of_window);
    return 0;
}
