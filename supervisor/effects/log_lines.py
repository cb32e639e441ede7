"""The lines of an attempt's log for the search for signs: all of a usual one, head and tail of a huge one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from supervisor.core.plain_text import clean_lines

CHUNK_BYTES = 1024 * 1024
#: Of a larger log, what is searched: its head has versions and warnings of the start, its tail the end. Progress bars
#: write about 100 bytes a line, so that the tail is 200,000 lines.
HEAD_BYTES = 4 * 1024 * 1024
TAIL_BYTES = 20 * 1024 * 1024
#: So long the lines in between are counted, for the numbers of those in the tail.
COUNT_S = 3.0
LINE_LENGTH = 4096  # what is longer was not written for people, and patterns take long to search it


class LogLines:
    """Iterates over the cleaned lines of a log; `number` tells where in the file one of them stands."""

    def __init__(self, path: Path, *, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        """Read `path`, and before it the older half beside it that a shim made where logs cannot have holes."""
        self._path = path
        self._head_bytes = head_bytes
        self._tail_bytes = tail_bytes
        self._parts: list[tuple[int, int | None]] = []  # lines given before the part, and how many were not
        self.skipped_bytes = 0

    def __iter__(self) -> Iterator[str]:
        """Yield each line once, in order. A log that is not there has none; OSError where it cannot be read."""
        self._parts, self.skipped_bytes, given = [], 0, 0
        for line in self._lines():
            if line is None:
                self._parts.append((given, self._skipped_lines))
            else:
                given += 1
                yield line

    def number(self, given: int) -> int:
        """Return the number in the file of the line that was given as the so-and-so-many-th; 0 if it is not known."""
        parts = [skipped for before, skipped in self._parts if before < given]
        return given + parts[-1] if parts and parts[-1] is not None else 0

    def _lines(self) -> Iterator[str | None]:
        """Yield lines; None before each part, for which `_skipped_lines` then holds."""
        older = self._path.with_name(f"{self._path.name}.1")
        if older.is_file():
            self._skipped_lines: int | None = None
            yield None
            yield from self._tail_of(older, self._head_bytes)
        self._skipped_lines = 0
        if not self._path.is_file():
            return
        if older.is_file():
            self._skipped_lines = None
        with self._path.open("rb") as file:
            yield None
            size = os.fstat(file.fileno()).st_size
            if size <= self._head_bytes + self._tail_bytes:
                yield from _clean(chunks(file))
                return
            yield from _clean(chunks(file, 0, self._head_bytes))
            self._skip(file, size - self._tail_bytes)
            yield None
            yield from _clean(chunks(file, file.tell()))

    def _skip(self, file: BinaryIO, start: int) -> None:
        """Go to the first line behind `start`; learn how many lines are left out, if that does not take long."""
        deadline, count = time.monotonic() + COUNT_S, 0
        for data in _pieces(file, self._head_bytes, start):
            count += data.count(b"\n")
            self.skipped_bytes += len(data)
            if time.monotonic() > deadline:
                self._skipped_lines = None
                break
        file.seek(start)
        file.readline(CHUNK_BYTES)
        if self._skipped_lines is not None:
            self._skipped_lines += count

    def _tail_of(self, path: Path, size_bytes: int) -> Iterator[str]:
        with path.open("rb") as file:
            start = max(0, os.fstat(file.fileno()).st_size - size_bytes)
            file.seek(start)
            if start:
                file.readline(CHUNK_BYTES)
            yield from _clean(chunks(file, file.tell()))


def _clean(pieces: Iterator[bytes]) -> Iterator[str]:
    return (line[:LINE_LENGTH] for piece in pieces for line in clean_lines(piece))


def chunks(file: BinaryIO, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield a log in pieces of whole lines; holes that were punched into it are skipped, endless lines are cut."""
    rest = b""
    for data in _pieces(file, start, end):
        whole, newline, rest = (rest + data.replace(b"\0", b"")).rpartition(b"\n")
        yield whole + newline
        if len(rest) > CHUNK_BYTES:
            yield rest
            rest = b""
    yield rest


def _pieces(file: BinaryIO, start: int, end: int | None) -> Iterator[bytes]:
    """Yield what is on the disk: a hole of a hundred gigabytes takes no time."""
    end = os.fstat(file.fileno()).st_size if end is None else end
    while start < end:
        start = _behind_hole(file.fileno(), start)
        data = os.pread(file.fileno(), max(0, min(CHUNK_BYTES, end - start)), start)
        if not data:
            return
        yield data
        start += len(data)


def _behind_hole(handle: int, offset: int) -> int:
    try:
        return os.lseek(handle, offset, os.SEEK_DATA)
    except OSError:  # nothing but a hole up to the end, or a file system without holes
        return offset
