"""Files below a folder that others may write to as well: reached from its handle, never through a symbolic link."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from supervisor.effects.backup.targets import direct
from supervisor.effects.backup.targets.base import TargetError, of_error
from supervisor.effects.backup.targets.watched import Going

FOLDER_MODE = 0o700  # a backup holds whatever a run wrote: it is nobody else's; the manifest knows the modes
FILE_MODE = 0o600

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe of that name must not block us
_NAME_BYTES = 200  # of the name in a temporary one: NAME_MAX is 255
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.part", re.DOTALL)
_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR}


@dataclass(frozen=True)
class Staged:
    """A plain file of the staging folder. `folder` is "" or a path relative to it."""

    folder: str
    name: str
    bytes: int
    mtime_ns: int

    @property
    def path(self) -> str:
        """Relative to the staging folder."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


def staged(stage: Path) -> list[Staged]:
    """All plain files, folder by folder. TargetError "source" where they cannot be read."""
    found: list[Staged] = []

    def refuse(error: OSError) -> None:
        raise TargetError("source", f"{stage}: {error.strerror or error}") from error

    for top, folders, names, handle in os.fwalk(stage, follow_symlinks=False, onerror=refuse):
        folders.sort()
        folder = os.path.relpath(top, stage)
        for name in sorted(names):
            status = os.stat(name, dir_fd=handle, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                found.append(Staged("" if folder == "." else folder, name, status.st_size, status.st_mtime_ns))
    return found


# ---- reaching files
@contextmanager
def opened_root(root: Path) -> Iterator[int]:
    """Give a handle of the target's root, which may itself be a link. TargetError "absent" where there is none."""
    try:
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise TargetError("absent", f"{root}: there is no such folder") from error
        raise of_error(error, str(root)) from error
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def opened_folder(root: int, path: str, *, make: bool = False) -> Iterator[int]:
    """Give a handle of a folder below another one; `make`: with all that leads there. OSError where there is none."""
    handle = os.dup(root)
    try:
        for part in path.split("/") if path else ():
            inner = _made(handle, part) if make else os.open(part, _FOLDER, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def _made(handle: int, part: str) -> int:
    with suppress(FileNotFoundError):
        return os.open(part, _FOLDER, dir_fd=handle)
    with suppress(FileExistsError):
        os.mkdir(part, FOLDER_MODE, dir_fd=handle)
    os.fsync(handle)
    return os.open(part, _FOLDER, dir_fd=handle)


def opened_file(folder: int, name: str) -> int | None:
    """A handle of a plain file, None if there is none of that name."""
    try:
        handle = os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    return None


def is_missing(error: OSError) -> bool:
    """True where the error says that there is no such file or folder."""
    return error.errno in _NO_FILE


def is_temporary(name: str) -> bool:
    """True for a name that only an unfinished copy has."""
    return _TEMPORARY.fullmatch(name) is not None


# ---- writing
@dataclass
class Unnamed:
    """A file that is written under a temporary name, not yet safe."""

    folder: int
    name: str
    temporary: str
    handle: int

    def settle(self, *, safe: bool = False) -> None:
        """Have it on the disk, unless it is `safe` already, and give it its name."""
        if not safe:
            os.fsync(self.handle)
        os.rename(self.temporary, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        self.temporary = ""

    def close(self) -> None:
        """Give it back; without a name it is gone."""
        os.close(self.handle)
        if self.temporary:
            with suppress(OSError):
                os.unlink(self.temporary, dir_fd=self.folder)


def begun(folder: int, name: str) -> Unnamed:
    """A new file beside its place; the folder's handle must stay open. OSError where none can be made."""
    short = os.fsdecode(os.fsencode(name)[:_NAME_BYTES])
    temporary = f".{short}.{secrets.token_hex(4)}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return Unnamed(folder, name, temporary, os.open(temporary, flags, FILE_MODE, dir_fd=folder))


def copy(reading: int, writing: int, going: Going) -> int:
    """Copy bytes, never by sharing blocks: a backup that shares them is none. How many they were."""
    if os.fstat(reading).st_size >= direct.LARGE_BYTES:
        return direct.copy(reading, writing, going.moved)
    count = 0
    while sent := os.sendfile(writing, reading, None, direct.LARGE_BYTES):
        count += sent
        going.moved(sent)
    return count


def same(left: int, right: int, going: Going) -> bool:
    """True if two files hold the same bytes. Those of `right` are read from the disk where it can be had."""
    size = os.fstat(left).st_size
    if size != os.fstat(right).st_size:
        return False
    direct.forget(right)
    if size < direct.LARGE_BYTES:
        going.on()
        return os.pread(left, direct.LARGE_BYTES, 0) == os.pread(right, direct.LARGE_BYTES, 0)
    return direct.same(left, right, lambda _: going.on())
