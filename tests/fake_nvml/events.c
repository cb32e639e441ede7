/* Processes on a GPU, settings, and events of the fake driver. */
#include "call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- processes: compute.PID, graphics.PID and mps.PID, each with its memory or "na" */

static int processes(int gpu, const char *prefix, uint *count, process_t *out) {
    uint room = *count;
    int at = 0;
    const char *pid, *memory;
    *count = 0;
    while ((memory = state_next(gpu, prefix, &at, &pid))) {
        if (out && *count < room)
            out[*count] = (process_t){(uint)atoi(pid), *memory == 'n' ? ~0ull : strtoull(memory, NULL, 0), ~0u, ~0u};
        ++*count;
    }
    return *count > room || (*count && !out) ? INSUFFICIENT_SIZE : SUCCESS;
}

#define PROCESSES(name, prefix) \
    API int name(device_t *gpu, uint *count, process_t *out) { \
        BEGIN(gpu); \
        return state_leave(processes(number, prefix, count, out)); \
    }
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, "compute.")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics.")
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps.")

/* busy.PID is the share of the GPU that a process uses; as in reality, no sample at all is "not found". */
API int nvmlDeviceGetProcessUtilization(device_t *gpu, sample_t *out, uint *count, ull since) {
    BEGIN(gpu);
    (void)since;
    uint room = *count;
    int at = 0;
    const char *pid, *busy;
    *count = 0;
    while ((busy = state_next(number, "busy.", &at, &pid))) {
        if (out && *count < room) out[*count] = (sample_t){(uint)atoi(pid), (ull)state_now_ms() * 1000, (uint)atoi(busy), 0, 0, 0};
        ++*count;
    }
    if (!*count) return state_leave(NOT_FOUND);
    return state_leave(*count > room || !out ? INSUFFICIENT_SIZE : SUCCESS);
}

/* ---- settings: they outlive the process, as the driver's do, and tests see them */

static int limit_of(int gpu, long long *out) {
    int code = state_number(gpu, "power_limit_mw", out);
    if (!code && state_kept()->power_limit_mw[gpu]) *out = (long long)state_kept()->power_limit_mw[gpu];
    return code;
}

API int nvmlDeviceGetPowerManagementLimit(device_t *gpu, uint *out) {
    BEGIN(gpu);
    long long value;
    if (!(code = limit_of(number, &value))) *out = (uint)value;
    return state_leave(code);
}

/* The limit in force is the lower one of what was set and what the board allows now. */
API int nvmlDeviceGetEnforcedPowerLimit(device_t *gpu, uint *out) {
    BEGIN(gpu);
    long long value, enforced;
    if ((code = limit_of(number, &value))) return state_leave(code);
    if (!state_number(number, "power_enforced_mw", &enforced) && enforced < value) value = enforced;
    *out = (uint)value;
    return state_leave(SUCCESS);
}

API int nvmlDeviceSetPowerManagementLimit(device_t *gpu, uint limit_mw) {
    BEGIN(gpu);
    long long least, most;
    if ((code = state_number(number, "power_min_mw", &least)) || (code = state_number(number, "power_max_mw", &most)))
        return state_leave(code);
    if (limit_mw < least || limit_mw > most) return state_leave(INVALID_ARGUMENT);
    state_kept()->power_limit_mw[number] = limit_mw;
    state_note_set(number, "power_mw", limit_mw);
    return state_leave(SUCCESS);
}

API int nvmlDeviceGetPersistenceMode(device_t *gpu, int *out) {
    BEGIN(gpu);
    long long value;
    if ((code = state_number(number, "persistence", &value))) return state_leave(code);
    *out = state_kept()->persistence[number] ? (int)state_kept()->persistence[number] - 1 : (int)value;
    return state_leave(SUCCESS);
}

API int nvmlDeviceSetPersistenceMode(device_t *gpu, int mode) {
    BEGIN(gpu);
    state_kept()->persistence[number] = 1 + (uint64_t)mode;
    state_note_set(number, "persistence", mode);
    return state_leave(SUCCESS);
}

/* ---- events: event.SEQ of the system, "GPU TYPE DATA", in rising order */

typedef struct { long long seq, gpu; ull type, data; } happened_t;

static int next_event(int *at, happened_t *out) {
    const char *seq, *text = state_next(SYSTEM, "event.", at, &seq);
    if (!text || sscanf(text, "%lld %llu %llu", &out->gpu, &out->type, &out->data) != 3) return 0;
    out->seq = atoll(seq);
    return out->gpu >= 0 && out->gpu < MOST_GPUS;
}

static long long newest_event(void) {
    long long newest = 0;
    int at = 0;
    for (happened_t event; next_event(&at, &event);) newest = event.seq;
    return newest;
}

API int nvmlEventSetCreate(set_t **out) {
    BEGIN_SYSTEM();
    if (!(*out = calloc(1, sizeof **out))) abort();
    (*out)->watch = state_watch();
    return state_leave(SUCCESS);
}

API int nvmlEventSetFree(set_t *set) {
    BEGIN_SYSTEM();
    if (set->watch >= 0) close(set->watch);
    free(set);
    return state_leave(SUCCESS);
}

API int nvmlDeviceRegisterEvents(device_t *gpu, ull types, set_t *set) {
    BEGIN(gpu);
    long long supported = 0;
    state_number(number, "event_types", &supported);
    if (types & ~(ull)supported) return state_leave(NOT_SUPPORTED); /* and nothing is registered */
    if (!set->types[number]) set->from[number] = newest_event(); /* what was before is lost */
    set->types[number] |= types;
    return state_leave(SUCCESS);
}

static int take_event(set_t *set, event_t *out) {
    int at = 0;
    for (happened_t event; next_event(&at, &event);) {
        if (event.seq <= set->last || event.seq <= set->from[event.gpu] || !(event.type & set->types[event.gpu])) continue;
        set->last = event.seq;
        *out = (event_t){&state_devices[event.gpu], event.type, event.data, ~0u, ~0u};
        return 1;
    }
    return 0;
}

API int nvmlEventSetWait_v2(set_t *set, event_t *out, uint timeout_ms) {
    BEGIN_SYSTEM();
    long long end = state_now_ms() + timeout_ms;
    for (;;) {
        if ((code = state_failure(SYSTEM, __func__))) return state_leave(code);
        if (take_event(set, out)) return state_leave(SUCCESS);
        long long left = end - state_now_ms();
        if (left <= 0) return state_leave(TIMEOUT);
        state_leave(0);
        state_wait(set->watch, (int)left);
        state_enter();
    }
}
