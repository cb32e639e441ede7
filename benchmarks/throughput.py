"""Whether a training is slower under supervision than the same training run bare."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure
from benchmarks.lab import Lab, MeasurementError, daemon, drop, laboratory, read_json, wait_for
from benchmarks.real_training import make_inputs, train_arguments, train_job, training_python
from supervisor import layout

GOAL_PERCENT = 99.5
IMAGES = 320
EPOCHS = 12
PATIENCE_S = 300.0
MARKER = "YOLO_SUPERVISOR_"
BARE = Path(__file__).with_name("bare_training.py")
# One thread: then the other cores are there for the daemon and whatever else runs, in both kinds of run alike.
THREADS = 'env = { OMP_NUM_THREADS = "1" }'


def measure(pairs: int = 8, epochs: int = EPOCHS) -> list[Figure]:
    """Train bare and supervised in turns, each pair in the other order than the last; compare the epochs' times."""
    python = training_python()
    if python is None:
        raise MeasurementError("no interpreter with ultralytics: run `make setup`, or set YOLO_SUPERVISOR_TRAIN_PYTHON")
    with laboratory(max_running=1) as lab:
        inputs = make_inputs(lab.root, python, IMAGES)
        environment = _supervised(lab, python, inputs, "first", 1)[1]  # also warms the caches of data and modules
        ratios, times = [], []
        for number in range(pairs):
            bare, supervised = _pair(lab, python, inputs, environment, number, epochs)
            times.append({"bare_s": bare, "supervised_s": supervised})
            ratios.append(100.0 * median(bare) / median(supervised))
    how = (
        f"median of {pairs} interleaved pairs; each the median time of epochs 2 to {epochs} in results.csv, bare by supervised; "
        f"{IMAGES} images of 96 pixels an epoch, one thread, the same environment"
    )
    details = {"ratios": ratios, "times": times}
    return [Figure("training throughput", median(ratios), "% of bare", GOAL_PERCENT, how, at_most=False, details=details)]


def _pair(
    lab: Lab, python: str, inputs: Path, environment: dict[str, str], number: int, epochs: int
) -> tuple[list[float], list[float]]:
    """Seconds of each epoch but the first, bare and supervised."""
    name = f"pair-{number}"
    if number % 2:
        bare = _bare(lab, python, inputs, environment, name, epochs)
        return bare, _supervised(lab, python, inputs, name, epochs)[0]
    supervised = _supervised(lab, python, inputs, name, epochs)[0]
    return _bare(lab, python, inputs, environment, name, epochs), supervised


def _supervised(lab: Lab, python: str, inputs: Path, name: str, epochs: int) -> tuple[list[float], dict[str, str]]:
    """Under a daemon that is started for it and ended after it; also the environment that the training had."""
    with daemon(lab):
        drop(lab, {name: train_job(python, inputs, epochs, THREADS)})
        ended = lab.attempt(name) / "exit.json"
        wait_for(f"the training {name}", ended.exists, PATIENCE_S, every_s=0.5)
        time.sleep(2.0)  # let the daemon take note
    if read_json(ended)["code"] != 0:
        raise MeasurementError((lab.attempt(name) / "log").read_text(errors="replace")[-2000:])
    launch = read_json(lab.attempt(name) / "launch.json")
    environment = {key: value for key, value in launch["env"].items() if not key.startswith(MARKER)}
    run_dir = layout.run_directory(lab.state / "runs", "bench", name)
    return epoch_seconds(run_dir.results), environment


def _bare(
    lab: Lab, python: str, inputs: Path, environment: dict[str, str], name: str, epochs: int
) -> list[float]:
    """By a script, in the same environment, with no daemon there."""
    place = {"project": str(lab.root / "bare"), "name": name}
    arguments = json.dumps({**train_arguments(inputs, epochs), "device": "cpu", **place})
    with (lab.root / f"{name}.log").open("wb") as log:
        subprocess.run(
            [python, str(BARE), arguments],
            env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=lab.root, check=True, timeout=PATIENCE_S,
        )  # fmt: skip
    return epoch_seconds(lab.root / "bare" / name / "results.csv")


def epoch_seconds(table: Path) -> list[float]:
    """Seconds of each epoch but the first, from the column `time`, which counts from the start of the training."""
    with table.open(encoding="utf-8") as file:
        rows = [{key.strip(): value for key, value in row.items()} for row in csv.DictReader(file)]
    ends = [float(row["time"]) for row in rows]
    return [after - before for before, after in zip(ends, ends[1:], strict=False)]
