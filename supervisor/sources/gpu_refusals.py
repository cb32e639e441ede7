"""When the driver as a whole refuses to answer. Part of the probe: standard library only."""

from __future__ import annotations

from typing import Any

from supervisor.sources.gpu_probe_calls import NO_PERMISSION, OPERATING_SYSTEM, VERSION_MISMATCH

#: What nvmlInit says, as a state of the driver (core.gpus.events.GpusSeen).
INIT_STATES = {
    12: "no-library",
    9: "no-driver",
    VERSION_MISMATCH: "version-mismatch",
    NO_PERMISSION: "no-permission",
    OPERATING_SYSTEM: "no-permission",
}


def refusal(values: dict[str, Any]) -> int:
    """The code with which the driver as a whole refuses to answer: the same for everything; 0 if it does not."""
    told = [value for value in values.values() if value is not None]
    codes = {value[0] if isinstance(value, list) else 0 for value in told}
    code = codes.pop() if len(codes) == 1 else 0
    return code if code in INIT_STATES else 0
