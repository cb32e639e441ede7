"""What the log lines of the YOLO family say: Ultralytics old and new, YOLOv5, v7 and v9."""

from __future__ import annotations

import re
from dataclasses import dataclass

from supervisor.core.numbers import finite
from supervisor.core.progress_frames import FRAME

FRAME_MAX_CHARACTERS = 1000
_TOTAL = re.compile(r"Starting training for (\d{1,9}) epochs|from epoch \d+ to (\d{1,9}) total epochs")
_HEADER = re.compile(r"^\s*Epoch\s+gpu_mem\s+(.*)$", re.IGNORECASE)
_LOSS_NAMES = frozenset({"box", "obj", "cls", "dfl", "total"})


@dataclass(frozen=True)
class Frame:
    """One state of a training's progress bar. Epochs count from 1."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    losses: dict[str, float]

    @property
    def complete_epochs(self) -> int:
        """Return how many epochs have been trained to their end."""
        return self.epoch if self.batch >= self.batches else self.epoch - 1


class TrainLines:
    """Understands a log bit by bit: the number of epochs, the names of the columns, the newest frame."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._total = 0
        self._names: tuple[str, ...] = ()
        self._zero_based = False

    def counts_from_zero(self) -> None:
        """Take from another source (results.csv) that this trainer's first epoch is 0."""
        self._zero_based = True

    def newest_frame(self, frames: list[str]) -> Frame | None:
        """Return the last frame among some cleaned lines, None if there is none. Remembers what else they say."""
        found = None
        for text in frames:
            if len(text) > FRAME_MAX_CHARACTERS:
                continue
            if "epoch" in text or "Epoch" in text:
                self._learn(text)
            if "%" in text:
                found = FRAME.match(text + " ") or found
        return self._frame(found) if found else None

    def _learn(self, text: str) -> None:
        total = _TOTAL.search(text)
        header = _HEADER.match(text)
        if total:
            self._total = int(total[1] or total[2])
        elif header:
            self._names = tuple(header[1].split())

    def _frame(self, match: re.Match[str]) -> Frame:
        epoch, last, batch, batches = (int(match[group]) for group in (1, 2, 5, 6))
        # YOLOv5, v7 and v9 write "0/299" for the first epoch of 300
        self._zero_based = self._zero_based or epoch == 0 or (self._total > 0 and last == self._total - 1)
        shift = 1 if self._zero_based else 0
        return Frame(epoch + shift, last + shift, batch, batches, self._losses(match[3].split()))

    def _losses(self, cells: list[str]) -> dict[str, float]:
        named = zip(self._names, cells, strict=False)
        wanted = {name: cell for name, cell in named if "loss" in name or name in _LOSS_NAMES}
        return finite({name: float(cell) for name, cell in wanted.items() if _NUMBER.fullmatch(cell)})


_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")
