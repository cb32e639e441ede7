"""What the processes of one training do: who is stopped, who waits in the kernel for storage, who computes."""

from __future__ import annotations

import msgspec

#: A process that trains: the only one, or one rank of a multi-GPU training.
MAIN = "main"
#: One that loads images for it.
WORKER = "worker"
OTHER = "other"
#: A process that starts none of the work by itself (torchrun, loggers' services) is OTHER.

_STOPPED_STATES = frozenset("Tt")
_FREEZER = ("do_freezer_trap", "__refrigerator")
#: Kernel functions in which a process waits for storage or for a server of files, also where it may be interrupted.
_STORAGE_WAITS = (
    "nfs", "rpc_wait", "__rpc_", "fuse_simple", "fuse_wait", "request_wait_answer", "cifs_", "smb2_", "ceph_", "p9_",
    "v9fs_", "ll_", "ptlrpc_", "gfs2_", "ocfs2_", "io_schedule", "folio_wait", "wait_on_page", "wait_on_buffer",
    "jbd2_", "xfs_", "ext4_", "btrfs_", "blk_", "bit_wait_io", "balance_dirty_pages", "locks_lock_inode_wait",
)  # fmt: skip
#: A dataloader's worker that reads from a socket waits for a server of files (an object store).
_SERVER_WAITS = ("wait_woken", "sk_wait_data", "tcp_recvmsg")
_GPU_WAITS = ("nv_", "nvidia", "uvm_", "os_acquire", "rm_")


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the tree at one moment.

    `io_bytes`: read and written so far, through any descriptor; None where that may not be seen. `state`: the letter of
    /proc/PID/stat; `wchan`: the kernel function that it waits in. `where`: the slow mount that it waits for.
    """

    pid: int
    start_time: int
    cpu_s: float
    io_bytes: int | None
    role: str = MAIN
    rank: int | None = None
    state: str = "S"
    wchan: str = ""
    where: str = ""

    @property
    def is_stopped(self) -> bool:
        """By a signal, a debugger or a frozen control group."""
        return self.state in _STOPPED_STATES or self.wchan in _FREEZER

    @property
    def waits_in_kernel(self) -> bool:
        """For storage or a driver: no signal reaches it, or none should."""
        if self.is_stopped:
            return False
        remote = self.role == WORKER and self.wchan.startswith(_SERVER_WAITS)
        return remote or self.state == "D" or self.wchan.startswith(_STORAGE_WAITS)

    @property
    def name(self) -> str:
        """What a person calls it."""
        kind = {MAIN: "the training", WORKER: "dataloader worker"}.get(self.role, "process")
        return f"rank {self.rank} (pid {self.pid})" if self.rank is not None else f"{kind} (pid {self.pid})"


class Stuck(msgspec.Struct, frozen=True):
    """Who can do nothing at the moment, whatever it wants."""

    stopped: tuple[Process, ...] = ()
    waiting: tuple[Process, ...] = ()


class Moved(msgspec.Struct, frozen=True):
    """What happened between two looks: cores by pid, and the bytes moved by who moved most (None: unknown)."""

    shares: dict[int, float]
    most_io_bytes: int | None

    @property
    def most_cpu(self) -> float:
        """The cores of the process that used most."""
        return max(self.shares.values(), default=0.0)


_NOBODY = Stuck()


def look(processes: tuple[Process, ...]) -> Stuck:
    """Who is stopped, and who waits for storage."""
    for process in processes:
        if process.state != "S" or process.wchan:
            break
    else:
        return _NOBODY
    stopped = tuple(process for process in processes if process.is_stopped)
    waits = tuple(process for process in processes if process.waits_in_kernel)
    return Stuck(stopped, waits) if stopped or waits else _NOBODY


def between(before: tuple[Process, ...], after: tuple[Process, ...], seconds: float) -> Moved:
    """What the processes did in so many seconds. A new one counts from its start, one that is gone not at all."""
    known = {(process.pid, process.start_time): process for process in before}
    shares, moved_bytes = dict[int, float](), list[int]()
    for process in after:
        then = known.get((process.pid, process.start_time))
        shares[process.pid] = (process.cpu_s - (then.cpu_s if then is not None else 0.0)) / max(seconds, 1e-9)
        before_bytes = then.io_bytes if then is not None else 0
        if process.io_bytes is not None and before_bytes is not None:
            moved_bytes.append(process.io_bytes - before_bytes)
    return Moved(shares, max(moved_bytes) if after and len(moved_bytes) == len(after) else None)


def who_is_stopped(stuck: Stuck) -> str:
    """The stopped processes in words, and by what."""
    first = stuck.stopped[0]
    how = {"t": "held by a debugger", "T": "stopped by a signal (SIGSTOP)"}.get(
        first.state, "in a frozen control group"
    )
    others = f" and {len(stuck.stopped) - 1} more" if len(stuck.stopped) > 1 else ""
    return f"{first.name}{others} is {how}"


def who_waits(stuck: Stuck) -> str:
    """The processes that wait in the kernel in words, and for what."""
    first = next((process for process in stuck.waiting if process.where), stuck.waiting[0])
    what = (
        f"for {first.where}"
        if first.where
        else "for the GPU driver"
        if first.wchan.startswith(_GPU_WAITS)
        else "for storage"
    )
    inside = f" in {first.wchan}" if first.wchan else ""
    others = f" and {len(stuck.waiting) - 1} more" if len(stuck.waiting) > 1 else ""
    return f"{first.name}{others} waits{inside} {what}"
