"""Commands that train by themselves: a finished training is the end of the run only if nothing else was to come."""

from __future__ import annotations

import json

import pytest

from supervisor import layout
from supervisor.core.actions import Prepare
from supervisor.core.model import Job
from supervisor.effects.prepare import Preparer
from tests.torch_files import checkpoint

JOB = Job(name="folds", project="p", revision="r1", command=("/usr/bin/python3", "folds.py"))


def prepare(tmp_path, *beats):
    """What the second attempt's preparation answers, after a first one that left these beats."""
    run_dir = layout.run_directory(tmp_path / "runs", "p", "folds")
    first = run_dir.attempt(1)
    first.root.mkdir(parents=True)
    lines = [json.dumps({"v": 1, "at": 1.0, **beat}) + "\n" for beat in beats]
    first.beats.write_text("".join(lines))
    preparer = Preparer(tmp_path / "runs", 0, lambda _revision: b"# job\n", lambda: 1000.0)
    action = Prepare(key="k", run="folds@1", attempt=2, token=7, job=JOB, scratch_allowed=False)
    (event,) = preparer(action)
    return event


@pytest.fixture
def home(tmp_path):
    """Where the first training of the script saved, finished and stripped."""
    weights = tmp_path / "user" / "fold1" / "weights"
    weights.mkdir(parents=True)
    (weights / "last.pt").write_bytes(checkpoint(stripped=True, epochs=8))
    return weights.parent


def test_a_training_killed_in_its_last_validation_is_finished(tmp_path, home):
    """One training, stripped, and no word of its end: nothing is left to do."""
    event = prepare(tmp_path, {"kind": "fresh", "save_dir": str(home), "epochs": 8})
    assert event.start == "finished"


def test_a_command_that_trains_several_times_is_not_over_with_the_first(tmp_path, home):
    """Killed in the second of its trainings: a person is asked, it is never called a success."""
    second = str(home.with_name("fold2"))
    event = prepare(
        tmp_path, {"kind": "fresh", "save_dir": str(home)}, {"kind": "fresh", "save_dir": second, "epochs": 8}
    )
    assert event.start == "refused"
    assert "several trainings (2 folders)" in event.reason


def test_a_command_that_works_on_after_its_training_is_not_over_with_it(tmp_path, home):
    """Killed while it exported: the training is finished, the command is not."""
    end = {"kind": "end", "result": "finished", "code": 0}
    event = prepare(tmp_path, {"kind": "fresh", "save_dir": str(home), "epochs": 8}, end)
    assert event.start == "refused"
    assert "did not reach its own end" in event.reason
