"""Which GPUs the driver lists: put together from what the probe says of each index and from what was known before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from supervisor.core.gpus import xids
from supervisor.core.gpus.model import Finding, GpuFacts
from supervisor.core.model import World
from supervisor.machine import pci
from supervisor.sources.gpu_record import facts_of, linked

#: What is left alone although it could never be named: this, and its index.
NAMELESS = "#"


class Listing:
    """The driver's list. A GPU whose handle cannot be found has no UUID there: it is told by who the others are."""

    def __init__(self, world: Callable[[], World]) -> None:
        """`world` knows the GPUs of earlier lives."""
        self._world = world
        self.state: str | None = None
        self.version = ""
        self._count = 0
        self._by_index: dict[int, str] = {}
        self._facts: dict[str, GpuFacts] = {}
        self._peers: dict[str, tuple[str, ...]] = {}
        self._asked: set[int] = set()
        self._codes: dict[int, int] = {}

    def begin(self, count: int, state: str | None = None, version: str = "") -> None:
        """A probe opened the driver, or could not."""
        self.state, self.version = state, version or self.version
        if count != self._count:  # indices may mean others now
            self._by_index = {}
        self._count = count
        self._asked, self._codes = set(), {}

    def answered(self, index: int, told: Mapping[str, Any], bus: Mapping[str, pci.Slot]) -> None:
        """The probe found the handle of a GPU."""
        facts = facts_of(told, index, -1)
        slot = bus.get(facts.bus_id)
        self._facts[facts.uuid] = replace(facts, numa=slot.numa) if slot is not None else facts
        self._codes.pop(index, None)
        self._peers[facts.uuid] = tuple(told.get("peers", ()))
        self._set(index, facts.uuid)

    def refused(
        self, index: int, code: int, bus: Mapping[str, pci.Slot], uuids_by_driver: Callable[[], Mapping[str, str]]
    ) -> None:
        """The handle of a GPU could not be found: it is who it was, or who is left on the bus and has not answered."""
        self._asked.add(index)
        self._codes[index] = code
        uuid = self._by_index.get(index, "") or self._left_over(index, bus, uuids_by_driver)
        if uuid:
            self._set(index, uuid)

    def is_complete(self, left: Iterable[int]) -> bool:
        """Tell whether every GPU that may be asked was asked."""
        return self.state == "ok" and self._asked | set(left) >= set(range(self._count))

    def all_refused(self, codes: set[int]) -> bool:
        """Tell whether every single GPU was refused, and with one of these codes."""
        return len(self._codes) == self._count and set(self._codes.values()) <= codes

    def index(self, uuid: str) -> int | None:
        """The index that the driver gives to a GPU; None if nobody knows."""
        if uuid.startswith(NAMELESS):
            return int(uuid.removeprefix(NAMELESS))
        for index, known in self._by_index.items():
            if known == uuid:
                return index
        gpu = self._world().gpus.get(uuid)
        return gpu.facts.index if gpu is not None and gpu.present else None

    def uuid_of(self, index: int) -> str:
        """The UUID of the GPU at an index, as of this life or the last one; empty if nobody knows."""
        if index in self._by_index:
            return self._by_index[index]
        taken = set(self._by_index.values())
        known = (gpu for gpu in self._world().gpus.values() if gpu.present and gpu.uuid not in taken)
        return next((gpu.uuid for gpu in known if gpu.facts.index == index), "")

    def facts(self, uuid: str) -> GpuFacts:
        """Who a GPU is, as far as it is known."""
        if uuid in self._facts:
            return self._facts[uuid]
        gpu = self._world().gpus.get(uuid)
        return gpu.facts if gpu is not None else GpuFacts(uuid=uuid, index=self.index(uuid) or 0)

    def gpus(self) -> tuple[GpuFacts, ...]:
        """All that the driver lists, by index."""
        named = [(index, self.uuid_of(index)) for index in range(self._count)]
        found = [replace(self.facts(uuid), index=index) for index, uuid in named if uuid]
        known = {one.uuid: self._peers[one.uuid] for one in found if one.uuid in self._peers}
        with_links = linked(found, known)
        return tuple(new if new.uuid in known else old for old, new in zip(found, with_links, strict=True))

    def trouble(self) -> str:
        """Words about GPUs that the driver counts and nobody can name."""
        nameless = [index for index in range(self._count) if not self.uuid_of(index)]
        if not nameless:
            return ""
        numbers = ", ".join(map(str, nameless))
        return f"the driver lists a GPU at index {numbers} and gives no handle for it, so that it cannot be named"

    def silent_before(self) -> list[str]:
        """UUIDs of GPUs that a call must not touch, as is known from an earlier life of the daemon."""
        found = []
        for gpu in self._world().gpus.values():
            quarantine = gpu.quarantine
            if quarantine is not None and xids.row(quarantine.xid).stops_nvml and not quarantine.met:
                found.append(gpu.uuid)
        return found

    def hung_before(self) -> list[str]:
        """UUIDs of GPUs that had not answered when an earlier life of the daemon ended."""
        gpus = self._world().gpus.values()
        return [gpu.uuid for gpu in gpus if gpu.present and any(map(_is_hang, gpu.findings.values()))]

    def _set(self, index: int, uuid: str) -> None:
        self._by_index = {other: known for other, known in self._by_index.items() if known != uuid}
        self._by_index[index] = uuid
        self._asked.add(index)

    def _left_over(
        self, index: int, bus: Mapping[str, pci.Slot], uuids_by_driver: Callable[[], Mapping[str, str]]
    ) -> str:
        """The driver counts in the order of the bus: where the bus has as many GPUs, the place says which it is."""
        if len(bus) != self._count:
            return ""
        bus_id = list(bus)[index]
        by_bus = {gpu.facts.bus_id: gpu.uuid for gpu in self._world().gpus.values()} | dict(uuids_by_driver())
        uuid = by_bus.get(bus_id, "")
        if uuid and uuid not in self._facts:
            self._facts[uuid] = GpuFacts(uuid=uuid, index=index, bus_id=bus_id, numa=bus[bus_id].numa)
        return uuid


def _is_hang(finding: Finding) -> bool:
    return (finding.kind, finding.source) == ("unresponsive", "nvml")
