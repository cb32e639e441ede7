"""How long an attempt was at which work, added up from the beats that its trainer writes. Pure.

The keys of the result, all in seconds since the trainer's process was started:

- `start_up`: until its first epoch began: imports, model and data, the cache of labels;
- `training`: batches; and what the trainer does between two phases;
- `validation`: of each epoch, and the trainer's own last work: stripping, and the final validation;
- `save`: from the end of a validation until the epoch's checkpoints are written;
- `unsaved`: how much of the three before came after the last save, and `unsaved_validation` how much of the second.

An attempt whose first epoch has not begun has `start_up` only; one that never said what it does has nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

WORK = {"train": "training", "val": "validation", "save": "save", "end": "validation"}


class Beat(Protocol):
    """What is read of a record of the runner."""

    @property
    def kind(self) -> str:
        """Which record it is."""

    @property
    def at(self) -> float:
        """When it was written, by the trainer's clock."""

    @property
    def phase(self) -> str | None:
        """Of `start` and `phase`: what the trainer does from now on."""


class Stopwatch:
    """Takes the beats of one attempt in their order. A clock that was set back adds nothing."""

    def __init__(self, started_at: float | None = None) -> None:
        """Begin at the start of the process, else at the first beat."""
        self._at = started_at
        self._told = False
        self._doing = "start_up"
        self._spent: dict[str, float] = {"start_up": 0.0}
        self._unsaved = self._unsaved_validation = 0.0

    def take(self, beat: Beat) -> None:
        """Take one beat. The phases before the first epoch are start-up; later ones of that kind are training."""
        self._pass_until(beat.at)
        if beat.kind in {"phase", "start"}:
            self._told = True
            began = "training" in self._spent
            doing = WORK.get(beat.phase or "", "training" if began else "start_up")
            if not began and doing != "start_up":
                self._spent |= {"training": 0.0, "validation": 0.0, "save": 0.0}
            self._doing = doing
        elif beat.kind == "saved":
            self._unsaved = self._unsaved_validation = 0.0

    def _pass_until(self, at: float) -> None:
        gone_s = max(0.0, at - self._at) if self._at is not None else 0.0
        self._at = at
        self._spent[self._doing] += gone_s
        if self._doing != "start_up":
            self._unsaved += gone_s
        if self._doing == "validation":
            self._unsaved_validation += gone_s

    def seconds(self, until_at: float | None = None) -> dict[str, float]:
        """What was added up until the last beat, or until `until_at` if that is later: no beat comes after it."""
        if not self._told:
            return {}
        if until_at is not None and self._at is not None and until_at > self._at:
            self._pass_until(until_at)
        found = dict(self._spent)
        if "training" in found:
            found |= {"unsaved": self._unsaved, "unsaved_validation": self._unsaved_validation}
        return {name: round(value, 3) for name, value in found.items()}


def seconds_of(beats: Iterable[Beat], started_at: float | None, moved_at: float) -> dict[str, float]:
    """What an attempt spent its time on, from its start until it last moved; see the module."""
    stopwatch = Stopwatch(started_at)
    for beat in beats:
        stopwatch.take(beat)
    return stopwatch.seconds(moved_at)
