"""Load a checkpoint for real and look at what came out: ``python deep_check.py [options] FILE``.

Run with the job's own Python, which has torch and the trainer's classes. Loading executes what the file says, as a
resume does; a file that the cheap check finds torn or hostile is therefore refused without being loaded. Memory and
CPU are limited, GPUs are hidden. Prints one JSON object: version, path, ok, reason, epoch (0-based), optimizer, ema,
tensors, finite (null: not reached). Exit code 0: ok, 65: refused, 1: could not look, which says nothing about
the file (no torch, a class that this Python does not have, no memory).

    --expected-epoch N   the stored epoch (0-based) that it must have; then an optimizer must be there too
    --path DIR           a folder with the trainer's modules, such as a checkout of YOLOv5; may be repeated
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any, Dict, Iterator, List, Optional, Tuple

_PACKAGE = "yolo_supervisor_runner"
#: Beyond what the process has after the import of torch: the file, its tensors, copies of the larger ones.
_MEMORY_BASE_BYTES = 2 * 1024**3
_MEMORY_FACTOR = 4
#: Importing a trainer's classes takes seconds; reading and looking at tensors goes at a fraction of memory speed.
_CPU_LIMIT_S = 120
_CPU_BYTES_PER_S = 20 * 1024 * 1024

OK, COULD_NOT_LOOK, REFUSED = 0, 1, 65
#: What a load raises for want of something here, not for want of something in the file.
_OURS = (ImportError, AttributeError, NameError, OSError, MemoryError)


class Refused(Exception):  # noqa: N818 -- read as a word: raise Refused
    """The checkpoint must not be used; the text says why."""


def main(words: Optional[List[str]] = None) -> int:
    """Look at the file that is named; see the module."""
    options = _options(words)
    sys.path[:0] = [os.path.abspath(folder) for folder in options.path]
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # trainers' modules print at import
    found: Dict[str, Any] = {
        "version": 1,
        "path": options.file.encode("utf-8", "replace").decode("utf-8"),
        "ok": False,
        "reason": "",
        "epoch": None,
        "optimizer": False,
        "ema": False,
        "tensors": 0,
        "finite": None,
    }
    code = _answer(found, options.file, options.expected_epoch)
    with out:
        json.dump(found, out)
        out.write("\n")
    return code


def _options(words: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Load a checkpoint and look at it.")
    parser.add_argument("--expected-epoch", type=int, metavar="N")
    parser.add_argument("--path", action="append", default=[], metavar="DIR")
    parser.add_argument("file")
    return parser.parse_args(words)


def _answer(found: Dict[str, Any], path: str, expected_epoch: Optional[int]) -> int:
    try:
        _check(found, path, expected_epoch)
    except Refused as refused:
        found["reason"] = str(refused)
        return REFUSED
    except _OURS as error:
        found["reason"] = f"it could not be loaded here: {_one_line(error)}"
        return COULD_NOT_LOOK
    except Exception as error:  # noqa: BLE001 -- whatever a load raises, the file does not load
        found["reason"] = f"it does not load: {_one_line(error)}"
        return REFUSED
    found.update(ok=True, reason="loads, complete and finite")
    return OK


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500].encode("utf-8", "replace").decode("utf-8")


def _check(found: Dict[str, Any], path: str, expected_epoch: Optional[int]) -> None:
    cheap = _sibling("checkpoint").inspect(path)
    if cheap["state"] == "unknown":
        raise OSError(cheap["reason"])
    if cheap["state"] in {"missing", "torn", "hostile"}:
        raise Refused(f"{cheap['state']}: {cheap['reason']}")
    content = _load(path, cheap["size_bytes"])
    if not isinstance(content, dict):
        raise Refused("its top level is no dict")
    to_resume = expected_epoch is not None or cheap["state"] in {"resumable", "done_not_stripped"}
    _check_parts(found, content, to_resume)
    _check_epoch(found, content, cheap["epoch"], expected_epoch)
    _check_numbers(found, content)
    after = os.stat(path)
    if (after.st_mtime_ns, after.st_size) != (cheap["mtime_ns"], cheap["size_bytes"]):
        raise Refused("it was being written while it was read")


def _sibling(name: str) -> ModuleType:
    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE)
        package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
        sys.modules[_PACKAGE] = package
    return import_module(f"{_PACKAGE}.{name}")


def _load(path: str, size_bytes: int) -> Any:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch = import_module("torch")
    _limit(size_bytes)
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except TypeError as error:
        if "weights_only" not in str(error):
            raise
        return torch.load(path, map_location="cpu")  # torch before 1.13


def _limit(size_bytes: int) -> None:
    """Limit what the load may take. Set after the import: a build for GPUs maps many gigabytes by itself."""
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    memory = used + _MEMORY_BASE_BYTES + _MEMORY_FACTOR * size_bytes
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    times = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(times.ru_utime + times.ru_stime) + _CPU_LIMIT_S + size_bytes // _CPU_BYTES_PER_S
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))


def _check_parts(found: Dict[str, Any], content: Dict[Any, Any], to_resume: bool) -> None:
    optimizer = content.get("optimizer")
    found["ema"] = content.get("ema") is not None
    found["optimizer"] = isinstance(optimizer, dict) and bool(optimizer.get("param_groups"))
    if not found["ema"] and content.get("model") is None:
        raise Refused("there is no model in it")
    if to_resume and not found["optimizer"]:
        raise Refused("the optimizer's state is not in it")


def _check_epoch(found: Dict[str, Any], content: Dict[Any, Any], seen: Any, expected: Optional[int]) -> None:
    epoch = content.get("epoch")
    found["epoch"] = epoch if isinstance(epoch, int) and not isinstance(epoch, bool) else None
    if found["epoch"] != seen:
        raise Refused(f"loaded, it tells another epoch ({epoch}) than before ({seen})")
    if expected is not None and found["epoch"] != expected:
        raise Refused(f"it holds epoch {epoch} (counted from 0), not {expected}")


def _check_numbers(found: Dict[str, Any], content: Dict[Any, Any]) -> None:
    """Look at all that was learned. Other buffers may hold Inf (masks), but never NaN."""
    torch = import_module("torch")
    found["finite"] = True
    for name, tensor, inf_allowed in _tensors(torch, content):
        found["tensors"] += 1
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        bad = torch.isnan(tensor) if inf_allowed else ~torch.isfinite(tensor)
        if bool(bad.any()):
            found["finite"] = False
            raise Refused(f"NaN or Inf in {name}")
    if not found["tensors"]:
        raise Refused("there is no tensor in it")


def _tensors(torch: Any, content: Dict[Any, Any]) -> Iterator[Tuple[str, Any, bool]]:
    for key in ("ema", "model"):
        part = content.get(key)
        if isinstance(part, torch.nn.Module):
            yield from ((f"{key}.{name}", tensor, False) for name, tensor in part.named_parameters())
            for name, tensor in part.named_buffers():
                yield f"{key}.{name}", tensor, not name.rpartition(".")[2].startswith("running_")
        else:
            yield from _in_containers(torch, part, key)
    yield from _in_containers(torch, content.get("optimizer"), "optimizer")


def _in_containers(torch: Any, top: Any, name: str) -> Iterator[Tuple[str, Any, bool]]:
    """Walk dicts and lists, without recursion: a file may nest them without end, or in a circle."""
    waiting, seen = [(name, top)], set()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield name, value, False
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            waiting.extend((f"{name}.{key}"[:200], one) for key, one in pairs)


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(here)]
    sys.exit(main())
