"""What is known of one GPU from its readings: the newest values with their age, its judge, and who is on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from supervisor.core.gpus import judge
from supervisor.core.gpus.events import GpuFound
from supervisor.core.gpus.limits import Limits
from supervisor.core.gpus.model import Finding, GpuFacts, Holder
from supervisor.core.gpus.readings import ABSENT, FAST_NAMES, Failed, Reading, Stale, Value
from supervisor.core.gpus.xids import normal_bus_id
from supervisor.sources.gpu_probe_calls import STATIC

#: A value is stale when so many of its readings in a row were missed.
MISSED = 3
_STATIC_NAMES = frozenset(name for question in STATIC for name in question.names)
_USED_STEP_BYTES = 1 << 30  # a stranger's memory is told again when it changed by that much

Processes = tuple[tuple[int, int | None], ...]


class Record:
    """One GPU that the driver lists, or listed."""

    def __init__(self, facts: GpuFacts, findings: Mapping[str, Finding], holders: tuple[Holder, ...]) -> None:
        """`findings` and `holders` are what was known of it before: of what is over it is said that it is over."""
        self.facts = facts
        self.error: Failed | None = None
        self.processes: Processes = ()
        #: Who draws on it and does not compute, such as a desktop: it takes memory, and is in nobody's way.
        self.graphics: Processes = ()
        self.holders = holders
        #: Kind and source of what this source found apart from the judge, with its text.
        self.told = {(one.kind, one.source): one.text for one in findings.values() if _is_ours(one)}
        self.fast_at: float | None = None
        self.slow_at: float | None = None
        self._state = judge.begin({one.kind: one for one in findings.values() if one.source == "nvml"})
        self._values: dict[str, tuple[float, float, Value]] = {}

    def take(
        self, line: Mapping[str, Any], every_s: Mapping[str, float], limits: Limits, now: float
    ) -> tuple[GpuFound, ...]:
        """Take a reading of the probe in; what began or ended by it."""
        values = {name: value_of(told) for name, told in line["values"].items()}
        error = line["error"]
        if "fast" in line["tiers"] and error is None:
            self.processes = processes_of(line["processes"])
            computing = {pid for pid, _ in self.processes}
            self.graphics = tuple(one for one in processes_of(line.get("graphics")) if one[0] not in computing)
            values["processes"] = _count(line["processes"], len(self.graphics))
        new = {name: (now, every_s[_tier(name)], value) for name, value in values.items()}
        self._values = {**self._values, **new}  # never changed in place: other threads are reading it
        self.error = None if error is None else Failed(*error)
        self.fast_at = now if "fast" in line["tiers"] else self.fast_at
        self.slow_at = now if "slow" in line["tiers"] else self.slow_at
        return self._judge(Reading(gpu=self.facts.uuid, at=now, values=values, error=self.error), limits, now)

    def cannot_be_read(self, code: int, name: str, limits: Limits, now: float) -> tuple[GpuFound, ...]:
        """Its handle could not be found."""
        self.error = Failed(code, name)
        self.fast_at = self.slow_at = now
        return self._judge(Reading(gpu=self.facts.uuid, at=now, error=self.error), limits, now)

    def reading(self, now: float) -> Reading | None:
        """The newest of every value; what is older than some of its readings is stale. None before the first one."""
        if self.fast_at is None:
            return None
        values = {
            name: value if now - at <= MISSED * every_s else Stale(now - at)
            for name, (at, every_s, value) in self._values.items()
        }
        return Reading(gpu=self.facts.uuid, at=self.fast_at, values=values, error=self.error)

    def now_held_by(self, holders: tuple[Holder, ...]) -> bool:
        """Note who else is on it; True where that is news."""
        before = {holder.pid: holder for holder in self.holders}
        same = before.keys() == {holder.pid for holder in holders}
        if same and not any(_is_news(before[holder.pid], holder) for holder in holders):
            return False
        self.holders = holders
        return True

    def _judge(self, reading: Reading, limits: Limits, now: float) -> tuple[GpuFound, ...]:
        self._state, found = judge.judge(self._state, reading, limits, now)
        return found


def value_of(told: Any) -> Value:
    """Return a value as the probe writes it: a number, null or [code, name]."""
    if told is None:
        return ABSENT
    if isinstance(told, list):
        return Failed(int(told[0]), str(told[1]))
    number: float | int = told
    return number


def processes_of(told: list[Any] | None) -> Processes:
    """Return pid and bytes of each process; nobody where the driver did not say."""
    return tuple((pid, used) for pid, used in told) if _is_list(told) and told else ()


def facts_of(told: Mapping[str, Any], index: int, numa: int) -> GpuFacts:
    """Return who a GPU is, from what the probe says of it. Its links are not known yet."""
    persistence = told.get("persistence")
    return GpuFacts(
        uuid=told["uuid"],
        index=index,
        bus_id=normal_bus_id(told["bus_id"]) or told["bus_id"],
        name=told["name"],
        memory_bytes=int(told.get("memory_total_bytes", 0)),
        numa=numa,
        persistence=None if persistence is None else bool(persistence),
        mig=bool(told.get("mig", 0)),
    )


def linked(gpus: list[GpuFacts], peers: Mapping[str, tuple[str, ...]]) -> tuple[GpuFacts, ...]:
    """Return the GPUs with their NVLink neighbours; `peers`: bus ids by UUID, "switch" for a switch that joins all."""
    by_bus = {one.bus_id: one.uuid for one in gpus}
    switched = {uuid for uuid, ends in peers.items() if "switch" in ends}
    found = []
    for one in gpus:
        ends = {by_bus.get(normal_bus_id(end), "") for end in peers.get(one.uuid, ())}
        ends |= switched if one.uuid in switched else set()
        found.append(msgspec.structs.replace(one, links=tuple(sorted(ends - {"", one.uuid}))))
    return tuple(found)


def _tier(name: str) -> str:
    if name in FAST_NAMES:
        return "fast"
    return "static" if name in _STATIC_NAMES else "slow"


def _is_ours(finding: Finding) -> bool:
    return finding.kind == "unresponsive" or finding.source == "sysfs"


def _is_list(told: list[Any] | None) -> bool:
    return told is not None and (not told or isinstance(told[0], list))


def _count(told: list[Any] | None, graphics: int) -> Value:
    """How many are on it. Without an answer for those that compute, the others are no count of all."""
    return len(told) + graphics if told is not None and _is_list(told) else value_of(told)


def _is_news(old: Holder, new: Holder) -> bool:
    if (old.user, old.command) != (new.user, new.command) or (old.used_bytes is None) != (new.used_bytes is None):
        return True
    return abs((new.used_bytes or 0) - (old.used_bytes or 0)) >= _USED_STEP_BYTES
