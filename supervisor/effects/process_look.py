"""One process of a training that stands still: all that can be seen of it from outside, within a deadline.

What comes first never blocks. What may block comes last, because it reads the memory of the process: where that hangs
the rest is known all the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from supervisor import config
from supervisor.core.diagnosis import verdict
from supervisor.core.diagnosis.verdict import Seen
from supervisor.machine import blocked_calls, mounts, stacks

DUMP_S = 4.0
FILES = 200
THREADS = 200
COMMAND_CHARACTERS = 500
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """What a process has used. None: not ours to read."""

    cpu_s: float
    rss_bytes: int
    threads: int
    read_bytes: int | None
    written_bytes: int | None


class Look:
    """A look at one process, which fills itself: what is there when time is over is what was seen."""

    def __init__(self, pid: int, parent: int, start_time: int, *, trainer: bool) -> None:
        """Know who it is; see nothing yet."""
        self.pid = pid
        self.parent = parent
        self.start_time = start_time
        self.trainer = trainer
        self.name = ""
        self.command = ""
        self.rank: int | None = None
        self.threads: tuple[stacks.Thread, ...] = ()
        self.call = blocked_calls.Call()
        self.mount = ""
        self.helper = blocked_calls.Call()  # of the first thread that waits for a file while the main one does not
        self.helper_mount = ""
        self.files: tuple[str, ...] = ()
        self.slow_files: tuple[str, ...] = ()
        self.first: Numbers | None = None
        self.last: Numbers | None = None
        self.dump = stacks.Dump()
        self.kernel_stack = ""
        self.denied: list[str] = []
        self.complete = False

    def take(self, table: Sequence[mounts.Entry], deadline: float) -> None:
        """Look at everything. `deadline` is of time.monotonic; `table` tells which files lie on a server elsewhere."""
        self.first = numbers(self.pid)
        self.threads = stacks.threads(self.pid)[:THREADS]
        self.name = self.threads[0].name if self.threads else ""
        self._look_at_kernel_stack()
        self._look_at_files(table)
        self.dump = stacks.dump(self.pid, max(0.1, min(DUMP_S, deadline - time.monotonic())))
        if self.dump.refused:
            self.denied.append(f"Python stacks: {self.dump.refused}")
        self._look_at_call(table)
        self._look_at_words()
        self.last = numbers(self.pid)
        self.complete = True

    def _look_at_kernel_stack(self) -> None:
        self.kernel_stack = stacks.kernel_stack(self.pid) or ""
        if not self.kernel_stack:
            self.denied.append("kernel stack: not readable")

    def _look_at_files(self, table: Sequence[mounts.Entry]) -> None:
        found = stacks.open_files(self.pid)
        if found is None:
            self.denied.append("open files: not readable")
            return
        self.files = found[:FILES]
        self.slow_files = tuple(path for path in found if slow_mount(path, table))[:FILES]

    def _look_at_call(self, table: Sequence[mounts.Entry]) -> None:
        self.call = blocked_calls.blocked_call(self.pid)
        self.mount = slow_mount(self.call.path, table)
        if self.call.denied:
            self.denied.append("blocked call: not readable")
        elif not verdict.waits_for_file(self.call.name, self.call.path):
            others = (blocked_calls.blocked_call(self.pid, thread.tid) for thread in self.threads[1:])
            waiting = (call for call in others if verdict.waits_for_file(call.name, call.path))
            self.helper = next(waiting, self.helper)
            self.helper_mount = slow_mount(self.helper.path, table)

    def _look_at_words(self) -> None:
        words = _bytes(f"/proc/{self.pid}/cmdline").replace(b"\0", b" ").decode("utf-8", "replace")
        self.command = words.strip()[:COMMAND_CHARACTERS]
        ranks = [word for word in _bytes(f"/proc/{self.pid}/environ").split(b"\0") if word.startswith(b"RANK=")]
        with suppress(ValueError):
            self.rank = int(ranks[0][5:]) if ranks else None

    def seen(self) -> Seen:
        """Return what the verdict is made of."""
        main = self.threads[0] if self.threads else None
        return Seen(
            pid=self.pid,
            parent=self.parent,
            start=self.start_time,
            trainer=self.trainer,
            name=self.name,
            rank=self.rank,
            state=main.state if main is not None else "",
            wchan=main.wchan if main is not None else "",
            call=self.call.name,
            path=self.call.path,
            mount=self.mount,
            helper_call=self.helper.name,
            helper_path=self.helper.path,
            helper_mount=self.helper_mount,
            stack=self.dump.text,
        )

    def record(self) -> dict[str, Any]:
        """Return what is stored, but for the stacks."""
        used = self.last or self.first
        return {
            "pid": self.pid,
            "parent": self.parent,
            "start_time": self.start_time,
            "name": self.name,
            "command": self.command,
            "rank": self.rank,
            "threads": msgspec.to_builtins(self.threads),
            "blocked_call": msgspec.to_builtins(self.call),
            "mount": self.mount,
            "blocked_call_of_a_thread": msgspec.to_builtins(self.helper),
            "used": msgspec.to_builtins(used),
            "cpu_s_meanwhile": round(self.last.cpu_s - self.first.cpu_s, 2) if self.first and self.last else None,
            "open_files": self.files,
            "slow_files": self.slow_files,
            "stacks_by": self.dump.by,
            "denied": self.denied,
            "complete": self.complete,
        }

    def text(self) -> str:
        """Return the stacks as they are stored."""
        kernel = self.kernel_stack or "(not readable)"
        return (
            f"{self.dump.text or '(no Python stacks: ' + self.dump.refused + ')'}\n\nKernel, main thread:\n{kernel}\n"
        )


def slow_mount(path: str, table: Sequence[mounts.Entry]) -> str:
    """Return how the mount of a path is told if a server or a program holds it, else an empty text. By its name alone.

    Nothing of the path is touched: it is what may hang.
    """
    covering = [entry for entry in table if path.startswith("/") and mounts.below(path, entry.point)]
    if not covering:
        return ""
    longest = max(len(entry.point) for entry in covering)
    mount = [entry for entry in covering if len(entry.point) == longest][-1]  # a later one hides an earlier one
    is_slow = config.is_network_type(mount.type) or mount.type.startswith("fuse")
    return f"{mount.type} mount {mount.point}" if is_slow else ""


def numbers(pid: int) -> Numbers | None:
    """Return what a process has used so far, None where it is gone."""
    fields = _bytes(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if not fields:
        return None
    used = dict(line.split(b": ") for line in _bytes(f"/proc/{pid}/io").splitlines())
    return Numbers(
        cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_S,
        rss_bytes=int(fields[21]) * PAGE_BYTES,
        threads=int(fields[17]),
        read_bytes=int(used[b"read_bytes"]) if b"read_bytes" in used else None,
        written_bytes=int(used[b"write_bytes"]) if b"write_bytes" in used else None,
    )


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
