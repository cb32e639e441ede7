"""How fast the cheap check reads, beside what this machine can do at most."""

from __future__ import annotations

import functools
import json
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks import torch_shape
from benchmarks.figures import Figure
from benchmarks.lab import MeasurementError
from supervisor import layout

GOAL_S = 0.3
GOAL_MB_PER_S = 1000.0
SIZE_BYTES = 228_000_000
LARGE_BYTES = 2_000_000_000
CHUNK_BYTES = 512 * 1024
MB = 1_000_000


def measure(folder: Path, repeats: int = 9, large_bytes: int = LARGE_BYTES) -> list[Figure]:
    """Check files of both sizes, without and with the search for NaN."""
    figures = []
    for size_bytes, name in ((SIZE_BYTES, "228 MB"), (large_bytes, f"{large_bytes / MB:.0f} MB")):
        path = torch_shape.write(folder / "shape.pt", size_bytes)
        figures += _of_file(path, name, repeats, with_goal=size_bytes == SIZE_BYTES)
        path.unlink()
    return figures


def _of_file(path: Path, name: str, repeats: int, *, with_goal: bool) -> list[Figure]:
    size = path.stat().st_size
    read_s, crc_s = _times(lambda: _read(path), repeats), _times(lambda: _read(path, with_crc=True), repeats)
    limit = {"crc_limit_mb_per_s": size / median(crc_s) / MB, "read_limit_mb_per_s": size / median(read_s) / MB}
    figures = []
    for words, what in (([], "cheap check"), (["--finite"], "cheap check and search for NaN")):
        before_s = _children_cpu_s()
        taken_s = _times(functools.partial(_check, path, words), repeats)
        cpu_s = (_children_cpu_s() - before_s) / (repeats + 1)
        rate = size / median(taken_s) / MB
        how = (
            f"{size} bytes in 1,530 records from the page cache, a process of its own, its start included; median of "
            f"{repeats}; {cpu_s:.3f} s of CPU, which other load on the machine does not lengthen as much"
        )
        details = {"all_s": taken_s, "cpu_s": cpu_s, "mb_per_s": rate, **limit}
        rate_how = (
            f"reading alone {limit['read_limit_mb_per_s']:.0f}, with zlib's CRC {limit['crc_limit_mb_per_s']:.0f}"
        )
        goal = GOAL_S if with_goal and not words else None
        figures.append(Figure(f"{what}, {name}", median(taken_s), "s", goal, how, details=details))
        goal = None if with_goal or words else min(GOAL_MB_PER_S, 0.8 * limit["crc_limit_mb_per_s"])
        figures.append(Figure(f"{what}, {name}, rate", rate, "MB/s", goal, rate_how, at_most=False))
    return figures


def _times(action: Callable[[], None], repeats: int) -> list[float]:
    action()  # the file comes into the page cache
    taken_s = []
    for _ in range(repeats):
        before_s = time.perf_counter()
        action()
        taken_s.append(time.perf_counter() - before_s)
    return taken_s


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _read(path: Path, *, with_crc: bool = False) -> None:
    buffer = bytearray(CHUNK_BYTES)
    view, crc = memoryview(buffer), 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc = zlib.crc32(view[:count], crc) if with_crc else 0


def _check(path: Path, words: list[str]) -> None:
    command = [sys.executable, "-I", "-S", str(layout.CHECKPOINT), *words, str(path)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode or json.loads(done.stdout)["state"] != "resumable":
        raise MeasurementError(f"the check failed: {done.stdout[-300:]}{done.stderr[-1000:]}")
