"""The processes of the attempts: one pass over /proc for all, and a closer look at one tree when it is asked."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice

import msgspec

from supervisor.attempt_files import Started
from supervisor.config import is_network_type
from supervisor.core.diagnosis.waiting import MAIN, OTHER, WORKER, Process
from supervisor.core.job import Mount
from supervisor.machine.ranks import RANK

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: More processes than this are not looked at closely, nor more threads of each, nor more of its open files.
MOST_PROCESSES = 4096
MOST_THREADS = 64
MOST_FILES = 512
_WORKER_NAME = b"pt_data_worker"
_WORKER_WORDS = (b"--multiprocessing-fork", b"multiprocessing.spawn", b"multiprocessing.forkserver")
_IO_COUNTERS = (b"rchar", b"wchar", b"read_bytes", b"write_bytes")
_REMOTE_WAITS = (
    "nfs",
    "rpc_",
    "__rpc",
    "cifs_",
    "smb2_",
    "fuse_",
    "request_wait_answer",
    "ceph_",
    "ll_",
    "v9fs_",
    "p9_",
)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One process, as /proc/PID/stat has it.

    `cpu_ticks` counts user and system time of all its threads, and of its children that have ended and were waited for:
    a training that starts a program for each image works.
    """

    pid: int
    parent: int
    start_time: int
    cpu_ticks: int
    state: str
    name: bytes


class ProcessTable:
    """Every process at one moment."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Order them by parent."""
        self.by_pid = {entry.pid: entry for entry in entries}
        self._children: dict[int, list[Entry]] = {}
        for entry in self.by_pid.values():
            self._children.setdefault(entry.parent, []).append(entry)

    @classmethod
    def read(cls, proc: str = "/proc") -> ProcessTable:
        """Read the machine's; zombies are left out. What cannot be read is not there."""
        found = (_entry(f"{proc}/{name}", name) for name in os.listdir(proc) if name.isdigit())  # noqa: PTH208 - of many
        return cls(entry for entry in found if entry is not None and entry.state != "Z")

    def tree(self, started: Started) -> list[Entry]:
        """The trainer and all that descends from it or its shim, the nearest first, the shim itself left out.

        A number counts only with the start time of the record: another process may have it now. Nobody at all where
        there are more than MOST_PROCESSES: of a part nobody can say that the whole stands still.
        """
        named = {started.shim_pid: started.shim_start_time, started.pid: started.start_time}
        roots = [entry for pid, at in named.items() if (entry := self.by_pid.get(pid)) and entry.start_time == at]
        found: dict[int, Entry] = {}
        waiting = deque(roots)
        while waiting:
            entry = waiting.popleft()
            if entry.pid not in found:
                found[entry.pid] = entry
                waiting += self._children.get(entry.pid, [])
            if len(found) > MOST_PROCESSES:
                return []
        return [entry for pid, entry in found.items() if pid != started.shim_pid]


class Roles:
    """Who is who in one tree: learned once for each process.

    What is read for that (its environment, its command line) takes a lock on the memory of the process, and may hang
    with it: ask in a thread that can be left behind.
    """

    def __init__(self, trainer: int, proc: str = "/proc") -> None:
        """`trainer` is the pid that the shim started."""
        self._trainer = trainer
        self._proc = proc
        self._known: dict[tuple[int, int], tuple[str, int | None]] = {}

    def of(self, tree: list[Entry]) -> dict[int, tuple[str, int | None]]:
        """Role and rank by pid. With ranks, the process that started them is none of the training ones."""
        self._known = {key: self._known.get(key) or self._ask(entry) for entry in tree for key in [_key(entry)]}
        found = {entry.pid: self._known[_key(entry)] for entry in tree}
        parents = {entry.pid: entry.parent for entry in tree}
        ranks = {pid for pid, (role, rank) in found.items() if rank is not None and role != WORKER}
        for pid in sorted(ranks):
            if parents[pid] in ranks and found[parents[pid]][1] == found[pid][1]:
                found[pid] = (OTHER, found[pid][1])  # a rank's child that is no worker: it inherited the variable
        if ranks and found.get(self._trainer, (OTHER, None))[1] is None:
            found[self._trainer] = (OTHER, None)
        return found

    def _ask(self, entry: Entry) -> tuple[str, int | None]:
        rank = RANK.search(_read(f"{self._proc}/{entry.pid}/environ"))
        number = int(rank[1]) if rank is not None else None
        if entry.name.startswith(_WORKER_NAME):
            return WORKER, number
        if entry.pid == self._trainer:
            return MAIN, number
        words = _read(f"{self._proc}/{entry.pid}/cmdline")
        same = words == _read(f"{self._proc}/{entry.parent}/cmdline") and entry.parent != 1
        if any(word in words for word in _WORKER_WORDS) or (same and words):  # forked and never executed: a worker
            return WORKER, number
        return (MAIN, number) if number is not None else (OTHER, None)


def processes(
    tree: list[Entry],
    roles: dict[int, tuple[str, int | None]],
    mounts: tuple[Mount, ...],
    *,
    closely: bool,
    proc: str = "/proc",
) -> tuple[Process, ...]:
    """The processes as the judge of hangs wants them. `closely`: every thread counts, not only the first of each."""
    return tuple(_process(entry, roles.get(entry.pid, (OTHER, None)), mounts, closely, proc) for entry in tree)


def _process(
    entry: Entry, role: tuple[str, int | None], mounts: tuple[Mount, ...], closely: bool, proc: str
) -> Process:
    folder = f"{proc}/{entry.pid}"
    seen = Process(
        pid=entry.pid,
        start_time=entry.start_time,
        cpu_s=entry.cpu_ticks / _TICKS_PER_S,
        io_bytes=_io_bytes(folder),
        role=role[0],
        rank=role[1],
        state=entry.state,
        wchan=_wchan(folder),
    )
    if closely and not seen.is_stopped and not seen.waits_in_kernel:
        stuck = next(_stuck_threads(folder, seen), None)
        seen = stuck if stuck is not None else seen
    if seen.waits_in_kernel:
        return msgspec.structs.replace(seen, where=_where(folder, seen.wchan, mounts))
    return seen


def _stuck_threads(folder: str, seen: Process) -> Iterator[Process]:
    """The process, with state and wait of each thread that waits in the kernel for storage."""
    with suppress(OSError):
        for thread in islice(os.listdir(f"{folder}/task"), MOST_THREADS):  # noqa: PTH208 - of many
            entry = _entry(f"{folder}/task/{thread}", thread)
            wchan = _wchan(f"{folder}/task/{thread}")
            if entry is not None:
                as_thread = msgspec.structs.replace(seen, state=entry.state, wchan=wchan)
                if as_thread.waits_in_kernel:
                    yield as_thread


def _where(folder: str, wchan: str, mounts: tuple[Mount, ...]) -> str:
    """The network mount of the job that the process has files open on; only names are looked at, never the mount."""
    remote = [mount for mount in mounts if is_network_type(mount.type)]
    if not remote:
        return ""
    with suppress(OSError):
        for number in islice(os.listdir(f"{folder}/fd"), MOST_FILES):  # noqa: PTH208 - of many
            with suppress(OSError):
                path = os.readlink(f"{folder}/fd/{number}")  # noqa: PTH115 - as text, whatever it names
                for mount in remote:
                    if path.startswith(mount.point.rstrip("/") + "/"):
                        return _named(mount)
    return _named(remote[0]) if wchan.startswith(_REMOTE_WAITS) else ""


def _named(mount: Mount) -> str:
    return f"{mount.point} ({mount.source})"


def _key(entry: Entry) -> tuple[int, int]:
    return entry.pid, entry.start_time


def _entry(folder: str, number: str) -> Entry | None:
    head, _, tail = _read(f"{folder}/stat").rpartition(b")")
    fields = tail.split()
    if len(fields) < 20:
        return None
    cpu_ticks = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    name = head.partition(b"(")[2]
    return Entry(int(number), int(fields[1]), int(fields[19]), cpu_ticks, fields[0].decode("ascii", "replace"), name)


def _io_bytes(folder: str) -> int | None:
    """What was read and written so far, by calls and by the disk; None where that may not be seen."""
    counters = dict(line.partition(b":")[::2] for line in _read(f"{folder}/io").splitlines())
    if not counters:
        return None
    return sum(int(counters.get(name, b"0")) for name in _IO_COUNTERS)


def _wchan(folder: str) -> str:
    found = _read(f"{folder}/wchan").decode("ascii", "replace").strip()
    return "" if found == "0" else found


def _read(path: str) -> bytes:
    """A small file of /proc; nothing where it is gone or not ours to read. Some hundred a second: no pathlib."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(handle, 65536)
    except OSError:
        return b""
    finally:
        os.close(handle)
