"""Planned segments: the training is stopped after the epoch before, and resumed with other arguments."""

from __future__ import annotations

import os
import signal

import pytest
from daemon_harness import MODEL, job

pytestmark = pytest.mark.e2e

STAGES = "\n[[stage]]\nfrom_epoch = 3\nimgsz = 96\n\n[[stage]]\nfrom_epoch = 5\nimgsz = 128\npatience = 7\n"


def drop(server, name, stages=STAGES, flags="--epoch-s 0.6 --batches 6", epochs=6):
    """A toy [train] job with stages."""
    train = {"model": str(MODEL), "data": str(MODEL), "epochs": epochs, "imgsz": 64}
    keys = {"name": name, "python": str(server.toy_python()), "env": {"TOY": flags}, "train": train}
    return server.drop(f"{name}.toml", job(keys) + stages)


def arguments(server, name, attempt):
    """With which arguments an attempt was launched."""
    return server.attempt(name, attempt).json("launch.json")["train"]["args"]


def test_stages_begin_in_their_epochs_and_survive_a_crash(server):
    """Each stage is one stop and one resume, no failure; killed in its first epoch, it is still that stage."""
    drop(server, "truck")
    second = server.attempt("truck", 2)
    assert second.wait_for_beat("resumed")["from_epoch"] == 1
    os.kill(second.pid, signal.SIGKILL)
    done = server.wait("truck", "SUCCEEDED")
    given = [arguments(server, "truck", attempt) for attempt in server.attempts("truck")]
    assert [one["imgsz"] for one in given] == [64, 96, 96, 128]
    assert [one.get("patience") for one in given] == [None, None, None, 7]
    assert server.epochs_in_table("truck") == [1, 2, 3, 4, 5, 6]
    assert done["failures"] == 0
    assert [one["state"] for one in server.client.get("/v1/runs/truck")["stages"]] == ["done", "done"]
    words = "stage from epoch 3: imgsz = 96"
    for attempt in (2, 3):
        log = (server.attempt("truck", attempt).directory / "log").read_text()
        assert log.startswith(f"yolo-supervisor: attempt {attempt}: {words}\n")
    assert words in server.cli("why", "truck", "--events").stdout
    shown = server.cli("show", "truck").stdout
    assert "stage       from epoch 5: imgsz = 128, patience = 7 (done)" in shown
    assert shown.count(words) == 2


def test_a_stage_written_in_mid_run_begins_in_its_time(server):
    """The edit is announced at once and takes effect when its epoch comes, without a stop before."""
    drop(server, "truck", stages="", epochs=5)
    server.wait_saved("truck", 1)
    drop(server, "truck", stages="\n[[stage]]\nfrom_epoch = 5\nimgsz = 96\n", epochs=5)
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1, 2]
    assert server.attempt("truck", 2).beats("resumed")[0]["from_epoch"] == 3
    assert arguments(server, "truck", 2)["imgsz"] == 96
    assert server.epochs_in_table("truck") == [1, 2, 3, 4, 5]
