"""Whose is a process on a GPU: of one of our trainings, or a stranger's."""

from __future__ import annotations

import pwd
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from supervisor.attempt_files import boot_identity
from supervisor.core.gpus.model import Holder
from supervisor.core.model import World
from supervisor.machine import bounded

MARKER = b"YOLO_SUPERVISOR_RUN="
ATTEMPT_MARKER = b"YOLO_SUPERVISOR_ATTEMPT="
ENVIRONMENT_S = 1.0  # it takes a lock on the memory of the process, which may hang with it
LONGEST_COMMAND = 120
_MOST_PARENTS = 64


DEAD_ROUNDS = 5  # the kernel log may tell of a process minutes after its end


class Ours(msgspec.Struct, frozen=True):
    """A process of one of our runs; `attempt` is 0 where it does not tell which.

    `watched`: of a training that a person started: its run has no lease, so that it holds its GPU as a stranger does.
    """

    run: str
    attempt: int = 0
    watched: bool = False


class GpuProcesses:
    """Tells whose processes are. What was found out about one is remembered, for a while also after its end.

    For one thread, but for `remembered`.
    """

    def __init__(self, world: Callable[[], World], proc: Path = Path("/proc")) -> None:
        """`world` gives the newest world: runs that it does not know are another supervisor's, and so a stranger's."""
        self._world = world
        self._proc = proc
        self._known: dict[tuple[int, int], Ours | Holder] = {}
        self._dead: dict[tuple[int, int], int] = {}

    def whose(self, pid: int) -> Ours | Holder | None:
        """Return whose a process is; None if it is gone, which is nobody's any more.

        Ours is what descends from the shim or the trainer of a living attempt or from a training that is watched, and
        what carries our marker.
        """
        parent_and_start = self._stat(pid)
        if parent_and_start is None:
            return None
        key = (pid, parent_and_start[1])
        known = self._known.get(key)
        if known is None:
            known = self._ask(pid)
        elif isinstance(known, Holder):  # a stranger's training may be adopted
            known = self._by_descent(pid) or known
        self._known[key] = known
        return known

    def holders(self, processes: Iterable[tuple[int, int | None]]) -> tuple[Holder, ...]:
        """Return who holds a GPU besides our own attempts: processes by pid and bytes in use (None: not told)."""
        found = []
        for pid, used_bytes in processes:
            one = self.whose(pid)
            if isinstance(one, Ours) and one.watched:
                one = self._stranger(pid)
            if isinstance(one, Holder):
                found.append(msgspec.structs.replace(one, used_bytes=used_bytes))
        return tuple(sorted(found, key=lambda holder: holder.pid))

    def remembered(self, pid: int) -> Ours | Holder | None:
        """Return whose a process was, also one that is gone; None if it was never asked for, or is forgotten."""
        found = [one for (number, _), one in self._known.copy().items() if number == pid]
        return found[-1] if found else None

    def forget_the_dead(self) -> None:
        """Forget processes that were gone at the last DEAD_ROUNDS calls of this as well."""
        dead = [key for key in self._known if (self._stat(key[0]) or (0, 0))[1] != key[1]]
        self._dead = {key: self._dead.get(key, 0) + 1 for key in dead}
        kept = {key: one for key, one in self._known.items() if self._dead.get(key, 0) <= DEAD_ROUNDS}
        self._known = kept

    def _ask(self, pid: int) -> Ours | Holder:
        return self._by_descent(pid) or self._by_marker(pid) or self._stranger(pid)

    def _by_descent(self, pid: int) -> Ours | None:
        world = self._world()
        roots = {
            root: Ours(run.id, run.attempt.number)
            for run in world.live.values()
            if run.attempt is not None and not run.attempt.cleared
            for root in (run.attempt.shim_pid, run.attempt.pid)
            if root > 1
        }
        roots |= self._watched(world)
        for _ in range(_MOST_PARENTS):
            if pid in roots:
                return roots[pid]
            known = self._stat(pid)
            if known is None or known[0] <= 1:
                return None
            pid = known[0]
        return None

    def _watched(self, world: World) -> dict[int, Ours]:
        """The trainings that people started and we watch, by the pid that their job names, if it is still that one."""
        watches = ((run, run.job.watch) for run in world.live.values())
        return {
            watch.pid: Ours(run.id, run.attempt.number if run.attempt is not None else 0, watched=True)
            for run, watch in watches
            if watch is not None and watch.boot_id == boot_identity()[0] and self._began(watch.pid) == watch.start_time
        }

    def _began(self, pid: int) -> int | None:
        known = self._stat(pid)
        return known[1] if known is not None else None

    def _by_marker(self, pid: int) -> Ours | None:
        path = self._proc / str(pid) / "environ"
        try:
            environment = bounded.ask(str(path), path.read_bytes, ENVIRONMENT_S).split(b"\0")
        except OSError:
            return None  # gone, another user's, or no answer
        run = _variable(environment, MARKER)
        if not run or self._world().run(run) is None:
            return None
        attempt = _variable(environment, ATTEMPT_MARKER)
        return Ours(run, int(attempt) if attempt.isdigit() else 0)

    def _stranger(self, pid: int) -> Holder:
        folder = self._proc / str(pid)
        try:
            user = _user(folder.stat().st_uid)
        except OSError:
            user = ""
        return Holder(pid=pid, user=user, command=_command(folder))

    def _stat(self, pid: int) -> tuple[int, int] | None:
        """Parent and start time; None if there is no such process, or only its zombie."""
        try:
            fields = (self._proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        return (int(fields[1]), int(fields[19])) if len(fields) > 19 and fields[0] != b"Z" else None


def _variable(environment: list[bytes], name: bytes) -> str:
    return next((one[len(name) :].decode(errors="replace") for one in environment if one.startswith(name)), "")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _command(folder: Path) -> str:
    """The name of its program and what follows, shortened; its bare name where the command line cannot be read."""
    path = folder / "cmdline"
    try:
        words = bounded.ask(str(path), path.read_bytes, ENVIRONMENT_S).split(b"\0")
        text = " ".join(word.decode(errors="replace") for word in words if word)
        return text[:LONGEST_COMMAND] or (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
