"""Stack dumps on request: one signal, and every thread's Python stack is appended to a file of the attempt.

That is the way where py-spy may not look; `let_look` allows it to where only parents may (Yama). A fatal signal (a
crash in native code, or the SIGABRT that a training gets which took no notice of SIGTERM) leaves them in the log.

The signal is SIGRTMIN + 6, a real-time one. SIGUSR1 and SIGUSR2 belong to others: Slurm, submitit and Lightning use
them to announce a preemption, and users' scripts to save. Nothing that a training usually loads takes a real-time
signal; the first ones belong to the C library. Who sends it must look first whether it is caught
(SigCgt in /proc/PID/status): to a process without a handler it is deadly.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
from typing import Any, Callable

SIGNAL = signal.SIGRTMIN + 6
PR_SET_PTRACER = 0x59616D61  # linux/prctl.h
PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)

_file: Any = None
_looked_at = False


def let_look(prctl: Callable[..., Any] = ctypes.CDLL(None).prctl) -> None:
    """Let processes of the same user look into this one and into those that it forks, as they may without Yama.

    Under its scope 1 the daemon's py-spy, which is no parent of ours, would be refused. The permission ends with a
    fork: it is given again in each child. A kernel without Yama answers EINVAL, and nothing is lost.
    """
    global _looked_at  # noqa: PLW0603 -- a function cannot be taken back from register_at_fork
    if _looked_at:
        return
    _looked_at = True

    def allow() -> None:
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)

    allow()
    os.register_at_fork(after_in_child=allow)


def tell_of_crashes() -> None:
    """Have a fatal signal write all stacks to the log before it kills; who has that already keeps it as it is.

    The log is descriptor 2, whatever a program has put in the place of sys.stderr (a tee has no fileno).
    """
    if not faulthandler.is_enabled():
        faulthandler.enable(file=2)


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
