"""What must hold of every decision while disks fill up and are freed: see check_disks."""

from __future__ import annotations

from folders import WrongError

from supervisor.core import actions, disks, events
from supervisor.core.model import Run
from supervisor.journal import Entry

PLACES = (("/runs", "runs"), ("/state", "state"), ("/dev/shm", "shm"), ("/ckpt", "checkpoints"))
LEVELS = ("ok", "low", "full")
SAVES = (events.Progressed, events.SaveSeen, events.Kept)


def disk_seen(now: float, how: int) -> events.DiskSeen:
    """A file system comes to a level; mostly that of the runs."""
    place, what = PLACES[how // 3 % len(PLACES) if how % 2 else 0]
    level = LEVELS[how % 3]
    return events.DiskSeen(at=now, place=place, what=what, level=level, free_bytes=1, total_bytes=how % 5)


def all_free(now: float) -> list[events.DiskSeen]:
    """Every file system has room again."""
    return [events.DiskSeen(at=now, place=place, what=what, level="ok", total_bytes=1) for place, what in PLACES]


def check_disks(entry: Entry) -> None:
    """Nothing starts while a disk is full; for a disk one training is stopped at a time, at a save, and none killed."""
    world = entry.after
    full = sorted(spot.place for spot in world.spots.values() if spot.level == "full" and spot.what != "checkpoints")
    pausing = [run.id for run in world.live.values() if run.phase.value == "STOPPING" and by_disk(run)]
    if len(pausing) > 1:
        raise WrongError(f"{pausing} are all paused for the disk at once")
    for action in entry.actions:
        if isinstance(action, actions.Prepare) and full:
            raise WrongError(f"{action.run} starts although {full} are full")
        if isinstance(action, actions.Terminate) and action.how == "term":
            run = world.live.get(action.run)
            if run is not None and by_disk(run) and not isinstance(entry.event, SAVES):
                raise WrongError(f"{run.id} is ended for the disk by {entry.event}, which is no save")


def by_disk(run: Run) -> bool:
    """True if it is stopped for the disk, and for nothing else."""
    return run.stop is not None and run.stop.by == disks.BY and not run.stop.cause
