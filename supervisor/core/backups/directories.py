"""Whose a run directory is: several runs of one name follow each other in it. Pure."""

from __future__ import annotations

from supervisor.core.ledger import run_number
from supervisor.core.model import Run, World


def holds(world: World, run: Run) -> bool:
    """True if what lies in the run's directory is the run's, so far as any: no later one has taken it over.

    A later run of another project has another directory. One that is to set the older training aside has not done so
    before it is prepared; until then the directory is the older one's.
    """
    if run.set_aside:
        return False
    newest = world.latest.get(run.name, run.id)
    for number in range(run_number(run.id) + 1, run_number(newest) + 1):
        later = world.run(f"{run.name}@{number}")
        if later is not None and later.job.project == run.job.project and not later.set_aside:
            return False
    return True


def holder(world: World, run: Run) -> Run:
    """The run whose attempt last took the directory: of one that has not begun yet the one before it."""
    while run.attempt is None and (before := world.run(run.predecessor)) is not None:
        run = before
    return run
