"""While one file is copied the one before it is made safe, named and read again: disks do both at a time."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from supervisor.effects.backup.targets.base import TargetError

LARGE_BYTES = 8 * 1024 * 1024  # smaller ones are made safe together
#: A change of a file shows in its ctime, which a kernel counts in ticks of up to 10 ms: one that is younger than two
#: ticks may change without looking changed.
SETTLED_S = 0.02
_AHEAD = 1  # files that wait: each is open

Identity = tuple[int, int, int, int, int]


class Closing(Protocol):
    """Something that is to be given back."""

    def close(self) -> None:
        """Give it back."""


Item = TypeVar("Item", bound=Closing)


class Settler(Generic[Item]):
    """A thread that settles one thing after the other, in their order, and closes each, also those it gives up.

    To be used as a context manager: at its end all is settled, or what went wrong is raised.
    """

    def __init__(self, settle: Callable[[Item], None]) -> None:
        """`settle` is called in the thread. What it raises is raised by `put` or at the end, and no more is settled."""
        self._settle = settle
        self._waiting: queue.Queue[Item | None] = queue.Queue(_AHEAD)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._gives_up = False

    def put(self, item: Item) -> None:
        """Have it settled, once there is room. From here on it is closed by the thread, or by this when it raises."""
        try:
            self._start()
            self._demand_sound()
            self._waiting.put(item)
        except BaseException:
            item.close()
            raise

    def _demand_sound(self) -> None:
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._work, name="backup-settle", daemon=True)  # it may hang on a dead mount
        try:
            thread.start()
        except RuntimeError as error:
            raise TargetError("failed", f"no thread can be started: {error}") from error
        self._thread = thread

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._error is None and not self._gives_up:
                self._error = self._tried(item)
            item.close()

    def _tried(self, item: Item) -> Exception | None:
        try:
            self._settle(item)
        except Exception as error:  # noqa: BLE001 - whoever puts the next one gets it
            return error
        return None

    def __enter__(self) -> Settler[Item]:
        """Nothing is started yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Wait for all of it; after an error only until everything is closed."""
        self._gives_up = kind is not None
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
        if kind is None:
            self._demand_sound()


# ---- what was read again already
def identity(handle: int) -> Identity:
    """Which file it is, and in which state: any write to it changes this."""
    status = os.fstat(handle)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Verdicts:
    """Files that hold the same bytes as what was sent, as the disk said a moment ago. Each counts once."""

    def __init__(self) -> None:
        """None is known."""
        self._same: dict[str, tuple[Identity, Identity]] = {}

    def note(self, place: str, here: Identity, there: Identity) -> None:
        """Both held the same bytes, read since they were in these states."""
        if time.time_ns() - max(here[-1], there[-1]) > SETTLED_S * 1e9:
            self._same[place] = here, there

    def take(self, place: str, here: int, there: int) -> bool:
        """True if both are what they were then; that is forgotten now."""
        return self._same.pop(place, None) == (identity(here), identity(there))
