"""End a YOLOv5, v7 or v9 training whose last epoch is saved: ``python finish_script.py ATTEMPT_DIR``.

Such a training was killed between its last save and its end, or its own ending failed: torch >= 2.6 refuses the plain
``torch.load`` of older scripts. A resume would train nothing and fail, or train an epoch too many. So best.pt and
last.pt are stripped here as the scripts' own ``strip_optimizer`` does it, but each in one step, so that no kill can
leave half a file. Again does no harm: last.pt comes last, and what is stripped already stays as it is.

Reads ATTEMPT_DIR/launch.json, runs in the job's folder, where the classes of the models can be imported from, and says
how it ended in the last line of ATTEMPT_DIR/beats.jsonl and as exit code:

====  ==========================================================================
0     last.pt is stripped
1     a file could not be loaded or written
2     launch.json (or the command line) is bad
65    the checkpoint is refused: another one than expected
76    a person must look: the run now belongs to another attempt
====  ==========================================================================
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module
from types import ModuleType
from typing import Any

#: What only a training that goes on needs. The scripts' own strip sets it to None, so a reader finds the keys.
_ONLY_FOR_TRAINING = (
    "optimizer",
    "best_fitness",
    "ema",
    "updates",
    "training_results",
    "wandb_id",
    "scaler",
    "stopper",
)

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = "yolo_supervisor_runner"


def _ours(name: str) -> Any:
    """Return a module of this folder, which is off sys.path: the trainer's own modules must not find ours."""
    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE)
        package.__path__ = [_HERE]
        sys.modules[_PACKAGE] = package
    return import_module(f"{_PACKAGE}.{name}")


outcome = _ours("outcome")


def _see_the_trainers_modules(folders: list[str]) -> None:
    """Import as the trainer's script does: first from its folder, and the job's, never from ours."""
    outside = [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(_HERE)]
    sys.path[:] = [*folders, os.getcwd(), *outside]


def read_plan(attempt_dir: str) -> tuple[dict[str, Any], int]:
    """Return the `train` section of launch.json and our fence token; raises Leave with code 2 if it is none of ours."""
    try:
        with open(os.path.join(attempt_dir, "launch.json"), encoding="utf-8") as file:
            launch = json.load(file)
        plan, token = launch["train"], launch["token"]
        usable = os.path.isabs(plan["resume"]) and isinstance(plan["expected_epoch"], int)
        usable = usable and os.path.isabs(plan["run_token_file"]) and isinstance(plan["args"], dict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise outcome.Leave("error", outcome.BAD_LAUNCH, f"launch.json: {error!r}") from error
    if not usable:
        raise outcome.Leave("error", outcome.BAD_LAUNCH, "launch.json: this is no job for finish_script.py")
    return plan, token


def check_fence(plan: dict[str, Any], token: int) -> None:
    """Raise Leave unless the run directory carries our token: whoever comes later has taken the run over."""
    try:
        with open(plan["run_token_file"], encoding="utf-8") as file:
            holder = json.load(file)["token"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise outcome.Leave("error", outcome.ERROR, f"the fence of the run cannot be read: {error!r}") from error
    if holder != token:
        raise outcome.Leave(
            "refused", outcome.PERSON_NEEDED, f"{plan['run_token_file']} holds token {holder}, ours is {token}"
        )


def finish(plan: dict[str, Any], token: int) -> Any:
    """Strip best.pt, then last.pt, and return how that ended."""
    inspect = _ours("checkpoint").inspect
    last = plan["resume"]
    found = inspect(last)
    unstripped = found["state"] in {"resumable", "done_not_stripped"}
    if found["state"] != "finished" and not (unstripped and found["epoch"] == plan["expected_epoch"]):
        reason = f"{last} is {found['state']} with epoch {found['epoch']}, expected {plan['expected_epoch']}"
        return outcome.Leave("refused", outcome.REFUSED, reason)
    best = os.path.join(os.path.dirname(last), "best.pt")
    for path in (best, last):
        if inspect(path)["state"] in {"resumable", "done_not_stripped"}:
            check_fence(plan, token)
            _strip(path)
    best_state = inspect(best)["state"]
    epochs = plan["expected_epoch"] + 1
    return outcome.Leave(
        "finished",
        outcome.FINISHED,
        f"all {epochs} epochs were trained before; last.pt is stripped now, best.pt is {best_state}",
        epoch=plan["expected_epoch"],
        epochs=epochs,
        best=best if best_state == "finished" else None,
    )


def _strip(path: str) -> None:
    """Replace a checkpoint by what is left of it after a training; raises Leave if that is not a finished one."""
    import torch

    content = _load(path)
    if content.get("ema") is not None:
        content["model"] = content["ema"]
    for key in _ONLY_FOR_TRAINING:
        if key in content:
            content[key] = None
    content["epoch"] = -1
    content["model"].half()
    for parameter in content["model"].parameters():
        parameter.requires_grad = False
    with _ours("whole_files").replacing(path) as copy:
        torch.save(content, copy)
        state = _ours("checkpoint").inspect(copy)["state"]
        if state != "finished":
            raise outcome.Leave("error", outcome.ERROR, f"stripping {path} gave a file that is {state}")


def _load(path: str) -> dict[str, Any]:
    import torch

    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    except TypeError:  # torch < 1.13 does not know the argument, and loads whole models anyway
        content = torch.load(path, map_location="cpu")
    return content


def run(attempt_dir: str) -> int:
    """Finish what launch.json names and return the exit code."""
    beats = _ours("beats").BeatWriter(os.path.join(attempt_dir, "beats.jsonl"))
    beats.write("start", pid=os.getpid(), python=sys.version.split()[0], phase="end")
    try:
        plan, token = read_plan(attempt_dir)
        _see_the_trainers_modules([str(folder) for folder in plan["args"].get("import_from", [])])
        check_fence(plan, token)
        end = finish(plan, token)
    except outcome.Leave as left:
        end = left
    except Exception as error:  # noqa: BLE001 -- the models' own code runs here, and every way out needs its record
        traceback.print_exception(type(error), error, error.__traceback__)
        end = outcome.Leave("error", outcome.ERROR, f"{type(error).__name__}: {error}")
    reason = " ".join(end.reason.split())
    beats.write("end", result=end.result, code=end.code, reason=reason, **end.fields)
    print(f"yolo-supervisor: {reason}", file=sys.stderr, flush=True)
    return int(end.code)


def main(argv: list[str]) -> int:
    """Check the command line and finish."""
    if len(argv) != 2 or not os.path.isdir(argv[1]):
        print("usage: finish_script.py ATTEMPT_DIR", file=sys.stderr)
        return outcome.BAD_LAUNCH
    return run(os.path.abspath(argv[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
