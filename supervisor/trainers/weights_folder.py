"""The folder `weights` of a training, as all of the YOLO family lay it out."""

from __future__ import annotations

import re
from pathlib import Path

#: Ultralytics, YOLOv5 and YOLOv9 with save_period: epoch7.pt. The number is the stored one, from 0.
EPOCH_FILE = re.compile(r"epoch(\d+)\.pt")


def checkpoints_in(folder: Path, numbered: re.Pattern[str] = EPOCH_FILE) -> list[Path]:
    """Return last.pt, the numbered files from the newest on, best.pt: those that exist, and nothing else."""
    try:
        names = {path.name: path for path in folder.iterdir() if path.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return []
    epochs = sorted((int(match[1]), name) for name in names if (match := numbered.fullmatch(name)))
    order = ["last.pt", *(name for _, name in reversed(epochs)), "best.pt"]
    return [names[name] for name in order if name in names]
