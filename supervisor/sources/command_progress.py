"""Following a trainer that knows nothing of us: by its log, its table of epochs and its checkpoint files."""

from __future__ import annotations

import glob
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from supervisor.core.model import Job
from supervisor.core.plain_text import frames
from supervisor.layout import AttemptDirectory, RunDirectory
from supervisor.sources.course import Course
from supervisor.sources.tail import Tail
from supervisor.trainers import trainer_for
from supervisor.trainers.results_csv import Table, read_table
from supervisor.trainers.scripts import FAMILIES
from supervisor.trainers.train_lines import TrainLines

LOG_BYTES = 64 * 1024
QUIET_S = 2.0  # a checkpoint is written in place, piece by piece
SEARCH_S = 2.0
SEARCH_SHARE = 0.01  # a pattern that is slow to search is searched for less often
_NEVER = float("-inf")


class CommandFollower:
    """Feeds what a command job writes to a Course."""

    def __init__(self, job: Job, run: RunDirectory, attempt: AttemptDirectory, since: float, course: Course) -> None:
        """Follow one attempt that was started at `since`: older tables belong to earlier trainings."""
        self._course = course
        self._since = since
        self._patterns = tuple(_absolute(pattern, job, run) for pattern in _checkpoint_files(job, run))
        tables = [run.results, *trainer_for(job).tables(job, run)]
        self._tables = tuple(dict.fromkeys((*_table_patterns(self._patterns), *(glob.escape(str(t)) for t in tables))))
        self._log_file = attempt.log
        self._log = Tail(attempt.log, newest_bytes=LOG_BYTES)
        self._lines = TrainLines()
        self._head_read = False
        self._rest = b""
        self._search_at = _NEVER
        self._table: Path | None = None
        self._table_stamp: tuple[int, int] = (0, 0)
        self._table_epoch = 0
        self._complete_epochs = 0
        self._checkpoints: dict[str, _Checkpoint] | None = None

    def poll(self, now: float) -> None:
        """Take all that was written since. OSError where something is there but cannot be read."""
        searching = now >= self._search_at
        if searching:
            begun = time.perf_counter()
            self._table = self._newest_table()
        self._read_table()
        self._read_log(now)
        if searching:  # after the table: its row of an epoch is written before the epoch's checkpoint
            self._search_checkpoints()
            self._search_at = now + max(SEARCH_S, (time.perf_counter() - begun) / SEARCH_SHARE)
        self._watch_checkpoints(now)

    # ---- log
    def _read_log(self, now: float) -> None:
        if not self._head_read:
            self._head_read = self._read_head()
        data = self._log.read()
        while more := self._log.read():
            data += more
        if not data and self._log.rest is self._rest:
            return
        self._rest = self._log.rest
        frame = self._lines.newest_frame(frames(data + self._rest))
        if frame is None:
            return
        if self._table is None:
            self._complete_epochs = frame.complete_epochs
        live = self._course.live
        if (frame.epoch, frame.batch) != (live.epoch, live.batch):
            self._course.batch(
                frame.epoch,
                frame.epochs,
                batch=frame.batch,
                batches=frame.batches,
                losses=frame.losses,
                at=now,
            )
            self._course.set(phase="train")

    def _read_head(self) -> bool:
        """Learn the number of epochs and the columns from the log's head, which a late reader skips."""
        if not self._log_file.is_file():
            return False
        with self._log_file.open("rb") as file:
            self._lines.newest_frame(frames(file.read(LOG_BYTES)))
        return True

    # ---- table of epochs
    def _newest_table(self) -> Path | None:
        found = {path: _status(path) for pattern in self._tables for path in _matches(pattern)}
        times = {path: status.st_mtime for path, status in found.items() if status is not None}
        fresh = {path: at for path, at in times.items() if at >= self._since - 1.0}
        return Path(max(fresh, key=fresh.__getitem__)) if fresh else None

    def _read_table(self) -> None:
        status = _status(str(self._table)) if self._table is not None else None
        if self._table is None or status is None:
            return
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp != self._table_stamp:
            self._table_stamp = stamp
            self._take_table(read_table(self._table), status.st_mtime)

    def _take_table(self, table: Table, at: float) -> None:
        if table.zero_based:
            self._lines.counts_from_zero()
        row = table.newest
        if row is None:
            return
        if row.epoch != self._table_epoch:
            self._table_epoch = self._complete_epochs = row.epoch
            self._course.epoch_end(row.epoch, table.epoch_s, at)
            self._course.losses_of_epoch(row.epoch, {"losses": None} if row.diverged else row.losses)
        live = self._course.live
        self._course.set(losses=row.losses or live.losses, metrics=row.metrics or live.metrics)

    # ---- checkpoints
    def _search_checkpoints(self) -> None:
        paths = {path for pattern in self._patterns for path in _matches(pattern)}
        if self._checkpoints is None:  # what is there already says nothing about which epoch it holds
            self._checkpoints = {path: _Checkpoint(_stamp(path), None) for path in paths}
        for path in paths - self._checkpoints.keys():
            self._checkpoints[path] = _Checkpoint((0, 0), None)

    def _watch_checkpoints(self, now: float) -> None:
        for path, checkpoint in (self._checkpoints or {}).items():
            stamp = _stamp(path)
            if stamp != checkpoint.stamp:
                checkpoint.stamp = stamp
                checkpoint.changed = (now, self._complete_epochs) if stamp[1] else None
            elif checkpoint.changed is not None and now - checkpoint.changed[0] >= QUIET_S:
                self._course.file_saved(checkpoint.changed[1])
                checkpoint.changed = None


class _Checkpoint:
    """One checkpoint file: its time and size, and when it last changed, after how many complete epochs."""

    def __init__(self, stamp: tuple[int, int], changed: tuple[float, int] | None) -> None:
        self.stamp = stamp
        self.changed = changed


def _checkpoint_files(job: Job, run: RunDirectory) -> tuple[str, ...]:
    """Return the patterns of the job, or where its family saves: of a save, last.pt is the first file written."""
    return (glob.escape(str(run.weights / "last.pt")),) if job.family in FAMILIES or job.train else job.checkpoint_files


def _absolute(pattern: str, job: Job, run: RunDirectory) -> str:
    """Return a checkpoint pattern with its place filled in; a relative one starts where the command runs."""
    root = glob.escape(str(run.root))
    pattern = pattern.replace("{run_dir}", root)
    return os.path.join(glob.escape(job.cwd) if job.cwd else root, pattern)  # noqa: PTH118 - a pattern is no path


def _matches(pattern: str) -> Iterator[str]:
    return glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns


def _table_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return where results.csv may lie: beside the checkpoints, or one folder up (Ultralytics, YOLOv5)."""
    folders = dict.fromkeys(folder for pattern in patterns for folder in list(Path(pattern).parents)[:2])
    return tuple(str(folder / "results.csv") for folder in folders)


def _status(path: str) -> os.stat_result | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _stamp(path: str) -> tuple[int, int]:
    status = _status(path)
    return (status.st_mtime_ns, status.st_size) if status is not None else (0, 0)
