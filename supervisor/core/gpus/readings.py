"""What the probe read of a GPU at one moment: numbers by name, and for what could not be read, why not."""

from __future__ import annotations

import msgspec

#: Codes of NVML that say something of the GPU as a whole (nvml.h: nvmlReturn_t).
LOST = 15
RESET_REQUIRED = 16
UNKNOWN = 999

#: The value names that a reading may have. The first group comes with the quick tier, the second with the slow one.
#: A reading has only those that were asked for: a name that is not there says nothing.
FAST_NAMES = frozenset(
    {
        "power_w",
        "power_limit_w",
        "temperature_c",
        "margin_c",  # degrees below the card's own limit (T.Limit); below 0 it is over it
        "memory_used_bytes",
        "memory_total_bytes",
        "gpu_utilization",  # 0..1
        "clocks_event_reasons",  # nvmlClocksEventReason* bits
        "energy_j",  # since the driver was loaded
        "throttled_ns",  # by heat or power, since the driver was loaded
        "processes",  # how many are on it
    }
)
SLOW_NAMES = frozenset(
    {
        "power_default_w",
        "slowdown_c",  # the temperature at which the hardware slows down
        "shutdown_c",
        "ecc_uncorrected",  # volatile: since the driver was loaded or the GPU was reset
        "ecc_corrected",  # volatile
        "remap_pending",  # 0 or 1
        "remap_failed",  # 0 or 1
        "remapped_rows",  # for errors that could not be corrected
        "retired_pages",
        "recovery_action",  # field 230: what the driver wants done, 0 nothing
        "pcie_replays",
        "pcie_width",  # lanes
        "pcie_width_max",
        "pcie_generation",
        "pcie_generation_max",
        "nvlink_down",  # how many links are down
        "nvlink_errors",  # of all links together, since the driver was loaded
        "persistence",  # 0 or 1
        "mig",  # 0 or 1
    }
)
NAMES = FAST_NAMES | SLOW_NAMES


class Absent(msgspec.Struct, frozen=True, tag=True):
    """The board or its driver has no such value."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It could not be read this time: NVML's code and its name for it."""

    code: int
    name: str = ""


class Stale(msgspec.Struct, frozen=True, tag=True):
    """It was not read anew: the newest value is this old, and no longer to be judged by."""

    age_s: float


#: A number, or why there is none. Never 0 for what is missing.
Value = float | int | Absent | Failed | Stale

ABSENT = Absent()


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of one GPU (its UUID) at a wall time. `error`: the GPU as a whole could not be read."""

    gpu: str
    at: float
    values: dict[str, Value] = {}
    error: Failed | None = None


def number(reading: Reading, name: str) -> float | None:
    """Return a value of a reading, or None if there is no number."""
    value = reading.values.get(name)
    return value if isinstance(value, (int, float)) else None
