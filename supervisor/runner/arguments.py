"""The keyword arguments of `YOLO.train`, for a fresh start and for a resume."""

from __future__ import annotations

import ast
import csv
import inspect
import os
import textwrap
from typing import Any

#: Decided by the supervisor or by the way the training is started, never by the job.
_OURS = frozenset({"device", "exist_ok", "mode", "model", "name", "project", "resume", "save_dir"})
#: What a user may change between two attempts, as far as the installed version takes it on a resume.
_CHANGEABLE = (
    "imgsz",
    "batch",
    "workers",
    "cache",
    "patience",
    "close_mosaic",
    "save_period",
    "freeze",
    "val",
    "plots",
    "channels_last",
    "distill_model",
)
#: A time budget that is used up still gets one batch: the trainer ends, strips and validates by itself.
_LEAST_TIME_H = 0.0001


def for_fresh_start(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a new training into exactly the plan's save_dir."""
    arguments = {name: value for name, value in plan["args"].items() if name not in _OURS}
    project, name = os.path.split(os.path.normpath(plan["save_dir"]))
    return {
        **arguments,
        "device": plan["device"],
        "project": project,
        "name": name,
        "exist_ok": True,
        "resume": False,  # a `cfg` file may say otherwise
    }


def for_resume(plan: dict[str, Any], honoured: frozenset[str]) -> dict[str, Any]:
    """Return the arguments that continue the plan's checkpoint.

    The path is given, never True: on a finished checkpoint `resume=True` starts a new training. `honoured`
    are the names that this version takes from its caller on a resume; it would drop the others with a warning.
    A plan without device or save_dir leaves them to the checkpoint.
    """
    arguments: dict[str, Any] = {"resume": plan["resume"]}
    if plan["device"] is not None:
        arguments["device"] = plan["device"]
    given = plan["args"]
    if given.get("data") is not None and not isinstance(given["data"], (list, tuple)):
        arguments["data"] = given["data"]
    arguments.update({name: given[name] for name in _CHANGEABLE if name in given and name in honoured})
    if isinstance(given.get("batch"), (int, float)) and given["batch"] < 1:
        # Automatic batch size: the one it found is in the checkpoint, another would change the training.
        arguments.pop("batch", None)
    if given.get("time") is not None and "time" in honoured:
        arguments["time"] = remaining_time_h(float(given["time"]), plan["save_dir"])
    if "save_dir" in honoured and plan["save_dir"]:
        arguments["save_dir"] = plan["save_dir"]
    return arguments


def honoured_on_resume(trainer_class: Any) -> frozenset[str]:
    """Return the strings in the trainer's `check_resume`: the names that this version lets a resume change.

    Ultralytics writes them as literals there and tells them nowhere else; 8.3 knew four, 8.4 knows sixteen.
    """
    source = textwrap.dedent(inspect.getsource(trainer_class.check_resume))
    literals = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return frozenset(value for value in literals if isinstance(value, str))


def remaining_time_h(budget_h: float, save_dir: str) -> float:
    """Return what is left of a `time` budget; the trainer's own clock starts at zero in every process."""
    used_s = used_time_s(os.path.join(save_dir, "results.csv"))
    return max(budget_h - used_s / 3600, _LEAST_TIME_H)


def used_time_s(results_file: str) -> float:
    """Return the training time in a results.csv; its `time` column starts anew with every process."""
    try:
        with open(results_file, encoding="utf-8", newline="") as file:
            rows = [{(name or "").strip(): value for name, value in row.items()} for row in csv.DictReader(file)]
    except OSError:
        return 0.0
    total = previous = 0.0
    for row in rows:
        try:
            at = float(row.get("time") or 0.0)
        except ValueError:
            continue  # a row that was cut by a kill
        if at < previous:
            total += previous
        previous = at
    return total + previous
