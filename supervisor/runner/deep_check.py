"""Load a checkpoint for real and look at what came out: ``python deep_check.py [options] FILE``.

Run with the job's own Python, which has torch and the trainer's classes. Loading executes what the file says, as a
resume does; a file that the cheap check finds torn or hostile is therefore refused without being loaded. Memory and
CPU are limited, GPUs are hidden. Prints one JSON object: version, path, ok, reason, epoch (0-based), optimizer, ema,
tensors, finite (null: not reached). Exit code 0: ok, 65: refused for what was seen in the file, 1: could not look,
which says nothing about the file (no torch, a class that this Python does not have, no memory, a module that wants a
GPU at its import).

    --expected-epoch N   the stored epoch (0-based) that it must have; then an optimizer must be there too
    --path DIR           a folder with the trainer's modules, such as a checkout of YOLOv5; may be repeated
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
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
#: What torch's reader says of the file; whatever else a load raises may be for want of something here.
_OF_THE_FILE = ("PytorchStreamReader", "unexpected EOF", "storage has wrong byte size")
#: What torch is told from outside, and would make of our load another one than the trainer's.
_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


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
    except Exception as error:  # noqa: BLE001 -- classes of any trainer are imported here, and ask for anything
        found["reason"] = f"it could not be loaded here: {_one_line(error)}"
        return COULD_NOT_LOOK
    told = f"; NaN in {found['reason']}, which is no weight" if found["reason"] else ""
    found.update(ok=True, reason=f"loads, complete and finite{told}")
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
    os.environ.pop(_FORCED, None)
    torch = import_module("torch")
    _limit(size_bytes)
    try:
        return _loaded(torch, path)
    except (pickle.UnpicklingError, EOFError) as error:
        raise Refused(f"it does not load: {_one_line(error)}") from error
    except RuntimeError as error:
        if not any(word in str(error) for word in _OF_THE_FILE):
            raise
        raise Refused(f"it does not load: {_one_line(error)}") from error


def _loaded(torch: Any, path: str) -> Any:
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
    """Look at the numbers; what each tensor may hold is said in `learned`. NaN that is only told becomes the reason."""
    torch, learned = import_module("torch"), _sibling("learned")
    found["finite"] = True
    for name, tensor, limit in _tensors(torch, learned, content):
        found["tensors"] += 1
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        bad = ~torch.isfinite(tensor) if limit == learned.FINITE else torch.isnan(tensor)
        if not bool(bad.any()):
            continue
        if limit != learned.NAN_IS_TOLD:
            found["finite"] = False
            raise Refused(f"NaN or Inf in {name}")
        found["reason"] = found["reason"] or name


def _tensors(torch: Any, learned: Any, content: Dict[Any, Any]) -> Iterator[Tuple[str, Any, int]]:
    """Return name, tensor and limit of all that belongs to the model or the optimizer's state.

    Walks dicts and lists without recursion: a file may nest them without end, or in a circle.
    """
    optimizer = content.get("optimizer")
    state = optimizer.get("state") if isinstance(optimizer, dict) else None
    waiting: List[Tuple[str, Any, bool]] = [(key, content.get(key), False) for key in ("ema", "model")]
    waiting.append(("optimizer.state", state, True))
    seen = set()
    while waiting:
        name, value, strict = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield name, value, learned.FINITE if strict or learned.is_learned(name) else learned.INF_ALLOWED
        elif isinstance(value, torch.nn.Module):
            yield from ((f"{name}.{own}", tensor, learned.FINITE) for own, tensor in value.named_parameters())
            for own, tensor in value.named_buffers():
                yield f"{name}.{own}", tensor, learned.FINITE if learned.is_statistic(own) else learned.NAN_IS_TOLD
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict):
                waiting.extend((f"{name}.{key}"[-200:], one, strict) for key, one in value.items())
            else:
                waiting.extend((name, one, strict) for one in value)


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(here)]
    sys.exit(main())
