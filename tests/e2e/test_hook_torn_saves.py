"""Saves of the real library that are cut: by SIGKILL, and by a disk that takes no more. Nothing torn is ever seen."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hook_lab import RealLabs, real_labs
from runner_lab import Lab, Process, names, read_beats

from supervisor.runner.checkpoint import inspect

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("hook-trainings")]

#: 19 million parameters that cost next to nothing at 64 pixels: last.pt has about 75 MB, and is long in writing.
WIDE = """
nc: 2
scales:
  n: [1.0, 1.0, 4096]
backbone:
  - [-1, 1, Conv, [12, 3, 2]]
  - [-1, 1, Conv, [24, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [1024, 3, 2]]
  - [-1, 1, Conv, [2048, 3, 2]]
head:
  - [[2], 1, Detect, [nc]]
"""
KILLS = 5


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLabs]:
    """Give a maker of run directories."""
    yield from real_labs(tmp_path_factory)


def wide(lab: Lab, **changes: object) -> dict[str, object]:
    """Return the arguments of a short training of a large model."""
    model = lab.run_dir / "wide.yaml"
    model.write_text(WIDE)
    given = {"epochs": 50, "batch": 64, "fraction": 0.25, "optimizer": "SGD", "save_period": 1}
    return lab.arguments(model=str(model), **{**given, **changes})


def size_of(path: Path) -> int:
    """Return the size of a file that may be gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def in_the_middle_of_a_save(process: Process, weights: Path) -> str:
    """Wait until a checkpoint is half written; return the temporary file's name."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        cut = next((path for path in weights.glob(".*.tmp") if size_of(path) > 1_000_000), None)
        if cut is not None:
            return cut.name
        assert process.popen.poll() is None, process.log()[-2000:]
    raise AssertionError(process.log()[-2000:])


def start(lab: Lab) -> Process:
    """Start or resume, and come past the first save of this process."""
    last = inspect(str(lab.last))
    resume = {} if last["state"] == "missing" else {"resume": str(lab.last), "expected_epoch": last["epoch"]}
    lab.launch(args=wide(lab), **resume)
    process = lab.start()
    process.wait_for_beat(timeout_s=90, kind="saved", epoch=(last["epoch"] or 0) + (1 if resume else 0))
    return process


def kill_in_a_save(lab: Lab) -> None:
    """Kill a training in a save, and look at every file that is there."""
    process = start(lab)
    cut = in_the_middle_of_a_save(process, lab.last.parent)
    process.end()
    saved = [beat["epoch"] for beat in read_beats(process.beats_file) if beat["kind"] == "saved"][-1]
    last = inspect(str(lab.last))
    assert (last["state"], last["epoch"] in {saved, saved + 1}) == ("resumable", True), (cut, last)
    for path in lab.last.parent.glob("*.pt"):
        assert inspect(str(path))["state"] == "resumable", path
        if path.name.startswith("epoch"):
            path.unlink()  # else the disk fills: what matters was seen


def test_torn_files_never_come_of_a_kill_in_a_save(labs):
    """SIGKILL while last.pt, best.pt or epochN.pt is written: each is the old one or the new one."""
    kill_in_a_save(labs.make("kill"))


@pytest.mark.slow
def test_torn_files_never_come_of_many_kills_in_saves(labs):
    """The same five times in a row on one run, which is resumed from last.pt each time; no leftover is kept."""
    lab = labs.make("kills")
    for _ in range(KILLS):
        kill_in_a_save(lab)
        assert len([name for name in names(lab.last.parent) if name.endswith(".tmp")]) <= 1


def test_torn_files_never_come_of_a_full_disk(labs):
    """The save fails, the training ends with an error, last.pt is the one before, whole, and no part of the new stays."""
    lab = labs.make("full")
    lab.launch(args=lab.arguments(epochs=50, batch=4))
    process = lab.start()
    process.wait_for_beat(kind="saved", epoch=0)
    size = lab.last.stat().st_size
    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (size * 3 // 4, size * 3 // 4))
    assert process.wait(60) == 1
    beats = read_beats(process.beats_file)
    saved = [beat["epoch"] for beat in beats if beat["kind"] == "saved"][-1]
    assert (inspect(str(lab.last))["state"], inspect(str(lab.last))["epoch"]) == ("resumable", saved)
    assert names(lab.last.parent) == ["best.pt", "last.pt"]
    assert "File too large" in beats[-1]["reason"]
