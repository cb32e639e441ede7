"""What a run may wait for, and whether that is back. Looks at the machine; each look is bounded in time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from supervisor import layout
from supervisor.core.model import Job, Mount
from supervisor.machine import mounts, places, resources
from supervisor.machine.bounded import NoAnswerError
from supervisor.units import format_size

MIB = 1024 * 1024
MIN_INODES = 1000  # an attempt makes about fifty files: records, plots, checkpoints, caches of labels
#: Beside the runs, nothing large is written: a torn cache of fonts or a socket's folder ends a training all the same.
ELSEWHERE_BYTES = 16 * MIB
#: An interpreter with torch and CUDA takes about a gigabyte before the first image; on a larger machine more workers
#: start, up to some sixteen of them; on a small one half of it must do.
MEMORY_BYTES = 1024 * MIB
MEMORY_SHARE = 0.1
MEMORY_ENOUGH_BYTES = 16 * 1024 * MIB
MEMORY_AT_MOST = 0.5
#: A worker hands over whole batches: 16 images of 640 pixels are 19 MiB, and two are under way per worker. Docker gives
#: 64 MiB in all, of which half must do.
SHM_BYTES = 64 * MIB
SHM_AT_MOST = 0.5
_MOUNT = "mount: "


def can_be_seen(waiting_for: str) -> bool:
    """Return whether `unmet` can tell when that is back. A plain "mount" names none: only time ends that wait."""
    return waiting_for in _LOOKS or waiting_for.startswith(_MOUNT)


def unmet(waiting_for: str, job: Job, runs_dir: Path, pause_below_bytes: int) -> str:
    """Return why a run must go on waiting for that; an empty text if it is back or cannot be seen.

    `waiting_for`: disk, memory, shm or "mount: POINT". What does not answer is not back. Raises nothing; it may take
    some seconds for each place of the job that hangs.
    """
    try:
        if waiting_for.startswith(_MOUNT):
            point = waiting_for.removeprefix(_MOUNT)
            return missing_mount([one for one in job.mounts if one.point == point])[1]
        look = _LOOKS.get(waiting_for)
        return look(job, runs_dir, pause_below_bytes) if look is not None else ""
    except (OSError, ValueError, KeyError) as error:
        return f"it cannot be seen whether {waiting_for} is back: {error}"


def no_room(folder: Path, pause_below_bytes: int) -> str:
    """Return why no attempt can be started below a folder of runs: too few bytes or inodes are free.

    Raises NoAnswerError (an OSError) where its file system does not answer.
    """
    room = resources.room(folder)
    if room.free_bytes < pause_below_bytes:
        limit = format_size(pause_below_bytes)
        return f"{format_size(room.free_bytes)} are free under {folder}, below disk.pause_below = {limit}"
    if room.free_inodes is not None and room.free_inodes < MIN_INODES:
        return f"only {room.free_inodes} more files can be made under {folder}: its inodes are used up"
    return ""


def missing_mount(needed: list[Mount]) -> tuple[str, str]:
    """Return the first mount point of those that is not as it was recorded, and why; or empty texts."""
    for mount in needed:
        try:
            reason = mounts.absent(mount)
        except NoAnswerError as error:
            reason = f"{mount.point} does not answer: {error.strerror}"
        if reason:
            return mount.point, reason
    return "", ""


def _disk(job: Job, runs_dir: Path, pause_below_bytes: int) -> str:
    run_dir = layout.run_directory(runs_dir, job.project, job.name)
    reason = no_room(run_dir.root, pause_below_bytes)
    if reason:
        return reason
    for place in places.written(job, run_dir)[1:]:
        room = resources.room(Path(place.path))
        if not room.read_only and room.free_bytes < min(ELSEWHERE_BYTES, room.total_bytes // 2):
            return f"{format_size(room.free_bytes)} are free under {place.path} ({place.what})"
    return ""


def _memory(_job: Job, _runs_dir: Path, _pause_below_bytes: int) -> str:
    found = resources.memory()
    share = min(int(MEMORY_SHARE * found.total_bytes), MEMORY_ENOUGH_BYTES)
    wanted = min(max(MEMORY_BYTES, share), int(MEMORY_AT_MOST * found.total_bytes))
    if found.available_bytes >= wanted:
        return ""
    return f"{format_size(found.available_bytes)} of memory are available, {format_size(wanted)} are needed"


def _shm(_job: Job, _runs_dir: Path, _pause_below_bytes: int) -> str:
    found = resources.room(resources.SHM)
    wanted = min(SHM_BYTES, int(SHM_AT_MOST * found.total_bytes))
    if found.free_bytes >= wanted:
        return ""
    return f"{format_size(found.free_bytes)} are free in {resources.SHM}, {format_size(wanted)} are needed"


_LOOKS: dict[str, Callable[[Job, Path, int], str]] = {"disk": _disk, "memory": _memory, "shm": _shm}
