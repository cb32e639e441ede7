"""A kernel log of pretence and what surrounds its source: a FIFO, a clock, and who was asked for what."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from supervisor.clock import current_boot
from supervisor.core.model import World
from supervisor.sources import kernel_log
from supervisor.sources.kernel_feeds import KernelFeed
from supervisor.sources.kernel_log import KernelLogSource

GPUS = {"0000:3b:00.0": "GPU-three", "0000:5e:00.0": "GPU-five"}
OURS = {1733: ("run-1", 2)}
DEADLINE_S = 10.0


def clock_us(ago_s: float = 0.0) -> int:
    """The kernel's clock so long ago."""
    return max(0, int((time.clock_gettime(time.CLOCK_MONOTONIC) - ago_s) * 1e6))


class KernelRoom:
    """One source over a FIFO. `put` events are kept, in order, with what the GPU source was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "kmsg"
        os.mkfifo(self.path)
        self._file = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self.seq = 100
        self.time = 1_000_000.0
        self.world = World(boot=current_boot(), booted_at=self.time - 1000)
        self.events = []
        self.looked = []
        self.left_alone = []
        self.source = self.new_source()

    def new_source(self, path: Path | None = None) -> KernelLogSource:
        """Another life of the daemon."""
        return KernelLogSource(
            path or self.path,
            self.events.append,
            lambda: self.world,
            lambda: self.time,
            whose=lambda pid, _at: OURS.get(pid, ("", 0)),
            uuid_of=lambda bus_id: GPUS.get(bus_id, ""),
            look_now=self.looked.append,
            leave_alone=self.left_alone.append,
            place_file=self.folder / "place.json",
        )

    def say(self, text: str, *, facility: int = 0, ago_s: float = 0.0, seq: int | None = None) -> int:
        """Let the kernel (or, with another facility, a program) write a record; its number."""
        self.seq = seq if seq is not None else self.seq + 1
        self.write(f"{facility << 3 | 3},{self.seq},{clock_us(ago_s)},-;{text}\n")
        return self.seq

    def write(self, data: str) -> None:
        """Write as it is."""
        os.write(self._file, data.encode())

    def look(self, source: KernelLogSource | None = None) -> list:
        """Have a source that was opened take all that is there; what it told."""
        before = len(self.events)
        feed = KernelFeed(self.path)
        try:
            (source or self.source).look(feed)
        finally:
            feed.close()
        return self.events[before:]

    def begin(self, source: KernelLogSource) -> list:
        """The first look of a source's life, as its thread makes it."""
        source._begin()
        source._judge_age = not source._at_s and source._seq < 0
        return self.look(source)

    def until(self, holds) -> None:
        """Wait for what a thread does."""
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline, (self.events, self.source.state)
            time.sleep(0.005)

    def close(self) -> None:
        """Give the handle back."""
        os.close(self._file)


JOURNALCTL = """#!{python}
import os, pathlib, sys, time
folder = pathlib.Path({folder!r})
with (folder / "calls").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
lines = (folder / "lines").read_text()
if (folder / "shut").exists():
    sys.exit((folder / "shut").read_text())
if "--lines=1" in sys.argv:
    print("\\n".join(lines.splitlines()[-1:]))
    sys.exit()
sys.stdout.write(lines)
sys.stdout.flush()
if (folder / "dies").exists():
    sys.exit(1)
with (folder / "more").open() as more:
    for line in more:
        sys.stdout.write(line)
        sys.stdout.flush()
"""


class FakeJournal:
    """A `journalctl` on PATH that shows what is written here, and follows."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder = folder
        folder.mkdir()
        program = folder / "journalctl"
        program.write_text(JOURNALCTL.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        (folder / "lines").write_text("")
        (folder / "calls").write_text("")
        os.mkfifo(folder / "more")
        self._more = os.open(folder / "more", os.O_RDWR)
        monkeypatch.setenv("PATH", str(folder))

    def had(self, *lines: str) -> None:
        """What stands in it already."""
        (self.folder / "lines").write_text("".join(lines))

    def says(self, line: str) -> None:
        """What comes while it is followed."""
        os.write(self._more, line.encode())

    def calls(self) -> list[str]:
        """The words of each call."""
        return (self.folder / "calls").read_text().splitlines()

    def close(self) -> None:
        """Give the handle back."""
        os.close(self._more)


def journal_line(text, *, facility="0", transport="kernel", ago_s: float = 0.0, **more) -> str:
    """One line of `journalctl -o json`."""
    fields = {"MESSAGE": text, "SYSLOG_FACILITY": facility, "_TRANSPORT": transport, "PRIORITY": "3"}
    fields |= {"_SOURCE_MONOTONIC_TIMESTAMP": str(clock_us(ago_s)), "__MONOTONIC_TIMESTAMP": str(clock_us(ago_s) + 50)}
    return json.dumps({**fields, **more}) + "\n"


def quick(monkeypatch) -> None:
    """Let nothing wait for long."""
    monkeypatch.setattr(kernel_log, "AGAIN_S", 0.02)
    monkeypatch.setattr(kernel_log, "PATIENCE_S", 0.02)
