"""SIGTERM: end at the next safe point, with exit code 75 and the last checkpoint untouched."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from typing import Any, Callable

#: How long a stop may wait for a callback of the trainer (a long scan, one huge batch) before the process
#: leaves without one. torchrun kills its ranks 30 s after its own SIGTERM, so this must be well below.
FORCE_AFTER_S = 20.0
#: The other ranks of a multi-GPU training only give rank 0 the time to reach the end of its batch.
FORCE_OTHER_RANK_AFTER_S = 5.0
_LOOK_AGAIN_S = 0.2


class StopRequest:
    """Whether somebody asked this training to stop, and whether this moment is safe for it.

    `writing` spans every moment in which the trainer may be writing a checkpoint; `final` starts when the
    last epoch is saved. While either holds the process never leaves on its own. `before_force` is called right
    before the process leaves without a callback of the trainer, and returns its exit code.
    """

    def __init__(self, on_request: Callable[[int], None], before_force: Callable[[], int]) -> None:
        self.signal_number: int | None = None
        self.writing = False
        self.final = False
        self.force_after_s = FORCE_AFTER_S
        #: This process only launched torchrun: the signal is passed on, rank 0 decides, nothing is forced.
        self.forwards = False
        self._on_request = on_request
        self._before_force = before_force
        self._owner_pid = os.getpid()
        self._previous: Any = None
        self._forgets_in_child = False
        # Taken by the forcing thread from its look at the flags to the exit: a save cannot begin in between.
        self._flags = threading.Lock()

    @property
    def due(self) -> bool:
        """True when the training should leave at this very point."""
        return self.signal_number is not None and not self.writing and not self.final

    def set_writing(self, writing: bool) -> None:
        """Note that a checkpoint may be written from now on, or not any more."""
        if writing != self.writing:
            with self._flags:
                self.writing = writing

    def set_final(self, final: bool) -> None:
        """Note that only the trainer's finishing work is left, or (False) that a new training begins."""
        with self._flags:
            self.final = final
            self.writing = False

    def listen(self, replace: bool) -> None:
        """Handle SIGTERM from now on; without `replace` a handler of the user's own script is left alone."""
        current = signal.getsignal(signal.SIGTERM)
        if current == self._handle:
            return
        if not replace and current is not signal.SIG_DFL:
            print("yolo-supervisor: SIGTERM has a handler already, it is kept", file=sys.stderr, flush=True)
            return
        try:
            self._previous = signal.signal(signal.SIGTERM, self._handle)
        except ValueError:  # not the main thread of the user's script
            print("yolo-supervisor: training outside the main thread, SIGTERM ends it at once", file=sys.stderr)
            return
        if not self._forgets_in_child:
            self._forgets_in_child = True
            os.register_at_fork(after_in_child=self._forget_in_child)

    def stop_listening(self) -> None:
        """Give SIGTERM back to whoever had it before `listen`."""
        if self._previous is not None and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _forget_in_child(self) -> None:
        """In a forked dataloader worker SIGTERM means what it always means."""
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _handle(self, number: int, _frame: Any) -> None:
        if os.getpid() != self._owner_pid or self.signal_number is not None:
            return
        self.signal_number = number
        self._on_request(number)
        # Not threading.Thread: its start takes locks that the interrupted main thread may hold.
        _thread.start_new_thread(self._forward if self.forwards else self._force, ())

    def _forward(self) -> None:
        """Pass the signal on once: a second one would disturb torchrun while it ends its ranks.

        The launcher may not be there yet.
        """
        while self.signal_number is not None and not forward_to_launcher(self.signal_number):
            time.sleep(_LOOK_AGAIN_S)

    def _force(self) -> None:
        time.sleep(self.force_after_s)
        while True:
            with self._flags:
                if self.final:
                    return
                if not self.writing:
                    os._exit(self._before_force())
            time.sleep(_LOOK_AGAIN_S)


def forward_to_launcher(number: int) -> bool:
    """Send a signal to torchrun, if it is a direct child of this process; return whether it was found.

    A child that nobody has waited for keeps its number, so it cannot belong to anybody else.
    """
    launchers = [child for child in _children() if b"torch.distributed" in _read(f"/proc/{child}/cmdline")]
    for launcher in launchers:
        os.kill(launcher, number)
    return bool(launchers)


def _children() -> list[int]:
    tasks = os.listdir("/proc/self/task")
    return [int(pid) for task in tasks for pid in _read(f"/proc/self/task/{task}/children").split()]


def _read(path: str) -> bytes:
    """Return a file of /proc, or nothing if its process or thread is gone."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
