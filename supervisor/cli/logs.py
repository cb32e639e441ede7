"""The verb `logs`: what the trainings wrote, read from the run directory; readable, or byte by byte."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import click

from supervisor.cli import screen
from supervisor.cli.client import Target, View, complete_run, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import Failure, NoDaemon
from supervisor.cli.offline import Offline, Reading, reading
from supervisor.core.plain_text import ESCAPES
from supervisor.layout import RunDirectory

LOOK_EVERY_S = 0.25
ASK_EVERY_S = 2.0
BLOCK_BYTES = 64 * 1024
LINES = 100
_ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}
_ESCAPES = re.compile(ESCAPES.encode())


@click.command(
    "logs",
    epilog=examples(
        "yolo-supervisor logs truck",
        "yolo-supervisor logs truck -f",
        "yolo-supervisor logs truck --attempt 2 -n 0 --raw > attempt-2.log",
    ),
)
@click.argument("name", shell_complete=complete_run)
@click.option("--follow", "-f", is_flag=True, help="Go on, over attempts, until the run has ended.")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt; default: the newest.")
@click.option(
    "--lines", "-n", type=click.IntRange(min=0), default=LINES, show_default=True, help="The last lines; 0 is all."
)
@click.option("--raw", is_flag=True, help="The bytes as they are, with colours and every frame of progress bars.")
@target_options
@click.pass_obj
def logs_verb(target: Target, name: str, *, follow: bool, attempt: int | None, lines: int, raw: bool) -> None:
    """Print what the training wrote: of a progress bar the last frame, without colours."""
    source = reading(target)
    view = source.run(name)
    number = attempt or view["attempt"]
    if not number:
        raise Failure(f"{view['id']} was not started yet: {view['explanation']}")
    if follow and isinstance(source, Offline):
        raise NoDaemon("a log is followed only while the daemon runs; without -f it can be read")
    path = log_path(view, number)
    if not path.is_file():
        raise Failure(f"there is no log of attempt {number} of {view['id']} at {path}")
    out = Output(raw=raw)
    position = out.tail(path, lines)
    if follow:
        Follower(source, view["id"], out).follow(view, number, position, only=attempt is not None)
    out.finish()


def log_path(view: View, attempt: int) -> Path:
    """Where an attempt's log lies."""
    return RunDirectory(Path(view["directory"])).attempt(attempt).log


def readable(line: bytes) -> str:
    """One line as a terminal would leave it: no escape sequences, the last frame of a progress bar, no NUL bytes."""
    frames = [frame for frame in _ESCAPES.sub(b"", line).replace(b"\0", b"").split(b"\r") if frame.strip()]
    return frames[-1].decode("utf-8", "replace").rstrip() if frames else ""


def tail_position(file: BinaryIO, lines: int) -> int:
    """Where the last `lines` lines begin; the start for 0. Holes at the start of a trimmed log are skipped."""
    end = file.seek(0, 2)
    if not lines:
        return 0
    position, missing = end, lines + 1
    while position > 0:
        start = max(0, position - BLOCK_BYTES)
        file.seek(start)
        block = file.read(position - start)
        if position == end and not block.endswith(b"\n"):
            missing -= 1  # the last line has no end yet
        for place in _line_ends(block):
            missing -= 1
            if missing == 0:
                return start + place + 1
        if not block.strip(b"\0"):
            return position
        position = start
    return 0


def _line_ends(block: bytes) -> Iterator[int]:
    place = block.rfind(b"\n")
    while place >= 0:
        yield place
        place = block.rfind(b"\n", 0, place)


class Output:
    """Writes pieces of a log to standard output, whole lines only unless `raw`."""

    def __init__(self, *, raw: bool) -> None:
        """Start with nothing."""
        self._raw = raw
        self._rest = b""

    def tail(self, path: Path, lines: int) -> int:
        """Write the last lines of a file; where its end was."""
        with path.open("rb") as file:
            return self._copy(file, tail_position(file, lines))

    def more(self, path: Path, position: int) -> int:
        """Write what came after `position`; where the end is now. A file that was cut is read from its start."""
        try:
            with path.open("rb") as file:
                return self._copy(file, position if file.seek(0, 2) >= position else 0)
        except FileNotFoundError:
            return position

    def _copy(self, file: BinaryIO, position: int) -> int:
        file.seek(position)
        while block := file.read(BLOCK_BYTES):
            self._write(block)
            position += len(block)
        sys.stdout.flush()
        return position

    def _write(self, block: bytes) -> None:
        if self._raw:
            sys.stdout.buffer.write(block)
            return
        *lines, self._rest = (self._rest + block).split(b"\n")
        if b"\r" in self._rest:  # a progress bar that never ends its line must not fill the memory
            self._rest = self._rest[self._rest.rfind(b"\r", 0, -1) :]
        for line in lines:
            text = readable(line)
            if text or not line:  # an empty line is one; a line of nothing but escape sequences is none
                click.echo(text)

    def finish(self) -> None:
        """Write the last line that has no end."""
        if text := readable(self._rest):
            click.echo(text)
        self._rest = b""


class Follower:
    """Follows a run from attempt to attempt until it has ended."""

    def __init__(self, source: Reading, run_id: str, out: Output, sleep: Callable[[float], None] = time.sleep) -> None:
        """Ask `source` how the run `run_id` stands."""
        self._source = source
        self._run_id = run_id
        self._out = out
        self._sleep = sleep

    def follow(self, view: View, number: int, position: int, *, only: bool) -> None:
        """Write what comes after `position` of attempt `number`; with `only` nothing of later attempts."""
        while True:
            over = view["phase"] in _ENDED or view["attempt"] > number  # asked before the file is read to its end
            position = self._out.more(log_path(view, number), position)
            if over and (only or view["attempt"] <= number):
                return
            if over:
                self._out.finish()
                number, position = number + 1, 0
                screen.note(f"==> attempt {number} <==")
                continue
            position = self._watch(view, number, position)
            view = self._ask(view)

    def _watch(self, view: View, number: int, position: int) -> int:
        for _ in range(round(ASK_EVERY_S / LOOK_EVERY_S)):
            self._sleep(LOOK_EVERY_S)
            position = self._out.more(log_path(view, number), position)
        return position

    def _ask(self, view: View) -> View:
        try:
            return self._source.run(self._run_id)
        except NoDaemon:
            return view  # the daemon is being exchanged; the training writes on
