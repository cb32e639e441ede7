"""The whole way with the real Ultralytics on a CPU: two trainings, each one story with many promises."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from daemon_harness import MODEL, REPOSITORY, TESTS, job, needs, site, until

pytestmark = pytest.mark.e2e

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))
SLOW_S = 90.0


@pytest.fixture
def yolo():
    """A server whose folders have spaces and Chinese names, with a data set."""
    needs(PYTHON.exists(), f"an interpreter with Ultralytics at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    with site("服务器 one") as made:
        data = made.root / "数据 data"
        subprocess.run([PYTHON, TESTS / "training_data.py", data, "--train", "96"], check=True, capture_output=True)
        made.start()
        yield made


def drop(server, name, *, epochs, batch):
    """A real [train] job."""
    arguments = {
        "model": str(MODEL), "data": str(server.root / "数据 data" / "data.yaml"), "epochs": epochs, "batch": batch,
        "imgsz": 64, "workers": 0, "plots": False,
    }  # fmt: skip
    keys = {"name": name, "python": str(PYTHON), "settings": {"wandb": True}, "env": {"OMP_NUM_THREADS": "2"}}
    return server.drop(f"{name}.toml", job({**keys, "train": arguments}))


def stored(server, name, file="last.pt"):
    """What the project's checkpoint reader says of a file, asked as anybody can: as a program."""
    program = REPOSITORY / "supervisor" / "runner" / "checkpoint.py"
    path = server.run_dir(name) / "train" / "weights" / file
    done = subprocess.run([PYTHON, program, path], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def said_epochs(attempt):
    """The trainer's own words about where it resumes: (first epoch, of how many)."""
    log = re.sub(r"\x1b\[[0-9;]*m", "", (attempt.directory / "log").read_text(errors="replace"))
    found = re.search(r"Resuming training .* from epoch (\d+) to (\d+) total epochs", log)
    return (int(found[1]), int(found[2])) if found else None


def test_a_real_training_is_killed_stopped_and_finished_with_each_epoch_once(yolo):
    """SIGKILL in epoch 2, then the daemon too; SIGTERM by somebody in a later one; SUCCEEDED; then never again."""
    file = drop(yolo, "boxes", epochs=5, batch=2)
    name = "boxes"
    text = file.read_bytes()
    first = yolo.attempt(name, 1)
    first.wait_for_beat("batch", SLOW_S, epoch=1)
    os.kill(first.pid, signal.SIGKILL)
    yolo.end()
    saved = stored(yolo, name)["epoch"]
    assert saved == 0
    yolo.start()

    second = yolo.attempt(name, 2)
    resumed = second.wait_for_beat("resumed", SLOW_S)
    assert resumed["from_epoch"] == saved
    second.wait_for_beat("batch", SLOW_S, epoch=3)
    os.kill(second.pid, signal.SIGTERM)
    assert second.json("exit.json")["code"] == 75
    saved_2 = max(beat["epoch"] for beat in second.beats("saved"))

    third = yolo.attempt(name, 3)
    done = yolo.wait(name, "SUCCEEDED", within_s=SLOW_S)
    assert third.beats("resumed")[0]["from_epoch"] == saved_2
    assert said_epochs(second) == (saved + 2, 5)
    assert said_epochs(third) == (saved_2 + 2, 5)
    assert yolo.attempts(name) == [1, 2, 3]
    assert yolo.epochs_in_table(name) == [1, 2, 3, 4, 5]
    assert done["failures"] == 0
    assert done["map50_95"] is not None
    assert third.beats("end")[-1]["result"] == "finished"
    assert stored(yolo, name)["state"] == "finished"
    [outside] = [row for row in yolo.history(f"{name}@1", "Examined") if row.body["attempt"] == 2]
    assert "stopped from outside" in outside.reason
    settings = json.loads((yolo.run_dir(name) / "settings" / "Ultralytics" / "settings.json").read_text())
    assert settings["wandb"] is True
    owners = yolo.home / ".config" / "Ultralytics" / "settings.json"  # made by the library when it was first asked
    assert json.loads(owners.read_text())["wandb"] is not True
    _never_again(yolo, name, file, text)


def _never_again(yolo, name, file, text):
    """The same file is refused; a retry finds it finished and starts no process."""
    until(lambda: not file.exists(), "its file is in done/")
    error = yolo.error_beside(yolo.drop(file.name, text))
    assert f"retry {name}" in error
    before = (yolo.run_dir(name) / "train" / "weights" / "last.pt").read_bytes()
    assert yolo.order("retry", name)["run"]["id"] == f"{name}@2"
    until(lambda: yolo.run(name)["id"] == f"{name}@2" and yolo.run(name)["phase"] == "SUCCEEDED", "the retry is over")
    assert yolo.attempts(name) == [1, 2, 3]
    assert (yolo.run_dir(name) / "train" / "weights" / "last.pt").read_bytes() == before
    assert yolo.epochs_in_table(name) == [1, 2, 3, 4, 5]


def kill_at_beat(attempt, within_s, kind, **wanted):
    """SIGKILL the trainer as soon as it wrote this record; polled without a pause, because what follows is short."""
    pid, path = attempt.pid, attempt.directory / "beats.jsonl"
    needle = [json.dumps(key) + ": " + json.dumps(value) for key, value in {"kind": kind, **wanted}.items()]
    compact = [text.replace(": ", ":") for text in needle]
    deadline = time.monotonic() + within_s
    with path.open("rb") as file:
        while time.monotonic() < deadline:
            line = file.readline().decode()
            if line and (all(text in line for text in needle) or all(text in line for text in compact)):
                os.kill(pid, signal.SIGKILL)
                return
            if not line:
                time.sleep(0.0005)
    raise AssertionError(f"no {kind} {wanted} within {within_s} s")


@pytest.mark.slow
def test_a_training_killed_between_its_last_save_and_its_end_is_finished_properly(yolo):
    """All epochs are saved, the weights not stripped: no epoch is trained again, and the end is made up for."""
    drop(yolo, "boxes", epochs=2, batch=16)
    first = yolo.attempt("boxes", 1)
    first.wait_for_beat("start", SLOW_S)
    kill_at_beat(first, SLOW_S, "saved", epoch=1)
    yolo.wait("boxes", "SUCCEEDED", within_s=SLOW_S)
    assert yolo.attempts("boxes") == [1, 2]
    second = yolo.attempt("boxes", 2)
    assert second.json("launch.json")["train"]["expected_epoch"] == 1
    assert not second.beats("batch")
    assert all(beat["kept"] for beat in second.beats("saved"))  # nothing new: a copy from before the strip
    [end] = second.beats("end")
    assert end["metrics"], "the final validation was left out"
    entries = yolo.client.get("/v1/runs/boxes/checkpoints")["checkpoints"]
    assert [one["state"] for one in entries if one["epoch"] == 2 and one["where"] == "ledger"] == ["done_not_stripped"]
    assert second.beats("end")[-1]["result"] == "finished"
    assert yolo.epochs_in_table("boxes") == [1, 2]
    assert stored(yolo, "boxes")["state"] == "finished"
    assert stored(yolo, "boxes", "best.pt")["state"] == "finished"
    assert yolo.run("boxes")["saved_epoch"] == 2
