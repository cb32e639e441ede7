"""Work that leaves the processors to the trainings: in a thread of its own, which is the last to get any.

Linux counts niceness by thread; what a nice thread starts, threads and programs, is as nice, and waits longer for disks
too (its I/O priority follows where nobody set one). It is never that of the idle class, which on a busy machine may
get nothing at all for longer than a transfer may be silent.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

NICE = 19

Order = TypeVar("Order")
Answer = TypeVar("Answer")


class Gentle(Generic[Order, Answer]):
    """Carries out each order as the handler that it wraps would, in a nice thread, and waits for it."""

    def __init__(self, handler: Callable[[Order], Answer]) -> None:
        """`handler` is called in another thread than this is called in; what it raises is raised here."""
        self._handler = handler

    def __call__(self, order: Order) -> Answer:
        """Return what the handler returns. The calling thread stays as it is: nobody may become less nice again."""
        answers: list[Answer] = []
        errors: list[BaseException] = []

        def work() -> None:
            with suppress(OSError):  # a kernel that refuses: then it is done as usual
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
            try:
                answers.append(self._handler(order))
            except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                errors.append(error)

        thread = threading.Thread(target=work, name=f"{threading.current_thread().name}-nice", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread can be had: better as usual than not at all
            return self._handler(order)
        thread.join()
        if errors:
            raise errors[0]
        return answers[0]
