/*
 * A driver that gives the kernel two callbacks: a process notification, which has no parameter for the driver's own
 * data, and a deferred procedure call of a timer. It is linked and inspected (cargo xtask audit), never loaded.
 */
#include "ntddk.h"

#include "calltable.h"

/* What the notification counts. */
struct processes {
    volatile int32_t begun;
    volatile int32_t ended;
};

struct monitor {
    struct processes processes;
    volatile int32_t ticks;
    calltable_slot notification;
    calltable_slot tick;
    KTIMER timer;
    KDPC dpc;
};

static struct monitor monitor;

/* The callbacks' own parameters, and the data after them. */
static void NTAPI on_process(HANDLE parent, HANDLE process, BOOLEAN is_new, void *data) {
    struct processes *processes = data;
    (void)parent;
    (void)process;
    __atomic_fetch_add(is_new ? &processes->begun : &processes->ended, 1, __ATOMIC_RELAXED);
}

static void NTAPI on_tick(KDPC *dpc, void *context, void *first, void *second, void *data) {
    volatile int32_t *ticks = data;
    (void)dpc;
    (void)context;
    (void)first;
    (void)second;
    __atomic_fetch_add(ticks, 1, __ATOMIC_RELAXED);
}

static int is_registered(calltable_function handler, uint32_t positions, void *data, calltable_slot *slot) {
    calltable_binding binding = CALLTABLE_DIRECT(handler, positions, data);
    binding.convention = CALLTABLE_NATIVE;
    /* i686 counts words on the stack, x86_64 positions: the same if no parameter is wider than a pointer. */
    return calltable_register(&binding, slot) == CALLTABLE_OK;
}

/* Ends what is registered: nothing calls an entry any more when its slot is released. */
static void stop(void) {
    PsSetCreateProcessNotifyRoutine((PCREATE_PROCESS_NOTIFY_ROUTINE)calltable_code(monitor.notification), TRUE);
    KeCancelTimer(&monitor.timer);
    KeFlushQueuedDpcs();
    calltable_release(monitor.notification);
    calltable_release(monitor.tick);
}

static void NTAPI unload(DRIVER_OBJECT *driver) {
    (void)driver;
    stop();
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path) {
    const LARGE_INTEGER second = {-10 * 1000 * 1000};
    NTSTATUS status;
    (void)registry_path;
    if (!is_registered((calltable_function)on_process, 3, &monitor.processes, &monitor.notification)) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    if (!is_registered((calltable_function)on_tick, 4, (void *)&monitor.ticks, &monitor.tick)) {
        calltable_release(monitor.notification);
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    KeInitializeTimer(&monitor.timer);
    KeInitializeDpc(&monitor.dpc, (PKDEFERRED_ROUTINE)calltable_code(monitor.tick), 0);
    status = PsSetCreateProcessNotifyRoutine(
        (PCREATE_PROCESS_NOTIFY_ROUTINE)calltable_code(monitor.notification), FALSE);
    if (status < 0) {
        calltable_release(monitor.notification);
        calltable_release(monitor.tick);
        return status;
    }
    KeSetTimer(&monitor.timer, second, &monitor.dpc);
    driver->DriverUnload = unload;
    return STATUS_SUCCESS;
}
