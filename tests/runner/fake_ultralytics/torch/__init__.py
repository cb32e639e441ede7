"""As much of torch as writing other epochs into a checkpoint needs."""

from ultralytics.utils.files import read_checkpoint, write_checkpoint

__version__ = "2.13.0"


def load(path, map_location, weights_only):
    """Return what a checkpoint holds."""
    assert (map_location, weights_only) == ("cpu", False)
    return read_checkpoint(path)


def save(content, path):
    """Write a checkpoint in place."""
    write_checkpoint(path, content)
