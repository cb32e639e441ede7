"""Checkpoints with the outer form of torch's, written in place as the library does."""

import io
import pickle
import zipfile
from pathlib import Path


def checkpoint_bytes(content):
    """Return a zip with one pickle and one tensor's record."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/data/0", bytes(4096))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def write_checkpoint(path, content):
    """Write a zip with one pickle and one tensor's record, in place."""
    Path(path).write_bytes(checkpoint_bytes(content))


def read_checkpoint(path):
    """Return the content of a file of `write_checkpoint`."""
    with zipfile.ZipFile(path) as archive:
        return pickle.loads(archive.read("archive/data.pkl"))
