"""What a training that stands still waits for, in one line: from the stacks and blocked calls of its processes.

The line names the culprit first and who waits for it then: a dataloader worker for a file, a rank that all others wait
for. Where nothing better is known it says where the main process stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from supervisor.core.diagnosis.frames import Frame, main_thread

LINE_CHARACTERS = 400
STOPPED = frozenset({"T", "t"})
# What a blocked call does with its file, in words; for others the call's own name.
_VERBS = {"openat": "open", "pread": "read", "readv": "read", "pwrite": "write", "writev": "write", "fstatat": "stat",
    "fdatasync": "fsync", "readdir": "listing"}  # fmt: skip
_FILE_CALLS = frozenset({
    "read", "pread", "readv", "write", "pwrite", "writev", "open", "openat", "stat", "lstat", "fstat", "fstatat",
    "statx", "access", "faccessat", "readdir", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2",
    "unlink", "unlinkat", "mkdir", "mkdirat", "flock", "fcntl", "close",
})  # fmt: skip
_FOR_A_THREAD = frozenset({"lock", "queue", "children", "unknown"})
_SLEEPS = frozenset({"nanosleep", "clock_nanosleep"})
# Files whose frames only carry out a wait: the frame that says what is waited for is further out.
_PLUMBING = (
    "selectors.py", "threading.py", "queue.py", "subprocess.py", "socket.py", "ssl.py", "multiprocessing/",
    "concurrent/futures/", "torch/utils/data/dataloader.py", "torch/distributed/distributed_c10d.py",
    "torch/distributed/c10d_logger.py", "torch/autograd/", "torch/_tensor.py", "torch/cuda/",
)  # fmt: skip
# (kind, file, functions, what it means); the first row that a frame of the wait matches. No functions: any.
_WAITS: tuple[tuple[str, str, frozenset[str], str], ...] = (
    (
        "data", "torch/utils/data/dataloader.py", frozenset({"_try_get_data", "_get_data"}),
        "waits for its dataloader workers",
    ),
    (
        "data", "torch/utils/data/dataloader.py", frozenset({"_shutdown_workers"}),
        "waits for its dataloader workers to end",
    ),
    ("ranks", "torch/distributed/distributed_c10d.py", frozenset(), "waits in {function}"),
    ("ranks", "torch/autograd/graph.py", frozenset({"_engine_run_backward"}), "waits in backward"),
    ("gpu", "torch/cuda/", frozenset({"synchronize"}), "waits for its GPU"),
    ("children", "multiprocessing/pool.py", frozenset({"wait", "get", "join"}), "waits for its pool of processes"),
    ("children", "concurrent/futures/process.py", frozenset(), "waits for its pool of processes"),
    ("children", "subprocess.py", frozenset({"wait", "communicate", "_communicate"}), "waits for a child process"),
    ("children", "multiprocessing/process.py", frozenset({"join"}), "waits for a child process"),
    ("queue", "queue.py", frozenset({"get", "put"}), "waits in queue.{function} ({file}:{line})"),
    ("queue", "multiprocessing/queues.py", frozenset({"get", "put"}), "waits in queue.{function} ({file}:{line})"),
    (
        "children", "multiprocessing/connection.py", frozenset({"recv", "recv_bytes", "poll", "wait"}),
        "waits for another process",
    ),
    ("lock", "threading.py", frozenset({"join"}), "waits for a thread to end"),
    ("lock", "threading.py", frozenset({"wait", "acquire"}), "waits for a lock"),
)  # fmt: skip
_WORKER_LOOP = ("_worker_loop", "torch/utils/data/_utils/worker.py")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One process as it was seen. What could not be read is empty.

    `start` orders processes by age. `trainer`: the one that was launched. `rank`: what its environment says, for a
    dataloader worker of a rank too. `state`, `wchan`, `call` and `path` are of the main thread: its state as the kernel
    names it, where it waits there, the call that it is blocked in and the file that this is about. `mount` describes
    the mount of that file, if it is a network or a user-space one. `helper_…`: the same of another thread that waits
    for a file, where the main one does not.
    """

    pid: int
    parent: int
    start: int = 0
    trainer: bool = False
    name: str = ""
    rank: int | None = None
    state: str = ""
    wchan: str = ""
    call: str = ""
    path: str = ""
    mount: str = ""
    helper_call: str = ""
    helper_path: str = ""
    helper_mount: str = ""
    stack: str = ""


class Doing(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does. `kind`: data, ranks, gpu, children, queue, lock, sleep, work, file, stopped, in, unknown.

    `what` is a phrase for a person, with its verb; `key` is equal for processes that do the same.
    """

    kind: str
    what: str
    key: str = ""


def summary(processes: Sequence[Seen]) -> str:
    """Return one line about what the training waits for; never empty."""
    tree = _Tree(processes)
    if tree.head is None:
        return "no process of the training was there"
    line = _of_ranks(tree) if len(tree.ranks) > 1 else _of_one(tree, tree.head)
    return line if len(line) <= LINE_CHARACTERS else line[: LINE_CHARACTERS - 1] + "…"


# ---- one process
def doing(process: Seen) -> Doing:
    """Return what a process does, from its stack and the call that it is blocked in."""
    frames = main_thread(process.stack)
    if process.state in STOPPED:
        by = "a debugger" if process.state == "t" else "a signal such as SIGSTOP"
        return Doing(kind="stopped", what=f"is stopped by {by}", key="stopped")
    blocked = _blocked(process, frames)
    if blocked is not None:
        return blocked
    carried = _carried(frames)
    if _is_idle_worker(frames[len(carried) :], carried):
        return Doing(kind="work", what="waits for work", key="work")
    own = _wait(process, frames, carried) or _standing(process, frames[len(carried) :] or frames)
    return _helping(process) if own.kind in _FOR_A_THREAD and process.helper_call else own


def waits_for_file(call: str, path: str) -> bool:
    """Return whether a call waits for a file, not for a pipe, a socket or a device."""
    return call in _FILE_CALLS and path.startswith("/") and not path.startswith("/dev/")


def _helping(process: Seen) -> Doing:
    """Its main thread waits for another thread of the same process, and that for a file: labels are read like that."""
    verb = _VERBS.get(process.helper_call, process.helper_call)
    note = f" ({process.helper_mount})" if process.helper_mount else ""
    what = f"is blocked in {verb} of {process.helper_path}, in a thread that it waits for{note}"
    return Doing(kind="file", what=what, key=f"file {verb}")


def _blocked(process: Seen, frames: Sequence[Frame]) -> Doing | None:
    """The process waits for a file, not for a pipe or a socket of its own family."""
    if not waits_for_file(process.call, process.path):
        if process.state != "D":
            return None
        where = f" in {frames[0].place}" if frames else ""
        return Doing(kind="file", what=f"waits in the kernel{_wchan(process)}{where}", key="D")
    verb = _VERBS.get(process.call, process.call)
    notes = [process.mount, f"state D{_wchan(process)}" if process.state == "D" else ""]
    note = ", ".join(filter(None, notes))
    what = f"is blocked in {verb} of {process.path}" + (f" ({note})" if note else "")
    return Doing(kind="file", what=what, key=f"file {frames[0].function if frames else verb}")


def _wchan(process: Seen) -> str:
    return f" ({process.wchan})" if process.wchan else ""


def _carried(frames: Sequence[Frame]) -> Sequence[Frame]:
    """The innermost frames, those that only carry out a wait."""
    for number, frame in enumerate(frames):
        if not frame.file.startswith(_PLUMBING):
            return frames[:number]
    return frames


def _is_idle_worker(outer: Sequence[Frame], carried: Sequence[Frame]) -> bool:
    in_loop = bool(outer) and (outer[0].function, outer[0].file) == _WORKER_LOOP
    return in_loop and any(frame.file == "multiprocessing/queues.py" for frame in carried)


def _wait(process: Seen, frames: Sequence[Frame], carried: Sequence[Frame]) -> Doing | None:
    if process.state == "R":
        return None  # it works: backward and a synchronisation look the same from Python when they get on
    for kind, file, functions, words in _WAITS:
        for frame in carried:
            if frame.file.startswith(file) and (not functions or frame.function in functions):
                what = words.format(function=frame.function, file=frame.file, line=frame.line)
                outer = frames[len(carried) : len(carried) + 1]
                called = f", called from {outer[0].place}" if kind in {"queue", "lock", "children"} and outer else ""
                return Doing(kind=kind, what=what + called, key=what)
    return None


def _standing(process: Seen, frames: Sequence[Frame]) -> Doing:
    """No wait that is known: say where it stands."""
    if not frames:
        if not process.state:
            return Doing(kind="unknown", what="could not be looked at")
        in_kernel = f"waits in the kernel{_wchan(process)}" if process.state != "R" else "runs"
        return Doing(kind="unknown", what=f"{in_kernel}; its Python stack could not be read", key=in_kernel)
    frame = frames[0]
    kind, verb = _verb(process)
    return Doing(kind=kind, what=f"{verb} {frame.place}", key=f"{verb} {frame.function} ({frame.file})")


# (calls, or none for any; what the path begins with; kind; phrase)
_CALLS: tuple[tuple[frozenset[str], str, str, str], ...] = (
    (_SLEEPS, "", "sleep", "sleeps in"),
    (frozenset({"futex"}), "", "lock", "waits for a lock in"),
    (frozenset({"wait4", "waitid"}), "", "children", "waits for a child process in"),
    (_FILE_CALLS, "pipe:", "children", "waits for a pipe in"),
    (frozenset(), "socket:", "in", "waits for a connection in"),
)


def _verb(process: Seen) -> tuple[str, str]:
    """What a process does in its innermost frame, as its call in the kernel tells: the kind, and a phrase."""
    if process.state == "R":
        return "in", "runs in"
    for calls, prefix, kind, phrase in _CALLS:
        if (not calls or process.call in calls) and process.path.startswith(prefix):
            return kind, phrase
    return "in", "is in"


# ---- the family
class _Tree:
    """Who is who: the trainer, the ranks of a multi-GPU training, the dataloader workers of each."""

    def __init__(self, processes: Iterable[Seen]) -> None:
        self.all = sorted(processes, key=lambda one: (one.start, one.pid))
        self.by_pid = {one.pid: one for one in self.all}
        self.ranks = {
            one.rank: one
            for one in reversed(self.all)  # of two with the same number the older one is the rank
            if one.rank is not None and self._parent_rank(one) != one.rank
        }
        launched = [one for one in self.all if one.trainer] or self.all[:1]
        only_rank = list(self.ranks.values()) if len(self.ranks) == 1 else []
        self.head = next(iter(only_rank or launched), None)

    def _parent_rank(self, one: Seen) -> int | None:
        parent = self.by_pid.get(one.parent)
        return parent.rank if parent is not None else None

    def below(self, head: Seen) -> list[Seen]:
        """All that descends from a process, without it, oldest first."""
        family = {head.pid}
        while more := {one.pid for one in self.all if one.parent in family} - family:
            family |= more
        return [one for one in self.all if one.pid in family - {head.pid}]

    def workers(self, head: Seen) -> list[Seen]:
        """The dataloader workers of a process, oldest first."""
        return [one for one in self.below(head) if one.parent == head.pid and _is_worker(one)]

    def name(self, one: Seen) -> str:
        """Who that is, for a person."""
        if one is self.ranks.get(-1 if one.rank is None else one.rank) and len(self.ranks) > 1:
            return f"rank {one.rank}"
        if one is self.head:
            return "main process"
        parent = self.by_pid.get(one.parent)
        siblings = self.workers(parent) if parent is not None else []
        if one in siblings:
            return f"dataloader worker {siblings.index(one) + 1} of {len(siblings)} (pid {one.pid})"
        return f"process {one.name or '?'} (pid {one.pid})"


def _is_worker(one: Seen) -> bool:
    in_loop = any((frame.function, frame.file) == _WORKER_LOOP for frame in main_thread(one.stack))
    return in_loop or one.name == "pt_data_worker"  # the name that torch gives them, where a stack may not be read


def _of_one(tree: _Tree, head: Seen) -> str:
    """The culprit among the family of one process, and that it waits for it; else what it does itself."""
    own = doing(head)
    me = tree.name(head)
    workers, below = tree.workers(head), tree.below(head)
    suspects = workers if own.kind == "data" else below
    stopped = [one for one in suspects if one.state in STOPPED]
    if own.kind in {"stopped", "file"} or (own.kind not in {"data", "children", "queue", "unknown"} and not stopped):
        return f"{me} {own.what}"
    culprits = sorted((one for one in suspects if _may_block(one, own)), key=_guilt)
    if culprits:
        first, alike = culprits[0], sum(_guilt(one) == _guilt(culprits[0]) for one in culprits)
        others = f" (and {alike - 1} more)" if alike > 1 else ""
        waits = own.what if own.kind == "unknown" else "waits for it"
        return f"{tree.name(first)} {doing(first).what}{others}; {me} {waits}"
    return f"{me} {own.what}" + (_of_workers(workers) if own.kind == "data" else "")


def _of_workers(workers: Sequence[Seen]) -> str:
    """What is odd about workers of which none is to blame."""
    if not workers:
        return ", and none is there"
    idle = sum(doing(one).kind == "work" for one in workers)
    if idle < len(workers):
        return ", whose stacks could not be read"
    return ", and the only one waits for work" if idle == 1 else f", and all {idle} of them wait for work"


def _may_block(one: Seen, head: Doing) -> bool:
    """Whether a process may be what its head waits for; where nobody knows what that does, only the plain cases."""
    kind = doing(one).kind
    return kind in {"stopped", "file"} if head.kind == "unknown" else kind not in {"work", "unknown"}


def _guilt(one: Seen) -> int:
    """The lower, the likelier: what is stopped or waits for a file holds others up; what waits for others does not."""
    order = ("stopped", "file", "in", "lock", "sleep", "gpu", "ranks", "queue", "data", "children")
    kind = doing(one).kind
    return order.index(kind) if kind in order else len(order)


def _of_ranks(tree: _Tree) -> str:
    """Which rank does something else than the others, and what."""
    ranks = dict(sorted(tree.ranks.items()))
    each = {number: doing(one) for number, one in ranks.items()}
    common = _common(list(each.values()))
    waiting = [number for number, one in each.items() if one.key == common]
    odd = [number for number in ranks if number not in waiting]
    if not odd:
        return f"every rank {each[waiting[0]].what}"
    told = "; ".join(_of_one(tree, ranks[number]).replace("; ", ", ") for number in odd[:3])
    more = f"; and {len(odd) - 3} more ranks" if len(odd) > 3 else ""
    if not waiting:
        return told + more
    who = f"every rank but {odd[0]}" if len(odd) == 1 and len(ranks) > 2 else _numbered(waiting)
    return f"{who} {_plural(each[waiting[0]].what, who)}; {told}{more}"


def _common(each: Sequence[Doing]) -> str:
    """What the ranks wait for in common: a collective before all else, else what more than half of them do."""
    in_collective = Counter(one.key for one in each if one.kind == "ranks")
    if in_collective:
        return in_collective.most_common(1)[0][0]
    key, count = Counter(one.key for one in each).most_common(1)[0]
    return key if count * 2 > len(each) else ""


def _numbered(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    return f"ranks {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _plural(what: str, who: str) -> str:
    """The phrase for several: `waits in` becomes `wait in`."""
    if not who.startswith("ranks "):
        return what
    verb, _, rest = what.partition(" ")
    return f"{ {'is': 'are', 'waits': 'wait', 'runs': 'run', 'sleeps': 'sleep'}.get(verb, verb) } {rest}"
