"""Which checkpoint a run goes on from. By what is inside the files, never by name or age alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import msgspec

from supervisor.core import outlook
from supervisor.core.model import Job

TORCH_SUFFIXES = frozenset({".pt", ".pth"})
#: A training can go on from these, or be finished.
GOES_ON = frozenset({"resumable", "done_not_stripped"})
#: Whole files with something in them, whoever wrote them.
WHOLE = GOES_ON | {"weights_only", "finished"}
#: Files that nobody may use. "refused" is the verdict of the deep check, in the job's own Python.
BAD = frozenset({"torn", "hostile", "poisoned", "refused"})
LOOKS_AT_ONCE = 3


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at one file found.

    `state` is missing, torn, hostile, poisoned, refused, finished, done_not_stripped, weights_only or resumable;
    `epoch` is 0-based, as stored. `finite` is None where the tensors were not scanned; `doubts` are what a deep check
    should look at. `kept`: the file is a copy in the ledger.
    """

    path: str
    state: str
    epoch: int | None = None
    epochs: int | None = None
    size_bytes: int = 0
    mtime_ns: int = 0
    has_optimizer: bool | None = None
    save_dir: str | None = None
    best_fitness: float | None = None
    reason: str | None = ""
    version: str | None = None
    metrics: dict[str, float | None] | None = None
    updates: int | None = None
    model: str | None = None
    class_names: tuple[str, ...] | None = None
    arguments: dict[str, Any] | None = None
    tensors: int | None = None
    tensor_bytes: int | None = None
    finite: bool | None = None
    doubts: tuple[str, ...] | None = ()
    kept: bool = False

    @property
    def done_epochs(self) -> int:
        """Complete epochs in this checkpoint, counted from 1; 0 if it does not say."""
        return 0 if self.epoch is None else max(0, self.epoch + 1)

    @property
    def map50_95(self) -> float | None:
        """The mAP50-95 of just this epoch, if the file holds it."""
        return outlook.map50_95({name: value for name, value in (self.metrics or {}).items() if value is not None})

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePath(self.path).name


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A file that may be a checkpoint, before anybody looked into it.

    `epoch` is how many complete epochs its name or the ledger claims, None where nobody does. It says in which order
    to look, and nothing else: what is chosen is chosen by what was found. A copy of unknown epoch claims 0.
    """

    path: str
    epoch: int | None = None
    kept: bool = False


class Choice(msgspec.Struct, frozen=True):
    """How an attempt starts; the kinds are those of events.Prepared."""

    start: str
    checkpoint: Checkpoint | None = None
    reason: str = ""
    lacking: bool = False


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """The epochs that a run could go back to, and the files that hold weights only."""

    epochs: tuple[int, ...] = ()
    stripped: tuple[str, ...] = ()


# ---- looking
def next_looks(
    candidates: Sequence[Candidate], found: Sequence[Checkpoint], *, only: int | None = None
) -> list[Candidate]:
    """The files to look at next, a few at a time; none where nothing that was not looked at could be better.

    Files that claim no epoch come first, all of them. `only`: one epoch is wanted, files that claim others are not.
    """
    seen = {one.path for one in found}
    left = [one for one in candidates if one.path not in seen and (only is None or one.epoch in {None, only})]
    unclaimed = [one for one in left if one.epoch is None]
    if unclaimed:
        return unclaimed
    if only is not None:
        left = [] if exactly(found, only) is not None else left
    elif _settled(found):
        return []
    best = -1 if only is not None else max((_worth(one) for one in found), default=-1)
    left = [one for one in left if (one.epoch or 0) > best]
    return sorted(left, key=lambda one: (one.epoch or 0, not one.kept), reverse=True)[:LOOKS_AT_ONCE]


def _worth(checkpoint: Checkpoint) -> int:
    """Complete epochs that are safe in it; -1 if it is of no use."""
    return checkpoint.done_epochs if checkpoint.state in GOES_ON else -(checkpoint.state != "weights_only")


def _settled(found: Sequence[Checkpoint]) -> bool:
    """True if the end of the training was seen: no epoch can be more than all."""
    return any(
        one.state == "done_not_stripped" or (one.state == "finished" and one.name == "last.pt" and not one.kept)
        for one in found
    )


def exactly(found: Sequence[Checkpoint], epoch: int) -> Checkpoint | None:
    """The checkpoint of that epoch (counted from 1) that a training can go on from; the one in place before copies."""
    fitting = [one for one in found if one.state in GOES_ON and one.done_epochs == epoch]
    return max(fitting, key=_newest, default=None)


# ---- judging
def knows_its_end(job: Job) -> bool:
    """True for trainers whose files say when all epochs are done: Ultralytics and the families of train.py."""
    return job.train is not None or job.family not in {"", "custom"}


def judged(checkpoint: Checkpoint, epochs: int | None) -> Checkpoint:
    """The checkpoint of a run that is to have so many epochs: is something left to train? None: the file knows best."""
    if epochs is None or checkpoint.state not in GOES_ON:
        return checkpoint
    state = "done_not_stripped" if checkpoint.done_epochs >= epochs else "resumable"
    return checkpoint if state == checkpoint.state else msgspec.structs.replace(checkpoint, state=state)


def of_an_older_plan(checkpoint: Checkpoint) -> Checkpoint:
    """A finished file of a run that is to be trained further: its end is no end any more, and only weights are left."""
    if checkpoint.state != "finished":
        return checkpoint
    reason = "stripped at the end of the run before; usable as weights only"
    return msgspec.structs.replace(checkpoint, state="weights_only", reason=reason)


# ---- choosing
def choose(job: Job, found: Sequence[Checkpoint], *, scratch_allowed: bool, hooked: bool = False) -> Choice:
    """The start that loses the least. From the beginning only where no checkpoint was ever proven good.

    `hooked`: a command whose own training our hook saw, and turns into a resume.
    """
    known = hooked or knows_its_end(job)
    choice = _choose_train(found) if known else _choose_command(job, found)
    if choice is not None:
        return choice
    if scratch_allowed and all(_holds_nothing(one, known=known) for one in found):
        return Choice("fresh")
    if not found:
        reason = "the run had saved epochs, but no checkpoint is there: is a disk not mounted?"
        return Choice("refused", reason=reason, lacking=True)
    states = ", ".join(f"{one.name} is {one.state}{f' ({one.reason})' if one.reason else ''}" for one in found)
    return Choice(
        "refused",
        reason=f"no checkpoint can be resumed, and a start from scratch would lose epochs: {states}",
        lacking=True,
    )


def choose_epoch(found: Sequence[Checkpoint], epoch: int) -> Choice:
    """The start that goes on after just this epoch, whatever was trained beyond it."""
    exact = exactly(found, epoch)
    if exact is not None:
        return Choice("finish" if exact.state == "done_not_stripped" else "resume", exact)
    there = sorted({one.done_epochs for one in found if one.state in GOES_ON})
    others = f"; there are epochs {', '.join(map(str, there))}" if there else ""
    bad = ", ".join(f"{one.name} is {one.state}: {one.reason}" for one in found if one.state in BAD)
    return Choice("refused", reason=f"no good checkpoint of epoch {epoch} is there{others}{f' ({bad})' if bad else ''}")


def _holds_nothing(checkpoint: Checkpoint, *, known: bool) -> bool:
    """True for what no epoch can be in. The format of other trainers is not known: only an empty file is nothing."""
    if not known:
        return checkpoint.state == "missing" or not checkpoint.size_bytes
    return checkpoint.state in {"missing", "torn"}


def _choose_train(found: Sequence[Checkpoint]) -> Choice | None:
    """For the YOLO family. The trainer's own end state wins: a finished run is never restarted into a new training."""
    last = next((one for one in found if one.name == "last.pt" and not one.kept), None)
    if last is not None and last.state == "finished":
        return Choice("finished", last, "last.pt is finished: all epochs were trained and its weights are stripped")
    done = [one for one in found if one.state == "done_not_stripped"]
    if done:
        return Choice("finish", max(done, key=_newest))
    resumable = [one for one in found if one.state == "resumable" and one.epoch is not None]
    return Choice("resume", max(resumable, key=_newest)) if resumable else None


def _newest(checkpoint: Checkpoint) -> tuple[int, bool, bool]:
    """Most epochs first; of equals the one that is last.pt, because it is in place already, and copies at last."""
    return checkpoint.done_epochs, checkpoint.name == "last.pt", not checkpoint.kept


def _choose_command(job: Job, found: Sequence[Checkpoint]) -> Choice | None:
    """For any other trainer: the newest whole file, by epoch where it tells one, else by time."""
    whole = [one for one in found if _is_whole(one)]
    if not whole:
        return None
    newest = max(whole, key=lambda one: (one.done_epochs, not one.kept, one.mtime_ns))
    if not job.resume_command:
        lost = newest.done_epochs or "its"
        reason = f"{newest.path} is there, but the job has no resume_command: a new start would lose {lost} epochs"
        return Choice("refused", reason=reason)
    return Choice("resume", newest)


def _is_whole(checkpoint: Checkpoint) -> bool:
    """PyTorch files must be proven whole; of other formats nothing is known but that they are not empty."""
    if PurePath(checkpoint.path).suffix in TORCH_SUFFIXES:
        return checkpoint.state in GOES_ON | {"weights_only"}
    return checkpoint.state not in BAD - {"torn"} | {"missing"} and bool(checkpoint.size_bytes)
