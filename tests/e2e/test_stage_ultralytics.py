"""A planned segment with the real Ultralytics on a CPU."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from daemon_harness import MODEL, REPOSITORY, TESTS, job, needs, site

pytestmark = pytest.mark.e2e

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))
SLOW_S = 90.0
STAGE = "\n[[stage]]\nfrom_epoch = 3\nimgsz = 64\nfreeze = 2\n"


@pytest.fixture
def yolo():
    """A server with a data set, whose interpreter has Ultralytics."""
    needs(PYTHON.exists(), f"an interpreter with Ultralytics at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    with site("舞台 stage") as made:
        command = [PYTHON, TESTS / "training_data.py", made.root / "data", "--train", "96", "--val", "8"]
        subprocess.run(command, check=True, capture_output=True)
        yield made.start()


def drop(server, name, stages, **more):
    """A real [train] job with stages."""
    train = {
        "model": str(MODEL), "data": str(server.root / "data" / "data.yaml"), "epochs": 4, "batch": 2, "imgsz": 32,
        "workers": 0, "plots": False, **more,
    }  # fmt: skip
    keys = {"name": name, "python": str(PYTHON), "env": {"OMP_NUM_THREADS": "2"}, "train": train}
    return server.drop(f"{name}.toml", job(keys) + stages)


@pytest.mark.slow
def test_a_stage_changes_the_image_size_at_its_epoch(yolo):
    """Two epochs at 32 pixels, two at 64 with two layers frozen: each epoch once, nothing of [train] changed else."""
    drop(yolo, "boxes", STAGE)
    done = yolo.wait("boxes", "SUCCEEDED", within_s=SLOW_S)
    assert yolo.attempts("boxes") == [1, 2]
    assert yolo.epochs_in_table("boxes") == [1, 2, 3, 4]
    assert done["failures"] == 0
    second = yolo.attempt("boxes", 2)
    assert second.json("launch.json")["train"]["args"]["imgsz"] == 64
    assert second.beats("resumed")[0]["from_epoch"] == 1
    used = (yolo.run_dir("boxes") / "train" / "args.yaml").read_text()
    assert re.search(r"^imgsz: 64$", used, re.MULTILINE)
    assert re.search(r"^freeze: 2$", used, re.MULTILINE)
    log = (second.directory / "log").read_text(errors="replace")
    assert log.startswith("yolo-supervisor: attempt 2: stage from epoch 3: imgsz = 64, freeze = 2\n")
    assert "Freezing layer 'model.0.conv.weight'" in log
    assert "stage from epoch 3: imgsz = 64, freeze = 2" in yolo.cli("why", "boxes", "--events").stdout


def test_a_stage_that_this_version_cannot_begin_is_refused_at_once(yolo):
    """The installed Ultralytics is asked what it takes at a resume; learning rates are not among it."""
    file = drop(yolo, "rates", "\n[[stage]]\nfrom_epoch = 3\nlr0 = 0.1\n")
    text = yolo.error_beside(file)
    assert "lr0" in text
    late = drop(yolo, "late", "\n[[stage]]\nfrom_epoch = 5\nimgsz = 64\n")
    assert "never reached" in yolo.error_beside(late)
