"""What a run's journal tells of one attempt: when it worked, when it stood still, and what of its work was saved. Pure.

Times and durations are whole ticks of 1/1024 s: they add up without rounding, as integers and as floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PER_SECOND = 1024
STOPPED_RESUMABLE = 75  # exit code of the runner (contract): a stage begins, or somebody asked the trainer to end
_LONGEST = 2**52  # more ticks than any clock has; floats count them exactly

Body = Mapping[str, Any]


def ticks(seconds: float) -> int:
    """The nearest tick; what is no number, or larger than any time, is cut."""
    if not math.isfinite(seconds):
        return 0
    return max(-_LONGEST, min(_LONGEST, round(max(-1e15, min(1e15, seconds)) * PER_SECOND)))


@dataclass(frozen=True)
class Point:
    """A checkpoint: how much had been trained and validated in this attempt when it was written."""

    epoch: int
    training: int
    validation: int


@dataclass
class Stall:
    """A time in which nothing moved. `hung`: it was to be ended for that."""

    begin: int
    end: int | None
    hung: bool
    validating: bool


@dataclass
class AttemptFacts:
    """Takes the events of one attempt in their order, with their place in time."""

    number: int
    points: list[Point]
    started: int | None = None
    first_moved: int | None = None
    last_moved: int | None = None
    ended: int | None = None
    unseen: bool = False
    asked: bool = False
    code: int | None = None
    over: bool = False
    failed: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    told_until: int = 0
    stalls: list[Stall] = field(default_factory=list)
    kept: Point | None = None

    @property
    def work_from(self) -> int | None:
        """When its first epoch began: as it told, else when it was first seen to move. None: it never did."""
        if self.seconds and self.started is not None:
            return self.started + ticks(self.seconds.get("start_up", 0.0)) if "training" in self.seconds else None
        return self.first_moved

    @property
    def validation(self) -> int:
        """How long it validated, as far as it told that. Standing still is no work."""
        told = ticks(self.seconds.get("validation", 0.0))
        return max(0, told - self._stood_still(self.told_until, validating=True))

    def _stood_still(self, until: int, *, validating: bool) -> int:
        """How long nothing moved until then, while it validated or while it did not."""
        stalls = [one for one in self.stalls if one.validating is validating]
        return sum(max(0, (until if one.end is None else min(one.end, until)) - one.begin) for one in stalls)

    def tell(self, seconds: Mapping[str, float], until: int) -> None:
        """Take what it spent its time on until then; nothing where it does not tell."""
        if seconds:
            self.seconds, self.told_until = dict(seconds), until

    def take(self, kind: str, body: Body, at: int) -> None:
        """Take one event about this attempt."""
        handlers: dict[str, Callable[[Body, int], None]] = {
            "Launched": self._launched,
            "StartConfirmed": self._confirmed,
            "Progressed": self._progressed,
            "SaveSeen": self._saved,
            "HangSeen": self._hang,
            "AttemptExited": self._exited,
            "Examined": self._examined,
        }
        if kind in handlers:
            handlers[kind](body, at)

    # ---- one method per kind of event
    def _launched(self, body: Body, at: int) -> None:
        self.started = min(at, ticks(body.get("started_at") or 0.0) or at)

    def _confirmed(self, body: Body, _at: int) -> None:
        if len(self.points) == 1:
            self.points[0] = Point(max(self.points[0].epoch, body.get("from_epoch") or 0), 0, 0)

    def _progressed(self, body: Body, at: int) -> None:
        self._moved(at)
        if self.first_moved is None:
            self.first_moved = at
        self.last_moved = at
        told = body.get("seconds") or {}
        self.tell(told, at)
        epoch = body.get("saved_epoch") or 0
        if epoch > self.points[-1].epoch:
            self._add_point(epoch, told, at)

    def _saved(self, body: Body, at: int) -> None:
        """A checkpoint file that nobody but its change tells of; of whose epoch, may be unknown."""
        if not self.seconds and self.first_moved is not None:
            self._add_point(max(self.points[-1].epoch, body.get("epoch") or 0), {}, at)

    def _add_point(self, epoch: int, told: Mapping[str, float], at: int) -> None:
        if told:
            late = told.get("unsaved_validation", 0.0)
            validation = told.get("validation", 0.0) - late
            training = told.get("training", 0.0) + told.get("save", 0.0) - (told.get("unsaved", 0.0) - late)
            point = Point(epoch, ticks(training), ticks(validation))
        else:
            point = Point(epoch, at - (self.first_moved if self.first_moved is not None else at), 0)
        before = self.points[-1]  # what stood still is no work, and no later save holds less
        training = max(before.training, point.training - self._stood_still(at, validating=False))
        validation = max(before.validation, point.validation - self._stood_still(at, validating=True))
        self.points.append(Point(epoch, training, validation))

    def _hang(self, body: Body, at: int) -> None:
        verdict = body.get("verdict") or ""
        if verdict == "moving":
            self._moved(at)
            return
        begin = min(at, at - ticks(body.get("quiet_s") or 0.0))
        if self.stalls and self.stalls[-1].end is None:
            begin = min(begin, self.stalls.pop().begin)
        elif self.stalls:
            begin = max(begin, self.stalls[-1].end or 0)
        doing = str(body.get("phase") or "")
        self.stalls.append(Stall(begin, None, verdict == "hung", doing.startswith(("val", "end"))))

    def _moved(self, at: int) -> None:
        """Whatever stood still moves again."""
        if self.stalls and self.stalls[-1].end is None:
            self.stalls[-1].end = at

    def _exited(self, body: Body, at: int) -> None:
        self.ended = min(at, ticks(body.get("ended_at") or 0.0) or at)
        self.unseen = bool(body.get("lost"))
        self.code = body.get("code")

    def _examined(self, body: Body, at: int) -> None:
        """Everything is known. What came after its last save is lost, unless it finished or simply goes on."""
        self.over = True
        ended = at if self.ended is None else self.ended
        moved = min(ended, ticks(body.get("moved_at") or 0.0) or self.last_moved or ended)
        self.ended = moved if self.unseen else ended  # nobody was there: it worked until it last moved
        told = body.get("seconds") or {}
        self.tell(told, moved)
        if body.get("finished") or body.get("result") == "detached":
            return
        self.failed = not self.asked and self.code != STOPPED_RESUMABLE
        epoch = body.get("saved_epoch") or 0
        if epoch > self.points[-1].epoch:  # a save that nobody saw: where it told nothing, nothing is known to be lost
            self._add_point(epoch, told if "training" in told else {}, self.ended)
        self.kept = self.points[-1]

    # ---- what of it survived
    def cut(self, epoch: int) -> None:
        """Training goes on after `epoch` complete epochs: what this attempt trained beyond them must be done again.

        Between two saves that were seen its epochs count as equally long.
        """
        if epoch >= self.points[-1].epoch:
            return
        found = self._at_epoch(epoch)
        if self.kept is None or found.training + found.validation < self.kept.training + self.kept.validation:
            self.kept = found

    def _at_epoch(self, epoch: int) -> Point:
        after = next(place for place, point in enumerate(self.points) if point.epoch > epoch)
        if after == 0:
            return Point(epoch, 0, 0)
        low, high = self.points[after - 1], self.points[after]
        done, of = epoch - low.epoch, high.epoch - low.epoch
        training = low.training + (high.training - low.training) * done // of
        return Point(epoch, training, low.validation + (high.validation - low.validation) * done // of)

    def shares(self, work: int) -> dict[str, int]:
        """How `work` ticks of this attempt split into training, validation and lost."""
        validation = min(work, self.validation)
        training = work - validation
        lost_training = lost_validation = 0
        if self.kept is not None:
            lost_training = max(0, training - self.kept.training)
            lost_validation = max(0, validation - self.kept.validation)
        return {
            "training": training - lost_training,
            "validation": validation - lost_validation,
            "lost": lost_training + lost_validation,
        }
