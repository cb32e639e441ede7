"""Are the trainings alive? Watches them by pidfd, across restarts of the daemon, and reads how they ended.

Per attempt (design, "Shim"): exit.json there and lock free → exited, nothing left; lock held → watch; lock free but the
trainer alive → its shim was killed, watch all the same; nothing left and no exit.json → lost, or a reboot.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from supervisor import attempt_files, layout
from supervisor.attempt_files import Started
from supervisor.clock import current_boot
from supervisor.core import events
from supervisor.core.model import Attempt, Boot, Run, World

log = logging.getLogger("yolo-supervisor")

PATIENT_S = 1.0
BUSY_S = 0.005  # a shim writes exit.json within a few milliseconds
BUSY_SHARE = 0.25  # of the time since the death: leftovers may stay for hours
EXIT_RECORD_S = 1.0  # how long a dead trainer's exit.json may take before the shim's lock is asked


@dataclass
class Watch:
    """What is known about one attempt."""

    run: str
    number: int
    directory: Path
    pidfd: int = -1
    started: Started | None = None
    dead_since: float = 0.0
    exit_sent: bool = False
    cleared_sent: bool = False
    trouble: str = ""

    def report_again(self, attempt: Attempt) -> None:
        """Tell anew what was told and is not known: the event was lost. What is known already does no harm."""
        self.exit_sent = self.exit_sent and attempt.ended_at is not None
        self.cleared_sent = False

    def close(self) -> None:
        """Give the handle back."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class ProcessSource:
    """Reports AttemptExited and AttemptCleared, and now and then the full list of what is alive."""

    def __init__(
        self,
        runs_dir: Path,
        world: Callable[[], World],
        put: Callable[[events.Event], None],
        now: Callable[[], float],
    ) -> None:
        """`world` gives the newest world; `put` reports; `now` stamps."""
        self._runs_dir = runs_dir
        self._world = world
        self._put = put
        self._now = now
        self._watches: dict[tuple[str, int], Watch] = {}
        self._boot = current_boot()
        self._poll = select.poll()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._wake_read, select.POLLIN)
        self._stopping = False
        self._observe = False
        self._thread = threading.Thread(target=self._work, name="processes", daemon=True)

    # ---- from other threads
    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the watching; nothing that is watched notices."""
        self._stopping = True
        self.wake()
        self._thread.join(2.0)

    def wake(self) -> None:
        """The world changed: look at it soon."""
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            return  # a full pipe wakes as well

    def observe(self) -> None:
        """Report the full list of living attempts."""
        self._observe = True
        self.wake()

    # ---- the thread
    def _work(self) -> None:
        while not self._stopping:
            try:
                self.look()
            except Exception:
                log.exception("a bug: watching processes failed")
            self._wait(self._patience_s())
        for watch in self._watches.values():
            watch.close()

    def _patience_s(self) -> float:
        """Look often at what has just died, and ever more seldom at what is then still not cleared."""
        now = self._now()
        dead = [watch for watch in self._watches.values() if watch.dead_since and not watch.cleared_sent]
        return min([PATIENT_S, *(max(BUSY_S, BUSY_SHARE * (now - watch.dead_since)) for watch in dead)])

    def _wait(self, timeout_s: float) -> None:
        for descriptor, _ in self._poll.poll(timeout_s * 1000):
            if descriptor == self._wake_read:
                self._drain_wakes()
                continue
            self._poll.unregister(descriptor)
            for watch in self._watches.values():
                if watch.pidfd == descriptor:
                    watch.close()
                    watch.dead_since = self._now()

    def _drain_wakes(self) -> None:
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            return

    def look(self) -> None:
        """One round over all attempts that may have processes."""
        wanted = {(run.id, attempt.number): (run, attempt) for run, attempt in _followed(self._world())}
        for key in [key for key in self._watches if key not in wanted]:
            self._forget(self._watches.pop(key))
        for key, (run, attempt) in wanted.items():
            watch = self._watches.get(key)
            if watch is None:
                watch = self._watches[key] = self._open(run, attempt)
            elif self._observe:
                watch.report_again(attempt)
            self._examine_safely(watch)
        if self._observe:
            self._observe = False
            alive = tuple(key for key, watch in self._watches.items() if watch.pidfd >= 0)
            self._put(events.Observed(at=self._now(), origin="processes", alive=alive))

    def _open(self, run: Run, attempt: Attempt) -> Watch:
        directory = layout.run_directory(self._runs_dir, run.job.project, run.name).attempt(attempt.number).root
        known = attempt.ended_at is not None
        return Watch(run.id, attempt.number, directory, exit_sent=known)

    def _forget(self, watch: Watch) -> None:
        if watch.pidfd >= 0:
            self._poll.unregister(watch.pidfd)
        watch.close()

    def _examine_safely(self, watch: Watch) -> None:
        """Look at one attempt. Where its files cannot be read nothing is known of it; the others are still watched."""
        try:
            self._examine(watch)
        except (OSError, ValueError) as error:
            if str(error) != watch.trouble:
                log.warning("attempt %s of %s cannot be observed: %s", watch.number, watch.run, error)
            watch.trouble = str(error)
        else:
            watch.trouble = ""

    def _examine(self, watch: Watch) -> None:
        if watch.pidfd >= 0 and watch.started is not None and _is_left(watch.directory, watch.started):
            self._forget(watch)
            watch.dead_since = self._now()  # for us
        if watch.pidfd >= 0 or watch.cleared_sent:
            return
        if watch.started is None:
            watch.started = attempt_files.read_started(watch.directory)
            if watch.started is None:
                return  # not started yet: the launch reports that
        if not watch.dead_since and _is_left(watch.directory, watch.started):
            watch.dead_since = self._now()
        if not watch.dead_since and not self._attach(watch):
            watch.dead_since = self._now()
        if watch.dead_since:
            self._bury(watch)

    def _attach(self, watch: Watch) -> bool:
        """Get a handle on the trainer; False if it is gone or the number belongs to another process."""
        started = watch.started
        if started is None or self._other_boot(started):
            return False
        try:
            pidfd = os.pidfd_open(started.pid)
        except ProcessLookupError:
            return False
        if attempt_files.process_start_time(started.pid) != started.start_time:
            os.close(pidfd)
            return False
        watch.pidfd = pidfd
        self._poll.register(pidfd, select.POLLIN)
        return True

    def _other_boot(self, started: Started) -> bool:
        return Boot(boot_id=started.boot_id, pid1_start_time=started.pid1_start_time or 0) != self._boot

    def _bury(self, watch: Watch) -> None:
        """The trainer is gone: report how, then when nothing of the attempt is left."""
        if not watch.exit_sent:
            watch.exit_sent = self._report_exit(watch)
        if watch.exit_sent and self._is_clear(watch):
            watch.cleared_sent = True
            self._put(
                events.AttemptCleared(at=self._now(), origin="processes", run=watch.run, attempt=watch.number),
            )

    def _report_exit(self, watch: Watch) -> bool:
        record = attempt_files.read_exit(watch.directory)
        if record is not None:
            self._put_exit(
                watch,
                code=record.code,
                signal=record.signal,
                ended_at=record.ended_at,
                launch_error=record.launch_error or "",
            )
            return True
        if watch.started is not None and self._other_boot(watch.started):
            self._put_exit(watch, lost="the machine restarted")
            return True
        patient = self._now() - watch.dead_since < EXIT_RECORD_S
        if patient or not attempt_files.lock_is_free(watch.directory):
            return False  # the shim lives and will write; on a full disk it tries until it can
        self._put_exit(watch, lost="its shim was killed, so its exit code is not known")
        return True

    def _put_exit(self, watch: Watch, *, ended_at: float = 0.0, **facts: object) -> None:
        self._put(
            events.AttemptExited(
                at=self._now(),
                origin="processes",
                run=watch.run,
                attempt=watch.number,
                ended_at=ended_at or self._now(),
                **facts,  # type: ignore[arg-type]
            ),
        )

    def _is_clear(self, watch: Watch) -> bool:
        started = watch.started
        if started is None or self._other_boot(started):
            return True
        if not attempt_files.lock_is_free(watch.directory):
            return False
        if _is_left(watch.directory, started):
            return True
        return not attempt_files.descendants_and_marked(watch.directory, started.shim_pid, started.pid)


def _is_left(directory: Path, started: Started) -> bool:
    """Tell whether a person's training was only watched and is not any more: it goes on, and is none of ours."""
    if not started.watched:
        return False
    record = attempt_files.read_exit(directory)
    return record is not None and record.detached


def _followed(world: World) -> list[tuple[Run, Attempt]]:
    """The attempts that may have processes."""
    return [
        (run, run.attempt)
        for run in world.live.values()
        if run.attempt is not None and run.attempt.launches > 0 and not run.attempt.cleared
    ]
