"""What a healthy GPU of the fake driver answers: the keys of the state file and their values."""

from __future__ import annotations

GIB = 1 << 30
Value = int | str

# Bus numbers of slots in a common server with two sockets, and eight more.
_BUSES = (
    0x3B,
    0x5E,
    0x86,
    0xAF,
    0xC1,
    0xD8,
    0xE1,
    0xE9,
    0xEB,
    0xED,
    0xEF,
    0xF1,
    0xF3,
    0xF5,
    0xF7,
    0xF9,
)  # rising, as indices are
UNSIGNED_INT, UNSIGNED_LONG_LONG, SIGNED_INT = 1, 3, 5  # NVML_VALUE_TYPE_…
RECOVERY_ACTION = 230  # NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
XID_EVENT = 0x8  # nvmlEventTypeXidCriticalError


def bus_id(number: int) -> str:
    """Return the bus id as the kernel's sysfs writes it: 0000:3b:00.0."""
    return f"0000:{_BUSES[number]:02x}:00.0"


def uuid(number: int) -> str:
    """Return a UUID that is the same in every test."""
    return f"GPU-{0xFA4E0000 + number:08x}-0000-4000-8000-{number:012x}"


def board(number: int, count: int, name: str) -> dict[str, Value]:
    """Return every key of a healthy, idle L40S-like GPU."""
    return {
        **_identity(number, count, name),
        **_condition(),
        **_limits(),
        **_memory(),
        "pcie_width": 16,
        "pcie_width_max": 16,
        "pcie_gen": 1,  # an idle board saves power
        "pcie_gen_max": 4,
        "pcie_replays": 0,
        **_fields(),
    }


def _identity(number: int, count: int, name: str) -> dict[str, Value]:
    return {
        "listed": 1,
        "uuid": uuid(number),
        "name": name,
        "serial": f"13226240{number:05d}",
        "bus_id": f"0000{bus_id(number).upper()}",
        "minor": number,
        "vbios": "95.02.66.00.02",
        "inforom": "G133.0242.00.03",
        "part_number": "900-2G133-0080-000",
        "brand": 14,
        "architecture": 8,
        "cores": 18176,
        "capability_major": 8,
        "capability_minor": 9,
        "numa": 0 if number < max(count // 2, 1) else 1,
    }


def _condition() -> dict[str, Value]:
    return {
        "utilization": 0,
        "utilization_memory": 0,
        "temperature": 34,
        "margin": 54,  # down to the slowdown temperature: T.Limit
        "power_mw": 36_000,
        "energy_mj": 1_000_000,
        "reasons": 0x1,  # idle
        "reasons_supported": 0x1FF,
        "pstate": 8,
        "clock.0": 210,
        "clock.1": 210,
        "clock.2": 405,
        "clock_max.0": 2520,
        "clock_max.1": 2520,
        "clock_max.2": 9001,
        "compute_mode": 0,
        "display": 0,
        "persistence": 1,
        "accounting": 0,
        "mig": 0,
        "mig_pending": 0,
        "mig_devices": 0,
        "encoder": 0,
        "encoder_period": 167_000,
        "decoder": 0,
        "decoder_period": 167_000,
        "event_types": 0x1F,
        **{f"violation_ns.{policy}": 0 for policy in range(7)},
    }


def _limits() -> dict[str, Value]:
    return {
        "power_limit_mw": 350_000,
        "power_default_mw": 350_000,
        "power_min_mw": 100_000,
        "power_max_mw": 350_000,
        "threshold.0": 96,  # shutdown
        "threshold.1": 92,  # slowdown
        "threshold.3": 88,  # highest for work
    }


def _memory() -> dict[str, Value]:
    counters = {f"ecc.{kind}.{life}": 0 for kind in (0, 1) for life in (0, 1)}
    places = {f"{key}.{place}": 0 for key in counters for place in (0, 2, 7)}
    return {
        "memory_total": 46068 << 20,
        "memory_used": 3 << 20,
        "memory_reserved": 600 << 20,
        "bar1_total": 64 * GIB,
        "ecc_mode": 1,
        "ecc_mode_pending": 1,
        **counters,
        **places,
        "remapped": "0 0 0 0",
        "remap_histogram": "192 0 0 0 0",
    }


def _fields() -> dict[str, Value]:
    offsets = {193: -5, 194: -2, 195: 0, 196: 0}  # shutdown, slowdown, memory and GPU maximum, against T.Limit
    return {
        **{f"field.{number}": f"0 {SIGNED_INT} {offset}" for number, offset in offsets.items()},
        **{f"field.{number}": f"0 {UNSIGNED_INT} 0" for number in range(173, 184)},
        f"field.{RECOVERY_ACTION}": f"0 {UNSIGNED_INT} 0",
    }
