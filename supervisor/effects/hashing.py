"""Hashing an open file a block at a time, so that whoever has to end can."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

BLOCK_BYTES = 4 * 1024 * 1024


def nothing() -> None:
    """Nobody wants to know how far it is."""


def sha256_of_open(handle: int, step: Callable[[], None] = nothing) -> str:
    """The sha256 of an open file, from its first byte; `step` is called before each block and may raise. OSError."""
    digest, block, place = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES)), 0
    while True:
        step()
        count = os.preadv(handle, [block], place)
        if not count:
            return digest.hexdigest()
        digest.update(block[:count])
        place += count
