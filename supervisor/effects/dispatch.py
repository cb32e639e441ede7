"""Lanes: each kind of action has threads of its own, so that neither a backup nor a launch ever delays a kill."""

from __future__ import annotations

import errno
import heapq
import itertools
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from supervisor.core import actions, events
from supervisor.errors import PermanentError, RetryableError

log = logging.getLogger("yolo-supervisor")

Handler = Callable[[actions.Action], tuple[events.Event, ...]]
Put = Callable[[events.Event], None]

LANES = {
    "kill": 1, "process": 1, "prepare": 4, "check": 2, "disk": 2, "copies": 2, "files": 1, "network": 2, "autopsy": 2,
    "gpu": 2, "prune": 1, "publish": 1, "backup": 1, "restore": 1,
}  # fmt: skip
LANE_OF: dict[type[actions.Action], str] = {
    actions.Terminate: "kill",
    actions.Launch: "process",
    actions.Prepare: "prepare",  # of its own: a look at GPUs and their test may take minutes
    actions.CheckJob: "check",
    actions.MarkFile: "files",
    actions.Examine: "disk",
    actions.Keep: "copies",
    actions.Compare: "check",
    actions.Announce: "network",
    actions.TestGpu: "gpu",  # a test or a reset takes minutes where a driver hangs
    actions.TreatGpu: "gpu",
    actions.BackUp: "backup",  # these four in a lane for each target: see Dispatcher
    actions.VerifyBackup: "backup",
    actions.Drill: "backup",
    actions.Restore: "restore",  # a run waits for it: not behind hours of sending or reading
    actions.Prune: "prune",
    actions.Publish: "publish",  # an export may take an hour
    actions.Autopsy: "autopsy",  # of its own: a kill follows, and a check that takes minutes must not delay it
}

#: What a machine in trouble says; what is about the path itself (EACCES, ENOTDIR …) will not pass by waiting.
NOT_NOW = frozenset({
    errno.EAGAIN, errno.EBUSY, errno.EDQUOT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EINTR, errno.EIO, errno.EMFILE,
    errno.ENFILE, errno.ENODEV, errno.ENOMEM, errno.ENOSPC, errno.ENOTCONN, errno.EREMOTEIO, errno.EROFS, errno.ESTALE,
    errno.ETIMEDOUT,
})  # fmt: skip
NOT_NOW_S = 10.0


class Lane:
    """Some threads that carry out actions in the order of their due times."""

    def __init__(self, name: str, threads: int, carry_out: Callable[[actions.Action], float | None]) -> None:
        """`carry_out` returns the seconds after which the action must be tried again, or None when it is over."""
        self._carry_out = carry_out
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, actions.Action]] = []
        self._order = itertools.count()
        self._open = True
        self._threads = [
            threading.Thread(target=self._work, name=f"lane-{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, action: actions.Action, delay_s: float = 0.0) -> None:
        """Have an action carried out after `delay_s`."""
        with self._condition:
            heapq.heappush(self._heap, (time.monotonic() + delay_s, next(self._order), action))
            self._condition.notify()

    def close(self) -> None:
        """Begin nothing more. The rest stays in the journal."""
        with self._condition:
            self._open = False
            self._condition.notify_all()

    def join(self, end: float) -> None:
        """Wait for what is under way, at most until `end` (of time.monotonic)."""
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while (action := self._next()) is not None:
            delay_s = self._carry_out(action)
            if delay_s is not None:
                self.add(action, delay_s)

    def _next(self) -> actions.Action | None:
        with self._condition:
            while self._open:
                wait_s = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait_s is not None and wait_s <= 0:
                    return heapq.heappop(self._heap)[2]
                self._condition.wait(wait_s)
        return None


class Dispatcher:
    """Gives each action to its lane, and what came of it to the inbox. One key is under way at most once."""

    def __init__(self, handlers: Mapping[type[actions.Action], Handler], put: Put, now: Callable[[], float]) -> None:
        """`now` stamps the events that report a failure."""
        self._handlers = handlers
        self._put = put
        self._now = now
        self._under_way: set[str] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._lanes = {name: Lane(name, threads, self._carry_out) for name, threads in LANES.items()}

    def __call__(self, batch: Sequence[actions.Action]) -> None:
        """Start carrying out actions that were written to the journal."""
        for action in batch:
            with self._lock:
                if self._closed or action.key in self._under_way:
                    continue
                self._under_way.add(action.key)
                lane = self._lane(action)
            lane.add(action)

    def _lane(self, action: actions.Action) -> Lane:
        """The lane of an action. Each backup target has one of its own: a dead one must not hold up the others."""
        target = getattr(action, "target", "")
        name = LANE_OF[type(action)] + (f"-{target}" if target else "")
        if name not in self._lanes:
            self._lanes[name] = Lane(name, 1, self._carry_out)
        return self._lanes[name]

    def close(self, timeout_s: float = 5.0) -> None:
        """End all lanes, within `timeout_s` together; what is not done is done by the next daemon."""
        with self._lock:
            self._closed = True
            lanes = tuple(self._lanes.values())
        for lane in lanes:  # none begins anything while another one is waited for
            lane.close()
        end = time.monotonic() + timeout_s
        for lane in lanes:
            lane.join(end)

    def _carry_out(self, action: actions.Action) -> float | None:
        try:
            results = self._handlers[type(action)](action)
        except RetryableError as error:
            log.info("%s: %s; again in %.0f s", action.key, error, error.after_s)
            return error.after_s
        except PermanentError as error:
            results = (failure(action, str(error), self._now()),)
        except Exception as error:
            if _passes(error):
                log.warning("%s: %s; again in %.0f s", action.key, error, NOT_NOW_S)
                return NOT_NOW_S
            log.exception("a bug: carrying out %s failed", action.key)
            results = (failure(action, f"internal error: {type(error).__name__}: {error}", self._now()),)
        for event in results[:-1]:  # what was found on the way: the answer comes last
            self._put(event)
        for event in results[-1:]:
            self._put(replace(event, answers=action.key))
        with self._lock:
            self._under_way.discard(action.key)
        return None


def _passes(error: Exception) -> bool:
    """True for errors of the machine: they are no verdict on the job ("cannot observe" is not "failed")."""
    return isinstance(error, sqlite3.OperationalError) or (isinstance(error, OSError) and error.errno in NOT_NOW)


def failure(action: actions.Action, reason: str, now: float) -> events.Event:  # noqa: C901, PLR0911, PLR0912 - one case per kind
    """The event that says that an action can never be carried out."""
    when: dict[str, Any] = {"at": now, "origin": "effects"}
    about = {**when, "run": action.run, "attempt": getattr(action, "attempt", 0)}
    match action:
        case actions.Prepare():
            return events.PrepareFailed(**about, reason=reason)
        case actions.Launch():
            return events.LaunchFailed(**about, reason=reason)
        case actions.Terminate():
            return events.SignalSent(**about, signal=f"{action.how} failed: {reason}", count=0)
        case actions.Examine():
            return events.Examined(**about, finished=False, unknown=True, reason=reason)
        case actions.Keep():
            return events.Kept(**about, reason=reason, fault="failed")
        case actions.Compare():
            unknown = f"the epochs could not be compared: {reason}"
            return events.Compared(**about, continuous=True, findings=(unknown,))
        case actions.Autopsy():
            return events.AutopsyDone(**about, summary=f"the autopsy failed: {reason}")
        case actions.TestGpu():
            return events.GpuTested(**when, gpu=action.gpu, ok=False, ran=False, text=reason)
        case actions.TreatGpu():
            return events.GpuTreated(**when, gpu=action.gpu, what=action.what, ok=False, text=reason)
        case actions.BackUp():
            return events.BackupFailed(**when, run=action.run, target=action.target, cause="failed", text=reason)
        case actions.VerifyBackup():
            return events.BackupVerified(**when, target=action.target, cause="failed", text=reason)
        case actions.Drill():
            return events.Drilled(**when, target=action.target, ok=False, cause="failed", text=reason)
        case actions.Restore():
            return events.Restored(**when, run=action.run, target=action.target, ok=False, text=reason)
        case actions.Prune():
            return events.Pruned(**when, text=reason)
        case actions.Publish():
            return events.Published(**when, run=action.run, ok=False, text=reason)
        case actions.CheckJob():
            return events.JobRefused(**when, path=action.path, revision=action.revision, problem=reason)
        case actions.Announce():
            return events.AnnounceFailed(**when, channel=action.channel, reason=reason)
    return events.FileMarked(**when, path=getattr(action, "path", ""))
