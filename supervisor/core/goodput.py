"""Where the time of a run went: each moment from its submission until now, or until its end, is of one class. Pure.

The classes, in this order:

- `training`: the rest of the time in which the training ran: batches, saves, and what lies between them;
- `validation`: as the trainer's own records tell, with its last validation at the end. A trainer that tells nothing of
  it has none: it counts as training, and the report says so;
- `start_up`: preparing and starting an attempt, and its imports, model, data and label cache until its first epoch
  began (of a trainer that tells nothing: until it was first seen to move);
- `lost`: training and validation after the last checkpoint that survived: it had to be done again, or nothing is left
  of it. A later start from an older checkpoint adds the epochs since that one;
- `detection`: from when an attempt died, or last moved before it was ended for a hang, until its end was known, read
  and decided upon;
- `backoff`: the delay before the next try;
- `waiting`: for a place, a GPU, a time or another run; for a disk, a mount or memory; and a training that stands still
  because of its storage, or because somebody stopped its process;
- `held`: until a person decides.

The books are kept in whole ticks (see core.attempt_facts), so that the classes add up to the time from the beginning
to the end exactly, as floats too. A clock that was set back stands still until it has caught up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from supervisor.core.attempt_facts import PER_SECOND, AttemptFacts, Point, ticks
from supervisor.core.model import Phase

CLASSES = ("training", "validation", "start_up", "lost", "detection", "backoff", "waiting", "held")
NO_VALIDATION = "nothing told when it validated: that is counted as training"

_TERMINAL = frozenset(phase.value for phase in Phase if phase.terminal)
_ALIVE = frozenset({"STARTING", "RUNNING", "STOPPING"})


class Row(Protocol):
    """What is read of a journalled event; see story.Row."""

    @property
    def at(self) -> float:
        """When it was decided, in Unix seconds."""

    @property
    def kind(self) -> str:
        """The event's kind."""

    @property
    def phase_before(self) -> str:
        """Where the run stood; empty where the run did not change."""

    @property
    def phase_after(self) -> str:
        """Where the run stands since."""

    @property
    def body(self) -> dict[str, Any]:
        """The event as data."""


@dataclass
class Account:
    """How long a run was in each class, in ticks, and in how many of them it had its GPUs."""

    began: int
    ended: int
    spent: dict[str, int]
    with_gpus: dict[str, int]
    attempts: int = 0
    failures: int = 0
    notes: tuple[str, ...] = ()

    @property
    def total_s(self) -> float:
        """The wall clock from the beginning to the end: the sum of all classes."""
        return (self.ended - self.began) / PER_SECOND

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by class."""
        return {name: self.spent[name] / PER_SECOND for name in CLASSES}


def account(
    rows: Sequence[Row],
    *,
    began_at: float,
    now: float,
    since_at: float | None = None,
    waiting_for: str = "",
    live: Mapping[str, float] | None = None,
) -> Account:
    """Account for a run from `began_at` to its end, else to `now`; with `since_at` only for what came after that.

    `waiting_for`: what the run waits for now. `live`: the seconds of its present attempt until now, if known.
    An attempt that `since_at` cuts in two has its validation and its loss split in proportion.
    """
    history = _History(ticks(began_at))
    for row in rows:
        history.take(row)
    history.close(ticks(now), waiting_for, live or {})
    return _Books(history, history.began if since_at is None else ticks(since_at)).account()


@dataclass
class _Stretch:
    """A time in one phase, before or after what was to be known about the attempt's end."""

    begin: int
    end: int
    phase: str
    attempt: AttemptFacts | None
    decided: bool
    waits: bool


@dataclass
class _History:
    """Reads the rows into stretches of time and facts about the attempts."""

    began: int
    time: int = 0
    since: int = 0
    phase: str = ""
    waits: bool = False
    ended: bool = False
    current: AttemptFacts | None = None
    attempts: list[AttemptFacts] = field(default_factory=list)
    stretches: list[_Stretch] = field(default_factory=list)
    refused_launches: int = 0

    def __post_init__(self) -> None:
        self.time = self.since = self.began

    @property
    def decided(self) -> bool:
        """True when nothing of an attempt is left to be found out."""
        return self.current is None or self.current.over

    def take(self, row: Row) -> None:
        """Take one row; after the end there is nothing to account for."""
        if self.ended:
            return
        self.time = max(self.time, ticks(row.at))
        self.phase = self.phase or row.phase_before
        after, lacks = row.phase_after or self.phase, _machine_lacks(row)
        if after != self.phase or row.kind == "Examined":
            self._end_stretch(
                self.waits or row.kind == "WaitOver" or (lacks and self.phase in {"PREPARING", "STARTING"})
            )
            self.waits = lacks
        self._note(row)
        self.phase = after
        self.ended = after in _TERMINAL

    def _end_stretch(self, waits: bool) -> None:
        self.stretches.append(_Stretch(self.since, self.time, self.phase, self.current, self.decided, waits))
        self.since = self.time

    def close(self, now: int, waiting_for: str, live: Mapping[str, float]) -> None:
        """The last stretch ends now, unless the run is over."""
        if self.ended:
            return
        self.time = max(self.time, now)
        if self.current is not None and not self.current.over:
            self.current.tell(live, self.time)
        self._end_stretch(self.waits or bool(waiting_for))

    def _note(self, row: Row) -> None:
        """Let the present attempt know. News of an older one, or that came too late to count, is left out."""
        number = row.body.get("attempt")
        if row.kind == "Prepared" and row.phase_before == "PREPARING":
            self._prepared(row)
        elif row.kind in {"PrepareFailed", "LaunchFailed"}:
            self._not_begun(row)
        elif self.current is not None and number == self.current.number and not self.current.over:
            self._tell(self.current, row)

    def _tell(self, attempt: AttemptFacts, row: Row) -> None:
        if row.kind == "Examined" and row.phase_before != "COOLING":
            return
        if row.kind == "AttemptExited":
            hung = bool(attempt.stalls) and attempt.stalls[-1].end is None and attempt.stalls[-1].hung
            attempt.asked = row.phase_before == "STOPPING" and not hung
        attempt.take(row.kind, row.body, self.time)
        if row.kind == "StartConfirmed":
            self._cut_older(attempt, row.body.get("from_epoch") or 0)

    def _prepared(self, row: Row) -> None:
        start, epoch = row.body.get("start"), row.body.get("from_epoch") or 0
        began = start in {"resume", "fresh", "finish", "watch"}
        if not began or row.phase_after != "STARTING":
            self.current = None
            return
        number = row.body.get("attempt") or 0
        self.current = AttemptFacts(number, [Point(epoch if start == "resume" else 0, 0, 0)])
        self.attempts.append(self.current)
        if start == "fresh" or (start == "resume" and epoch):
            self._cut_older(self.current, epoch if start == "resume" else 0)

    def _cut_older(self, attempt: AttemptFacts, epoch: int) -> None:
        for older in self.attempts:
            if older is not attempt:
                older.cut(epoch)

    def _not_begun(self, row: Row) -> None:
        if row.phase_after == row.phase_before:
            return
        if row.kind == "LaunchFailed" and not row.body.get("waiting_for"):
            self.refused_launches += 1
        if self.current is not None:
            self.current.over = True


def _machine_lacks(row: Row) -> bool:
    """True if this brings the run into a wait for the machine."""
    if row.kind in {"PrepareFailed", "LaunchFailed"}:
        return bool(row.body.get("waiting_for"))
    return row.kind == "Prepared" and row.phase_after == "COOLING"


class _Books:
    """Enters each stretch under its class, from `since` on."""

    def __init__(self, history: _History, since: int) -> None:
        self._history = history
        self._since = min(max(since, history.began), history.time)
        self._spent = dict.fromkeys(CLASSES, 0)
        self._with_gpus = dict.fromkeys(CLASSES, 0)
        self._work: dict[int, tuple[AttemptFacts, int, int]] = {}

    def account(self) -> Account:
        """Enter everything."""
        history = self._history
        for stretch in history.stretches:
            if stretch.phase in _ALIVE and stretch.attempt is not None and not stretch.waits:
                self._enter_alive(stretch, stretch.attempt)
            else:
                name, busy = _class_of(stretch)
                self._enter(name, stretch.begin, stretch.end, busy=busy)
        for attempt, work, inside in self._work.values():
            self._enter_work(attempt.shares(work), work, inside)
        launched = [one for one in history.attempts if one.started is not None]
        return Account(
            began=self._since,
            ended=history.time,
            spent=self._spent,
            with_gpus=self._with_gpus,
            attempts=len(launched),
            failures=sum(one.failed for one in launched) + history.refused_launches,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        silent = any(inside and not attempt.seconds for attempt, _, inside in self._work.values())
        return (NO_VALIDATION,) if silent else ()

    def _enter(self, name: str, begin: int, end: int, *, busy: bool) -> None:
        length = max(0, end - max(begin, self._since))
        self._spent[name] += length
        self._with_gpus[name] += length if busy else 0

    def _enter_alive(self, stretch: _Stretch, attempt: AttemptFacts) -> None:
        """A stretch in which the attempt's processes lived, or died: in pieces between all that is known of it."""
        stalls = [time for one in attempt.stalls for time in (one.begin, one.end)]
        edges = {stretch.begin, stretch.end, attempt.ended, attempt.work_from, *stalls}
        inner = sorted(edge for edge in edges if edge is not None and stretch.begin <= edge <= stretch.end)
        for begin, end in pairwise(inner):
            name = _class_alive(attempt, begin)
            if name:
                self._enter(name, begin, end, busy=True)
            else:
                _, work, inside = self._work.get(id(attempt), (attempt, 0, 0))
                seen = max(0, end - max(begin, self._since))
                self._work[id(attempt)] = (attempt, work + end - begin, inside + seen)

    def _enter_work(self, shares: Mapping[str, int], work: int, inside: int) -> None:
        """The shares of the part inside the window, in proportion; what rounding leaves is training."""
        parts = {name: shares[name] * inside // work for name in ("validation", "lost")}
        parts["training"] = inside - sum(parts.values())
        for name, length in parts.items():
            self._spent[name] += length
            self._with_gpus[name] += length


def _class_of(stretch: _Stretch) -> tuple[str, bool]:
    """The class of a time in which no training lived, and whether the run had its GPUs."""
    phase = stretch.phase
    if phase == "HELD":
        return "held", False
    if phase == "COOLING" and not stretch.decided:
        return "detection", True
    if phase == "COOLING":
        return ("waiting" if stretch.waits else "backoff"), False
    if phase in {"PREPARING", *_ALIVE}:
        return ("waiting" if stretch.waits else "start_up"), True
    return "waiting", False


def _class_alive(attempt: AttemptFacts, at: int) -> str:
    """The class of a moment while the attempt's processes lived; nothing for work, which is shared out later."""
    if attempt.ended is not None and at >= attempt.ended:
        return "detection"
    for stall in attempt.stalls:
        if stall.begin <= at and (stall.end is None or at < stall.end):
            return "detection" if stall.hung else "waiting"
    started = attempt.work_from
    return "start_up" if started is None or at < started else ""
