"""The kernel's log, record by record: /dev/kmsg, or a FIFO that stands in for it."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

KMSG = Path("/dev/kmsg")
#: Linux (Documentation/admin-guide/devices.txt). Containers often have /dev/null or a console in its place.
DEVICE = os.makedev(1, 11)
#: Linux (Documentation/ABI/testing/dev-kmsg): a read gives one record and fails where it does not fit; 8 KiB always do.
READ_BYTES = 64 * 1024
#: What has no line end for so long is no record: a file that is no kernel log.
LINE_MAX_BYTES = 64 * 1024
KERNEL = 0  # the facility of what the kernel itself says; what programs write into its log has at least 1
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


class Record(NamedTuple):
    """One record. `seq` counts from the boot; `at_s` is the kernel's own clock; `facility` 0: the kernel itself."""

    seq: int
    at_s: float
    facility: int
    text: str


def clock_s() -> float:
    """Seconds of the clock that records are stamped by, now.

    The kernel does not correct that clock as it does the system's, and it drifts from that by a little each day; of the
    two that can be asked the slower one is taken, so that nothing new looks old.
    """
    return min(map(time.clock_gettime, (time.CLOCK_MONOTONIC, time.CLOCK_MONOTONIC_RAW)))


def record_of(line: bytes) -> Record | None:
    """The record of a line "priority,number,microseconds,flags;text"; None for what is none: a line of its details."""
    head, semicolon, text = line.partition(b";")
    fields = head.split(b",")
    if not semicolon or len(fields) < 3 or not all(field.isdigit() for field in fields[:3]):
        return None
    priority, seq, microseconds = map(int, fields[:3])
    if b"\\x" in text:  # control characters, and all that is not ASCII
        text = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text)
    return Record(seq, microseconds / 1e6, priority >> 3, text.decode("utf-8", "replace"))


class KernelLog:
    """An open kernel log; it begins with the oldest record that is still there. Reading never blocks."""

    def __init__(self, path: Path = KMSG) -> None:
        """Raises OSError: without rights (kernel.dmesg_restrict) and in most containers."""
        found = path.stat()
        stands_in = path != KMSG and (stat.S_ISFIFO(found.st_mode) or stat.S_ISREG(found.st_mode))
        if not stands_in and not (stat.S_ISCHR(found.st_mode) and found.st_rdev == DEVICE):
            raise OSError(errno.ENODEV, "it is not the device of the kernel log")
        # A FIFO that we could write to ourselves has no end while nobody else writes.
        access = os.O_RDWR if stat.S_ISFIFO(found.st_mode) else os.O_RDONLY
        self._handle = os.open(path, access | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""
        self.overwritten = 0
        self.ended = False

    def fileno(self) -> int:
        """To be waited on."""
        return self._handle

    def records(self) -> Iterator[Record]:
        """Yield what there is now, in order.

        `overwritten` counts how often records were gone before they were read; `ended` is true after a log that has an
        end, which only a file can have. Raises OSError where it cannot be read on.
        """
        while True:
            try:
                data = os.read(self._handle, READ_BYTES)
            except BlockingIOError:
                return
            except BrokenPipeError:  # what stood here was overwritten meanwhile; the next read goes on behind it
                self.overwritten += 1
                continue
            self.ended = not data
            if not data:
                return
            yield from self._cut(data)

    def close(self) -> None:
        """Give the handle back."""
        os.close(self._handle)

    def _cut(self, data: bytes) -> Iterator[Record]:
        """One record a line. The lines of its details, which begin with a blank, are none: nobody needs them."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_MAX_BYTES:
            self._rest = b""
        for line in lines:
            record = record_of(line)
            if record is not None:
                yield record
