"""The real Ultralytics on a CPU while its data set is touched, changed and moved: one story with many promises."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from daemon_harness import MODEL, REPOSITORY, TESTS, job, needs, site, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]  # the promises are kept by test_consistency_held.py, with a toy

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))
SLOW_S = 90.0


@pytest.fixture
def yolo():
    """A server with a data set, whose interpreter has Ultralytics."""
    needs(PYTHON.exists(), f"an interpreter with Ultralytics at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    with site() as made:
        command = [PYTHON, TESTS / "training_data.py", made.root / "数据", "--train", "48", "--val", "8"]
        subprocess.run(command, check=True, capture_output=True)
        yield made.start()


def drop(server, data):
    """The job with its data set there."""
    train = {
        "model": str(MODEL), "data": str(data), "epochs": 6, "batch": 2, "imgsz": 64, "workers": 0, "plots": False,
    }  # fmt: skip
    keys = {"name": "boxes", "python": str(PYTHON), "env": {"OMP_NUM_THREADS": "2"}, "train": train}
    return server.drop("boxes.toml", job(keys))


def notes(server, attempt):
    """What was said at the head of an attempt's log."""
    lines = (server.attempt("boxes", attempt).directory / "log").read_text(errors="replace").splitlines()
    return [line for line in lines if line.startswith("yolo-supervisor: attempt")]


def test_data_that_are_touched_changed_and_moved(yolo):
    """A touched image is said; other class names are held until a person agrees; a moved data set goes on."""
    data = yolo.root / "数据" / "data.yaml"
    drop(yolo, data)
    yolo.attempt("boxes", 1).wait_for_beat("saved", SLOW_S, epoch=0)
    os.utime(yolo.root / "数据" / "images" / "train" / "00003.jpg", (1, 1))
    os.kill(yolo.attempt("boxes", 1).pid, signal.SIGKILL)
    yolo.attempt("boxes", 2).wait_for_beat("resumed", SLOW_S)
    assert "images were touched" in notes(yolo, 2)[0]

    data.write_text(data.read_text().replace("red", "crimson"))
    os.kill(yolo.attempt("boxes", 2).pid, signal.SIGKILL)
    held = yolo.wait("boxes", "HELD", within_s=SLOW_S)
    assert "0 was red and is crimson" in held["reason"]
    assert yolo.cli("resume", "boxes", "--accept").returncode == 0
    agreed = until(lambda: next(iter(number for number in yolo.attempts("boxes") if number > 2), None), "it goes on")
    yolo.attempt("boxes", agreed).wait_for_beat("resumed", SLOW_S)

    yolo.attempt("boxes", agreed).wait_for_beat("saved", SLOW_S)
    yolo.order("stop", "boxes", now=True)
    yolo.wait("boxes", "HELD", within_s=SLOW_S)
    moved = (yolo.root / "数据").rename(yolo.root / "moved")
    data = moved / "data.yaml"
    data.write_text(re.sub(r"^path: .*$", f"path: {json.dumps(str(moved))}", data.read_text(), flags=re.MULTILINE))
    drop(yolo, data)
    until(lambda: yolo.client.get("/v1/runs/boxes")["next_job"], "the edit is accepted")
    yolo.order("resume", "boxes")
    yolo.wait("boxes", "SUCCEEDED", within_s=SLOW_S)
    last = max(yolo.attempts("boxes"))
    assert any("the data set moved from" in note for note in notes(yolo, last))
    assert yolo.epochs_in_table("boxes") == [1, 2, 3, 4, 5, 6]
    assert f"data: {data}" in (yolo.run_dir("boxes") / "train" / "args.yaml").read_text()
