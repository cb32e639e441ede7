"""Fixtures of the runner's tests: run directories with the stand-in library, and with the real one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner_lab import OTHER_VERSION, REPOSITORY, Lab, RealLabs


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Give a run directory whose trainings use the stand-in for Ultralytics."""
    run_dir = tmp_path / "卡车 runs" / "truck"
    run_dir.mkdir(parents=True)
    data = tmp_path / "data.yaml"
    data.write_text("names: {}\n")
    made = Lab(run_dir, data)
    yield made
    for process in made.processes:
        process.end()


@pytest.fixture(scope="session")
def train_python() -> Path:
    """Give the interpreter that has torch and Ultralytics."""
    default = REPOSITORY / ".venv-train" / "bin" / "python"
    python = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", default))
    if python.exists():
        return python
    message = f"no interpreter with Ultralytics at {python}: set YOLO_SUPERVISOR_TRAIN_PYTHON"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def training_data(train_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data set of 256 images: with batches of 4, an epoch is long enough to be killed in its middle."""
    folder = tmp_path_factory.mktemp("data 数据")
    script = REPOSITORY / "tests" / "training_data.py"
    subprocess.run([train_python, script, folder, "--train", "256"], check=True, stdout=subprocess.DEVNULL)
    return folder / "data.yaml"


@pytest.fixture(scope="session")
def real_lab(train_python: Path, training_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLabs]:
    """Give a maker of run directories in which the real library trains."""
    labs = RealLabs(train_python, training_data, tmp_path_factory.mktemp)
    yield labs
    labs.end_all()


@pytest.fixture(scope="session")
def other_ultralytics(train_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with another version of Ultralytics, which shares the interpreter's torch."""
    beside = train_python.parents[1] / f"ultralytics-{OTHER_VERSION}"
    if beside.is_dir():
        return beside
    folder = tmp_path_factory.mktemp("other") / OTHER_VERSION
    package = f"ultralytics-opencv-headless=={OTHER_VERSION}"
    command = [train_python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, package]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=170)
    if done.returncode:
        message = f"{package} cannot be installed: {done.stderr.strip()[-300:]}"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return folder
