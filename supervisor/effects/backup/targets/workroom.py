"""A folder for one call of a program: lists of names, trees of links. What a killed daemon left of it is removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "call-"
_NEW_S = 60.0  # one so young may not have its lock yet


@dataclass(frozen=True)
class Workroom:
    """The folder, and the open files that say that it is used: programs that use it must inherit them."""

    path: Path
    held: tuple[int, ...]


@contextmanager
def workroom(parent: Path, *, prefix: str = _PREFIX) -> Iterator[Workroom]:
    """Give a new empty folder of our own below `parent`, until the block ends. Raises OSError where none can be made.

    `parent` may be everybody's, as /tmp: nothing of others is looked into.
    """
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_abandoned(parent, prefix)
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Workroom(path, (lock,))
    finally:
        os.close(lock)
        shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Whoever used it is gone, its children included: the lock on a folder ends with the last of them."""
    for path in parent.glob(f"{prefix}*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # it has just been removed
        try:
            status = os.fstat(lock)
            if status.st_uid != os.getuid():
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - status.st_mtime > _NEW_S:
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue  # in use
        finally:
            os.close(lock)
