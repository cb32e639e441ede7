"""Which of a training's saves are told: each one where they are rare, the newest now and then where they are not."""

from __future__ import annotations

from dataclasses import dataclass

SAVE_S = 2.0  # each save that is told changes the journal three times and copies a file
_NEVER = float("-inf")


@dataclass(frozen=True)
class Save:
    """One checkpoint that was written: `epoch` counts from 1, 0 if unknown; `kept` is a copy that was left for us."""

    epoch: int
    kept: str = ""


class Saves:
    """The saves of one attempt that were not told yet."""

    def __init__(self) -> None:
        """None was seen."""
        self._waiting: Save | None = None
        self._at_once: list[Save] = []
        self._told_at = _NEVER
        self._by_record = False

    def written(self, save: Save, *, last: bool = False) -> None:
        """Take a save that the trainer itself recorded. The `last` one, and one with a copy, is told at once."""
        self._by_record = True
        if save.kept or last:
            self._at_once.append(save)
            self._waiting = None  # an older one: what is copied is the newest
        else:
            self._waiting = save

    def file_changed(self, epoch: int) -> None:
        """Take a save that was seen by its file; where the trainer records its saves, that is one of them."""
        if not self._by_record:
            self._waiting = Save(epoch)

    def due(self, now: float) -> list[Save]:
        """Return what is to be told now, oldest first: one save in two seconds, later ones wait for that time's end."""
        due, self._at_once = self._at_once, []
        if self._waiting is not None and now - self._told_at >= SAVE_S:
            due.append(self._waiting)
            self._waiting = None
        if due:
            self._told_at = now
        return due
