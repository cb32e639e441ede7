"""Rewind, extend and branch as decisions: new runs on old directories, and beginnings in those of others."""

from __future__ import annotations

import pytest
from bench import Bench, edited, go_on, make_job

from supervisor.core import actions, ancestry, events
from supervisor.core.job import StartFrom
from supervisor.core.model import Goal, Phase, World
from supervisor.core.step import step
from supervisor.core.views import run_view

EVERY_PHASE = tuple(Phase)
ENDED = (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


@pytest.fixture
def bench():
    """An empty world."""
    return Bench()


# ---- rewind
@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_rewind_opens_a_new_run_of_an_ended_or_held_one(bench, phase):
    """Whatever lives otherwise stays as it is: it has to be stopped first."""
    before = bench.bring_to(phase)
    bench.tell(events.RewindAsked, "a", by="ann", epoch=1)
    after = bench.run("a")
    if phase in {*ENDED, Phase.HELD}:
        assert (after.id, after.goal, after.predecessor) == ("a@2", Goal(kind="rewind", epoch=1), "a@1")
        assert after.progress.saved_epoch == 1
        assert "rewound to epoch 1 by ann" in after.reason
    else:
        assert after == before


def test_a_held_run_is_closed_by_its_rewind(bench):
    """Two live runs never share a directory."""
    bench.bring_to(Phase.HELD)
    bench.tell(events.RewindAsked, "a", by="ann", epoch=1)
    assert bench.world.ended["a@1"].phase is Phase.CANCELLED
    assert [run.id for run in bench.world.live.values()] == ["a@2"]


def test_the_goal_reaches_the_preparation_at_every_attempt(bench):
    """Who prepares must know it each time: it may have crashed half way."""
    bench.bring_to(Phase.SUCCEEDED)
    bench.tell(events.RewindAsked, "a", by="ann", epoch=1)
    bench.launch(start="resume", from_epoch=1)
    bench.die(code=1)
    bench.wait(3600.0)
    prepared = [one.goal for one in bench.of(actions.Prepare, "a")]
    assert prepared == [Goal(kind="rewind", epoch=1)] * 2


def test_a_rewound_run_counts_its_progress_from_the_epoch(bench):
    """An epoch that was trained before is trained anew: it counts as progress, and a stop waits for it."""
    bench.submit("a")
    bench.launch()
    for epoch in range(1, 8):
        bench.save(epoch)
    bench.tell(events.StopAsked, "a", by="ann")
    bench.save(8)
    bench.die(code=75)
    bench.tell(events.RewindAsked, "a", by="ann", epoch=3)
    bench.launch(start="resume", from_epoch=3)
    bench.save(4)
    assert bench.run("a").progress.saved_epoch == 4
    bench.die(code=1)
    assert bench.run("a").failures == 0


def test_only_the_newest_run_is_rewound(bench):
    """An older id names a run whose directory another one has by now."""
    bench.bring_to(Phase.SUCCEEDED)
    bench.tell(events.RetryAsked, "a", by="ann")
    event = events.RewindAsked(at=bench.now, run="a@1", by="ann", epoch=1)
    after, ordered = step(bench.world, event, bench.now)
    assert (after.latest["a"], ordered) == ("a@2", ())


# ---- extend
@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_extend_opens_a_new_run_of_a_finished_one(bench, phase):
    """Only a finished run: any other goes on by itself, or by a retry."""
    before = bench.bring_to(phase)
    bench.tell(events.ExtendAsked, "a", by="ann", epochs=15)
    after = bench.run("a")
    if phase is not Phase.SUCCEEDED:
        assert after == before
        return
    assert (after.id, after.goal) == ("a@2", Goal(kind="extend", epochs=15))
    assert after.job.train["epochs"] == 15
    assert after.progress.epochs == 15


def test_the_override_reaches_the_launch(bench):
    """The number of epochs that is written into the checkpoint is the preparation's answer."""
    bench.bring_to(Phase.SUCCEEDED)
    bench.tell(events.ExtendAsked, "a", by="ann", epochs=15)
    bench.tell(events.Prepared, "a", start="resume", checkpoint="/last.pt", from_epoch=10, epochs_override=15)
    [launch] = bench.of(actions.Launch, "a")
    assert (launch.epochs_override, launch.from_epoch) == (15, 10)


# ---- retry after these
def test_a_retry_of_an_extended_run_still_extends(bench):
    """Given up in the middle: the older number of epochs is no end for its successor either."""
    bench.bring_to(Phase.SUCCEEDED)
    bench.tell(events.ExtendAsked, "a", by="ann", epochs=15)
    bench.launch(start="resume", from_epoch=10)
    bench.tell(events.CancelAsked, "a", by="ann", at_once=True)
    bench.die(signal=9)
    bench.tell(events.RetryAsked, "a", by="ann")
    assert bench.run("a").goal == Goal(kind="extend", epochs=15)
    assert go_on(bench) in {Phase.QUEUED, Phase.RUNNING, Phase.SUCCEEDED, Phase.HELD}


def test_a_retry_of_a_finished_extension_has_no_goal(bench):
    """It is finished: nothing is trained again."""
    bench.bring_to(Phase.SUCCEEDED)
    bench.tell(events.ExtendAsked, "a", by="ann", epochs=15)
    bench.launch(start="resume", from_epoch=10)
    bench.finish()
    bench.tell(events.RetryAsked, "a", by="ann")
    assert bench.run("a").goal is None


def test_a_retry_rewinds_only_what_was_not_rewound_yet(bench):
    """Cancelled before it was prepared, the rewind is still to do; after its first start it is over."""
    bench.bring_to(Phase.SUCCEEDED)
    bench.tell(events.RewindAsked, "a", by="ann", epoch=1)
    bench.tell(events.CancelAsked, "a", by="ann")
    assert bench.phase() is Phase.CANCELLED
    bench.tell(events.RetryAsked, "a", by="ann")
    assert bench.run("a").goal == Goal(kind="rewind", epoch=1)
    bench.launch(start="resume", from_epoch=1)
    bench.tell(events.CancelAsked, "a", by="ann", at_once=True)
    bench.die(signal=9)
    bench.tell(events.RetryAsked, "a", by="ann")
    assert bench.run("a").goal is None


# ---- branch
def branch(bench, name="b", *, run="a", epoch=3, weights=False, **job):
    """Drop a job that begins at another run; the refusal, or nothing."""
    start = StartFrom(run=run, epoch=epoch, weights=weights)
    bench.submit(name, start_from=start, **job)
    notes = [note for path, note in bench.world.files.items() if path.endswith(f"{name}.toml")]
    return notes[0].refused if notes else ""


def test_a_branch_is_a_run_that_knows_where_its_beginning_lies(bench):
    """Project and name of the other run reach the preparation."""
    bench.submit("a", project="p")
    assert branch(bench) == ""
    [prepare] = bench.of(actions.Prepare, "b")
    assert prepare.origin == "p/a"
    assert prepare.job.start_from == StartFrom(run="a", epoch=3)


TRAIN = make_job().train


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr0": 0.1}, "train.lr0"),
        ({"optimizer": "AdamW"}, "a resume continues the optimizer of the checkpoint"),
        ({"epochs": 20}, "epochs cannot be changed by a resume"),
        ({"model": "/other.yaml"}, "a resume continues the model of the checkpoint"),
    ],
)
def test_what_a_resume_would_drop_in_silence_is_refused(bench, change, words):
    """With the way that is left: from the weights everything counts."""
    bench.submit("a")
    problem = branch(bench, train={**TRAIN, **change})
    assert words in problem
    assert "--from-weights" in problem
    assert "not changed" not in problem
    assert bench.world.named("b") is None
    assert branch(bench, "c", weights=True, train={**TRAIN, **change}) == ""


def test_what_a_resume_takes_over_may_differ(bench):
    """The batch size, workers and others are honoured."""
    bench.submit("a")
    assert branch(bench, train={**TRAIN, "batch": 4, "workers": 0, "imgsz": 320}) == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"run": "nobody"}, "there is no such run"),
        ({"name": "a", "revision": "a-2"}, "a run cannot begin from itself"),
        ({"owner": 7}, "belongs to another user"),
        ({"epoch": 10}, "nothing is left to train there"),
        ({"trainer_version": "8.3.74"}, "resumes into the folder of the other run"),
        ({"run": "script"}, "only a run with [train]"),
    ],
)
def test_a_branch_that_cannot_begin_is_refused(bench, fields, words):
    """Refused beside the file, before anything is prepared."""
    bench.submit("script", command=("x",))
    bench.bring_to(Phase.SUCCEEDED)
    assert words in branch(bench, **{"name": "b", **fields})


def test_an_older_trainer_can_still_start_from_the_weights(bench):
    """Only a resume needs a version that saves where it is told."""
    bench.submit("a")
    assert branch(bench, weights=True, trainer_version="8.3.74") == ""


def test_the_edit_of_a_started_branch_needs_no_other_run(bench):
    """What it began from may be gone by then: only a new beginning is checked."""
    bench.submit("a")
    branch(bench)
    bench.launch("b")
    bench.save(1, "b")
    run = bench.run("b")
    job = edited(run.job, priority=5)
    path = job.file
    assert ancestry.branch_problem(World(), job)
    bench.world = World(**{**_fields(bench.world), "live": {"b@1": run}, "latest": {"b": "b@1"}})
    bench.tell(events.JobFileSeen, path=path, data=b"y", revision=job.revision, owner=job.owner)
    bench.tell(events.JobAccepted, path=path, job=job)
    assert bench.world.files[path].refused == ""
    assert bench.run("b").priority == 5


def _fields(world):
    return {name: getattr(world, name) for name in world.__struct_fields__}


# ---- what is shown
def shown(bench, name):
    """The lineage as the API gives it."""
    return run_view(bench.run(name), bench.world, None, (), now=bench.now)["lineage"]


def test_the_lineage_of_a_run_is_kept_and_shown(bench):
    """Begun, rewound, extended, retried; and who branched from it."""
    bench.bring_to(Phase.SUCCEEDED)
    branch(bench, epoch=None, weights=True, train={**TRAIN, "lr0": 0.5})
    bench.tell(events.RewindAsked, "a", by="ann", epoch=1)
    bench.launch(start="resume", from_epoch=1)
    bench.finish()
    bench.tell(events.ExtendAsked, "a", by="ann", epochs=15)
    found = shown(bench, "a")
    assert [one["how"] for one in found["line"]] == [
        "from the beginning",
        "rewound to epoch 1",
        "extended to 15 epochs",
    ]
    assert found["branches"] == [{"run": "b@1", "epoch": None, "weights": True}]
    assert found["origin"] is None
    origin = shown(bench, "b")["origin"]
    assert origin["run"] == "a"
    assert "lr0: not given → 0.5" in origin["changed"]
    assert shown(bench, "b")["line"] == [{"run": "b@1", "how": "with the weights of a"}]


def test_a_new_job_under_an_old_name_has_no_ancestors(bench):
    """What the old run left was set aside: it is another training."""
    bench.bring_to(Phase.SUCCEEDED)
    bench.submit("a", revision="a-2", train={**TRAIN, "lr0": 0.5})
    assert [one["run"] for one in shown(bench, "a")["line"]] == ["a@2"]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({}, "after epoch 100 the learning rate jumps from 2.0% of lr0 to 34.0%"),
        ({"lrf": 0.1}, "from 10.9% of lr0 to 40.0%"),
        ({"cos_lr": True}, "from 1.0% of lr0 to 25.8%"),
    ],
)
def test_more_epochs_change_the_learning_rate(train, words):
    """Ultralytics' schedules, linear and cosine: 100 epochs stretched to 150. The last one was trained at 99 of 100."""
    assert words in ancestry.schedule_words(train, 100, 100, 150)
