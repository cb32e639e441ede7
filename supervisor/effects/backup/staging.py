"""Private copies of what is to be sent, in a folder of ours on the same disk, and what is known of them.

A folder of one target holds at most one snapshot that is under way, and a record of it. What was copied and hashed
before the daemon was killed is not copied again, and what was sent is not sent again: the snapshot keeps its name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Collection
from pathlib import Path

import msgspec

from supervisor import attempt_files, durable
from supervisor.effects.backup.collect import Seen, Tree, grows
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.private_copy import BLOCK_BYTES, private_copy
from supervisor.errors import RetryableError

RECORD = "under-way.json"
OLDEST_S = 86400.0  # an older try is not gone on with: what it sent is removed, and all begins anew
SMALL_BYTES = 4 * 1024 * 1024  # read whole and not synced one by one: a run may have a hundred thousand of them
TRIES = 4
AGAIN_S = 0.25
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP})


class Copied(msgspec.Struct, frozen=True, array_like=True):
    """A staged file, and the file that it is a copy of: that had `holes` more bytes."""

    sha256: str
    bytes: int
    mtime_ns: int
    mode: int
    holes: int = 0


class Record(msgspec.Struct, kw_only=True):
    """under-way.json: for which action, into which folder of the target, under which name, and what was hashed."""

    key: str
    folder: str
    snapshot: str
    begun_at: float
    boot: str
    copied: dict[str, Copied] = {}
    version: int = 1


class Staging:
    """The folder of one target."""

    def __init__(self, root: Path) -> None:
        """`root` is made when it is needed."""
        self._root = root

    def record(self, now: float) -> Record | None:
        """The snapshot that was under way; None, and nothing is left of it, where the record does not say."""
        try:
            record = msgspec.json.decode((self._root / RECORD).read_bytes(), type=Record)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            self.clear()
            return None
        if record.boot != _boot():  # staged files are not synced one by one
            _remove(self.folder(record))
            record.copied = {}
        record.begun_at = min(record.begun_at, now)  # the clock may have been set back
        return record

    def begin(self, record: Record) -> Record:
        """Note what is under way from now on. Raises OSError."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        record.boot = _boot()
        durable.write(self._root / RECORD, msgspec.json.encode(record))
        self.folder(record).mkdir(mode=0o700, exist_ok=True)
        return record

    def note(self, record: Record) -> None:
        """Let the record say what was copied by now. Raises OSError."""
        durable.write(self._root / RECORD, msgspec.json.encode(record))

    def folder(self, record: Record) -> Path:
        """Where the staged files lie, under the paths that they have in the run directory."""
        return self._root / record.snapshot

    def clear(self) -> None:
        """Forget it. The record goes last, so that nothing is left that nobody knows. Raises OSError."""
        if not self._root.exists():
            return
        for path in self._root.iterdir():
            if path.name != RECORD:
                _remove(path)
        (self._root / RECORD).unlink(missing_ok=True)


def forget_others(folder: Path, targets: Collection[str]) -> None:
    """Remove what was staged for targets that are not configured any more: it holds on to blocks of the disk."""
    with contextlib.suppress(FileNotFoundError):  # there is none; or another target's thread is doing just this
        for path in folder.iterdir():
            if path.name not in targets:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _boot() -> str:
    boot_id, start_time = attempt_files.boot_identity()
    return f"{boot_id}/{start_time}"


class ChangingError(Exception):
    """A file was written whenever it was copied."""


class Copier:
    """Copies files of a run directory into the folder of staged files."""

    def __init__(self, tree: Tree, folder: Path, known: dict[str, Copied], stop: threading.Event) -> None:
        """`known`: what was copied before; it is added to."""
        self._tree = tree
        self._folder = folder
        self._known = known
        self._stop = stop
        self._made: set[Path] = set()

    def copy(self, seen: Seen) -> Copied:
        """Stage a file as it is now, hashed. A growing one: what was there when the copy began.

        Raises FileNotFoundError where it is gone, ChangingError where it is written all the time, NoRoomError and
        OSError where it cannot be copied, TargetError "stopped".
        """
        target = self._place(seen.path)
        known = self._known.get(seen.path)
        if known is not None and _is_copy(target, known, seen):
            return known
        for left in reversed(range(TRIES)):
            if self._stop.is_set():
                raise TargetError("stopped", "interrupted by the end of the daemon")
            try:
                copied = self._copy(seen.path, target)
            except (RetryableError, FileNotFoundError) as error:
                if not left or _is_lasting(error):
                    target.unlink(missing_ok=True)
                    raise _as_told(error, seen.path) from error
                self._stop.wait(AGAIN_S)
            else:
                self._known[seen.path] = copied
                return copied
        raise AssertionError("the last try returns or raises")

    def link(self, path: str) -> os.stat_result:
        """Stage a file that never changes, without copying it where that can be. Raises as `copy`."""
        target = self._place(path)
        target.unlink(missing_ok=True)
        folder, _, name = path.rpartition("/")
        try:
            os.link(name, target, src_dir_fd=self._tree.folder(folder), follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            with self._tree.opened(path) as handle:
                private_copy(Path(f"/proc/self/fd/{handle}"), target)
        status = target.lstat()
        if not stat.S_ISREG(status.st_mode):
            target.unlink()
            raise FileNotFoundError(errno.ENOENT, "no plain file", path)
        return status

    def write(self, path: str, data: bytes, mtime_ns: int) -> Copied:
        """Stage a file of our own making."""
        target = self._place(path)
        mode = 0o644
        _write(target, data, mode, mtime_ns)
        return Copied(hashlib.sha256(data).hexdigest(), len(data), mtime_ns, mode)

    def _place(self, path: str) -> Path:
        target = self._folder / path
        if target.parent not in self._made:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._made.add(target.parent)
        return target

    def _copy(self, path: str, target: Path) -> Copied:
        with self._tree.opened(path) as handle:
            if grows(path):
                return _copy_of_log(handle, target, may_have_hole=path.endswith("/log"))
            status = os.fstat(handle)
            if status.st_size <= SMALL_BYTES:
                return _copy_of_small(handle, status, target)
            copied = private_copy(Path(f"/proc/self/fd/{handle}"), target)
            return Copied(copied.sha256, copied.size_bytes, copied.mtime_ns, stat.S_IMODE(target.stat().st_mode))


def _is_lasting(error: Exception) -> bool:
    from supervisor.effects.private_copy import NoRoomError

    return isinstance(error, (FileNotFoundError, NoRoomError))


def _as_told(error: Exception, path: str) -> Exception:
    return error if _is_lasting(error) else ChangingError(f"{path} was written whenever it was copied")


def _is_copy(target: Path, known: Copied, seen: Seen) -> bool:
    """True if the file is staged already, as it is now."""
    if (known.bytes + known.holes, known.mtime_ns) != (seen.bytes, seen.mtime_ns):
        return False
    with contextlib.suppress(FileNotFoundError):
        status = target.lstat()
        return (status.st_size, status.st_mtime_ns) == (known.bytes, known.mtime_ns)
    return False


def _copy_of_small(handle: int, before: os.stat_result, target: Path) -> Copied:
    data = os.pread(handle, before.st_size + 1, 0)
    after = os.fstat(handle)
    if len(data) != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise RetryableError("it was written while it was copied")
    mode = stat.S_IMODE(before.st_mode) & 0o644
    _write(target, data, mode, before.st_mtime_ns)
    return Copied(hashlib.sha256(data).hexdigest(), len(data), before.st_mtime_ns, mode)


def _write(target: Path, data: bytes, mode: int, mtime_ns: int) -> None:
    target.unlink(missing_ok=True)  # never through what an interrupted try linked there
    writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write_all(writing, memoryview(data))
        os.fchmod(writing, mode)
        os.utime(writing, ns=(mtime_ns, mtime_ns))
    finally:
        os.close(writing)


def _write_all(writing: int, data: memoryview) -> None:
    while data:
        data = data[os.write(writing, data) :]


# ---- files that grow
def _copy_of_log(handle: int, target: Path, *, may_have_hole: bool) -> Copied:
    """What was there when this began. The hole of a log that outgrew its limit is left out: zeros say nothing."""
    before = os.fstat(handle)
    parts = _parts_with_data(handle, before, may_have_hole)
    mode = stat.S_IMODE(before.st_mode) & 0o644
    target.unlink(missing_ok=True)
    writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        digest = hashlib.sha256()
        for start, end in parts:
            _copy_part(handle, start, end, writing, digest)
        if os.fstat(handle).st_size < before.st_size or parts != _parts_with_data(handle, before, may_have_hole):
            raise RetryableError("it was cut while it was copied")
        os.fchmod(writing, mode)
        os.utime(writing, ns=(before.st_mtime_ns, before.st_mtime_ns))
    finally:
        os.close(writing)
    size = sum(end - start for start, end in parts)
    return Copied(digest.hexdigest(), size, before.st_mtime_ns, mode, before.st_size - size)


def _parts_with_data(handle: int, status: os.stat_result, may_have_hole: bool) -> list[tuple[int, int]]:
    """Where the file has data, up to its size then, as (start, end)."""
    size = status.st_size
    if not may_have_hole:
        return [(0, size)]
    parts = []
    end = 0
    while end < size:
        try:
            start = os.lseek(handle, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        end = os.lseek(handle, start, os.SEEK_HOLE)
        if start < size:
            parts.append((start, min(end, size)))
    return parts


def _copy_part(handle: int, start: int, end: int, writing: int, digest: hashlib._Hash) -> None:
    while start < end:
        data = os.pread(handle, min(BLOCK_BYTES, end - start), start)
        if not data:
            raise RetryableError("it was cut while it was copied")
        digest.update(data)
        _write_all(writing, memoryview(data))
        start += len(data)
