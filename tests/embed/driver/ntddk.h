/* What the driver uses of ntddk.h, which comes with Microsoft's kit alone. */
#ifndef NTDDK_H
#define NTDDK_H

#include <stdint.h>

#define NTAPI __stdcall
#define NTSYSAPI __declspec(dllimport)
#define TRUE 1
#define FALSE 0

/* Code that the kernel throws away when the driver has started. */
#define INIT_CODE __attribute__((section("INIT")))

typedef int32_t NTSTATUS;
typedef uint8_t BOOLEAN;
typedef void *HANDLE;

#define STATUS_SUCCESS ((NTSTATUS)0)
#define STATUS_INSUFFICIENT_RESOURCES ((NTSTATUS)0xC000009A)

typedef union LARGE_INTEGER {
    int64_t QuadPart;
} LARGE_INTEGER;

typedef struct UNICODE_STRING {
    uint16_t Length;
    uint16_t MaximumLength;
    uint16_t *Buffer;
} UNICODE_STRING;

typedef struct DRIVER_OBJECT {
    int16_t Type;
    int16_t Size;
    void *DeviceObject;
    uint32_t Flags;
    void *DriverStart;
    uint32_t DriverSize;
    void *DriverSection;
    void *DriverExtension;
    UNICODE_STRING DriverName;
    void *HardwareDatabase;
    void *FastIoDispatch;
    void *DriverInit;
    void *DriverStartIo;
    void(NTAPI *DriverUnload)(struct DRIVER_OBJECT *driver);
    void *MajorFunction[28];
} DRIVER_OBJECT;

/* Their fields are the kernel's. */
typedef struct KTIMER {
    uint64_t fields[8];
} KTIMER;

typedef struct KDPC {
    uint64_t fields[8];
} KDPC;

typedef void(NTAPI *PCREATE_PROCESS_NOTIFY_ROUTINE)(HANDLE parent, HANDLE process, BOOLEAN is_new);
typedef void(NTAPI *PKDEFERRED_ROUTINE)(KDPC *dpc, void *context, void *first, void *second);

NTSYSAPI NTSTATUS NTAPI PsSetCreateProcessNotifyRoutine(PCREATE_PROCESS_NOTIFY_ROUTINE routine, BOOLEAN remove);
NTSYSAPI void NTAPI KeInitializeTimer(KTIMER *timer);
NTSYSAPI void NTAPI KeInitializeDpc(KDPC *dpc, PKDEFERRED_ROUTINE routine, void *context);
NTSYSAPI BOOLEAN NTAPI KeSetTimer(KTIMER *timer, LARGE_INTEGER due, KDPC *dpc);
NTSYSAPI BOOLEAN NTAPI KeCancelTimer(KTIMER *timer);
NTSYSAPI void NTAPI KeFlushQueuedDpcs(void);

#endif
