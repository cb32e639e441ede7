"""The daemon as process 1 of a container: somebody must reap what nobody else waits for."""

from __future__ import annotations

import os
import signal


def reap_as_init() -> int | None:
    """As process 1 of a container: fork, let the child be the daemon, and reap for the whole container.

    Returns None in the child (and everywhere where we are not process 1), the daemon's exit code in process 1.
    """
    if os.getpid() != 1:
        return None
    child = os.fork()
    if child == 0:
        return None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return os.waitstatus_to_exitcode(status)
