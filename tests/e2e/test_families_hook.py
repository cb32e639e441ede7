"""A YOLOFuse-style script through the real daemon: no command line, resume=False written down, Ultralytics inside.

Nobody changed the script, and nobody told where it saves: our hook on PYTHONPATH follows it and lets it go on.
"""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from daemon_harness import MODEL, REPOSITORY, TESTS, needs, site
from family_runs import PYTHON, SLOW_S, checkout, drop, finished, kill, kill_at_random, starts

pytestmark = pytest.mark.e2e


@pytest.fixture
def fuse():
    """A server with a checkout of the small YOLOFuse-style trainer, and its data."""
    needs(PYTHON.exists(), f"an interpreter with Ultralytics at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    with site() as made:
        made.folder = checkout(made, "yolofuse_style")
        shutil.copy(MODEL, made.folder / "model.yaml")
        data = [PYTHON, TESTS / "training_data.py", made.folder / "data", "--train", "48", "--val", "8"]
        subprocess.run(data, check=True, capture_output=True)
        made.start()
        yield made


def batches_begun(attempt):
    """True once the hook has seen a batch."""
    return bool(attempt.beats("batch"))


def assert_whole(server, epochs):
    """Each epoch once in the folder of the first start, and no second folder; last.pt is stripped."""
    assert [path.name for path in (server.folder / "runs" / "fuse").iterdir()] == ["exp"]
    home = server.folder / "runs" / "fuse" / "exp"
    rows = (home / "results.csv").read_text().splitlines()[1:]
    assert [int(float(row.partition(",")[0])) for row in rows] == list(range(1, epochs + 1))
    program = REPOSITORY / "supervisor" / "runner" / "checkpoint.py"
    look = [PYTHON, "-I", "-S", program, home / "weights" / "last.pt"]
    done = subprocess.run(look, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["state"] == "finished"


def test_families_a_script_that_cannot_resume_is_resumed(fuse):
    """SIGKILL in a later epoch; the same command again goes on behind the saved one, into the same folder."""
    drop(fuse, "fuse", "custom", fuse.folder, "train_dual.py")
    first = fuse.attempt("fuse", 1)
    first.wait_for_beat("saved", SLOW_S, epoch=1)
    assert kill(first, 0.0, begun=batches_begun)
    saved = max(beat["epoch"] for beat in first.beats("saved"))
    finished(fuse, "fuse")
    second = fuse.attempt("fuse", 2)
    [resumed] = second.beats("resumed")
    assert resumed["from_epoch"] == saved
    assert starts(fuse, "fuse") == [("fresh", 0), ("resume", saved + 1)]
    assert second.json("launch.json")["argv"] == first.json("launch.json")["argv"]
    assert fuse.attempts("fuse") == [1, 2]
    assert_whole(fuse, 10)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_families_a_script_that_cannot_resume_is_killed_five_times(fuse):
    """Behind one more epoch each time; then exactly the epochs that are written in it, each once."""
    drop(fuse, "fuse", "custom", fuse.folder, "train_dual.py")
    kill_at_random(fuse, "fuse", 5, 0.3, begun=lambda attempt: bool(attempt.beats("epoch")))
    finished(fuse, "fuse", 200.0)
    assert fuse.attempts("fuse") == [1, 2, 3, 4, 5, 6]
    assert_whole(fuse, 10)
