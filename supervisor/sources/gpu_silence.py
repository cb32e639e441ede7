"""GPUs that no call may touch for now: because one hung, or because it is known that one would."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

THE_DRIVER = ""  # the driver as a whole


class Stuck(Protocol):
    """A probe that was ended and is still there: it hangs in the driver."""

    def ended(self) -> int | None:
        """None while it is there."""


class Silences:
    """Who is left alone, and until when.

    A GPU that hung is tried again when something about it changed, when the probe that hung in it came out, and
    otherwise ever more seldom. Never while a probe still hangs in it: a second one would hang beside it.
    """

    def __init__(self, retry_s: float, retry_max_s: float) -> None:
        """Seconds to the first try, and at most between two."""
        self._retry_s = retry_s
        self._retry_max_s = retry_max_s
        self._until: dict[str, float] = {}
        self._tries: dict[str, int] = {}
        self._stuck: dict[str, list[Stuck]] = {}
        self._told: set[str] = set()

    def names(self) -> list[str]:
        """Return the UUIDs of all GPUs that are left alone."""
        return sorted((self._until.keys() | self._told | self._stuck.keys()) - {THE_DRIVER})

    @property
    def stuck(self) -> int:
        """How many probes hang in the driver and cannot be ended."""
        return sum(map(len, self._stuck.values()))

    def begin(self, uuid: str, child: Stuck | None, now: float) -> float:
        """Leave a GPU alone because a call hung, in which `child` still is; the seconds until it is tried."""
        tries = self._tries[uuid] = self._tries.get(uuid, 0) + 1
        wait_s: float = min(self._retry_max_s, self._retry_s * 2.0 ** (tries - 1))
        self._until[uuid] = now + wait_s
        if child is not None:
            self._stuck.setdefault(uuid, []).append(child)
        return wait_s

    def of_driver(self, child: Stuck | None, now: float) -> float:
        """Leave the driver alone because opening it hung; the seconds until it is tried."""
        return self.begin(THE_DRIVER, child, now)

    def driver_may_be_asked(self) -> bool:
        """Tell whether no probe hangs in opening the driver."""
        self._forget_ended()
        return THE_DRIVER not in self._stuck

    def leave(self, uuid: str) -> None:
        """Leave a GPU alone until `end`: whatever changes about it."""
        self._told.add(uuid)

    def end(self, uuid: str) -> None:
        """It was treated: it may be asked again."""
        self._told.discard(uuid)
        self._until.pop(uuid, None)
        self._tries.pop(uuid, None)
        self._stuck.pop(uuid, None)

    def was_silent(self, uuid: str) -> bool:
        """Tell whether a GPU is being tried again, and has not answered yet."""
        return uuid in self._tries

    def answered(self, uuid: str) -> None:
        """It answers: the next hang of it is the first one again."""
        if uuid not in self._until:
            self._tries.pop(uuid, None)

    def changed(self, uuid: str) -> bool:
        """Something about it changed: True if it may be tried again now."""
        self._forget_ended()
        if uuid in self._until and uuid not in self._stuck and uuid not in self._told:
            del self._until[uuid]
            return True
        return False

    def over(self, now: float | None = None) -> list[str]:
        """Return whom the time has come for, or who is free as the probe in it has ended; each once."""
        now = time.monotonic() if now is None else now
        came_out = self._forget_ended()
        due = {uuid for uuid, at in self._until.items() if at <= now} | (came_out & self._until.keys())
        found = [uuid for uuid in sorted(due) if uuid not in self._stuck and uuid not in self._told]
        for uuid in found:
            del self._until[uuid]
        return [uuid for uuid in found if uuid != THE_DRIVER]

    def _forget_ended(self) -> set[str]:
        came_out = {uuid for uuid, children in self._stuck.items() if not _living(children)}
        for uuid in came_out:
            del self._stuck[uuid]
        return came_out


def _living(children: Iterable[Stuck]) -> list[Stuck]:
    return [child for child in children if child.ended() is None]
