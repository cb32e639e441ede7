"""One daemon per state directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervisor import layout
from supervisor.errors import UserError


class SecondDaemonError(UserError):
    """Another daemon owns the state directory."""


@contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Own the state directory while the context lasts. Raises SecondDaemonError naming the owner's pid."""
    path = layout.lock_file(state_dir)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise SecondDaemonError(f"a daemon with pid {pid} already runs on {state_dir}") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
