"""What of a run directory goes into a backup, found by folder handles: no link is ever followed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.core.backups.manifest import MANIFEST
from supervisor.core.checkpoints import TORCH_SUFFIXES
from supervisor.errors import RetryableError
from supervisor.units import format_size

#: A larger file that is no checkpoint is no part of a training (a data set, a core): it is left out, and that is said.
MOST_BYTES = 1024**3
DEEPEST = 64  # folders have handles while what is in them is read
MOST_NOTES = 50
LEDGER_FOLDER = "good"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Temporary names of ours, of editors and of copying programs; caches are made again in seconds.
_PASSING = re.compile(r"\..+\.(new|part|copy)|.+\.(tmp|part|cache|lock|sock|swp)|\.nfs.*", re.DOTALL)
_LOGS = frozenset({"log", "log.1", "results.txt"})
_LOG_SUFFIXES = frozenset({".log", ".jsonl", ".csv", ".wandb"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Seen:
    """A file that goes: its path in the run directory, and what it was like. `blocks` of 512 bytes lie on the disk."""

    path: str
    bytes: int
    mtime_ns: int
    mode: int
    blocks: int


@dataclass
class Collected:
    """All files that go, and, for people, what does not and why."""

    files: list[Seen] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, what: str) -> None:
        """Note it, unless there are far too many such notes already."""
        if len(self.left_out) < MOST_NOTES:
            self.left_out.append(what)
        elif len(self.left_out) == MOST_NOTES:
            self.left_out.append("and more")


def grows(path: str) -> bool:
    """True for files that are only ever appended to: what was there when the copy began is a whole copy."""
    name, _, suffix = _parts(path)
    return name in _LOGS or suffix in _LOG_SUFFIXES or "tfevents" in name


def collect(tree: Tree, checkpoints: Iterable[str], *, ended: bool) -> Collected:
    """Look at everything below a run directory. `checkpoints` are the paths of the trainer's own.

    Of a run that goes on those are left to the ledger, which has verified copies; of one that has `ended` the files
    named best and last go too. Raises OSError where the directory itself cannot be read.
    """
    rules = _Rules(frozenset(checkpoints), ended)
    found = Collected()
    _walk(tree.root, "", rules, found)
    return found


@dataclass(frozen=True)
class _Rules:
    """What stays behind without a word: what is kept elsewhere, is being written, or is made again by itself."""

    checkpoints: frozenset[str]
    ended: bool

    def skips_folder(self, path: str) -> bool:
        parts = path.split("/")
        if len(parts) == 1:  # the ledger's copies go by policy; what an older training left is not of this one
            return parts[0] == LEDGER_FOLDER or parts[0].startswith("before-")
        return len(parts) == 3 and parts[0] == "attempts" and parts[2] == "aside"

    def skips(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        if path == MANIFEST or _PASSING.fullmatch(name):  # a file of that name would hide the snapshot's own
            return True
        return self.is_checkpoint(path) and not (self.ended and is_final(path) and path.startswith("train/"))

    def is_checkpoint(self, path: str) -> bool:
        torch = _parts(path)[2] in TORCH_SUFFIXES and path.startswith(("train/", "attempts/"))
        return torch or path in self.checkpoints


def is_final(path: str) -> bool:
    """True for the two weights that a trainer leaves at its end."""
    _, stem, suffix = _parts(path)
    return stem in {"best", "last"} and suffix in TORCH_SUFFIXES


def _parts(path: str) -> tuple[str, str, str]:
    """Name, stem and suffix; a run may have a hundred thousand files, and pathlib takes its time."""
    name = path.rpartition("/")[2]
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - see above
    return name, stem, suffix


def _walk(folder: int, prefix: str, rules: _Rules, found: Collected) -> None:
    with os.scandir(folder) as entries:
        listed = list(entries)
    for entry in listed:
        path = f"{prefix}{entry.name}"
        if not _is_plain_text(path):
            found.leave_out(f"{path!r}: control characters in its name, or no UTF-8")
        elif entry.is_dir(follow_symlinks=False):
            if not rules.skips_folder(path):
                _enter(folder, entry.name, path, rules, found)
        elif not rules.skips(path):
            _take(entry, path, found)


def _enter(folder: int, name: str, path: str, rules: _Rules, found: Collected) -> None:
    if path.count("/") >= DEEPEST:
        found.leave_out(f"{path}: more than {DEEPEST} folders deep")
        return
    try:
        handle = os.open(name, _FOLDER, dir_fd=folder)
    except OSError as error:  # gone, or not a folder any more, or not ours to read
        if error.errno != errno.ENOENT:
            found.leave_out(f"{path}: {error.strerror}")
        return
    try:
        _walk(handle, f"{path}/", rules, found)
    finally:
        os.close(handle)


def _take(entry: os.DirEntry[str], path: str, found: Collected) -> None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        found.leave_out(f"{path}: a symbolic link")
    elif not stat.S_ISREG(status.st_mode):
        found.leave_out(f"{path}: no plain file")
    elif min(status.st_size, status.st_blocks * 512 if grows(path) else status.st_size) > MOST_BYTES and not is_final(
        path
    ):
        found.leave_out(f"{path}: {format_size(status.st_size)} and no checkpoint")
    else:
        mode = stat.S_IMODE(status.st_mode) & 0o644
        found.files.append(Seen(path, status.st_size, status.st_mtime_ns, mode, status.st_blocks))


def _is_plain_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return not _CONTROL.search(path)


class Tree:
    """Opens files below a run directory by their paths, folder by folder, and follows no link on the way."""

    def __init__(self, runs_dir: Path, project: str, name: str) -> None:
        """Raises FileNotFoundError or NotADirectoryError where there is no such directory, OSError for other trouble.

        An administrator may have put a project on another disk by a link; nobody else's link is followed.
        """
        self._last: tuple[str, int] = ("", -1)  # of the file opened last: the next one lies beside it, mostly
        base = os.open(runs_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            folder = _trusted(base, project)
        finally:
            os.close(base)
        try:
            self.root = _trusted(folder, name)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Give the handles back."""
        self._forget()
        os.close(self.root)

    @contextlib.contextmanager
    def opened(self, path: str) -> Iterator[int]:
        """A plain file, to be read. Raises OSError, also where it is none."""
        folder, _, name = path.rpartition("/")
        handle = os.open(name, _FILE, dir_fd=self.folder(folder))
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise FileNotFoundError(errno.ENOENT, "no plain file", path)
            yield handle
        finally:
            os.close(handle)

    def has(self, path: str) -> bool:
        """True if something has that name, whatever it is. Raises OSError where nobody can say."""
        folder, _, name = path.rpartition("/")
        try:
            os.stat(name, dir_fd=self.folder(folder), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def read(self, path: str, most_bytes: int = 1024 * 1024) -> bytes | None:
        """What a small file holds; None if it is not there. RetryableError if it is larger than it may be."""
        try:
            with self.opened(path) as handle, os.fdopen(os.dup(handle), "rb") as file:
                data = file.read(most_bytes + 1)
        except FileNotFoundError:
            return None
        if len(data) > most_bytes:
            raise RetryableError(f"{path} is far too large")
        return data

    def folder(self, folder: str) -> int:
        """A handle of a folder, ours until the next file of another one is opened."""
        if not folder:
            return self.root
        if self._last[0] != folder:
            self._forget()
            self._last = (folder, _descend(self.root, folder))
        return self._last[1]

    def _forget(self) -> None:
        if self._last[0]:
            os.close(self._last[1])
        self._last = ("", -1)


def _trusted(base: int, name: str) -> int:
    """A handle of a folder; through a link only if it is root's or our own."""
    status = os.stat(name, dir_fd=base, follow_symlinks=False)
    follows = stat.S_ISLNK(status.st_mode) and status.st_uid in {0, os.geteuid()}
    return os.open(name, _FOLDER & ~os.O_NOFOLLOW if follows else _FOLDER, dir_fd=base)


def _descend(base: int, path: str) -> int:
    """A handle of the folder at `path` below `base`."""
    handle = os.dup(base)
    for part in path.split("/"):
        try:
            below = os.open(part, _FOLDER, dir_fd=handle)
        finally:
            os.close(handle)
        handle = below
    return handle
