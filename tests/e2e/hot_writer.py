"""A program: rewrites last.pt in place, again and again, as trainers do: truncated, then written piece by piece.

It prints the epoch of each save that is complete.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.torch_files import checkpoint

PIECES = 8


def save(path: Path, epoch: int, size_bytes: int, pause_s: float) -> None:
    """Rewrite the same inode, slowly enough for a reader to come in between."""
    data = checkpoint(epoch - 1, epochs=10_000, numbers=(float(epoch),) * 16, padding=size_bytes)
    piece = len(data) // PIECES + 1
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate()
        for start in range(0, len(data), piece):
            file.write(data[start : start + piece])
            file.flush()
            time.sleep(pause_s)


def main(path: Path, saves: int, size_bytes: int, pause_s: float) -> None:
    """So many saves; a line for each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for epoch in range(1, saves + 1):
        save(path, epoch, size_bytes, pause_s)
        print(epoch, flush=True)
        time.sleep(pause_s)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
