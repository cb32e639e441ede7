"""Looking at checkpoints from the outside, choosing one, and putting it in place.

The daemon itself runs no pickle machine: a short child with hard limits reads the metadata.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from supervisor import layout
from supervisor.core.checkpoints import Checkpoint
from supervisor.errors import RetryableError

CHECK_TIMEOUT_S = 120.0  # CRC of a 228 MB file takes 0.2 s; a network file system may take a minute


def look(paths: Sequence[Path]) -> list[Checkpoint]:
    """Look at files without loading them: zip, CRC, metadata. Raises RetryableError if that cannot be done now."""
    found, exit_code = _look(paths) if paths else ([], 0)
    seen = {checkpoint.path for checkpoint in found}
    lost = [path for path in paths if str(path) not in seen]
    if len(paths) > 1:  # the child died on one of them: each gets a child of its own
        found += [checkpoint for path in lost for checkpoint in look([path])]
    elif lost and exit_code != -signal.SIGXCPU:  # the machine's trouble, not the file's
        raise RetryableError(f"{lost[0]} could not be looked at: the child ended with {exit_code}", 30.0)
    else:
        reason = "its metadata could not be read within the limit of time"
        found += [Checkpoint(path=str(path), state="torn", reason=reason) for path in lost]
    unknown = next((checkpoint for checkpoint in found if checkpoint.state == "unknown"), None)
    if unknown is not None:
        raise RetryableError(f"{unknown.path} cannot be read: {unknown.reason}", 30.0)
    return found


def _look(paths: Sequence[Path]) -> tuple[list[Checkpoint], int]:
    argv = [sys.executable, "-I", "-S", str(layout.CHECKPOINT), *map(str, paths)]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=CHECK_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RetryableError(f"checkpoints could not be looked at: {error}", 30.0) from error
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return [msgspec.json.decode(line, type=Checkpoint) for line in lines], done.returncode


def put_in_place(source: Path, target: Path, aside: Path) -> None:
    """Let `target` be a copy of `source`; what stood there is kept in `aside`. Whole or not at all.

    The copy is made in `aside`: nothing of ours lies in the trainer's folder, not even after a crash.
    """
    temporary = beside(target, aside) / f".{target.name}.copy"
    shutil.copyfile(source, temporary)
    sync(temporary)
    if target.exists():
        set_aside(target, aside)
    temporary.replace(target)
    sync(target.parent)


def beside(target: Path, aside: Path) -> Path:
    """A folder from which a file can be renamed to `target`: ours, unless that lies on another file system."""
    aside.mkdir(parents=True, exist_ok=True)
    return aside if aside.stat().st_dev == target.parent.stat().st_dev else target.parent


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path, folder: Path) -> Path:
    """Move a file out of the trainer's way, for study. Nothing is overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    number = 1
    while target.exists():
        target = folder / f"{path.name}.{number}"
        number += 1
    try:
        path.rename(target)
    except OSError:
        shutil.move(path, target)
    return target
