"""Putting files that came from a backup in their places: below one folder, following no link, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from supervisor import durable
from supervisor.core.backups.manifest import Stored
from supervisor.effects.backup.fetched import is_safe

MOST_MODE = 0o755  # never setuid, never writable for others, whatever a manifest says


def put_in_place(source: Path, root: Path, file: Stored, *, over: bool = False) -> bool:
    """Let `root`/path be the fetched file, whole or not at all, with its time and (bounded) mode; it is moved.

    Folders on the way are made and must be real ones. False, and nothing is done, where something of that name is there
    and it is not to be put `over`. Raises OSError, also where a link stands on the way.
    """
    parts = PurePosixPath(file.path).parts
    if not is_safe(file.path):
        raise OSError(errno.EINVAL, "not a path below the folder", file.path)
    _furnish(source, file)
    folder = _open_folder(root, parts[:-1])
    try:
        return _put(source, folder, parts[-1], over=over)
    finally:
        os.close(folder)


def _furnish(source: Path, file: Stored) -> None:
    source.chmod(file.mode & MOST_MODE | stat.S_IRUSR | stat.S_IWUSR)
    with contextlib.suppress(OverflowError, OSError):  # a time that this file system cannot keep
        os.utime(source, ns=(file.mtime_ns, file.mtime_ns))
    durable.sync(source)


def _open_folder(root: Path, parts: Sequence[str]) -> int:
    """A handle of a folder below `root`, made where it is missing; a link on the way is an OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(root, flags)
    for part in parts:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=handle)
            inner = os.open(part, flags, dir_fd=handle)
        finally:
            os.close(handle)
        handle = inner
    return handle


def _put(source: Path, folder: int, name: str, *, over: bool) -> bool:
    """Move a file into an open folder."""
    temporary = f".{name}.restoring"[-200:]
    try:
        os.rename(source, temporary, dst_dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_across(source, folder, temporary)
    try:
        return _named(folder, temporary, name, over=over)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        os.fsync(folder)


def _named(folder: int, temporary: str, name: str, *, over: bool) -> bool:
    """Give it its name; a link never replaces what is there, where the file system knows links."""
    if over:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        return True
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
            return False
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    return True


def _copy_across(source: Path, folder: int, name: str) -> None:
    """As a rename, from another file system."""
    status = source.stat()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with source.open("rb") as reading, os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as writing:
        shutil.copyfileobj(reading, writing, 4 * 1024 * 1024)
        writing.flush()
        os.fchmod(writing.fileno(), stat.S_IMODE(status.st_mode))
        os.utime(writing.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(writing.fileno())
    source.unlink()
