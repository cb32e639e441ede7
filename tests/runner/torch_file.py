"""Checkpoints of torch's form written by hand: its pickle with storages by key, its zip with paddings and CRCs.

For tests that need tensors, and for any Python: no torch is needed.
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, ClassVar

WIDTHS = {"Half": 2, "BFloat16": 2, "Float": 4, "Double": 8, "Long": 8, "Byte": 1}


class Storage:
    """The content of one tensor."""

    def __init__(self, kind: str, data: bytes, numel: int | None = None) -> None:
        self.kind, self.data = kind, data
        self.numel = len(data) // WIDTHS[kind] if numel is None else numel


class Named:
    """Pickles as the name of a class or a function."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Object:
    """Pickles as an object of a class that this Python does not have, with a state."""

    def __init__(self, module: str, name: str, state: object) -> None:
        self.kind, self.state = Named(module, name), state


class Call:
    """Pickles as the result of a call."""

    def __init__(self, module: str, name: str, *arguments: object) -> None:
        self.function, self.arguments = Named(module, name), arguments


def tensor(kind: str, data: bytes, numel: int | None = None) -> Call:
    """A tensor of one dimension over a storage of its own."""
    storage = Storage(kind, data, numel)
    return Call("torch._utils", "_rebuild_tensor_v2", storage, 0, (storage.numel,), (1,), False, OrderedDict())


def halves(*numbers: float) -> bytes:
    """Numbers as torch keeps them in a HalfStorage."""
    return struct.pack(f"<{len(numbers)}e", *numbers)


class _Pickler(pickle._Pickler):  # the one in Python: it can be told how to write a name that does not exist here
    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def __init__(self, file, protocol):
        super().__init__(file, protocol)
        self.storages, self.keys = {}, {}

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        key = self.keys.setdefault(id(value), str(len(self.keys)))
        self.storages[key] = value
        return ("storage", Named("torch", f"{value.kind}Storage"), key, "cpu", value.numel)

    def save_named(self, value):
        if self.proto >= 4:
            self.save(value.module)
            self.save(value.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    def save_object(self, value):
        self.save(value.kind)
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.save(value.state)
        self.write(pickle.BUILD)

    def save_call(self, value):
        self.save(value.function)
        self.save(value.arguments)
        self.write(pickle.REDUCE)


_Pickler.dispatch.update({Named: _Pickler.save_named, Object: _Pickler.save_object, Call: _Pickler.save_call})


def pickled(content: object, protocol: int = 2) -> tuple[bytes, dict[str, Storage]]:
    """The pickle, and the storages that it asks for."""
    file = io.BytesIO()
    pickler = _Pickler(file, protocol)
    pickler.dump(content)
    return file.getvalue(), pickler.storages


def write(path: Path, content: object, *, protocol: int = 2, more: dict[str, bytes] | None = None) -> Path:
    """Write a checkpoint as torch does."""
    data, storages = pickled(content, protocol)
    records = {"archive/data.pkl": data, "archive/byteorder": b"little"}
    records |= {f"archive/data/{key}": storage.data for key, storage in storages.items()}
    with path.open("wb") as file:
        write_archive(file, {**records, "archive/version": b"3\n", **(more or {})})
    return path


def archive(records: dict[str, bytes], *, crc: bool = True) -> bytes:
    """A zip as torch writes it; see write_archive."""
    file = io.BytesIO()
    write_archive(file, records, crc=crc)
    return file.getvalue()


def write_archive(file: BinaryIO, records: dict[str, bytes], *, crc: bool = True) -> None:
    """Write stored records, the content of each at a multiple of 64, its CRC and size behind it, and the large end."""
    directory = b"".join(_write_record(file, name.encode(), data, crc=crc) for name, data in records.items())
    directory_at, count = file.tell(), len(records)
    large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0x31E, 45, 0, 0, count, count, len(directory), directory_at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, directory_at + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), directory_at, 0)
    file.write(directory + large + locator + end)


def _write_record(file: BinaryIO, name: bytes, data: bytes, *, crc: bool) -> bytes:
    """Write one record and return its entry for the directory."""
    offset, check = file.tell(), zlib.crc32(data) if crc else 0
    padding = -(offset + 30 + len(name) + 4) % 64
    extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, len(name), len(extra))
    file.write(head + name + extra)
    file.write(data)
    file.write(struct.pack("<4sL2Q", b"PK\7\x08", check, len(data), len(data)))
    entry = (b"PK\1\2", 0, 0, 0x808, 0, 0, 0, check, len(data), len(data), len(name), 0, 0, 0, 0, 0, offset)
    return struct.pack("<4s6H3L5H2L", *entry) + name


def module(kind: str, **parts: object) -> Object:
    """An object of a class of torch.nn, by its dotted name."""
    package, _, name = kind.rpartition(".")
    state = {"training": False, "_parameters": OrderedDict(), "_buffers": OrderedDict(), "_modules": OrderedDict()}
    return Object(package, name, {**state, **parts})


def training(epoch: int = 3, epochs: int = 5, weights: Call | None = None, **more: object) -> dict[str, object]:
    """The content of a checkpoint in the middle of a training."""
    weights = weights or tensor("Half", halves(1.0, -2.0, 0.5))
    layer = module("torch.nn.modules.conv.Conv2d", _parameters=OrderedDict(weight=weights))
    model = module("models.yolo.Model", _modules=OrderedDict(model=layer), names={0: "red", 1: "blue"})
    momentum = {0: {"momentum_buffer": tensor("Half", halves(0.1, 0.2, 0.3))}}
    return {
        "epoch": epoch,
        "best_fitness": 0.25,
        "model": None,
        "ema": model,
        "updates": 40,
        "optimizer": {"state": momentum, "param_groups": [{"lr": 0.01, "params": [0]}]},
        "train_args": {"epochs": epochs, "save_dir": "/gone"},
        **more,
    }
