"""A fresh look at a GPU before something is done with it: does it answer, is something pending, who is on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from supervisor.core.gpus import readings
from supervisor.core.gpus.leases import holder_words
from supervisor.core.gpus.model import Gpu, GpuFacts, Holder
from supervisor.core.gpus.readings import Reading
from supervisor.core.model import World

LOOK_S = 5.0  # a healthy driver answers within milliseconds, one without persistence mode within seconds

_ERRORS = {readings.LOST: "is lost", readings.RESET_REQUIRED: "must be reset"}
#: What the driver wants done (field 230, nvml.h: NVML_GPU_RECOVERY_ACTION_*).
_PENDING = {
    1: "must be reset, says the driver",
    2: "needs a restart of the machine, says the driver",
    3: "wants to be idle, says the driver",
    4: "wants a reset when it is idle, says the driver",
    6: "must be reset, says the driver",
    7: "needs a restart of the machine, says the driver",
}


class GpuEyes(Protocol):
    """Who watches the GPUs. Safe to be asked from any thread."""

    def look(self, gpus: Sequence[str], timeout_s: float, /) -> Mapping[str, Reading]:
        """Read those GPUs (UUIDs) anew, both tiers; one that did not answer within the time is not in the answer.

        What follows from it (findings, holders) has been reported before this returns. Never raises for a driver.
        """
        ...

    def holders(self, gpu: str, /) -> tuple[tuple[int, ...], tuple[Holder, ...]]:
        """Return the processes that compute on a GPU at the last look: pids of our trainings, and everybody else."""
        ...

    def graphics(self, gpu: str, /) -> tuple[tuple[int, int | None], ...]:
        """Return pid and bytes (None: not told) of the processes that only draw on a GPU, such as a desktop's."""
        ...


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as it was just now. `ours` are pids of our trainings, `others` everybody else who computes on it.

    `graphics` only draw (a desktop): they have memory, and are in nobody's way.
    """

    gpu: Gpu
    reading: Reading | None
    ours: tuple[int, ...] = ()
    others: tuple[Holder, ...] = ()
    graphics: tuple[tuple[int, int | None], ...] = ()

    @property
    def trouble(self) -> str:
        """Why it cannot be used at all, such as `GPU 3 does not answer`; empty if it can."""
        if self.reading is None:
            return f"{self.gpu.label} does not answer"
        if self.reading.error is not None:
            error = self.reading.error
            return f"{self.gpu.label} {_ERRORS.get(error.code, f'cannot be read: {error.name or error.code}')}"
        action = int(readings.number(self.reading, "recovery_action") or 0)
        if not action:
            return ""
        return f"{self.gpu.label} {_PENDING.get(action, f'wants recovery action {action}, says the driver')}"

    @property
    def users(self) -> str:
        """Who is on it, such as `GPU 3: pid 4242 of alice holds 18 GiB`; empty if nobody is."""
        if self.others:
            return f"{self.gpu.label}: {holder_words(self.others)}"
        return f"{self.gpu.label}: pid {self.ours[0]} of a training is on it" if self.ours else ""

    def bytes(self, name: str) -> int | None:
        """A size of its memory; None if it was not told."""
        value = readings.number(self.reading, name) if self.reading is not None else None
        return None if value is None else int(value)

    @property
    def loose_bytes(self) -> int:
        """How much of its memory is in use by nobody who is listed; 0 where somebody's share is not told."""
        used, strangers = self.bytes("memory_used_bytes"), (*(one.used_bytes for one in self.others), *self._drawn())
        if used is None or self.ours or None in strangers:
            return 0
        return used - sum(one or 0 for one in strangers)

    def _drawn(self) -> tuple[int | None, ...]:
        return tuple(used for _, used in self.graphics)


def see(eyes: GpuEyes, world: World, gpus: Sequence[str], timeout_s: float = LOOK_S) -> list[Seen]:
    """Look at GPUs (UUIDs) now, all at once."""
    found = eyes.look(gpus, timeout_s)
    return [_seen(eyes, known(world, uuid), found.get(uuid)) for uuid in gpus]


def _seen(eyes: GpuEyes, gpu: Gpu, reading: Reading | None) -> Seen:
    if reading is None or reading.error is not None:
        return Seen(gpu=gpu, reading=reading)
    ours, others = eyes.holders(gpu.uuid)
    return Seen(gpu=gpu, reading=reading, ours=ours, others=others, graphics=eyes.graphics(gpu.uuid))


def known(world: World, uuid: str) -> Gpu:
    """What is known of a GPU; one that is only a number in PCI order, where nobody watches GPUs, has that index."""
    gpu = world.gpus.get(uuid)
    if gpu is not None:
        return gpu
    return Gpu(uuid=uuid, facts=GpuFacts(uuid=uuid, index=int(uuid) if uuid.isdigit() else -1))
