"""Our own processes on a GPU that is about to be given out: those of an attempt that is over are ended.

Proof of death: where a training may start, no process of an older attempt computes any more. Ended is only what is
proven to be a leftover; whatever else is there is waited for.
"""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import msgspec
import psutil

from supervisor import attempt_files, layout
from supervisor.core.gpus.model import Holder
from supervisor.core.model import Run, World
from supervisor.machine import bounded
from supervisor.machine.gpu_processes import GpuProcesses

TERM_S = 5.0  # for its kernels to end: SIGKILL inside one can leave the GPU's counters latched
KILL_S = 5.0
ENVIRONMENT_S = 1.0  # it takes a lock on the memory of the process, which may hang with it


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A process of ours on a GPU: whose it is, and whether it is proven that its attempt is over."""

    pid: int
    start_time: int
    run: Run
    attempt: int
    over: bool

    @property
    def words(self) -> str:
        """`pid 4242 of truck (attempt 3)`."""
        return f"pid {self.pid} of {self.run.name} (attempt {self.attempt})"


def find(pid: int, world: World, runs_dir: Path) -> Found | Holder | None:
    """Whose a process is: one of our runs, a stranger, or None if it is gone."""
    start_time = attempt_files.process_start_time(pid)
    one = GpuProcesses(lambda: world).whose(pid)
    if start_time is None or one is None:
        return None
    if isinstance(one, Holder):
        return one
    run = world.run(one.run)
    if run is None:
        return Holder(pid=pid, command=f"of {one.run}, of which nothing is known any more")
    over = _is_over(pid, run, one.attempt, runs_dir)
    return Found(pid=pid, start_time=start_time, run=run, attempt=one.attempt, over=over)


def _is_over(pid: int, run: Run, number: int, runs_dir: Path) -> bool:
    """Proven that the process is a leftover: its attempt has ended, no shim watches over it, and it is of this boot."""
    now = run.attempt
    if not number or now is None or number > now.number or (number == now.number and not now.cleared):
        return False
    folder = layout.run_directory(runs_dir, run.job.project, run.name).attempt(number).root
    try:
        started = attempt_files.read_started(folder)
        if started is None or started.watched or not attempt_files.is_same_boot(started):
            return False
        shim_lives = attempt_files.process_start_time(started.shim_pid) == started.shim_start_time
        return (
            not shim_lives and attempt_files.lock_is_free(folder) and _is_marked(pid, folder) and not _below_shim(pid)
        )
    except (OSError, ValueError, psutil.Error):  # "cannot observe" is not "is over"
        return False


def _is_marked(pid: int, folder: Path) -> bool:
    """The attempt's own folder stands in its environment: a run of that name may be another supervisor's too."""
    path = Path(f"/proc/{pid}/environ")
    environment = bounded.ask(str(path), path.read_bytes, ENVIRONMENT_S).split(b"\0")
    return os.fsencode(f"{attempt_files.ATTEMPT_DIR_VARIABLE}={folder}") in environment


def _below_shim(pid: int) -> bool:
    """True if any shim is above it, which watches over it and will end it; or if not all above it could be seen."""
    above = psutil.Process(pid).parents()
    if not above or above[-1].pid != 1:
        return True
    return any(os.fspath(layout.SHIM) in _words(parent) for parent in above)


def _words(process: psutil.Process) -> list[str]:
    return bounded.ask(f"command line of {process.pid}", process.cmdline, ENVIRONMENT_S)


def end(found: Found, *, term_s: float = TERM_S, kill_s: float = KILL_S) -> bool:
    """End a leftover: SIGTERM, then SIGKILL. True when it is gone; one that hangs in the kernel stays."""
    try:
        handle = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return True
    try:
        if attempt_files.process_start_time(found.pid) != found.start_time:
            return True
        return _ended_by(handle, signal.SIGTERM, term_s) or _ended_by(handle, signal.SIGKILL, kill_s)
    except PermissionError:
        return False
    finally:
        os.close(handle)


def _ended_by(handle: int, number: int, wait_s: float) -> bool:
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(wait_s * 1000))
