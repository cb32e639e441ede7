"""Whether the plain `yolo` command trains slower with the hook in it."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure
from benchmarks.lab import MeasurementError
from benchmarks.real_training import make_inputs, train_arguments, training_python
from benchmarks.throughput import epoch_seconds
from supervisor import layout

GOAL_PERCENT = 99.5
IMAGES = 320
PATIENCE_S = 900.0


def measure(folder: Path, pairs: int = 6, epochs: int = 12) -> list[Figure]:
    """Train in pairs, both at once on one core, so that whatever else runs slows both alike."""
    python = training_python()
    if python is None:
        raise MeasurementError("no interpreter with ultralytics: run `make setup`, or set YOLO_SUPERVISOR_TRAIN_PYTHON")
    inputs = make_inputs(folder, python, IMAGES)
    ratios, times = [], []
    for number in range(pairs):
        bare, hooked = _pair(folder / str(number), python, inputs, epochs, number)
        ratios.append(100.0 * median(bare) / median(hooked))
        times.append({"bare_s": bare, "hooked_s": hooked})
    how = (
        f"`yolo train` with the hook by that without, {pairs} pairs from {min(ratios):.1f} to {max(ratios):.1f}; "
        f"each the median epoch of {epochs - 3}, with {IMAGES} images and a save; both at once on one core"
    )
    details = {"ratios": ratios, "times": times}
    return [
        Figure(
            "training throughput with the hook",
            median(ratios),
            "% of bare",
            GOAL_PERCENT,
            how,
            at_most=False,
            details=details,
        )
    ]


def _pair(folder: Path, python: str, inputs: Path, epochs: int, number: int) -> tuple[list[float], list[float]]:
    """Seconds of each epoch, bare and with the hook, without the epochs at the ends, where only one trains."""
    cores = sorted(os.sched_getaffinity(0))
    attempt = folder / "run" / "attempts" / "1"
    attempt.mkdir(parents=True)
    (attempt / "launch.json").write_text('{"version": 1, "run": "bench@1", "token": 1}', encoding="utf-8")
    (folder / "run" / "token").write_text('{"version": 1, "token": 1}', encoding="utf-8")
    markers = {"PYTHONPATH": str(layout.INJECT), "YOLO_SUPERVISOR_ATTEMPT_DIR": str(attempt)}
    kinds: list[tuple[str, dict[str, str]]] = [("bare", {}), ("hooked", markers)]
    with ExitStack() as stack:
        started = []
        for name, more in kinds if number % 2 else kinds[::-1]:
            process = _start(folder, name, python, _words(inputs, epochs, folder, name), more)
            stack.callback(process.wait)
            stack.callback(process.kill)
            os.sched_setaffinity(process.pid, {cores[number % len(cores)]})
            started.append(process)
        codes = [process.wait(PATIENCE_S) for process in started]
        if any(codes):
            raise MeasurementError(f"a training failed: {(folder / 'hooked.log').read_text(errors='replace')[-2000:]}")
    if not (attempt / "beats.jsonl").is_file():
        raise MeasurementError("the hook was not there")
    bare, hooked = (epoch_seconds(folder / name / "results.csv")[1:-1] for name in ("bare", "hooked"))
    return bare, hooked


def _words(inputs: Path, epochs: int, folder: Path, name: str) -> list[str]:
    arguments = {**train_arguments(inputs, epochs), "device": "cpu", "project": str(folder), "name": name}
    return [f"{key}={value}" for key, value in arguments.items()]


def _start(folder: Path, name: str, python: str, words: list[str], more: dict[str, str]) -> subprocess.Popen[bytes]:
    base = {"OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_CONFIG_DIR": str(folder)}
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [str(Path(python).with_name("yolo")), "detect", "train", *words],
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **base, **more},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
