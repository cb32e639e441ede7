/* A stand-in for NVIDIA's libnvidia-ml.so.1: the library, the system, and which GPUs there are. What it answers stands in
 * the file `state` beside it: state.c has the format, room.py writes it. A missing key is "not supported" here.
 */
#include "call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int call_initialised;

int call_numbered(int gpu, const char *key, long long which, long long *out) {
    char name[96];
    snprintf(name, sizeof name, "%s.%lld", key, which);
    return state_number(gpu, name, out);
}

int call_copy(const char *text, char *out, uint room) {
    if (!text) return NOT_SUPPORTED;
    if (strlen(text) >= room) return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return SUCCESS;
}

/* ---- the library and the system */

API int nvmlInitWithFlags(uint flags) {
    static int slot = -1;
    (void)flags;
    state_enter();
    int code = state_check(SYSTEM, "nvmlInitWithFlags", &slot);
    if (!code) call_initialised++;
    return state_leave(code);
}

API int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

API int nvmlShutdown(void) {
    BEGIN_SYSTEM();
    call_initialised--;
    return state_leave(SUCCESS);
}

API const char *nvmlErrorString(int code) {
    static __thread char text[32];
    snprintf(text, sizeof text, "fake error %d", code);
    return text;
}

#define SYSTEM_TEXT(name, key) \
    API int name(char *out, uint room) { \
        BEGIN_SYSTEM(); \
        return state_leave(call_copy(state_text(SYSTEM, key), out, room)); \
    }
SYSTEM_TEXT(nvmlSystemGetDriverVersion, "driver_version")
SYSTEM_TEXT(nvmlSystemGetNVMLVersion, "nvml_version")

API int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    BEGIN_SYSTEM();
    long long value;
    if (!(code = state_number(SYSTEM, "cuda_version", &value))) *out = (int)value;
    return state_leave(code);
}

API int nvmlSystemGetCudaDriverVersion(int *out) { return nvmlSystemGetCudaDriverVersion_v2(out); }

API int nvmlSystemGetProcessName(uint pid, char *out, uint room) {
    BEGIN_SYSTEM();
    char key[32];
    snprintf(key, sizeof key, "process.%u", pid);
    const char *name = state_text(SYSTEM, key);
    return state_leave(name ? call_copy(name, out, room) : NOT_FOUND);
}

/* ---- which GPU */

API int nvmlDeviceGetCount_v2(uint *out) {
    BEGIN_SYSTEM();
    *out = 0;
    for (int gpu = 0; gpu < MOST_GPUS; gpu++) *out += (uint)state_listed(gpu);
    return state_leave(SUCCESS);
}

/* Answer a handle lookup that found this GPU, or none (then `missing`). */
static int found(int gpu, int missing, const char *call, int *slot, device_t **out) {
    int code = state_check(gpu < 0 ? SYSTEM : gpu, call, slot);
    if (!code && gpu < 0) code = missing;
    if (!code) *out = &state_devices[gpu];
    return state_leave(code);
}

API int nvmlDeviceGetHandleByIndex_v2(uint index, device_t **out) {
    static int slot = -1;
    state_enter();
    if (!call_initialised) return state_leave(UNINITIALIZED);
    int gpu = 0;
    for (uint left = index; gpu < MOST_GPUS; gpu++)
        if (state_listed(gpu) && !left--) break;
    return found(gpu < MOST_GPUS ? gpu : -1, INVALID_ARGUMENT, __func__, &slot, out);
}

static int with(const char *key, const char *value) {
    for (int gpu = 0; gpu < MOST_GPUS; gpu++) {
        const char *its = state_text(gpu, key);
        if (state_listed(gpu) && its && !strcasecmp(its, value)) return gpu;
    }
    return -1;
}

#define HANDLE_BY(name, key) \
    API int name(const char *wanted, device_t **out) { \
        static int slot = -1; \
        state_enter(); \
        if (!call_initialised) return state_leave(UNINITIALIZED); \
        return found(with(key, wanted), NOT_FOUND, __func__, &slot, out); \
    }
HANDLE_BY(nvmlDeviceGetHandleByUUID, "uuid")
HANDLE_BY(nvmlDeviceGetHandleBySerial, "serial")

/* Bus ids are the same with four or eight digits of domain. */
API int nvmlDeviceGetHandleByPciBusId_v2(const char *wanted, device_t **out) {
    static int slot = -1;
    char full[40];
    const char *colon = strchr(wanted, ':');
    snprintf(full, sizeof full, "%s%.30s", colon && colon - wanted == 4 ? "0000" : "", wanted);
    state_enter();
    if (!call_initialised) return state_leave(UNINITIALIZED);
    return found(with("bus_id", full), NOT_FOUND, __func__, &slot, out);
}

API int nvmlDeviceGetIndex(device_t *gpu, uint *out) {
    BEGIN(gpu);
    *out = 0;
    for (int before = 0; before < number; before++) *out += (uint)state_listed(before);
    return state_leave(SUCCESS);
}

TEXT(nvmlDeviceGetName, "name")
TEXT(nvmlDeviceGetUUID, "uuid")
TEXT(nvmlDeviceGetSerial, "serial")
TEXT(nvmlDeviceGetVbiosVersion, "vbios")
TEXT(nvmlDeviceGetInforomImageVersion, "inforom")
TEXT(nvmlDeviceGetBoardPartNumber, "part_number")
NUMBER(nvmlDeviceGetMinorNumber, uint, "minor")
NUMBER(nvmlDeviceGetBrand, uint, "brand")
NUMBER(nvmlDeviceGetArchitecture, uint, "architecture")
NUMBER(nvmlDeviceGetNumGpuCores, uint, "cores")
NUMBER(nvmlDeviceGetNumaNodeId, uint, "numa")
PAIR(nvmlDeviceGetCudaComputeCapability, "capability_major", "capability_minor")

int call_fill_pci(const char *bus_id, pci_t *out) {
    memset(out, 0, sizeof *out);
    if (!bus_id || sscanf(bus_id, "%x:%x:%x", &out->domain, &out->bus, &out->device) != 3) return NOT_SUPPORTED;
    snprintf(out->bus_id, sizeof out->bus_id, "%08X:%02X:%02X.0", out->domain, out->bus, out->device);
    snprintf(out->legacy, sizeof out->legacy, "%04X:%02X:%02X.0", out->domain & 0xffff, out->bus & 0xff, out->device & 0xff);
    out->ids = 0x26b910de;
    return SUCCESS;
}

API int nvmlDeviceGetPciInfo_v3(device_t *gpu, pci_t *out) {
    BEGIN(gpu);
    return state_leave(call_fill_pci(state_text(number, "bus_id"), out));
}

API int nvmlDeviceGetTopologyCommonAncestor(device_t *gpu, device_t *other, int *out) {
    BEGIN(gpu);
    long long value, its = -1, of_other = -1;
    if (!call_numbered(number, "ancestor", other->number, &value)) {
        *out = (int)value;
    } else {
        state_number(number, "numa", &its);
        state_number(other->number, "numa", &of_other);
        *out = number == other->number ? 0 : its == of_other ? 40 : 50;
    }
    return state_leave(SUCCESS);
}
