"""Rewind, extend and branch with the real Ultralytics on a CPU: one story, one promise after the other."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from daemon_harness import MODEL, REPOSITORY, TESTS, job, needs, site, until

from supervisor.core.checkpoints import Checkpoint
from supervisor.effects import checkpoints

pytestmark = pytest.mark.e2e

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))
SLOW_S = 90.0


@pytest.fixture
def yolo():
    """A server with a data set."""
    needs(PYTHON.exists(), f"an interpreter with Ultralytics at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    with site() as made:
        command = [PYTHON, TESTS / "training_data.py", made.root / "data", "--train", "32", "--val", "8"]
        subprocess.run(command, check=True, capture_output=True)
        yield made.start()


def text(server, **arguments):
    """A real [train] job of three epochs."""
    known = {
        "model": str(MODEL), "data": str(server.root / "data" / "data.yaml"), "epochs": 3, "batch": 8, "imgsz": 64,
        "workers": 0, "plots": False, "val": True, "save_period": 1,
    }  # fmt: skip
    keys = {"python": str(PYTHON), "env": {"OMP_NUM_THREADS": "1"}}
    return job({**keys, "train": {**known, **arguments}})


def stored(server, name, file="last.pt") -> Checkpoint:
    """What a checkpoint of a run holds."""
    return checkpoints.look([server.run_dir(name) / "train" / "weights" / file])[0]


def ended(server, run_id):
    """Wait until that run has succeeded."""
    name = run_id.partition("@")[0]
    until(lambda: (server.run(name) or {}).get("id") == run_id, f"{run_id} is there")
    server.wait(name, "SUCCEEDED", within_s=SLOW_S)


@pytest.mark.slow
def test_one_warm_up_and_what_can_be_made_of_it(yolo, tmp_path):
    """Trained 3 epochs; branched after 1, resumed and from the weights; rewound to 1; extended to 4."""
    yolo.drop("warm.toml", text(yolo))
    ended(yolo, "warm@1")
    assert stored(yolo, "warm").state == "finished"
    best = (yolo.run_dir("warm") / "train" / "weights" / "best.pt").read_bytes()

    (tmp_path / "small.toml").write_text(text(yolo, batch=4))
    (tmp_path / "adam.toml").write_text(text(yolo, optimizer="AdamW", epochs=2))
    refused = yolo.cli("branch", "warm", "--at", "1", str(tmp_path / "adam.toml"))
    assert refused.returncode == 2
    assert "a resume continues the optimizer of the checkpoint" in refused.stderr
    assert yolo.cli("branch", "warm", "--at", "1", str(tmp_path / "small.toml")).returncode == 0
    anew = yolo.cli("branch", "warm", "--at", "1", str(tmp_path / "adam.toml"), "--from-weights")
    assert anew.returncode == 0, anew.stderr
    assert yolo.cli("rewind", "warm", "--epoch", "1").returncode == 0

    for run_id in ("small@1", "adam@1", "warm@2"):
        ended(yolo, run_id)
    for name, attempt, epochs in (("small", 1, 3), ("warm", 2, 3)):
        assert yolo.attempt(name, attempt).beats("resumed")[0]["from_epoch"] == 0
        assert yolo.epochs_in_table(name) == list(range(1, epochs + 1))
        assert stored(yolo, name).state == "finished"
    assert stored(yolo, "small").arguments["batch"] == 4
    assert not yolo.attempt("adam", 1).beats("resumed")
    assert yolo.epochs_in_table("adam") == [1, 2]
    log = (yolo.attempt("adam", 1).directory / "log").read_text(errors="replace")
    assert "Transferred" in log
    assert "start.pt" in log

    assert yolo.cli("extend", "warm", "--epochs", "4").returncode == 0
    ended(yolo, "warm@3")
    third = yolo.attempt("warm", 3)
    assert third.json("launch.json")["train"]["epochs_override"] == 4
    assert third.beats("resumed")[0]["from_epoch"] == 2
    assert yolo.epochs_in_table("warm") == [1, 2, 3, 4]
    assert stored(yolo, "warm").state == "finished"
    assert (yolo.run_dir("warm") / "attempts" / "2" / "aside" / "best.pt").read_bytes() == best
    view = json.loads(yolo.cli("show", "warm", "--json").stdout)
    ways = [one["how"] for one in view["lineage"]["line"]]
    assert ways == ["from the beginning", "rewound to epoch 1", "extended to 4 epochs"]
    assert {one["run"] for one in view["lineage"]["branches"]} == {"small@1", "adam@1"}
