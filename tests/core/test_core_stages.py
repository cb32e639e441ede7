"""Planned segments, as decided: when a stage begins, and what counts after it."""

from __future__ import annotations

import pytest
from bench import Bench

from supervisor.core import stages
from supervisor.core.job import Stage
from supervisor.core.model import Attempt, Job, Phase, Progress, Run, StopOrder

JOB = Job(
    name="truck",
    revision="r1",
    train={"epochs": 100, "imgsz": 640},
    stages=(Stage(from_epoch=50, args={"imgsz": 512, "freeze": 10}), Stage(from_epoch=80, args={"imgsz": 320})),
)


def running(saved, begun=0, **changes):
    """A run whose attempt began after `begun` epochs and has saved `saved`."""
    changes = {"job": JOB, "phase": Phase.RUNNING, **changes}
    return Run(
        id="truck@1", created_at=0.0, phase_since=0.0, attempt=Attempt(number=1, token=1, from_epoch=begun),
        progress=Progress(epoch=saved, saved_epoch=saved, epochs=100), **changes,
    )  # fmt: skip


@pytest.mark.parametrize(("saved", "begun", "stage"), [
    (48, 0, None), (49, 0, 50), (55, 0, 50), (49, 49, None), (60, 49, None), (79, 49, 80), (79, 0, 80), (100, 0, None),
    (0, 0, None),
])  # fmt: skip
def test_a_stage_is_due_once(saved, begun, stage):
    """When the epoch before it is saved, for an attempt that began before it; of several the latest; never at the end."""
    found = stages.due(running(saved, begun))
    assert (found.from_epoch if found else None) == stage


def test_a_stage_waits_for_orders_and_phases():
    """Nothing is stopped twice, and only what runs is stopped."""
    order = StopOrder(how="save", then=Phase.HELD, by="me", reason="x")
    assert stages.due(running(49, stop=order)) is None
    for phase in set(Phase) - {Phase.RUNNING}:
        assert stages.due(running(49, phase=phase)) is None


def test_an_edit_that_no_attempt_took_counts():
    """A stage that was written into the file in mid-run begins in its time: the resume takes the edit."""
    edited = running(9, job=Job(name="truck", revision="r0", train={}), next_job=JOB)
    assert stages.due(edited) is None
    later = running(49, job=Job(name="truck", revision="r0", train={}), next_job=JOB)
    assert stages.due(later) == JOB.stages[0]


def test_a_trainer_that_leaves_for_a_stage_has_not_failed():
    """Exit code 75 after the epoch before a stage, with no order of ours: at once to the next attempt, not counted."""
    bench = Bench()
    bench.submit(
        "a", train={"model": "m", "data": "d", "epochs": 10}, stages=(Stage(from_epoch=4, args={"imgsz": 64}),)
    )
    bench.launch("a")
    bench.save(1)
    bench.save(2)
    bench.die("a", code=75, saved_epoch=3)
    run = bench.run("a")
    assert run.phase is Phase.PREPARING
    assert (run.failures, run.interruptions) == (0, 0)
    assert "stage from epoch 4: imgsz = 64" in run.reason


def test_the_arguments_follow_from_the_epoch_alone():
    """A crash right after the beginning of a stage keeps it, and a rewind before it undoes it."""
    assert JOB.train_after(48) == {"epochs": 100, "imgsz": 640}
    assert JOB.train_after(49) == {"epochs": 100, "imgsz": 512, "freeze": 10}
    assert JOB.train_after(79) == {"epochs": 100, "imgsz": 320, "freeze": 10}
    assert [stages.current(JOB, epoch) for epoch in (0, 48, 49, 79)] == [None, None, *JOB.stages]


def test_the_words_say_epoch_and_changes():
    """The reason of the stop is what a person reads in the log, in show and in why."""
    order = stages.order(JOB.stages[0])
    assert order.reason == "stage from epoch 50: imgsz = 512, freeze = 10"
    assert (order.how, order.then) == ("term", Phase.QUEUED)


def test_the_view_tells_the_plan():
    """Each stage is planned, now or done."""
    assert [one["state"] for one in stages.view(running(10))] == ["planned", "planned"]
    assert [one["state"] for one in stages.view(running(60))] == ["now", "planned"]
    assert [one["state"] for one in stages.view(running(90))] == ["done", "now"]
    assert [one["state"] for one in stages.view(running(100, phase=Phase.SUCCEEDED))] == ["done", "done"]
    assert stages.view(running(60))[0]["args"] == {"imgsz": 512, "freeze": 10}
