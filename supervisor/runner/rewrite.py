"""Write other arguments into a checkpoint, where a resume would not take them from its caller.

No version raises the number of epochs at a resume, and those before 8.4 go on in the folder that the checkpoint
remembers, wherever it lies now.
"""

from __future__ import annotations

import os
from typing import Any

from . import checkpoint, whole_files
from .outcome import ERROR, REFUSED, Leave


def more_epochs(plan: dict[str, Any], found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Rewrite the epochs of the plan's checkpoint if the plan says so; return what the file then is.

    The daemon has put a private copy there. Does nothing if the number is there already. Raises Leave with code 65
    if no epoch would be left to train, with code 1 if the result is not right.
    """
    epochs = plan.get("epochs_override")
    if epochs is None or found is None or found["epochs"] == epochs:
        return found
    if epochs <= found["epoch"] + 1:
        raise Leave("refused", REFUSED, f"{plan['resume']} has {found['epoch'] + 1} epochs, {epochs} adds none")
    return _replaced(plan["resume"], found, {"epochs": epochs})


def new_home(path: str, found: dict[str, Any], save_dir: str, honoured: frozenset[str]) -> None:
    """Make the checkpoint at `path` remember `save_dir`, if this version would else go on in the folder of before.

    Raises Leave with code 1 if the result is not right.
    """
    if "save_dir" not in honoured and os.path.realpath(found["save_dir"] or "") != os.path.realpath(save_dir):
        _replaced(path, found, {"save_dir": save_dir})


def _replaced(path: str, found: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Put a file with other arguments in the place of `path`, in one step, and only one that can be resumed."""
    with whole_files.replacing(path) as temporary:
        _write(path, temporary, changes)
        written = checkpoint.inspect(temporary)
        wanted = {"state": "resumable", "epoch": found["epoch"], **changes}
        if any(written[name] != value for name, value in wanted.items()):
            raise Leave("error", ERROR, f"writing {changes} into {path} gave {written['state']} {written['reason']}")
    said = ", ".join(f"{name} {found[name]} is now {value}" for name, value in changes.items())
    print(f"yolo-supervisor: {path}: {said}", flush=True)
    return checkpoint.inspect(path)


def _write(source: str, target: str, changes: dict[str, Any]) -> None:
    import torch
    import ultralytics  # noqa: F401 -- its classes are in the file, and it adapts torch.load to them

    try:
        content = torch.load(source, map_location="cpu", weights_only=False)
    except TypeError:  # torch before 1.13 knows no weights_only
        content = torch.load(source, map_location="cpu")
    content["train_args"].update(changes)
    stopper = content.get("stopper")
    if stopper and "epochs" in changes:
        # Patience counts from here: else a run that stopped early would stop again after one epoch. What was best
        # stays best. Stored epochs count from 0, the stopper's from 1.
        stopper["best_epoch"] = content["epoch"] + 1
    torch.save(content, target)
