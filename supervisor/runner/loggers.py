"""What keeps a logger's curve in one line over kills and resumes."""

from __future__ import annotations

import sys

_TENSORBOARD = "ultralytics.utils.callbacks.tensorboard"


def flush() -> None:
    """Bring TensorBoard's last points to its file; by itself it does so every two minutes, and a kill loses them."""
    writer = getattr(sys.modules.get(_TENSORBOARD), "WRITER", None)
    if writer is not None:
        writer.flush()
