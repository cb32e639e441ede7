"""Follow a pickle without running it: its plain values, its tensors, and the names it would call.

A pickle is a program for a small stack machine. `pickle_codes` reads the instructions; here each one moves
values on a stack, and nothing is ever imported, called or built on the pickle's behalf. What is no plain value
stays a token of the classes below. Memory and time grow with the length of the pickle and nothing else: indexes
and lengths that a pickle claims reserve nothing, no value is compared, hashed or walked while it is scanned.
"""

from __future__ import annotations

import pickletools
import re
from typing import Any, Callable, Dict, List

from . import pickle_codes
from .pickle_calls import Built, Global, Storage, Tensor, call, make
from .pickle_names import is_hostile, is_unusual

#: The largest known model needs about 150,000 instructions; far above that it is an attack or an accident.
OPERATION_LIMIT = 4_000_000
#: Names of callables that are kept for the reason's text.
_MOST_NAMES = 5
#: Python before 3.11 turns digits into a number in quadratic time. No checkpoint holds such a number as text.
_ENDLESS_NUMBER = re.compile(rb"[IL]-?[0-9]{4300}")

_NOTHING = Built("")
_CODES = {opcode.name: code for code, opcode in pickle_codes.OPCODES.items()}
_IGNORED = frozenset(_CODES[name] for name in ("PROTO", "FRAME"))
_PUTS = frozenset(_CODES[name] for name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_GETS = frozenset(_CODES[name] for name in ("GET", "BINGET", "LONG_BINGET"))
_PLAIN = frozenset(_CODES[name] for name in ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2"))
_STOP = _CODES["STOP"]


class Damaged(Exception):  # noqa: N818 -- read as a word: raise Damaged
    """The file is cut, altered or no checkpoint at all; the text says how."""


class PickleScan:
    """One walk through one pickle.

    After `run`: `hostile` and `unusual` are names that it would import, `storages` all that it asks for by key,
    `tensors` how many tensors it builds, `length` how many bytes it takes. `old_format`: as in runner/old_format.py.
    """

    def __init__(self, *, old_format: bool = False) -> None:
        self.hostile: List[str] = []
        self.unusual: List[str] = []
        self.storages: Dict[str, Storage] = {}
        self.tensors = 0
        self.length = 0
        self._old_format = old_format
        self._stack: List[Any] = []
        self._marks: List[int] = []
        self._memo: Dict[Any, Any] = {}
        rules = {**self._rules_of_values(), **self._rules_of_containers(), **self._rules_of_objects()}
        self._rules = {_CODES[name]: rule for name, rule in rules.items()}

    def _rules_of_values(self) -> Dict[str, Callable[[Any], None]]:
        push = self._stack.append
        return {
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "MARK": lambda _: self._marks.append(len(self._stack)),
            "POP": self._drop,
            "POP_MARK": lambda _: self._discard(),
            "DUP": lambda _: push(self._top()),
        }

    def _rules_of_containers(self) -> Dict[str, Callable[[Any], None]]:
        push = self._stack.append
        return {
            "EMPTY_DICT": lambda _: push({}),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_SET": lambda _: push([]),
            "EMPTY_TUPLE": lambda _: push(()),
            "DICT": lambda _: push(_pairs(self._pop_mark())),
            "LIST": lambda _: push(self._pop_mark()),
            "FROZENSET": lambda _: push(self._pop_mark()),
            "TUPLE": lambda _: push(tuple(self._pop_mark())),
            "TUPLE1": lambda _: push(tuple(self._pop_many(1))),
            "TUPLE2": lambda _: push(tuple(self._pop_many(2))),
            "TUPLE3": lambda _: push(tuple(self._pop_many(3))),
            "SETITEM": lambda _: self._update(self._pop_many(2)),
            "SETITEMS": lambda _: self._update(self._pop_mark()),
            "APPEND": lambda _: self._extend(self._pop_many(1)),
            "APPENDS": lambda _: self._extend(self._pop_mark()),
            "ADDITEMS": lambda _: self._extend(self._pop_mark()),
        }

    def _rules_of_objects(self) -> Dict[str, Callable[[Any], None]]:
        return {
            "GLOBAL": lambda name: self._global(*str(name).split(" ", 1)),
            "STACK_GLOBAL": lambda _: self._global(*self._pop_many(2)),
            "INST": self._inst,
            "OBJ": self._obj,
            "REDUCE": lambda _: self._call(*self._pop_many(2)),
            "NEWOBJ": lambda _: self._new(*self._pop_many(2)),
            "NEWOBJ_EX": lambda _: self._new(*self._pop_many(3)),
            "BUILD": lambda _: self._build(self._pop()),
            "BINPERSID": lambda _: self._stack.append(self._storage(self._pop())),
        }

    def run(self, raw: bytes) -> Any:
        """Return the value that the pickle ends with; raises Damaged or ValueError if it does not parse."""
        if _ENDLESS_NUMBER.search(raw):
            raise Damaged("the pickle holds a number of thousands of digits")
        try:
            return self._run(raw)
        except IndexError:
            raise Damaged("the pickle takes a value that is not there") from None

    def _run(self, raw: bytes) -> Any:
        rules, stack, memo, marks = self._rules, self._stack, self._memo, self._marks
        for count, (code, argument, position) in enumerate(pickle_codes.instructions(raw)):
            rule = rules.get(code)
            if rule is not None:
                rule(argument)
            elif code in _PUTS:
                if len(stack) <= (marks[-1] if marks else 0):
                    raise IndexError
                memo[len(memo) if argument is None else argument] = stack[-1]
            elif code in _PLAIN:
                stack.append(argument)
            elif code in _GETS:
                stack.append(memo.get(argument, _NOTHING))
            elif code == _STOP:
                self.length = position + 1
                return self._pop()
            elif code not in _IGNORED:
                self._by_signature(pickle_codes.OPCODES[code], argument)
            if count > OPERATION_LIMIT:
                raise Damaged(f"the pickle has more than {OPERATION_LIMIT} instructions")
        raise Damaged("the pickle has no end")

    def _by_signature(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do as `pickletools` says for what has no rule: values are kept, all else only moves the stack."""
        if opcode.name.startswith("EXT"):
            raise Damaged("the pickle uses extension codes, which no checkpoint has")
        self._pop_many(len(opcode.stack_before))
        if not opcode.stack_before and isinstance(argument, (int, float, str, bytes, bytearray)):
            self._stack.append(argument)
        else:
            self._stack.extend(_NOTHING for _ in opcode.stack_after)

    def _floor(self) -> int:
        return self._marks[-1] if self._marks else 0

    def _top(self) -> Any:
        if len(self._stack) <= self._floor():
            raise IndexError
        return self._stack[-1]

    def _pop(self) -> Any:
        value = self._top()
        self._stack.pop()
        return value

    def _pop_many(self, count: int) -> List[Any]:
        start = len(self._stack) - count
        if start < self._floor():
            raise IndexError
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _pop_mark(self) -> List[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _discard(self) -> None:
        self._pop_mark()

    def _drop(self, _argument: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def _update(self, flat: List[Any]) -> None:
        target = self._top()
        if isinstance(target, Built) and target is not _NOTHING:
            if target.state is None:
                target.state = {}
            target = target.state
        if isinstance(target, dict):
            target.update(_pairs(flat))

    def _extend(self, values: List[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(values)

    def _global(self, module: Any, name: Any = "") -> None:
        """Note a name that the pickle would import. One that it computes is as bad as a hostile one."""
        if not (isinstance(module, str) and isinstance(name, str)):
            module, name = "builtins", "__import__"
        full = f"{module}.{name}"
        for seen, is_so in ((self.hostile, is_hostile), (self.unusual, is_unusual)):
            if len(seen) < _MOST_NAMES and is_so(module, name) and full not in seen:
                seen.append(full)
        self._stack.append(Global(full))

    def _inst(self, name: Any) -> None:
        arguments = tuple(self._pop_mark())
        self._global(*str(name).split(" ", 1))
        self._new(self._pop(), arguments)

    def _obj(self, _argument: Any) -> None:
        values = self._pop_mark()
        self._new(values[0], tuple(values[1:]))

    def _call(self, function: Any, arguments: Any) -> None:
        value = call(function, arguments)
        if isinstance(value, Tensor) and value.fresh:  # a parameter is its tensor once more
            value.fresh = False
            self.tensors += 1
        self._stack.append(value)

    def _new(self, kind: Any, arguments: Any, _keywords: Any = None) -> None:
        self._stack.append(make(kind, arguments))

    def _storage(self, identity: Any) -> Any:
        """Return what torch calls a persistent id: ("storage", type, key, location, number of elements).

        The old format adds a view, and has ("module", class, file, source) for a class.
        """
        if self._old_format and isinstance(identity, tuple) and len(identity) == 4 and identity[0] == "module":
            return identity[1]
        length = 6 if self._old_format else 5
        if not isinstance(identity, tuple) or len(identity) != length or identity[0] != "storage":
            raise Damaged("the pickle asks for something that is no storage of torch")
        _word, kind, key, _location, numel = identity[:5]
        if not (isinstance(kind, Global) and isinstance(key, str) and type(numel) is int and numel >= 0):
            raise Damaged("the pickle describes a storage in a way that torch does not")
        found = Storage(kind.name, key, numel)
        known = self.storages.setdefault(key, found)
        if (known.kind, known.numel) != (found.kind, found.numel):
            raise Damaged(f"storage {key} is described in two different ways")
        return known

    def _build(self, state: Any) -> None:
        target = self._top()
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict):
            state = state[0]
        if isinstance(target, Built) and target is not _NOTHING:
            target.state = state


def _pairs(flat: List[Any]) -> Dict[Any, Any]:
    """Return the text and number keys of a flat key, value, key, value sequence; no other key is of interest.

    A tuple as key would have to be hashed, which a hostile pickle can make endless.
    """
    pairs = zip(flat[0::2], flat[1::2])  # noqa: B905 -- `strict` came with Python 3.10
    return {key: value for key, value in pairs if type(key) in {str, int}}
