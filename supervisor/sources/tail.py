"""Reading what was added to a file that another process writes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

CHUNK_BYTES = 256 * 1024
LINE_MAX_BYTES = 64 * 1024
FRAMES_BYTES = 4 * 1024


class Tail:
    """The new bytes of one file, whole lines apart from the rest. One reader, no thread of its own.

    A file that is replaced (another inode) or cut shorter than what was read is read anew from its start. Holes,
    where the head of a log was given back to the disk, are skipped.
    """

    def __init__(self, path: Path, *, skip_bytes: int = 0, newest_bytes: int | None = None) -> None:
        """Read `path` (it may come later) from `skip_bytes` on.

        With `newest_bytes`, a reader that is four times as far behind goes on with the last so many bytes.
        """
        self._path = path
        self._skip_bytes = skip_bytes
        self._newest_bytes = newest_bytes
        self._inode = 0
        self._offset = 0
        self._in_mid_line = False
        self.rest = b""

    def read(self) -> bytes:
        """Return the whole lines that were added, of at most 256 KiB at a time; `rest` holds what follows.

        Raises OSError where the file is there but cannot be read.
        """
        status = self._status()
        if status is None or (status.st_ino == self._inode and status.st_size == self._offset):
            return b""
        self._place(status)
        data = self._read_on()
        if self._in_mid_line:
            _, end, data = data.partition(b"\n")
            self._in_mid_line = not end
        lines, end, rest = (self.rest + data).rpartition(b"\n")
        self.rest = _shortened(rest)
        return lines + end

    def _status(self) -> os.stat_result | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def _place(self, status: os.stat_result) -> None:
        """Choose where to read on."""
        if not self._inode:
            self._inode = status.st_ino
            self._jump(min(self._skip_bytes, status.st_size))
        elif status.st_ino != self._inode or status.st_size < self._offset:
            self._inode = status.st_ino
            self._jump(0)
        if self._newest_bytes is not None and status.st_size - self._offset > 4 * self._newest_bytes:
            self._jump(status.st_size - self._newest_bytes)

    def _jump(self, offset: int) -> None:
        self._offset, self.rest, self._in_mid_line = offset, b"", offset > 0

    def _read_on(self) -> bytes:
        handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            start = _behind_hole(handle, self._offset)
            data = os.pread(handle, CHUNK_BYTES, start)
        finally:
            os.close(handle)
        self._offset = start + len(data)
        return data.lstrip(b"\0")  # a hole ends somewhere inside a page


def _behind_hole(handle: int, offset: int) -> int:
    try:
        return os.lseek(handle, offset, os.SEEK_DATA)
    except OSError:  # nothing but a hole up to the end, or a file system without holes
        return offset


def _shortened(rest: bytes) -> bytes:
    """Keep the newest frames of a progress bar that redraws one line for an hour, and no line without end."""
    if len(rest) > FRAMES_BYTES and b"\r" in rest:
        return rest[-FRAMES_BYTES // 2 :].partition(b"\r")[2]
    return rest[-LINE_MAX_BYTES - 1 :]
