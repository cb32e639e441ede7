"""What ends a training's checkpoints."""

from .files import read_checkpoint, write_checkpoint


def strip_optimizer(f, s=""):
    """Write `f` without what a resume needs to `s`, or in place."""
    write_checkpoint(
        s or f, read_checkpoint(f) | {"epoch": -1, "optimizer": None, "ema": None, "model": {"stripped": 1}}
    )
