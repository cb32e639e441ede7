"""A day of 16 GPUs through the judge: how long that takes, and whether each fault was found, once, and nothing else.

    python -m benchmarks.gpu_replay [--json] [--gpus 16] [--hours 24] [--seed 1]

Exit code 0 if it is quick enough and all faults and only those were found, 1 otherwise.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.figures import Figure, as_json, as_table
from benchmarks.machine import facts
from supervisor.core.gpus.events import GpuFound
from supervisor.core.gpus.judge import State, judge
from supervisor.core.gpus.limits import for_gpu
from supervisor.core.gpus.readings import ABSENT, Failed, Reading, Value

GOAL_S = 60.0
FAST_S = 5.0
SLOW_EVERY = 12
START = 1_760_000_000.0
#: A fault and the quiet time after it take less than this, so that each is one finding.
SLOT_S = 3 * 3600.0

FAST: dict[str, Value] = {
    "power_limit_w": 350.0,
    "margin_c": 25.0,
    "memory_used_bytes": 40 << 30,
    "memory_total_bytes": 48 << 30,
    "gpu_utilization": 0.98,
    "clocks_event_reasons": 4,
    "throttled_ns": 0,
    "processes": 1,
}
SLOW: dict[str, Value] = {
    "power_default_w": 350.0,
    "slowdown_c": ABSENT,
    "shutdown_c": ABSENT,
    "ecc_uncorrected": 0,
    "remap_pending": 0,
    "remap_failed": 0,
    "remapped_rows": 0,
    "retired_pages": ABSENT,
    "recovery_action": 0,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "pcie_generation": 4,
    "pcie_generation_max": 4,
    "nvlink_down": 0,
    "persistence": 1,
    "mig": 0,
}


@dataclass(frozen=True)
class Fault:
    """Values that are so for some seconds, and the findings that come of it. `per_s`: counters that grow."""

    kinds: frozenset[str]
    lasts_s: float
    values: dict[str, Value] = field(default_factory=dict)
    per_s: dict[str, float] = field(default_factory=dict)
    error: Failed | None = None


FAULTS = (
    Fault(frozenset({"lost"}), 300, error=Failed(15, "GpuIsLost")),
    Fault(frozenset({"reset-required"}), 300, error=Failed(16, "ResetRequired")),
    Fault(frozenset({"unknown-error"}), 120, error=Failed(999, "Unknown")),
    Fault(frozenset({"recovery-reset"}), 300, {"recovery_action": 1}),
    Fault(frozenset({"recovery-drain"}), 300, {"recovery_action": 4}),
    Fault(frozenset({"hot"}), 900, {"margin_c": 4.0}),
    Fault(frozenset({"hot", "too-hot"}), 900, {"margin_c": -4.0}),
    Fault(frozenset({"throttled"}), 600, {"clocks_event_reasons": 0x48}),
    Fault(frozenset({"slowed"}), 900, {"clocks_event_reasons": 0x8}),
    Fault(frozenset({"slow-by-heat"}), 900, {"clocks_event_reasons": 0x20}),
    Fault(frozenset({"ecc-uncorrected"}), 600, {"ecc_uncorrected": 2}),
    Fault(frozenset({"ecc-rate"}), 1200, per_s={"ecc_corrected": 17700.0}),
    Fault(frozenset({"remap-pending"}), 600, {"remap_pending": 1}),
    Fault(frozenset({"pcie-narrow"}), 600, {"pcie_width": 4}),
    Fault(frozenset({"pcie-slow"}), 600, {"pcie_generation": 1}),
    Fault(frozenset({"pcie-replays", "pcie-storm"}), 600, per_s={"pcie_replays": 9.0}),
    Fault(frozenset({"nvlink-down"}), 300, {"nvlink_down": 4}),
    Fault(frozenset({"nvlink-errors"}), 300, per_s={"nvlink_errors": 0.5}),
    Fault(
        frozenset({"stuck-utilization"}),
        1200,
        {"gpu_utilization": 1.0, "processes": 0, "power_w": 70.0, "pcie_generation": 1},
    ),
    # What must not be found: too short, at rest, missing.
    Fault(frozenset(), 240, {"margin_c": -1.0}),
    Fault(frozenset(), 1200, {"power_w": 60.0, "gpu_utilization": 0.0, "processes": 0, "pcie_generation": 1}),
    Fault(frozenset(), 1200, {"margin_c": Failed(3, "NotSupported"), "ecc_uncorrected": Failed(999, "Unknown")}),
    Fault(frozenset(), 900, {"clocks_event_reasons": 0x117}),
)


@dataclass
class Outcome:
    """What a replay brought: the seconds of judging alone, and events beside those that were to be."""

    readings: int = 0
    judged_s: float = 0.0
    found: Counter[tuple[int, str, bool]] = field(default_factory=Counter)
    expected: Counter[tuple[int, str, bool]] = field(default_factory=Counter)

    def note(self, card: int, events: tuple[GpuFound, ...]) -> None:
        """Count events of a GPU."""
        for event in events:
            self.found[card, event.finding, event.open] += 1

    @property
    def wrong(self) -> int:
        """How many events are missing or too many."""
        return (self.found - self.expected).total() + (self.expected - self.found).total()


def readings_of(card: int, seconds: float, seed: int, outcome: Outcome) -> Iterator[Reading]:
    """Yield the readings of one GPU in both tiers; in each slot of some hours there is one fault."""
    dice = random.Random(f"{seed} {card}")
    uuid = f"GPU-{card:08x}"
    counters = {"ecc_corrected": 0.0, "pcie_replays": 0.0, "nvlink_errors": 0.0, "energy_j": 0.0}
    begins_s, fault = -1.0, FAULTS[0]
    for number in range(int(seconds / FAST_S)):
        second = number * FAST_S
        if second % SLOT_S == 0:
            begins_s, fault = second + dice.uniform(600, 1800), dice.choice(FAULTS)
            outcome.expected.update((card, kind, opened) for kind in fault.kinds for opened in (True, False))
        on = begins_s <= second < begins_s + fault.lasts_s
        at = START + second + dice.uniform(0, 0.2)
        if on and fault.error is not None:
            yield Reading(gpu=uuid, at=at, error=fault.error)
            continue
        counters["energy_j"] += 310 * FAST_S
        for name, per_s in fault.per_s.items() if on else ():
            counters[name] += per_s * FAST_S
        values = FAST | {"power_w": dice.uniform(290, 340), "temperature_c": dice.uniform(58, 64)}
        if number % SLOW_EVERY == 0:
            values |= SLOW | {name: int(count) for name, count in counters.items()}
        if on:
            values |= {name: value for name, value in fault.values.items() if name in values}
        yield Reading(gpu=uuid, at=at, values=values)


def replay(cards: int, hours: float, seed: int) -> Outcome:
    """Fold all readings of all GPUs, a GPU after the other; only the judging is timed."""
    outcome = Outcome()
    limits = for_gpu("NVIDIA L40S")
    for card in range(cards):
        state = State()
        readings = list(readings_of(card, hours * 3600, seed, outcome))
        before_s = time.perf_counter()
        for reading in readings:
            state, events = judge(state, reading, limits, reading.at)
            if events:
                outcome.note(card, events)
        outcome.judged_s += time.perf_counter() - before_s
        outcome.readings += len(readings)
    return outcome


def figures_of(outcome: Outcome, cards: int, hours: float) -> list[Figure]:
    """Return the figures of a replay. The goal is that of a day of 16 GPUs, less for less."""
    goal_s = GOAL_S * (cards * hours) / (16 * 24)
    opened = sum(count for (_, _, began), count in outcome.found.items() if began)
    how = f"{outcome.readings:,} readings of {cards} GPUs, {hours:g} h at 5 s and 60 s, {opened} findings in them"
    each_us = outcome.judged_s / max(outcome.readings, 1) * 1e6
    return [
        Figure("a day of GPUs through the judge", outcome.judged_s, "s", goal_s, how),
        Figure("each reading", each_us, "µs", None, "mean, judging alone"),
        Figure("findings missing or too many", float(outcome.wrong), "", 0.0, "of those that the faults must lead to"),
    ]


def main() -> int:
    """Replay, print, and tell by the exit code whether all goals were reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--gpus", type=int, default=16, help="how many GPUs (default 16)")
    parser.add_argument("--hours", type=float, default=24.0, help="how long (default 24)")
    parser.add_argument("--seed", type=int, default=1, help="of the drawn faults (default 1)")
    options = parser.parse_args()
    machine = facts()
    figures = figures_of(replay(options.gpus, options.hours, options.seed), options.gpus, options.hours)
    print(as_json(figures, machine) if options.json else as_table(figures, machine))
    return 0 if all(figure.ok is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
