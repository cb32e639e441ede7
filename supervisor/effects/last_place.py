"""Where a training stood when it ended, and when it last moved: by its heartbeats, else by its table and its log."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from supervisor import attempt_files
from supervisor.attempt_files import Beat
from supervisor.core.plain_text import frames
from supervisor.trainers.train_lines import TrainLines

TAIL_BYTES = 256 * 1024
#: Beats that say that the training moved, not that it ends.
_MOVING = frozenset({"start", "phase", "resumed", "fresh", "batch", "epoch", "saved"})


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Epoch and batch count from 1, 0 is unknown; `exact` if the trainer told them at its end. Times are Unix seconds.

    `told_at`: its last sign of life, of whatever kind; None without heartbeats. `moved_at`: 0 if unknown.
    """

    phase: str = ""
    epoch: int = 0
    batch: int = 0
    exact: bool = False
    told_at: float | None = None
    moved_at: float = 0.0


def of_beats(path: Path) -> Place:
    """Return what the end of a file of heartbeats says. A missing file says nothing; OSError if it cannot be read."""
    beats = [beat for beat in map(attempt_files.parse_beat, _tail(path).split(b"\n")) if beat is not None]
    phase = next((beat.phase for beat in reversed(beats) if beat.phase), "")
    batch = next((beat for beat in reversed(beats) if beat.kind in {"batch", "epoch"}), Beat(kind="batch", at=0.0))
    end = next((beat for beat in reversed(beats) if beat.kind == "end"), Beat(kind="end", at=0.0))
    alive = [beat.at for beat in beats if beat.kind != "end"]
    place = Place(
        phase=phase,
        epoch=_from_one(batch.epoch),
        batch=batch.batch or 0,
        told_at=max(alive, default=None),
        moved_at=max((beat.at for beat in beats if beat.kind in _MOVING), default=0.0),
    )
    if end.epoch is None:
        return place
    batch_of_end = end.batch if end.batch is not None else place.batch if end.epoch == batch.epoch else 0
    exact = end.batch is not None
    return msgspec.structs.replace(place, epoch=end.epoch + 1, batch=max(0, batch_of_end), exact=exact)


def of_log(log: Path, tables: Sequence[Path], started_at: float) -> Place:
    """Return what a trainer's progress bar says, and when its log or its table last grew."""
    frame = TrainLines().newest_frame(frames(_head(log) + b"\n" + _tail(log)))
    moved_at = max((at for at in map(_changed_at, (log, *tables)) if at >= started_at), default=0.0)
    if frame is None:
        return Place(moved_at=moved_at)
    return Place(phase="train", epoch=frame.epoch, batch=frame.batch, moved_at=moved_at)


def _from_one(epoch: int | None) -> int:
    return 0 if epoch is None else max(0, epoch + 1)


def _head(path: Path) -> bytes:
    """The number of epochs stands there, and whether they count from 0."""
    try:
        with path.open("rb") as file:
            return file.read(TAIL_BYTES)
    except FileNotFoundError:
        return b""


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read(TAIL_BYTES).lstrip(b"\0")
    except FileNotFoundError:
        return b""


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
