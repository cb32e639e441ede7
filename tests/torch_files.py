"""Checkpoint files without torch: a zip as torch.save writes it, with the keys of Ultralytics and one real tensor."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence

_PLACE = "THE TENSOR"
ZEROS = (0.0,) * 16


def checkpoint(
    epoch: int = 0,
    *,
    epochs: int = 10,
    map50_95: float | None = None,
    numbers: Sequence[float] = ZEROS,
    stripped: bool = False,
    padding: int = 0,
    **more: object,
) -> bytes:
    """Bytes of a checkpoint after the 0-based `epoch`; `numbers` are its weights. `padding` makes it so much larger."""
    content: dict[str, object] = {
        "epoch": -1 if stripped else epoch,
        "best_fitness": None if stripped else 0.1,
        "model": {"weight": _PLACE} if stripped else None,
        "ema": None if stripped else {"weight": _PLACE},
        "updates": None if stripped else epoch + 1,
        "optimizer": None if stripped else {"state": {}, "param_groups": [{"lr": 0.01}]},
        "train_args": {"task": "detect", "mode": "train", "model": "toy.yaml", "epochs": epochs},
        "train_metrics": {} if map50_95 is None else {"metrics/mAP50-95(B)": map50_95},
        "version": "8.4.190",
        **more,
    }
    return packed(content, numbers, padding)


def packed(content: Mapping[str, object], numbers: Sequence[float] = ZEROS, padding: int = 0) -> bytes:
    """Bytes of a file with this content, in which the tensor of these numbers may stand."""
    raw = pickle.dumps(dict(content), protocol=2)
    name = _PLACE.encode()
    raw = raw.replace(b"X" + struct.pack("<I", len(name)) + name, _tensor(len(numbers)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", raw)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", struct.pack(f"<{len(numbers)}f", *numbers))
        archive.writestr("archive/version", "3\n")
        if padding:
            archive.writestr("archive/padding", bytes(padding))
    return buffer.getvalue()


def _tensor(count: int) -> bytes:
    """The opcodes with which torch writes a tensor of floats."""
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + _number(count) + b"tQ"
    shape = b"(" + _number(count) + b"t(" + _number(1) + b"t"
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(0) + shape + hooks + b"tR"


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _number(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)
