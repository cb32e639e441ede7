"""Append heartbeats to a file: one JSON object a line, one write a line, never an error into the training."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from typing import Any


class BeatWriter:
    """Writes beats to one file, which is opened at the first beat.

    Each line is one `os.write` on an O_APPEND descriptor, so that ranks and threads never mix their lines.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._complained = False
        self._cut_line = False

    def write(self, kind: str, **fields: Any) -> None:
        """Append one beat. A failing write is said once on stderr and otherwise ignored."""
        beat = {"v": 1, "at": round(time.time(), 3), "kind": kind, **fields}
        try:
            line = json.dumps(beat, allow_nan=False, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            self._append(line)
        except (OSError, ValueError, TypeError) as error:
            self._complain(error)

    def _append(self, line: bytes) -> None:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o666)  # the umask of the run decides
        if self._cut_line:
            line = b"\n" + line
        # A full disk may take only the head of a line: the next one must not be glued to it.
        self._cut_line = os.write(self._descriptor, line) != len(line)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            print(f"yolo-supervisor: heartbeats are lost: {error}", file=sys.stderr, flush=True)


def number(value: Any) -> float | None:
    """Return `value` as a float that JSON can carry; None for NaN, infinity and what is no number."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return round(result, 6) if math.isfinite(result) else None


def losses_of(trainer: Any) -> dict[str, float | None]:
    """Return the running mean losses by name; a dict of tensors since 8.4, one tensor and names before."""
    running = getattr(trainer, "tloss", None)
    if running is None:
        return {}
    if isinstance(running, dict):
        return {str(name): number(value) for name, value in running.items()}
    values = running.tolist() if hasattr(running, "tolist") else running
    if not isinstance(values, list):
        values = [values]
    names = getattr(trainer, "loss_names", ())
    return {str(name): number(value) for name, value in zip(names, values)}  # noqa: B905 -- Python 3.8


def metrics_of(trainer: Any) -> dict[str, float | None]:
    """Return the metrics of the last validation by name, as the trainer names them."""
    metrics = getattr(trainer, "metrics", None)
    if not isinstance(metrics, dict):
        return {}
    return {str(name): number(value) for name, value in metrics.items()}


def learning_rates_of(trainer: Any) -> dict[str, float | None]:
    """Return the learning rate of each parameter group, as the trainer names them (lr/pg0, ...)."""
    rates = getattr(trainer, "lr", None)
    if not isinstance(rates, dict):
        return {}
    return {str(name): number(value) for name, value in rates.items()}


def updates_of(trainer: Any) -> int | None:
    """Return how often the averaged weights (EMA) were updated since the run began, or None."""
    updates = getattr(getattr(trainer, "ema", None), "updates", None)
    return int(updates) if isinstance(updates, (int, float)) else None
