"""Runs of Ultralytics that were never ours, in folders that the user named in [prune] folders.

Only what is surely such a run, finished and at rest is ever taken: args.yaml, results.csv and a folder weights whose
last.pt was stripped by the trainer, nothing changed for a day, no process at work. Anything else is not even listed,
or stays with its reason. No backup is: not one of ours, nor one of another server.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from supervisor.core.backups.manifest import MANIFEST, is_snapshot
from supervisor.core.model import World
from supervisor.core.outlook import map50_95
from supervisor.core.retention import RunFacts
from supervisor.effects import checkpoints, live_trainings
from supervisor.effects.backup.ownership import OWNER
from supervisor.effects.prune import handles
from supervisor.effects.prune.handles import Identity, UnsafeError
from supervisor.effects.prune.look import Listed, Seen, said
from supervisor.errors import RetryableError
from supervisor.trainers.results_csv import read_table

TRASH = ".yolo-supervisor-trash"
REST_S = 86400.0
SEARCH_DEPTH = 4
SEARCH_FOLDERS = 5000
_MARKS = ("args.yaml", "results.csv")
_WEIGHTS, _LAST = "weights", "last.pt"


@dataclass(frozen=True)
class Search:
    """One look at all runs below `root`, a handle of `path`; `open` is what is in use."""

    root: int
    path: Path
    world: World
    open: frozenset[Identity]
    now: float
    closed: frozenset[Path] = frozenset()

    def all(self) -> Iterator[Seen]:
        """Each run that is there. A run lies in no other run, and none in the folders that are `closed`.

        Raises UnsafeError where the whole folder is.
        """
        for above in (self.path, *self.path.parents):
            if above in self.closed:
                raise UnsafeError("backups or published weights lie there: no foreign run is looked for")
            if os.path.lexists(above / OWNER):
                raise UnsafeError(f"it lies in a backup: {above / OWNER}")
        for parts in _runs_below(self.root, self.path, self.closed):
            with suppress(FileNotFoundError):
                yield self._one(parts)

    def _one(self, parts: tuple[str, ...]) -> Seen:
        try:
            with handles.below(self.root, *parts) as folder:
                return self._seen(parts, folder)
        except FileNotFoundError:
            raise
        except (OSError, UnsafeError, RetryableError) as error:
            return Seen(self._facts(parts, hindrance=f"cannot be looked at: {said(error)}"), parts)

    def _seen(self, parts: tuple[str, ...], folder: int) -> Seen:
        listing = handles.walk(folder)
        changed_at = max(status.st_mtime for _, status in listing)
        facts = msgspec.structs.replace(
            self._facts(parts, hindrance=self._hindrance(parts, folder, changed_at)),
            ended_at=changed_at,
            metric=_metric(folder),
            bytes=sum(handles.apparent(status) for _, status in listing),
            open=any((status.st_dev, status.st_ino) in self.open for _, status in listing),
        )
        files = tuple(
            Listed(path, handles.apparent(status), (status.st_dev, status.st_ino))
            for path, status in listing
            if not stat.S_ISDIR(status.st_mode)
        )
        return Seen(facts, parts, handles.identity(folder), _digest(listing), files)

    def _facts(self, parts: Sequence[str], *, hindrance: str) -> RunFacts:
        name = "/".join(parts)
        return RunFacts(
            id=f"{self.path}/{name}",
            project=str(self.path),
            name=name,
            phase="foreign",
            finished=True,
            hindrance=hindrance,
        )

    def _hindrance(self, parts: tuple[str, ...], folder: int, changed_at: float) -> str:
        if self.now - changed_at < REST_S:
            return "it changed within the last day"
        directory = self.path.joinpath(*parts)
        for run in self.world.live.values():
            if str(directory) in msgspec.json.encode(run.job).decode():
                return f"{run.name}, which has not ended, names it"
        return _unfinished(folder)


def demand_same(seen: Seen, folder: int, path: Path) -> None:
    """Raise UnsafeError if a foreign run has changed since it was looked at, or somebody works in it."""
    if _digest(handles.walk(folder)) != seen.marker:
        raise UnsafeError("it has changed just now")
    worker = live_trainings.at_work(path.joinpath(*seen.parts))
    if worker is not None:
        raise UnsafeError(f"process {worker[0].pid} {worker[1]}")


def _digest(listing: Sequence[tuple[str, os.stat_result]]) -> bytes:
    """What changes with any file there: a clock that was set back must not hide it."""
    said_of = [(path, status.st_ino, status.st_size, status.st_mtime_ns) for path, status in listing]
    return hashlib.sha256(msgspec.json.encode(said_of)).digest()


def closed(path: Path, named: Path, backups: Iterable[Path], world: World) -> frozenset[Path]:
    """The folders of backups and of published weights, as they are called below `path`, which the user `named` so.

    By their names only: a look at a network disk that is gone may never return.
    """
    runs = (*tuple(world.live.values()), *tuple(world.ended.values()))
    published = {Path(run.job.publish.to) for run in runs if run.job.publish is not None}
    places = {Path(os.path.normpath(one)) for one in (*backups, *published) if one.is_absolute()}
    spelled = Path(os.path.normpath(named))
    below = {path / one.relative_to(spelled) for one in places if one.is_relative_to(spelled)}
    return frozenset(places | below | ({path} if any(spelled.is_relative_to(one) for one in places) else set()))


def _runs_below(root: int, path: Path, closed: frozenset[Path]) -> Iterator[tuple[str, ...]]:
    """The folders that look like a run, breadth first and not without end; no link is followed."""
    level: list[tuple[str, ...]] = [()]
    count = 0
    for _ in range(SEARCH_DEPTH + 1):
        deeper: list[tuple[str, ...]] = []
        for parts in level:
            count += 1
            if count > SEARCH_FOLDERS:
                return
            if path.joinpath(*parts) in closed or (parts and is_snapshot(parts[-1])):
                continue
            with suppress(OSError, UnsafeError), handles.below(root, *parts) as folder:
                if any(handles.look(folder, name) is not None for name in (OWNER, MANIFEST)):
                    continue
                if parts and _is_run(folder):
                    yield parts
                else:
                    deeper += [(*parts, name) for name in _folders(folder)]
        level = deeper


def _folders(folder: int) -> Iterator[str]:
    for name in handles.names(folder):
        status = handles.look(folder, name)
        if status is not None and handles.is_folder(status) and not name.startswith("."):
            yield name


def _is_run(folder: int) -> bool:
    marks = [handles.look(folder, name) for name in _MARKS]
    weights = handles.look(folder, _WEIGHTS)
    plain = all(mark is not None and stat.S_ISREG(mark.st_mode) for mark in marks)
    return plain and weights is not None and handles.is_folder(weights)


def _unfinished(folder: int) -> str:
    """Why a run is not taken as finished; empty if its trainer has stripped last.pt, as it does at its own end."""
    with handles.below(folder, _WEIGHTS) as weights:
        last = handles.look(weights, _LAST)
        if last is None or not stat.S_ISREG(last.st_mode):
            return "unfinished: it has no last.pt"
        # the handle's own name: a path could lead elsewhere by now
        found = checkpoints.survey([Path(f"/proc/{os.getpid()}/fd/{weights}") / _LAST])[0]
    return "" if found.state == "finished" else f"unfinished: its last.pt is {found.state}"


def _metric(folder: int) -> float | None:
    """The best mAP50-95 in its table."""
    with suppress(OSError):
        rows = read_table(Path(f"/proc/self/fd/{folder}/results.csv")).rows.values()
        known = [map50_95(row.metrics) for row in rows]
        return max((one for one in known if one is not None and math.isfinite(one)), default=None)
    return None
