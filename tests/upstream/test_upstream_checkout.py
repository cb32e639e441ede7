"""Kill and resume an unmodified checkout of YOLOv5, YOLOv7, YOLOv9 or YOLOFuse that the caller gives.

    YOLO_SUPERVISOR_TRAIN_PYTHON=/env/bin/python pytest -m upstream --checkout DIR

The interpreter must have what that trainer needs. YOLOv5, v7 and v9 train a tiny model on a few pictures, on the CPU.
YOLOFuse has no options: its train_dual.py must be able to train here as it stands, with its data and its GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from daemon_harness import site, until
from family_runs import drop, epochs_begun, finished, kill, kill_at_random, starts
from tiny_families import EPOCHS, V5, V7, V9, Family, begin, epochs_trained

pytestmark = [pytest.mark.e2e, pytest.mark.upstream, pytest.mark.timeout(1200)]

PATIENCE_S = 300.0


def recognised(folder: Path) -> Family | None:
    """The family of a checkout by its files; None for YOLOFuse, whose script has no options."""
    if (folder / "train_dual.py").is_file() and (folder / "ultralytics").is_dir():
        return None
    if (folder / "train_triple.py").is_file():
        return V9
    if (folder / "train_aux.py").is_file():
        return V7
    if (folder / "train.py").is_file() and (folder / "models" / "yolov5s.yaml").is_file():
        return V5
    pytest.fail(f"{folder} is no checkout of YOLOv5, YOLOv7, YOLOv9 or YOLOFuse")


@pytest.fixture
def checkout(request):
    """The caller's checkout, as it is."""
    given = request.config.getoption("--checkout")
    if given is None:
        pytest.skip("needs --checkout DIR, an unmodified checkout of YOLOv5, YOLOv7, YOLOv9 or YOLOFuse")
    folder = Path(given).resolve()
    assert folder.is_dir(), f"{folder} is no folder"
    return folder


@pytest.fixture
def server():
    """A running server."""
    with site() as made:
        yield made.start()


def test_upstream_script_is_killed_at_random_and_trains_each_epoch_once(server, checkout):
    """Three kills once something is saved; the right start confirmed by its own words; each epoch trained once."""
    family = recognised(checkout)
    if family is None:
        pytest.skip("this is YOLOFuse")
    begin(server, family, checkout)
    last = server.run_dir("boxes") / "train" / "weights" / "last.pt"
    kill_at_random(server, "boxes", 3, 1.0, begun=lambda attempt: epochs_begun(attempt) and last.exists())
    done = finished(server, within_s=PATIENCE_S)
    assert epochs_trained(server, family) == list(range(EPOCHS))
    confirmed = [row.body.get("from_epoch", 0) for row in server.history(done["id"], "StartConfirmed")]
    ordered = [after for start, after in starts(server, "boxes") if start != "finish"]
    assert confirmed[-1] == ordered[-1] > 0


def test_upstream_script_that_is_killed_at_its_end_is_finished(server, checkout):
    """SIGKILL once the last epoch is in the table: saved or not, stripped or not, each epoch is trained once."""
    family = recognised(checkout)
    if family is None:
        pytest.skip("this is YOLOFuse")
    begin(server, family, checkout)
    run = server.attempt("boxes")
    weights = server.run_dir("boxes") / "train" / "weights" / "last.pt"
    until(weights.exists, "a checkpoint", PATIENCE_S)
    rows = lambda: epochs_trained(server, family)  # noqa: E731
    until(lambda: len(rows()) >= EPOCHS, "all epochs are in the table", PATIENCE_S)
    kill(run, 0.0)  # between the last row and the strip, or a little later
    finished(server, within_s=PATIENCE_S)
    assert rows() == list(range(EPOCHS))


def test_upstream_yolofuse_is_killed_and_goes_on(server, checkout):
    """Its script says resume=False; killed behind its first saved epoch, the same command goes on behind it."""
    if recognised(checkout) is not None:
        pytest.skip("this is not YOLOFuse")
    drop(server, "fuse", "custom", checkout, "train_dual.py")
    first = server.attempt("fuse", 1)
    saved = first.wait_for_beat("saved", PATIENCE_S * 3)
    assert kill(first, 0.0, begun=lambda attempt: bool(attempt.beats("saved")))
    second = server.attempt("fuse", 2)
    resumed = second.wait_for_beat("resumed", PATIENCE_S)
    assert resumed["from_epoch"] >= saved["epoch"]
    second.wait_for_beat("saved", PATIENCE_S * 3, epoch=resumed["from_epoch"] + 1)
    server.order("cancel", "fuse", now=True)
