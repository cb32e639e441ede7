/* What every call of the fake driver begins and ends with. The names, structures and codes are those of NVIDIA's public
 * nvml.h, as far as the Python binding nvidia-ml-py calls them.
 */
#ifndef FAKE_NVML_CALL_H
#define FAKE_NVML_CALL_H

#include "state.h"

#define API __attribute__((visibility("default")))
typedef unsigned int uint;
typedef unsigned long long ull;

typedef struct { char legacy[16]; uint domain, bus, device, ids, subsystem; char bus_id[32]; } pci_t;
typedef struct { ull total, free, used; } memory_t;
typedef struct { uint version; ull total, reserved, free, used; } memory_v2_t;
typedef struct { uint version; int sensor, celsius; } temperature_t;
typedef struct { uint version; int celsius; } margin_t;
typedef struct { uint pid; ull memory; uint gpu_instance, compute_instance; } process_t;
typedef struct { uint pid; ull time; uint sm, memory, encoder, decoder; } sample_t;
typedef struct {
    uint field, scope;
    long long time, latency_us;
    uint type;
    int code;
    union { double real; uint u32; unsigned long ul; ull u64; long long s64; int s32; unsigned short u16; } value;
} field_t;
typedef struct { device_t *gpu; ull type, data; uint gpu_instance, compute_instance; } event_t;
typedef struct { ull types[MOST_GPUS]; long long from[MOST_GPUS], last; int watch; } set_t;

extern int call_initialised;
/* The number under "KEY.WHICH"; NOT_SUPPORTED if there is none. */
int call_numbered(int gpu, const char *key, long long which, long long *out);
/* Answer a text; NOT_SUPPORTED if it is NULL. */
int call_copy(const char *text, char *out, uint room);
int call_fill_pci(const char *bus_id, pci_t *out);

/* Begin a call about a GPU: as with the real library, a null handle is the end of the process. */
#define BEGIN(gpu) \
    static int slot = -1; \
    state_enter(); \
    if (!call_initialised) return state_leave(UNINITIALIZED); \
    int number = (gpu)->number; \
    int code = state_check(number, __func__, &slot); \
    if (code) return state_leave(code)

#define BEGIN_SYSTEM() \
    static int slot = -1; \
    state_enter(); \
    if (!call_initialised) return state_leave(UNINITIALIZED); \
    int code = state_check(SYSTEM, __func__, &slot); \
    if (code) return state_leave(code)

/* A call that answers one number, and one that answers one number for an argument. */
#define NUMBER(name, type, key) \
    API int name(device_t *gpu, type *out) { \
        BEGIN(gpu); \
        long long value; \
        if (!(code = state_number(number, key, &value))) *out = (type)value; \
        return state_leave(code); \
    }
#define NUMBER_OF(name, type, key) \
    API int name(device_t *gpu, int which, type *out) { \
        BEGIN(gpu); \
        long long value; \
        if (!(code = call_numbered(number, key, which, &value))) *out = (type)value; \
        return state_leave(code); \
    }
#define TEXT(name, key) \
    API int name(device_t *gpu, char *out, uint room) { \
        BEGIN(gpu); \
        return state_leave(call_copy(state_text(number, key), out, room)); \
    }
#define PAIR(name, first, second) \
    API int name(device_t *gpu, uint *one, uint *other) { \
        BEGIN(gpu); \
        long long a, b; \
        if ((code = state_number(number, first, &a)) || (code = state_number(number, second, &b))) return state_leave(code); \
        *one = (uint)a; \
        *other = (uint)b; \
        return state_leave(SUCCESS); \
    }

#endif
