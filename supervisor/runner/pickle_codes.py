"""Read the instructions of a pickle, as `pickletools.genops` does, in half the time.

The instructions that nearly all of a checkpoint's pickle consists of are read here; all others, and all that are cut,
are left to the readers of `pickletools`: so they mean the same, and what is wrong with them is said in the same words.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

#: By code, what `pickletools` knows of it.
OPCODES: Dict[int, pickletools.OpcodeInfo] = {ord(opcode.code): opcode for opcode in pickletools.opcodes}

_BYTE = frozenset(one[0] for one in (pickle.BINPUT, pickle.BINGET, pickle.BININT1))
_FIXED: Dict[int, struct.Struct] = {
    pickle.BININT[0]: struct.Struct("<i"),
    pickle.BININT2[0]: struct.Struct("<H"),
    pickle.LONG_BINPUT[0]: struct.Struct("<I"),
    pickle.LONG_BINGET[0]: struct.Struct("<I"),
    pickle.BINFLOAT[0]: struct.Struct(">d"),
}
#: The lengths that stand before texts.
_TEXTS: Dict[int, struct.Struct] = {
    pickle.BINUNICODE[0]: struct.Struct("<I"),
    pickle.SHORT_BINUNICODE[0]: struct.Struct("<B"),
}
_STOP = pickle.STOP[0]

Argument = Tuple[Any, int]
Reader = Callable[[bytes, int], Argument]


def instructions(raw: bytes) -> Iterator[Tuple[int, Any, int]]:
    """Yield the code, argument and place of each instruction up to STOP; ValueError where there is none or it is cut.

    An instruction without an argument has None.
    """
    readers, length, place = _READERS, len(raw), 0
    while place < length:
        code = raw[place]
        after = place + 1
        argument: Any = None
        if code in _BYTE and after < length:
            argument = raw[after]
            after += 1
        else:
            reader = readers[code]
            if reader is not None:
                argument, after = reader(raw, after)
        yield code, argument, place
        if code == _STOP:
            return
        place = after
    raise ValueError("pickle exhausted before seeing STOP")


def _fixed(code: int, form: struct.Struct) -> Reader:
    size, unpack = form.size, form.unpack_from

    def read(raw: bytes, place: int) -> Argument:
        if place + size > len(raw):
            return _usual(code, raw, place)
        return unpack(raw, place)[0], place + size

    return read


def _text(code: int, form: struct.Struct) -> Reader:
    size, unpack = form.size, form.unpack_from

    def read(raw: bytes, place: int) -> Argument:
        start = place + size
        end = start + unpack(raw, place)[0] if start <= len(raw) else start
        if end > len(raw):
            return _usual(code, raw, place)
        return str(raw[start:end], "utf-8", "surrogatepass"), end

    return read


def _other(code: int) -> Optional[Reader]:
    opcode = OPCODES.get(code)
    if opcode is not None and opcode.arg is None:
        return None
    return lambda raw, place: _usual(code, raw, place)


def _usual(code: int, raw: bytes, place: int) -> Argument:
    """Have `pickletools` read an argument, or say what is wrong."""
    opcode = OPCODES.get(code)
    if opcode is None:
        raise ValueError(f"at position {place - 1}, opcode {bytes((code,))!r} unknown")
    if opcode.arg is None:
        return None, place
    stream = io.BytesIO(raw)  # shares the bytes
    stream.seek(place)
    return opcode.arg.reader(stream), stream.tell()


def _readers() -> List[Optional[Reader]]:
    readers = [_other(code) for code in range(256)]
    for code, form in _FIXED.items():
        readers[code] = _fixed(code, form)
    for code, form in _TEXTS.items():
        readers[code] = _text(code, form)
    return readers


_READERS = _readers()
