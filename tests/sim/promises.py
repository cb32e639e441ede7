"""What must hold of every run after every move."""

from __future__ import annotations

from folders import Training, WrongError

from supervisor.core.incidents import KEPT
from supervisor.core.model import Run


def check_known(run: Run | None, training: Training) -> None:
    """A living training belongs to a live run that knows of it and will not open another attempt."""
    if run is None or run.id != training.run or run.phase.terminal or run.attempts != training.number:
        raise WrongError(f"attempt {training.number} of {training.run} lives, but the run is {run}")


def check_changes(run: Run) -> None:
    """Nothing is changed that the job does not allow, and of each argument one change is there; incidents are few."""
    names = [one.name for one in run.changes]
    if not set(names) <= set(run.job.restart.remedies) or len(set(names)) < len(names):
        raise WrongError(f"{run.id} is changed in {names}, allowed are {run.job.restart.remedies}")
    numbers = [one.number for one in run.incidents]
    if len(numbers) > KEPT or numbers != sorted(set(numbers)):
        raise WrongError(f"{run.id} has the incidents {numbers}")
