"""Looking again and again: a bug in a look is said once, and must not end the looking for good."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("yolo-supervisor")


class Safely:
    """Does what is to be done, whatever comes of it; the same bug is said once."""

    def __init__(self, about: str) -> None:
        """`about` is what is being done, as in "a bug: `about` failed"."""
        self._about = about
        self._broken = ""

    def __call__(self, what: Callable[[], None]) -> None:
        """Do it."""
        try:
            what()
        except Exception as error:
            if repr(error) != self._broken:
                log.exception("a bug: %s failed", self._about)
            self._broken = repr(error)


class Rounds:
    """Looks, waits, and looks again, until it is stopped."""

    def __init__(self, name: str, look: Callable[[], None], every_s: Callable[[], float]) -> None:
        """`look` is called every `every_s()` seconds in a thread called `name`, first after that time."""
        self._look = look
        self._every_s = every_s
        self._safely = Safely(name)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def over(self) -> bool:
        """True once it was stopped: a long look should end then."""
        return self._stopped.is_set()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, within_s: float = 2.0) -> None:
        """End; a look that hangs for longer than `within_s` is left behind."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(within_s)

    def look_safely(self) -> None:
        """Look once, whatever comes of it."""
        self._safely(self._look)

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s()):
            self.look_safely()
