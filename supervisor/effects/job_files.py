"""Traces beside job files: NAME.toml.error for a refusal, done/ for ended runs."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from supervisor import layout
from supervisor.core.actions import MarkFile
from supervisor.core.events import Event, FileMarked
from supervisor.errors import RetryableError

log = logging.getLogger("yolo-supervisor")


class JobFileMarker:
    """Carries out MarkFile."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` stamps the answer."""
        self._now = now

    def __call__(self, action: MarkFile) -> tuple[Event, ...]:
        """Leave the trace. A file that was changed meanwhile is left where it is: it is news."""
        try:
            _mark(Path(action.path), action)
        except OSError as error:  # only a courtesy: the folder may be read-only, or the name too long for one more
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise RetryableError(f"no trace can be left beside {action.path}: {error}", 60.0) from error
            log.warning("no trace (%s) can be left beside %s: %s", action.what, action.path, error)
        return (FileMarked(at=self._now(), origin="effects", path=action.path),)


def _mark(path: Path, action: MarkFile) -> None:
    if action.what == "refused":
        write_error(path, action.text)
    elif action.what == "accepted":
        layout.error_file(path).unlink(missing_ok=True)
    elif _revision(path) == action.revision:
        move_to_done(path)


def write_error(path: Path, text: str) -> None:
    """Write the reasons of a refusal beside the job file, whole or not at all.

    Others may write in that folder: a link that they planted there is replaced, and never written through.
    """
    temporary = path.with_name(f".{path.name}.error.tmp")
    temporary.unlink(missing_ok=True)
    with temporary.open("x", encoding="utf-8") as file:
        file.write(f"{path.name} was refused:\n{text}\n")
    temporary.replace(layout.error_file(path))


def _revision(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def move_to_done(path: Path) -> None:
    """Move a job file to done/. An older file of that name there is kept under a number."""
    folder = layout.done_folder(path.parent)
    folder.mkdir(exist_ok=True)
    target = folder / path.name
    number = 1
    while target.exists():
        target = folder / f"{path.stem}.{number}{path.suffix}"
        number += 1
    path.rename(target)
    layout.error_file(path).unlink(missing_ok=True)
