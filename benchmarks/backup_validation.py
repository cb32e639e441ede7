"""How fast checkpoints are validated, beside what zlib's CRC can do on this machine at most."""

from __future__ import annotations

import time
import zlib
from pathlib import Path
from statistics import median

from benchmarks import torch_shape
from benchmarks.figures import Figure
from benchmarks.lab import MeasurementError
from supervisor.effects import checkpoints

FILES = 4
ROUNDS = 7
GB = 1e9
GOAL_GB_PER_S = 1.0
CHUNK_BYTES = 512 * 1024


def measure(folder: Path, size_bytes: int) -> list[Figure]:
    """Look into several files at once, as the ledger and a restore do; the CRC of the same files before each time."""
    paths = [torch_shape.write(folder / f"{number}.pt", size_bytes) for number in range(FILES)]
    total = sum(path.stat().st_size for path in paths)
    _check(paths)  # the files come into the page cache
    pairs = [(_seconds_of_crc(paths), _seconds_of_check(paths)) for _ in range(ROUNDS)]
    limit, rate = (total / median(taken) / GB for taken in zip(*pairs, strict=True))
    how = (
        f"{FILES} files of {size_bytes / 1e6:.0f} MB from the page cache: zip, CRC of every record, pickle, shapes; in "
        f"one child, its start included; median of {ROUNDS}; zlib's CRC of the same bytes {limit:.2f} GB/s"
    )
    details = {"crc_limit_gb_per_s": limit, "pairs_s": pairs, "bytes": total}
    goal = min(GOAL_GB_PER_S, limit)
    return [Figure("validation of checkpoints", rate, "GB/s", goal, how, at_most=False, details=details)]


def _seconds_of_check(paths: list[Path]) -> float:
    before_s = time.perf_counter()
    _check(paths)
    return time.perf_counter() - before_s


def _check(paths: list[Path]) -> None:
    for found in checkpoints.look(paths):
        if found.state != "resumable":
            raise MeasurementError(f"{found.path} is {found.state}: {found.reason}")


def _seconds_of_crc(paths: list[Path]) -> float:
    before_s = time.perf_counter()
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    for path in paths:
        crc = 0
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                crc = zlib.crc32(view[:count], crc)
    return time.perf_counter() - before_s
