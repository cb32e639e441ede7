"""A training moves from two devices to one and back, with the real Ultralytics: gloo ranks on a CPU, or GPUs."""

from __future__ import annotations

import csv
import json
import re
import subprocess

import pytest
from runner_lab import REPOSITORY, read_beats

from supervisor.runner.checkpoint import inspect

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BATCH = 8


def segment(lab, device, epochs=4):
    """Train on a device from wherever the run is until it has saved one epoch more; the beats of the attempt."""
    found = inspect(str(lab.last))
    given = lab.arguments(epochs=epochs, batch=BATCH, workers=0)
    resume = {} if found["state"] == "missing" else {"resume": str(lab.last), "expected_epoch": found["epoch"]}
    lab.launch(args=given, device=device, **resume)
    process = lab.start()
    done = resume.get("expected_epoch", -1) + 1
    process.wait_for_beat(kind="saved", epoch=done, timeout_s=120)
    if done + 1 < epochs:
        lab.terminate(process)
    process.wait(60)
    return read_beats(process.beats_file)


def used_batch(lab):
    """The total batch in the arguments that Ultralytics recorded."""
    return int(re.search(r"^batch: (\d+)$", (lab.save_dir / "args.yaml").read_text(), re.MULTILINE)[1])


def moves(lab, *devices):
    """Train one epoch on each of these; the total batch, the number of batches and the epochs stay in one line."""
    batches = set()
    for number, device in enumerate(devices):
        beats = segment(lab, device, epochs=len(devices))
        start = next(beat for beat in beats if beat["kind"] in {"fresh", "resumed"})
        assert start.get("from_epoch", -1) + 1 == number, json.dumps(start)
        assert used_batch(lab) == BATCH
        ranks = re.findall(r"--nproc_per_node (\d+)", (lab.attempt_dir / "log").read_text(errors="replace"))
        assert ranks == (["2"] if "," in device else [])
        batches |= {beat["batches"] for beat in beats if beat["kind"] == "batch"}
    assert len(batches) == 1, "each epoch has as many steps on one device as on two"
    with (lab.save_dir / "results.csv").open() as file:
        epochs = [int(row["epoch"].strip()) for row in csv.DictReader(file)]
    assert epochs == list(range(1, len(devices) + 1))
    assert inspect(str(lab.last))["state"] == "finished"


def test_a_training_moves_between_two_ranks_and_one(real_lab):
    """2 → 1 → 2 → CPU: each epoch once, the total batch kept, whatever computes it."""
    lab = real_lab.make("moves")
    lab.env = {"PYTHONPATH": str(REPOSITORY / "tests" / "gloo_standin"), "OMP_NUM_THREADS": "1"}
    moves(lab, "0,1", "0", "0,1", "cpu")


def gpus(python):
    """How many GPUs the trainings' interpreter sees."""
    command = [str(python), "-c", "import torch; print(torch.cuda.device_count())"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return int(done.stdout or 0)


@pytest.mark.gpu
def test_a_training_moves_between_gpus_and_the_cpu(real_lab, train_python):
    """GPU → CPU → GPU, and over two GPUs where the machine has them."""
    count = gpus(train_python)
    if not count:
        pytest.skip("no NVIDIA GPU here: run `pytest -m gpu` on a machine that has one")
    devices = ("0", "cpu", "0") if count == 1 else ("0,1", "0", "cpu", "0,1")
    moves(real_lab.make("gpu-moves"), *devices)
