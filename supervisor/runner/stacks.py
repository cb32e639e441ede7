"""Stack dumps on request: one signal, and every thread's Python stack is appended to a file of the attempt.

The signal is SIGRTMIN + 6, a real-time one. SIGUSR1 and SIGUSR2 belong to others: Slurm, submitit and Lightning use
them to announce a preemption, and users' scripts to save. Nothing that a training usually loads takes a real-time
signal; the first ones belong to the C library. Who sends it must look first whether it is caught
(SigCgt in /proc/PID/status): to a process without a handler it is deadly.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from typing import Any

SIGNAL = signal.SIGRTMIN + 6

_file: Any = None


def file_name(rank: int) -> str:
    """Return the name in the attempt's folder: `stacks`, for the other ranks of a multi-GPU training `stacks-N`."""
    return "stacks" if rank <= 0 else f"stacks-{rank}"


def arm(attempt_dir: str, rank: int) -> int | None:
    """Dump all stacks on SIGNAL from now on; return its number, or None if somebody else handles it.

    faulthandler writes from the signal handler itself, so it works while the interpreter is stuck in C. Raises
    OSError if the file cannot be opened. Forked dataloader workers inherit it, programs that are started do not.
    """
    global _file  # noqa: PLW0603 -- faulthandler needs the file for the life of the process
    if _file is not None:
        return int(SIGNAL)
    if signal.getsignal(SIGNAL) is not signal.SIG_DFL:
        return None
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    _file = os.fdopen(os.open(os.path.join(attempt_dir, file_name(rank)), flags, 0o666), "w")
    faulthandler.register(SIGNAL, file=_file, all_threads=True, chain=False)
    return int(SIGNAL)
