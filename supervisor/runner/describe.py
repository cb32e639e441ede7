"""Print, as one JSON object, what the Python that runs this knows about training: ``python describe.py``.

Run with the job's interpreter, which may have any version of Ultralytics: argument names and types are asked from
that version itself, so that a job file is checked against what will really read it. On failure the object has the
key "error".
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
from typing import Any

#: Import names, and what has to work after the import: a torchvision built for another torch dies at its operators.
REQUIRED = {
    "ultralytics": "import ultralytics",
    "torch": "import torch",
    "torchvision": "import torchvision.ops; torchvision.ops.nms",
    "cv2": "import cv2",
}
#: Which set of the library's `cfg` module means which types.
_TYPE_SETS = {
    "CFG_FLOAT_KEYS": ["int", "float"],
    "CFG_FRACTION_KEYS": ["int", "float"],
    "CFG_INT_KEYS": ["int"],
    "CFG_BOOL_KEYS": ["bool"],
    "CFG_STR_KEYS": ["str"],
}
#: Words in the comments of default.yaml, "(int | str, optional)", and what they mean.
_COMMENT_TYPES = {"int", "float", "bool", "str", "list", "tuple"}
_COMMENT = re.compile(r"^(\w+):[^#]*#\s*\(([^)]*)\)", re.MULTILINE)
_WEIGHTS = re.compile(r"^yolo[\w.-]*\.pt$")
_HERE = os.path.dirname(os.path.abspath(__file__))


def describe() -> dict[str, Any]:
    """Return what this interpreter has; every value comes from files and settings, torch itself is not imported."""
    found: dict[str, Any] = {
        "version": 1,
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "site_packages": _site_packages(),
        "missing": [],
    }
    versions = _load_versions()
    for package in ("ultralytics", "torch"):
        found[package] = versions.source_version(package)
    found["ultralytics_path"] = versions.package_folder("ultralytics")
    if found["ultralytics_path"] is None:
        return {**found, "missing": ["ultralytics"], "error": "ultralytics is not installed for this Python"}
    found["missing"], found["missing_reasons"] = _missing()
    try:
        found.update(_of_ultralytics(found["ultralytics_path"]))
    except Exception as error:  # noqa: BLE001 -- the caller gets the reason, whatever this version of the library does
        found["error"] = f"{type(error).__name__}: {error}"
    return found
