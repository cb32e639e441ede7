"""A YOLOv9-style train_dual.py through the real daemon: own options, own classes, checkpoints written in place."""

from __future__ import annotations

import json
import subprocess

import pytest
from daemon_harness import REPOSITORY, needs, site, until
from family_runs import PYTHON, SLOW_S, checkout, drop, finished, kill, kill_at_random, log_of, starts

from supervisor.trainers import opt_yaml

pytestmark = pytest.mark.e2e


@pytest.fixture
def v9():
    """A server with a checkout of the small YOLOv9-style trainer, and its data."""
    needs(PYTHON.exists(), f"an interpreter with torch at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    with site("服务器 one") as made:
        made.folder = checkout(made, "yolov9_style")
        made.data = made.root / "数据 data.yaml"
        made.data.write_text("noise: 0.01\n")
        made.start()
        yield made


def train(server, name="boxes", *, epochs, batch_s=0.1, **keys):
    """A job of the family; more words of its command are in `words`."""
    words = ["train_dual.py", "--data", server.data, "--epochs", epochs, "--batch-s", batch_s, *keys.pop("words", ())]
    return drop(server, name, "yolov9", server.folder, *words, **keys)


def look(server, name="boxes", file="last.pt"):
    """What the project's checkpoint reader says."""
    program = REPOSITORY / "supervisor" / "runner" / "checkpoint.py"
    path = server.run_dir(name) / "train" / "weights" / file
    done = subprocess.run([PYTHON, "-I", "-S", program, path], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def wait_for_epochs(server, epochs, name="boxes"):
    """Return once the table has so many rows."""
    table = server.run_dir(name) / "train" / "results.csv"
    until(lambda: table.exists() and len(table.read_text().splitlines()) > epochs, f"{epochs} epochs", SLOW_S)


def assert_whole(server, epochs, name="boxes"):
    """Each epoch once, from 0, and both checkpoints stripped."""
    assert server.epochs_in_table(name) == list(range(epochs))
    assert [look(server, name, file)["state"] for file in ("last.pt", "best.pt")] == ["finished", "finished"]


def test_families_v9_is_killed_once_and_trains_each_epoch_once(v9):
    """SIGKILL in its epochs; the next attempt says the right epoch and folder, and finishes with exit code 0."""
    train(v9, epochs=5)
    assert kill(v9.attempt("boxes"), 1.0)
    done = finished(v9)
    assert v9.attempts("boxes") == [1, 2]
    (_, _), (start, after) = starts(v9, "boxes")
    assert start == "resume"
    assert after >= 1
    assert f"from epoch {after} to 5 total epochs" in log_of(v9.attempt("boxes", 2))
    [first, second] = v9.history(done["id"], "StartConfirmed")
    assert (first.body.get("from_epoch", 0), second.body["from_epoch"]) == (0, after)
    assert second.body["save_dir"] == str(v9.run_dir("boxes") / "train")
    assert v9.attempt("boxes", 2).json("exit.json")["code"] == 0
    assert_whole(v9, 5)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_families_v9_is_killed_five_times(v9):
    """At random moments; then exactly the epochs that were asked for, each once."""
    train(v9, epochs=12, words=["--save-period", 2])
    kill_at_random(v9, "boxes", 5, 2.0)
    finished(v9)
    assert v9.attempts("boxes") == [1, 2, 3, 4, 5, 6]
    assert_whole(v9, 12)


def test_families_v9_that_fails_at_its_final_strip_is_finished_by_us(v9):
    """Torch >= 2.6 refuses the script's own strip: exit code 1 after all epochs. Nothing is trained again."""
    train(v9, epochs=2, batch_s=0.0, env={"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"})
    finished(v9)
    assert v9.attempts("boxes") == [1, 2]
    assert "Weights only load failed" in log_of(v9.attempt("boxes", 1))
    assert starts(v9, "boxes")[1] == ("finish", 2)
    [end] = v9.attempt("boxes", 2).beats("end")
    assert (end["result"], end["epochs"]) == ("finished", 2)
    assert_whole(v9, 2)
    launch = v9.attempt("boxes", 2).json("launch.json")
    again = subprocess.run(
        launch["argv"], env=launch["env"], cwd=launch["cwd"], capture_output=True, timeout=60, check=False
    )
    assert again.returncode == 0
    assert_whole(v9, 2)


def test_families_a_moved_run_and_data_set_are_repaired(v9):
    """The run's folder and its data lie elsewhere now: opt.yaml is made to say so, and the resume saves in its place."""
    train(v9, epochs=5, batch_s=0.1)
    wait_for_epochs(v9, 2)
    options, elsewhere = v9.run_dir("boxes") / "train" / "opt.yaml", v9.root / "elsewhere"
    as_if_moved = {"device": "0", "save_dir": str(elsewhere / "train"), "data": str(elsewhere / "data.yaml")}
    opt_yaml.repair(options, as_if_moved, v9.root / "aside")
    assert kill(v9.attempt("boxes"), 0.0)
    finished(v9)
    found = opt_yaml.read(options)
    assert (found["save_dir"], found["device"]) == (str(v9.run_dir("boxes") / "train"), "")
    assert found["data"] == str(v9.data)
    assert not elsewhere.exists()
    assert_whole(v9, 5)


def test_families_a_training_that_begins_anew_is_stopped(v9):
    """A resume whose own words say that it is none is ended at once and held: nothing of it goes on."""
    script = v9.folder / "train_dual.py"
    train(v9, epochs=5, batch_s=0.1)
    wait_for_epochs(v9, 2)
    text = script.read_text()
    broken = text.replace("        if options.resume:\n            self.resume()\n", "")
    assert broken != text
    script.write_text(broken)
    assert kill(v9.attempt("boxes"), 0.0)
    held = v9.wait("boxes", "HELD", within_s=SLOW_S)
    assert "wrong place" in held["reason"]
    until(lambda: v9.attempt("boxes", 2).json("exit.json"), "it has ended")
