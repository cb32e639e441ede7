"""Files that are there whole or not at all, also after a power cut: temporary name, fsync, rename, folder fsync."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def write(path: Path, data: bytes, *, mode: int = 0o600, by: Path | None = None) -> None:
    """Let `path` hold `data`, durably; whoever reads it meanwhile sees the old content or the new one.

    The temporary file lies beside it, or in the folder `by` if that is on the same file system: nothing of ours is to
    be seen in a trainer's folder. `mode` is that of the new file, whatever the umask. Raises OSError; then the old
    content stands.
    """
    _write(path, data, mode, by, None)


def replace(path: Path, data: bytes, *, by: Path | None = None) -> None:
    """Let a file that is there hold `data`, as `write` does; it keeps its mode, and its owner where that is allowed."""
    before = path.stat()
    _write(path, data, stat.S_IMODE(before.st_mode), by, before)


def _write(path: Path, data: bytes, mode: int, by: Path | None, before: os.stat_result | None) -> None:
    folder = by if by is not None and by.stat().st_dev == path.parent.stat().st_dev else path.parent
    temporary = folder / f".{path.name}.new"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            with suppress(PermissionError):  # of a file system without owners or modes, or a left-over of another user
                if before is not None:
                    _give(file.fileno(), before)
                os.fchmod(file.fileno(), mode)  # whatever the umask is, and the mode of what a crash left there
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _give(handle: int, before: os.stat_result) -> None:
    """Give a file to the owner and the group of the one that it replaces; where that is not ours to do, the group."""
    now = os.fstat(handle)
    if (now.st_uid, now.st_gid) == (before.st_uid, before.st_gid):
        return
    try:
        os.fchown(handle, before.st_uid, before.st_gid)
    except PermissionError:  # only root gives a file away; a group of ours may have it
        with suppress(PermissionError):
            os.fchown(handle, -1, before.st_gid)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
