"""Planned segments: at an epoch that the job names, the training is stopped and resumed with other arguments.

Our runner knows the plan and leaves by itself when the epoch before a stage is saved. A stage that came by an edit
after the start is begun by a stop, which follows the news of that save: if epochs take less than about a second, the
stage begins that much later. No epoch is trained twice.
"""

from __future__ import annotations

from typing import Any

from supervisor.core.job import Stage
from supervisor.core.model import Job, Phase, Run, StopOrder


def due(run: Run) -> Stage | None:
    """The stage whose time has come although the running attempt was started before it; the latest one if several.

    An edit of the job file that no attempt has taken yet counts: it would be taken by the resume.
    """
    return reached(run) if run.phase is Phase.RUNNING and run.stop is None else None


def reached(run: Run) -> Stage | None:
    """The stage that the next attempt begins, although the last one was started before it; the latest if several."""
    saved = run.progress.saved_epoch
    over = 0 < run.progress.epochs <= saved
    if run.attempt is None or over:
        return None
    stages, begun = (run.next_job or run.job).stages, run.attempt.from_epoch + 1
    return next((one for one in reversed(stages) if begun < one.from_epoch <= saved + 1), None)


def last_epoch_before(job: Job, epoch: int) -> int | None:
    """The epoch after which an attempt that goes on after `epoch` complete ones must end for the next stage."""
    later = [one.from_epoch - 1 for one in job.stages if one.from_epoch > epoch + 1]
    return later[0] if later else None


def order(stage: Stage) -> StopOrder:
    """The stop that lets a stage begin."""
    return StopOrder(how="term", then=Phase.QUEUED, by="the job's plan", reason=words(stage))


def current(job: Job, epoch: int) -> Stage | None:
    """The stage in which the epoch after `epoch` complete ones is trained; None in what [train] says."""
    begun = [one for one in job.stages if one.from_epoch <= epoch + 1]
    return begun[-1] if begun else None


def words(stage: Stage) -> str:
    """`stage from epoch 50: imgsz = 512, freeze = 10`."""
    changes = ", ".join(f"{name} = {value}" for name, value in stage.args.items())
    return f"stage from epoch {stage.from_epoch}: {changes}"


def view(run: Run) -> list[dict[str, Any]]:
    """The plan as data: each stage with its state, which is done, now or planned."""
    job = run.next_job or run.job
    now = current(job, run.progress.saved_epoch)
    begun = now.from_epoch if now is not None else 0
    over = run.phase.terminal
    return [
        {
            "from_epoch": one.from_epoch,
            "args": dict(one.args),
            "state": "planned" if one.from_epoch > begun else "done" if one.from_epoch < begun or over else "now",
        }
        for one in job.stages
    ]
