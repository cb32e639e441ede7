"""The table of epochs: results.csv of Ultralytics, YOLOv5 and v9, results.txt of YOLOv7. Reading, and cutting."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from supervisor import durable
from supervisor.core.numbers import finite

HEAD_BYTES = 64 * 1024
TAIL_BYTES = 1024 * 1024
#: results.txt has no header: after "3/99" and the GPU memory come these.
TEXT_COLUMNS = (
    "train/box_loss", "train/obj_loss", "train/cls_loss", "train/total_loss", "labels", "img_size",
    "metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One epoch, counted from 1; `rates` is the learning rate by group. `diverged`: it has losses, none is a number."""

    epoch: int
    losses: dict[str, float]
    metrics: dict[str, float]
    time_s: float | None
    rates: dict[str, float]
    diverged: bool = False


@dataclass(frozen=True)
class Table:
    """All epochs of a results.csv by number, and which one was written last.

    After a resume epochs come twice: of each the last row counts, and the newest one is the last line, not the
    highest number.
    """

    rows: dict[int, Row]
    newest: Row | None
    zero_based: bool

    @property
    def epoch_s(self) -> float | None:
        """Return how long the newest epoch took by the table's own clock; None where it does not say."""
        before = self.rows.get(self.newest.epoch - 1) if self.newest else None
        if self.newest is None or before is None or self.newest.time_s is None or before.time_s is None:
            return None
        took_s = self.newest.time_s - before.time_s
        return took_s if took_s > 0 else None


def read_table(path: Path) -> Table:
    """Read a table, of a huge one the head and the end. OSError where it cannot be read."""
    parse = parse_text_table if path.suffix == ".txt" else parse_table
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        size = os.fstat(handle).st_size
        if size <= HEAD_BYTES + TAIL_BYTES:
            return parse(os.pread(handle, HEAD_BYTES + TAIL_BYTES, 0))
        head = os.pread(handle, HEAD_BYTES, 0).rpartition(b"\n")
        tail = os.pread(handle, TAIL_BYTES, size - TAIL_BYTES).partition(b"\n")
        return parse(head[0] + head[1] + tail[2])
    finally:
        os.close(handle)


def parse_table(data: bytes) -> Table:
    """Parse a table with padded or plain columns; a last line without its end is still being written.

    YOLOv5 and v9 count epochs from 0, Ultralytics from 1; padding does not tell them apart (old Ultralytics pads
    too), but only the former ever write an epoch 0.
    """
    lines = [line.split(",") for line in data.decode("utf-8", "replace").split("\n")[:-1] if line.strip()]
    if not lines:
        return Table({}, None, zero_based=False)
    names = [name.strip() for name in lines[0]]
    raw = [dict(zip(names, map(_number, cells), strict=True)) for cells in lines[1:] if len(cells) == len(names)]
    raw = [cells for cells in raw if _is_epoch(cells.get("epoch"))]
    zero_based = any(cells["epoch"] == 0 for cells in raw)
    rows = [_row(cells, 1 if zero_based else 0) for cells in raw]
    return Table({row.epoch: row for row in rows}, rows[-1] if rows else None, zero_based)


def parse_text_table(data: bytes) -> Table:
    """Parse results.txt of YOLOv7, whose epochs count from 0; a last line without its end is still being written."""
    rows = []
    for line in data.decode("utf-8", "replace").split("\n")[:-1]:
        epoch, _, numbers = line.partition("/")
        cells = dict(zip(TEXT_COLUMNS, map(_number, numbers.split()[2:]), strict=False))
        if epoch.strip().isdecimal() and len(cells) == len(TEXT_COLUMNS):
            rows.append(_row({**cells, "epoch": _number(epoch)}, 1))
    return Table({row.epoch: row for row in rows}, rows[-1] if rows else None, zero_based=True)


def _is_epoch(value: float | None) -> bool:
    return value is not None and 0 <= value < 1e9 and value == int(value)


def _row(cells: dict[str, float | None], shift: int) -> Row:
    losses = {name.partition("/")[2]: value for name, value in cells.items() if name.startswith("train/")}
    metrics = {name: value for name, value in cells.items() if name.startswith("metrics/")}
    rates = {name: value for name, value in cells.items() if name.startswith(("lr/", "x/lr"))}
    epoch = int(cells["epoch"] or 0) + shift
    time_s = finite({"time": cells.get("time")}).get("time")
    diverged = bool(losses) and not finite(losses) and None not in losses.values()
    return Row(epoch, finite(losses), finite(metrics), time_s, finite(rates), diverged)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def trim_to(path: Path, last_epoch: int, aside: Path, *, zero_based: bool = False) -> list[str]:
    """Trim a table, see `trim`; what was done, for people."""
    dropped = trim(path, last_epoch, aside, zero_based=zero_based)
    return [f"{dropped} rows after epoch {last_epoch} were cut from {path.name}"] if dropped else []


def trim(path: Path, last_epoch: int, aside: Path, *, zero_based: bool = False) -> int:
    """Cut a results.csv to one row per epoch up to `last_epoch`, which counts from 1; how many rows went.

    `zero_based` says that its first epoch is 0 (YOLOv5, v9). The untrimmed file is kept in `aside`. Whole or not at
    all.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    header, rows = lines[:1], lines[1:]
    kept: dict[int, str] = {}
    for line in rows:
        epoch = _epoch(line)
        if epoch is not None and epoch + zero_based <= last_epoch:
            kept[epoch] = line if line.endswith("\n") else f"{line}\n"
    if len(kept) == len(rows):
        return 0
    aside.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, aside / path.name)
    text = "".join([*header, *(kept[epoch] for epoch in sorted(kept))])
    durable.replace(path, text.encode(), by=aside)
    return len(rows) - len(kept)


def _epoch(line: str) -> int | None:
    try:
        return int(float(line.partition(",")[0]))
    except ValueError:
        return None
