"""A small real training: data, model, job file, and the interpreter that can do it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGE_PIXELS = 96


def training_python() -> str | None:
    """The interpreter of the trainings: YOLO_SUPERVISOR_TRAIN_PYTHON, else the one that `make setup` made."""
    python = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", ROOT / ".venv-train" / "bin" / "python"))
    return str(python) if python.is_file() else None


def make_inputs(folder: Path, python: str, images: int = 16) -> Path:
    """A folder with generated data and a model description."""
    inputs = folder / "inputs"
    generator = [python, str(ROOT / "tests" / "training_data.py"), str(inputs)]
    counts = ["--train", str(images), "--val", "8", "--size", str(IMAGE_PIXELS)]
    subprocess.run([*generator, *counts], check=True, stdout=subprocess.DEVNULL)
    shutil.copyfile(ROOT / "tests" / "models" / "tiny.yaml", inputs / "tiny.yaml")
    return inputs


def train_arguments(inputs: Path, epochs: int) -> dict[str, object]:
    """The arguments of the training, which a bare run gets as they are."""
    return {
        "model": str(inputs / "tiny.yaml"),
        "data": str(inputs / "data.yaml"),
        "epochs": epochs,
        "imgsz": IMAGE_PIXELS,
        "batch": 16,
        "workers": 0,
        "plots": False,
        "amp": False,
    }


def train_job(python: str, inputs: Path, epochs: int, more: str = "") -> str:
    """The job file of that training."""
    lines = (f"{key} = {_toml(value)}" for key, value in train_arguments(inputs, epochs).items())
    return f'python = "{python}"\ngpus = 0\n{more}\n[train]\n' + "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
