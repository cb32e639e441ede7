"""A program that must come to an end in time: its output is bounded, and one that cannot be ended is left behind."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

import msgspec

from supervisor import attempt_files

TERM_S = 3.0  # after SIGTERM
KILL_S = 5.0  # after SIGKILL: longer takes only what waits in the kernel for a driver or a disk
KEPT_BYTES = 64 * 1024  # of each stream, its end
_READ_BYTES = 64 * 1024

_left_behind: list[subprocess.Popen[bytes]] = []
_lock = threading.Lock()


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a child ended. `code` is negative for a signal, and None for one that is still there.

    `late`: it was still running at its deadline, and was told to end.
    """

    code: int | None
    out: str = ""
    errors: str = ""
    late: bool = False


def run(
    argv: Sequence[str],
    env: Mapping[str, str],
    deadline_s: float,
    *,
    term_s: float = TERM_S,
    tied: bool = False,
    kept_bytes: int = KEPT_BYTES,
) -> Ended:
    """Run a program in "/", without a shell, in a session of its own.

    Its standard input is empty; `tied`: it is open, and ends with this process, so that the program can end with it.
    After `deadline_s` it gets SIGTERM, `term_s` later it and what it started get SIGKILL. One that does not even end of
    that hangs in the kernel: nobody waits for it. Of what it writes the last `kept_bytes` of each stream are kept.
    Raises OSError if it cannot be started.
    """
    _reap_left_behind()
    child = subprocess.Popen(
        argv,
        env=dict(env),
        cwd="/",
        stdin=subprocess.PIPE if tied else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        watch = _Watch(child, kept_bytes)
    except OSError:
        child.kill()
        raise
    try:
        late = not watch.ended_within(deadline_s)
        if late:
            _end(child, watch, term_s)
        return Ended(code=watch.code(), out=watch.text(child.stdout), errors=watch.text(child.stderr), late=late)
    finally:
        watch.close()


def _end(child: subprocess.Popen[bytes], watch: _Watch, term_s: float) -> None:
    """SIGTERM; then SIGKILL to all that is left of it, what it had started included."""
    family = _family(child)
    _signal({pid: began for pid, began in family.items() if pid == child.pid}, signal.SIGTERM)
    ended = watch.ended_within(term_s)
    _signal(family | _family(child), signal.SIGKILL)
    if not ended:
        watch.ended_within(KILL_S)


def _family(child: subprocess.Popen[bytes]) -> dict[int, int]:
    """A child and all that descends from it: pids, and when each began."""
    start_time = attempt_files.process_start_time(child.pid)
    found = attempt_files.descendants(child.pid, start_time) if start_time is not None else {}
    return {pid: began for pid, (_, began) in found.items()}


def _signal(family: Mapping[int, int], number: int) -> None:
    for pid, began in family.items():
        with suppress(PermissionError):  # it became another user, as sudo does: it must end by itself
            attempt_files.signal_process(pid, began, number)


def _reap_left_behind() -> None:
    """What was left behind may have ended since: it must not stay a zombie."""
    with _lock:
        _left_behind[:] = [child for child in _left_behind if child.poll() is None]


class _Watch:
    """Reads what a child writes until it ends; of a process that holds the pipes longer nothing is read."""

    def __init__(self, child: subprocess.Popen[bytes], kept_bytes: int) -> None:
        self._child = child
        self._kept_bytes = kept_bytes
        self._pidfd = os.pidfd_open(child.pid)  # not yet waited for: the number is still its own
        self._texts: dict[IO[bytes], bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pidfd, selectors.EVENT_READ)
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self._texts[stream] = b""
                self._selector.register(stream, selectors.EVENT_READ, stream)

    def ended_within(self, wait_s: float) -> bool:
        """Read for so long; True if the child ended."""
        end = time.monotonic() + wait_s
        while (left_s := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left_s):
                if key.data is None:
                    self._child.wait()
                    for stream in self._texts:
                        self._read(stream)
                    return True
                if not self._read(key.data):
                    self._selector.unregister(key.data)
        return False

    def code(self) -> int | None:
        """The exit code; None if the child is still there."""
        return self._child.returncode

    def text(self, stream: IO[bytes] | None) -> str:
        """The end of what it wrote."""
        return self._texts[stream].decode("utf-8", "replace") if stream is not None else ""

    def _read(self, stream: IO[bytes]) -> bool:
        """Take what is there, at most _READ_BYTES at once; False at the end of the stream."""
        try:
            data = os.read(stream.fileno(), _READ_BYTES)
        except BlockingIOError:
            return True
        self._texts[stream] = (self._texts[stream] + data)[-self._kept_bytes :]
        return bool(data)

    def close(self) -> None:
        """Give everything back; a child that is still there is remembered, to be reaped later."""
        self._selector.close()
        os.close(self._pidfd)
        for stream in (self._child.stdin, *self._texts):
            if stream is not None:
                stream.close()
        if self._child.returncode is None:
            with _lock:
                _left_behind.append(self._child)
