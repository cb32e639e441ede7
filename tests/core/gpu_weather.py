"""Readings of a GPU as a probe with two tiers makes them, from phases: so long this, so long that."""

from __future__ import annotations

from math import floor

from supervisor.core.gpus.judge import State, judge
from supervisor.core.gpus.limits import Limits
from supervisor.core.gpus.readings import ABSENT, SLOW_NAMES, Failed, Reading

START = 1_760_000_010.0
FAST_S = 5.0
SLOW_S = 60.0
GPU = "GPU-5e1f0000-0000-0000-0000-000000000003"

#: A card at work that is well. It tells its margin, as newer ones do.
WELL = {
    "power_w": 310.0,
    "power_limit_w": 350.0,
    "power_default_w": 350.0,
    "temperature_c": 61.0,
    "margin_c": 26.0,
    "slowdown_c": ABSENT,
    "shutdown_c": ABSENT,
    "memory_used_bytes": 20 << 30,
    "memory_total_bytes": 48 << 30,
    "gpu_utilization": 0.97,
    "clocks_event_reasons": 0x4,
    "energy_j": 1e6,
    "ecc_uncorrected": 0,
    "ecc_corrected": 3,
    "remap_pending": 0,
    "remap_failed": 0,
    "remapped_rows": 1,
    "retired_pages": ABSENT,
    "recovery_action": 0,
    "pcie_replays": 12,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "pcie_generation": 4,
    "pcie_generation_max": 4,
    "nvlink_down": 6,
    "nvlink_errors": 0,
    "persistence": 1,
    "mig": 0,
    "throttled_ns": 0,
    "processes": 1,
}
#: What an older card or a GeForce tells instead of a margin.
WITHOUT_MARGIN = {"margin_c": ABSENT, "slowdown_c": 90.0}


class Grows(float):
    """A counter that grows by so much a second, from where it is."""


class Weather:
    """Feeds phases to the judge and keeps what it said. Values of a phase are those of a card that is well, changed."""

    def __init__(self, limits=None, base=None):
        self.limits = limits or Limits()
        self.base = WELL | (base or {})
        self.counters = {}
        self.at = START
        self.slow_at = START
        self.state = State()
        self.events = []

    def phase(self, seconds, changes=None, *, step_s=FAST_S):
        """Go on for so long with these values; "error" fails the reading as a whole, "only" leaves all others out."""
        end = self.at + seconds
        while self.at < end:
            self.read(self._values(changes or {}, step_s))
            self.at += step_s
        return self

    def silence(self, seconds):
        """The probe is down for so long."""
        self.at += seconds
        return self

    def read(self, values):
        """One reading, now."""
        error = values.pop("error", None)
        reading = Reading(gpu=GPU, at=self.at, values={} if error else values, error=error)
        self.state, events = judge(self.state, reading, self.limits, self.at)
        self.events.extend(events)

    def _values(self, changes, step_s):
        values = self.base | changes
        for name, value in values.items():
            if isinstance(value, Grows):
                before = self.counters.get(name, float(self.base[name] if name in changes else 0))
                self.counters[name] = before + value * step_s
                values[name] = floor(self.counters[name] + 1e-6)
            elif name in self.counters and name not in changes:
                values[name] = floor(self.counters[name] + 1e-6)
            elif name in self.counters:
                self.counters[name] = value
        if self.at >= self.slow_at:
            self.slow_at = self.at + SLOW_S
            return values
        return {name: value for name, value in values.items() if name not in SLOW_NAMES}

    def told(self, kind):
        """Whether it began or ended, in order, of one kind."""
        return [event.open for event in self.events if event.finding == kind]


def failed(code, name=""):
    """A reading that failed as a whole."""
    return {"error": Failed(code, name)}
