"""Find NaN and Inf in raw tensors with the standard library alone, at memory speed.

A number of floating point is NaN or Inf if all bits of its exponent are set. The bytes of a chunk that hold the top
of each number are taken out by slicing and searched by C code; only where one could be the top of such a number
are all bytes of the chunk put through tables and combined as one large integer. No loop over numbers, so a file
full of near misses takes no longer than its length.
"""

from __future__ import annotations

from typing import Dict, Optional, Tuple, Union

Chunk = Union[bytes, bytearray]

#: bytes per element of each storage class and each torch.dtype that names one
_SIZES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1,
    "Bool": 1, "ComplexDouble": 16, "ComplexFloat": 8, "QUInt8": 1, "QInt8": 1, "QInt32": 4, "QUInt4x2": 1,
    "QUInt2x4": 1, "Untyped": 1,
}  # fmt: skip
#: the number inside each element that may be NaN
_FORMATS = {
    "Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": "bf2", "ComplexDouble": "f8", "ComplexFloat": "f4",
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "bf2", "complex128": "f8", "complex64": "f4",
    "double": "f8", "float": "f4", "half": "f2",
}  # fmt: skip
#: from the lowest byte: which bits of it belong to the exponent, which to the mantissa
_LAYOUTS: Dict[str, Tuple[Tuple[int, int], ...]] = {
    "f2": ((0, 0xFF), (0x7C, 0x03)),
    "bf2": ((0x80, 0x7F), (0x7F, 0)),
    "f4": ((0, 0xFF), (0, 0xFF), (0x80, 0x7F), (0x7F, 0)),
    "f8": (*((0, 0xFF),) * 6, (0xF0, 0x0F), (0x7F, 0)),
}


def element_bytes(storage_class: str) -> Optional[int]:
    """Return how many bytes one element of a class such as torch.HalfStorage takes; None if it is not known."""
    return _SIZES.get(_short(storage_class))


def number_format(storage_class: str, element: str = "") -> Optional[str]:
    """Return the format of the numbers that may be NaN in a storage, or None where none can be.

    `element` is a torch.dtype, for storages that have no type of their own.
    """
    return _FORMATS.get(_short(element) if element else _short(storage_class))


def _short(name: str) -> str:
    return name.rpartition(".")[2].replace("Storage", "")


class Search:
    """Looks for NaN and Inf in one format. Chunks must begin at a number; one cut at its end is not looked at."""

    def __init__(self, form: str) -> None:
        self._layout = _LAYOUTS[form]
        self._width = len(self._layout)
        exponent = self._layout[-1][0]
        self._suspects = [bytes([byte]) for byte in range(256) if byte & exponent == exponent]
        self._exponents = [(place, _table_all(bits)) for place, (bits, _) in enumerate(self._layout) if bits]
        self._mantissas = [(place, _table_any(bits)) for place, (_, bits) in enumerate(self._layout) if bits]

    def finds(self, chunk: Chunk, *, inf_allowed: bool = False) -> bool:
        """Return whether a NaN, or an Inf where that is not allowed, is in the chunk."""
        top = chunk[self._width - 1 :: self._width]
        if not any(byte in top for byte in self._suspects):
            return False
        special = -1
        for place, table in self._exponents:
            special &= self._flags(chunk, place, table)
        if not special or not inf_allowed:
            return bool(special)
        mantissa = 0
        for place, table in self._mantissas:
            mantissa |= self._flags(chunk, place, table)
        return bool(special & mantissa)

    def _flags(self, chunk: Chunk, place: int, table: bytes) -> int:
        """Return one byte per number, 1 where the table says so for its byte at `place`, as one integer."""
        return int.from_bytes(chunk[place :: self._width].translate(table), "little")


def _table_all(bits: int) -> bytes:
    return bytes(byte & bits == bits for byte in range(256))


def _table_any(bits: int) -> bytes:
    return bytes(byte & bits != 0 for byte in range(256))
