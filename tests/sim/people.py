"""What people do in the simulation: job files come, change and go; orders are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from drawn_jobs import a_job
from machine_room import MachineRoom
from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.model import Phase, Run
from supervisor.loop import Loop

NAMES = ("a", "b", "c")


class People:
    """The moves of people; the other half is Simulation."""

    room: MachineRoom
    loop: Loop
    revisions: int

    def now(self) -> float:
        """The clock of the loop."""
        raise NotImplementedError

    def _move_submit(self, pick: int, how: int) -> None:
        path = f"/jobs/{NAMES[pick % 3]}.toml"
        self.revisions += 1
        self.room.jobs[path] = a_job(NAMES[pick % 3], path, how, self.revisions)
        self.loop.put(self._seen(path))

    def _move_edit(self, pick: int, how: int) -> None:
        path = picked(sorted(self.room.jobs), pick)
        if path is None:
            return
        old = self.room.jobs[path]
        self.revisions += 1
        fields: dict[str, Any] = {"notes": str(how)} if how % 2 else {"priority": how}
        if how % 5 == 4 and old.train is not None:
            fields = {"train": {**old.train, "epochs": 2 + how % 3}}
        self.room.jobs[path] = replace(old, revision=f"r{self.revisions}", **fields)
        self.loop.put(self._seen(path))

    def _move_delete(self, pick: int, how: int) -> None:
        path = picked(sorted(self.room.jobs), pick)
        if path is not None:
            del self.room.jobs[path]
            self.loop.put(events.JobFileGone(at=self.now(), path=path))

    def _seen(self, path: str) -> events.Event:
        job = self.room.jobs[path]
        data = msgspec.json.encode(job)
        return events.JobFileSeen(at=self.now(), path=path, data=data, revision=job.revision, owner=0)

    def _move_order(self, pick: int, how: int) -> None:
        run = self.loop.world.named(NAMES[pick % 3])
        if run is None:
            return
        kind, fields = (
            (events.StopAsked, {"at_once": False}),
            (events.StopAsked, {"at_once": True}),
            (events.CancelAsked, {"at_once": False}),
            (events.CancelAsked, {"at_once": True}),
            (events.ResumeAsked, {}),
            (events.ResumeAsked, {}),
            (events.RetryAsked, {}),
            (events.PriorityAsked, {"priority": how}),
        )[how % 8]
        if kind in {events.StopAsked, events.CancelAsked}:
            self.room.told_to_end.add(run.id)
        self.loop.put(kind(at=self.now(), run=run.id, by="ann", **fields))

    def _move_lineage(self, pick: int, how: int) -> None:
        """A person wants a run back at an epoch that is there, or on beyond its end, as far as the API lets that."""
        runs = [run for run in map(self.loop.world.named, NAMES) if run is not None and _may_begin_anew(run)]
        run = picked(runs, pick)
        if run is None:
            return
        about: dict[str, Any] = {"at": self.now(), "run": run.id, "by": "ann"}
        saved = run.progress.saved_epoch
        if run.phase is Phase.SUCCEEDED and how % 2:
            self.loop.put(events.ExtendAsked(**about, epochs=saved + 1 + how % 3))
        epochs = sorted({entry.epoch for entry in self.room.folder(run.name).ledger.entries if entry.epoch < saved})
        if epochs:
            self.loop.put(events.RewindAsked(**about, epoch=picked(epochs, how)))

    def _move_drain(self, pick: int, how: int) -> None:
        off = how % 3 == 2
        if not off:
            self.room.told_to_end |= set(self.loop.world.live)
        self.loop.put(events.DrainAsked(at=self.now(), by="ann", at_once=how % 3 == 1, off=off))

    def _move_poison(self, pick: int, how: int) -> None:
        run = self.loop.world.named(NAMES[pick % 3])
        if run is not None:
            self.loop.put(events.Poisoned(at=self.now(), run=run.id, error="ValueError: x"))

    def _move_undo(self, pick: int, how: int) -> None:
        run = self.loop.world.named(NAMES[pick % 3])
        if run is not None:
            self.loop.put(events.UndoAsked(at=self.now(), run=run.id, by="ann"))


def picked(of: Sequence[Any], pick: int) -> Any:
    return of[pick % len(of)] if of else None


def _may_begin_anew(run: Run) -> bool:
    at_rest = run.phase.terminal or (run.phase is Phase.HELD and not run.busy)
    return at_rest and run.job.train is not None and not run.set_aside and run.attempts > 0
