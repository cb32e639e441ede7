"""Work on a disk that may stop answering for ever: a dead network mount lets whoever touches it hang in the kernel.

Such work cannot be ended. It is done in a thread of its own, which is left behind when nothing is heard of it; while it
hangs, nothing else is begun at the same place, so that a mount that is dead for a week costs one thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from supervisor.effects.backup.targets.base import TargetError

LOOK_S = 0.25
STOPPED_S = 5.0  # of silence after a stop: work that gets on ends at its next step

Answer = TypeVar("Answer")

_lock = threading.Lock()
_hanging: dict[str, threading.Thread] = {}


class Going:
    """How far the work is. It asks to go on at every step; whoever was left behind is told to give up."""

    def __init__(self, stop: threading.Event, bwlimit: int = 0) -> None:
        """`bwlimit`: bytes per second, 0 for as many as there are."""
        self._stop = stop
        self._bwlimit = bwlimit
        self._began = time.monotonic()
        self._moved_bytes = 0
        self.left_behind = False
        self.heard = self._began

    def on(self) -> None:
        """TargetError "stopped" where it must not go on."""
        self.heard = time.monotonic()
        if self._stop.is_set() or self.left_behind:
            raise TargetError("stopped", "the daemon stops")

    def moved(self, count: int) -> None:
        """So many bytes more have moved: wait as the limit says. TargetError "stopped" as `on`."""
        self.on()
        self._moved_bytes += count
        while self._bwlimit and (early_s := self._early_s()) > 0:
            self._stop.wait(min(early_s, 1.0))
            self.on()

    def trouble(self, place: str, silence_s: float) -> TargetError | None:
        """Why nobody should wait for it any longer."""
        silent_s = time.monotonic() - self.heard
        if self._stop.is_set() and silent_s > STOPPED_S:
            return TargetError("stopped", "the daemon stops")
        if silent_s > silence_s:
            return TargetError("timeout", f"{place} did not answer for {silence_s:.0f} s")
        return None

    def _early_s(self) -> float:
        return self._moved_bytes / self._bwlimit - (time.monotonic() - self._began)


class _Work(threading.Thread, Generic[Answer]):
    def __init__(self, work: Callable[[Going], Answer], going: Going) -> None:
        super().__init__(name="backup", daemon=True)  # the end of the program waits for no dead mount
        self._work = work
        self._going = going
        self.answers: list[Answer] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.answers.append(self._work(self._going))
        except Exception as error:  # noqa: BLE001 - whoever waits for it gets it
            self.error = error


def watched(place: str, work: Callable[[Going], Answer], going: Going, silence_s: float) -> Answer:
    """Return what `work` returns or raise what it raises; TargetError "timeout" where it does nothing for `silence_s`.

    "timeout" at once where other work still hangs at `place`.
    """
    _demand_free(place)
    thread = _Work(work, going)
    try:
        thread.start()
    except RuntimeError as error:
        raise TargetError("failed", f"no thread can be started: {error}") from error
    while thread.is_alive():
        thread.join(LOOK_S)
        trouble = going.trouble(place, silence_s) if thread.is_alive() else None
        if trouble is not None:
            _leave(place, thread, going)
            raise trouble
    if thread.error is not None:
        raise thread.error
    return thread.answers[0]


def _leave(place: str, thread: threading.Thread, going: Going) -> None:
    going.left_behind = True
    with _lock:
        _hanging[place] = thread


def _demand_free(place: str) -> None:
    with _lock:
        thread = _hanging.get(place)
        if thread is None:
            return
        if thread.is_alive():
            raise TargetError("timeout", f"{place} still does not answer")
        del _hanging[place]
