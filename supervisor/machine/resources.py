"""What the machine has left: memory, shared memory, room on its disks. Readings only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from supervisor.machine import bounded, disk_room

SHM = Path("/dev/shm")  # noqa: S108 - it is looked at, nothing is written there
LOOK_S = 3.0
_V1_LIMIT = 2**60  # version 1 says "no limit" as a number of about 2**63


class Memory(msgspec.Struct, frozen=True):
    """Bytes that can be had without swapping, of so many."""

    available_bytes: int
    total_bytes: int


class Room(msgspec.Struct, frozen=True):
    """A file system: bytes and inodes that may still be used. Inodes are None where it does not count them.

    `quota`: a quota leaves less than the disk has.
    """

    device: int
    total_bytes: int
    free_bytes: int
    free_inodes: int | None
    read_only: bool
    total_inodes: int | None = None
    quota: bool = False


def memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Return what the machine, or the tightest cgroup around us, has. OSError or ValueError where nothing tells."""
    told = _table((proc / "meminfo").read_text(encoding="ascii"))
    total, available = told["MemTotal:"] * 1024, told["MemAvailable:"] * 1024
    for limit, used in _limits(proc, cgroups):
        total, available = min(total, limit), min(available, max(0, limit - used))
    return Memory(available, total)


def _limits(proc: Path, cgroups: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use of each cgroup that we are in; file pages that can be dropped at once are no use."""
    for folder in _folders(proc, cgroups):
        for limit_file, used_file, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            try:
                limit = (folder / limit_file).read_text(encoding="ascii").strip()
                used = int((folder / used_file).read_text(encoding="ascii"))
                stat = _table((folder / "memory.stat").read_text(encoding="ascii"))
            except (OSError, ValueError):
                continue  # the other version, or not a folder of ours
            if limit != "max" and int(limit) < _V1_LIMIT:
                yield int(limit), used - min(used, stat.get(cache, 0))


def _folders(proc: Path, cgroups: Path) -> Iterator[Path]:
    """Yield the folders of our memory cgroup and of all above it. In a container the path may not be below ours."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        roots = [cgroups, cgroups / "unified"] if number == "0" else []
        roots += [cgroups / "memory"] if "memory" in controllers.split(",") else []
        for root in roots:
            inner = root / path.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder == root or root in folder.parents)


def _table(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def room(path: Path, within_s: float = LOOK_S) -> Room:
    """Return the room under a path, or where it would be made.

    Raises NoAnswerError where the file system does not answer, OSError where it cannot be asked.
    """
    return bounded.ask(f"room under {path}", lambda: _room(path), within_s)


def _room(path: Path) -> Room:
    while not path.exists() and path != path.parent:
        path = path.parent
    found = os.statvfs(path)
    on_disk = Room(
        device=path.stat().st_dev,
        total_bytes=found.f_blocks * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
        free_inodes=found.f_favail if found.f_files else None,
        read_only=bool(found.f_flag & os.ST_RDONLY),
        total_inodes=found.f_files or None,
    )
    return within_quota(on_disk, disk_room.quota_left(path))


def within_quota(room: Room, quota: disk_room.Quota) -> Room:
    """Return what of it the quota leaves."""
    free_bytes = _least(room.free_bytes, quota.free_bytes) or 0
    free_inodes = _least(room.free_inodes, quota.free_inodes)
    return msgspec.structs.replace(
        room,
        free_bytes=free_bytes,
        total_bytes=_least(room.total_bytes, quota.limit_bytes) or 0,
        free_inodes=free_inodes,
        total_inodes=_least(room.total_inodes, quota.limit_inodes),
        quota=(free_bytes, free_inodes) != (room.free_bytes, room.free_inodes),
    )


def _least(*numbers: int | None) -> int | None:
    return min([number for number in numbers if number is not None], default=None)
