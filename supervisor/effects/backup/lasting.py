"""Scratch folders that outlast a try: over a link that breaks every minute something more comes with each one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from supervisor.effects.backup.fetched import SCRATCH_MODE, remove_tree
from supervisor.effects.backup.targets.base import TargetError
from supervisor.errors import RetryableError

KEPT_S = 86400.0  # nobody comes back to it after that long: the run was removed, or got another order


def lasting_of(scratch: Path, run: str) -> Path:
    """The folder of a run's own below a scratch folder."""
    return scratch / hashlib.sha256(run.encode()).hexdigest()[:16]


@contextlib.contextmanager
def lasting_folder(path: Path) -> Iterator[Path]:
    """A scratch folder with what an earlier try left in it, which is gone afterwards.

    What has come stays where a TargetError or RetryableError breaks it off, or the daemon is killed; not where the disk
    is full. Raises OSError.
    """
    if path.is_symlink() or path.parent.is_symlink():
        raise OSError(errno.ELOOP, "a symbolic link stands in the place of a scratch folder", str(path))
    path.mkdir(mode=SCRATCH_MODE, parents=True, exist_ok=True)
    os.utime(path)
    keep = False
    try:
        yield path
    except (TargetError, RetryableError) as error:
        keep = getattr(error, "cause", "") != "no-room"
        raise
    finally:
        if not keep:
            _remove(path)


def _remove(path: Path) -> None:
    remove_tree(path)
    with contextlib.suppress(OSError):  # another run's try is in there
        path.parent.rmdir()


def forget_old(scratch: Path, before: float) -> None:
    """Remove the folders to which nobody came back since then (Unix seconds). Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(scratch.iterdir()):
            if path.lstat().st_mtime < before:
                path.unlink() if path.is_symlink() or not path.is_dir() else remove_tree(path)
