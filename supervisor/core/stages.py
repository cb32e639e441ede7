"""Planned segments: at an epoch that the job names, the training is stopped and resumed with other arguments."""

from __future__ import annotations

from supervisor.core.model import Phase, Run, Stage, StopOrder


def due(run: Run) -> Stage | None:
    """The stage whose time has come although the running attempt was started before it; the latest one if several."""
    attempt = run.attempt
    if attempt is None or run.phase is not Phase.RUNNING or run.stop is not None:
        return None
    saved = run.progress.saved_epoch
    over = 0 < run.progress.epochs <= saved
    reached = [one for one in run.job.stages if attempt.from_epoch + 1 < one.from_epoch <= saved + 1]
    return reached[-1] if reached and not over else None


def order(stage: Stage) -> StopOrder:
    """The stop that lets a stage begin."""
    changes = ", ".join(f"{name} = {value}" for name, value in stage.args.items())
    reason = f"stage from epoch {stage.from_epoch}: {changes}"
    return StopOrder(how="term", then=Phase.QUEUED, by="the job's plan", reason=reason)
