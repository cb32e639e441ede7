"""How often the cheap check takes a damaged checkpoint for whole."""

from __future__ import annotations

import random
import struct
import zipfile
from pathlib import Path

from benchmarks.figures import Figure
from supervisor.runner.checkpoint import inspect
from tests.runner import torch_file

TENSORS = 200
TENSOR_BYTES = 5000
PAGE_BYTES = 4096
Damage = tuple[str, int, int]


def measure(folder: Path, trials: int = 2000) -> list[Figure]:
    """Flip bits, lose pages and cut: `trials` in all. A miss: not torn although a record's content is another."""
    seed = random.SystemRandom().randrange(2**32)
    weights = {str(number): torch_file.tensor("Half", bytes([number]) * TENSOR_BYTES) for number in range(TENSORS)}
    path = torch_file.write(folder / "victim.pt", torch_file.training(ema=weights))
    whole = path.read_bytes()
    good = _contents(path)
    missed, harmless = [], 0
    for damage in _damages(random.Random(seed), len(whole), trials):
        path.write_bytes(_damaged(whole, damage))
        if inspect(str(path))["state"] == "torn":
            continue
        if _contents(path) == good:
            harmless += 1
        else:
            missed.append(damage)
    path.unlink()
    how = (
        f"of {trials} trials on a checkpoint of {len(whole)} bytes: half flipped bits, a quarter zeroed pages, "
        f"a quarter cuts; {harmless} changed nothing that is read (paddings, unused fields of the zip)"
    )
    details = {"trials": trials, "seed": seed, "harmless": harmless, "missed": missed}
    return [Figure("damaged checkpoints taken for whole", len(missed), "files", 0, how, details=details)]


def _damages(dice: random.Random, size: int, trials: int) -> list[Damage]:
    kinds = ("bit", "bit", "page", "cut")
    return [(kinds[number % 4], dice.randrange(size), dice.randrange(8)) for number in range(trials)]


def _damaged(whole: bytes, damage: Damage) -> bytes:
    kind, place, bit = damage
    if kind == "cut":
        return whole[:place]
    data = bytearray(whole)
    if kind == "bit":
        data[place] ^= 1 << bit
    else:
        start = place - place % PAGE_BYTES
        data[start : start + PAGE_BYTES] = bytes(len(data[start : start + PAGE_BYTES]))
    return bytes(data)


def _contents(path: Path) -> dict[str, bytes]:
    """Every record as a trusting reader gets it: by the directory, nothing compared."""
    found = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for one in archive.infolist():
            file.seek(one.header_offset + 26)
            file.seek(sum(struct.unpack("<2H", file.read(4))), 1)
            found[one.filename] = file.read(one.compress_size)
    return found
