"""Fetch what a run lacks from its newest backup, so that the next preparation finds it: copies, table, old attempts.

Nothing that is there is replaced but a table with fewer epochs (kept aside) and a copy in the ledger that is not whole.
The fence token is read before each write: of a run that was taken over meanwhile nothing is touched.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from supervisor import layout, trainers
from supervisor.core.actions import Restore
from supervisor.core.backups.manifest import Manifest, Stored, run_folder
from supervisor.core.checkpoints import TORCH_SUFFIXES
from supervisor.core.events import Restored
from supervisor.core.ledger import Entry, Ledger, run_number, usable
from supervisor.effects import checkpoints, ledger
from supervisor.effects.backup import drill, fetched, placing, refill
from supervisor.effects.backup.fetched import Fetcher, Holdings
from supervisor.effects.backup.lasting import KEPT_S, forget_old, lasting_folder, lasting_of
from supervisor.effects.backup.targets.base import TargetError
from supervisor.errors import RetryableError
from supervisor.trainers.results_csv import read_table

if TYPE_CHECKING:
    from supervisor.effects.backup.targets.base import Target

AGAIN_S = 30.0
PART_BYTES = 1024**3
MOST_TOLD = 5
#: Beside attempts/ and train/: what a new start would not make anew, or not the same.
ALSO = ("cadence.json", "start.pt")
#: Of an attempt: its lock is the shim's, and a last save is in the ledger or was none.
NEVER_OF_AN_ATTEMPT = frozenset({"shim.lock", "final.pt"})


class _Stale(Exception):  # noqa: N818 - read as a word: raise _Stale
    """The run directory belongs to another attempt."""


class _Fence(msgspec.Struct):
    token: int


@dataclass
class _Work:
    """One restore from one manifest."""

    action: Restore
    run_dir: layout.RunDirectory
    manifest: Manifest
    fetcher: Fetcher
    notes: list[str] = field(default_factory=list)
    files: int = 0

    @property
    def folder(self) -> str:
        """Where it lies on the target."""
        return run_folder(self.action.job.project, self.action.job.name)

    @cached_property
    def by_path(self) -> dict[str, Stored]:
        """The files of the manifest."""
        return {file.path: file for file in self.manifest.files}

    def demand_ours(self) -> None:
        """Raise _Stale unless the directory holds the token of the order."""
        try:
            holder = msgspec.json.decode(self.run_dir.token.read_bytes(), type=_Fence).token
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError, UnicodeDecodeError):
            holder = -1
        if holder != self.action.token:
            raise _Stale(f"{self.run_dir.root} belongs to another attempt by now")

    def bring(self, paths: list[str]) -> dict[str, tuple[Stored, Path]]:
        """Fetch files of the manifest, as far as they are to be had; the rest becomes notes."""
        wanted = [file for path in paths if (file := self.by_path.get(path)) is not None]
        got = self.fetcher.fetch(self.folder, wanted)
        self.notes += list(got.wrong.values())
        return {file.path: (file, got.files[file.path]) for file in wanted if file.path in got.files}


class Restorer:
    """Carries out Restore. Doing it twice does no harm."""

    def __init__(
        self,
        runs_dir: Path,
        scratch_of: Callable[[str], Path],
        open_target: Callable[[str], Target],
        now: Callable[[], float],
        *,
        stop: threading.Event | None = None,
    ) -> None:
        """`scratch_of` names, by target, a folder on the disk of the runs that is used and removed.

        But what has come stays there for the next try where the target broke off.
        """
        self._runs_dir = runs_dir
        self._scratch_of = scratch_of
        self._open_target = open_target
        self._now = now
        self._stop = stop or threading.Event()

    def __call__(self, action: Restore) -> tuple[Restored, ...]:
        """Answer with Restored. RetryableError while there is no room, or the daemon ends."""
        try:
            return (self._restored(action),)
        except TargetError as error:
            if error.cause == "stopped":
                raise RetryableError(str(error), AGAIN_S) from error
            return (self._told(action, ok=False, text=str(error), cause=error.cause),)
        except fetched.NoRoomError as error:  # what lies there is worth more than an older checkpoint: it waits
            raise RetryableError(str(error), AGAIN_S) from error
        except _Stale as error:
            return (self._told(action, ok=False, text=str(error)),)

    def _told(
        self, action: Restore, *, ok: bool, text: str, epoch: int = 0, files: int = 0, cause: str = ""
    ) -> Restored:
        return Restored(
            at=self._now(), origin="backup", run=action.run, target=action.target, ok=ok, text=text, epoch=epoch,
            files=files, cause=cause,
        )  # fmt: skip

    def _restored(self, action: Restore) -> Restored:
        run_dir = layout.run_directory(self._runs_dir, action.job.project, action.job.name)
        folder = run_folder(action.job.project, action.job.name)
        holdings = Holdings(self._open_target(action.target), folder)
        scratch, notes = self._scratch_of(action.target), list[str]()
        forget_old(scratch, time.time() - KEPT_S)
        for manifest in holdings.manifests(folder):
            if not _helps(action, manifest):
                continue
            with lasting_folder(lasting_of(scratch, action.run)) as scratch_here:
                work = _Work(action, run_dir, manifest, Fetcher(holdings, scratch_here, self._stop))
                epoch = _restore(work)
            if epoch > action.beyond:
                text = "; ".join([f"{work.files} files came from {manifest.snapshot}", *_told(work.notes)])
                return self._told(action, ok=True, text=text, epoch=epoch, files=work.files)
            notes += work.notes
        text = f"no backup there has a whole checkpoint after epoch {action.beyond}"
        return self._told(action, ok=False, text="; ".join([text, *_told([*notes, *holdings.damaged(folder)])]))


def _told(notes: list[str]) -> list[str]:
    more = [f"and {len(notes) - MOST_TOLD} more"] if len(notes) > MOST_TOLD else []
    return [*notes[:MOST_TOLD], *more]


def _helps(action: Restore, manifest: Manifest) -> bool:
    """True for a backup of this run, or of one before it that ran the same job, with a newer checkpoint.

    What another job of that name left is of no use.
    """
    same = manifest.run == action.run or (
        manifest.revision == action.job.revision and run_number(manifest.run) <= run_number(action.run)
    )
    return same and any(one.epoch > action.beyond for one in manifest.checkpoints)


def _restore(work: _Work) -> int:
    """Bring back what is lacking; the newest epoch that the ledger has then, 0 if no checkpoint came."""
    work.demand_ours()
    kept = _restore_checkpoints(work)
    epoch = next((entry.epoch for entry in usable(kept)), 0) if kept is not None else 0
    if epoch > work.action.beyond:
        first = not any(work.run_dir.root.glob("attempts/*/started.json"))
        _restore_missing(work)
        if not work.run_dir.train.is_symlink():  # an adopted folder is a person's
            _restore_tables(work, epoch)
            _restore_best(work)
        if first:
            _restore_mark(work)
    return epoch


# ---- checkpoints
def _restore_checkpoints(work: _Work) -> Ledger | None:
    """Those that the run needs to go on, through the ledger; None if none is whole. What it has whole stays."""
    brought = work.bring([refill.RECORD] if refill.RECORD in work.by_path else [])
    recorded = refill.decoded(brought[refill.RECORD][1] if brought else None)
    entries = refill.entries_of(work.manifest, recorded)
    needed = refill.needed(entries, recorded, work.action.job.checkpoints)
    own = ledger.read(work.run_dir)
    lacking = [path for path in needed if not refill.is_there(work.run_dir, own, entries[path])]
    whole = list(_whole(work, entries, work.bring(lacking)))
    if not whole:
        return own if len(lacking) < len(needed) else None
    with ledger.exclusive(work.run_dir):
        work.demand_ours()
        full = refill.enter(work.run_dir, whole, recorded, work.action.run)
    work.files += len(whole)
    return full


def _whole(
    work: _Work, entries: dict[str, Entry], got: dict[str, tuple[Stored, Path]]
) -> Iterator[tuple[Entry, Stored, Path]]:
    """What is inside is what the manifest says; the others become notes."""
    wanted = {one.path: one for one in work.manifest.checkpoints}
    seen = checkpoints.look([path for _, path in got.values()], finite=True)
    for (path, (file, place)), found in zip(got.items(), seen, strict=True):
        problem = drill.difference(wanted[path], found)
        if problem:
            work.notes.append(f"{path}: {problem}")
        else:
            yield entries[path], file, place


def _restore_best(work: _Work) -> None:
    """A trainer validates best.pt at its end: the best copy takes the place of one that is gone."""
    job, run_dir = work.action.job, work.run_dir
    place = trainers.trainer_for(job).place(job, run_dir)
    if place is None or (best := place.with_name("best.pt")).exists():
        return
    entries = [one for one in usable(ledger.read(run_dir)) if one.map50_95 is not None]
    if not entries:
        return
    work.demand_ours()
    chosen = max(entries, key=lambda one: (one.map50_95 or 0.0, one.epoch))
    best.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.put_in_place(ledger.path_of(run_dir, chosen), best, run_dir.attempt(work.action.attempt).aside)
    work.files += 1


# ---- everything else
def _restore_missing(work: _Work) -> None:
    """Files of older attempts, and of the trainer: only where nothing of that name is.

    A part at a time: so much must be free besides, not once more all of it.
    """
    root = work.run_dir.root
    paths = [file.path for file in work.manifest.files if _is_wanted(file.path, work)]
    missing = [path for path in paths if not (root / path).exists() and not (root / path).is_symlink()]
    for part in fetched.batches(missing, lambda path: work.by_path[path].bytes, PART_BYTES):
        for path, (file, place) in work.bring(part).items():
            work.demand_ours()
            try:
                work.files += placing.put_in_place(place, root, file)
            except OSError as error:
                work.notes.append(f"{path} could not be put back: {error.strerror or error}")


def _is_wanted(path: str, work: _Work) -> bool:
    parts = path.split("/")
    if parts[0] == "attempts" and len(parts) > 2:
        older = parts[1].isascii() and parts[1].isdigit() and int(parts[1]) < work.action.attempt
        return older and not (len(parts) == 3 and parts[2] in NEVER_OF_AN_ATTEMPT)
    if parts[0] == work.run_dir.train.name:
        return Path(path).suffix not in TORCH_SUFFIXES and not work.run_dir.train.is_symlink()
    return path in ALSO


def _restore_tables(work: _Work, epoch: int) -> None:
    """The table of epochs where the run's own one lacks rows; what stood there is kept aside."""
    job, run_dir = work.action.job, work.run_dir
    for table in trainers.trainer_for(job).tables(job, run_dir):
        if not table.is_relative_to(run_dir.root) or not table.is_file():
            continue  # a missing one came back with all that was missing
        name = str(table.relative_to(run_dir.root))
        for _, place in work.bring([name]).values():
            if _rows(place, epoch) > _rows(table, epoch):
                work.demand_ours()
                checkpoints.put_in_place(place, table, run_dir.attempt(work.action.attempt).aside)
                work.files += 1


def _rows(table: Path, epoch: int) -> int:
    return sum(number <= epoch for number in read_table(table).rows)


def _restore_mark(work: _Work) -> None:
    """The word by which the loggers know this training: nothing was logged yet under the one made just now."""
    for file, place in work.bring([work.run_dir.mark.name]).values():
        work.demand_ours()
        work.files += placing.put_in_place(place, work.run_dir.root, file, over=True)
