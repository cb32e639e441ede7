"""A training that only computes: the same piece of work again and again, and the time after each, written at SIGTERM.

python toy_units.py FILE
"""

from __future__ import annotations

import os
import signal
import sys
import time
import zlib
from array import array
from pathlib import Path

PIECE_BYTES = 48 * 1024  # one piece of work takes some milliseconds and fits the core's own cache
#: The time of each end, on the clock that all processes share, is kept in memory: a training that writes would wait.
MOST = 10_000_000


def main() -> int:
    """Work until SIGTERM, or until who started it is gone."""
    ends = array("d")
    stopped = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    data = os.urandom(PIECE_BYTES // 2) + bytes(PIECE_BYTES // 2)
    print("working", flush=True)
    parent = os.getppid()
    while not stopped and len(ends) < MOST and os.getppid() == parent:  # nobody is left to end it otherwise
        zlib.compress(data, 6)
        ends.append(time.monotonic())
    Path(sys.argv[1]).write_bytes(ends.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
