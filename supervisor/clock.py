"""What time it is, for deciding and for people, and which boot this is."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import Protocol

from supervisor.attempt_files import boot_identity
from supervisor.core.model import Boot, World

BOOT_KNOWN_S = 10.0
BOOT_LOOK_S = 0.01


class Clock(Protocol):
    """Where the loop takes its time from; tests give a virtual one."""

    def now(self) -> float:
        """Unix seconds that never jump while this process lives."""
        ...


class WallClock:
    """Wall time at start plus boot time since: a stepped system clock (NTP, an operator) moves no deadline.

    CLOCK_BOOTTIME counts through suspend. After a step, times in the journal differ from the wall until the daemon
    is started anew.
    """

    def __init__(self) -> None:
        """Anchor the clock."""
        self._offset_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> float:
        """See Clock.now."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) + self._offset_s


def uptime_s() -> float:
    """Seconds since this machine was started, also those in which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def current_boot() -> Boot:
    """This life of the machine. A restarted container keeps the boot id, but not the start time of its pid 1."""
    boot_id, pid1_start_time = boot_identity()
    return Boot(boot_id=boot_id, pid1_start_time=pid1_start_time or 0)


def wait_for_boot(world: Callable[[], World], stopping: Event, within_s: float = BOOT_KNOWN_S) -> None:
    """Wait until the world is of this boot: what was loaded may be of the last one, the event that says so under way.

    Returns early when `stopping` is set, and at the latest after `within_s`.
    """
    boot_id, ends_at = current_boot().boot_id, time.monotonic() + within_s
    while world().boot.boot_id != boot_id and time.monotonic() < ends_at:
        if stopping.wait(BOOT_LOOK_S):
            return
