"""How one training goes: what beats, tables and log lines add up to. No clock and no files in here."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median

import msgspec

from supervisor.attempt_files import Beat
from supervisor.core.numbers import finite
from supervisor.sources.saves import Save, Saves

RECENT_EPOCHS = 5
EPOCH_MAX = 10**9
PHASE_MAX_CHARACTERS = 80


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """The newest of one run, between what the journal keeps. Epochs count from 1; `at` is the trainer's clock.

    `seconds`: what the attempt did until then, where its trainer tells it; see core.attempt_seconds. `diverged_from`:
    the first of two epochs or more in a row at whose ends no loss was a number, else 0.
    """

    phase: str = ""
    epoch: int = 0
    epochs: int = 0
    saved_epoch: int = 0
    batch: int = 0
    batches: int = 0
    losses: dict[str, float] = {}
    metrics: dict[str, float] = {}
    images_per_s: float = 0.0
    epoch_s: float = 0.0
    eta_s: float | None = None
    next_save_s: float | None = None
    at: float = 0.0
    seconds: dict[str, float] = {}
    diverged_from: int = 0


class Pace:
    """How long an epoch takes: the median of the last five, or of the first one what its batches promise."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._recent: deque[float] = deque(maxlen=RECENT_EPOCHS)
        self._first_batch: tuple[int, int, float] | None = None
        self._projected_s = 0.0

    @property
    def epoch_s(self) -> float:
        """Return the seconds of a whole epoch, 0.0 while unknown."""
        return median(self._recent) if self._recent else self._projected_s

    def epoch_took(self, seconds: float) -> None:
        """Note the duration of a whole epoch."""
        if math.isfinite(seconds) and seconds > 0:
            self._recent.append(seconds)

    def batch_done(self, epoch: int, batch: int, batches: int, at: float) -> None:
        """Note a batch (any count that rises within the epoch), for the first epoch's sake."""
        first = self._first_batch
        if first is None or first[0] != epoch or batch < first[1]:
            self._first_batch = (epoch, batch, at)
        elif batch > first[1] and batches:
            self._projected_s = (at - first[2]) / (batch - first[1]) * batches

    def remaining_s(self, epochs_after_this: int, rest_of_this: float) -> float | None:
        """Return the seconds for so many epochs and this share of the present one; None while unknown."""
        if not self.epoch_s or epochs_after_this < 0:
            return None
        return self.epoch_s * (epochs_after_this + rest_of_this)


class Course:
    """One attempt's way through its epochs.

    `start` is set once the trainer has confirmed where it starts; `wrong_start` says why that is the wrong place.
    """

    def __init__(self) -> None:
        """Stand at the start."""
        self.live = Live()
        self.start: tuple[int, str] | None = None
        self.wrong_start = ""
        self.pace = Pace()
        self.saves = Saves()
        self._epoch_ended = False
        self._last_end: tuple[int, float] | None = None
        self._without_numbers = 0
        self._handlers = {
            "start": self._phase,
            "phase": self._phase,
            "resumed": self._resumed,
            "fresh": self._fresh,
            "batch": self._batch,
            "epoch": self._epoch,
            "saved": self._saved,
            "end": self._end,
        }

    def beat(self, beat: Beat) -> None:
        """Take one record of the runner. Its epochs count from 0; what makes no sense is left out."""
        handler = self._handlers.get(beat.kind)
        if handler is not None and _sane(beat):
            handler(beat)
            self.set(at=beat.at)

    def set(self, **changes: object) -> None:
        """Change some values, and what follows from them."""
        self.live = msgspec.structs.replace(self.live, **changes)
        self.live = msgspec.structs.replace(self.live, **self._outlook())

    def begins_after(self, done: int, save_dir: str) -> None:
        """Take where the trainer starts: after so many complete epochs, saving there."""
        self.start = (done, save_dir)
        if done > self.live.epoch:
            self.set(epoch=done, saved_epoch=done)
            self._epoch_ended = True

    def batch(
        self,
        epoch: int,
        epochs: int,
        *,
        batch: int,
        batches: int,
        losses: dict[str, float],
        at: float,
    ) -> None:
        """Take a batch of an epoch (from 1)."""
        self._epoch_ended = False
        self.pace.batch_done(epoch, batch, batches, at)
        losses = losses or self.live.losses
        self.set(epoch=epoch, epochs=epochs, batch=batch, batches=batches, losses=losses, at=at)

    def epoch_end(self, epoch: int, epoch_s: float | None, at: float) -> None:
        """Take the end of an epoch (from 1), and how long it took where that is known."""
        before, self._last_end = self._last_end, (epoch, at)
        if epoch_s is None and before is not None and epoch == before[0] + 1:
            epoch_s = at - before[1]
        self.pace.epoch_took(epoch_s or 0.0)
        self._epoch_ended = True
        self.set(epoch=epoch, at=at)

    def diverged_before(self, epoch: int) -> None:
        """Take what was known before the daemon was restarted: since that epoch no loss was a number; 0: some were."""
        self._without_numbers = epoch
        self.set(diverged_from=epoch)

    def losses_of_epoch(self, epoch: int, losses: Mapping[str, float | None]) -> None:
        """Take the losses at the end of an epoch (from 1); None, NaN and infinity are no numbers, no loss says nothing.

        One such epoch may be a single step that overflowed; the second in a row is a training that diverged.
        """
        if finite(losses):
            self._without_numbers = 0
            self.set(diverged_from=0)
        elif losses:
            self._without_numbers = self._without_numbers or epoch
            self.set(diverged_from=self._without_numbers if epoch > self._without_numbers else self.live.diverged_from)

    def file_saved(self, epoch: int) -> None:
        """Take a checkpoint file that was written after so many complete epochs; 0 where nobody says how many."""
        self.set(saved_epoch=epoch or self.live.saved_epoch)
        self.saves.file_changed(epoch)

    def _outlook(self) -> dict[str, float | None]:
        live = self.live
        done = min(1.0, live.batch / live.batches) if live.batches else 0.0
        rest = 0.0 if self._epoch_ended else 1.0 - done
        known = live.epoch > 0 and live.epochs >= live.epoch
        eta_s = self.pace.remaining_s(live.epochs - live.epoch, rest) if known else None
        last = self._epoch_ended and live.epochs == live.epoch
        next_save_s = None if last else self.pace.remaining_s(0, 1.0 if self._epoch_ended else rest)
        return {"eta_s": eta_s, "next_save_s": next_save_s, "epoch_s": self.pace.epoch_s}

    # ---- one method per kind of beat
    def _phase(self, beat: Beat) -> None:
        self.set(phase=(beat.phase or "")[:PHASE_MAX_CHARACTERS])

    def _resumed(self, beat: Beat) -> None:
        if beat.from_epoch is not None:
            done = beat.from_epoch + 1
            self.start = (done, beat.save_dir or "")
            self.set(epoch=done, saved_epoch=done)
            self._epoch_ended = True

    def _fresh(self, beat: Beat) -> None:
        self.start = (0, beat.save_dir or "")
        self.set(epochs=beat.epochs or self.live.epochs)

    def _batch(self, beat: Beat) -> None:
        if beat.epoch is None:
            return
        self.batch(
            beat.epoch + 1,
            beat.epochs or self.live.epochs,
            batch=beat.batch or 0,
            batches=beat.batches or self.live.batches,
            losses=finite(beat.losses),
            at=beat.at,
        )
        self.set(images_per_s=beat.images_per_s or 0.0)

    def _epoch(self, beat: Beat) -> None:
        if beat.epoch is not None:
            self.epoch_end(beat.epoch + 1, beat.epoch_s, beat.at)
            self.losses_of_epoch(beat.epoch + 1, beat.losses or {})
        losses, metrics = finite(beat.losses) or self.live.losses, finite(beat.metrics) or self.live.metrics
        self.set(epochs=beat.epochs or self.live.epochs, losses=losses, metrics=metrics)

    def _saved(self, beat: Beat) -> None:
        if beat.epoch is not None:
            epoch = beat.epoch + 1
            self.set(saved_epoch=epoch)
            self.saves.written(Save(epoch, beat.kept or ""), last=0 < self.live.epochs <= epoch)

    def _end(self, beat: Beat) -> None:
        self.set(phase="end", metrics=finite(beat.metrics) or self.live.metrics)


def _sane(beat: Beat) -> bool:
    numbers = (beat.epoch, beat.epochs, beat.batch, beat.batches, beat.from_epoch)
    return all(number is None or 0 <= number < EPOCH_MAX for number in numbers)
