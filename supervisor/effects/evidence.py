"""Gather what the machine and the attempt's own files say about its end. Facts only; nothing here decides.

What cannot be read is named in `unseen`, never taken for zero. Every look at a path is bounded, and all of them
together: a dead network mount costs some seconds, once, and is told.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from supervisor import attempt_files
from supervisor.attempt_files import Exit, Launch, Started
from supervisor.core.consistency import Data
from supervisor.core.diagnosis.evidence import Disk, Evidence
from supervisor.core.diagnosis.signs import Found
from supervisor.core.diagnosis.tables import Rule
from supervisor.core.model import Job
from supervisor.effects import kernel_log, log_scan
from supervisor.effects.consistency import FILE as FINGERPRINT
from supervisor.effects.consistency import Record
from supervisor.effects.last_place import Place
from supervisor.layout import RunDirectory
from supervisor.machine import bounded, conditions, mounts, places, resources
from supervisor.machine.places import Place as TouchedPlace

#: All looks at paths together; each one has LOOK_S, as long as something of this is left.
LOOKS_S = 10.0
LOOK_S = 2.0
_PID = re.compile(r"\bpids?\W{0,3}(\d{2,7})\b", re.IGNORECASE)
_SIGKILL = 9
_ONLY_READ = frozenset({"interpreter", "model", "data"})
Answer = TypeVar("Answer")


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt that ended: where its files are, how it ended, and where it stood."""

    job: Job
    run_dir: RunDirectory
    attempt: int
    place: Place
    exit_record: Exit | None = None
    started: Started | None = None

    @property
    def began_at(self) -> float | None:
        """When it was started, None if no record tells."""
        if self.exit_record is not None:
            return self.exit_record.started_at
        return self.started.started_at if self.started is not None else None


def gather(subject: Subject, rules: Sequence[Rule], now: float, pause_below_bytes: int = 0) -> Evidence:
    """Return all that is known. `now` is Unix seconds. Raises OSError only where the log itself cannot be read.

    Under the runs `pause_below_bytes` are needed before another attempt starts.
    """
    log = log_scan.scanned(subject.run_dir.attempt(subject.attempt).log, rules)
    found = log.found
    looks = _Looks()
    kernel = _kernel(subject, now, looks)
    kills = _oom_kills(subject, kernel, found)
    gone = _unmounted(subject.job, looks)
    launch = _launch(subject)
    read = _read_places(subject, launch, looks)
    evidence = Evidence(
        signs=found.signs,
        error=found.error,
        error_line=found.error_line,
        site=found.site,
        sender=_sender(subject, kernel),
        oom_kills=kills,
        kernel=kernel or (),
        disks=_disks([*_written(subject, launch), *_named(found), *read], looks, pause_below_bytes),
        missing=_missing(subject.job, read, gone, looks),
        unmounted=gone,
    )
    evidence = _with_memory(_with_place(evidence, subject, now), looks)
    return msgspec.structs.replace(evidence, unseen=tuple(dict.fromkeys((*log.unseen, *looks.unseen))))


class _Looks:
    """Looks at paths, bounded each and together; what gave no answer is noted."""

    def __init__(self) -> None:
        self.unseen: list[str] = []
        self._until = time.monotonic() + LOOKS_S

    def at(self, what: str, look: Callable[[float], Answer]) -> Answer | None:
        """Return what `look` (given the seconds that it may take) returns; None where that cannot be seen."""
        try:
            return look(max(0.01, min(LOOK_S, self._until - time.monotonic())))
        except (OSError, ValueError, KeyError) as error:
            self.unseen.append(f"{what}: {getattr(error, 'strerror', None) or error}")
            return None


# ---- the kernel's log
def _kernel(subject: Subject, now: float, looks: _Looks) -> tuple[str, ...] | None:
    """Return the kernel's lines since the attempt began; None where they cannot be read."""
    since = subject.began_at
    if since is None:
        looks.unseen.append("kernel log: it is not known when the attempt began")
        return None
    return looks.at("kernel log", lambda _: kernel_log.read(since, now))


def _oom_kills(subject: Subject, kernel: tuple[str, ...] | None, found: Found) -> int | None:
    """Return what the shim's cgroup counted, or more where the kernel's own lines name more processes of the attempt.

    A worker's number is known where the log tells it ("DataLoader worker (pid 4711) is killed by signal: Killed").
    """
    counted = subject.exit_record.oom_kills if subject.exit_record is not None else None
    known = {int(pid) for text in (found.error, *(sign.line for sign in found.signs)) for pid in _PID.findall(text)}
    if subject.started is not None:
        known |= {subject.started.pid, subject.started.shim_pid}
    named = sum(pid in known for pid in kernel_log.killed_pids(kernel or ()))
    return max(counted or 0, named) if named else counted


def _sender(subject: Subject, kernel: tuple[str, ...] | None) -> str:
    """Return who sent the deadly signal: only the kernel's out-of-memory killer leaves a trace."""
    pid = subject.started.pid if subject.started is not None else 0
    by_kernel = pid in kernel_log.killed_pids(kernel or ())
    exit_signal = subject.exit_record.signal if subject.exit_record is not None else _SIGKILL
    return "the kernel's out-of-memory killer" if by_kernel and exit_signal == _SIGKILL else ""


# ---- memory and disks
def _with_memory(evidence: Evidence, looks: _Looks) -> Evidence:
    memory = looks.at("memory", lambda _: resources.memory())
    shm = looks.at(str(resources.SHM), partial(resources.room, resources.SHM))
    return msgspec.structs.replace(
        evidence,
        memory_available_bytes=memory.available_bytes if memory is not None else None,
        memory_total_bytes=memory.total_bytes if memory is not None else None,
        shm_free_bytes=shm.free_bytes if shm is not None else None,
        shm_total_bytes=shm.total_bytes if shm is not None else None,
    )


def _named(found: Found) -> list[TouchedPlace]:
    """Return the places that lines about a full disk name."""
    return [place for sign in found.signs if sign.cause == "disk-full" for place in conditions.named_in(sign.line)]


def _disks(touched: Iterable[TouchedPlace], looks: _Looks, pause_below_bytes: int) -> tuple[Disk, ...]:
    """Return each file system once, those that it writes first. One that is read-only has no room that counts."""
    found: dict[int, Disk] = {}
    for place in touched:
        room = looks.at(place.path, partial(resources.room, Path(place.path)))
        if room is None or room.read_only:
            continue
        known = found.get(room.device)
        lack = "" if place.what in _ONLY_READ else conditions.lack_of_room(place, room, pause_below_bytes)
        if known is None:
            disk = Disk(path=place.path, what=place.what, free_bytes=room.free_bytes, free_inodes=room.free_inodes)
            found[room.device] = msgspec.structs.replace(disk, lack=lack)
        elif place.what not in known.what.split(", "):
            what = f"{known.what}, {place.what}"
            found[room.device] = msgspec.structs.replace(known, what=what, lack=known.lack or lack)
    return tuple(found.values())


def _written(subject: Subject, launch: Launch | None) -> list[TouchedPlace]:
    env = launch.env if launch is not None else None
    save_folder = TouchedPlace("save folder", str(subject.run_dir.train))
    return [*places.written(subject.job, subject.run_dir, env), save_folder]


def _read_places(subject: Subject, launch: Launch | None, looks: _Looks) -> list[TouchedPlace]:
    """Return what it reads; a resume needs its model no more."""
    data = looks.at(FINGERPRINT, lambda _: _data_of(subject.run_dir)) or Data(name="")
    resumed = launch is not None and launch.train is not None and launch.train.resume is not None
    return [one for one in places.read(subject.job, data) if not (resumed and one.what == "model")]


def _launch(subject: Subject) -> Launch | None:
    try:
        return attempt_files.read_launch(subject.run_dir.attempt(subject.attempt).root)
    except (OSError, ValueError):
        return None  # then the usual places are looked at


def _data_of(run_dir: RunDirectory) -> Data | None:
    """Return what was known of the data set when the attempt was prepared."""
    try:
        record = msgspec.json.decode((run_dir.root / FINGERPRINT).read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    return record.last.data or record.reference.data


# ---- mounts, and what is gone
def _unmounted(job: Job, looks: _Looks) -> tuple[str, ...]:
    """Return the recorded mount points that are not there; one that hangs is not known to be gone."""
    absent = [mount.point for mount in job.mounts if looks.at(mount.point, partial(mounts.absent, mount))]
    return tuple(dict.fromkeys(absent))


def _missing(job: Job, read: Iterable[TouchedPlace], gone: tuple[str, ...], looks: _Looks) -> tuple[str, ...]:
    """Return the paths that are not there although their mounts are; of a folder that is gone only itself."""
    waiting = {mount.path for mount in job.mounts if mount.point in gone}
    found: list[str] = []
    for place in read:
        elsewhere = place.path in waiting or any(mounts.below(place.path, point) for point in (*gone, *found))
        if not elsewhere and looks.at(place.path, partial(_is_there, place.path)) is False:
            found.append(place.path)
    return tuple(found)


def _is_there(path: str, within_s: float) -> bool:
    """OSError, other than that it is not there, where that cannot be seen."""

    def look() -> bool:
        try:
            Path(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    return bounded.ask(f"is there {path}", look, within_s)


# ---- where it stood
def _with_place(evidence: Evidence, subject: Subject, now: float) -> Evidence:
    place, exit_record = subject.place, subject.exit_record
    ended_at = exit_record.ended_at if exit_record is not None else now
    return msgspec.structs.replace(
        evidence,
        beat_age_s=None if place.told_at is None else max(0.0, ended_at - place.told_at),
        phase=place.phase,
        epoch=place.epoch,
        batch=place.batch,
        exact=place.exact,
    )
