"""Where published weights go: a folder that people share, or a backup target. Nothing is ever overwritten there."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shutil
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from supervisor.effects.backup.targets import local_files
from supervisor.effects.backup.targets.base import Target, closing
from supervisor.effects.backup.targets.local import SILENCE_S
from supervisor.effects.backup.targets.watched import Going, watched
from supervisor.effects.hashing import BLOCK_BYTES

#: The folder on a backup target, below that of the server.
ON_TARGET = "published"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755
MOST_CARD_BYTES = 16 * 1024 * 1024  # the largest file that is read as a card

Answer = TypeVar("Answer")


class TakenError(Exception):
    """A name is somebody else's."""


class NotAllowedError(Exception):
    """The job may not publish there; the text says why."""


class Place(Protocol):
    """A flat folder of files, each there whole or not at all. Raises OSError or TargetError where it cannot."""

    def present(self, names: Sequence[str]) -> frozenset[str]:
        """Those of the names that are there."""

    def same(self, files: Mapping[str, Path]) -> bool:
        """True if each of these names holds just the bytes of its file."""

    def put(self, source: Path, name: str) -> None:
        """Bring a file there. TakenError if the name is there with other bytes."""

    def read(self, name: str) -> bytes | None:
        """What a small file holds; None if nothing has that name, empty if it is no small plain file."""

    def shown(self, name: str) -> str:
        """Where it lies, for people."""

    def close(self) -> None:
        """Give back what is held."""


class Folder:
    """A folder on this machine; made if its parent is there. Used as the job's owner could use it.

    It may lie on a mount whose server is gone: whatever is done there is done in a thread that is left behind when
    nothing is heard of it (see watched), with a handle of its own. TargetError "timeout" then, and "stopped".
    """

    def __init__(
        self, path: Path, owner: int, *, stop: threading.Event | None = None, silence_s: float = SILENCE_S
    ) -> None:
        """NotAllowedError where the owner of the job may not write; OSError where nothing can be done there."""
        self.path = path
        self._owner = owner if os.geteuid() == 0 else os.geteuid()
        self._stop = stop or threading.Event()
        self._silence_s = silence_s
        self._identity: tuple[int, int] | None = None
        self._done(lambda folder, _going: self._know(folder), make=True)

    def _know(self, folder: int) -> None:
        status = os.fstat(folder)
        self._identity = (status.st_dev, status.st_ino)

    def _done(self, work: Callable[[int, Going], Answer], *, make: bool = False) -> Answer:
        """Do it with a handle of the folder."""

        def bounded(going: Going) -> Answer:
            going.on()
            if make and not self.path.exists():
                self._make()
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._demand_ours(handle)
                return work(handle, going)
            finally:
                os.close(handle)

        return watched(str(self.path), bounded, Going(self._stop), self._silence_s)

    def _demand_ours(self, handle: int) -> None:
        """What was looked at first is what is written to, whatever takes the place of its path meanwhile."""
        status = os.fstat(handle)
        if self._identity is not None and self._identity != (status.st_dev, status.st_ino):
            raise NotAllowedError(f"another folder has taken the place of {self.path}")
        _demand_writable(handle, self._owner, self.path)

    def _make(self) -> None:
        parent = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _demand_writable(parent, self._owner, self.path.parent)
            os.mkdir(self.path.name, _FOLDER_MODE, dir_fd=parent)
            if os.geteuid() == 0:
                os.chown(self.path.name, self._owner, -1, dir_fd=parent, follow_symlinks=False)
            os.fsync(parent)
        finally:
            os.close(parent)

    def close(self) -> None:
        """See Place: nothing is held between two calls."""

    def present(self, names: Sequence[str]) -> frozenset[str]:
        """See Place."""
        return self._done(lambda folder, _going: frozenset(name for name in names if _is_taken(folder, name)))

    def same(self, files: Mapping[str, Path]) -> bool:
        """See Place."""
        return self._done(
            lambda folder, going: all(_is_copy(folder, name, source, going) for name, source in files.items())
        )

    def put(self, source: Path, name: str) -> None:
        """See Place. Half of it is never seen under its name: a temporary one, fsync, and a rename."""
        self._done(lambda folder, going: self._put(folder, source, name, going))

    def _put(self, folder: int, source: Path, name: str, going: Going) -> None:
        temporary = f".{name}.publishing"
        _unlink(folder, temporary)  # of a publication that was interrupted
        try:
            self._copy(source, folder, temporary, going)
            _settle(folder, temporary, name, going)
        finally:
            _unlink(folder, temporary)
        os.fsync(folder)

    def _copy(self, source: Path, folder: int, temporary: str, going: Going) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        writing = os.open(temporary, flags, _FILE_MODE, dir_fd=folder)
        with source.open("rb") as reading, os.fdopen(writing, "wb") as file:
            while block := reading.read(BLOCK_BYTES):
                going.on()
                file.write(block)
            with contextlib.suppress(PermissionError):  # of a file system without modes or owners
                os.fchmod(file.fileno(), _FILE_MODE)
                if os.geteuid() == 0:
                    os.fchown(file.fileno(), self._owner, -1)
            file.flush()
            os.fsync(file.fileno())

    def read(self, name: str) -> bytes | None:
        """See Place."""
        return self._done(lambda folder, _going: _content(folder, name))

    def shown(self, name: str) -> str:
        """See Place."""
        return str(self.path / name)


class OnTarget:
    """The folder `published` of a backup target. `stage` is a scratch folder on this machine."""

    def __init__(self, target: Target, stage: Path) -> None:
        """Nothing is asked of the target yet."""
        self._target = target
        self._stage = stage

    def present(self, names: Sequence[str]) -> frozenset[str]:
        """See Place."""
        there = {found.path.removeprefix(f"{ON_TARGET}/") for found in self._target.listing(ON_TARGET)}
        return frozenset(names) & there

    def same(self, files: Mapping[str, Path]) -> bool:
        """See Place."""
        for name, source in files.items():
            self._staged(source, name)
            if self._target.differing(self._stage, ON_TARGET):
                return False
        return True

    def put(self, source: Path, name: str) -> None:
        """See Place. Read back there before it counts."""
        if self.present([name]):
            if self.same({name: source}):
                return
            raise TakenError(name)
        self._staged(source, name)
        self._target.send(self._stage, ON_TARGET)
        if self._target.differing(self._stage, ON_TARGET):
            raise OSError(errno.EIO, f"{self._target.name} returned other bytes than were sent", name)

    def _staged(self, source: Path, name: str) -> None:
        shutil.rmtree(self._stage, ignore_errors=True)
        self._stage.mkdir(parents=True, mode=0o700)
        os.link(source, self._stage / name)

    def read(self, name: str) -> bytes | None:
        """See Place."""
        return self._target.read(f"{ON_TARGET}/{name}")

    def shown(self, name: str) -> str:
        """See Place."""
        return f"{self._target.name}:{ON_TARGET}/{name}"

    def close(self) -> None:
        """See Place: its connection."""
        with closing(self._target):
            pass


# ---- files of a folder, by its handle
def _is_taken(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _unlink(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _settle(folder: int, temporary: str, name: str, going: Going) -> None:
    """Give it its name, unless that is taken: a link is refused then, a rename would replace what is there."""
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        if not _is_copy(folder, name, Path(f"/proc/self/fd/{folder}/{temporary}"), going):
            raise TakenError(name) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if _is_taken(folder, name):
            raise TakenError(name) from None
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def _is_copy(folder: int, name: str, source: Path, going: Going) -> bool:
    """True if a plain file holds the bytes of another one."""
    there = local_files.opened_file(folder, name)
    if there is None:
        return False
    try:
        with source.open("rb") as reading:
            return local_files.same(reading.fileno(), there, going)
    finally:
        os.close(there)


def _content(folder: int, name: str) -> bytes | None:
    """What a small plain file holds; None if nothing has that name, empty if it is something else."""
    handle = local_files.opened_file(folder, name)
    if handle is None:
        return b"" if _is_taken(folder, name) else None
    with os.fdopen(handle, "rb") as file:
        data = file.read(MOST_CARD_BYTES + 1)
    return data if len(data) <= MOST_CARD_BYTES else b""


def _demand_writable(handle: int, uid: int, path: Path) -> None:
    """What a job names is done as its owner could do it: a daemon that is root must not write for them elsewhere."""
    status = os.fstat(handle)
    if uid in {0, status.st_uid}:
        allowed = uid == 0 or status.st_mode & stat.S_IWUSR
    elif status.st_gid in _groups(uid):
        allowed = status.st_mode & stat.S_IWGRP
    else:
        allowed = status.st_mode & stat.S_IWOTH
    if not allowed:
        raise NotAllowedError(f"the owner of the job (uid {uid}) may not write into {path}")


def _groups(uid: int) -> set[int]:
    if uid == os.geteuid():
        return {os.getegid(), *os.getgroups()}
    try:
        person = pwd.getpwuid(uid)
    except KeyError:
        return set()
    return set(os.getgrouplist(person.pw_name, person.pw_gid))
