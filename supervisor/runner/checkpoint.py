"""Say what a checkpoint file is, without torch and without running anything that the file says.

A checkpoint is a zip with a pickle in it, and a pickle is a program. This module checks the zip and the CRC of every
record (torch itself never does, so "it loads" proves nothing; `zip_check`), follows the pickle's instructions with
tokens in place of all that they would import, call or build (`pickle_scan`), compares each tensor's storage with its
record, and, if asked, looks for NaN and Inf in the raw tensors (`finite`).

Also a program: ``python -I -S checkpoint.py [--finite] FILE [FILE...]`` prints one JSON object per file, under limits
on memory and CPU that it sets on itself.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from typing import Any, Dict, List, Optional

if __package__:
    from .checkpoint_facts import facts, text
    from .finite import Search, element_bytes, number_format
    from .learned import FINITE, NAN_IS_TOLD, limits
    from .old_format import examine as examine_old
    from .old_format import is_old_format
    from .pickle_scan import Damaged, PickleScan
    from .zip_check import Archive, Record, Watch

#: Address space of the command-line form; a 228 MB checkpoint needs about 40 MB.
MEMORY_LIMIT_BYTES = 512 * 1024 * 1024
#: CPU of the command-line form per file; the CRC of 1 GB takes about 0.6 s.
CPU_LIMIT_S = 5
#: A slow core's CRC; so much more time is allowed for a large file.
CRC_BYTES_PER_S = 200 * 1024 * 1024
#: The largest known model's pickle is below 2 MB; far above that it is an attack or an accident.
PICKLE_LIMIT_BYTES = 64 * 1024 * 1024

#: Exit code of the command-line form where the memory did not suffice to look at a file.
OUT_OF_MEMORY = 71
NO_MEMORY = "the memory did not suffice to read its metadata"

#: Errors that say something about the file; all others say "this machine could not look".
_ABOUT_THE_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.EINVAL})
_PACKAGE = "yolo_supervisor_runner"


def inspect(path: str, finite: bool = False) -> Dict[str, Any]:
    """Return what the file at `path` is; never raises for anything that is wrong with the file.

    `finite` has all tensors searched for NaN and Inf, in the same reading. Keys: path, state, epoch (0-based, -1 when
    finished), epochs, size_bytes, mtime_ns, has_optimizer, save_dir, best_fitness, reason (one line for a person),
    version (of the trainer), metrics, updates (of the EMA), model (its class), class_names, arguments (plain values
    only), tensors (how many), tensor_bytes, finite (None: was not looked for), doubts (what only a load in the
    trainer's own Python can settle). The states:

    ``missing``            there is no such file
    ``torn``               cut, altered, or no checkpoint at all
    ``unknown``            this machine could not look (permission, I/O error, memory); says nothing about the file
    ``hostile``            its pickle names what no checkpoint needs; must not be loaded
    ``poisoned``           NaN or Inf in its tensors; only found if `finite`
    ``weights_only``       whole, but without what a resume needs
    ``finished``           stripped at the normal end of its training
    ``done_not_stripped``  the last epoch is in it, the process died before it stripped the file
    ``resumable``          training can go on at epoch + 1
    """
    result = _nothing(path)
    try:
        result.update(_look(path, finite))
    except Damaged as error:
        result["reason"] = text(str(error))
    except OSError as error:
        result.update(_of_os_error(error))
    except MemoryError:  # of which a checkpoint needs little: the machine has none left, or the pickle takes it all
        result.update(state="unknown", reason=NO_MEMORY)
    except Exception as error:  # noqa: BLE001 -- a hostile file may break any parser at any point: it is still just torn
        result["reason"] = text(f"{type(error).__name__}: {error}")
    return result


def _nothing(path: str) -> Dict[str, Any]:
    return {
        "path": path.encode("utf-8", "replace").decode("utf-8"),
        "state": "torn",
        "epoch": None,
        "epochs": None,
        "size_bytes": 0,
        "mtime_ns": 0,
        "has_optimizer": False,
        "save_dir": None,
        "best_fitness": None,
        "reason": "",
        "version": None,
        "metrics": {},
        "updates": None,
        "model": None,
        "class_names": None,
        "arguments": {},
        "tensors": 0,
        "tensor_bytes": 0,
        "finite": None,
        "doubts": [],
    }


def _of_os_error(error: OSError) -> Dict[str, Any]:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return {"state": "missing", "reason": "no such file"}
    state = "torn" if error.errno in _ABOUT_THE_FILE else "unknown"
    return {"state": state, "reason": text(str(error))}


def _look(path: str, finite: bool) -> Dict[str, Any]:
    # O_NONBLOCK: opening a FIFO that somebody put there must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        result: Dict[str, Any] = {"size_bytes": before.st_size, "mtime_ns": before.st_mtime_ns, "state": "torn"}
        if not stat.S_ISREG(before.st_mode):
            return {"state": "torn", "reason": "not a regular file"}
        if before.st_size == 0:
            return {**result, "reason": "empty file"}
        try:
            found = _examine(descriptor, before.st_size, finite)
        except Damaged as error:
            found = {"reason": text(str(error))}
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        # The trainer writes in place, so a file may change under the reader.
        return {**result, "reason": "it was being written while it was read"}
    return {**result, **found}


def _examine(descriptor: int, size_bytes: int, finite: bool) -> Dict[str, Any]:
    """Return all that is told by an open file; raises Damaged."""
    if is_old_format(descriptor):
        found, hostile = examine_old(descriptor, size_bytes, PICKLE_LIMIT_BYTES)
        return _hostile(hostile) if hostile else found
    archive = Archive(descriptor, size_bytes)
    pickled = _pickle_of(archive)
    scan = PickleScan()
    try:
        top = scan.run(archive.read(pickled))
    except Exception:
        if not scan.hostile:
            raise
        top = None  # the machine that runs it would have come as far as the hostile name
    if scan.hostile:
        return _hostile(scan.hostile)
    found = facts(top)
    contents = _Contents(archive, pickled, scan, limits(top) if finite else {})
    found.update(tensors=scan.tensors, tensor_bytes=contents.compare(), doubts=contents.doubts)
    found["finite"] = contents.verify(finite)
    if found["finite"] is False:
        where = ", ".join(contents.poisoned[:3])
        found.update(state="poisoned", reason=f"NaN or Inf in {len(contents.poisoned)} of its tensors: {where}")
    return found


def _hostile(names: List[str]) -> Dict[str, Any]:
    return {"state": "hostile", "reason": text(f"its pickle names {', '.join(names)}: it is never loaded")}


def _pickle_of(archive: Archive) -> Record:
    records = [record for name, record in archive.records.items() if name.split("/")[1:] == ["data.pkl"]]
    if len(records) != 1:
        raise Damaged(f"a zip, but not of torch: {len(records)} records named data.pkl")
    if records[0].size > PICKLE_LIMIT_BYTES:
        raise Damaged(f"data.pkl of {records[0].size} bytes is larger than any checkpoint's")
    return records[0]


class _Contents:
    """The records of a checkpoint against what its pickle says of them, and what their numbers may be."""

    def __init__(self, archive: Archive, pickled: Record, scan: PickleScan, allowed: Dict[str, int]) -> None:
        self.doubts: List[str] = []
        self.poisoned: List[str] = []
        self._archive = archive
        self._pickled = pickled
        self._scan = scan
        self._allowed = allowed
        self._prefix = pickled.name.partition("/")[0]

    def compare(self) -> int:
        """Return the bytes of all storages; raises Damaged where one has no record or a wrong size."""
        total = 0
        for key, storage in self._scan.storages.items():
            record = self._archive.records.get(f"{self._prefix}/data/{key}")
            if record is None:
                raise Damaged(f"record {self._prefix}/data/{key} is missing")
            each = element_bytes(storage.kind)
            if each is None:
                self._doubt(f"{storage.kind} is not known: its size cannot be compared")
            elif each * storage.numel != record.size:
                raise Damaged(f"record {record.name} has {record.size} bytes instead of {each * storage.numel}")
            total += record.size
        self._compare_names()
        return total

    def _compare_names(self) -> None:
        known = {f"{self._prefix}/data/{key}" for key in self._scan.storages}
        spare = [name for name in self._archive.records if name.split("/")[1:2] == ["data"] and name not in known]
        if spare:
            self._doubt(f"record {spare[0]} belongs to no tensor")
        if self._archive.without_crc:
            self._doubt("it was written without CRCs, so a changed byte in it cannot be seen")
        if self._scan.unusual:
            self._doubt(f"its pickle names {', '.join(self._scan.unusual)}")

    def _doubt(self, doubt: str) -> None:
        doubt = text(doubt)
        if doubt not in self.doubts:
            self.doubts.append(doubt)

    def verify(self, finite: bool) -> Optional[bool]:
        """Read all records once, in the order in which they lie. Return whether all numbers are finite.

        None if that was not asked, or cannot be told.
        """
        if finite and not self._is_little_endian():
            self._doubt("its numbers are not little-endian: NaN was not looked for")
            finite = False
        by_name = {f"{self._prefix}/data/{key}": self._scan.storages[key] for key in self._allowed}
        searches: Dict[str, Search] = {}
        for record in sorted(self._archive.records.values(), key=lambda one: one.offset):
            if record is self._pickled:
                continue
            storage = by_name.get(record.name) if finite else None
            form = number_format(storage.kind, storage.element) if storage is not None else None
            watch = None
            if form is not None:
                watch = self._watch(record.name, searches.setdefault(form, Search(form)))
            self._archive.verify(record, watch)
        return not self.poisoned if finite else None

    def _is_little_endian(self) -> bool:
        record = self._archive.records.get(f"{self._prefix}/byteorder")
        return record is None or (record.size < 100 and self._archive.read(record) == b"little")

    def _watch(self, name: str, search: Search) -> Watch:
        allowed = self._allowed[name.rpartition("/")[2]]
        found = False

        def watch(chunk: bytearray) -> None:
            nonlocal found
            if found or not search.finds(chunk, inf_allowed=allowed != FINITE):
                return
            found = True
            if allowed == NAN_IS_TOLD:
                self._doubt(f"NaN in {name}, which is no weight")
            else:
                self.poisoned.append(name)

        return watch


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


def main(words: List[str]) -> int:
    """Print one JSON object a line for each path; returns 0, or 2 without a path.

    Where its limits do not suffice it ends at that file, about which nothing is known then: over that of CPU it dies
    of SIGXCPU, over that of memory it returns OUT_OF_MEMORY.
    """
    finite = words[:1] == ["--finite"]
    paths = words[finite:]
    if not paths:
        print("usage: checkpoint.py [--finite] FILE [FILE...]", file=sys.stderr)
        return 2
    _limit_memory()
    for path in paths:
        _limit_cpu(path)
        found = inspect(path, finite)
        if found["reason"] == NO_MEMORY:
            return OUT_OF_MEMORY
        print(json.dumps(found), flush=True)
    return 0


def _run_by_path() -> int:
    """Make this folder a package under its own name, off sys.path, and run this module as a part of it."""
    from importlib import import_module
    from types import ModuleType

    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(here)]
    package = ModuleType(_PACKAGE)
    package.__path__ = [here]
    sys.modules[_PACKAGE] = package
    code: int = import_module(f"{_PACKAGE}.checkpoint").main(sys.argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(_run_by_path())
