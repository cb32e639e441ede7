"""The rungs of the ladder: what may be changed for the next try, and to what."""

from __future__ import annotations

from supervisor.core.diagnosis.evidence import Change
from supervisor.core.model import Policy, Run


def applicable(rung: str, run: Run, policy: Policy) -> bool:
    """True if the job allows this rung and there is something left to change."""
    if rung == "gpus":
        return policy.gpu_count > run.job.gpus > 0
    if rung not in run.job.restart.remedies:
        return False
    if rung == "checkpoint":
        return run.progress.saved_epoch > 1
    return next_change(rung, run, "", 0.0) is not None


def next_change(rung: str, run: Run, cause: str, at: float) -> Change | None:
    """The change that this rung makes now, or None where nothing is left to change."""
    if run.job.train is None or rung != "workers":
        return None
    present = {**run.job.train, **{one.name: one.after for one in run.changes}}.get("workers", 8)
    if not isinstance(present, int) or present < 1:
        return None
    return Change(name="workers", before=present, after=present // 2, cause=cause, attempt=run.attempts, at=at)
