"""What a run may wait for, and whether that is back. Looks at the machine; each look is bounded in time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from supervisor import layout
from supervisor.core.job import Mount
from supervisor.core.model import Job
from supervisor.machine import bounded, disk_room, mounts, places, resources
from supervisor.machine.bounded import NoAnswerError
from supervisor.units import format_size

MIB = 1024 * 1024
MIN_INODES = 1000  # an attempt makes about fifty files: records, plots, checkpoints, caches of labels
#: Where nothing large is written: a torn cache of fonts or a socket's folder ends a training all the same.
ELSEWHERE_BYTES = 16 * MIB
ELSEWHERE_INODES = 16
#: Beside the runs, checkpoints may go to a disk that is smaller than disk.pause_below.
SAVES = frozenset({"checkpoints", "save folder", "named in the error"})
SAVES_AT_MOST = 0.25
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
OTHERS_LOOK_S = 1.0  # for each place beside the runs, before a start
_MOUNT = "mount: "


def can_be_seen(waiting_for: str) -> bool:
    """Return whether `unmet` can tell when that is back. A plain "mount" names none: only time ends that wait."""
    return waiting_for == "disk" or waiting_for in _LOOKS or waiting_for.startswith(_MOUNT)


def unmet(waiting_for: str, job: Job, runs_dir: Path, pause_below_bytes: int, *, seen: str = "") -> str:
    """Return why a run must go on waiting for that; an empty text if it is back or cannot be seen.

    `waiting_for`: disk, memory, shm or "mount: POINT"; `seen`: the line that told of it, which may name a path. What
    does not answer is not back. Raises nothing; it may take some seconds for each place of the job that hangs.
    """
    try:
        if waiting_for.startswith(_MOUNT):
            point = waiting_for.removeprefix(_MOUNT)
            return missing_mount([one for one in job.mounts if one.point == point])[1]
        if waiting_for == "disk":
            run_dir = layout.run_directory(runs_dir, job.project, job.name)
            return no_room_for(job, run_dir, pause_below_bytes, named_in(seen))
        look = _LOOKS.get(waiting_for)
        return look() if look is not None else ""
    except (OSError, ValueError, KeyError) as error:
        return f"it cannot be seen whether {waiting_for} is back: {error}"


def no_room_for(
    job: Job, run_dir: layout.RunDirectory, pause_below_bytes: int, more: Iterable[places.Place] = ()
) -> str:
    """Return why no attempt of a job can be started: a place that it writes has too few bytes or inodes.

    Where its checkpoints go there must be room for some more of them: see disk_room.wanted_for_saves. Raises OSError
    where the disk of the runs cannot be asked; another place of which nobody can say what it has is passed over.
    """
    about = f"checkpoints of {run_dir.root}"
    saves_bytes = bounded.ask(about, lambda: disk_room.wanted_for_saves(job, run_dir), resources.LOOK_S)
    lacks = (_lack(place, pause_below_bytes, saves_bytes) for place in (*places.written(job, run_dir), *more))
    return next(filter(None, lacks), "")


def _lack(place: places.Place, pause_below_bytes: int, saves_bytes: int) -> str:
    is_runs = place.what == "runs"
    try:
        room = resources.room(Path(place.path), resources.LOOK_S if is_runs else OTHERS_LOOK_S)
    except NoAnswerError as error:
        if is_runs:
            raise
        return f"{place.path} ({place.what}) does not answer: {error.strerror}"
    except OSError:
        if is_runs:
            raise
        return ""
    return lack_of_room(place, room, pause_below_bytes, saves_bytes)


def lack_of_room(place: places.Place, room: resources.Room, pause_below_bytes: int, saves_bytes: int = 0) -> str:
    """Return why a place that a training writes has too little room, with what it has and what it needs.

    A read-only one has none that could come back. `saves_bytes`: so many are needed where its checkpoints go, but
    never more than half of all that is there.
    """
    is_runs = place.what == "runs"
    if room.read_only and not is_runs:
        return ""
    where = f"under {place.path}" if is_runs else f"under {place.path} ({place.what})"
    free, wanted = format_size(room.free_bytes), _wanted_bytes(place.what, room, pause_below_bytes)
    saves_bytes = min(saves_bytes, room.total_bytes // 2)
    if (is_runs or place.what in SAVES) and wanted <= room.free_bytes < saves_bytes:
        return f"{free} are free {where}, {format_size(saves_bytes)} are needed for its next checkpoints"
    if room.free_bytes < wanted:
        needed = f"below disk.pause_below = {format_size(wanted)}" if is_runs else f"{format_size(wanted)} are needed"
        return f"{free} are free {where}, {needed}"
    if room.free_inodes is not None and room.free_inodes < (MIN_INODES if is_runs else ELSEWHERE_INODES):
        return f"only {room.free_inodes} more files can be made {where}: its inodes are used up"
    return ""


def _wanted_bytes(what: str, room: resources.Room, pause_below_bytes: int) -> int:
    if what == "runs":
        return pause_below_bytes
    if what in SAVES:
        return min(max(pause_below_bytes, ELSEWHERE_BYTES), int(SAVES_AT_MOST * room.total_bytes))
    return min(ELSEWHERE_BYTES, room.total_bytes // 2)


def named_in(line: str) -> list[places.Place]:
    """Return the place that a line about a full disk names; none if it names none."""
    path = places.named(line)
    return [places.Place("named in the error", path)] if path else []


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


def _memory() -> str:
    found = resources.memory()
    share = min(int(MEMORY_SHARE * found.total_bytes), MEMORY_ENOUGH_BYTES)
    wanted = min(max(MEMORY_BYTES, share), int(MEMORY_AT_MOST * found.total_bytes))
    if found.available_bytes >= wanted:
        return ""
    return f"{format_size(found.available_bytes)} of memory are available, {format_size(wanted)} are needed"


def _shm() -> str:
    found = resources.room(resources.SHM)
    wanted = min(SHM_BYTES, int(SHM_AT_MOST * found.total_bytes))
    if found.free_bytes >= wanted:
        return ""
    return f"{format_size(found.free_bytes)} are free in {resources.SHM}, {format_size(wanted)} are needed"


_LOOKS: dict[str, Callable[[], str]] = {"memory": _memory, "shm": _shm}
