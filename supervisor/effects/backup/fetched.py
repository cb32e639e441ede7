"""What a target holds, and bringing it back: every file is compared with its sha256 before anybody uses it.

A target may be broken, or in strange hands: a manifest that names a path outside the folder, or says it is another run,
counts as damaged.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import functools
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from supervisor.core.backups.manifest import MANIFEST, STATE_FOLDER, Manifest, Stored, is_snapshot, newest_first
from supervisor.core.backups.manifest import run_folder as run_folder_of
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.hashing import nothing, sha256_of_open

if TYPE_CHECKING:
    from supervisor.effects.backup.targets.base import Target

RUNS_FOLDER = "runs"
FETCHING = ".fetching"  # no project has such a name; what is to be sent is staged elsewhere
LONGEST_PATH = 4096
LARGEST_MANIFEST_BYTES = 256 * 1024 * 1024
BATCH_FILES = 500  # one connection each would be slow, all at once would leave no progress to be seen
BATCH_BYTES = 256 * 1024 * 1024
LEAST_ROOM_BYTES = 64 * 1024 * 1024  # is left free beside what is fetched
MOST_PLACES = 8  # where the same bytes are looked for: a run may have thousands of empty files
SCRATCH_MODE = 0o700

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_STAMP = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
#: Of what a target says about single files: the file is what is wrong, not the way to it.
_OF_A_FILE = frozenset({"failed", "broken", "absent"})


class NoRoomError(Exception):
    """What is to be fetched does not fit on the disk; the text has both numbers."""


# ---- what is there
class Holdings:
    """The snapshots below `runs`, below one run's folder, or of the state, as they were when they were listed."""

    def __init__(self, target: Target, under: str = RUNS_FOLDER) -> None:
        """List what lies below `under`. Raises TargetError."""
        self.target = target
        self.sizes = {found.path: found.bytes for found in target.listing(under)}
        self._snapshots: dict[str, list[str]] = {}
        self._manifests: dict[str, Manifest | None] = {}
        self._data: dict[str, bytes] = {}
        self._by_content: dict[str, dict[tuple[str, int], list[str]]] = {}
        for path in self.sizes:
            folder, _, name = path.removesuffix(f"/{MANIFEST}").rpartition("/")
            if path.endswith(f"/{MANIFEST}") and is_snapshot(name) and _is_folder(folder):
                self._snapshots.setdefault(folder, []).append(name)

    @property
    def folders(self) -> list[str]:
        """Where snapshots lie: `runs/PROJECT/NAME` or `state`, in order."""
        return sorted(self._snapshots)

    def snapshots(self, folder: str) -> list[str]:
        """The names of the whole snapshots there, the newest first."""
        return newest_first(self._snapshots.get(folder, ()))

    def manifests(self, folder: str) -> Iterator[Manifest]:
        """Those that can be read, the newest first; see `damaged`. Raises TargetError."""
        for name in self.snapshots(folder):
            manifest = self.manifest(folder, name)
            if manifest is not None:
                yield manifest

    def newest(self, folder: str) -> Manifest | None:
        """The newest one that can be read. Raises TargetError."""
        return next(self.manifests(folder), None)

    def manifest(self, folder: str, name: str) -> Manifest | None:
        """One snapshot's; None if it is damaged or gone. Raises TargetError."""
        path = f"{folder}/{name}/{MANIFEST}"
        if path not in self._manifests:
            data = self._data.get(path)
            if data is None and self.sizes.get(path, 0) <= LARGEST_MANIFEST_BYTES:
                data = self.target.read(path)
            if data is not None:
                self._data[path] = data
            self._manifests[path] = _decoded(data, folder, name) if data is not None else None
        return self._manifests[path]

    def bytes_of(self, folder: str, name: str) -> bytes | None:
        """A manifest as it stands there, after `manifest` has read it."""
        return self._data.get(f"{folder}/{name}/{MANIFEST}")

    def damaged(self, folder: str) -> list[str]:
        """The manifests there, as paths, that were asked for and could not be read."""
        paths = (f"{folder}/{name}/{MANIFEST}" for name in self.snapshots(folder))
        return [path for path in paths if path in self._manifests and self._manifests[path] is None]

    def read_all(self, scratch: Path) -> None:
        """Fetch all manifests in a few connections instead of one each. Raises TargetError, OSError."""
        paths = [f"{folder}/{name}/{MANIFEST}" for folder in self.folders for name in self.snapshots(folder)]
        wanted = [path for path in paths if path not in self._data and self.sizes[path] <= LARGEST_MANIFEST_BYTES]
        for batch in batches(wanted, lambda path: self.sizes[path], BATCH_BYTES):
            with scratch_folder(scratch):
                with contextlib.suppress(TargetError):  # then each is read alone, and what is wrong is seen
                    self.target.fetch(batch, scratch)
                for path in batch:
                    with contextlib.suppress(OSError):
                        self._data[path] = (scratch / path).read_bytes()

    def places(self, folder: str, file: Stored) -> list[str]:
        """Where the bytes of a file lie: as its manifest says, then where others have the same ones (MOST_PLACES)."""
        if folder not in self._by_content:
            self._by_content[folder] = self._contents(folder)
        own, others = place(folder, file), self._by_content[folder].get((file.sha256, file.bytes), [])
        return [*([own] if self.sizes.get(own) == file.bytes else []), *(path for path in others if path != own)]

    def _contents(self, folder: str) -> dict[tuple[str, int], list[str]]:
        """The places of each content that have its size, the newest manifests' first. Raises TargetError."""
        found: dict[tuple[str, int], list[str]] = {}
        seen: set[str] = set()
        for manifest in self.manifests(folder):
            for file in manifest.files:
                path = place(folder, file)
                known = found.setdefault((file.sha256, file.bytes), [])
                if path not in seen and len(known) < MOST_PLACES and self.sizes.get(path) == file.bytes:
                    known.append(path)
                seen.add(path)
        return found


def place(folder: str, file: Stored) -> str:
    """The path on the target that a manifest names."""
    return f"{folder}/{file.at}/{file.path}"


@functools.lru_cache(maxsize=4096)
def stored_at(snapshot: str) -> float:
    """When a snapshot began, in Unix seconds, by its name; 0 if it does not say."""
    stamp = _STAMP.search(snapshot)
    if stamp is None:
        return 0.0
    try:
        return dt.datetime.strptime(stamp[0], "%Y%m%dT%H%M%S%z").timestamp()
    except ValueError:
        return 0.0


def _is_folder(folder: str) -> bool:
    parts = folder.split("/")
    return folder == STATE_FOLDER or (
        len(parts) == 3 and parts[0] == RUNS_FOLDER and all(_NAME.fullmatch(part) for part in parts[1:])
    )


def _decoded(data: bytes, folder: str, name: str) -> Manifest | None:
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return manifest if _is_sound(manifest, folder, name) else None


def _is_sound(manifest: Manifest, folder: str, name: str) -> bool:
    """True if it says of itself where it lies, and names no path that leads out of a folder."""
    own = STATE_FOLDER if manifest.kind == "state" else run_folder_of(manifest.project, manifest.name)
    files = all(
        is_safe(file.path) and is_snapshot(file.at) and _SHA256.fullmatch(file.sha256) and file.bytes >= 0
        for file in manifest.files
    )
    paths = {file.path for file in manifest.files}
    whole = len(paths) == len(manifest.files) and all(one.path in paths for one in manifest.checkpoints)
    return (own, manifest.snapshot) == (folder, name) and files and whole


def is_safe(path: str) -> bool:
    """True for a relative path that stays below its folder, in its shortest form."""
    parts = path.split("/")
    shortest = not any(part in {"", ".", ".."} for part in parts)
    return shortest and "\0" not in path and len(os.fsencode(path)) <= LONGEST_PATH


def batches(paths: Sequence[str], size: Callable[[str], int], most_bytes: int) -> Iterator[list[str]]:
    """Groups of at most so many bytes and BATCH_FILES files; one that is larger goes alone."""
    batch: list[str] = []
    used = 0
    for path in paths:
        if batch and (used + size(path) > most_bytes or len(batch) >= BATCH_FILES):
            yield batch
            batch, used = [], 0
        batch.append(path)
        used += size(path)
    if batch:
        yield batch


# ---- a folder for what comes
def scratch_of(runs_dir: Path, what: str) -> Callable[[str], Path]:
    """Name a folder by target on the disk of the runs, for one kind of work of which each target does one at a time."""
    return lambda target: runs_dir / FETCHING / target / what


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards, whatever happens; what a crash left there is removed first."""
    remove_tree(path)
    path.mkdir(mode=SCRATCH_MODE, parents=True)
    try:
        yield path
    finally:
        remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a scratch folder. One in the place of which a link stands is left alone. Raises OSError."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "a symbolic link stands in the place of a scratch folder", str(path))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def free_bytes(folder: Path) -> int:
    """What is free on the file system of a folder that may not be there yet. Raises OSError."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def demand_room(folder: Path, needed_bytes: int) -> None:
    """Raise NoRoomError where so much does not fit, with LEAST_ROOM_BYTES left over."""
    free = free_bytes(folder)
    if free < needed_bytes + LEAST_ROOM_BYTES:
        from supervisor.units import format_size

        needed = format_size(needed_bytes + LEAST_ROOM_BYTES)
        raise NoRoomError(f"{needed} are needed under {folder}, {format_size(free)} are free")


# ---- fetching
@dataclass
class Fetched:
    """What came: by path the file, verified. `wrong`: paths that are not to be had, and why."""

    files: dict[str, Path] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)  # paths on the target that are not what was stored


class Fetcher:
    """Fetches files of snapshots into a scratch folder; each is compared with its sha256."""

    def __init__(
        self, holdings: Holdings, scratch: Path, stop: threading.Event | None = None, batch_bytes: int = BATCH_BYTES
    ) -> None:
        """`stop`: no further batch is begun, and TargetError "stopped" is raised."""
        self._holdings = holdings
        self._scratch = scratch
        self._stop = stop or threading.Event()
        self._batch_bytes = batch_bytes

    def fetch(self, folder: str, files: Iterable[Stored]) -> Fetched:
        """Bring these; of a damaged one the same bytes from elsewhere. Raises TargetError, NoRoomError, OSError.

        What lies in the scratch folder already, whole, is not brought again.
        """
        fetched, waiting = Fetched(), dict[str, tuple[Stored, list[str]]]()
        for file in files:
            self.demand_going_on()
            places = self._holdings.places(folder, file)
            waiting[file.path] = (file, places)
            if not places:
                fetched.wrong[file.path] = f"{place(folder, file)} is not there, or not whole"
                fetched.damaged.add(place(folder, file))
        demand_room(self._scratch, self._missing_bytes([one for one in waiting.values() if one[1]]))
        depth = 0
        while left := {path: one for path, one in waiting.items() if path not in fetched.files and len(one[1]) > depth}:
            self._one_round(left, depth, fetched)
            depth += 1
        return fetched

    def _missing_bytes(self, waiting: Iterable[tuple[Stored, list[str]]]) -> int:
        """How much more has to lie in the scratch folder than does."""
        return sum(file.bytes for file, places in waiting if _size(self._scratch / places[0]) != file.bytes)

    def _one_round(self, left: dict[str, tuple[Stored, list[str]]], depth: int, fetched: Fetched) -> None:
        """Fetch each file from its place number `depth`."""
        by_place: dict[str, list[Stored]] = {}
        for file, places in left.values():
            by_place.setdefault(places[depth], []).append(file)
        for batch in batches(list(by_place), lambda path: by_place[path][0].bytes, self._batch_bytes):
            self.demand_going_on()
            lacking = [path for path in batch if not self._is_here(path, by_place[path][0])]
            problems = bring(self._holdings.target, lacking, self._scratch) if lacking else {}
            for path in batch:
                problem = "" if path not in lacking else problems.get(path) or self._problem(path, by_place[path][0])
                self._judge(path, by_place[path], problem, fetched)

    def _is_here(self, path: str, file: Stored) -> bool:
        """True if an earlier try brought it whole."""
        return _size(self._scratch / path) == file.bytes and not self._problem(path, file)

    def _problem(self, path: str, file: Stored) -> str:
        return difference(self._scratch / path, file, self.demand_going_on)

    def _judge(self, path: str, files: list[Stored], problem: str, fetched: Fetched) -> None:
        """Take what was brought from one place, if there is no `problem` with it."""
        for number, file in enumerate(files):
            if problem:
                fetched.wrong[file.path] = f"{path} {problem}"
                fetched.damaged.add(path)
                continue
            source = self._scratch / path
            if number:  # two of the same content: each is moved to its own place later
                source = Path(shutil.copyfile(source, source.with_name(f"{source.name}.{number}")))
            fetched.files[file.path] = source
            fetched.wrong.pop(file.path, None)
        if problem:
            (self._scratch / path).unlink(missing_ok=True)

    def demand_going_on(self) -> None:
        """Raise TargetError "stopped" once that was asked for."""
        if self._stop.is_set():
            raise TargetError("stopped", "interrupted by the end of the daemon")


def bring(target: Target, paths: Sequence[str], into: Path) -> dict[str, str]:
    """Fetch files; what is wrong with single ones. Raises TargetError where it is the target's trouble, OSError."""
    try:
        target.fetch(paths, into)
    except TargetError as error:
        if error.cause not in _OF_A_FILE:
            raise
        if len(paths) == 1:
            return {paths[0]: f"could not be fetched: {error}"}
        return {path: said for one in paths for path, said in bring(target, [one], into).items()}
    return {}


def difference(path: Path, file: Stored, step: Callable[[], None] = nothing) -> str:
    """What is wrong with a file that was fetched; empty if nothing is. Raises OSError where it cannot be read.

    `step` is called before each block and may raise.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return "is no plain file"
    try:
        return difference_of_open(handle, file, step)
    finally:
        os.close(handle)


def difference_of_open(handle: int, file: Stored, step: Callable[[], None] = nothing) -> str:
    """As `difference`, of an open file."""
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        return "is no plain file"
    if status.st_size != file.bytes:
        return f"has {status.st_size} bytes, not {file.bytes}"
    return "" if sha256_of_open(handle, step) == file.sha256 else "has other bytes than were stored"


def _size(path: Path) -> int:
    """The size of a plain file; -1 where there is none."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1
