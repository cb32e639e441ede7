"""Files that are there whole or not at all, also after a power cut: temporary name, fsync, rename, folder fsync."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, data: bytes, *, mode: int = 0o600, by: Path | None = None) -> None:
    """Let `path` hold `data`, durably; whoever reads it meanwhile sees the old content or the new one.

    The temporary file lies beside it, or in the folder `by` if that is on the same file system: nothing of ours is to
    be seen in a trainer's folder. `mode` is that of the new file. Raises OSError; then the old content stands.
    """
    folder = by if by is not None and by.stat().st_dev == path.parent.stat().st_dev else path.parent
    temporary = folder / f".{path.name}.new"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
