"""How full the file systems are on which trainings live. A change of level is an event, a reading is not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from supervisor import layout
from supervisor.clock import Clock
from supervisor.core import forecast
from supervisor.core.disk_spots import OURS
from supervisor.core.events import DiskSeen, Event
from supervisor.core.forecast import Marks, Samples
from supervisor.core.model import World
from supervisor.core.words import size
from supervisor.machine import conditions, places, resources
from supervisor.machine.places import Place
from supervisor.machine.resources import Room
from supervisor.sources.rounds import Rounds

LOOK_EVERY_S = 30.0
WATCH_EVERY_S = 5.0  # while any is not ok: what waits for room goes on within seconds
FIRST_LOOK_S = 1.0
TOLD_AGAIN_S = 600.0
LOST_S = 60.0  # what was told and is not in the world after so long was lost
SHRUNK = 0.75  # a full one of which a quarter of the rest is gone is told at once: one more must be paused
LOOK_S = 3.0  # for one file system that does not answer
PATIENCE_S = 10.0  # for all of them in one round
LEAST_S = 0.05
DELETION = 0.01  # of all that is there: a rise above it is a deletion
ELSEWHERE_LOW = 4  # times what a place needs where nothing large is written
#: The most important name of a file system first. Of what jobs write, checkpoints are most of it.
ORDER = ("runs", "state", "shm", "checkpoints")


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """One file system: what is known of it, from look to look."""

    place: str
    what: str
    room: Room | None = None
    seen_at: float = 0.0
    of_bytes: Samples = ()
    of_inodes: Samples = ()
    bytes_level: str = "ok"
    inodes_level: str = "ok"
    full_in_s: float | None = None

    @property
    def level(self) -> str:
        """Ok, low or full; unknown where it does not answer."""
        return forecast.worst((self.bytes_level, self.inodes_level)) if self.room is not None else "unknown"

    @property
    def inodes(self) -> bool:
        """True if it is inodes that it lacks."""
        return self.inodes_level != "ok" and forecast.worst((self.bytes_level, self.inodes_level)) != self.bytes_level


class _Told(msgspec.Struct, frozen=True):
    level: str
    at: float
    free_bytes: int


class DiskSource:
    """Reports DiskSeen. One thread; a file system that hangs is unknown, changes no level, and delays by seconds."""

    def __init__(  # noqa: PLR0917 - what a source needs, in the order of the others
        self,
        put: Callable[[Event], None],
        world: Callable[[], World],
        clock: Clock,
        runs_dir: Path,
        state_dir: Path,
        marks: Callable[[], tuple[int, int]],
        *,
        room: Callable[[Path, float], Room] = resources.room,
        shm: Path = resources.SHM,
    ) -> None:
        """`marks` returns disk.prune_below and disk.pause_below in bytes, as they are now."""
        self._put = put
        self._world = world
        self._now = clock.now
        self._runs_dir = runs_dir
        self._state_dir = state_dir
        self._marks = marks
        self._room = room
        self._shm = shm
        self._watched: dict[str, Watched] = {}
        self._told: dict[str, _Told] = {}
        self._looked = False
        self._rounds = Rounds("looking at the disks", self.poll, self._every_s)

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> None:
        """End within 2 s; a look that hangs is left behind."""
        self._rounds.stop()

    def view(self) -> list[dict[str, Any]]:
        """Return the newest readings, the most important first. For any thread.

        Of each `place`, `what`, `free_bytes`, `total_bytes`, `free_inodes`, `quota` (these None where it does not
        answer), `level` (ok, low, full or unknown), `full_in_s` and `seen_at`, Unix seconds of the newest answer.
        """
        return [_view(one) for one in self._watched.values()]

    def _every_s(self) -> float:
        if not self._looked:
            return FIRST_LOOK_S
        short = any(one.level in {"low", "full"} for one in self._watched.values())
        return WATCH_EVERY_S if short else LOOK_EVERY_S

    # ---- one round
    def poll(self) -> None:
        """Look once at every file system. Called by the thread; tests call it by themselves."""
        self._looked = True
        found: dict[str, Watched] = {}
        devices: set[int] = set()
        ends_at = time.monotonic() + PATIENCE_S
        for place in self._places():
            if self._rounds.over:
                return
            try:
                room = self._room(Path(place.path), max(LEAST_S, min(LOOK_S, ends_at - time.monotonic())))
            except OSError:  # it does not answer, or is not for us to see
                found[place.path] = msgspec.structs.replace(self._known(place), room=None)
                continue
            if room.device not in devices and room.total_bytes and not (room.read_only and place.what not in OURS):
                devices.add(room.device)
                found[place.path] = self._judged(place, room)
        self._watched = found
        self._tell(found)

    def _places(self) -> Iterator[Place]:
        """Yield what is to be looked at, the most important name of a file system first, each path once."""
        named = [Place("runs", str(self._runs_dir)), Place("state", str(self._state_dir)), Place("shm", str(self._shm))]
        for run in list(self._world().live.values()):
            run_dir = layout.run_directory(self._runs_dir, run.job.project, run.name)
            named += [place for place in places.written(run.job, run_dir) if place.what != "runs"]
        first: dict[str, Place] = {}
        for place in sorted(named, key=_importance):
            first.setdefault(place.path, place)
        return iter(list(first.values())[: places.MOST_PLACES])

    def _known(self, place: Place) -> Watched:
        """What was known of it before; after a start of the daemon the level that the world remembers."""
        known = self._watched.get(place.path)
        if known is not None and known.what == place.what:
            return known
        spot = self._world().spots.get(place.path)
        level = spot.level if spot is not None and spot.what == place.what else "ok"
        return Watched(place=place.path, what=place.what, bytes_level=level)

    def _judged(self, place: Place, room: Room) -> Watched:
        known, now = self._known(place), self._now()
        free, inodes, total_inodes = room.free_bytes, room.free_inodes, room.total_inodes or math.inf
        bytes_marks, inode_marks = self._marks_of(place.what, room.total_bytes, total_inodes)
        of_bytes = forecast.noted(known.of_bytes, now, free, DELETION * room.total_bytes)
        of_inodes = forecast.noted(known.of_inodes, now, inodes, DELETION * total_inodes) if inodes is not None else ()
        times = [forecast.full_in_s(samples) for samples in (of_bytes, of_inodes)]
        return msgspec.structs.replace(
            known,
            room=room,
            seen_at=now,
            of_bytes=of_bytes,
            of_inodes=of_inodes,
            bytes_level=forecast.level(known.bytes_level, _steady(place, known, free), bytes_marks),
            inodes_level="ok" if inodes is None else forecast.level(known.inodes_level, inodes, inode_marks),
            full_in_s=min([one for one in times if one is not None], default=None),
        )

    def _marks_of(self, what: str, total: int, total_inodes: float) -> tuple[Marks, Marks]:
        """Return the marks of bytes and inodes; beside our own disks what a training needs there: see conditions."""
        prune_below, pause_below = self._marks()
        least = conditions.MIN_INODES
        if what == "shm":  # nothing is pruned there, and most of it may well be in use
            full = min(conditions.SHM_BYTES, conditions.SHM_AT_MOST * total)
            back = min(forecast.BACK_SHARE * full, forecast.BACK_AT_MOST * total)
            return Marks(low=full, full=full, low_back=back, full_back=back), forecast.inode_marks(0, total_inodes)
        if what not in {"runs", "state"}:
            least = conditions.ELSEWHERE_INODES
            large = what in conditions.SAVES
            pause_below = max(pause_below, conditions.ELSEWHERE_BYTES) if large else conditions.ELSEWHERE_BYTES
            prune_below = prune_below if large else ELSEWHERE_LOW * pause_below
        return forecast.marks(prune_below, pause_below, total), forecast.inode_marks(least, total_inodes)

    # ---- telling
    def _tell(self, found: Mapping[str, Watched]) -> None:
        for one in found.values():
            if one.room is not None and self._is_news(one):
                self._report(one)
        for place, spot in self._world().spots.items():
            told = self._told.get(place)
            lately = told is not None and told.level == "ok" and self._now() - told.at < LOST_S
            if place not in found and spot.level != "ok" and not lately:
                self._forget(place, spot.what)

    def _is_news(self, one: Watched) -> bool:
        told, now = self._told.get(one.place), self._now()
        if told is None or now - told.at >= LOST_S:
            spot = self._world().spots.get(one.place)
            remembered = spot.level if spot is not None else "ok"
        else:
            remembered = told.level
        if one.level != remembered:
            return True
        if one.level == "ok" or one.room is None:
            return False
        shrunk = told is not None and one.level == "full" and one.room.free_bytes < SHRUNK * told.free_bytes
        return told is None or shrunk or now - told.at >= TOLD_AGAIN_S

    def _report(self, one: Watched) -> None:
        room = one.room
        if room is None:
            return
        self._told[one.place] = _Told(one.level, self._now(), room.free_bytes)
        self._put(
            DiskSeen(
                at=self._now(),
                origin="disks",
                place=one.place,
                what=one.what,
                level=one.level,
                free_bytes=room.free_bytes,
                total_bytes=room.total_bytes,
                full_in_s=one.full_in_s,
                inodes=one.inodes,
                quota=room.quota,
                text=_text(one, room),
            )
        )

    def _forget(self, place: str, what: str) -> None:
        """Nothing of ours is written there any more: nothing need wait for it."""
        self._told[place] = _Told("ok", self._now(), 0)
        text = f"nothing is written under {place} any more, or it is part of another file system now"
        self._put(DiskSeen(at=self._now(), origin="disks", place=place, what=what, level="ok", text=text))


def _importance(place: Place) -> int:
    return ORDER.index(place.what) if place.what in ORDER else len(ORDER)


def _steady(place: Place, known: Watched, free: int) -> float:
    """Return what is free; of shared memory the better of two looks: batches come and go there."""
    return max(free, known.of_bytes[-1].free) if place.what == "shm" and known.of_bytes else free


def _text(one: Watched, room: Room) -> str:
    """Return what the figures of bytes do not say; empty if they say all."""
    if one.inodes:
        return f"only {room.free_inodes} more files can be made under {one.place} ({one.what}): its inodes are used up"
    if room.quota:
        return f"{size(room.free_bytes)} are left of the quota under {one.place} ({one.what})"
    return ""


def _view(one: Watched) -> dict[str, Any]:
    room = one.room
    return {
        "place": one.place,
        "what": one.what,
        "free_bytes": room.free_bytes if room is not None else None,
        "total_bytes": room.total_bytes if room is not None else None,
        "free_inodes": room.free_inodes if room is not None else None,
        "quota": room.quota if room is not None else None,
        "level": one.level,
        "full_in_s": one.full_in_s if room is not None else None,
        "seen_at": one.seen_at,
    }
