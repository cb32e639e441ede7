/* What the fake driver says of a GPU's condition. */
#include "call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

/* ---- single numbers */

NUMBER(nvmlDeviceGetPowerUsage, uint, "power_mw")
NUMBER(nvmlDeviceGetTotalEnergyConsumption, ull, "energy_mj")
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, ull, "reasons")
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, ull, "reasons")
NUMBER(nvmlDeviceGetSupportedClocksEventReasons, ull, "reasons_supported")
NUMBER(nvmlDeviceGetPerformanceState, int, "pstate")
NUMBER(nvmlDeviceGetPowerState, int, "pstate")
NUMBER(nvmlDeviceGetComputeMode, int, "compute_mode")
NUMBER(nvmlDeviceGetDisplayMode, int, "display")
NUMBER(nvmlDeviceGetDisplayActive, int, "display")
NUMBER(nvmlDeviceGetFanSpeed, uint, "fan")
NUMBER(nvmlDeviceGetAccountingMode, int, "accounting")
NUMBER(nvmlDeviceGetMaxMigDeviceCount, uint, "mig_devices")
NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, int, "retired_pending")
NUMBER(nvmlDeviceGetPcieReplayCounter, uint, "pcie_replays")
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, uint, "pcie_width")
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, uint, "pcie_width_max")
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, uint, "pcie_gen")
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, uint, "pcie_gen_max")
NUMBER(nvmlDeviceGetGpuMaxPcieLinkGeneration, uint, "pcie_gen_max")
NUMBER(nvmlDeviceGetSupportedEventTypes, ull, "event_types")
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, uint, "power_default_mw")
NUMBER_OF(nvmlDeviceGetTemperatureThreshold, uint, "threshold")
NUMBER_OF(nvmlDeviceGetClockInfo, uint, "clock")
NUMBER_OF(nvmlDeviceGetMaxClockInfo, uint, "clock_max")
NUMBER_OF(nvmlDeviceGetNvLinkState, uint, "link")
NUMBER_OF(nvmlDeviceGetNvLinkVersion, uint, "link_version")
NUMBER_OF(nvmlDeviceGetNvLinkRemoteDeviceType, int, "link_remote_type")
PAIR(nvmlDeviceGetEccMode, "ecc_mode", "ecc_mode_pending")
PAIR(nvmlDeviceGetMigMode, "mig", "mig_pending")
PAIR(nvmlDeviceGetPowerManagementLimitConstraints, "power_min_mw", "power_max_mw")
PAIR(nvmlDeviceGetDriverModel_v2, "driver_model", "driver_model_pending") /* Windows only */
PAIR(nvmlDeviceGetEncoderUtilization, "encoder", "encoder_period")
PAIR(nvmlDeviceGetDecoderUtilization, "decoder", "decoder_period")

/* ---- structures */

API int nvmlDeviceGetUtilizationRates(device_t *gpu, uint *out) {
    BEGIN(gpu);
    long long busy, memory = 0;
    if ((code = state_number(number, "utilization", &busy))) return state_leave(code);
    state_number(number, "utilization_memory", &memory);
    out[0] = (uint)busy;
    out[1] = (uint)memory;
    return state_leave(SUCCESS);
}

API int nvmlDeviceGetTemperature(device_t *gpu, int sensor, uint *out) {
    BEGIN(gpu);
    long long value;
    if (sensor) return state_leave(INVALID_ARGUMENT);
    if (!(code = state_number(number, "temperature", &value))) *out = (uint)value;
    return state_leave(code);
}

API int nvmlDeviceGetTemperatureV(device_t *gpu, temperature_t *out) {
    BEGIN(gpu);
    long long value;
    if (out->version != (sizeof *out | 1 << 24)) return state_leave(ARGUMENT_VERSION_MISMATCH);
    if (out->sensor) return state_leave(INVALID_ARGUMENT);
    if (!(code = state_number(number, "temperature", &value))) out->celsius = (int)value;
    return state_leave(code);
}

API int nvmlDeviceGetMarginTemperature(device_t *gpu, margin_t *out) {
    BEGIN(gpu);
    long long value;
    if (out->version != (sizeof *out | 1 << 24)) return state_leave(ARGUMENT_VERSION_MISMATCH);
    if (!(code = state_number(number, "margin", &value))) out->celsius = (int)value;
    return state_leave(code);
}

static int memory_of(int gpu, long long *total, long long *used) {
    int code = state_number(gpu, "memory_total", total);
    return code ? code : state_number(gpu, "memory_used", used);
}

API int nvmlDeviceGetMemoryInfo(device_t *gpu, memory_t *out) {
    BEGIN(gpu);
    long long total, used;
    if ((code = memory_of(number, &total, &used))) return state_leave(code);
    *out = (memory_t){(ull)total, (ull)(total - used), (ull)used};
    return state_leave(SUCCESS);
}

API int nvmlDeviceGetMemoryInfo_v2(device_t *gpu, memory_v2_t *out) {
    BEGIN(gpu);
    long long total, used, reserved = 0;
    if (out->version != (sizeof *out | 2 << 24)) return state_leave(ARGUMENT_VERSION_MISMATCH);
    if ((code = memory_of(number, &total, &used))) return state_leave(code);
    state_number(number, "memory_reserved", &reserved);
    *out = (memory_v2_t){out->version, (ull)total, (ull)reserved, (ull)(total - used - reserved), (ull)used};
    return state_leave(SUCCESS);
}

API int nvmlDeviceGetBAR1MemoryInfo(device_t *gpu, memory_t *out) {
    BEGIN(gpu);
    long long total;
    if ((code = state_number(number, "bar1_total", &total))) return state_leave(code);
    *out = (memory_t){(ull)total, (ull)total, 0};
    return state_leave(SUCCESS);
}

API int nvmlDeviceGetViolationStatus(device_t *gpu, int policy, ull *out) {
    BEGIN(gpu);
    long long value;
    if ((code = call_numbered(number, "violation_ns", policy, &value))) return state_leave(code);
    out[0] = (ull)state_now_ms() * 1000;
    out[1] = (ull)value;
    return state_leave(SUCCESS);
}

/* ---- memory errors */

API int nvmlDeviceGetTotalEccErrors(device_t *gpu, int type, int counter, ull *out) {
    BEGIN(gpu);
    char key[32];
    long long value;
    snprintf(key, sizeof key, "ecc.%d", type); /* 0 corrected, 1 uncorrected */
    if (!(code = call_numbered(number, key, counter, &value))) *out = (ull)value; /* 0 volatile, 1 aggregate */
    return state_leave(code);
}

API int nvmlDeviceGetMemoryErrorCounter(device_t *gpu, int type, int counter, int location, ull *out) {
    BEGIN(gpu);
    char key[48];
    long long value;
    snprintf(key, sizeof key, "ecc.%d.%d", type, counter);
    if (!(code = call_numbered(number, key, location, &value))) *out = (ull)value;
    return state_leave(code);
}

API int nvmlDeviceGetRemappedRows(device_t *gpu, uint *corrected, uint *uncorrected, uint *pending, uint *failed) {
    BEGIN(gpu);
    const char *text = state_text(number, "remapped");
    if (!text) return state_leave(NOT_SUPPORTED);
    int read = sscanf(text, "%u %u %u %u", corrected, uncorrected, pending, failed);
    return state_leave(read == 4 ? SUCCESS : UNKNOWN);
}

API int nvmlDeviceGetRowRemapperHistogram(device_t *gpu, uint *out) {
    BEGIN(gpu);
    const char *text = state_text(number, "remap_histogram");
    if (!text) return state_leave(NOT_SUPPORTED);
    int read = sscanf(text, "%u %u %u %u %u", &out[0], &out[1], &out[2], &out[3], &out[4]);
    return state_leave(read == 5 ? SUCCESS : UNKNOWN);
}

static int retired(int gpu, int cause, uint *count, ull *pages, ull *times) {
    long long wanted;
    int code = call_numbered(gpu, "retired", cause, &wanted); /* 0 many single-bit errors, 1 a double-bit error */
    if (code) return code;
    uint room = *count;
    *count = (uint)wanted;
    if (room < wanted || !pages) return wanted ? INSUFFICIENT_SIZE : SUCCESS;
    for (uint at = 0; at < wanted; at++) {
        pages[at] = 0x10000ull * (at + 1);
        if (times) times[at] = 1700000000ull + at;
    }
    return SUCCESS;
}

API int nvmlDeviceGetRetiredPages(device_t *gpu, int cause, uint *count, ull *pages) {
    BEGIN(gpu);
    return state_leave(retired(number, cause, count, pages, NULL));
}

API int nvmlDeviceGetRetiredPages_v2(device_t *gpu, int cause, uint *count, ull *pages, ull *times) {
    BEGIN(gpu);
    return state_leave(retired(number, cause, count, pages, times));
}

/* ---- links and fields */

API int nvmlDeviceGetNvLinkErrorCounter(device_t *gpu, int link, int counter, ull *out) {
    BEGIN(gpu);
    char key[32];
    long long value;
    snprintf(key, sizeof key, "link_error.%d", link);
    if (!(code = call_numbered(number, key, counter, &value))) *out = (ull)value;
    return state_leave(code);
}

API int nvmlDeviceGetNvLinkRemotePciInfo_v2(device_t *gpu, int link, pci_t *out) {
    BEGIN(gpu);
    char key[32];
    snprintf(key, sizeof key, "link_remote.%d", link);
    return state_leave(call_fill_pci(state_text(number, key), out));
}

/* One field: "CODE TYPE VALUE" under field.ID.SCOPE or field.ID. */
static void fill_field(int gpu, field_t *field) {
    char key[48];
    struct timeval now;
    gettimeofday(&now, NULL);
    field->time = now.tv_sec * 1000000LL + now.tv_usec;
    snprintf(key, sizeof key, "field.%u.%u", field->field, field->scope);
    const char *text = state_text(gpu, key);
    snprintf(key, sizeof key, "field.%u", field->field);
    if (!text) text = state_text(gpu, key);
    field->code = NOT_SUPPORTED;
    char value[64] = "0";
    if (!text || sscanf(text, "%d %u %63s", &field->code, &field->type, value) < 1) return;
    switch (field->type) {
    case 0: field->value.real = strtod(value, NULL); break;
    case 1: field->value.u32 = (uint)strtoul(value, NULL, 0); break;
    case 2: case 3: field->value.u64 = strtoull(value, NULL, 0); break;
    case 4: field->value.s64 = strtoll(value, NULL, 0); break;
    case 5: field->value.s32 = (int)strtol(value, NULL, 0); break;
    default: field->value.u16 = (unsigned short)strtoul(value, NULL, 0);
    }
}

API int nvmlDeviceGetFieldValues(device_t *gpu, int count, field_t *fields) {
    BEGIN(gpu);
    for (int at = 0; at < count; at++) fill_field(number, &fields[at]);
    return state_leave(SUCCESS);
}
