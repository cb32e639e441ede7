"""Carries out Keep: the newest checkpoint of an attempt goes into the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from supervisor import layout
from supervisor.core.actions import Keep
from supervisor.core.events import Event, Kept
from supervisor.effects import ledger
from supervisor.effects.ledger import Maker, Taken
from supervisor.effects.private_copy import NoRoomError
from supervisor.errors import RetryableError
from supervisor.trainers import trainer_for

QUIET_S = 2.0  # written in place, piece by piece; only a trainer that records its saves says when one is done


class _Fence(msgspec.Struct, frozen=True):
    token: int


class Keeper:
    """Carries out Keep."""

    def __init__(self, runs_dir: Path, now: Callable[[], float]) -> None:
        """`now` gives the time by the files' clock; it stamps copies and the answer."""
        self._runs_dir = runs_dir
        self._now = now

    def __call__(self, action: Keep) -> tuple[Event, ...]:
        """See the module. Again does no harm: the same file is entered once.

        Raises RetryableError where the file is being written or another copy of the run is under way, and where there
        is no room for the last save, which does not come again.
        """
        run_dir = layout.run_directory(self._runs_dir, action.job.project, action.job.name)
        with ledger.exclusive(run_dir):
            if not _is_ours(run_dir, action.token):
                return (self._kept(action, Taken(None, "the run directory belongs to another attempt by now")),)
            at = self._now()
            taken = self._keep(run_dir, action, at)
            return (self._kept(action, taken, best=_is_new_best(run_dir, taken, at)),)

    def _kept(self, action: Keep, taken: Taken, *, best: bool = False) -> Kept:
        entry = taken.entry
        return Kept(
            at=self._now(),
            origin="ledger",
            run=action.run,
            attempt=action.attempt,
            epoch=entry.epoch if entry is not None else 0,
            file=entry.file if entry is not None else "",
            reason=taken.reason,
            fault=taken.fault,
            best=best,
        )

    def _keep(self, run_dir: layout.RunDirectory, action: Keep, at: float) -> Taken:
        """The private copy of the last save if the runner left one, else what the trainer wrote last."""
        maker = Maker(action.run, action.attempt, action.job, at)
        final = ledger.take_final(run_dir, maker)
        if final.entry is not None:
            return final
        source = next(iter(trainer_for(action.job).checkpoints(action.job, run_dir)), None)
        if source is None:
            return replace(final, reason=final.reason or "no checkpoint is there")
        self._demand_quiet(source, run_dir.attempt(action.attempt))
        taken = _take(run_dir, source, maker)
        reason = "; ".join(filter(None, (final.reason, taken.reason)))
        return replace(taken, reason=reason, fault=taken.fault or final.fault)

    def _demand_quiet(self, source: Path, attempt: layout.AttemptDirectory) -> None:
        if attempt.beats.exists():
            return
        try:
            age_s = self._now() - source.stat().st_mtime
        except FileNotFoundError:
            return
        if 0 <= age_s < QUIET_S:
            raise RetryableError(f"{source} was written {age_s:.1f} s ago", QUIET_S - age_s)


def _is_new_best(run_dir: layout.RunDirectory, taken: Taken, at: float) -> bool:
    """True for a copy that was entered just now and has a higher mAP than all others."""
    entry = taken.entry
    if entry is None or entry.map50_95 is None or entry.kept_at != at:
        return False
    others = [one.map50_95 for one in ledger.read(run_dir).entries if one.file != entry.file]
    return all(entry.map50_95 > other for other in others if other is not None)


def _take(run_dir: layout.RunDirectory, source: Path, maker: Maker) -> Taken:
    """As ledger.take. A disk in trouble is told and not waited for: the next save has an order of its own."""
    try:
        return ledger.take(run_dir, source, maker)
    except NoRoomError as error:
        return Taken(None, str(error), "no room")
    except OSError as error:
        return Taken(None, f"{source} could not be copied: {error.strerror or error}", "disk")


def _is_ours(run_dir: layout.RunDirectory, token: int) -> bool:
    """True while nobody has taken the run directory over: a stale holder writes nothing."""
    try:
        return msgspec.json.decode(run_dir.token.read_bytes(), type=_Fence).token == token
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return False
