"""Look at the run directories: what lies there, whose it is, and what the ledger and the backups have of it.

Nothing is changed. Everything is read through handles, so that no link leads the look elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import msgspec

from supervisor.core.checkpoints import GOES_ON, TORCH_SUFFIXES
from supervisor.core.ledger import Entry, Ledger, usable
from supervisor.core.model import World
from supervisor.core.outlook import map50_95
from supervisor.core.retention import IN_NO_BACKUP, FileFacts, RunFacts
from supervisor.effects.prune import handles, proof, standing
from supervisor.effects.prune.handles import Identity, UnsafeError
from supervisor.effects.prune.proof import Proof
from supervisor.effects.prune.standing import Standing
from supervisor.trainers.weights_folder import EPOCH_FILE

TOKEN = "token"  # noqa: S105 - a file's name
LEDGER = ("good", "ledger.json")
_COPY = re.compile(r"(?:epoch|save)\d{1,9}-attempt\d{1,9}(?:\.\w{1,16})?", re.ASCII)
_BLOCK_BYTES = 4 * 1024 * 1024
WEIGHTS = ("train", "weights")


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """What of the fence token is needed here: it marks the directory as ours."""

    token: int
    run: str


@dataclass(frozen=True)
class Listed:
    """A file as it was when somebody looked."""

    path: str
    bytes: int
    identity: Identity


@dataclass(frozen=True)
class Seen:
    """A directory: its facts, and what must still be so when something of it is moved.

    `marker`: the bytes of its fence token; of a foreign run a digest of all that lies there. `proof`: what its backups
    hold; None where none is configured.
    """

    facts: RunFacts
    parts: tuple[str, ...]
    identity: Identity = (0, 0)
    marker: bytes = b""
    files: tuple[Listed, ...] = ()
    copy: Entry | None = None
    proof: Proof | None = None


@dataclass(frozen=True)
class Look:
    """One look at all directories below `root`, a handle of `runs_dir`, in `world`; `open` is what is in use."""

    root: int
    runs_dir: Path
    state_dir: Path
    world: World
    open: frozenset[Identity]

    def all(self) -> Iterator[Seen]:
        """Each directory of a run that is there."""
        for found in standing.all_of(self.world):
            seen = self.one(found)
            if seen is not None:
                yield seen

    def one(self, found: Standing) -> Seen | None:
        """The directory of some runs; None if there is none. What cannot be looked at has a hindrance."""
        try:
            with handles.below(self.root, found.project, found.name) as folder:
                return self._seen(found, folder)
        except FileNotFoundError:
            return None
        except (OSError, UnsafeError) as error:
            return Seen(
                self._facts(found, hindrance=f"cannot be looked at: {said(error)}"), (found.project, found.name)
            )

    def _seen(self, found: Standing, folder: int) -> Seen:
        listing = handles.walk(folder)
        marker = handles.read(folder, TOKEN) or b""
        ledger = read_ledger(folder)
        copies = verified(folder, ledger)
        hindrance = marker_problem(marker, found) or ("" if found.live else self._hindrance(found, folder))
        backups = self._proof(found)
        facts = self._facts(found, hindrance=hindrance, ledger=ledger, copies=copies)
        facts = msgspec.structs.replace(
            facts,
            covered=facts.covered and backups is not None and backups.ended,
            has_copy=backups is not None and backups.has_copy,
            lacking=lacking(backups, listing, copies) if backups is not None else "",
            bytes=sum(handles.apparent(status) for _, status in listing),
            open=any((status.st_dev, status.st_ino) in self.open for _, status in listing),
            files=tuple(self._weights(listing, copies, backups or Proof())),
        )
        files = tuple(
            Listed(path, handles.apparent(status), (status.st_dev, status.st_ino))
            for path, status in listing
            if not stat.S_ISDIR(status.st_mode)
        )
        newest = max(copies, key=lambda entry: (entry.epoch, entry.kept_at), default=None)
        return Seen(facts, (found.project, found.name), handles.identity(folder), marker, files, newest, backups)

    def _proof(self, found: Standing) -> Proof | None:
        run = found.worked
        return proof.of(self.state_dir, self.world, run) if standing.is_backed_up(self.world, run) else None

    def _hindrance(self, found: Standing, folder: int) -> str:
        return locked(folder) or standing.needed(self.world, found, self.runs_dir / found.project / found.name)

    def _facts(
        self, found: Standing, *, hindrance: str, ledger: Ledger | None = None, copies: tuple[Entry, ...] = ()
    ) -> RunFacts:
        world, run, worked = self.world, found.live or found.newest, found.worked
        epoch = max((entry.epoch for entry in copies), default=0)
        return RunFacts(
            id=run.id,
            project=found.project,
            name=found.name,
            phase=run.phase.value,
            tags=run.job.tags,
            ended_at=run.phase_since,
            metric=_metric(worked.progress.metrics, ledger or Ledger()),
            live=found.live is not None,
            finished=found.newest.phase.value == "SUCCEEDED",
            starting=found.starting,
            backup_configured=standing.is_backed_up(world, worked),
            covered=standing.is_covered(world, worked, epoch),
            archived=found.newest.archived,
            hindrance=hindrance,
        )

    def _weights(
        self, listing: list[tuple[str, os.stat_result]], copies: tuple[Entry, ...], backups: Proof
    ) -> Iterator[FileFacts]:
        backed = backups.of_copies(copies, LEDGER[0])
        for path, status in listing:
            folder, _, name = path.rpartition("/")
            if not stat.S_ISREG(status.st_mode) or not is_weights(folder, name):
                continue
            number = number_of(path)
            yield FileFacts(
                path=path,
                bytes=status.st_size,
                number=number,
                mtime=status.st_mtime,
                superseded=number is not None and supersedes(copies, number, status.st_mtime_ns),
                backed=number is not None and supersedes(backed, number, status.st_mtime_ns),
                held=backups.may_have(path, status.st_size),
                open=(status.st_dev, status.st_ino) in self.open,
            )


def is_weights(folder: str, name: str) -> bool:
    """True for the ledger's copies and for the trainer's own files: what an archived run does not have."""
    if folder == LEDGER[0]:
        return _COPY.fullmatch(name) is not None
    return folder == "/".join(WEIGHTS) and name.endswith(".pt")


def number_of(path: str) -> int | None:
    """The N of an epochN.pt of the trainer's, else None."""
    folder, _, name = path.rpartition("/")
    found = EPOCH_FILE.fullmatch(name) if folder == "/".join(WEIGHTS) else None
    return int(found[1]) if found else None


def guarded(listing: Iterable[tuple[str, os.stat_result]]) -> Iterator[tuple[str, int]]:
    """Path and size of the weights that go with a directory only if a backup has them.

    Not those whose training a verified copy stands for: what the ledger keeps, and epochN.pt.
    """
    for path, status in listing:
        folder, _, name = path.rpartition("/")
        stood_for = number_of(path) is not None or (folder == LEDGER[0] and is_weights(folder, name))
        if (
            stat.S_ISREG(status.st_mode)
            and status.st_size
            and PurePath(name).suffix in TORCH_SUFFIXES
            and not stood_for
        ):
            yield path, status.st_size


def lacking(backups: Proof, listing: Sequence[tuple[str, os.stat_result]], copies: Sequence[Entry]) -> str:
    """The path of weights that would be lost with the directory; empty if there are none. No content is looked at."""
    newest = max(copies, key=lambda entry: (entry.epoch, entry.kept_at), default=None)
    if newest is not None and not backups.of_copies([newest], LEDGER[0]):
        return f"{LEDGER[0]}/{newest.file}"
    bare = next((path for path, size in guarded(listing) if not backups.may_have_content(size)), "")
    return bare or backups.left_out(path for path, _ in listing)


def supersedes(copies: tuple[Entry, ...], number: int, mtime_ns: int) -> bool:
    """True if a verified copy has as many epochs as epochN.pt (N counts from 0), and is not older."""
    return any(entry.epoch > number and entry.source_mtime_ns >= mtime_ns for entry in copies)


def _metric(metrics: dict[str, float], ledger: Ledger) -> float | None:
    known = [map50_95(metrics), *(entry.map50_95 for entry in ledger.entries)]
    return max((one for one in known if one is not None and math.isfinite(one)), default=None)


def said(error: Exception) -> str:
    """An error in a few words."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


# ---- what of a directory is asked again just before anything is moved
def marker_problem(marker: bytes, found: Standing) -> str:
    """Why a directory is not taken as that of these runs; empty if it is."""
    if not marker:
        return "not marked as ours: it has no token file"
    try:
        token = msgspec.json.decode(marker, type=Marker)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "its token file is damaged: nobody knows whose it is"
    if token.run not in found.ids:
        return f"its token names {token.run[:80]!r}, which is no run of this name"
    return "its token is newer than the journal: another daemon may hold it" if token.token > found.token else ""


def locked(folder: int) -> str:
    """Which attempt still has processes; empty if none has."""
    try:
        with handles.below(folder, "attempts") as attempts:
            for name in handles.names(attempts):
                if _is_locked(attempts, name):
                    return f"attempt {name} still has processes"
    except FileNotFoundError:
        return ""
    return ""


def _is_locked(attempts: int, name: str) -> bool:
    """As attempt_files.lock_is_free, by handle. The shared lock is held for microseconds, which a shim survives."""
    try:
        with handles.below(attempts, name) as attempt, handles.plain_file(attempt, "shim.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False


def read_ledger(folder: int) -> Ledger:
    """The record as it stands; an empty one if it is missing or damaged. Raises OSError, UnsafeError."""
    try:
        with handles.below(folder, LEDGER[0]) as good:
            data = handles.read(good, LEDGER[1])
        return msgspec.json.decode(data, type=Ledger) if data else Ledger()
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return Ledger()


def verified(folder: int, ledger: Ledger) -> tuple[Entry, ...]:
    """The copies that the present line can go on from, and that are there in their size."""
    entries = [entry for entry in usable(ledger) if entry.epoch and entry.state in GOES_ON]
    if not entries:
        return ()
    try:
        with handles.below(folder, LEDGER[0]) as good:
            return tuple(entry for entry in entries if _COPY.fullmatch(entry.file) and _has_size(good, entry))
    except FileNotFoundError:
        return ()


def _has_size(good: int, entry: Entry) -> bool:
    status = handles.look(good, entry.file)
    return status is not None and stat.S_ISREG(status.st_mode) and status.st_size == entry.size_bytes


def is_sound(folder: int, entry: Entry) -> bool:
    """True if a copy is bit by bit what was entered. Raises OSError, UnsafeError."""
    return _content(folder, f"{LEDGER[0]}/{entry.file}")[1] == entry.sha256


def demand_held(folder: int, path: str, backups: Proof | None) -> None:
    """Raise UnsafeError if a file's content is not what the backups have at its path. Raises OSError."""
    if backups is None or not backups.has(path, *_content(folder, path)):
        raise UnsafeError(IN_NO_BACKUP)


def demand_nothing_is_lost(folder: int, backups: Proof) -> None:
    """Raise UnsafeError if weights would go with the directory that the backups have not. Raises OSError."""
    for path, _ in guarded(handles.walk(folder)):
        if not backups.has_content(*_content(folder, path)):
            raise UnsafeError(f"{path} is in no backup")


def _content(folder: int, path: str) -> tuple[int, str]:
    """Size and sha256 of a plain file."""
    *folders, name = path.split("/")
    digest, block, size = hashlib.sha256(), memoryview(bytearray(_BLOCK_BYTES)), 0
    with handles.below(folder, *folders) as parent, handles.plain_file(parent, name) as file:
        while count := os.readv(file, [block]):
            digest.update(block[:count])
            size += count
    return size, digest.hexdigest()
