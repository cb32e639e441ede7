"""Following the runner's records of one attempt."""

from __future__ import annotations

import os
import re
from pathlib import Path

from supervisor.attempt_files import Beat, parse_beat
from supervisor.core.attempt_seconds import Stopwatch
from supervisor.sources.course import Course
from supervisor.sources.tail import LINE_MAX_BYTES, Tail

HEAD_BYTES = 64 * 1024
WINDOW_BYTES = 1024 * 1024
_BATCH = re.compile(rb'"kind"\s*:\s*"batch"')
_SAVED = re.compile(rb'"kind"\s*:\s*"saved"')


class BeatFollower:
    """Feeds the beats of one file to a Course, and adds up what the attempt spent its time on."""

    def __init__(self, path: Path, course: Course, started_at: float | None = None) -> None:
        """Follow `path`, which may come later, of an attempt that was started at `started_at`."""
        self._path = path
        self._course = course
        self._stopwatch = Stopwatch(started_at)
        self._tail: Tail | None = None

    def poll(self) -> None:
        """Take all that was written since. OSError where the file is there but cannot be read."""
        if self._tail is None:
            self._tail = self._catch_up()
        news = False
        while lines := self._tail.read():
            self._feed(lines.split(b"\n"))
            news = True
        if news:
            self._course.set(seconds=self._stopwatch.seconds())

    def _catch_up(self) -> Tail:
        """Of a long file (the daemon was away) take the head and as much of the end as has the last saved epoch.

        The start is confirmed before the first batch, so the head has it. Batches in between tell nothing any more.
        """
        size = self._path.stat().st_size if self._path.is_file() else 0
        window = WINDOW_BYTES
        while window < size - HEAD_BYTES and not _SAVED.search(_slice(self._path, size - window, window)):
            window *= 4
        if window >= size - HEAD_BYTES:
            return Tail(self._path)
        head = _slice(self._path, 0, HEAD_BYTES).rpartition(b"\n")[0]
        self._feed(head.split(b"\n"))
        self._add_up(len(head), size - window)
        return Tail(self._path, skip_bytes=size - window)

    def _add_up(self, start: int, end: int) -> None:
        """Add up the phases of what is skipped, with the line at its end: a Tail leaves that out."""
        with self._path.open("rb") as file:
            file.seek(start)
            while file.tell() <= end and (line := file.readline(LINE_MAX_BYTES)):
                beat = None if _BATCH.search(line) else _parse(line.rstrip(b"\n"))
                if beat is not None:
                    self._stopwatch.take(beat)

    def _feed(self, lines: list[bytes]) -> None:
        newest_batch = next((line for line in reversed(lines) if _BATCH.search(line)), None)
        for line in lines:
            if line is newest_batch or not _BATCH.search(line):
                beat = _parse(line)
                if beat is not None:
                    self._course.beat(beat)
                    self._stopwatch.take(beat)


def _parse(line: bytes) -> Beat | None:
    """Return the beat of a line. The job's own user writes these lines: nothing in them may harm the reader."""
    if not line or len(line) > LINE_MAX_BYTES:
        return None
    try:
        return parse_beat(line)
    except RecursionError:
        return None


def _slice(path: Path, start: int, length: int) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(handle, length, start)
    finally:
        os.close(handle)
