"""results.csv of Ultralytics and its relatives: reading it, and cutting it to the epochs that a checkpoint holds.

Ultralytics appends a row per epoch and never trims: a kill between the row and last.pt, or an older checkpoint, leaves
epochs twice. YOLOv5 and YOLOv9 pad the columns and count epochs from 0.
"""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One epoch, counted from 1, with the columns that are numbers."""

    epoch: int
    values: dict[str, float]


def read(path: Path) -> list[Row]:
    """The epochs in order; of an epoch that stands twice, the last row. A row that is cut or odd is left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    rows = {}
    for record in csv.DictReader(text.splitlines(), skipinitialspace=True):
        row = _row({(key or "").strip(): value for key, value in record.items()})
        if row is not None:
            rows[row.epoch] = row
    first = min(rows, default=1)
    shift = 1 if first == 0 else 0
    return [Row(epoch + shift, rows[epoch].values) for epoch in sorted(rows)]


def _row(record: dict[str, object]) -> Row | None:
    numbers: dict[str, float] = {}
    for key, value in record.items():
        try:
            numbers[key] = float(str(value))
        except ValueError:
            continue
    epoch = numbers.pop("epoch", None)
    return Row(int(epoch), numbers) if epoch is not None and epoch >= 0 else None


def trim(path: Path, last_epoch: int, aside: Path) -> int:
    """Cut an Ultralytics results.csv (epochs from 1) to one row per epoch up to `last_epoch`; how many rows went.

    The untrimmed file is kept in `aside`. Whole or not at all.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    header, rows = lines[:1], lines[1:]
    kept: dict[int, str] = {}
    for line in rows:
        epoch = _epoch(line)
        if epoch is not None and epoch <= last_epoch:
            kept[epoch] = line if line.endswith("\n") else f"{line}\n"
    if len(kept) == len(rows):
        return 0
    aside.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, aside / path.name)
    temporary = path.with_name(f".{path.name}.supervisor")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines([*header, *(kept[epoch] for epoch in sorted(kept))])
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return len(rows) - len(kept)


def _epoch(line: str) -> int | None:
    try:
        return int(float(line.partition(",")[0]))
    except ValueError:
        return None
