"""What the newest known levels of the file systems mean for starts."""

from __future__ import annotations

from supervisor.core.model import World

RUNS = "runs"  # the only one that pruning or pausing trainings can help
BY = "the disk"  # who stops a training for it
OURS = frozenset({RUNS, "state"})  # nothing starts while one of these is full


def refuses(world: World) -> str:
    """What a start must wait for: disk or shm where one is full, or nothing."""
    full = {spot.what for spot in world.spots.values() if spot.level == "full"}
    if full & OURS:
        return "disk"
    return "shm" if "shm" in full else ""
