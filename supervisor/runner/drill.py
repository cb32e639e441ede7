"""Train one batch from a checkpoint on the CPU: ``python drill.py [options] FILE``.

Run with the job's own Python. The file is looked at as by deep_check.py, which refuses what is torn or hostile without
loading it; then what a resume does is rehearsed: the model is built anew in training mode with the stored weights, the
optimizer's state is loaded, and one batch of random pictures with made-up labels goes forward, through the loss, back,
and into one step of the optimizer. Of trainers whose loss lies in their own scripts only the forward pass is made.
Memory and CPU are limited, GPUs are hidden, nothing is written.

Prints one JSON object: version, path, ok, reason, loaded, epoch (0-based), best_fitness, map50_95, task, trained,
untrained (why not), optimizer ("loaded", "seen" or ""), loss, seconds. Exit code 0: ok, 65: refused for what was seen
in the file, 1: it could not be loaded here, which says nothing about the file.

    --expected-epoch N   the stored epoch (0-based) that it must have
    --path DIR           a folder with the trainer's modules, such as a checkout of YOLOv5; may be repeated
    --tied               end with the parent, which holds our standard input open
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import signal
import sys
import threading
import time
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any, Dict, Iterator, List, Optional

_PACKAGE = "yolo_supervisor_runner"
OK, COULD_NOT_LOAD, REFUSED = 0, 1, 65
#: Beyond what deep_check.py lets a load take: gradients, the optimizer's state and activations of two small pictures.
_MEMORY_FACTOR = 12
_MEMORY_BASE_BYTES = 4 * 1024**3
_CPU_LIMIT_S = 600
_THREADS = 2  # trainings go on beside us
_NICE = 19
_PICTURES = 2
_LEAST_SIDE = 64
_SEED = 20260101


class Untrained(Exception):  # noqa: N818 -- read as a word: raise Untrained
    """No batch can be trained from this here; the text says why, and says nothing against the file."""


def main(words: Optional[List[str]] = None) -> int:
    """Rehearse with the file that is named; see the module."""
    options = _options(words)
    if options.tied:
        _end_with_parent()
    sys.path[:0] = [os.path.abspath(folder) for folder in options.path]
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # trainers' modules print at import
    found: Dict[str, Any] = {
        "version": 1, "path": options.file.encode("utf-8", "replace").decode("utf-8"), "ok": False, "reason": "",
        "loaded": False, "epoch": None, "best_fitness": None, "map50_95": None, "task": "", "trained": False,
        "untrained": "", "optimizer": "", "loss": None, "seconds": 0.0,
    }  # fmt: skip
    began = time.monotonic()
    code = _answer(found, options)
    found["seconds"] = round(time.monotonic() - began, 3)
    with out:
        json.dump(found, out)
        out.write("\n")
    return code


def _options(words: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train one batch from a checkpoint on the CPU.")
    parser.add_argument("--expected-epoch", type=int, metavar="N")
    parser.add_argument("--path", action="append", default=[], metavar="DIR")
    parser.add_argument("--tied", action="store_true")
    parser.add_argument("file")
    return parser.parse_args(words)


def _end_with_parent() -> None:
    """A daemon that was killed leaves nothing behind that computes on."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _answer(found: Dict[str, Any], options: argparse.Namespace) -> int:
    deep = _sibling("deep_check")
    try:
        content = _load(deep, found, options)
    except deep.Refused as refused:
        found["reason"] = str(refused)
        return REFUSED
    except Exception as error:  # noqa: BLE001 -- classes of any trainer are imported here, and ask for anything
        found["reason"] = "it could not be loaded here: {}".format(_one_line(error))
        return COULD_NOT_LOAD
    try:
        _train(found, content)
    except Untrained as why:
        found["untrained"] = str(why)
    except MemoryError:
        found["untrained"] = "the batch needs more memory than a rehearsal may take"
    except Exception as error:  # noqa: BLE001 -- as above
        found["untrained"] = "the batch could not be trained here: {}".format(_one_line(error))
    found["ok"] = True
    return OK


def _one_line(error: BaseException) -> str:
    text = " ".join("{}: {}".format(type(error).__name__, error).split())
    return text[:500].encode("utf-8", "replace").decode("utf-8")


def _sibling(name: str) -> ModuleType:
    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE)
        package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
        sys.modules[_PACKAGE] = package
    return import_module("{}.{}".format(_PACKAGE, name))


# ---- loading
def _load(deep: Any, found: Dict[str, Any], options: argparse.Namespace) -> Any:
    """As deep_check.py does, with its checks; and what the file says of itself."""
    os.nice(_NICE)
    cheap = _sibling("checkpoint").inspect(options.file)
    if cheap["state"] == "unknown":
        raise OSError(cheap["reason"])
    if cheap["state"] in {"missing", "torn", "hostile"}:
        raise deep.Refused("{}: {}".format(cheap["state"], cheap["reason"]))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD", None)
    torch = import_module("torch")
    torch.set_num_threads(_THREADS)
    _limit(cheap["size_bytes"])
    content = deep._loaded(torch, options.file)  # noqa: SLF001 -- one way to load, see there
    found["loaded"] = True
    if isinstance(content, dict):
        resumable = cheap["state"] in {"resumable", "done_not_stripped"}
        deep._check_parts({}, content, resumable)  # noqa: SLF001
        parts: Dict[str, Any] = {"epoch": None, "finite": None, "tensors": 0, "reason": ""}
        deep._check_epoch(parts, content, cheap["epoch"], options.expected_epoch)  # noqa: SLF001
        deep._check_numbers(parts, content)  # noqa: SLF001
        found["epoch"], found["optimizer"] = parts["epoch"], "seen" if content.get("optimizer") else ""
        found["best_fitness"] = _number(content.get("best_fitness"))
        metrics = content.get("train_metrics")
        found["map50_95"] = _map(metrics) if isinstance(metrics, dict) else None
    return content


def _limit(size_bytes: int) -> None:
    """Limit what we may take. Set after the import: a build for GPUs maps many gigabytes by itself."""
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    memory = used + _MEMORY_BASE_BYTES + _MEMORY_FACTOR * size_bytes
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_LIMIT_S, _CPU_LIMIT_S + 5))


def _number(value: Any) -> Optional[float]:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _map(metrics: Dict[Any, Any]) -> Optional[float]:
    named = [value for name, value in metrics.items() if str(name).startswith("metrics/mAP50-95")]
    return _number(named[0]) if named else None


# ---- training
def _train(found: Dict[str, Any], content: Any) -> None:
    torch = import_module("torch")
    if not isinstance(content, dict):
        raise Untrained("there is no training state in the file")
    stored = content.get("ema") if content.get("ema") is not None else content.get("model")
    if not isinstance(stored, torch.nn.Module):
        raise Untrained("it holds weights without a model: only its trainer can build one")
    torch.manual_seed(_SEED)
    stored = stored.float()
    if not type(stored).__module__.startswith("ultralytics."):
        _forward_only(torch, stored)
    found["task"] = _task(content, stored)
    model = _built(torch, stored)
    model.args = _arguments(content)
    model.train()
    optimizer = _optimizer(found, content, model)
    batch = _batch(torch, found["task"], model)
    loss, _items = model(batch)
    loss = loss.sum()
    found["loss"] = _number(loss.detach())
    if found["loss"] is None:
        raise Untrained("the loss of a batch of random pictures is not a number")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
    optimizer.step()
    if not all(bool(torch.isfinite(one).all()) for one in model.parameters()):
        raise Untrained("after one step of the optimizer there are weights that are no numbers")
    found["trained"] = True


def _forward_only(torch: Any, model: Any) -> None:
    """The loss of these families lies in their own scripts."""
    for one in model.modules():
        if isinstance(one, torch.nn.Upsample) and not hasattr(one, "recompute_scale_factor"):
            one.recompute_scale_factor = None  # of a file that an old torch wrote
    side = max(_LEAST_SIDE, 2 * _stride(model))
    with torch.no_grad():
        model.train()(torch.rand(_PICTURES, 3, side, side))
    raise Untrained("loaded, and one forward pass made: the loss of this family lies in its own train.py")


def _stride(model: Any) -> int:
    stride = getattr(model, "stride", None)
    return int(stride.max()) if hasattr(stride, "max") and stride.numel() else 32


def _task(content: Dict[str, Any], model: Any) -> str:
    arguments = content.get("train_args")
    told = arguments.get("task") if isinstance(arguments, dict) else None
    return str(told or getattr(model, "task", None) or "detect")


def _built(torch: Any, stored: Any) -> Any:
    """A model as the trainer builds it, with the stored weights; of a kind that wants more, the stored one itself."""
    try:
        model = type(stored)(copy.deepcopy(stored.yaml), ch=_channels(stored), nc=stored.yaml.get("nc"), verbose=False)
        model.load_state_dict(stored.state_dict())
        model.names, model.nc = getattr(stored, "names", {}), stored.yaml.get("nc")
    except Exception:  # noqa: BLE001 -- RT-DETR, YOLO-World and what comes after them take other parameters
        model = copy.deepcopy(stored)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".dfl" not in name and parameter.is_floating_point())
    if getattr(model, "criterion", None) is not None:
        model.criterion = None  # made again, with these arguments
    return model.to(torch.device("cpu"))


def _channels(model: Any) -> int:
    return int(model.yaml.get("channels") or model.yaml.get("ch") or 3)


def _arguments(content: Dict[str, Any]) -> Any:
    """The training's arguments over the defaults of this version, as its loader has them."""
    utils = import_module("ultralytics.utils")
    given = content.get("train_args")
    return utils.IterableSimpleNamespace(**{**utils.DEFAULT_CFG_DICT, **(given if isinstance(given, dict) else {})})


def _optimizer(found: Dict[str, Any], content: Dict[str, Any], model: Any) -> Any:
    """The trainer's own optimizer with the stored state. A kind that cannot be built here is replaced, and told."""
    torch, saved = import_module("torch"), content.get("optimizer")
    if not isinstance(saved, dict) or not saved.get("param_groups"):
        return torch.optim.SGD(model.parameters(), lr=1e-4)
    tried: List[str] = []
    for optimizer in _candidates(model, tried):
        groups = zip(optimizer.param_groups, saved["param_groups"])  # noqa: B905 -- Python 3.8
        same_size = [len(ours["params"]) for ours in optimizer.param_groups] == [
            len(theirs["params"]) for theirs in saved["param_groups"]
        ]
        if not same_size or not all(set(_kind(ours)) <= set(theirs) for ours, theirs in groups):
            tried.append("{} has other groups".format(type(optimizer).__name__))
            continue
        optimizer.load_state_dict(copy.deepcopy(saved))
        _demand_shapes(optimizer)
        found["optimizer"] = "loaded"
        return optimizer
    raise Untrained("its optimizer could not be built here: {}".format("; ".join(tried)[:300]))


def _kind(group: Dict[str, Any]) -> List[str]:
    """What tells one kind of optimizer from another."""
    return [name for name in ("betas", "momentum", "nesterov", "use_muon") if name in group]


def _candidates(model: Any, tried: List[str]) -> Iterator[Any]:
    """The optimizers that the trainer builds from these arguments; "auto" decides by the length of the training."""
    arguments = model.args
    trainer = import_module("ultralytics.engine.trainer").BaseTrainer
    data = {"nc": getattr(model, "nc", None) or 10}
    for iterations in (1e3, 1e6):
        fake = SimpleNamespace(args=copy.copy(arguments), data=data)
        try:
            yield trainer.build_optimizer(
                fake, model=model, name=getattr(arguments, "optimizer", "auto"), lr=arguments.lr0,
                momentum=arguments.momentum, decay=arguments.weight_decay, iterations=iterations,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 -- versions differ in what they want
            tried.append(_one_line(error))


def _demand_shapes(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                if getattr(value, "ndim", 0) and value.shape != parameter.shape:
                    raise Untrained("the optimizer's {} does not fit the model as it was built here".format(name))


# ---- a batch
def _batch(torch: Any, task: str, model: Any) -> Dict[str, Any]:
    """Random pictures, one object in the middle of each."""
    side = max(_LEAST_SIDE, 2 * _stride(model))
    pictures = torch.rand(_PICTURES, _channels(model), side, side)
    numbers = torch.arange(_PICTURES)
    if task == "classify":
        return {"img": pictures, "cls": torch.zeros(_PICTURES, dtype=torch.long)}
    box = torch.tensor([0.5, 0.5, 0.5, 0.4])
    batch = {
        "img": pictures,
        "batch_idx": numbers.float(),
        "cls": torch.zeros(_PICTURES, 1),
        "bboxes": box.repeat(_PICTURES, 1),
        "ori_shape": [(side, side)] * _PICTURES,
        "resized_shape": [(side, side)] * _PICTURES,
    }
    if task == "segment":
        batch.update(_masks(torch, side // 4))
    elif task == "pose":
        shape = tuple(getattr(model, "kpt_shape", None) or model.yaml.get("kpt_shape") or (17, 3))
        points = torch.full((_PICTURES, *shape), 0.5)
        if shape[1] == 3:
            points[..., 2] = 2.0  # seen
        batch["keypoints"] = points
    elif task == "obb":
        batch["bboxes"] = torch.cat([batch["bboxes"], torch.full((_PICTURES, 1), 0.3)], 1)
    elif task != "detect":
        raise Untrained("no batch is known for the task {}".format(task))
    return batch


def _masks(torch: Any, side: int) -> Dict[str, Any]:
    """The object's mask in each picture; the same whether masks overlap or not, as there is one in each."""
    masks = torch.zeros(_PICTURES, side, side)
    masks[:, side // 4 : side // 4 * 3, side // 4 : side // 4 * 3] = 1.0
    return {"masks": masks, "sem_masks": torch.zeros(_PICTURES, side, side)}


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(here)]
    sys.exit(main())
