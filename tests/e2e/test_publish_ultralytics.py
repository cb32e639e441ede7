"""A real Ultralytics run is published by the daemon, exported, and gone on with on another server by its card."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from daemon_harness import MODEL, REPOSITORY, TESTS, Site, job, needs, site, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))
SLOW_S = 120.0


def has(module: str) -> bool:
    """Whether the job's Python has a library."""
    return subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def published(server: Site, name: str) -> dict[str, Any]:
    """The newest Published event of a run, once it is there."""
    return until(lambda: server.history(f"{name}@1", "Published"), "it is published", SLOW_S)[-1].body


def test_a_real_run_is_published_exported_and_trained_on_elsewhere(tmp_path: Path) -> None:
    """Best, last and card lie in the shared folder, torchscript beside them; onnx fails plainly where it is missing.

    On another server the card becomes a job that goes on after the last epoch, to more epochs, with the same weights.
    """
    needs(PYTHON.exists(), f"an interpreter with Ultralytics at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    share = tmp_path / "共享 share"
    data = tmp_path / "boxes data"
    subprocess.run([PYTHON, TESTS / "training_data.py", data, "--train", "32", "--val", "8"], check=True)
    train = {
        "model": str(MODEL), "data": str(data / "data.yaml"), "epochs": 2, "batch": 4,
        "imgsz": 64, "workers": 0, "plots": False,
    }  # fmt: skip
    keys = {"name": "boxes", "python": str(PYTHON), "env": {"OMP_NUM_THREADS": "2", "SOME_TOKEN": "not-for-others"}}
    wish = {"to": str(share), "export": ["torchscript", "onnx"]}
    with site("one") as first:
        first.start()
        first.drop("boxes.toml", job({**keys, "publish": wish, "train": train}))
        first.wait("boxes", "SUCCEEDED", within_s=SLOW_S)
        event = published(first, "boxes")
        _is_complete(share, event)
    with site("two") as second:
        second.start()
        card = next(share.glob("*.json"))
        into = second.root / "gone on"
        words = ["--python", str(PYTHON), "--epochs", "4", "--into", str(into), "--yes"]
        done = second.cli("adopt", str(card), *words)
        assert done.returncode == 0, done.stderr
        second.wait("boxes", "SUCCEEDED", within_s=SLOW_S)
        resumed = second.attempt("boxes").beats("resumed")[0]
        assert (resumed["from_epoch"], Path(resumed["save_dir"]).samefile(into)) == (1, True)
        assert second.epochs_in_table("boxes") == [3, 4]


def _is_complete(share: Path, event: dict[str, Any]) -> None:
    assert event["ok"], event
    names = sorted(path.name for path in share.iterdir())
    assert [name.rpartition("-")[2] for name in names if name.endswith(".pt")] == ["best.pt", "last.pt"]
    card = json.loads(next(share.glob("*.json")).read_text())
    assert (card["epoch"], card["epochs"], card["versions"]["ultralytics"]) == (2, 2, "8.4.190")
    assert card["data"]["digest"]
    assert "not-for-others" not in json.dumps(card)
    assert names[0].startswith("default_tiny_boxes")
    exports = event["exports"]
    assert isinstance(exports, dict)
    assert Path(exports["torchscript"]).is_file()
    assert Path(exports["torchscript"]).parent == share
    if not has("onnx"):
        assert exports["onnx"].startswith(f"onnx is not installed in {PYTHON}")
