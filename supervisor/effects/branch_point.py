"""The beginning of a branch: a checkpoint of another run, copied and proven once more, to go on from or to start with.

The other run may be training just now: what is copied is looked at as a copy, and nothing of it is touched.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from supervisor import durable, layout, trainers
from supervisor.core import events
from supervisor.core.actions import Prepare
from supervisor.core.checkpoints import GOES_ON, Candidate, Checkpoint, Choice, choose_epoch
from supervisor.core.job import StartFrom
from supervisor.core.ledger import Entry, Ledger, usable
from supervisor.core.model import Job
from supervisor.effects import checkpoints, ledger, survey
from supervisor.effects.private_copy import private_copy
from supervisor.errors import RetryableError

STAGED = "branch.pt"
CHANGED_AGAIN_S = 3.0


def begin(action: Prepare, run_dir: layout.RunDirectory, runs_dir: Path) -> events.Prepared:
    """The first start of a branch: resumed after an epoch of the other run, or anew with that epoch's weights.

    Raises RetryableError where the other run's file changes while it is copied, or there is no room for a copy.
    """
    start = action.job.start_from or StartFrom(run="")
    project, _, name = action.origin.partition("/")
    if not name:
        return _refused(action, f"start_from: no run named {start.run} is known")
    source = layout.run_directory(runs_dir, project, name)
    kept = ledger.read(source)
    choice = _choose(action, source, kept, start)
    found = choice.checkpoint
    if found is None:
        return _refused(action, f"start_from {start.run}: {choice.reason}")
    staged = run_dir.start if start.weights else run_dir.attempt(action.attempt).root / STAGED
    _bring(found, staged, kept, action.job)
    where = (
        f"{start.run} after epoch {found.done_epochs}" if found.epoch is not None and found.epoch >= 0 else found.path
    )
    return events.Prepared(
        at=0.0,
        origin="prepare",
        run=action.run,
        attempt=action.attempt,
        start="fresh" if start.weights else "resume",
        checkpoint=str(staged),
        from_epoch=0 if start.weights else found.done_epochs,
        epochs_override=0 if start.weights else survey.override(action.job, choice),
        notes=(f"starts anew with the weights of {where}" if start.weights else f"branches from {where}",),
    )


def _refused(action: Prepare, reason: str) -> events.Prepared:
    return events.Prepared(
        at=0.0, origin="prepare", run=action.run, attempt=action.attempt, start="refused", reason=reason
    )


# ---- choosing
def _choose(action: Prepare, source: layout.RunDirectory, kept: Ledger, start: StartFrom) -> Choice:
    """Copies come before the files of a trainer that may be writing them, and those of the named line before others."""
    look = survey.of_run(action.job, source, Ledger())
    look.candidates = [*survey.copies(source, _entries(kept, start)), *look.candidates]
    if start.epoch is not None:
        choice = _first_of(look, start.epoch)
    else:
        choice = look.choose(_pick_newest) if start.weights else _newest_before_the_end(look)
    stripped = sorted((one for one in look.found if one.state == "finished" and not one.kept), key=lambda one: one.name)
    return _with_weights(choice, stripped, start) if start.weights else _resumable(choice, stripped)


def _entries(kept: Ledger, start: StartFrom) -> Sequence[Entry]:
    """The copies that may be meant: those of the named run's line before those of others."""
    line = usable(kept, kept.line_of(start.run) if "@" in start.run else None)
    others = [entry for entry in reversed(kept.entries) if entry not in line]
    return line if start.epoch is None else [*line, *others]


def _pick_newest(found: Sequence[Checkpoint], states: frozenset[str] = GOES_ON) -> Choice:
    whole = [one for one in found if one.state in states]
    if not whole:
        return Choice("refused", reason="no checkpoint with the optimizer's state is there")
    return Choice("resume", max(whole, key=lambda one: (one.done_epochs, one.kept)))


def _newest_before_the_end(look: survey.Survey) -> Choice:
    """The one with the most epochs of those after which something is left to train.

    Unlike a run that goes on by itself, a branch is not over because the other run is finished: files that say so
    end no search here.
    """

    def pick(found: Sequence[Checkpoint]) -> Choice:
        return _pick_newest(found, frozenset({"resumable"}))

    unclaimed = survey.Survey(look.job, [one for one in look.candidates if one.epoch is None], look.judge)
    best = unclaimed.choose(pick)
    look.found += unclaimed.found
    claimed = sorted((one for one in look.candidates if one.epoch is not None), key=_promise, reverse=True)
    for candidate in claimed:
        if best.checkpoint is not None and _promise(candidate)[0] <= best.checkpoint.done_epochs:
            break
        alone = survey.Survey(look.job, [candidate], look.judge)
        best = max(best, alone.choose(pick), key=_epochs_in)
        look.found += alone.found
    return best if best.checkpoint is not None else _pick_newest(look.found)


def _promise(candidate: Candidate) -> tuple[int, bool]:
    return candidate.epoch or 0, candidate.kept


def _epochs_in(choice: Choice) -> int:
    return -1 if choice.checkpoint is None else choice.checkpoint.done_epochs


def _first_of(look: survey.Survey, epoch: int) -> Choice:
    """The first good one of this epoch, files that claim it before those that claim none."""
    fitting = sorted((one for one in look.candidates if one.epoch in {None, epoch}), key=lambda one: one.epoch is None)
    for candidate in fitting:
        alone = survey.Survey(look.job, [candidate], look.judge)
        choice = alone.choose(lambda found: choose_epoch(found, epoch))
        look.found += alone.found
        if choice.checkpoint is not None:
            return choice
    return choose_epoch(look.found, epoch)


def _resumable(choice: Choice, stripped: Sequence[Checkpoint]) -> Choice:
    if choice.checkpoint is not None and choice.checkpoint.state == "done_not_stripped":
        reason = f"all {choice.checkpoint.done_epochs} epochs are done there: nothing is left to go on with"
        return Choice("refused", reason=f"{reason}; --from-weights (weights = true) starts a new training from it")
    if choice.checkpoint is None and stripped:
        names = " and ".join(one.name for one in stripped)
        return Choice("refused", reason=f"{choice.reason}; {names} can only give weights (weights = true)")
    return choice


def _with_weights(choice: Choice, stripped: Sequence[Checkpoint], start: StartFrom) -> Choice:
    """Weights may also be those of best.pt, else last.pt of a finished run, where no epoch is named: they say none."""
    spare = stripped[0] if stripped and start.epoch is None else None
    return Choice("fresh", choice.checkpoint or spare, choice.reason)


# ---- bringing
def _bring(found: Checkpoint, staged: Path, kept: Ledger, job: Job) -> None:
    """Copy the file and make sure that the copy is what was looked at: bit by bit what the ledger entered."""
    source, incoming = Path(found.path), staged.with_name(f".{staged.name}.incoming")
    try:
        copied = private_copy(source, incoming)
        hashes = {entry.sha256 for entry in kept.entries if found.kept and entry.file == source.name}
        seen = survey.prove(incoming, job) if found.state in GOES_ON else checkpoints.look([incoming], finite=True)[0]
        if (seen.state, seen.epoch) != (found.state, found.epoch) or (hashes and copied.sha256 not in hashes):
            raise RetryableError(f"{source} changed while it was copied: {seen.state} {seen.reason}", CHANGED_AGAIN_S)
        incoming.replace(staged)
        durable.sync(staged.parent)
    except FileNotFoundError as error:
        raise RetryableError(f"{source} was removed while it was copied", CHANGED_AGAIN_S) from error
    finally:
        incoming.unlink(missing_ok=True)


def bring_table(action: Prepare, run_dir: layout.RunDirectory, staged: Path) -> None:
    """Give a branch that is resumed the other run's table of epochs, up to that of the checkpoint."""
    if staged.name != STAGED or not action.origin:
        return
    project, _, name = action.origin.partition("/")
    source = layout.run_directory(run_dir.root.parents[1], project, name)
    trainer = trainers.trainer_for(action.job)
    pairs = zip(trainer.tables(action.job, source), trainer.tables(action.job, run_dir), strict=True)
    aside = run_dir.attempt(action.attempt).aside
    for theirs, ours in pairs:
        if not ours.exists():
            with contextlib.suppress(FileNotFoundError):
                _copy_whole(theirs, ours, aside)
    [found] = checkpoints.look([staged])
    if found.state in GOES_ON:  # told to nobody: no row of this run is cut
        trainer.make_ready(action.job, run_dir, from_epoch=found.done_epochs, aside=aside)


def _copy_whole(source: Path, target: Path, aside: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = checkpoints.beside(target, aside) / f".{target.name}.copy"
    shutil.copyfile(source, temporary)
    durable.sync(temporary)
    temporary.replace(target)
