"""One life of the probe, seen from the daemon: its lines, its board, its end."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from supervisor.sources.gpu_board import BOARD_BYTES, Board

END_S = 1.0  # how long its end is waited for: one that hangs in the driver cannot be ended at all
_CHUNK = 65536
_ROOT = str(Path(__file__).resolve().parents[2])
#: What `python -m` does, but for the folder in which the daemon was started: whoever writes there must not be imported.
#: (-P does the same, from Python 3.11 on.)
_BEGIN = (
    "import sys; sys.path = [one for one in sys.path if one]; "
    "import runpy; runpy.run_module('supervisor.sources.gpu_probe', run_name='__main__')"
)

log = logging.getLogger("yolo-supervisor")


class Child:
    """A running probe."""

    def __init__(
        self, options: Mapping[str, Any], environment: Mapping[str, str], python: str = sys.executable
    ) -> None:
        """Start it with the options of sources.gpu_probe but the board. OSError where it cannot be started."""
        self.left: frozenset[int] = frozenset(options["leave"])
        self.started_at = time.monotonic()
        self._rest = b""
        memory = os.memfd_create("gpu-probe", os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory, BOARD_BYTES)
            self.board = Board(memory)
            words = [python, "-c", _BEGIN, _json({**options, "board": memory})]
            self.process = subprocess.Popen(
                words,
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(memory,),
                env=_environment(environment),
            )
        finally:
            os.close(memory)
        if self.process.stdin is None or self.process.stdout is None:
            raise AssertionError("both are pipes")
        self._orders = self.process.stdin.fileno()
        self.lines_fd = self.process.stdout.fileno()
        os.set_blocking(self._orders, False)
        os.set_blocking(self.lines_fd, False)

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.process.pid

    def order(self, what: str, **facts: Any) -> bool:
        """Give an order; False if it takes none any more."""
        try:
            os.write(self._orders, (_json({"do": what, **facts}) + "\n").encode())
        except (BrokenPipeError, BlockingIOError):
            return False
        return True

    def lines(self) -> list[dict[str, Any]]:
        """Return what it has said since the last time, without waiting."""
        found: list[dict[str, Any]] = []
        while chunk := self._chunk():
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            found += [told for line in whole if (told := _told(line)) is not None]
        return found

    def ended(self) -> int | None:
        """Return its exit code, negative for a signal; None while it lives."""
        return self.process.poll()

    def end(self) -> bool:
        """End it by SIGTERM, which it does not catch; False if it is still there a moment later, hung in the driver."""
        self.process.terminate()
        if self.process.poll() is None:
            descriptor = os.pidfd_open(self.pid)
            try:
                select.select([descriptor], [], [], END_S)
            finally:
                os.close(descriptor)
        return self.process.poll() is not None

    def close(self) -> None:
        """Give its pipes back. It may live on for all we care: it ends itself when it comes out of its call."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _chunk(self) -> bytes:
        try:
            return os.read(self.lines_fd, _CHUNK)
        except BlockingIOError:
            return b""


def _told(line: bytes) -> dict[str, Any] | None:
    """One line of the probe; None for what it did not write: a library that is loaded there may print."""
    try:
        told: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        log.warning("the probe of the GPUs printed %r", line[:200])
        return None
    return told if "say" in told else None


def _json(facts: Mapping[str, Any]) -> str:
    return msgspec.json.encode(facts).decode()


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Its environment: where our package is, and one arena of memory, as its threads hardly use any."""
    given_path = given.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join([*filter(os.path.isabs, given_path), _ROOT])
    return {**given, "PYTHONPATH": path, "MALLOC_ARENA_MAX": "1"}
