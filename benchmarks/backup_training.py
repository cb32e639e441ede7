"""Whether a training gets on as fast while a backup is made on the same machine as it does without."""

from __future__ import annotations

import bisect
import itertools
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.backup_throughput import Load
from benchmarks.figures import Figure
from benchmarks.lab import MeasurementError
from supervisor.effects.backup import gentle

GOAL_PERCENT = 99.0
TOY = Path(__file__).with_name("toy_units.py")
NICE = (0, 10, 19)
SMALL = Load(copies=1, copy_bytes=24_000_000)  # a nice backup gets hardly anything of a busy core
LEAST_S = 0.5

Window = tuple[float, float]


@dataclass(frozen=True)
class Pair:
    """When a backup was made, and a time as long beside it in which none was. On the clock of all processes."""

    busy: Window
    quiet: Window


@dataclass(frozen=True)
class Beside:
    """How a backup is made beside the training: with what load, on which cores, how nice."""

    load: Load
    cores: frozenset[int]
    nice: int = gentle.NICE


def measure(folder: Path, load: Load, slices: int) -> list[Figure]:
    """Let one training compute on a core of its own; back up now and then."""
    cores = sorted(os.sched_getaffinity(0))
    ratios, piece_s = _ratios(folder / "free", Beside(load, frozenset(cores)), slices, cores[0])
    how = (
        "pieces of CPU work a second while a backup to a local folder is made, by those in a time as long beside it; "
        f"median of {len(ratios)} pairs, {min(ratios):.1f} to {max(ratios):.1f}; taskset gives the training one core, "
        f"the backup may use all {len(cores)} and is as nice as in the daemon ({gentle.NICE}); a piece takes "
        f"{1000 * piece_s:.1f} ms"
    )
    about = {"ratios": ratios}
    name = "training throughput beside a backup"
    return [Figure(name, median(ratios), "% of without", GOAL_PERCENT, how, at_most=False, details=about)]


def measure_on_one_core(folder: Path, slices: int) -> list[Figure]:
    """The worst case, a machine whose every core trains, with backups that are more or less nice."""
    core = min(os.sched_getaffinity(0))
    return [_on_one_core(folder / f"nice-{nice}", slices, core, nice) for nice in NICE]


def _on_one_core(folder: Path, slices: int, core: int, nice: int) -> Figure:
    ratios, _ = _ratios(folder, Beside(SMALL, frozenset({core}), nice), slices, core)
    how = f"both on one and the same core, the backup with nice {nice}; median of {len(ratios)} pairs"
    name = f"training throughput on the core of the backup, nice {nice}"
    return Figure(name, median(ratios), "% of without", None, how, at_most=False, details={"ratios": ratios})


def _ratios(folder: Path, beside: Beside, slices: int, core: int) -> tuple[list[float], float]:
    """Percent for each pair, and the usual seconds of a piece."""
    folder.mkdir()
    with _backer(folder / "server", beside) as backer, _training(folder / "ends", core):
        pairs = list(_pairs(backer, slices))
    ends = array("d", (folder / "ends").read_bytes())
    if len(ends) < 100:
        raise MeasurementError(f"the training did only {len(ends)} pieces of work")
    ratios = [100.0 * _rate(ends, pair.busy) / _rate(ends, pair.quiet) for pair in pairs]
    return ratios, median(after - before for before, after in itertools.pairwise(ends))


def _rate(ends: Sequence[float], window: Window) -> float:
    began, ended = window
    return (bisect.bisect(ends, ended) - bisect.bisect(ends, began)) / (ended - began)


def _pairs(backer: subprocess.Popen[str], slices: int) -> Iterator[Pair]:
    """A backup to an empty target, and a rest as long as the last one took: every second time the rest comes first."""
    took_s = LEAST_S
    for number in range(slices + 1):
        _told(backer, "clean")
        rest = _rest(took_s) if number % 2 else None
        began = time.monotonic()
        _told(backer, "go")
        busy = (began, time.monotonic())
        took_s = busy[1] - began
        pair = Pair(busy, rest or _rest(took_s))
        if number:  # the first brings everything into the page cache
            yield pair


def _rest(seconds: float) -> Window:
    began = time.monotonic()
    time.sleep(max(LEAST_S, seconds))
    return began, time.monotonic()


def _told(backer: subprocess.Popen[str], word: str) -> None:
    assert backer.stdin is not None
    assert backer.stdout is not None
    backer.stdin.write(f"{word}\n")
    backer.stdin.flush()
    if backer.stdout.readline() != "done\n":
        raise MeasurementError("the backup beside the training ended")


@contextmanager
def _backer(folder: Path, beside: Beside) -> Iterator[subprocess.Popen[str]]:
    load = beside.load
    words = [str(folder), str(load.copies), str(load.copy_bytes), "--nice", str(beside.nice)]
    with _process(["-m", "benchmarks.backup_beside", *words], beside.cores, "ready\n") as process:
        yield process


@contextmanager
def _training(ends: Path, core: int) -> Iterator[None]:
    with _process([str(TOY), str(ends)], frozenset({core}), "working\n") as process:
        yield
        process.terminate()
        if process.wait(60):
            raise MeasurementError("the training failed")


@contextmanager
def _process(words: Sequence[str], cores: frozenset[int], ready: str) -> Iterator[subprocess.Popen[str]]:
    """A program of ours on these cores; it is there no more at the end."""
    line = ["taskset", "-c", ",".join(map(str, sorted(cores))), sys.executable, *words]
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        assert process.stdout is not None
        if process.stdout.readline() != ready:
            raise MeasurementError(f"{words[0]} did not start")
        yield process
