"""A target that is a folder: on another disk, or on a network mount. See base.Target."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from supervisor import durable
from supervisor.backup_config import Address, Backup
from supervisor.effects.backup.targets import base, local_copying, local_files
from supervisor.effects.backup.targets.base import Facts, Found, TargetError, of_error
from supervisor.effects.backup.targets.local_files import Staged
from supervisor.effects.backup.targets.settling import LARGE_BYTES, Settler, Verdicts, identity
from supervisor.effects.backup.targets.watched import Going, watched

LOOK_S = 20.0  # for a look at a mount: longer takes only one whose server is gone
SILENCE_S = 600.0  # for writing: a slow disk takes its time to have a large file safe

Answer = TypeVar("Answer")

_NOT_EMPTY = {errno.ENOTEMPTY, errno.EEXIST}  # which of them is said depends on the file system


class LocalTarget:
    """A [[backup]] section with a path. The folder itself is never made: below it another disk may have to be mounted.

    Where it was on a mount once and is not any more, nothing is written: that disk is not there.
    """

    def __init__(
        self, settings: Backup, address: Address, server: str, state_dir: Path, *, stop: threading.Event
    ) -> None:
        """Nothing is looked at yet."""
        self.name = settings.name
        self.append_only = settings.append_only
        self._root = Path(address.path)
        self._server = base.server_folder(server)
        self._memory = state_dir / "backup" / settings.name / "mount.json"
        self._bwlimit = settings.bwlimit
        self._stop = stop
        self._distrusted: set[str] = set()
        self._verdicts = Verdicts()

    # ---- looking
    def facts(self) -> Facts:
        """See base.Target. "absent" where the folder is missing, or not mounted."""
        return self._done(self._look, LOOK_S)

    def _look(self, root: int, going: Going) -> Facts:
        going.on()
        room = os.fstatvfs(root)
        warning = f"{self._root} is mounted read-only" if room.f_flag & os.ST_RDONLY else ""
        return Facts(room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize, warning)

    def _demand_mounted(self) -> None:
        """TargetError "absent" where the folder was on a mount before, and is on the disk below it now."""
        mount = _mount_of(self._root)
        known = self._known_mount()
        if known is not None and known != mount and Path(known).is_relative_to(mount):
            text = (
                f"{self._root} was on the mount {known}, which is not there; if it never will be, remove {self._memory}"
            )
            raise TargetError("absent", text)
        if known != mount:
            self._memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.write(self._memory, json.dumps({"to": str(self._root), "mount": mount}).encode())

    def _known_mount(self) -> str | None:
        try:
            known = json.loads(self._memory.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        mount = known.get("mount") if isinstance(known, dict) and known.get("to") == str(self._root) else None
        return mount if isinstance(mount, str) else None

    # ---- sending
    def send(self, stage: Path, under: str, *, progress: base.Progress = base.ignore) -> None:
        """See base.Target. What was copied before an interruption is not copied again, file by file."""
        under = base.checked_folder(under)
        self._done(lambda root, going: self._send(root, stage, under, progress, going), SILENCE_S)
        self._distrusted.discard(under)

    def _send(self, root: int, stage: Path, under: str, progress: base.Progress, going: Going) -> None:
        sent_bytes = 0
        for folder, files in groupby(local_files.staged(stage), key=lambda file: file.folder):
            place = _joined(self._server, under, folder)
            with local_files.opened_folder(root, place, make=True) as handle:
                names = list(files)
                _remove_temporary(handle, {file.name for file in names})
                wanted = [file for file in names if under in self._distrusted or not _is_there(handle, file)]
                with Settler(partial(self._settle, going, place)) as settler:
                    for batch in local_copying.batches(wanted):
                        if batch[0].bytes >= LARGE_BYTES:
                            settler.put(local_copying.copied(handle, stage, batch[0], going))
                        else:
                            local_copying.send_together(handle, stage, batch, going)
                        sent_bytes += sum(file.bytes for file in batch)
                        progress(sent_bytes)
                os.fsync(handle)

    def _settle(self, going: Going, place: str, sent: local_copying.Sent) -> None:
        """Have a large file safe, name it and read it again, while its bytes here are still in memory."""
        going.on()
        sent.unnamed.settle()
        there = local_files.opened_file(sent.unnamed.folder, sent.unnamed.name)
        if there is None:
            return
        try:
            here = local_copying.opened(sent.source)
            try:
                states = identity(here), identity(there)
                if local_files.same(here, there, going):
                    self._verdicts.note(f"{place}/{sent.unnamed.name}", *states)
            finally:
                os.close(here)
        finally:
            os.close(there)

    def differing(self, stage: Path, under: str) -> list[str]:
        """See base.Target: every byte is read again, from the disk where the system lets us, if `send` has not yet."""
        under = base.checked_folder(under)
        found = self._done(lambda root, going: self._differing(root, stage, under, going), SILENCE_S)
        if found:
            self._distrusted.add(under)
        return found

    def _differing(self, root: int, stage: Path, under: str, going: Going) -> list[str]:
        found = []
        for file in local_files.staged(stage):
            place = _joined(self._server, under, file.path)
            with _reading(root, place) as there:
                if there is None or not self._is_same(stage / file.path, place, there, going):
                    found.append(file.path)
        return found

    def _is_same(self, source: Path, place: str, there: int, going: Going) -> bool:
        """What has just been read again as it was sent, and is as it was then, is not read once more."""
        here = local_copying.opened(source)
        try:
            return self._verdicts.take(place, here, there) or local_files.same(here, there, going)
        finally:
            os.close(here)

    def put(self, path: str, data: bytes) -> None:
        """See base.Target."""
        folder, _, name = f"{self._server}/{base.checked(path)}".rpartition("/")

        def work(root: int, going: Going) -> None:
            going.on()
            with local_files.opened_folder(root, folder, make=True) as handle:
                _remove_temporary(handle, set())
                local_copying.write(handle, name, data)
                os.fsync(handle)

        self._done(work, SILENCE_S)

    # ---- reading
    def read(self, path: str) -> bytes | None:
        """See base.Target."""
        place = f"{self._server}/{base.checked(path)}"

        def work(root: int, going: Going) -> bytes | None:
            going.on()
            with _reading(root, place) as there:
                return None if there is None else _content(there, path)

        return self._done(work, SILENCE_S)

    def fetch(self, files: Sequence[str], into: Path) -> None:
        """See base.Target. What comes is on the disk when this returns."""
        chosen = [base.checked(path) for path in files]
        self._done(lambda root, going: self._fetch(root, chosen, into, going), SILENCE_S)

    def _fetch(self, root: int, files: Sequence[str], into: Path, going: Going) -> None:
        for path in files:
            with _reading(root, f"{self._server}/{path}") as there:
                if there is None:
                    raise TargetError("failed", f"{path} is not there")
                _fetch_one(there, into, path, going)

    def listing(self, under: str) -> list[Found]:
        """See base.Target."""
        under = base.checked_folder(under)
        return self._done(lambda root, going: self._listing(root, under, going), SILENCE_S)

    def _listing(self, root: int, under: str, going: Going) -> list[Found]:
        place = f"{self._server}/{under}" if under else self._server
        try:
            with local_files.opened_folder(root, place) as handle:
                return list(_walked(handle, under, going))
        except OSError as error:
            if local_files.is_missing(error):
                return []
            raise

    # ---- removing
    def remove(self, files: Sequence[str]) -> int:
        """See base.Target."""
        base.refuse_removal(self)
        chosen = base.removable(files)
        return self._done(lambda root, going: self._remove(root, chosen, going), SILENCE_S)

    def _remove(self, root: int, files: Sequence[str], going: Going) -> int:
        count = 0
        for path in files:
            going.on()
            count += _gone(root, f"{self._server}/{path}", os.unlink)
        for path in base.parents(files):
            _gone(root, f"{self._server}/{path}", os.rmdir)
        return count

    # ---- bounded
    def _done(self, work: Callable[[int, Going], Answer], silence_s: float) -> Answer:
        """Do it with a handle of the root, in a thread that may be left behind on a dead mount."""
        if self._stop.is_set():
            raise TargetError("stopped", "the daemon stops")

        def bounded(going: Going) -> Answer:
            try:
                with local_files.opened_root(self._root) as root:
                    self._demand_mounted()
                    return work(root, going)
            except OSError as error:
                raise of_error(error, str(self._root)) from error

        return watched(str(self._root), bounded, Going(self._stop, self._bwlimit), silence_s)


def _joined(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _mount_of(path: Path) -> str:
    """The mount that a folder lies on."""
    place = path.resolve()
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return str(place)


# ---- one folder
def _remove_temporary(folder: int, keep: set[str]) -> None:
    """What a killed daemon left: one transaction at a time is under way, so that nobody else writes it."""
    for name in os.listdir(folder):
        if local_files.is_temporary(name) and name not in keep:
            os.unlink(name, dir_fd=folder)


def _is_there(folder: int, file: Staged) -> bool:
    try:
        status = os.stat(file.name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == (file.bytes, file.mtime_ns)


# ---- one file
@contextmanager
def _reading(root: int, path: str) -> Iterator[int | None]:
    """Give a handle of a plain file there, None if there is none."""
    folder, _, name = path.rpartition("/")
    try:
        with local_files.opened_folder(root, folder) as handle:
            file = local_files.opened_file(handle, name)
    except OSError as error:
        if not local_files.is_missing(error):
            raise
        file = None
    try:
        yield file
    finally:
        if file is not None:
            os.close(file)


def _content(handle: int, path: str) -> bytes:
    size = os.fstat(handle).st_size
    if size > base.MOST_READ_BYTES:
        raise TargetError("refused", f"{path} is too large: {size} bytes")
    with os.fdopen(os.dup(handle), "rb") as file:
        return file.read(base.MOST_READ_BYTES)


def _fetch_one(there: int, into: Path, path: str, going: Going) -> None:
    try:
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        with (into / path).open("wb") as file:
            local_files.copy(there, file.fileno(), going)
            status = os.fstat(there)
            os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
            os.fsync(file.fileno())
    except OSError as error:
        cause = of_error(error, "").cause
        raise TargetError("no-room" if cause in {"full", "quota"} else "failed", f"{into}: {error.strerror}") from error


def _walked(folder: int, path: str, going: Going) -> Iterator[Found]:
    """All plain files below a folder, in the order of their names. What vanishes meanwhile is not there."""
    for name in sorted(os.listdir(folder)):
        going.on()
        inner = f"{path}/{name}" if path else name
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                yield Found(inner, status.st_size, status.st_mtime)
            elif stat.S_ISDIR(status.st_mode):
                with local_files.opened_folder(folder, name) as handle:
                    yield from _walked(handle, inner, going)


def _gone(root: int, path: str, remove: Callable[..., None]) -> bool:
    """Remove a file, or a folder if it is empty; False if there was none."""
    folder, _, name = path.rpartition("/")
    try:
        with local_files.opened_folder(root, folder) as handle:
            remove(name, dir_fd=handle)
    except OSError as error:
        if local_files.is_missing(error) or error.errno in _NOT_EMPTY:
            return False
        raise
    return True
