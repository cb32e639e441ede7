"""Run directories with the real library, for the tests of the hook; see runner_lab."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "runner"))

from runner_lab import RealLabs  # noqa: E402 -- found through the line above

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))


def needed(there: bool, what: str) -> None:
    """Skip loudly; where everything must be tested (CI=true), fail."""
    if there:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing: {what}")
    pytest.skip(f"missing: {what}")


def trains_with(module: str, path: str) -> bool:
    """Say whether the trainings' Python can import a module, with `path` as its PYTHONPATH."""
    code = f"import {module}"
    done = subprocess.run(
        [PYTHON, "-c", code], env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path}, capture_output=True, check=False
    )
    return done.returncode == 0


def real_labs(paths: pytest.TempPathFactory) -> Iterator[RealLabs]:
    """Give a maker of run directories over a data set of 256 images: an epoch is long enough to be killed in."""
    needed(PYTHON.exists(), f"an interpreter with Ultralytics at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    data = paths.mktemp("data 数据")
    script = REPOSITORY / "tests" / "training_data.py"
    subprocess.run([PYTHON, script, data, "--train", "256"], check=True, capture_output=True)
    labs = RealLabs(PYTHON, data / "data.yaml", paths.mktemp)
    yield labs
    labs.end_all()
