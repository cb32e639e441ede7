"""Where an attempt starts: the checkpoint that loses the least, put into the trainer's place."""

from __future__ import annotations

from pathlib import Path

import msgspec

from supervisor import layout, trainers
from supervisor.core import events
from supervisor.core.actions import Prepare
from supervisor.core.checkpoints import Checkpoint, Choice, choose
from supervisor.effects import checkpoints
from supervisor.trainers.results_csv import trim


def choose_start(action: Prepare, run_dir: layout.RunDirectory, runs_dir: Path) -> events.Prepared:  # noqa: ARG001 - branches come from there
    """What the files allow. Torn ones are kept aside before a start from the beginning."""
    job = action.job
    trainer = trainers.trainer_for(job)
    found = checkpoints.look(trainer.checkpoints(job, run_dir))
    choice = choose(job, found, scratch_allowed=action.scratch_allowed)
    best = choice.checkpoint
    if action.set_aside and choice.start != "fresh":
        names = ", ".join(one.path for one in found)
        choice = Choice(
            "refused", reason=f"{names} lie outside the run directory and are of an older run: move them away"
        )
    if choice.start == "fresh":
        _clear_the_way(found, run_dir, run_dir.attempt(action.attempt).aside)
    notes = tuple(
        f"{Path(other.path).name} is {other.state}: {other.reason}" for other in found if other.state == "torn"
    )
    return events.Prepared(
        at=0.0,
        origin="prepare",
        run=action.run,
        attempt=action.attempt,
        start=choice.start,
        checkpoint=best.path if best is not None else "",
        from_epoch=best.done_epochs if best is not None else 0,
        notes=notes,
        reason=choice.reason,
    )


def _clear_the_way(found: list[Checkpoint], run_dir: layout.RunDirectory, aside: Path) -> None:
    """Before a start from the beginning: torn checkpoints and the table of an aborted start are kept aside."""
    for checkpoint in found:
        checkpoints.set_aside(Path(checkpoint.path), aside)
    if run_dir.results.exists():  # some versions go on appending to it
        checkpoints.set_aside(run_dir.results, aside)


def bring_into_place(choice: events.Prepared, run_dir: layout.RunDirectory, action: Prepare) -> events.Prepared:
    """Let the chosen checkpoint be the one that the trainer goes on writing, and the table of epochs end with it."""
    job, aside = action.job, run_dir.attempt(action.attempt).aside
    if job.train is None:
        return choice
    notes = list(choice.notes)
    last = run_dir.weights / "last.pt"
    if Path(choice.checkpoint) != last:
        checkpoints.put_in_place(Path(choice.checkpoint), last, aside)
        notes.append(f"{Path(choice.checkpoint).name} took the place of last.pt")
    dropped = trim(run_dir.results, choice.from_epoch, aside)
    if dropped:
        notes.append(f"{dropped} rows after epoch {choice.from_epoch} were cut from results.csv")
    return msgspec.structs.replace(choice, checkpoint=str(last), notes=tuple(notes))
