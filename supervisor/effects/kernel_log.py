"""What the kernel said while an attempt ran: killed for memory, GPU errors, disks that fail."""

from __future__ import annotations

import errno
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from supervisor.core.plain_text import one_line

KMSG = Path("/dev/kmsg")
RECORD_BYTES = 8192  # Linux: a read gives one record and fails where it does not fit; none is longer
LIMIT_S = 2.0
KEPT = 10  # of each kind, the newest: a failing disk or GPU writes thousands
#: The kernel's clock is not corrected as the system's is, and drifts from it by a little each day; the slower of the
#: two clocks that we may ask is taken, and this is for the rest.
CLOCK_SLACK_S = 2.0
LINE_LENGTH = 300
_KINDS = tuple(
    re.compile("|".join(patterns))
    for patterns in (
        (r"Killed process \d+", r"oom-kill:", r"invoked oom-killer"),
        (r"NVRM: ",),
        (
            r"I/O error",
            r"critical (medium|target|space allocation) error",
            r"rejecting I/O",
            r"EXT4-fs error|EXT4-fs \(\S+\): Remounting|Remounting filesystem read-only",
            r"XFS \(\S+\): .*([Cc]orruption|[Ss]hutting down|error)",
            r"BTRFS (error|critical)",
            r"nvme\S* .*(timeout|is down|reset)",
            r"nfs: server \S+ (not responding|OK)",
            r"(ata|scsi|sd|mmcblk)\S*: .*(failed|error)",
        ),
        (r"segfault at", r"general protection fault", r"traps: .* trap ", r"\[Hardware Error\]", r"Machine check"),
        (r"blocked for more than \d+ seconds",),
    )
)
_KILLED = re.compile(r"Killed process (\d+)")


def read(since: float, now: float, device: Path = KMSG) -> tuple[str, ...]:
    """Return the lines that may tell of an attempt's end, written between `since` and now (Unix seconds), in order.

    Raises OSError where the log may not be read: without rights (kernel.dmesg_restrict) and in most containers;
    TimeoutError where its end is not reached in LIMIT_S: then what is missing may be what matters.
    """
    kernel_now_s = min(map(time.clock_gettime, (time.CLOCK_MONOTONIC, time.CLOCK_MONOTONIC_RAW)))
    since_s = kernel_now_s - (now - since) - CLOCK_SLACK_S
    kept: list[deque[tuple[int, str]]] = [deque(maxlen=KEPT) for _ in _KINDS]
    handle = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for number, text in enumerate(_records(handle, since_s)):
            kind = next((place for place, pattern in enumerate(_KINDS) if pattern.search(text)), None)
            if kind is not None:
                kept[kind].append((number, one_line(text)[:LINE_LENGTH]))
    finally:
        os.close(handle)
    return tuple(text for _, text in sorted(line for kind in kept for line in kind))


def killed_pids(lines: tuple[str, ...]) -> list[int]:
    """Return the processes that were killed for memory, by the machine's own numbers, which a container's are not."""
    return [int(match[1]) for line in lines if (match := _KILLED.search(line))]


def _records(handle: int, since_s: float) -> Iterator[str]:
    """Yield the text of each record since then (seconds of its clock): "priority,number,microseconds,flags;text"."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"its end was not reached within {LIMIT_S:.0f} s")
        try:
            data = os.read(handle, RECORD_BYTES)
        except BlockingIOError:
            return
        except BrokenPipeError:  # what stood here was overwritten meanwhile; the next read goes on behind it
            continue
        if not data:
            return
        head, _, text = data.partition(b";")
        fields = head.split(b",")
        if len(fields) > 2 and fields[2].isdigit() and int(fields[2]) / 1e6 >= since_s:
            yield text.partition(b"\n")[0].decode("utf-8", "replace")
