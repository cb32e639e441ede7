"""How far a training is and what is ahead: the journal's progress and the newest heartbeat taken together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from supervisor.core.model import Phase, Run

_MAP50_95 = ("map50-95", "map_0.5:0.95")  # as Ultralytics and YOLOv5 write it


class Live(Protocol):
    """The newest heartbeat of a run. Epochs count from 1; `epoch` is the one being trained."""

    @property
    def phase(self) -> str:
        """What the trainer does: import, setup, scan, train, val, save, end."""

    @property
    def epoch(self) -> int:
        """The epoch being trained."""

    @property
    def epochs(self) -> int:
        """Of how many."""

    @property
    def batch(self) -> int:
        """The batch done last in this epoch."""

    @property
    def batches(self) -> int:
        """Of how many."""

    @property
    def losses(self) -> Mapping[str, float]:
        """The newest losses."""

    @property
    def saved_epoch(self) -> int:
        """The newest epoch in a checkpoint."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics of the newest validation."""

    @property
    def epoch_s(self) -> float:
        """Seconds of a whole epoch, 0 while unknown."""

    @property
    def images_per_s(self) -> float:
        """The speed, 0 while unknown."""

    @property
    def eta_s(self) -> float | None:
        """Seconds from `at` to the end of the training."""

    @property
    def next_save_s(self) -> float | None:
        """Seconds from `at` to the next checkpoint."""

    @property
    def at(self) -> float:
        """When the heartbeat was written."""


def saved_epoch(run: Run, live: Live | None) -> int:
    """The newest epoch in a checkpoint; 0 while there is none."""
    return max(run.progress.saved_epoch, live.saved_epoch) if live else run.progress.saved_epoch


def metrics_of(run: Run, live: Live | None) -> dict[str, float]:
    """The newest metrics."""
    return dict(live.metrics if live and live.metrics else run.progress.metrics)


def epochs_done(run: Run, live: Live | None) -> float:
    """Epochs trained so far, with the part of the present one where that is known."""
    saved = saved_epoch(run, live)
    if live is None or not live.epoch:
        return float(max(saved, run.progress.epoch - 1))  # the epoch that was last heard of may be unfinished
    part = live.batch / live.batches if live.batches else 0.0
    return max(float(saved), live.epoch - 1 + min(1.0, part))


def percent(run: Run, live: Live | None, epochs: int | None) -> float | None:
    """How much of the training is done; None where the number of epochs is not known."""
    if run.phase is Phase.SUCCEEDED:
        return 100.0
    return round(min(100.0, 100.0 * epochs_done(run, live) / epochs), 1) if epochs else None


def eta_s(run: Run, live: Live | None, now: float) -> float | None:
    """Seconds until the training ends, as last said by the trainer and aged since; None unless it runs and moves."""
    if run.phase is not Phase.RUNNING or run.stalled:
        return None
    if live is not None and live.eta_s is not None:
        return max(0.0, live.eta_s - (now - live.at))
    if run.progress.eta_s is not None:
        return max(0.0, run.progress.eta_s - (now - run.progress.at))
    return None


def next_save_s(live: Live | None, now: float) -> float | None:
    """Seconds until the next checkpoint, where the trainer's pace is known."""
    if live is None or live.next_save_s is None:
        return None
    return max(0.0, live.next_save_s - (now - live.at))


def map50_95(metrics: Mapping[str, float]) -> float | None:
    """The mAP50-95 among a trainer's metrics, boxes before masks and poses."""
    found = [name for name in metrics if name.lower().rpartition("/")[2].startswith(_MAP50_95)]
    found.sort(key=lambda name: ("(B)" not in name, name))
    return metrics[found[0]] if found else None


def at_stake(run: Run, live: Live | None) -> dict[str, Any]:
    """What an end at once would lose: the epochs since the newest checkpoint, and the time that they took."""
    lost = max(0.0, epochs_done(run, live) - saved_epoch(run, live)) if run.busy else 0.0
    epoch_s = (live.epoch_s if live else 0.0) or run.progress.epoch_s
    return {"epochs": round(lost, 2), "seconds": round(lost * epoch_s) if epoch_s else None}
