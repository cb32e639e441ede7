"""Which rank of a multi-GPU training a process is: torchrun tells each one by the variable RANK."""

from __future__ import annotations

import re
from pathlib import Path

from supervisor.machine import bounded

RANK = re.compile(rb"(?:\A|\0)RANK=(\d{1,6})(?=\0|\Z)")
_LAUNCHERS = (b"torch.distributed.run", b"torch.distributed.launch", b"torchrun")


def rank_of(pid: int, within_s: float) -> int | None:
    """Return the rank that the environment of a process names; None where it names none or does not answer in time.

    What a process starts inherits the variable: a rank is who has another one than its parent.
    """
    told = RANK.search(_asked(pid, "environ", within_s))
    return int(told[1]) if told is not None else None


def is_launcher(pid: int, within_s: float) -> bool:
    """Return whether the command line of a process is that of torchrun; False where it does not answer in time."""
    words = _asked(pid, "cmdline", within_s)
    return any(word in words for word in _LAUNCHERS)


def _asked(pid: int, name: str, within_s: float) -> bytes:
    """Return a file of /proc that takes a lock on the memory of the process, and may hang as that does."""
    path = Path(f"/proc/{pid}/{name}")
    try:
        return bounded.ask(str(path), path.read_bytes, within_s)
    except OSError:  # gone, not ours to read, or no answer
        return b""
