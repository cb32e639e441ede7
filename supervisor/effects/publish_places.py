"""Where published weights go: a folder that people share, or a backup target. Nothing is ever overwritten there."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from supervisor.effects.backup.targets.base import Target
from supervisor.effects.private_copy import sha256_of

#: The folder on a backup target, below that of the server.
ON_TARGET = "published"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755


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
        """What a small file holds; None if it is not there."""

    def shown(self, name: str) -> str:
        """Where it lies, for people."""

    def close(self) -> None:
        """Give back what is held."""


class Folder:
    """A folder on this machine; made if its parent is there. Used as the job's owner could use it."""

    def __init__(self, path: Path, owner: int) -> None:
        """NotAllowedError where the owner of the job may not write; OSError where nothing can be done there."""
        self.path = path
        self._owner = owner if os.geteuid() == 0 else os.geteuid()
        if not path.exists():
            self._make()
        self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _demand_writable(self._handle, self._owner, path)
        except BaseException:
            os.close(self._handle)
            raise
        #: What was looked at is what is written to, whatever takes the place of its path meanwhile.
        self._base = Path(f"/proc/self/fd/{self._handle}")

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
        """See Place."""
        os.close(self._handle)

    def present(self, names: Sequence[str]) -> frozenset[str]:
        """See Place."""
        return frozenset(name for name in names if os.path.lexists(self._base / name))

    def same(self, files: Mapping[str, Path]) -> bool:
        """See Place."""
        return all(_is_copy(self._base / name, source) for name, source in files.items())

    def put(self, source: Path, name: str) -> None:
        """See Place. Half of it is never seen under its name: a temporary one, fsync, and a rename."""
        temporary = self._base / f".{name}.publishing"
        temporary.unlink(missing_ok=True)  # of a publication that was interrupted
        try:
            self._copy(source, temporary)
            self._settle(temporary, name)
        finally:
            temporary.unlink(missing_ok=True)
        os.fsync(self._handle)

    def _copy(self, source: Path, temporary: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with source.open("rb") as reading, os.fdopen(os.open(temporary, flags, _FILE_MODE), "wb") as writing:
            shutil.copyfileobj(reading, writing, 4 * 1024 * 1024)
            with contextlib.suppress(PermissionError):  # of a file system without modes or owners
                os.fchmod(writing.fileno(), _FILE_MODE)
                if os.geteuid() == 0:
                    os.fchown(writing.fileno(), self._owner, -1)
            writing.flush()
            os.fsync(writing.fileno())

    def _settle(self, temporary: Path, name: str) -> None:
        """Give it its name, unless that is taken: a link is refused then, a rename would replace what is there."""
        final = self._base / name
        try:
            os.link(temporary, final, follow_symlinks=False)
        except FileExistsError:
            if not _is_copy(final, temporary):
                raise TakenError(name) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(final):
                raise TakenError(name) from None
            temporary.rename(final)

    def read(self, name: str) -> bytes | None:
        """See Place."""
        try:
            return (self._base / name).read_bytes()
        except FileNotFoundError:
            return None

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
        """See Place: nothing is held between two calls."""


def _is_copy(path: Path, source: Path) -> bool:
    """True if a plain file holds the bytes of another one."""
    try:
        status = path.lstat()
        return (
            stat.S_ISREG(status.st_mode)
            and status.st_size == source.stat().st_size
            and sha256_of(path) == sha256_of(source)
        )
    except FileNotFoundError:
        return False


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
