"""What the few calls mean that well-known values are made of in a pickle: recognised by name, never made.

Tensors, ordered dicts, sets, paths, numbers of numpy, bytes of protocol 2.
"""

from __future__ import annotations

import struct
from typing import Any, Callable, Dict


class Global:
    """A name that the pickle would import."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Built:
    """An object of a class that is not followed: its class, its arguments, and its state if that is told."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: Any = None) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None


class Storage:
    """What torch keeps in a record data/KEY: `numel` elements of the type `kind`, such as torch.HalfStorage.

    An untyped storage counts bytes; `element` is then the type that its tensors tell, such as torch.bfloat16.
    """

    __slots__ = ("element", "key", "kind", "numel")

    def __init__(self, kind: str, key: str, numel: int) -> None:
        self.element = ""
        self.kind = kind
        self.key = key
        self.numel = numel


class Tensor:
    """A view of a storage. `fresh` until it is counted."""

    __slots__ = ("fresh", "storage")

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.fresh = True


#: numpy's name of a number's type → its form for `struct`
_NUMBERS = {
    "f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "b1": "?",
}  # fmt: skip


def make(kind: Any, arguments: Any) -> Any:
    """Return what stands for a new object of the class `kind`."""
    name = kind.name if isinstance(kind, Global) else ""
    return {} if name in _DICTS else Built(name, arguments)


def call(function: Any, arguments: Any) -> Any:
    """Return what stands for the result of a call: a plain value where it is well known, else a Built."""
    name = function.name if isinstance(function, Global) else ""
    rule = _CALLS.get(name)
    if rule is None or not isinstance(arguments, tuple):
        return Built(name, arguments)
    value = rule(arguments)
    return Built(name, arguments) if value is None else value


def _elements(arguments: Any) -> Any:
    if arguments == ():
        return []
    return list(arguments[0]) if isinstance(arguments[0], (list, tuple)) else None


def _size(arguments: Any) -> Any:
    return tuple(arguments[0]) if arguments and isinstance(arguments[0], (list, tuple)) else None


def _bytes(arguments: Any) -> Any:
    if len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
        return arguments[0].encode("latin1", "replace")
    return None


def _path(arguments: Any) -> Any:
    parts = [part for part in arguments if isinstance(part, str)]
    if len(parts) != len(arguments) or not parts:
        return None
    return "/".join(parts).replace("//", "/", 1) if parts[0] == "/" else "/".join(parts)


def _number(arguments: Any) -> Any:
    """Return a number of numpy from its type and its bytes."""
    if len(arguments) != 2 or not isinstance(arguments[0], Built) or not isinstance(arguments[1], bytes):
        return None
    kind, content = arguments
    of_type = kind.arguments if isinstance(kind.arguments, tuple) else ()
    name = of_type[0] if of_type and isinstance(of_type[0], str) else ""
    order = ">" if isinstance(kind.state, tuple) and kind.state[1:2] == (">",) else "<"
    form = order + _NUMBERS.get(name.lstrip("<>|="), "")
    return struct.unpack(form, content)[0] if len(form) == 2 and struct.calcsize(form) == len(content) else None


def _tensor(arguments: Any) -> Any:
    return Tensor(arguments[0]) if arguments and isinstance(arguments[0], Storage) else None


def _typed_tensor(arguments: Any) -> Any:
    """Return a tensor that brings its own element type, which the storage then has too."""
    if len(arguments) < 7 or not isinstance(arguments[0], Storage):
        return None
    if isinstance(arguments[6], Global):
        arguments[0].element = arguments[6].name
    return Tensor(arguments[0])


def _same_tensor(arguments: Any) -> Any:
    return arguments[0] if arguments and isinstance(arguments[0], Tensor) else None


def _tensor_of_class(arguments: Any) -> Any:
    """Return the tensor of `_rebuild_from_type_v2(function, class, arguments, state)`."""
    if len(arguments) < 3 or not isinstance(arguments[0], Global) or not isinstance(arguments[2], tuple):
        return None
    rule = _TENSORS.get(arguments[0].name)
    return rule(arguments[2]) if rule is not None else None


def _reconstructed(arguments: Any) -> Any:
    return make(arguments[0], arguments[1:]) if arguments else None


_DICTS = frozenset({"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"})
_TENSORS: Dict[str, Callable[[Any], Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _same_tensor,
    "torch._utils._rebuild_parameter_with_state": _same_tensor,
}
_CALLS: Dict[str, Callable[[Any], Any]] = {
    **_TENSORS,
    **{name: lambda _: {} for name in _DICTS},
    **{
        f"{module}.{name}": _elements for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "list")
    },
    "torch.Size": _size,
    "_codecs.encode": _bytes,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_class,
    "copyreg._reconstructor": _reconstructed,
    "copy_reg._reconstructor": _reconstructed,
    "copyreg.__newobj__": _reconstructed,
    **{f"pathlib{part}.{name}": _path for part in ("", "._local") for name in ("Path", "PosixPath", "WindowsPath")},
    **{f"numpy.{core}.multiarray.scalar": _number for core in ("core", "_core")},
}
