"""Are the model and the data of a job there? Asked before the trainer would try to download or die late."""

from __future__ import annotations

import os
import re
from typing import Any

#: yolo11n.yaml means yolo11.yaml at scale n.
_SCALE = re.compile(r"(\d+)([nslmx])(.+)?$")


def missing_path(args: dict[str, Any], resuming: bool) -> str | None:
    """Return what is not there among the values that are paths, or None; needs no import.

    A resume takes the model from its checkpoint and only needs the data.
    """
    for role, value in _named(args, resuming):
        if _is_path(value) and not os.path.exists(value):
            return f"{role} file does not exist: {value}"
    return None


def missing_name(args: dict[str, Any], resuming: bool) -> str | None:
    """Return what is not found among the values that are bare names, or None; imports ultralytics.

    Looks where Ultralytics would look before it downloads: the working directory, its settings' folders, its
    own configuration files.
    """
    for role, value in _named(args, resuming):
        if "://" not in value and not _is_path(value) and not _found(role, value):
            return f"{role} {value!r} is neither in {os.getcwd()} nor known to Ultralytics; name it by its path"
    if not resuming and not args.get("data") and not args.get("cfg"):
        return "data is not named; Ultralytics would download a sample"
    return None


def _named(args: dict[str, Any], resuming: bool) -> list[tuple[str, str]]:
    roles = ("data",) if resuming else ("model", "data")
    return [(role, str(args[role])) for role in roles if args.get(role)]


def _is_path(value: str) -> bool:
    return "://" not in value and (os.path.isabs(value) or os.sep in value)


def _found(role: str, name: str) -> bool:
    from ultralytics.utils import ROOT, SETTINGS

    setting = "weights_dir" if role == "model" else "datasets_dir"
    names = [name] if os.path.splitext(name)[1] or role == "data" else [f"{name}.pt"]
    if any(os.path.exists(os.path.join(folder, n)) for n in names for folder in (".", str(SETTINGS[setting]))):
        return True
    wanted = {name, _SCALE.sub(r"\1\3", name)} if name.endswith((".yaml", ".yml")) else set()
    below = os.path.join(str(ROOT), "cfg", "models" if role == "model" else "datasets")
    return any(wanted.intersection(files) for _folder, _folders, files in os.walk(below))
