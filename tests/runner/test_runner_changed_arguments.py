"""Arguments that were changed after a failure are really used at a resume, whatever the version takes by itself."""

from __future__ import annotations

import pytest
from runner_lab import interrupted, kinds, write_checkpoint

from supervisor.runner.checkpoint import inspect

pytestmark = pytest.mark.e2e

STORED = {"workers": 8, "cache": "ram", "freeze": None, "batch": 16}


def resume(lab, changes, **env):
    """Resume a training that stored those arguments; the arguments of its last save, the beats and the log."""
    state = interrupted(1, save_dir=str(lab.save_dir))
    state["train_args"].update(STORED)
    write_checkpoint(lab.last, **state)
    plan = {"resume": str(lab.last), "expected_epoch": 1, **({"changes": changes} if changes else {})}
    lab.launch(args={**lab.arguments(), **changes}, **plan)
    code, beats, log = lab.run(**env)
    assert code == 0, log
    kept = inspect(str(lab.attempt_dir / "final.pt"))["arguments"]
    return {name: kept.get(name) for name in STORED}, beats, log


@pytest.mark.parametrize("old", ["", "1"])
def test_what_the_version_would_drop_is_set(lab, old):
    """The stand-in takes only the batch at a resume: workers, cache and frozen layers are used all the same, and told."""
    changes = {"workers": 2, "cache": False, "freeze": 10, "batch": 8}
    used, beats, _log = resume(lab, changes, FAKE_IGNORES_SAVE_DIR=old)
    assert used == changes
    (note,) = [beat["text"] for beat in beats if beat["kind"] == "note"]
    assert note == "this version takes no workers = 2, cache = False, freeze = 10 at a resume; set all the same"


def test_without_changes_the_checkpoint_decides(lab):
    """Nothing is wrapped: what the job file says of workers is not forced upon a version that does not take it."""
    used, beats, _log = resume(lab, {})
    assert used == STORED
    assert "note" not in kinds(beats)


def test_a_fresh_start_takes_its_arguments_by_itself(lab):
    """There is no checkpoint that could say otherwise."""
    lab.launch(args=lab.arguments(workers=2), changes={"workers": 2})
    code, beats, log = lab.run()
    assert code == 0, log
    assert inspect(str(lab.attempt_dir / "final.pt"))["arguments"]["workers"] == 2
    assert "note" not in kinds(beats)
