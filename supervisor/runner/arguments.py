"""The keyword arguments of `YOLO.train`, for a fresh start and for a resume."""

from __future__ import annotations

import ast
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
    "time",  # the whole budget: time_budget.py tells the trainer what of it is used
)


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
