"""The jobs folder: finds job files, waits until each is complete, and tells of every new content once."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.clock import Clock
from supervisor.core.events import Event, JobFileGone, JobFileSeen
from supervisor.core.settle import (
    CUT_FACTOR,
    SETTLE_S,
    How,
    Patience,
    Settling,
    Wait,
    changed_while_read,
    judge,
)
from supervisor.layout import is_job_file
from supervisor.sources.folder_watch import FolderWatch
from supervisor.sources.job_file import Look, look, stamp

log = logging.getLogger("yolo-supervisor")

RESCAN_S = 10.0
GONE_AFTER_S = 1.0  # editors rename the old file away before they write the new one
LOOK_AGAIN_S = 0.2  # changed while it was read: a writer is at work this moment
_ORIGIN = "spool"


@dataclass
class _Known:
    """What is remembered about one path."""

    state: Settling | None = None
    due_at: float | None = None
    how: How = How.SCAN
    stamp: tuple[int, ...] = ()
    revision: str = ""
    inode: int = 0
    missing_since: float | None = None
    complaint: str = ""


@dataclass(frozen=True)
class _Hint:
    path: str
    how: How | None


_RESCAN = _Hint("", None)
_STOP = _Hint("stop", None)


class Spool:
    """One thread that watches and scans the jobs folder. It needs only read access, and decides nothing."""

    def __init__(
        self,
        folder: Path,
        put: Callable[[Event], None],
        clock: Clock,
        settle_s: float = SETTLE_S,
        rescan_s: float = RESCAN_S,
        *,
        known: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """Watch `folder` (absolute; it may come later). `known` gives the last revision of each path.

        A file without a final newline waits twice `settle_s`. On a network file system nobody tells of changes:
        there the scan every `rescan_s` (at most 10 s) is all.
        """
        self._folder = folder
        self._put = put
        self._clock = clock
        self._patience = Patience(settle_s=settle_s, cut_s=settle_s * CUT_FACTOR)
        self._rescan_s = min(rescan_s, RESCAN_S)
        self._known_before = known
        self._hints: queue.SimpleQueue[_Hint] = queue.SimpleQueue()
        self._watch = FolderWatch(folder, lambda path, how: self._hints.put(_Hint(path, how)))
        self._files: dict[str, _Known] = {}
        self._rescan_at = 0.0
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def start(self) -> None:
        """Begin. Everything in the folder is looked at first, then events and scans follow."""
        self._thread.start()

    def stop(self) -> None:
        """End within 2 s; files that are not complete are found again by the next start."""
        self._hints.put(_STOP)
        if self._thread.is_alive():
            self._thread.join(2.0)

    def rescan(self) -> None:
        """Ask for a scan of the folder soon; returns at once, from any thread."""
        self._hints.put(_RESCAN)

    # ---- the thread
    def _run(self) -> None:
        try:
            self._remember()
            self._watch.ensure()
            self._scan(How.START)
            while self._turn():
                pass
        finally:
            self._watch.close()

    def _remember(self) -> None:
        """Take over what an earlier daemon was told, so that files that went meanwhile are noticed."""
        for path, revision in self._known_before().items():
            if Path(path).parent == self._folder:
                self._files[path] = _Known(revision=revision)

    def _turn(self) -> bool:
        """Wait for hints or the next due time, and act on all that came. False: stop was asked."""
        hints = self._waiting_hints(max(0.0, self._next_due() - self._clock.now()))
        if _STOP in hints:
            return False
        for path, how in _newest(hints).items():
            self._take_hint(path, how)
        if _RESCAN in hints or self._clock.now() >= self._rescan_at:
            self._watch.ensure()
            self._scan(How.SCAN)
        now = self._clock.now()
        for path, known in list(self._files.items()):
            if known.due_at is not None and known.due_at <= now:
                self._examine(path, known)
        return True

    def _waiting_hints(self, timeout_s: float) -> list[_Hint]:
        try:
            hints = [self._hints.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        while not self._hints.empty():
            hints.append(self._hints.get())
        return hints

    def _next_due(self) -> float:
        dues = (known.due_at for known in self._files.values() if known.due_at is not None)
        return min((self._rescan_at, *dues))

    def _take_hint(self, path: str, how: How | None) -> None:
        """Note what happened; whether it is still so is seen when the file is looked at."""
        known = self._files.setdefault(path, _Known())
        known.due_at = self._clock.now()
        if how is not None:
            known.how = how

    def _scan(self, how: How) -> None:
        """Compare the folder with what is known. An unreadable folder says nothing about its files."""
        now = self._clock.now()
        self._rescan_at = now + self._rescan_s
        try:
            stamps = _stamps(self._folder)
        except OSError:
            return
        for path in sorted(stamps, key=lambda path: stamps[path][1]):
            known = self._files.setdefault(path, _Known())
            looked_at_now = known.due_at is not None and known.due_at <= now  # for a reason that says more
            if known.stamp != stamps[path] and not looked_at_now:
                known.how, known.due_at = how, now
        for path in self._files.keys() - stamps.keys():
            known = self._files[path]
            known.due_at = now if known.due_at is None else known.due_at

    def _examine(self, path: str, known: _Known) -> None:
        """Look at one file and do what follows."""
        known.due_at = None
        try:
            path.encode()
            found = look(Path(path))
        except OSError as error:
            self._complain(known, f"cannot read the job file {path}: {error.strerror}")
            return
        except UnicodeEncodeError:
            self._complain(known, f"the name of the job file {path!r} is not UTF-8: rename it")
            return
        known.complaint = ""
        how, known.how = known.how, How.SCAN
        if found is None:
            self._missing(path, known)
        else:
            known.missing_since = None
            self._judge(path, known, found, how)

    def _judge(self, path: str, known: _Known, found: Look, how: How) -> None:
        reading = found.reading(how, self._clock.now())
        known.stamp = found.stamp
        if not found.steady:
            known.state, _ = changed_while_read(reading, self._patience)
            known.due_at = reading.at + LOOK_AGAIN_S
            return
        known.state, verdict = judge(known.state, reading, self._patience)
        if isinstance(verdict, Wait):
            known.due_at = verdict.until
            return
        known.state = None
        again = known.inode not in {0, found.inode}  # the same content, but put there anew: that may be an order
        known.inode = found.inode
        if known.revision != found.revision or again:
            known.revision = found.revision
            self._put(self._seen(path, found, verdict.note))

    def _seen(self, path: str, found: Look, note: str) -> JobFileSeen:
        return JobFileSeen(
            at=self._clock.now(),
            origin=_ORIGIN,
            path=path,
            data=found.data,
            revision=found.revision,
            owner=found.owner,
            note=note,
        )

    def _missing(self, path: str, known: _Known) -> None:
        """Forget a file that never was complete; tell of another one, once it was away for a moment."""
        now = self._clock.now()
        if not known.revision:
            del self._files[path]
        elif known.missing_since is None:
            known.missing_since = now
            known.state, known.stamp = None, ()
            known.due_at = now + GONE_AFTER_S
        elif self._folder.is_dir():  # else it cannot be seen, which is not the same
            del self._files[path]
            self._put(JobFileGone(at=now, origin=_ORIGIN, path=path))

    @staticmethod
    def _complain(known: _Known, text: str) -> None:
        """Say once that a file cannot be taken; the next scan tries again."""
        if text != known.complaint:
            log.warning("%s", text)
        known.complaint = text
        known.stamp = ()


def _stamps(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what tells apart the states of each job file. OSError where the folder cannot be read."""
    stamps: dict[str, tuple[int, ...]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_job_file(entry.name):
                with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                    stamps[entry.path] = stamp(entry.stat(follow_symlinks=False))
    return stamps


def _newest(hints: list[_Hint]) -> dict[str, How | None]:
    """Return one hint per job file, in the order of arrival; the newest one of a path counts."""
    newest: dict[str, How | None] = {}
    for hint in hints:
        if hint not in (_RESCAN, _STOP) and is_job_file(hint.path.rpartition("/")[2]):
            newest.pop(hint.path, None)
            newest[hint.path] = hint.how
    return newest
