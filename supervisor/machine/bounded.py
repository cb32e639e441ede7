"""Questions to the machine that may never be answered: a dead network mount lets every look at it hang in the kernel.

Such a look cannot be ended, so it is made in a thread of its own that may be left behind. A question that still hangs
is never asked a second time beside the first one: what is dead for a week costs one thread, not one every few seconds.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")

_lock = threading.Lock()
_open: dict[str, _Question] = {}


class NoAnswerError(OSError):
    """The machine did not answer in time; ETIMEDOUT, so that it counts as trouble of the machine."""

    def __init__(self, about: str, within_s: float) -> None:
        """`about` is what was looked at, such as a path."""
        super().__init__(errno.ETIMEDOUT, f"no answer within {within_s:.1f} s", about)


def ask(about: str, look: Callable[[], Answer], within_s: float) -> Answer:
    """Return what `look` returns, or raise what it raises; NoAnswerError where it takes longer than `within_s`.

    OSError (EAGAIN) where no thread can be started for it. `about` names the question, with all that the answer depends
    on: while one of that name is open, whoever asks it again waits for the same answer.
    """
    with _lock:
        question = _open.get(about)
        if question is None:
            question = _open[about] = _begun(about, look)
    question.join(within_s)
    if question.is_alive():
        raise NoAnswerError(about, within_s)
    if question.error is not None:
        raise question.error
    answer: Answer = question.answer
    return answer


def _begun(about: str, look: Callable[[], Any]) -> _Question:
    question = _Question(about, look)
    try:
        question.start()
    except RuntimeError as error:  # no thread can be started now
        raise OSError(errno.EAGAIN, str(error), about) from error
    return question


class _Question(threading.Thread):
    """One look, under way or over."""

    def __init__(self, about: str, look: Callable[[], Any]) -> None:
        super().__init__(name="look", daemon=True)  # the end of the program waits for no dead mount
        self._about = about
        self._look = look
        self.answer: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.answer = self._look()
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            self.error = error
        finally:
            with _lock:
                del _open[self._about]
