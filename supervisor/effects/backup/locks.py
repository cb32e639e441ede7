"""One at a time: what works on a target holds a lock, and the programs that it starts hold it as well.

So a program that outlives a killed daemon (rsync over a slow link) is waited for by whatever comes next.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from supervisor.errors import RetryableError

BUSY_AGAIN_S = 5.0
#: Of sending, reading again and rehearsing; and of restores, which a run waits for: not for hours of sending.
WORK, RESTORE = "lock", "restore.lock"


@contextlib.contextmanager
def alone(state_dir: Path, target: str, name: str = WORK) -> Iterator[int]:
    """Be the only one who does this kind of work on the target; the lock's handle, for programs to inherit.

    Raises RetryableError while somebody else does, OSError.
    """
    folder = state_dir / "backup" / target
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetryableError(f"an earlier transfer to or from {target} is still under way", BUSY_AGAIN_S) from None
        yield handle
    finally:
        os.close(handle)
