"""A real training that is killed twice: its curve is one line, and the proof that it went on where it had ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from daemon_harness import MODEL, REPOSITORY, TESTS, job, needs, site

pytestmark = pytest.mark.e2e

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))
SLOW_S = 90.0
EPOCHS = 7


@pytest.fixture
def yolo():
    """A server with a data set."""
    needs(PYTHON.exists(), f"an interpreter with Ultralytics at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    with site() as made:
        command = [PYTHON, TESTS / "training_data.py", made.root / "data", "--train", "96"]
        subprocess.run(command, check=True, capture_output=True)
        made.start()
        yield made


def drop(server, name):
    """A real [train] job whose augmentation stays as it is to the end."""
    arguments = {
        "model": str(MODEL), "data": str(server.root / "data" / "data.yaml"), "epochs": EPOCHS, "batch": 4,
        "imgsz": 64, "workers": 0, "plots": False, "close_mosaic": 0,
    }  # fmt: skip
    keys = {"name": name, "python": str(PYTHON), "env": {"OMP_NUM_THREADS": "2"}}
    server.drop(f"{name}.toml", job({**keys, "train": arguments}))


@pytest.mark.slow
def test_a_real_training_that_was_killed_twice_is_one_line_without_a_jump(yolo):
    """Each epoch once, two restarts; both resumes are judged continuous; PNG and SVG can be read; also offline."""
    drop(yolo, "boxes")
    for number, epoch in ((1, 2), (2, 4)):
        attempt = yolo.attempt("boxes", number)
        attempt.wait_for_beat("epoch", SLOW_S, epoch=epoch - 1)
        os.kill(attempt.pid, signal.SIGKILL)
    yolo.wait("boxes", "SUCCEEDED", within_s=SLOW_S)
    assert yolo.attempts("boxes") == [1, 2, 3]

    view = json.loads(yolo.cli("plot", "boxes", "--json").stdout)
    assert [point["epoch"] for point in view["points"]] == list(range(1, EPOCHS + 1))
    starts = [yolo.attempt("boxes", number).beats("resumed")[0]["from_epoch"] + 1 for number in (2, 3)]
    assert [(mark["attempt"], mark["epoch"]) for mark in view["restarts"]] == [(2, starts[0]), (3, starts[1])]
    assert all("killed by SIGKILL" in mark["reason"] for mark in view["restarts"])
    assert all({"box_loss", "cls_loss", "dfl_loss"} <= point["losses"].keys() for point in view["points"])
    assert all(point["map50_95"] is not None and point["lr"] for point in view["points"])
    updates = [point["updates"] for point in view["points"]]
    assert updates == sorted(set(updates))

    compared = yolo.history("boxes@1", "Compared")
    assert [(row.body["attempt"], row.body["continuous"], row.body.get("findings", [])) for row in compared] == [
        (2, True, []), (3, True, []),
    ]  # fmt: skip
    assert yolo.cli("why", "boxes", "--events").stdout.count("no jump after the resume") == 2
    _pictures(yolo)
    yolo.end()
    offline = json.loads(yolo.cli("plot", "boxes", "--json").stdout)
    assert offline.pop("offline")
    assert offline["points"] == view["points"]
    assert offline["restarts"] == view["restarts"]


def _pictures(server):
    """PNG and SVG, drawn by the job's own interpreter where ours has no matplotlib."""
    files = [server.root / "curve.png", server.root / "curve.svg"]
    done = server.cli("plot", "boxes", *(word for file in files for word in ("--out", str(file))))
    assert done.returncode == 0, done.stderr
    assert f"{EPOCHS} epochs, 2 restarts" in done.stdout
    png, svg = (file.read_bytes() for file in files)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert png.endswith(b"IEND\xae\x42\x60\x82")
    assert len(png) > 20_000
    assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert sorted(path.name for path in server.root.iterdir() if path.name.startswith((".curve", "curve"))) == [
        "curve.png", "curve.svg",
    ]  # fmt: skip


# ---- the drawing program
def a_point(epoch, *, losses=("box_loss", "cls_loss"), nan=False, measured=True):
    """One epoch of a curve as `plot --json` gives it."""
    return {
        "epoch": epoch,
        "attempt": 1,
        "losses": {name: None if nan else (place + 1) / epoch for place, name in enumerate(losses)},
        "metrics": {"val/box_loss": 1.1 / epoch, "metrics/recall(B)": 0.5} if measured else {},
        "map50": 0.3 if measured else None,
        "map50_95": 0.2 if measured else None,
        "fitness": None,
        "lr": {},
        "updates": None,
        "at": None,
    }


def a_restart(attempt, epoch, lost=()):
    """One restart."""
    reason = f"killed by SIGKILL, resumed after epoch {epoch}"
    return {"attempt": attempt, "epoch": epoch, "ending": "", "reason": reason, "lost": list(lost)}


CURVES = {
    "one epoch": [a_point(1)],
    "three epochs": [a_point(epoch) for epoch in (1, 2, 3)],
    "300 epochs, losses from 3 to 0.003": [a_point(epoch) for epoch in range(1, 301)],
    "not a number": [a_point(epoch, nan=epoch > 2) for epoch in (1, 2, 3, 4)],
    "never a number": [a_point(1, nan=True, measured=False)],
    "no validation": [a_point(epoch, measured=False) for epoch in (1, 2)],
    "ten losses": [a_point(epoch, losses=[f"part {number}" for number in range(10)]) for epoch in (1, 2)],
    "metrics only": [a_point(epoch, losses=()) for epoch in (1, 2)],
}


def draw(points, *words, restarts=(), lost=(), **fields):
    """Run the drawing program as `plot` does, with every warning an error."""
    needs(PYTHON.exists(), f"an interpreter with matplotlib at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    curve = {"name": "truck", "epochs": 300, "points": points, "restarts": list(restarts), "lost": list(lost), **fields}
    command = [PYTHON, "-W", "error", REPOSITORY / "supervisor" / "runner" / "draw.py", *words]
    return subprocess.run(command, input=json.dumps(curve), capture_output=True, text=True, timeout=60, check=False)


def words_in(path):
    """The texts of an SVG, which its comments keep."""
    return set(re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("points", CURVES.values(), ids=CURVES)
def test_every_shape_of_curve_is_drawn(points, tmp_path):
    """Short and long, with holes, without validation, with many losses: a picture without a warning."""
    file = tmp_path / "curve.svg"
    done = draw(points, file, restarts=[a_restart(2, 1)])
    assert (done.returncode, done.stderr) == (0, "")
    shown = words_in(file)
    assert f"truck: {points[-1]['epoch']} of 300 epochs, 1 restart" in shown
    assert "epoch" in shown
    assert ("mAP50-95" in shown) is bool(points[0]["metrics"])
    assert ("not a number" in shown) is any(None in point["losses"].values() for point in points)
    assert set(points[0]["losses"]) - shown <= {"part 8", "part 9"}
    assert ("and 2 more" in shown) is (len(points[0]["losses"]) == 10)


def test_twenty_restarts_and_what_was_lost(tmp_path):
    """Numbers that would hide each other are joined, the first reasons are spelt out, lost epochs are named."""
    points = [a_point(epoch) for epoch in range(1, 81)]
    restarts = [a_restart(number, 4 * (number - 1), lost=(5, 6) if number == 2 else ()) for number in range(2, 20)]
    restarts += [a_restart(20, 73), a_restart(21, 73)]
    files = tmp_path / "a.svg", tmp_path / "b.svg", tmp_path / "dark.png"
    assert draw(points, *files[:2], restarts=restarts, lost=points[4:6]).returncode == 0
    shown = words_in(files[0])
    assert {"2", "3", "19-21", "… and 14 more"} <= shown
    assert "attempt 2: killed by SIGKILL, resumed after epoch 4 (epochs 5 to 6 lost: hollow dots)" in shown
    assert files[0].read_bytes() == files[1].read_bytes()
    assert draw(points, "--dark", files[2]).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.svg", "b.svg", "dark.png"]


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path):
    """Wrong input exits 2, a folder that is not there 73; what was there stays whole."""
    file = tmp_path / "curve.png"
    file.write_bytes(b"old")
    assert draw([], file).returncode == 2
    assert draw([{"epoch": 1}], tmp_path / "none" / "curve.png").returncode != 0
    done = draw([a_point(1)], tmp_path / "none" / "curve.png")
    assert (done.returncode, file.read_bytes()) == (73, b"old")
    assert "could not be written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
