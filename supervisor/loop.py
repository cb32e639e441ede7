"""The one thread that decides: inbox → step → journal → dispatch."""

from __future__ import annotations

import logging
import queue
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from supervisor.clock import Clock
from supervisor.core import deadlines, events
from supervisor.core.actions import Action
from supervisor.core.model import World
from supervisor.core.step import step
from supervisor.journal import Entry

log = logging.getLogger("yolo-supervisor")

BATCH = 256  # events per transaction: at 8 ms a sync, 6,259 events/s against 111 one by one
LONGEST_SLEEP_S = 5.0
JOURNAL_RETRY_S = 5.0
SHORTEST_TICK_S = 0.05  # a deadline that `step` does not move may not spin the loop


class Record(Protocol):
    """The part of the journal that the loop writes."""

    def commit(self, entries: Sequence[Entry]) -> None:
        """Write all or nothing; raises sqlite3.Error or OSError."""
        ...


class Loop:
    """Owns the world. `put` may be called from any thread; everything else belongs to the loop's thread."""

    def __init__(
        self, world: World, journal: Record, clock: Clock, dispatch: Callable[[Sequence[Action]], None]
    ) -> None:
        """Start from the loaded `world`; `dispatch` gets the actions after they were written."""
        self.world = world
        self.degraded = ""
        self._journal = journal
        self._clock = clock
        self._dispatch = dispatch
        self._inbox: queue.SimpleQueue[events.Event | None] = queue.SimpleQueue()
        self._unwritten: list[events.Event] = []
        self._retry_at = 0.0
        self._no_deadline_before = 0.0
        self._ticked_at = 0.0  # start times up to here were looked at
        self.after_step: list[Callable[[], None]] = []

    def put(self, event: events.Event) -> None:
        """Report a fact. Never blocks."""
        self._inbox.put(event)

    def wake(self) -> None:
        """Make a waiting `run_once` return soon."""
        self._inbox.put(None)

    def run_once(self, *, block: bool = True, at_most_s: float = LONGEST_SLEEP_S) -> bool:
        """Take what waits (at most BATCH events), decide, write, dispatch. True if anything was taken.

        With `block` it waits for something to do, but not longer than `at_most_s`.
        """
        now = self._clock.now()
        if self.degraded and now < self._retry_at:
            self._wait_degraded(min(at_most_s, self._retry_at - now) if block else 0.0)
            return False
        patience_s = min(at_most_s, self._patience_s()) if block and not self._unwritten else 0.0
        batch = self._unwritten + self._collect(patience_s)
        now = self._clock.now()
        if self._deadline_has_come(now) and now >= self._no_deadline_before:
            self._no_deadline_before = now + SHORTEST_TICK_S
            batch.append(events.TimePassed(at=now, origin="clock"))
        if batch:
            self._process(batch, now)
        return bool(batch)

    def _patience_s(self) -> float:
        due_at = deadlines.next_at(self.world, self._ticked_at)
        if due_at is None:
            return LONGEST_SLEEP_S
        return min(LONGEST_SLEEP_S, max(0.0, max(due_at, self._no_deadline_before) - self._clock.now()))

    def _deadline_has_come(self, now: float) -> bool:
        """True also for a start time that has passed since the last tick: only a tick gives its run a place."""
        due_at = deadlines.next_at(self.world, self._ticked_at)
        return due_at is not None and due_at <= now

    def _collect(self, timeout_s: float) -> list[events.Event]:
        batch: list[events.Event] = []
        try:
            first = self._inbox.get(timeout=timeout_s) if timeout_s > 0 else self._inbox.get_nowait()
            if first is not None:
                batch.append(first)
            while len(batch) < BATCH:
                event = self._inbox.get_nowait()
                if event is not None:
                    batch.append(event)
        except queue.Empty:
            pass
        return batch

    def _wait_degraded(self, wait_s: float) -> None:
        """Wait for the next try to write, and keep what is reported meanwhile."""
        self._unwritten += self._collect(min(wait_s, 1.0))

    def _process(self, batch: list[events.Event], now: float) -> None:
        entries = decide(self.world, batch, now)
        changed = [entry for entry in entries if _matters(entry)]
        if changed and not self._write(changed, batch, now):
            return
        self._unwritten = []
        if any(isinstance(event, events.TimePassed) for event in batch):
            self._ticked_at = now
        self.world = entries[-1].after
        actions = [action for entry in changed for action in entry.actions]
        if actions:
            self._dispatch(actions)
        for watcher in self.after_step:
            watcher()

    def _write(self, entries: list[Entry], batch: list[events.Event], now: float) -> bool:
        """No record, no act: what cannot be written is decided again later, on the world as it was."""
        try:
            self._journal.commit(entries)
        except (sqlite3.Error, OSError) as error:
            if not self.degraded:
                log.error("journal cannot be written, nothing is decided: %s", error)  # noqa: TRY400 - said once, short
            self.degraded = str(error)
            self._unwritten = [event for event in batch if not isinstance(event, events.TimePassed)]
            self._retry_at = now + JOURNAL_RETRY_S
            return False
        except Exception as error:
            log.exception("a bug: what was decided cannot be recorded")
            self._unwritten = []
            self._write_one_by_one(batch, error, now)
            return False
        if self.degraded:
            log.warning("journal can be written again")
            self.degraded = ""
        return True

    def _write_one_by_one(self, batch: list[events.Event], error: Exception, now: float) -> None:
        """Find the event that no journal can hold: it is dropped and its runs are held; the others happen."""
        if len(batch) == 1:
            text = f"{type(error).__name__}: {error}"
            held = () if isinstance(batch[0], events.Poisoned) else _concerned(self.world, batch[0], now)
            batch = [events.Poisoned(at=now, origin="loop", run=run, error=text) for run in held]
        for place, event in enumerate(batch):
            self._process([event], now)
            if self._unwritten:
                self._unwritten += batch[place + 1 :]
                return


def decide(world: World, batch: Sequence[events.Event], now: float) -> list[Entry]:
    """Let the events happen one after the other. One that makes `step` raise holds the runs that it is about."""
    entries: list[Entry] = []
    for event in batch:
        try:
            after, actions = step(world, event, now)
            entries.append(Entry(event, now, world, after, actions))
        except Exception as error:
            log.exception("a bug: deciding about %s failed", type(event).__name__)
            one_by_one = _one_by_one(world, event, now)
            entries += decide(world, one_by_one, now) if one_by_one else _poison(world, event, error, now)
        world = entries[-1].after
    return entries


def _poison(world: World, event: events.Event, error: Exception, now: float) -> list[Entry]:
    """Entries that hold every run that the culprit is about; should that fail too, the culprit is only recorded."""
    body: dict[str, Any] = msgspec.to_builtins(event)
    text = f"{type(error).__name__}: {error}"
    entries = []
    for run in _concerned(world, event, now):
        poisoned = events.Poisoned(at=event.at, origin="loop", answers=event.answers, run=run, error=text, event=body)
        try:
            after, actions = step(world, poisoned, now)
        except Exception:
            log.exception("a bug: holding %s failed", run)
            after, actions = world, ()
        entries.append(Entry(poisoned, now, world, after, actions))
        world = after
    return entries


def _concerned(world: World, event: events.Event, now: float) -> list[str]:
    """The runs that an event is about."""
    return [getattr(one, "run", "") for one in (_one_by_one(world, event, now) or [event])]


def _one_by_one(world: World, event: events.Event, now: float) -> list[events.Event]:
    """The deadlines of all runs apart, so that a bug about one of them harms no other."""
    if not isinstance(event, events.TimePassed) or event.run:
        return []
    due = [run.id for run in world.live.values() if run.deadline_at is not None and run.deadline_at <= now]
    return [events.TimePassed(at=event.at, origin=event.origin, run=run) for run in due]


def _matters(entry: Entry) -> bool:
    """False for what changed, caused and answers nothing: replay gives the same world without it."""
    return bool(
        entry.after is not entry.before
        or entry.actions
        or entry.event.answers
        or isinstance(entry.event, events.DaemonStarted | events.DaemonStopped | events.Poisoned),
    )
