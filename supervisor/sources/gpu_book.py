"""The records of all GPUs, and what is told of each: findings that begin and end, and who else is on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from supervisor.clock import Clock
from supervisor.core.events import Event, GpuFound, GpuHeld, XidSeen
from supervisor.core.gpus import limits as limit_table
from supervisor.core.gpus.limits import Limits
from supervisor.core.gpus.model import GpuFacts
from supervisor.core.gpus.readings import Reading
from supervisor.core.model import World
from supervisor.machine.gpu_processes import GpuProcesses
from supervisor.sources.gpu_life import Watching
from supervisor.sources.gpu_record import Record
from supervisor.sources.xid_folding import Folder

ORIGIN = "gpus"


class Book:
    """Turns what the probe says of a GPU into events. For one thread, but `readings` may be asked from any."""

    def __init__(
        self,
        watching: Watching,
        put: Callable[[Event], None],
        world: Callable[[], World],
        clock: Clock,
        facts_of: Callable[[str], GpuFacts],
    ) -> None:
        """`facts_of` tells who a GPU is."""
        self._watching = watching
        self._put = put
        self._world = world
        self._clock = clock
        self._facts_of = facts_of
        self._records: dict[str, Record] = {}
        self._limits: dict[str, Limits] = {}
        self._folder = Folder()
        self.processes = GpuProcesses(world)

    def get(self, uuid: str) -> Record | None:
        """The record of a GPU, if there is one."""
        return self._records.get(uuid)

    def record(self, uuid: str) -> Record:
        """The record of a GPU, begun with what the world knows of it."""
        if uuid not in self._records:
            gpu = self._world().gpus.get(uuid)
            findings, holders = (gpu.findings, gpu.holders) if gpu is not None else ({}, ())
            self._records[uuid] = Record(self._facts_of(uuid), findings, holders)
        return self._records[uuid]

    def records(self) -> list[Record]:
        """All of them."""
        return list(self._records.values())

    def readings(self) -> dict[str, Reading]:
        """The newest reading of each GPU by its UUID."""
        now = self._clock.now()
        found = {record.facts.uuid: record.reading(now) for record in self.records()}
        return {uuid: reading for uuid, reading in found.items() if reading is not None}

    def take(self, line: Mapping[str, Any]) -> Record:
        """Take a reading in, and tell what follows from it."""
        record = self.record(line["gpu"])
        self._found(record.take(line, self._watching.every_s, self._limits_of(record.facts), self._clock.now()))
        if "fast" in line["tiers"] and record.error is None:
            holders = self.processes.holders(record.processes)
            if record.now_held_by(holders):
                self._put(GpuHeld(at=self._clock.now(), origin=ORIGIN, gpu=record.facts.uuid, holders=holders))
        return record

    def refuse(self, uuid: str, code: int, name: str) -> Record:
        """Note that the handle of a GPU could not be found."""
        record = self.record(uuid)
        self._found(record.cannot_be_read(code, name, self._limits_of(record.facts), self._clock.now()))
        return record

    def open(self, uuid: str, kind: str, source: str, text: str) -> None:
        """Tell that something was found, unless it is told already in these words."""
        record = self.record(uuid)
        if record.told.get((kind, source)) != text:
            record.told[kind, source] = text
            self._put(self._finding(uuid, kind, source, text))

    def close(self, uuid: str, kind: str, source: str, text: str) -> None:
        """Tell that it is over, if it was told."""
        if self.record(uuid).told.pop((kind, source), None) is not None:
            self._put(replace(self._finding(uuid, kind, source, text), open=False))

    def xid(self, uuid: str, number: int) -> None:
        """Tell of an Xid that NVML delivered. It says neither whose process it was nor anything else."""
        bus_id = self._records[uuid].facts.bus_id if uuid in self._records else ""
        text = f"NVML tells of Xid {number}"
        at = self._clock.now()
        event = XidSeen(at=at, origin=ORIGIN, xid=number, text=text, gpu=uuid, bus_id=bus_id, source="nvml")
        self._folder.told((uuid, number), (), event, at)
        self._put(event)

    def is_counted_only(self, uuid: str, number: int) -> bool:
        """Count an Xid that was told less than a minute ago; False if it must be told."""
        return self._folder.again((uuid, number), (), self._clock.now())

    def tell_totals(self) -> None:
        """Tell how often Xids came again, of which only the first was told."""
        for event in self._folder.over(self._clock.now()):
            self._put(event)

    def _finding(self, uuid: str, kind: str, source: str, text: str) -> GpuFound:
        return GpuFound(at=self._clock.now(), origin=ORIGIN, gpu=uuid, finding=kind, source=source, text=text)

    def _found(self, found: tuple[GpuFound, ...]) -> None:
        for event in found:
            self._put(replace(event, origin=ORIGIN))

    def _limits_of(self, facts: GpuFacts) -> Limits:
        if facts.uuid not in self._limits:
            tables, every_s = self._watching.limits(facts.uuid), self._watching.every_s
            made = limit_table.for_gpu(facts.name, *tables, fast_s=every_s["fast"], slow_s=every_s["slow"])
            self._limits[facts.uuid] = made
        return self._limits[facts.uuid]
