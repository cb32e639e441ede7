"""New runs on an old run's directory that do not simply go on: back to an epoch, or on beyond the last one."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import endings, events, orders
from supervisor.core.model import Goal, Job, Phase, Progress, Run
from supervisor.core.turn import Turn


def order_rewind(turn: Turn, run: Run, event: events.RewindAsked) -> None:
    """`rewind NAME --epoch N`: a new run that goes on after epoch N. A held run is closed for it."""
    if not _is_newest(turn, run) or run.busy:
        return
    if not run.phase.terminal:
        endings.finish(turn, run, Phase.CANCELLED, f"rewound to epoch {event.epoch} by {event.by}")
        run = turn.world.run(run.id) or run
    job = replace(run.next_job or run.job, file="")
    reason = f"rewound to epoch {event.epoch} by {event.by}"
    new = orders.open_run(turn, job, reason, predecessor=run)
    progress = Progress(epoch=event.epoch, saved_epoch=event.epoch, epochs=run.progress.epochs)
    goal = Goal(kind="rewind", epoch=event.epoch)
    turn.put(replace(new, goal=goal, progress=progress, failed_at_epoch=event.epoch, backups={}))


def order_extend(turn: Turn, run: Run, event: events.ExtendAsked) -> None:
    """`extend NAME --epochs N`: a new run that trains a finished one on, until N epochs are done."""
    if not _is_newest(turn, run):
        return
    job = _with_epochs(replace(run.next_job or run.job, file=""), event.epochs)
    new = orders.open_run(turn, job, f"extended to {event.epochs} epochs by {event.by}", predecessor=run)
    progress = replace(new.progress, epochs=event.epochs, eta_s=None)
    turn.put(replace(new, goal=Goal(kind="extend", epochs=event.epochs), progress=progress))


def _with_epochs(job: Job, epochs: int) -> Job:
    return job if job.train is None else replace(job, train={**job.train, "epochs": epochs})


def _is_newest(turn: Turn, run: Run) -> bool:
    newest = turn.world.named(run.name)
    return newest is not None and newest.id == run.id
