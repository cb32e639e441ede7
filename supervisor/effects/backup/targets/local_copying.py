"""Copying staged files into a folder of a local target: each under another name until it is safe."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.effects.backup.targets import direct, local_files
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.backup.targets.local_files import Staged, Unnamed
from supervisor.effects.backup.targets.settling import LARGE_BYTES
from supervisor.effects.backup.targets.watched import Going

BATCH_FILES = 256  # are open at once
FEW_FILES = 4  # are made safe one by one; more of them with everything else on their file system, which is faster
BATCH_BYTES = 256 * 1024 * 1024


def batches(files: Sequence[Staged]) -> Iterator[list[Staged]]:
    """Small ones together; each large one alone."""
    batch: list[Staged] = []
    for file in sorted(files, key=lambda file: file.bytes >= LARGE_BYTES):
        if batch and (
            file.bytes >= LARGE_BYTES
            or len(batch) == BATCH_FILES
            or sum(one.bytes for one in batch) + file.bytes > BATCH_BYTES
        ):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def send_together(folder: int, stage: Path, batch: Sequence[Staged], going: Going) -> None:
    """All are written, then all are safe, then all have their names."""
    unnamed: list[Unnamed] = []
    try:
        for file in batch:
            unnamed.append(local_files.begun(folder, file.name))
            _copy(stage / file.path, unnamed[-1].handle, going)
        together = len(batch) > FEW_FILES
        if together:
            direct.sync_all(folder)
        for one in unnamed:
            going.on()
            one.settle(safe=together)
    finally:
        for one in unnamed:
            one.close()


@dataclass(frozen=True)
class Sent:
    """A copied file, and what it is a copy of."""

    unnamed: Unnamed
    source: Path

    def close(self) -> None:
        """Give it back; without a name it is gone."""
        self.unnamed.close()


def copied(folder: int, stage: Path, file: Staged, going: Going) -> Sent:
    """Copy a file, under another name still. Raises TargetError, OSError."""
    sent = Sent(local_files.begun(folder, file.name), stage / file.path)
    try:
        _copy(sent.source, sent.unnamed.handle, going)
    except BaseException:
        sent.close()
        raise
    return sent


def _copy(source: Path, writing: int, going: Going) -> None:
    reading = opened(source)
    try:
        before = os.fstat(reading)
        if local_files.copy(reading, writing, going) != before.st_size:
            raise TargetError("source", f"{source} changed while it was copied")
        os.utime(writing, ns=(before.st_atime_ns, before.st_mtime_ns))
    finally:
        os.close(reading)


def opened(source: Path) -> int:
    """A handle of a staged file. TargetError "source" where there is none."""
    try:
        return os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TargetError("source", f"{source}: {error.strerror}") from error


def write(folder: int, name: str, data: bytes) -> None:
    """Have a small file there, whole and safe."""
    unnamed = local_files.begun(folder, name)
    try:
        with os.fdopen(os.dup(unnamed.handle), "wb") as file:
            file.write(data)
        unnamed.settle()
    finally:
        unnamed.close()
