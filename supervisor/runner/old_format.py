"""Files as torch before 1.6 wrote them, and as it still does if asked: pickles one after the other, then raw storages.

There is no CRC in them, so a changed byte cannot be seen without a load; that the end is missing can.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Tuple

from .checkpoint_facts import facts
from .finite import element_bytes
from .pickle_scan import Damaged, PickleScan

DOUBT = "old format: only a deep check can say whether it is whole"

#: The number that comes first, as a pickle holds it (torch/serialization.py: MAGIC_NUMBER).
_MAGIC = b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_PROTOCOL = b"\x80"
_MAGIC_WITHIN_BYTES = 32
_NUMEL_BYTES = 8  # before the content of each storage


def is_old_format(descriptor: int) -> bool:
    """Return whether an open file begins as torch's old format does."""
    head = os.pread(descriptor, _MAGIC_WITHIN_BYTES, 0)
    return head.startswith(_PROTOCOL) and _MAGIC in head


def examine(descriptor: int, size_bytes: int, pickle_limit_bytes: int) -> Tuple[Dict[str, Any], List[str]]:
    """Return the keys of `checkpoint.inspect` for such a file, and the hostile names in it; raises Damaged.

    Whatever is in it, it is told as weights only: nothing proves it whole.
    """
    scan = PickleScan(old_format=True)
    head = os.pread(descriptor, min(size_bytes, pickle_limit_bytes), 0)
    try:
        top, keys, at = _values(scan, head)
    except Exception:
        if not scan.hostile:
            raise
        return {}, scan.hostile
    sizes = [_bytes_of(scan, key) for key in keys]
    known = [size for size in sizes if size is not None]
    if size_bytes < at + sum(known) + _NUMEL_BYTES * len(sizes):
        raise Damaged("it is in torch's old format and ends early")
    found = facts(top)
    found.update(state="weights_only", reason=f"in torch's old format: {found['reason']}", doubts=[DOUBT])
    found.update(tensors=scan.tensors, tensor_bytes=sum(known))
    return found, scan.hostile


def _values(scan: PickleScan, head: bytes) -> Tuple[Any, List[Any], int]:
    """Return the content, the keys of the storages in the order in which they lie, and where they begin."""
    values = []
    at = 0
    for _ in range(5):  # magic number, protocol, the writer's machine, the content, the keys
        values.append(scan.run(head[at:]))
        at += scan.length
    if not isinstance(values[4], list):
        raise Damaged("it is in torch's old format and names no storages")
    return values[3], values[4], at


def _bytes_of(scan: PickleScan, key: Any) -> Optional[int]:
    storage = scan.storages.get(key) if isinstance(key, str) else None
    each = element_bytes(storage.kind) if storage is not None else None
    return None if storage is None or each is None else each * storage.numel
