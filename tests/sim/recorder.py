"""The journal as the loop of the simulation sees it: it may fail, kill the daemon, and checks what is written."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence

from disk_promises import check_disks
from folders import WrongError
from msgspec.structs import replace

from supervisor.core import actions, events
from supervisor.core.model import Phase
from supervisor.journal import Entry, Journal

ENDS = {Phase.SUCCEEDED: "succeeded", Phase.FAILED: "failed", Phase.CANCELLED: "cancelled"}


#: What is learnt of a run after its end.
AFTERWARDS = ("backups", "unbacked", "published", "published_ok", "archived", "removed", "kept_epoch", "keeping")
#: Ordered twice under one key these would be done once too seldom, or be taken for something else.
ONCE = (actions.Launch, actions.Terminate, actions.Announce)


class KilledError(BaseException):
    """The daemon is killed; a BaseException, so that nothing in the daemon catches it."""


class Recorder:
    """The journal as the loop sees it: it may fail for a while, and the daemon may be killed around a commit."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.broken = False
        self.kill = ""
        self.keys: set[str] = set()
        self.announced: Counter[tuple[str, str, str]] = Counter()

    def commit(self, entries: Sequence[Entry]) -> None:
        """See Journal.commit."""
        kill, self.kill = self.kill, ""
        if kill == "before":
            raise KilledError
        if self.broken:
            raise sqlite3.OperationalError("database or disk is full")
        self.journal.commit(entries)
        for entry in entries:
            _check_phases(entry)
            _check_start(entry)
            check_disks(entry)
            for action in entry.actions:
                if action.key in self.keys and isinstance(action, ONCE):
                    raise WrongError(f"the key {action.key} was given twice")
                self.keys.add(action.key)
                if isinstance(action, actions.Announce) and action.what in ENDS.values():
                    self.announced[(action.run, action.what, action.channel)] += 1
        if kill == "after":
            raise KilledError


def _check_start(entry: Entry) -> None:
    """No epoch is trained again that a backup is known to hold, where that could be asked."""
    event = entry.event
    run = entry.before.live.get(event.run) if isinstance(event, events.Prepared) else None
    if run is None or run.goal is not None or run.distrust_from or run.set_aside:
        return
    known = {name: one.epoch for name, one in run.backups.items() if name not in run.restored_from}
    for action in entry.actions:
        if (
            isinstance(action, actions.Launch)
            and action.start == "resume"
            and max([0, *known.values()]) > action.from_epoch
        ):
            raise WrongError(f"{run.id} goes on after epoch {action.from_epoch}, but backups hold {known}")


def _check_phases(entry: Entry) -> None:
    for run_id, run in entry.before.ended.items():
        after = entry.after.ended.get(run_id)
        kept = {name: getattr(run, name) for name in AFTERWARDS}
        if after is not run and (after is None or replace(after, **kept) != run):
            raise WrongError(f"{run_id} had ended and was changed")
    for run in entry.after.live.values():
        if (run.deadline_at is not None) != run.phase.needs_deadline:
            raise WrongError(f"{run.id} is {run.phase.value} with the deadline {run.deadline_at}")
