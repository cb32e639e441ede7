"""What the newest known levels of the file systems mean for starts."""

from __future__ import annotations

from supervisor.core.model import World

OURS = frozenset({"runs", "state"})  # what fills these, fills the disk of all trainings


def refuses(world: World) -> str:
    """What a start must wait for: disk or shm where one is full, or nothing."""
    full = {spot.what for spot in world.spots.values() if spot.level == "full"}
    if full & OURS:
        return "disk"
    return "shm" if "shm" in full else ""
