"""Which checkpoint a run goes on from. By what is inside the files, never by name or age alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import msgspec

from supervisor.core.model import Job

TORCH_SUFFIXES = frozenset({".pt", ".pth"})


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at one file found.

    `state` is missing, torn, finished, done_not_stripped, weights_only or resumable; `epoch` is 0-based, as stored.
    """

    path: str
    state: str
    epoch: int | None = None
    epochs: int | None = None
    size_bytes: int = 0
    mtime_ns: int = 0
    has_optimizer: bool | None = None
    save_dir: str | None = None
    reason: str | None = ""

    @property
    def done_epochs(self) -> int:
        """Complete epochs in this checkpoint, counted from 1; 0 if it does not say."""
        return 0 if self.epoch is None else max(0, self.epoch + 1)


class Choice(msgspec.Struct, frozen=True):
    """How an attempt starts; the kinds are those of events.Prepared."""

    start: str
    checkpoint: Checkpoint | None = None
    reason: str = ""


def choose(job: Job, found: Sequence[Checkpoint], *, scratch_allowed: bool) -> Choice:
    """The start that loses the least. From the beginning only where no checkpoint was ever proven good."""
    choice = _choose_command(job, found) if job.train is None else _choose_train(found)
    if choice is not None:
        return choice
    if scratch_allowed and all(_holds_nothing(job, checkpoint) for checkpoint in found):
        return Choice("fresh")
    if not found:
        return Choice("refused", reason="the run had saved epochs, but no checkpoint is there: is a disk not mounted?")
    states = ", ".join(
        f"{PurePath(one.path).name} is {one.state}{f' ({one.reason})' if one.reason else ''}" for one in found
    )
    return Choice(
        "refused",
        reason=f"no checkpoint can be resumed, and a start from scratch would lose epochs: {states}",
    )


def _holds_nothing(job: Job, checkpoint: Checkpoint) -> bool:
    """True for what no epoch can be in. The format of other trainers is not known: only an empty file is nothing."""
    if job.train is None:
        return checkpoint.state == "missing" or checkpoint.size_bytes == 0
    return checkpoint.state in {"missing", "torn"}


def _choose_train(found: Sequence[Checkpoint]) -> Choice | None:
    """For Ultralytics. The trainer's own end state wins: a finished run is never restarted into a new training."""
    by_name = {PurePath(one.path).name: one for one in found}
    last = by_name.get("last.pt")
    if last is not None and last.state == "finished":
        return Choice("finished", last, "last.pt is finished: all epochs were trained and its weights are stripped")
    done = [one for one in found if one.state == "done_not_stripped"]
    if done:
        return Choice("finish", max(done, key=_newest))
    resumable = [one for one in found if one.state == "resumable" and one.epoch is not None]
    return Choice("resume", max(resumable, key=_newest)) if resumable else None


def _newest(checkpoint: Checkpoint) -> tuple[int, bool]:
    """Most epochs first; of equals the one that is last.pt, because it is in place already."""
    return checkpoint.done_epochs, PurePath(checkpoint.path).name == "last.pt"


def _choose_command(job: Job, found: Sequence[Checkpoint]) -> Choice | None:
    """For any other trainer: the newest whole file, by epoch where it tells one, else by time."""
    whole = [one for one in found if _is_whole(one)]
    if not whole:
        return None
    newest = max(whole, key=lambda one: (one.done_epochs, one.mtime_ns))
    if not job.resume_command:
        lost = newest.done_epochs or "its"
        reason = f"{newest.path} is there, but the job has no resume_command: a new start would lose {lost} epochs"
        return Choice("refused", reason=reason)
    return Choice("resume", newest)


def _is_whole(checkpoint: Checkpoint) -> bool:
    """PyTorch files must be proven whole; of other formats nothing is known but that they are not empty."""
    if PurePath(checkpoint.path).suffix in TORCH_SUFFIXES:
        return checkpoint.state in {"resumable", "done_not_stripped", "weights_only"}
    return checkpoint.state != "missing" and checkpoint.size_bytes > 0
