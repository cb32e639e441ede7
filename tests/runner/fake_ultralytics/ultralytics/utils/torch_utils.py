"""What ends a training's checkpoints."""

from .files import read_checkpoint, write_checkpoint


def strip_optimizer(f, s="", updates=None):
    """Write `f` without what a resume needs to `s`, or in place; return what was written."""
    stripped = {"epoch": -1, "optimizer": None, "ema": None, "model": {"stripped": 1}}
    content = {**read_checkpoint(f), **stripped, **(updates or {})}
    write_checkpoint(s or f, content)
    return content
