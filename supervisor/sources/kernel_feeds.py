"""Where records of the kernel come from: its own log, else systemd's journal, which others may read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from supervisor.machine.kernel_log import KERNEL, READ_BYTES, KernelLog, Record

CANARY_S = 10.0
#: A child of ours that asks for nothing should end at once when it is told to.
END_S = 2.0
_READ_BYTES = 256 * 1024
_LINE_MAX_BYTES = 1024 * 1024
_COMMAND = ("-k", "-o", "json", "--no-pager", "--quiet")


class Feed(Protocol):
    """Records as they come."""

    overwritten: int
    ended: bool

    def fileno(self) -> int:
        """To be waited on."""
        ...

    def records(self) -> Iterator[Record]:
        """Yield what there is now, from this boot's beginning on; see machine.kernel_log.KernelLog."""
        ...

    def close(self) -> None:
        """Give handles and children back."""
        ...


class KernelFeed(KernelLog):
    """/dev/kmsg, or what stands in for it."""

    way = "kmsg"

    def __init__(self, path: Path) -> None:
        """Raises OSError where it may not be read, or is a device from which nothing will ever come."""
        super().__init__(path)
        if path.is_char_device():
            try:
                prove_device(self.fileno())
            except OSError:
                self.close()
                raise


class JournalFeed:
    """What `journalctl` tells of the kernel in this boot. Its records have no number: -1."""

    way = "journald"

    def __init__(self, program: str = "journalctl") -> None:
        """Raises OSError where it is not installed, may not be read, or does not hold the kernel's messages."""
        found = shutil.which(program)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "it is not installed", program)
        _prove(found)
        self._child = subprocess.Popen(
            [found, *_COMMAND, "--follow", "--lines=all"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        pipe = self._child.stdout
        if pipe is None:  # it was asked for
            raise OSError(errno.EPIPE, "no pipe", program)
        self._pipe = pipe
        os.set_blocking(pipe.fileno(), False)
        self._rest = b""
        self.overwritten = 0
        self.ended = False

    def fileno(self) -> int:
        """See Feed."""
        return self._pipe.fileno()

    def records(self) -> Iterator[Record]:
        """See Feed. `ended`: the program is gone, and must be started anew."""
        while True:
            try:
                data = os.read(self.fileno(), _READ_BYTES)
            except BlockingIOError:
                return
            self.ended = not data
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) > _LINE_MAX_BYTES:
                self._rest = b""
            yield from filter(None, map(record_of, lines))

    def close(self) -> None:
        """See Feed. A child that does not end is killed: it holds nothing."""
        self._child.terminate()
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._pipe.close()


def prove_device(handle: int) -> None:
    """Every boot has messages of the kernel. Raises OSError where there are none; reading begins anew afterwards."""
    try:
        if not os.read(handle, READ_BYTES):
            raise OSError(errno.ENODATA, "it holds no messages of the kernel")
    except BlockingIOError:
        raise OSError(errno.ENODATA, "it holds no messages of the kernel") from None
    except BrokenPipeError:
        pass  # messages that were overwritten
    os.lseek(handle, 0, os.SEEK_SET)


def record_of(line: bytes) -> Record | None:
    """The record of one line of `journalctl -o json`; None for what is no message."""
    try:
        fields: Any = json.loads(line)
        message = fields["MESSAGE"]
        at_s = int(fields.get("_SOURCE_MONOTONIC_TIMESTAMP") or fields["__MONOTONIC_TIMESTAMP"]) / 1e6
        facility = int(fields.get("SYSLOG_FACILITY", KERNEL))
        text = bytes(message).decode("utf-8", "replace") if isinstance(message, list) else str(message)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    ours = fields.get("_TRANSPORT") == "kernel"
    return Record(-1, at_s, facility if ours else KERNEL + 1, text)


def _prove(program: str) -> None:
    """Every boot has messages of the kernel: a journal that shows none would be followed for ever without a word."""
    try:
        run = subprocess.run(
            [program, *_COMMAND, "--lines=1"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CANARY_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(errno.ETIMEDOUT, f"no answer within {CANARY_S:.0f} s", program) from None
    if not any(map(record_of, run.stdout.splitlines())):
        words = run.stderr.decode("utf-8", "replace").strip().splitlines()
        raise PermissionError(errno.EACCES, words[-1] if words else "it holds no messages of the kernel", program)


def opened(kmsg: Path, program: str = "journalctl") -> KernelFeed | JournalFeed:
    """Open the kernel's own log, else the journal. Raises OSError: why neither can be read, in words."""
    try:
        return KernelFeed(kmsg)
    except OSError as error:
        first = f"{kmsg}: {error.strerror}"
    try:
        return JournalFeed(program)
    except OSError as error:
        raise OSError(errno.EACCES, f"{first}; {program}: {error.strerror}") from None
