"""Whether a training is slower under supervision than the same training run bare."""

from __future__ import annotations

import csv
import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure
from benchmarks.lab import Lab, MeasurementError, daemon, drop, laboratory, read_json, wait_for
from benchmarks.real_training import make_inputs, train_arguments, train_job, training_python
from supervisor import layout

GOAL_PERCENT = 99.5
IMAGES = 320
PATIENCE_S = 600.0
LOOK_EVERY_S = 0.5
MARKER = "YOLO_SUPERVISOR_"
BARE = Path(__file__).with_name("bare_training.py")
# One thread: then another core is there for the daemon and whatever else runs, in both kinds of run alike.
THREADS = 'env = { OMP_NUM_THREADS = "1" }'


@dataclass(frozen=True)
class Course:
    """What is trained, and where."""

    lab: Lab
    python: str
    inputs: Path
    epochs: int
    environment: dict[str, str]


@dataclass(frozen=True)
class Training:
    """One run under way. Its results.csv has the trainer's own times."""

    pid: int
    results: Path


def measure(pairs: int = 6, epochs: int = 12) -> list[Figure]:
    """Train bare and supervised, in turns and side by side; compare the times of their epochs."""
    python = training_python()
    if python is None:
        raise MeasurementError("no interpreter with ultralytics: run `make setup`, or set YOLO_SUPERVISOR_TRAIN_PYTHON")
    with laboratory(max_running=1) as lab:
        inputs = make_inputs(lab.root, python, IMAGES)
        environment = _learn_environment(lab, python, inputs)
        course = Course(lab, python, inputs, epochs, environment)
        turns = [_in_turns(course, number) for number in range(pairs)]
        beside = [_side_by_side(course, number) for number in range(pairs)]
    work = f"{IMAGES} images an epoch, one thread, the same environment; epoch times from the trainer's own results.csv"
    how = f"median of {pairs} pairs, each the median epoch but the first, bare by supervised; {work}"
    one_by_one = f"one after the other, order swapped each time; {how}"
    at_once = f"both at once on one core, so that other load slows both alike; {how}"
    return [
        _figure("training throughput, in turns", turns, one_by_one),
        _figure("training throughput, side by side", beside, at_once),
    ]


def _figure(name: str, pairs: list[tuple[list[float], list[float]]], how: str) -> Figure:
    ratios = [100.0 * median(bare) / median(supervised) for bare, supervised in pairs]
    times = [{"bare_s": bare, "supervised_s": supervised} for bare, supervised in pairs]
    details = {"ratios": ratios, "times": times}
    how = f"pairs from {min(ratios):.1f} to {max(ratios):.1f}; {how}"
    return Figure(name, median(ratios), "% of bare", GOAL_PERCENT, how, at_most=False, details=details)


# ---- pairs: seconds of each epoch, bare and supervised
def _in_turns(course: Course, number: int) -> tuple[list[float], list[float]]:
    name = f"turn-{number}"
    if number % 2:
        return _bare_alone(course, name), _supervised_alone(course, name)
    supervised = _supervised_alone(course, name)
    return _bare_alone(course, name), supervised


def _bare_alone(course: Course, name: str) -> list[float]:
    with _bare(course, name) as training:
        pass
    return epoch_seconds(training.results)


def _supervised_alone(course: Course, name: str) -> list[float]:
    with _supervised(course, name) as training:
        pass
    return epoch_seconds(training.results)


def _side_by_side(course: Course, number: int) -> tuple[list[float], list[float]]:
    """Both on one core, shared out evenly by the scheduler; without the epochs at the ends, where only one trains."""
    cores = sorted(os.sched_getaffinity(0))
    core = {cores[number % len(cores)]}
    name = f"beside-{number}"
    with _supervised(course, name) as supervised, _bare(course, name) as bare:
        for pid in (supervised.pid, bare.pid):
            os.sched_setaffinity(pid, core)
    return epoch_seconds(bare.results)[1:-2], epoch_seconds(supervised.results)[1:-2]


# ---- one training
@contextmanager
def _supervised(course: Course, name: str) -> Iterator[Training]:
    """Under a daemon that is started for it; finished at the end of the context."""
    lab = course.lab
    with daemon(lab):
        drop(lab, {name: train_job(course.python, course.inputs, course.epochs, THREADS)})
        pid = wait_for(f"{name} to start", lambda: lab.trainer_pid(name))
        yield Training(pid, layout.run_directory(lab.state / "runs", "bench", name).results)
        ended = lab.attempt(name) / "exit.json"
        wait_for(f"the training {name}", ended.exists, PATIENCE_S, LOOK_EVERY_S)
        time.sleep(1.0)  # the daemon takes note of the end
    if read_json(ended)["code"] != 0:
        raise MeasurementError((lab.attempt(name) / "log").read_text(errors="replace")[-2000:])


@contextmanager
def _bare(course: Course, name: str) -> Iterator[Training]:
    """By a script of a few lines, in a session of its own as the supervised one; finished at the end of the context."""
    lab, place = course.lab, {"project": str(course.lab.root / "bare"), "name": name}
    arguments = json.dumps({**train_arguments(course.inputs, course.epochs), "device": "cpu", **place})
    with (lab.root / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [course.python, str(BARE), arguments],
            env=course.environment,
            cwd=lab.root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield Training(process.pid, lab.root / "bare" / name / "results.csv")
            if process.wait(PATIENCE_S):
                raise MeasurementError((lab.root / f"{name}.log").read_text(errors="replace")[-2000:])
        finally:
            process.kill()
            process.wait()


def _learn_environment(lab: Lab, python: str, inputs: Path) -> dict[str, str]:
    """The environment that the supervisor gives a training, without its markers. This run also warms all caches."""
    with _supervised(Course(lab, python, inputs, 1, {}), "first"):
        pass
    given = read_json(lab.attempt("first") / "launch.json")["env"]
    return {key: value for key, value in given.items() if not key.startswith(MARKER)}


def epoch_seconds(table: Path) -> list[float]:
    """Seconds of each epoch but the first, from the column `time`, which counts from the start of the training."""
    with table.open(encoding="utf-8") as file:
        rows = [{key.strip(): value for key, value in row.items()} for row in csv.DictReader(file)]
    ends = [float(row["time"]) for row in rows]
    return [after - before for before, after in itertools.pairwise(ends)]
