"""The regular message about what is going on."""

from __future__ import annotations

from supervisor.core import events
from supervisor.core.messages import of_epochs
from supervisor.core.model import Phase, Run
from supervisor.core.turn import Turn


def progress_due(turn: Turn, _event: events.ProgressDue) -> None:
    """One message for all runs that are not over; none when there are none."""
    runs = sorted(turn.world.live.values(), key=lambda run: run.created_at)
    if not runs:
        return
    running = sum(run.phase is Phase.RUNNING for run in runs)
    title = f"{turn.world.policy.server or 'The server'}: {running} of {len(runs)} runs are running"
    turn.announce(None, "progress", "info", title, "\n".join(_line(run) for run in runs[:40]))


def _line(run: Run) -> str:
    where = of_epochs(run.progress.epoch, run.progress.epochs or run.job.epochs or 0)
    left = f", {run.progress.eta_s / 3600:.1f} h left" if run.progress.eta_s else ""
    waits = f", waits for {run.waiting_for}" if run.waiting_for else ""
    return f"{run.name}: {run.phase.value}, epoch {where}{left}{waits}"
