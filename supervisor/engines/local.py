"""Attempts on this machine: one shim each, which outlives the daemon."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from supervisor import attempt_files, layout, trainers
from supervisor.core import events
from supervisor.core.actions import Launch, Terminate
from supervisor.core.job import Watch
from supervisor.core.model import Boot
from supervisor.engines import environment
from supervisor.errors import PermanentError, RetryableError
from supervisor.machine import ranks

SHIM_TIMEOUT_S = 30.0
LAUNCHED_BEFORE = 17  # the shim's exit code: this attempt directory has been used
LOCK_HELD = 18
# the shim's exit codes after which nothing was launched, and what is waited for: no pidfd, died before the start was
# durable, disk full
NOT_NOW = {69: "memory", 70: "memory", 73: "disk"}
UMASK = 0o022
RANK_S = 1.0  # to be told by a process that may hang who it is
STACKS_S = 0.05  # a trainer with 30 threads writes its stacks within 5 ms
SIGNAL_OF = {"term": "SIGTERM", "abort": "SIGABRT"}  # kill, and what a newer daemon may have ordered: SIGKILL


class LocalEngine:
    """See base.Engine."""

    def __init__(self, runs_dir: Path, now: Callable[[], float], *, allow_download: bool) -> None:
        """`now` stamps the answers; `allow_download` leaves Ultralytics its network."""
        self._runs_dir = runs_dir
        self._now = now
        self._allow_download = allow_download

    # ---- launch
    def launch(self, action: Launch) -> tuple[events.Event, ...]:
        """See Engine.launch."""
        job = action.job
        run_dir = layout.run_directory(self._runs_dir, job.project, job.name)
        attempt_dir = run_dir.attempt(action.attempt)
        if not attempt_dir.started.exists() and not attempt_dir.exit.exists():
            _check_fence(run_dir, action)
            lacking = self._start(action, run_dir, attempt_dir)
            if lacking is not None:
                return (lacking,)
        started = _read_start(attempt_dir)
        boot = Boot(boot_id=started.boot_id, pid1_start_time=started.pid1_start_time or 0)
        launched = events.Launched(
            at=self._now(),
            origin="engine",
            run=action.run,
            attempt=action.attempt,
            pid=started.pid,
            shim_pid=started.shim_pid,
            boot=boot,
            started_at=started.started_at,
        )
        return (launched,)

    def _start(
        self, action: Launch, run_dir: layout.RunDirectory, attempt_dir: layout.AttemptDirectory
    ) -> events.LaunchFailed | None:
        """Start the shim; LaunchFailed where it is certain that nothing runs because the machine lacks something."""
        try:
            self._write_launch(action, run_dir, attempt_dir)
        except OSError as error:
            return self._lacking(action, str(error), "disk")
        code, message = self._start_shim(attempt_dir, action.job.watch if action.start == "watch" else None)
        if code in NOT_NOW:
            return self._lacking(action, message, NOT_NOW[code])
        if code not in {0, LAUNCHED_BEFORE}:
            raise PermanentError(message)
        return None

    def _lacking(self, action: Launch, reason: str, waiting_for: str) -> events.LaunchFailed:
        return events.LaunchFailed(
            at=self._now(),
            origin="engine",
            run=action.run,
            attempt=action.attempt,
            reason=reason,
            waiting_for=waiting_for,
        )

    def _write_launch(self, action: Launch, run_dir: layout.RunDirectory, attempt_dir: layout.AttemptDirectory) -> None:
        if action.start == "watch":
            _write_watch(action, run_dir, attempt_dir)
            return
        job = action.job
        argv, train = trainers.trainer_for(job).launch_spec(action, run_dir, free_port())
        env = environment.build(action, run_dir, os.environ, allow_download=self._allow_download)
        launch = attempt_files.Launch(
            run=action.run,
            attempt=action.attempt,
            token=action.token,
            argv=tuple(argv),
            env=env,
            cwd=job.cwd or str(run_dir.root),
            umask=UMASK,
            log_max_bytes=job.log_max_bytes,
            train=None if train is None else _train_section(train, action),
        )
        attempt_dir.root.mkdir(parents=True, exist_ok=True)
        attempt_files.write_launch(attempt_dir.root, launch)

    def _start_shim(self, attempt_dir: layout.AttemptDirectory, watch: Watch | None) -> tuple[int, str]:
        options = [] if watch is None else ["--watch", str(watch.pid), str(watch.start_time)]
        argv = [sys.executable, "-I", "-S", "-E", str(layout.SHIM), *options, str(attempt_dir.root)]
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SHIM_TIMEOUT_S,
                check=False,
                cwd="/",
            )
        except subprocess.TimeoutExpired as error:
            raise RetryableError("the shim does not confirm the start; the disk may be slow", 5.0) from error
        if done.returncode == LOCK_HELD:
            raise RetryableError("another shim of this attempt is starting", 1.0)
        message = done.stderr.decode(errors="replace").strip() or f"shim exit code {done.returncode}"
        return done.returncode, message

    # ---- end
    def terminate(self, action: Terminate) -> tuple[events.Event, ...]:
        """See Engine.terminate."""
        attempt_dir = layout.run_directory(self._runs_dir, action.project, action.name).attempt(action.attempt).root
        started = attempt_files.read_started(attempt_dir)
        if started is None or not attempt_files.is_same_boot(started):
            return (self._sent(action, 0),)
        if started.watched:
            return (self._sent(action, _let_go(attempt_dir, started, self._now()), "LEAVE"),)
        if action.how == "term":
            # To the trainer alone, in a hang too. It decides when: at a safe point, and our runner passes it on to
            # torchrun, once, which asks the ranks; a second one, as to a whole group, would make torchrun give up on
            # them. Dataloader workers would die of it at once, and the save that is asked for with them.
            sent = attempt_files.signal_process(started.pid, started.start_time, signal.SIGTERM)
            return (self._sent(action, int(sent)),)
        if action.how == "abort":
            return (self._sent(action, abort_trainers(started)),)
        return (self._sent(action, kill_tree(attempt_dir, started)),)

    def _sent(self, action: Terminate, count: int, name: str = "") -> events.SignalSent:
        name = name or SIGNAL_OF.get(action.how, "SIGKILL")
        return events.SignalSent(
            at=self._now(), origin="engine", run=action.run, attempt=action.attempt, signal=name, count=count
        )


def _train_section(train: dict[str, Any], action: Launch) -> attempt_files.Train:
    override = action.epochs_override or None
    return msgspec.convert({**train, "settings": action.job.settings, "epochs_override": override}, attempt_files.Train)


def _write_watch(action: Launch, run_dir: layout.RunDirectory, attempt_dir: layout.AttemptDirectory) -> None:
    """Write the launch.json of a watcher: nothing is executed, and nothing of the person's environment is kept."""
    watch = action.job.watch
    if watch is None:
        raise PermanentError("the job names no process to watch")
    launch = attempt_files.Launch(
        run=action.run,
        attempt=action.attempt,
        token=action.token,
        argv=(str(layout.SHIM), "--watch", str(watch.pid), str(watch.start_time)),
        env={attempt_files.ATTEMPT_DIR_VARIABLE: str(attempt_dir.root)},
        cwd=str(run_dir.root),
        umask=UMASK,
        log_max_bytes=0,
    )
    attempt_dir.root.mkdir(parents=True, exist_ok=True)
    attempt_files.write_launch(attempt_dir.root, launch)


def _let_go(attempt_dir: Path, started: attempt_files.Started, now: float) -> int:
    """Have the watcher leave a person's training that goes on; how many were told. Nothing else gets a signal, ever.

    A training that has ended needs no order: its watcher leaves when nothing is left of it. Where the watcher was
    killed, its record is made for it, so that the order is carried out all the same.
    """
    if attempt_files.process_start_time(started.pid) != started.start_time:
        return 0
    if not attempt_files.lock_is_free(attempt_dir):
        return int(attempt_files.signal_process(started.shim_pid, started.shim_start_time, signal.SIGUSR1))
    if attempt_files.read_exit(attempt_dir) is None:
        left = attempt_files.Exit(
            code=None, signal=None, ended_at=now, started_at=started.started_at, watched=True, detached=True
        )
        attempt_files.write_exit(attempt_dir, left)
    return 0


def abort_trainers(started: attempt_files.Started) -> int:
    """SIGABRT to the trainer and to the ranks of a multi-GPU training, which leave their stacks in the log; how many.

    A rank is told by what it does with the signal: it catches it (faulthandler, by our hook) and its parent, torchrun,
    does not; and by its RANK, or that parent's command line. The dataloader workers of a trainer or a rank inherit its
    handler, and are left out: their owner would see one die first, and report that instead. What is no rank, such as a
    service in Go or Java, gets nothing here; SIGKILL follows. A watched training gets nothing, whoever asks.
    """
    if started.watched:
        return 0
    own = attempt_files.descendants(started.pid, started.start_time)
    catching = {pid for pid in own if attempt_files.catches(pid, signal.SIGABRT)}
    found = [pid for pid in own if pid in catching and _is_rank(pid, own[pid][0], catching)]
    aborted = 0
    for pid in [*(pid for pid in found if pid != started.pid), started.pid]:
        if pid in own:
            with suppress(PermissionError):  # of another user: SIGKILL meets the same, and it is said there
                aborted += attempt_files.signal_process(pid, own[pid][1], signal.SIGABRT)
                _give_time_to_write(pid)
    return aborted


def _is_rank(pid: int, parent: int, catching: set[int]) -> bool:
    if parent in catching:
        return False
    rank = ranks.rank_of(pid, RANK_S)
    if rank is None:
        return ranks.is_launcher(parent, RANK_S)
    return rank != ranks.rank_of(parent, RANK_S)  # what a rank starts inherits its variable


def _give_time_to_write(pid: int) -> None:
    """Wait for milliseconds: two that write their stacks at once would write them into each other's lines."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        select.select([handle], [], [], STACKS_S)
    finally:
        os.close(handle)


def kill_tree(attempt_dir: Path, started: attempt_files.Started) -> int:
    """SIGKILL every process of an attempt but its shim; how many. Rounds, because a dying tree may still fork.

    Of a watched training nothing, whoever asks.
    """
    if started.watched:
        return 0
    killed: set[tuple[int, int]] = set()
    for _ in range(10):
        found = set(attempt_files.descendants_and_marked(attempt_dir, started.shim_pid, started.pid)) - killed
        if not found:
            break
        for pid, start_time in found:
            with suppress(PermissionError):  # of another user: whoever made it so must end it
                attempt_files.signal_process(pid, start_time, signal.SIGKILL)
        killed |= found
    return len(killed)


def _check_fence(run_dir: layout.RunDirectory, action: Launch) -> None:
    """A late order for an attempt that the run has left behind starts nothing. Raises PermanentError."""
    try:
        token = msgspec.json.decode(run_dir.token.read_bytes()).get("token")
    except FileNotFoundError as error:
        raise PermanentError("the run directory has no fence: it is not the one that was prepared") from error
    except (OSError, ValueError) as error:
        raise RetryableError(f"the fence of the run cannot be read: {error}") from error
    if token != action.token:
        raise PermanentError(f"the run directory is held by token {token}, this attempt has {action.token}")


def _read_start(attempt_dir: layout.AttemptDirectory) -> attempt_files.Started:
    """Who was started. Raises PermanentError only where it is certain that nobody was."""
    try:
        started = attempt_files.read_started(attempt_dir.root)
        if started is None:
            raise PermanentError(_launch_error(attempt_dir))
    except (OSError, ValueError) as error:
        raise RetryableError(f"it cannot be read whether the attempt was started: {error}") from error
    return started


def _launch_error(attempt_dir: layout.AttemptDirectory) -> str:
    ended = attempt_files.read_exit(attempt_dir.root)
    return (ended.launch_error if ended is not None else None) or "the shim left no record of a start"


def free_port() -> int:
    """A TCP port that was free a moment ago, for {port} in commands of distributed trainers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
