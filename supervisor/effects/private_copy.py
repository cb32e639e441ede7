"""A private copy of a file that somebody else may rewrite in place at any moment, hashed while it is made.

Never a hard link: trainers rewrite the same inode. A copy of a file that changed meanwhile is none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import RetryableError
from supervisor.units import format_size

BLOCK_BYTES = 4 * 1024 * 1024
FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int); btrfs, XFS and others share the blocks instead of copying them
CHANGED_AGAIN_S = 1.0
DISK_FULL_AGAIN_S = 30.0


class NoRoomError(RetryableError):
    """The copy would leave no room for the trainer's own next save."""


@dataclass(frozen=True)
class Copied:
    """What was copied: the hash and size of the copy, and the source's time of last change."""

    sha256: str
    size_bytes: int
    mtime_ns: int


def private_copy(source: Path, target: Path) -> Copied:
    """Let `target` be a durable copy of `source`, with its time of last change and no more rights than 0644.

    Raises FileNotFoundError where there is no such plain file, RetryableError where it was written meanwhile,
    NoRoomError where the copy would leave no room for the trainer's own next save. Then `target` is not there.
    """
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe of that name must not block us
    try:
        return _copy(reading, _plain(reading, source), source, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(reading)


def _plain(reading: int, source: Path) -> os.stat_result:
    status = os.fstat(reading)
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(f"{source} is no plain file")
    return status


def _copy(reading: int, before: os.stat_result, source: Path, target: Path) -> Copied:
    writing = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        cloned = _clone(reading, writing)
        sha256 = "" if cloned else _transfer(reading, writing, before, target)
        _demand_unchanged(reading, before, source)  # before anything slow: trainers save again soon
        if cloned:
            sha256 = _digest(writing)
        os.fchmod(writing, stat.S_IMODE(before.st_mode) & 0o644)
        os.utime(writing, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.fsync(writing)
        size = os.fstat(writing).st_size
    finally:
        os.close(writing)
    return Copied(sha256, size, before.st_mtime_ns)


def _demand_unchanged(reading: int, before: os.stat_result, source: Path) -> None:
    after = os.fstat(reading)
    if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
        raise RetryableError(f"{source} was written while it was copied", CHANGED_AGAIN_S)


def _clone(reading: int, writing: int) -> bool:
    """Share the blocks where the file system can. Whatever goes wrong with that, a copy is made the long way."""
    try:
        fcntl.ioctl(writing, FICLONE, reading)
    except OSError:
        return False
    return True


def _demand_room(folder: Path, size_bytes: int) -> None:
    """The trainer's next save must still fit: a copy that costs a save would be a bad deal."""
    free = shutil.disk_usage(folder).free
    if free < 2 * size_bytes:
        text = f"{format_size(free)} are free under {folder}: no room for a copy of {format_size(size_bytes)}"
        raise NoRoomError(f"{text} and the trainer's next save", DISK_FULL_AGAIN_S)


def _transfer(reading: int, writing: int, before: os.stat_result, target: Path) -> str:
    """Copy the long way, hashing on the way."""
    _demand_room(target.parent, before.st_size)
    digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES))
    while count := os.readv(reading, [block]):
        digest.update(block[:count])
        written = 0
        while written < count:
            written += os.write(writing, block[written:count])
    return digest.hexdigest()


def _digest(descriptor: int) -> str:
    digest, block, place = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES)), 0
    while count := os.preadv(descriptor, [block], place):
        digest.update(block[:count])
        place += count
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Return the hash of a file. OSError where it cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return _digest(descriptor)
    finally:
        os.close(descriptor)
