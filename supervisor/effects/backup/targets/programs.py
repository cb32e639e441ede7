"""Running a transfer program: for hours if need be, but never longer than it gets on, and never beyond our own end.

short_child is for programs with a deadline; a transfer has none. It ends when nothing of it was heard for too long, or
when the daemon stops. No shell, no inherited environment, no input; what it writes is handed on line by line.
"""

from __future__ import annotations

import os
import pwd
import re
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from supervisor.effects.backup.targets.base import TargetError

KEPT_BYTES = 64 * 1024  # of what it complains of, the end
LONGEST_LINE_BYTES = 1024 * 1024  # more without an end of line is no line of any program that is run here
TERM_S = 5.0  # after SIGTERM: a receiving rsync puts away what it has
KILL_S = 5.0  # after SIGKILL: longer takes only what waits in the kernel for a disk
LOOK_S = 0.25  # how soon a stop is noticed

_READ_BYTES = 64 * 1024
_ENDS = re.compile(rb"[\r\n\0]")
_USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Line = Callable[[bytes], None]


@dataclass(frozen=True)
class Ended:
    """How a program ended. `code` is negative for a signal; `errors` is the end of what it wrote to stderr."""

    code: int
    errors: str


def nothing(line: bytes) -> None:
    """Nobody wants to know what the program says."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a program gets to see: where programs are, whose it is, and words and times as we read them.

    No agent, no proxy, no token of the daemon: SSH_AUTH_SOCK would let it use keys that were not meant for it.
    """
    home = os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    path = os.environ.get("PATH") or _USUAL_PATH
    return {"PATH": path, "HOME": home, "LANG": "C", "LC_ALL": "C", "TZ": "UTC0", **(extra or {})}


class Programs:
    """Starts programs for one target. They inherit `pass_fds`, and end when `stop` is set."""

    def __init__(self, stop: threading.Event, pass_fds: Sequence[int] = ()) -> None:
        """`pass_fds`: open files that they hold as long as they run, such as a lock."""
        self._stop = stop
        self._pass_fds = tuple(pass_fds)

    def run(
        self,
        argv: Sequence[str],
        *,
        silence_s: float,
        env: Mapping[str, str] | None = None,
        line: Line = nothing,
        pass_fds: Sequence[int] = (),
    ) -> Ended:
        """Run a program in "/" to its end; `line` gets what it writes to stdout, split at CR, LF and NUL, unended.

        `env` is added to `environment`. Raises TargetError: "stopped"; "timeout" where nothing was heard of it for
        `silence_s`; "no-rsync" or "no-rclone" where it is not installed; what `line` raises. It has ended then, or
        hangs in the kernel.
        """
        self.demand_going()
        child = self._started(argv, environment(env), pass_fds)
        try:
            watch = _Watch(child, line)
        except BaseException:
            _kill(child)
            child.wait()
            raise
        try:
            self._watched(watch, argv[0], silence_s)
            return Ended(watch.code(), watch.errors())
        finally:
            watch.close()

    def demand_going(self) -> None:
        """TargetError "stopped" once the daemon stops."""
        if self._stop.is_set():
            raise TargetError("stopped", "the daemon stops")

    def _started(self, argv: Sequence[str], env: Mapping[str, str], pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                argv,
                env=dict(env),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(*self._pass_fds, *pass_fds),
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise _lacking(argv[0]) from error
        except OSError as error:
            raise TargetError("failed", f"{argv[0]} cannot be started: {error.strerror}") from error

    def _watched(self, watch: _Watch, program: str, silence_s: float) -> None:
        """Read until it ends; end it when it must."""
        try:
            while not watch.ended_within(LOOK_S):
                self.demand_going()
                watch.demand_heard(program, silence_s)
        except BaseException:
            watch.end()
            raise


def _lacking(program: str) -> TargetError:
    name = Path(program).name
    cause = "no-rclone" if name == "rclone" else "no-rsync" if name == "rsync" else "failed"
    return TargetError(cause, f"{name} is not installed on this server")


def _kill(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to what is left of its session; the child is not yet waited for, so that the number is still its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


class _Watch:
    """Reads what a child writes until it ends."""

    def __init__(self, child: subprocess.Popen[bytes], line: Line) -> None:
        self._child = child
        self._line = line
        self._pidfd = os.pidfd_open(child.pid)
        self._rest = b""
        self._errors = b""
        self._heard = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pidfd, selectors.EVENT_READ)
        for stream, take in ((child.stdout, self._take), (child.stderr, self._complain)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self._selector.register(stream, selectors.EVENT_READ, (stream, take))

    def demand_heard(self, program: str, within_s: float) -> None:
        """TargetError "timeout" where nothing was heard for longer."""
        if time.monotonic() - self._heard > within_s:
            text = f"nothing was heard of {Path(program).name} for {within_s:.0f} s: {self.errors().strip()[-300:]}"
            raise TargetError("timeout", text.rstrip(": "))

    def ended_within(self, wait_s: float) -> bool:
        """Read for so long; True if the child ended, with everything it wrote handed on."""
        deadline = time.monotonic() + wait_s
        while (left_s := deadline - time.monotonic()) > 0:
            ended = False
            for key, _ in self._selector.select(left_s):
                if key.data is None:
                    ended = True
                elif not self._read(*key.data):
                    self._selector.unregister(key.fileobj)
            if ended:
                self._reap()
                return True
        return False

    def _reap(self) -> None:
        """The child has ended: what it started ends too, and what stands in the pipes is read."""
        _kill(self._child)
        self._child.wait()
        for key in list(self._selector.get_map().values()):
            while key.data is not None and self._read(*key.data, last=True):
                continue
        if self._rest:
            self._line(self._rest)
            self._rest = b""

    def end(self) -> None:
        """SIGTERM, then SIGKILL to all that is left of it. One that does not end of that hangs in the kernel."""
        if self._child.returncode is not None:
            return
        self._line = nothing
        self._child.send_signal(signal.SIGTERM)
        if not self.ended_within(TERM_S):
            _kill(self._child)
            self.ended_within(KILL_S)

    def code(self) -> int:
        """The exit code."""
        return self._child.wait()

    def errors(self) -> str:
        """The end of what it wrote to stderr."""
        return self._errors.decode("utf-8", "replace")

    def _read(self, stream: IO[bytes], take: Line, *, last: bool = False) -> bool:
        """Take what is there; False at the end of the stream, and (`last`) when nothing is there."""
        try:
            data = os.read(stream.fileno(), _READ_BYTES)
        except BlockingIOError:
            return not last
        self._heard = time.monotonic()
        take(data)
        return bool(data)

    def _take(self, data: bytes) -> None:
        *lines, self._rest = _ENDS.split(self._rest + data)
        if len(self._rest) > LONGEST_LINE_BYTES:
            raise TargetError(
                "failed", f"a line of more than {LONGEST_LINE_BYTES} bytes came from {self._child.args!r}"
            )
        for line in lines:
            self._line(line)

    def _complain(self, data: bytes) -> None:
        self._errors = (self._errors + data)[-KEPT_BYTES:]

    def close(self) -> None:
        """Give everything back."""
        self._selector.close()
        os.close(self._pidfd)
        for stream in (self._child.stdout, self._child.stderr):
            if stream is not None:
                stream.close()
