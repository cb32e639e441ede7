"""How much of a training's CPU time the runner's callbacks take: exact where the clock on the wall is too noisy."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure
from benchmarks.lab import MeasurementError, laboratory
from benchmarks.real_training import make_inputs, train_arguments, training_python
from supervisor import layout

GOAL_PERCENT = 0.5
IMAGES = 320
PATIENCE_S = 600.0
TIMED = Path(__file__).with_name("timed_training.py")


def measure(repeats: int = 3, epochs: int = 8) -> list[Figure]:
    """Train with timed callbacks."""
    python = training_python()
    if python is None:
        raise MeasurementError("no interpreter with ultralytics: run `make setup`, or set YOLO_SUPERVISOR_TRAIN_PYTHON")
    with laboratory() as lab:
        inputs = make_inputs(lab.root, python, IMAGES)
        shares = [_share(python, inputs, lab.root / str(number), epochs) for number in range(repeats)]
    how = (
        f"CPU time of all callbacks, with all they write and read, in the training's CPU time; median of {repeats} "
        f"trainings of {epochs} epochs with {IMAGES} images, about a second each"
    )
    return [
        Figure("runner in the training", median(shares), "% of its CPU", GOAL_PERCENT, how, details={"all": shares})
    ]


def _share(python: str, inputs: Path, folder: Path, epochs: int) -> float:
    attempt = folder / "run" / "attempts" / "1"
    attempt.mkdir(parents=True)
    (attempt / "launch.json").write_text('{"version": 1, "run": "bench@1", "token": 1}', encoding="utf-8")
    (folder / "run" / "token").write_text('{"version": 1, "token": 1}', encoding="utf-8")
    arguments = {**train_arguments(inputs, epochs), "device": "cpu", "project": str(folder), "name": "train"}
    done = subprocess.run(
        [python, str(TIMED), str(layout.RUNNER), str(attempt), json.dumps(arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    beats = attempt / "beats.jsonl"
    if done.returncode or not beats.is_file():
        raise MeasurementError(f"the timed training failed: {done.stderr[-2000:]}")
    times = json.loads(done.stdout.splitlines()[-1])
    return 100.0 * float(times["hook_s"]) / float(times["training_s"])
