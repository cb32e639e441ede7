"""Reading one job file from a folder that others write to: no links, no pipes, no end beyond the limit."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from supervisor.core.settle import How, Reading
from supervisor.toml_errors import LARGEST_FILE_BYTES

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@dataclass(frozen=True)
class Look:
    """What one look at a job file found. `stamp` changes with any change of the file, its rights included."""

    data: bytes
    owner: int
    size: int
    mtime_ns: int
    inode: int
    stamp: tuple[int, ...]
    ends_with_newline: bool
    steady: bool

    @property
    def revision(self) -> str:
        """Return the SHA-256 of the content, in hex."""
        return hashlib.sha256(self.data).hexdigest()

    def reading(self, how: How, at: float) -> Reading:
        """Return what the judge of completeness needs."""
        return Reading(
            size=self.size,
            mtime_ns=self.mtime_ns,
            inode=self.inode,
            how=how,
            ends_with_newline=self.ends_with_newline,
            at=at,
        )


def stamp(status: os.stat_result) -> tuple[int, ...]:
    """Return what tells two states of a file apart; ctime also sees a copy that sets back its mtime."""
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def look(path: Path) -> Look | None:
    """Read a job file; None for what is no regular file, or not there. A larger file than 256 KiB is cut.

    The cut is one byte behind the limit, so that whoever parses the bytes refuses them by their size.
    Raises OSError where the file is there but cannot be read.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # opening a pipe would already wake its writer
            return None
        handle = os.open(path, _FLAGS)
    except FileNotFoundError:
        return None
    try:
        return _read(handle)
    finally:
        os.close(handle)


def _read(handle: int) -> Look | None:
    before = os.fstat(handle)
    if not stat.S_ISREG(before.st_mode):  # exchanged between the two looks
        return None
    data = _read_up_to(handle, LARGEST_FILE_BYTES + 1)
    last = os.pread(handle, 1, before.st_size - 1) if before.st_size else b""
    after = os.fstat(handle)
    whole = len(data) == min(before.st_size, LARGEST_FILE_BYTES + 1)
    return Look(
        data=data,
        owner=after.st_uid,
        size=after.st_size,
        mtime_ns=after.st_mtime_ns,
        inode=after.st_ino,
        stamp=stamp(after),
        ends_with_newline=last == b"\n",
        steady=whole and stamp(before) == stamp(after),
    )


def _read_up_to(handle: int, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    missing = limit_bytes
    while missing and (part := os.read(handle, missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
