"""A trainer that does nothing but save: it rewrites one checkpoint in place, again and again, as torch.save does.

    python -m benchmarks.hot_writer FILE [--bytes 24000000] [--save-s 0.1] [--pause-s 0.15] [--seconds 600]

Each save is a whole checkpoint of the next epoch, of the size of the one before it but with other content in every
record, so that a copy with parts of two saves is found by its CRCs. The file is cut to nothing first and then written
piece by piece: whoever copies it meanwhile gets a torn file. One line is printed once the first save is done.
"""

from __future__ import annotations

import argparse
import io
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, takewhile
from pathlib import Path

from benchmarks.lab import MeasurementError
from tests.torch_files import checkpoint

RECORDS = 24
PIECE_BYTES = 256 * 1024  # torch writes record by record, each in pieces
EPOCHS = 1_000_000


def main() -> int:
    """Save until the time is over, or somebody ends it."""
    options = _options()
    end = time.monotonic() + options.seconds
    for epoch in takewhile(lambda _: time.monotonic() < end, count()):
        trained_at = time.monotonic() + options.pause_s
        data = content(epoch, options.bytes)
        time.sleep(max(0.0, trained_at - time.monotonic()))
        save(options.file, data, options.save_s)
        if not epoch:
            print("writing", flush=True)
    return 0


def save(path: Path, data: bytes, takes_s: float) -> None:
    """Write in place, without fsync, as every trainer that calls torch.save does.

    Between two pieces it converts the next record, or waits for the GPU to hand it over: so long it takes.
    """
    pieces = range(0, len(data), PIECE_BYTES)
    with path.open("wb", buffering=0) as file:
        for start in pieces:
            file.write(data[start : start + PIECE_BYTES])
            time.sleep(takes_s / len(pieces))


def content(epoch: int, size_bytes: int) -> bytes:
    """A checkpoint after that epoch (from 0), with records that no other one has."""
    buffer = io.BytesIO(checkpoint(epoch, epochs=EPOCHS))
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for number in range(RECORDS):
            block = struct.pack("<q", epoch * RECORDS + number) + os.urandom(65536 - 8)
            length = size_bytes // RECORDS
            archive.writestr(f"archive/data/{number + 1}", (block * (length // len(block) + 1))[:length])
    return buffer.getvalue()


@contextmanager
def hot_writer(file: Path, size_bytes: int) -> Iterator[None]:
    """Have a process save into `file` until the block ends; the first save is done when it begins."""
    argv = [sys.executable, "-m", "benchmarks.hot_writer", str(file), "--bytes", str(size_bytes)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "writing\n":
                raise MeasurementError("the writer ended before its first save")
            yield
        finally:
            process.kill()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--bytes", type=int, default=24_000_000, help="size of a checkpoint")
    parser.add_argument("--save-s", type=float, default=0.1, help="a save takes at least so long")
    parser.add_argument("--pause-s", type=float, default=0.15, help="between two saves")
    parser.add_argument("--seconds", type=float, default=600.0, help="it ends by itself after so long")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
