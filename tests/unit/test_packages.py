"""The packages that the project stands on."""

from __future__ import annotations

import importlib
import os
import subprocess
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
DAEMON = {
    "psutil": "psutil",
    "nvidia-ml-py": "pynvml",
    "watchdog": "watchdog",
    "apscheduler": "apscheduler",
    "requests": "requests",
}
TRAIN = ("torch", "ultralytics")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def named(requirements: list[str]) -> set[str]:
    return {requirement.partition(">")[0].strip() for requirement in requirements}


@pytest.mark.parametrize(("package", "module"), DAEMON.items())
def test_the_daemons_packages_are_named_and_import(package, module):
    """What the daemon stands on is a dependency, and imports under the name that the code uses."""
    assert package in named(project()["dependencies"])
    importlib.import_module(module)


def test_pynvml_is_the_maintained_one():
    """`pynvml` comes from nvidia-ml-py: the package that is named pynvml is deprecated and shadows it."""
    pynvml = importlib.import_module("pynvml")
    assert pynvml.__file__ is not None
    assert Path(pynvml.__file__).name == "pynvml.py"  # the deprecated one is a folder


@pytest.mark.e2e
@pytest.mark.parametrize("package", TRAIN)
def test_the_trainings_packages_are_named_apart_and_import_in_their_own_interpreter(package):
    """Ultralytics and torch belong to the extra [train], and to the job's interpreter."""
    assert package in named(project()["optional-dependencies"]["train"])
    assert package not in named(project()["dependencies"])
    python = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", ROOT / ".venv-train/bin/python"))
    if not python.exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{python} is missing: make setup")
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    assert subprocess.run([python, "-c", code], check=False).returncode == 0
