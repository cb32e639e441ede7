"""What the kernel said while an attempt ran: killed for memory, GPU errors, disks that fail."""

from __future__ import annotations

import errno
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from supervisor.core.plain_text import one_line
from supervisor.machine.kernel_log import KERNEL, KMSG, KernelLog, clock_s

LIMIT_S = 2.0
KEPT = 10  # of each kind, the newest: a failing disk or GPU writes thousands
#: The kernel's clock drifts: see machine.kernel_log.clock_s, which leaves this.
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
    since_s = clock_s() - (now - since) - CLOCK_SLACK_S
    kept: list[deque[tuple[int, str]]] = [deque(maxlen=KEPT) for _ in _KINDS]
    with closing(KernelLog(device)) as kernel:
        for number, text in enumerate(_texts(kernel, since_s)):
            kind = next((place for place, pattern in enumerate(_KINDS) if pattern.search(text)), None)
            if kind is not None:
                kept[kind].append((number, one_line(text)[:LINE_LENGTH]))
    return tuple(text for _, text in sorted(line for kind in kept for line in kind))


def killed_pids(lines: tuple[str, ...]) -> list[int]:
    """Return the processes that were killed for memory, by the machine's own numbers, which a container's are not."""
    return [int(match[1]) for line in lines if (match := _KILLED.search(line))]


def _texts(kernel: KernelLog, since_s: float) -> Iterator[str]:
    """Yield what the kernel itself said since then (seconds of its clock)."""
    deadline = time.monotonic() + LIMIT_S
    for record in kernel.records():
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"its end was not reached within {LIMIT_S:.0f} s")
        if record.at_s >= since_s and record.facility == KERNEL:
            yield record.text.partition("\n")[0]
