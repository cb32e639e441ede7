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

GOAL_PERCENT = 99.0
TOY = Path(__file__).with_name("toy_units.py")
NICE = (0, 10, 19)
LEAST_S = 0.5

Window = tuple[float, float]


@dataclass(frozen=True)
class Pair:
    """When a backup was made, and a time as long beside it in which none was. On the clock of all processes."""

    busy: Window
    quiet: Window


def measure(folder: Path, load: Load, slices: int) -> list[Figure]:
    """Let one training compute on a core of its own; back up now and then."""
    cores = sorted(os.sched_getaffinity(0))
    ratios, pieces_s = _ratios(folder / "free", load, slices, cores[0], set(cores), 0)
    how = (
        f"pieces of CPU work a second while a backup to a local folder is made, by those in a time as long beside it; "
        f"median of {len(ratios)} pairs, {min(ratios):.1f} to {max(ratios):.1f}; the training has one core by taskset, the "
        f"backup may use all {len(cores)}; a piece takes {1000 * pieces_s:.1f} ms"
    )
    about = {"ratios": ratios}
    name = "training throughput beside a backup"
    figures = [Figure(name, median(ratios), "% of without", GOAL_PERCENT, how, at_most=False, details=about)]
    for nice in NICE:
        figures.append(_on_one_core(folder / f"nice-{nice}", load, max(3, slices // 4), cores[0], nice))
    return figures


def _on_one_core(folder: Path, load: Load, slices: int, core: int, nice: int) -> Figure:
    """The worst case: a machine whose every core trains."""
    ratios, _ = _ratios(folder, load, slices, core, {core}, nice)
    how = f"both on one and the same core, the backup with nice {nice}; median of {len(ratios)} pairs"
    name = f"training throughput on the core of the backup, nice {nice}"
    return Figure(name, median(ratios), "% of without", None, how, at_most=False, details={"ratios": ratios})


def _ratios(folder: Path, load: Load, slices: int, core: int, cores: set[int], nice: int) -> tuple[list[float], float]:
    """Percent for each pair, and the usual seconds of a piece."""
    folder.mkdir()
    with _backer(folder / "server", load, nice, cores) as backer, _training(folder / "ends", core):
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
def _backer(folder: Path, load: Load, nice: int, cores: set[int]) -> Iterator[subprocess.Popen[str]]:
    words = [str(folder), str(load.copies), str(load.copy_bytes), "--nice", str(nice)]
    with _process(["-m", "benchmarks.backup_beside", *words], cores, "ready\n") as process:
        yield process


@contextmanager
def _training(ends: Path, core: int) -> Iterator[None]:
    with _process([str(TOY), str(ends)], {core}, "working\n") as process:
        yield
        process.terminate()
        if process.wait(60):
            raise MeasurementError("the training failed")


@contextmanager
def _process(words: Sequence[str], cores: set[int], ready: str) -> Iterator[subprocess.Popen[str]]:
    """A program of ours on these cores; it is there no more at the end."""
    line = ["taskset", "-c", ",".join(map(str, sorted(cores))), sys.executable, *words]
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        assert process.stdout is not None
        if process.stdout.readline() != ready:
            raise MeasurementError(f"{words[0]} did not start")
        yield process
