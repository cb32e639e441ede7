"""The lines of an attempt's log for the search for signs: all of a usual one; of a huge one not the middle."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from supervisor.core.plain_text import clean_lines
from supervisor.units import format_size

CHUNK_BYTES = 1024 * 1024
#: Of a larger log, what is searched: its head has versions and warnings of the start, its tail the end. Measured with
#: the shipped rules: progress bars 65 MB/s, warnings 5 to 20 MB/s, nothing but tracebacks 1.2 MB/s.
HEAD_BYTES = 16 * 1024 * 1024
TAIL_BYTES = 112 * 1024 * 1024
#: What is searched however long the rest has taken, and so long the rest may take: the head, and head and tail.
LAST_BYTES = 4 * 1024 * 1024
HEAD_S = 4.0
TAIL_S = 10.0
#: So long lines that are left out are counted, for the numbers of those that come after.
COUNT_S = 3.0


class LogLines:
    """Iterates over the cleaned lines of a log; `number` tells where in the file one of them stands.

    The time that whoever takes the lines needs for them counts as well: of a log that is slow to search more is left
    out, but never its end. Nothing is left out for a `patient` reader.
    """

    def __init__(
        self, path: Path, *, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES, patient: bool = False
    ) -> None:
        """Read `path`, and before it the older half beside it that a shim made where logs cannot have holes."""
        self._path = path
        self._head_bytes = sys.maxsize if patient else head_bytes
        self._tail_bytes = tail_bytes
        self._patient = patient
        self._parts: list[tuple[int, int | None]] = []  # lines given before a part, and how many were left out by then
        self._given = 0
        self._skipped_lines: int | None = 0
        self.skipped_bytes = 0

    def __iter__(self) -> Iterator[str]:
        """Yield each line once, in order. A log that is not there has none; OSError where it cannot be read."""
        self._parts, self._given, self._skipped_lines, self.skipped_bytes = [], 0, 0, 0
        begun = time.monotonic()
        older = self._path.with_name(f"{self._path.name}.1")
        if older.is_file():
            self._skipped_lines = None
            with older.open("rb") as file:
                yield from self._end_of(file, begun + HEAD_S)
        if self._path.is_file():
            with self._path.open("rb") as file:
                yield from self._all_of(file, begun)

    @property
    def unread(self) -> str:
        """How much was left out, in words; empty if nothing was."""
        if not self.skipped_bytes:
            return ""
        return f"{format_size(self.skipped_bytes)} in the middle of the log were not read: it is too long"

    def number(self, given: int) -> int:
        """Return the number in the file of the line that was given as the so-and-so-many-th; 0 if it is not known."""
        parts = [skipped for before, skipped in self._parts if before < given]
        return given + parts[-1] if parts and parts[-1] is not None else 0

    def _all_of(self, file: BinaryIO, begun: float) -> Iterator[str]:
        size = os.fstat(file.fileno()).st_size
        whole = size <= self._head_bytes + self._tail_bytes
        last = max(0, size - min(LAST_BYTES, self._tail_bytes))
        done = yield from self._part(
            file, 0, last if whole else self._head_bytes, begun + (TAIL_S if whole else HEAD_S)
        )
        if not whole:
            done = self._skip(file, done, size - self._tail_bytes)
            done = yield from self._part(file, done, last, begun + TAIL_S)
        done = self._skip(file, done, last)
        yield from self._part(file, done, size, float("inf"))

    def _end_of(self, file: BinaryIO, deadline: float) -> Iterator[str]:
        size = os.fstat(file.fileno()).st_size
        begin = self._skip(file, 0, size - self._head_bytes)
        yield from self._part(file, begin, size, deadline)

    def _part(self, file: BinaryIO, start: int, end: int, deadline: float) -> Generator[str, None, int]:
        """Yield the lines that begin between two places; return the place of the first one that was not given."""
        self._parts.append((self._given, self._skipped_lines))
        for data, behind in _whole_lines(file, start, end):
            for line in clean_lines(data):
                self._given += 1
                yield line
            start = behind
            if time.monotonic() > deadline and not self._patient:
                break
        return start

    def _skip(self, file: BinaryIO, start: int, to: int) -> int:
        """Return the place of the first line from `to` on; learn how many are left out, if that does not take long."""
        if to <= start:
            return start
        file.seek(to - 1)
        file.readline(CHUNK_BYTES)
        deadline, end = time.monotonic() + COUNT_S, file.tell()
        for data, behind in _pieces(file, start, end):
            self.skipped_bytes += len(data)
            if self._skipped_lines is not None:
                self._skipped_lines += data.count(b"\n")
            if time.monotonic() > deadline:
                self._skipped_lines = None
                self.skipped_bytes += end - behind
                break
        return end


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield a log in pieces of whole lines; holes that were punched into it are skipped, endless lines are cut."""
    return (data for data, _ in _whole_lines(file, 0, os.fstat(file.fileno()).st_size))


def _whole_lines(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Yield the lines that begin before `end`, some at a time, each time with the place behind them."""
    if start >= end:
        return
    rest, size = b"", os.fstat(file.fileno()).st_size
    for data, behind in _pieces(file, start, size):
        whole, newline, rest = (rest + data.replace(b"\0", b"")).rpartition(b"\n")
        place = behind - len(rest)
        if newline:
            inside, more = _before(whole + newline, place, end)
            yield inside, more
            if more < place:
                return
        if len(rest) > CHUNK_BYTES:
            yield rest, behind
            rest = b""
        if behind - len(rest) >= end:
            return
    if rest:
        yield rest, size


def _before(lines: bytes, behind: int, end: int) -> tuple[bytes, int]:
    """Return those of some lines that begin before `end`, and the place behind them."""
    if behind <= end:
        return lines, behind
    over = max(0, len(lines) - (behind - end) - 1)
    cut = lines.find(b"\n", over) + 1
    return lines[:cut], behind - len(lines) + cut


def _pieces(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Yield what is on the disk, each time with the place behind it: a hole of a hundred gigabytes takes no time."""
    while start < end:
        start = _behind_hole(file.fileno(), start, end)
        data = os.pread(file.fileno(), max(0, min(CHUNK_BYTES, end - start)), start)
        if not data:
            return
        start += len(data)
        yield data, start


def _behind_hole(handle: int, offset: int, end: int) -> int:
    try:
        return os.lseek(handle, offset, os.SEEK_DATA)
    except OSError as error:  # lseek(2), ENXIO: nothing but a hole up to the end; else: a file system without holes
        return end if error.errno == errno.ENXIO else offset
