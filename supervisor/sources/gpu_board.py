"""Shared memory in which each thread of the probe notes in which call of NVML it is. Standard library only.

The daemon reads it: it knows which call hangs, and which one a crash came from, without a line per call.
"""

from __future__ import annotations

import mmap
import time

from supervisor.sources.gpu_probe_calls import CALLS, NUMBERS

#: Whose slots: 0 is the main thread's, 1 that of events, 2 and on are the GPUs' by index.
MAIN, EVENTS, FIRST_GPU = 0, 1, 2
MOST_GPUS = 128
#: How long the events' thread is in a call although nothing is wrong.
EVENT_WAIT_S = 1.0
BOARD_BYTES = 8 * (FIRST_GPU + MOST_GPUS)
_TIME_BITS = 40  # milliseconds of the monotonic clock: 34 years
_SLOW_BIT = 1 << 63


class Board:
    """Where each thread notes in which call it is. One aligned store of 8 bytes is never seen in part."""

    def __init__(self, descriptor: int) -> None:
        """Map the memory behind a descriptor, at least BOARD_BYTES long."""
        self._slots = memoryview(mmap.mmap(descriptor, BOARD_BYTES)).cast("Q")

    def mark(self, slot: int, name: str, *, slow: bool = False) -> None:
        """Note that a thread goes into a call; "" when it came out of its last one."""
        number = NUMBERS[name] << _TIME_BITS | int(time.monotonic() * 1000) if name else 0
        self._slots[slot] = number | _SLOW_BIT if number and slow else number

    def read(self, slot: int) -> tuple[str, float, bool] | None:
        """Return the call, the monotonic second of its begin, and whether it may be slow; None if in no call."""
        number = self._slots[slot]
        if not number:
            return None
        slow, number = bool(number & _SLOW_BIT), number & ~_SLOW_BIT
        return CALLS[number >> _TIME_BITS], (number & ((1 << _TIME_BITS) - 1)) / 1000, slow

    def busy(self) -> list[tuple[int, str, float, bool]]:
        """Slot, call, begin and slowness of every thread that is in a call, the longest first."""
        found = [(slot, *told) for slot in range(len(self._slots)) if (told := self.read(slot)) is not None]
        return sorted(found, key=lambda one: one[2])
