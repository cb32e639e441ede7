"""How many NVIDIA GPUs the driver knows, where nobody watches them: then they are given out by index."""

from __future__ import annotations

from pathlib import Path

DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")


def count_gpus(folder: Path = DRIVER_FOLDER) -> int:
    """Count the driver's entries, one for each GPU: no library is loaded and nothing can hang. No driver: 0."""
    try:
        return sum(1 for _ in folder.iterdir())
    except OSError:
        return 0
