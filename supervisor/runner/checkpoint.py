"""Say what a checkpoint file is, without torch and without running anything that the file says.

A checkpoint is a zip with a pickle in it, and a pickle is a program. This module reads the zip directory,
checks the CRC of every record (torch itself never does, so "it loads" proves nothing) and then walks the
pickle's opcodes with `pickletools.genops`, keeping only plain scalars, strings, tuples and dicts. Nothing is
imported, called or built on the pickle's behalf.

Also a program: ``python -I checkpoint.py FILE [FILE...]`` prints one JSON object per file, under limits on
memory and CPU that it sets on itself.
"""

from __future__ import annotations

import errno
import json
import os
import pickletools
import stat
import struct
import sys
import zipfile
from typing import Any, BinaryIO, Callable

#: Address space of the command-line form; a 228 MB checkpoint needs about 40 MB.
MEMORY_LIMIT_BYTES = 512 * 1024 * 1024
#: CPU of the command-line form per file; the CRC of 1 GB takes about 0.6 s.
CPU_LIMIT_S = 5
#: A slow core's CRC; so much more time is allowed for a large file.
CRC_BYTES_PER_S = 200 * 1024 * 1024
#: The largest known model's pickle is below 2 MB; far above that it is an attack or an accident.
PICKLE_LIMIT_BYTES = 64 * 1024 * 1024

#: Errors that say something about the file; all others say "this machine could not look".
_ABOUT_THE_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.EINVAL})


class Opaque:
    """Stands for everything that the scan does not follow: modules, tensors, calls."""

    def __init__(self, name: str = "", arguments: Any = None) -> None:
        self.name = name
        self.arguments = arguments


_OPAQUE = Opaque()
_MARK = Opaque("mark")


class Damaged(Exception):  # noqa: N818 -- read as a word: raise Damaged
    """The file is cut, altered or no checkpoint at all; the text says how."""


class PickleScan:
    """Follow the stack and memo of a pickle far enough to know its plain values.

    An opcode without a rule of its own takes from the stack what `pickletools` says that it takes, and leaves
    `Opaque` there.
    """

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[Any, Any] = {}
        self._rules: dict[str, Callable[[Any], None]] = {
            "NONE": lambda _: self._stack.append(None),
            "NEWTRUE": lambda _: self._stack.append(True),
            "NEWFALSE": lambda _: self._stack.append(False),
            "MARK": lambda _: self._stack.append(_MARK),
            "POP": lambda _: self._pop(),
            "POP_MARK": lambda _: self._discard(),
            "DUP": lambda _: self._stack.append(self._top()),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "DICT": lambda _: self._stack.append(_pairs(self._pop_mark())),
            "SETITEM": self._set_item,
            "SETITEMS": self._set_items,
            "EMPTY_TUPLE": lambda _: self._stack.append(()),
            "TUPLE": lambda _: self._stack.append(tuple(self._pop_mark())),
            "TUPLE1": lambda _: self._stack.append(self._pop_many(1)),
            "TUPLE2": lambda _: self._stack.append(self._pop_many(2)),
            "TUPLE3": lambda _: self._stack.append(self._pop_many(3)),
            "GLOBAL": lambda name: self._stack.append(Opaque(str(name).replace(" ", "."))),
            "STACK_GLOBAL": self._stack_global,
            "REDUCE": self._reduce,
            "BUILD": lambda _: self._pop(),
            "APPEND": lambda _: self._pop(),
            "APPENDS": lambda _: self._discard(),
            "ADDITEMS": lambda _: self._discard(),
        }

    def run(self, raw: bytes) -> Any:
        """Return the value that the pickle ends with; raises Damaged or ValueError if it does not parse."""
        for opcode, argument, _position in pickletools.genops(raw):
            name = opcode.name
            if name == "STOP":
                return self._pop()
            if name in {"PROTO", "FRAME"}:
                continue
            rule = self._rules.get(name)
            if rule is not None:
                rule(argument)
            elif "PUT" in name or name == "MEMOIZE":
                self._memo[len(self._memo) if argument is None else argument] = self._top()
            elif name in {"GET", "BINGET", "LONG_BINGET"}:
                self._stack.append(self._memo.get(argument, _OPAQUE))
            else:
                self._by_signature(opcode, argument)
        raise Damaged("the pickle has no end")

    def _by_signature(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        if pickletools.markobject in opcode.stack_before:
            self._pop_mark()
        elif opcode.stack_before:
            self._pop_many(len(opcode.stack_before))
        if not opcode.stack_before and isinstance(argument, (int, float, str, bytes)):
            self._stack.append(argument)
        else:
            self._stack.extend(_OPAQUE for _ in opcode.stack_after)

    def _top(self) -> Any:
        if not self._stack:
            raise Damaged("the pickle takes a value that is not there")
        return self._stack[-1]

    def _pop(self) -> Any:
        value = self._top()
        self._stack.pop()
        return value

    def _pop_many(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self._pop() for _ in range(count)]))

    def _pop_mark(self) -> list[Any]:
        values: list[Any] = []
        while self._top() is not _MARK:
            values.append(self._pop())
        self._pop()
        return values[::-1]

    def _discard(self) -> None:
        self._pop_mark()

    def _set_item(self, _argument: Any) -> None:
        pair = self._pop_many(2)
        self._update(pair)

    def _set_items(self, _argument: Any) -> None:
        self._update(self._pop_mark())

    def _update(self, flat: Any) -> None:
        target = self._top()
        if isinstance(target, dict):
            target.update(_pairs(flat))

    def _stack_global(self, _argument: Any) -> None:
        module, name = self._pop_many(2)
        self._stack.append(Opaque(f"{module}.{name}"))

    def _reduce(self, _argument: Any) -> None:
        function, arguments = self._pop_many(2)
        self._stack.append(_known_call(function, arguments))


def _pairs(flat: Any) -> dict[str, Any]:
    """Return the string keys of a flat key, value, key, value sequence; the rest is of no interest here."""
    pairs = zip(flat[0::2], flat[1::2])  # noqa: B905 -- `strict` came with Python 3.10
    return {key: value for key, value in pairs if isinstance(key, str)}


def _known_call(function: Any, arguments: Any) -> Any:
    """Return what two well-known calls stand for (bytes in protocol 2, a numpy float), else Opaque."""
    name = function.name if isinstance(function, Opaque) else ""
    if not isinstance(arguments, tuple) or len(arguments) != 2:
        return Opaque(name, arguments)
    first, second = arguments
    if name == "_codecs.encode" and isinstance(first, str) and second == "latin1":
        return first.encode("latin1", "replace")
    if name.endswith("multiarray.scalar") and isinstance(second, bytes) and len(second) == 8:
        kind = first.arguments if isinstance(first, Opaque) else None
        if isinstance(kind, tuple) and kind[:1] == ("f8",):
            return struct.unpack("<d", second)[0]
    return Opaque(name, arguments)


def inspect(path: str) -> dict[str, Any]:
    """Return what the file at `path` is; never raises for anything that is wrong with the file.

    Keys: path, state, epoch (0-based, -1 when finished), epochs, size_bytes, mtime_ns, has_optimizer,
    save_dir, best_fitness, reason (one line for a person). The states:

    ``missing``            there is no such file
    ``torn``               cut, altered, or no checkpoint at all
    ``unknown``            this machine could not look (permission, I/O error); says nothing about the file
    ``weights_only``       whole, but without what a resume needs
    ``finished``           stripped at the normal end of its training
    ``done_not_stripped``  the last epoch is in it, the process died before it stripped the file
    ``resumable``          training can go on at epoch + 1
    """
    result: dict[str, Any] = {
        "path": path,
        "state": "torn",
        "epoch": None,
        "epochs": None,
        "size_bytes": None,
        "mtime_ns": None,
        "has_optimizer": False,
        "save_dir": None,
        "best_fitness": None,
        "reason": "",
    }
    try:
        result.update(_look(path))
    except Damaged as error:
        result["reason"] = str(error)
    except OSError as error:
        result.update(_of_os_error(error))
    except MemoryError:
        result["reason"] = "reading it needs more memory than a checkpoint's directory ever should"
    except Exception as error:  # noqa: BLE001 -- a hostile file may break any parser at any point: it is still just torn
        result["reason"] = f"{type(error).__name__}: {error}"
    return result


def _of_os_error(error: OSError) -> dict[str, Any]:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return {"state": "missing", "reason": "no such file"}
    state = "torn" if error.errno in _ABOUT_THE_FILE else "unknown"
    return {"state": state, "reason": str(error)}


def _look(path: str) -> dict[str, Any]:
    # O_NONBLOCK: opening a FIFO that somebody put there must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        result: dict[str, Any] = {"size_bytes": before.st_size, "mtime_ns": before.st_mtime_ns}
        if not stat.S_ISREG(before.st_mode):
            return {"state": "torn", "reason": "not a regular file"}
        if before.st_size == 0:
            return {**result, "state": "torn", "reason": "empty file"}
        try:
            top = PickleScan().run(_checked_pickle(file))
        except Damaged as error:
            return {**result, "state": "torn", "reason": str(error)}
        after = os.fstat(descriptor)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        # The trainer writes in place, so a file may change under the reader.
        return {**result, "state": "torn", "reason": "it was being written while it was read"}
    return {**result, **_judge(top)}


def _checked_pickle(file: BinaryIO) -> bytes:
    """Return the checkpoint's pickle after the CRC of every record was found right; raises Damaged."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise Damaged(f"no whole zip: {error}") from error
    try:
        bad = archive.testzip()
    except zipfile.BadZipFile as error:
        raise Damaged(f"no whole zip: {error}") from error
    if bad is not None:
        raise Damaged(f"wrong CRC in {bad}")
    records = [record for record in archive.infolist() if record.filename.split("/")[1:] == ["data.pkl"]]
    if len(records) != 1:
        raise Damaged(f"a zip, but not of torch: {len(records)} records named data.pkl")
    if records[0].file_size > PICKLE_LIMIT_BYTES:
        raise Damaged(f"data.pkl of {records[0].file_size} bytes is larger than any checkpoint's")
    return archive.read(records[0])


def _judge(top: Any) -> dict[str, Any]:
    """Turn the plain values of the pickle's top level into a state."""
    if not isinstance(top, dict):
        return {"state": "weights_only", "reason": "not a training checkpoint: the top level is no dict"}
    arguments: dict[str, Any] = next((top[key] for key in ("train_args", "opt") if isinstance(top.get(key), dict)), {})
    epoch, epochs = _whole_number(top.get("epoch")), _whole_number(arguments.get("epochs"))
    has_optimizer = top.get("optimizer") is not None
    has_weights = top.get("ema") is not None or top.get("model") is not None
    state, reason = _state(epoch, epochs, has_optimizer, has_weights)
    save_dir = arguments.get("save_dir")
    return {
        "state": state,
        "reason": reason,
        "epoch": epoch,
        "epochs": epochs,
        "has_optimizer": has_optimizer,
        "save_dir": save_dir if isinstance(save_dir, str) else None,
        "best_fitness": _number(top.get("best_fitness")),
    }


def _state(epoch: int | None, epochs: int | None, has_optimizer: bool, has_weights: bool) -> tuple[str, str]:
    if epoch is None or not has_weights:
        return "weights_only", f"not a training checkpoint: no {'epoch' if has_weights else 'model'} in it"
    if epoch < 0 and has_optimizer:
        return "weights_only", "saved before the first epoch"
    if epoch < 0:
        return "finished", "its training ended normally and stripped it"
    if not has_optimizer:
        return "weights_only", f"epoch {epoch} without the optimizer's state"
    if epochs is not None and epoch + 1 >= epochs:
        return "done_not_stripped", f"holds the last of {epochs} epochs, but was not stripped"
    return "resumable", f"goes on at epoch {epoch + 1} (0-based)"


def _whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    number = float(value)
    return number if abs(number) != float("inf") and number == number else None  # noqa: PLR0124 -- the NaN test


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu(path: str) -> None:
    """Allow so much CPU more from now on: the kernel counts the whole process, the files come one by one."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + CPU_LIMIT_S + 1 + _size(path) // CRC_BYTES_PER_S
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def main(paths: list[str]) -> int:
    """Print one JSON object a line for each path; returns 0, or 2 without a path.

    Over its CPU limit the process dies of SIGXCPU: then nothing is known about the file it was at.
    """
    if not paths:
        print("usage: checkpoint.py FILE [FILE...]", file=sys.stderr)
        return 2
    _limit_memory()
    for path in paths:
        _limit_cpu(path)
        print(json.dumps(inspect(path)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
