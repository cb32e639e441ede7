"""Folders by handle: what a path means can change between two looks, what a handle means cannot.

Every component is opened by itself, never through a link and never onto another file system. What is moved or removed
is named relative to such a handle.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSING = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC  # to pass through one needs no right to read
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe of that name must not block us
MOST_FILES = 200_000  # of one run: more than that nobody looks through, so nothing is decided about it
MOST_DEPTH = 48
_SMALL_BYTES = 16 * 1024 * 1024

Identity = tuple[int, int]  # device and inode


class UnsafeError(Exception):
    """Something is not what it must be for anything to be removed there; the text is for a person."""


@contextmanager
def absolute(path: Path) -> Iterator[int]:
    """A handle of a folder whose path has no link in it (any more). Raises OSError."""
    descriptor = os.open("/", _PASSING)
    try:
        parts = path.parts[1:] or (".",)
        for place, part in enumerate(parts, 1):
            inner = os.open(part, FOLDER if place == len(parts) else _PASSING, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def below(parent: int, *parts: str) -> Iterator[int]:
    """A handle of a folder below another one, on the same file system. Raises OSError, UnsafeError."""
    device = os.fstat(parent).st_dev
    descriptor = os.dup(parent)
    try:
        for part in parts:
            demand_plain(part)
            inner = os.open(part, FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
            if os.fstat(descriptor).st_dev != device:
                raise UnsafeError(f"{part} lies on another file system")
        yield descriptor
    finally:
        os.close(descriptor)


def demand_plain(name: str) -> None:
    """Raise UnsafeError for what is no name of one thing in a folder."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise UnsafeError(f"{name!r} is no plain name")


def identity(descriptor: int) -> Identity:
    """Which folder or file a handle is."""
    found = os.fstat(descriptor)
    return (found.st_dev, found.st_ino)


def identity_at(parent: int, name: str) -> Identity | None:
    """Which thing has that name now, a link itself and not what it points to; None if nothing has."""
    found = look(parent, name)
    return (found.st_dev, found.st_ino) if found is not None else None


def look(parent: int, name: str) -> os.stat_result | None:
    """What has that name, links not followed; None if nothing has. Raises OSError."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def names(folder: int) -> list[str]:
    """What lies in a folder, in order."""
    return sorted(os.listdir(folder))


def read(parent: int, name: str) -> bytes | None:
    """The content of a small plain file; None if there is none of that name. Raises OSError, UnsafeError."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=parent)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _SMALL_BYTES:
            raise UnsafeError(f"{name} is no small plain file")
        return file.read(_SMALL_BYTES + 1)


def write(parent: int, name: str, data: bytes) -> None:
    """Let a file hold `data`, durably: whole or not at all. Raises OSError."""
    temporary = f".{name}.new"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=parent), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    os.fsync(parent)


@contextmanager
def plain_file(parent: int, name: str) -> Iterator[int]:
    """A handle of a plain file, for reading. Raises OSError, UnsafeError."""
    descriptor = os.open(name, _FILE, dir_fd=parent)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnsafeError(f"{name} is no plain file")
        yield descriptor
    finally:
        os.close(descriptor)


def walk(folder: int, most: int = MOST_FILES) -> list[tuple[str, os.stat_result]]:
    """Everything below a folder, itself as "": paths and what they are. Links are listed and never followed.

    Raises UnsafeError where another file system is mounted below, or there is more than anybody should look through;
    OSError where it cannot be read.
    """
    found: list[tuple[str, os.stat_result]] = [("", os.fstat(folder))]
    _walk(folder, (), found, most)
    return found


def _walk(folder: int, parts: Sequence[str], found: list[tuple[str, os.stat_result]], most: int) -> None:
    if len(parts) >= MOST_DEPTH:
        raise UnsafeError(f"more than {MOST_DEPTH} folders lie in one another")
    device = found[0][1].st_dev
    for name in names(folder):
        status = look(folder, name)
        if status is None:
            continue
        path = (*parts, name)
        if status.st_dev != device:
            raise UnsafeError(f"another file system is mounted at {'/'.join(path)}")
        if len(found) >= most:
            raise UnsafeError(f"more than {most} files: nobody looked through all of them")
        found.append(("/".join(path), status))
        if stat.S_ISDIR(status.st_mode):
            with suppress(FileNotFoundError), below(folder, name) as inner:
                _walk(inner, path, found, most)


def sync(folder: int) -> None:
    """Have the names in a folder on the disk when this returns."""
    os.fsync(folder)


def make(parent: int, *parts: str) -> None:
    """Make folders below one another, for us alone; those that are there stay. Raises OSError, UnsafeError."""
    for place in range(len(parts)):
        with below(parent, *parts[:place]) as folder, suppress(FileExistsError):
            demand_plain(parts[place])
            os.mkdir(parts[place], 0o700, dir_fd=folder)
            sync(folder)


def make_public(parent: int, name: str) -> None:
    """Make a folder that others may enter, as the one had that is gone; one that is there stays."""
    demand_plain(name)
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=parent)
        sync(parent)


def move_back(source: int, name: str, target: int, new_name: str) -> None:
    """Move a thing out of a folder that is ours alone, to a name that nothing has. Raises OSError.

    FileExistsError where something has it: nothing is ever replaced.
    """
    if look(target, new_name) is not None:
        raise FileExistsError(f"{new_name} is there already")
    status = look(source, name)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        _link(source, name, target, new_name)
    else:  # a folder replaces at most an empty one
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
    sync(target)
    sync(source)


def _link(source: int, name: str, target: int, new_name: str) -> None:
    """Give a file its new name without replacing one, where the file system knows second names."""
    try:
        os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
    else:
        os.unlink(name, dir_fd=source)


def remove(parent: int, name: str) -> tuple[int, int]:
    """Remove a thing with all below it, no link followed, no other file system entered: (files, bytes).

    Raises OSError, UnsafeError; then the rest is there, and another call goes on.
    """
    status = look(parent, name)
    if status is None:
        return 0, 0
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=parent)
        return 1, allocated(status)
    files = size = 0
    with below(parent, name) as folder:
        for inner in names(folder):
            more = remove(folder, inner)
            files, size = files + more[0], size + more[1]
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)
    return files, size


def remove_within(parent: int, name: str, inner: str) -> tuple[int, int]:
    """As `remove`, something in a folder; nothing if either is not there."""
    with suppress(FileNotFoundError), below(parent, name) as folder:
        return remove(folder, inner)
    return 0, 0


def allocated(status: os.stat_result) -> int:
    """What a removal gives back: nothing for a file that has another name too."""
    return status.st_blocks * 512 if status.st_nlink <= 1 else 0


def is_folder(status: os.stat_result) -> bool:
    """True for a folder itself, not for a link to one."""
    return stat.S_ISDIR(status.st_mode)


def is_ours(descriptor: int) -> bool:
    """True for a folder that belongs to us and in which nobody else may write."""
    status = os.fstat(descriptor)
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def apparent(status: os.stat_result) -> int:
    """The size that people see; folders and links count as nothing."""
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
