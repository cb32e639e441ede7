"""The rungs of the ladder: which may be taken, what they change, and what they never change."""

from __future__ import annotations

import pytest
from bench import Bench, make_job
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core import events, views
from supervisor.core.actions import Launch, Prepare
from supervisor.core.diagnosis import rungs
from supervisor.core.diagnosis.evidence import Change
from supervisor.core.diagnosis.tables import RUNGS
from supervisor.core.job import Restart, Stage
from supervisor.core.model import Attempt, Phase, Policy, Progress, Run
from supervisor.core.queue import Room

ALL = Restart(remedies=RUNGS)
TRAIN = {"model": "/m.yaml", "data": "/d.yaml", "epochs": 10}


def a_run(*, restart=ALL, gpus=1, given=(0,), saved=0, stages=(), **more):
    """A run that failed in its second attempt; `train` adds to its arguments."""
    train = {**TRAIN, **more.pop("train", {})}
    job = make_job("a", train=train, restart=restart, gpus=gpus, stages=stages)
    attempt = Attempt(number=2, token=2, gpus=given)
    known = {"progress": Progress(saved_epoch=saved), "attempts": 2, "attempt": attempt, **more}
    return Run(id="a@1", job=job, phase=Phase.COOLING, created_at=0.0, phase_since=0.0, **known)


def climb(run, rung, most=50):
    """The values that a rung leads through, one after the other, until nothing is left."""
    values = []
    while (change := rungs.next_change(rung, run, "c", 1.0)) is not None and len(values) < most:
        values.append(change.after)
        run = replace(run, changes=(*(one for one in run.changes if one.name != rung), change))
    return values


# ---- arguments
@pytest.mark.parametrize(
    ("rung", "train", "values"),
    [
        ("workers", {}, [4, 2, 1, 0]),
        ("workers", {"workers": 3}, [1, 0]),
        ("workers", {"workers": 0}, []),
        ("workers", {"workers": True}, []),
        ("cache", {"cache": True}, [False]),
        ("cache", {"cache": "ram"}, [False]),
        ("cache", {"cache": "disk"}, []),
        ("cache", {}, []),
        ("batch", {"batch": 12}, [6, 3, 1]),
        ("batch", {}, [8, 4, 2, 1]),
        ("batch", {"batch": -1}, []),
        ("batch", {"batch": 0.7}, []),
        ("batch", {"batch": 1}, []),
        ("imgsz", {}, [480, 352, 320]),
        ("imgsz", {"imgsz": 1280}, [960, 704, 512, 384, 320]),
        ("imgsz", {"imgsz": 320}, []),
        ("imgsz", {"imgsz": 64}, []),
        ("imgsz", {"imgsz": [640, 480]}, []),
        ("freeze", {}, [10]),
        ("freeze", {"freeze": 4}, [10]),
        ("freeze", {"freeze": 10}, []),
        ("freeze", {"freeze": [0, 1]}, []),
    ],
)
def test_where_a_rung_leads(rung, train, values):
    """Each rung goes from what the job asks for (else Ultralytics' default) step by step to its end, and no further."""
    assert climb(a_run(train=train), rung) == values


@pytest.mark.parametrize(("batch", "gpus", "values"), [(48, 3, [24, 12, 6, 3]), (16, 4, [8, 4]), (20, 4, [8, 4])])
def test_each_gpu_gets_the_same_number_of_images(batch, gpus, values):
    """On several GPUs the batch stays a multiple of their number, and at least one image each."""
    assert climb(a_run(train={"batch": batch}, gpus=gpus, given=tuple(range(gpus))), "batch") == values


def test_a_change_says_what_it_replaces_and_why():
    """The record has the name, both values, the cause, the attempt that failed and the time."""
    change = rungs.next_change("workers", a_run(train={"workers": 6}), "host-oom", 7.0)
    assert change == Change(name="workers", before=6, after=3, cause="host-oom", attempt=2, at=7.0)


def test_the_stage_that_is_due_counts():
    """What the last attempt trained with is halved: after epoch 4 that is what the stage from epoch 5 says."""
    stages = (Stage(from_epoch=5, args={"workers": 2}),)
    assert climb(a_run(stages=stages, saved=3), "workers")[0] == 4
    assert climb(a_run(stages=stages, saved=4), "workers")[0] == 1


def test_nothing_is_changed_that_nobody_here_knows():
    """An argument may stand in the job's own `cfg` file: halving a default could make more of it."""
    assert climb(a_run(train={"cfg": "/my.yaml"}), "workers") == []
    assert climb(a_run(train={"cfg": "/my.yaml", "workers": 4}), "workers") == [2, 1, 0]


@given(
    st.sampled_from(["workers", "batch", "imgsz"]),
    st.one_of(st.integers(-5, 5000), st.floats(-2, 2), st.none(), st.booleans(), st.text(max_size=4)),
    st.integers(0, 8),
)
def test_every_rung_ends_and_only_goes_down(rung, value, gpus):
    """Whatever a job says, each step is smaller than the one before, and there are only a few of them."""
    values = climb(a_run(train={rung: value}, gpus=gpus), rung)
    assert len(values) < 14
    assert all(late < early for early, late in zip([value, *values], values, strict=False))
    assert all(isinstance(one, int) and one >= {"workers": 0, "batch": 1, "imgsz": 320}[rung] for one in values)


# ---- leave
@pytest.mark.parametrize("rung", [rung for rung in RUNGS if rung != "gpus"])
def test_only_what_the_job_allows_is_changed(rung):
    """Without the job's leave no rung is taken, whatever could be changed; with it this one is."""
    run = a_run(restart=Restart(remedies=()), saved=5, kept_epoch=5, train={"cache": True})
    assert not rungs.applicable(rung, run, Policy())
    assert rungs.applicable(rung, replace(run, job=replace(run.job, restart=Restart(remedies=(rung,)))), Policy())


def test_by_default_nothing_that_changes_what_is_learned():
    """Batch, image size and frozen layers change the result: a job that says nothing keeps them."""
    run = a_run(restart=Restart(), saved=5, kept_epoch=5, train={"cache": True})
    assert {rung for rung in RUNGS if rungs.applicable(rung, run, Policy(gpu_count=2))} == {
        "workers", "cache", "checkpoint", "gpus",
    }  # fmt: skip


@pytest.mark.parametrize("words", [{"command": ("x",)}, {"command": ("x",), "family": "yolov5"}])
def test_arguments_of_other_programs_are_not_changed(words):
    """What a command means by its words only its author knows; the scripts' options cannot be changed at a resume."""
    run = replace(a_run(saved=5), job=make_job("a", restart=ALL, **words))
    assert not any(rungs.applicable(rung, run, Policy()) for rung in rungs.DEFAULTS)


@pytest.mark.parametrize(
    ("gpus", "given", "there", "applies"),
    [(1, (0,), 2, True), (1, (0,), 1, False), (0, (), 2, False), (1, (), 2, False), (2, (0, 1), 3, True)],
)
def test_other_gpus_need_to_be_there(gpus, given, there, applies):
    """Other GPUs are tried where the machine has more than the job uses, and the failed attempt had some."""
    run = a_run(gpus=gpus, given=given, restart=Restart(remedies=()))
    assert rungs.applicable("gpus", run, Policy(gpu_count=there)) is applies
    assert rungs.next_change("gpus", run, "c", 0.0) is None


@pytest.mark.parametrize(
    ("saved", "more", "applies"),
    [
        (5, {}, True),
        (1, {}, False),
        (0, {}, False),
        (5, {"distrust_from": 5}, False),
        (6, {"distrust_from": 5}, True),
        (0, {"attempt": Attempt(number=2, token=2, from_epoch=3)}, True),
    ],
)
def test_an_older_checkpoint_must_be_possible(saved, more, applies):
    """Going back needs a checkpoint with one before it, and is not ordered twice from the same epoch."""
    assert rungs.applicable("checkpoint", a_run(saved=saved, **more), Policy()) is applies


def test_a_command_goes_back_only_where_its_epochs_are_known():
    """Of a program of its own kind the ledger must know the epochs, or nobody could say what is older."""
    run = replace(a_run(saved=5), job=make_job("a", command=("x",), restart=ALL))
    assert not rungs.applicable("checkpoint", run, Policy())
    assert rungs.applicable("checkpoint", replace(run, kept_epoch=4), Policy())


# ---- in the world
def changed(bench, *changes, **more):
    """Let the run have changes, as if they had been decided."""
    run = replace(bench.run("a"), changes=changes, **more)
    bench.world = bench.world.with_run(run)
    return run


FEWER = Change(name="workers", before=8, after=4, cause="host-oom", attempt=1, at=1.0)


def test_changes_reach_the_launch_and_are_taken_back():
    """The next launch carries them; after `resume --undo-changes` the one after that does not."""
    bench = Bench()
    bench.submit("a")
    changed(bench, FEWER)
    bench.launch("a")
    assert bench.of(Launch)[-1].changes == {"workers": 4}
    bench.tell(events.UndoAsked, "a", by="ann")
    assert bench.run("a").phase is Phase.RUNNING
    bench.save(1)
    bench.die("a", code=1)
    bench.wait(700)
    bench.launch("a", start="resume", from_epoch=1)
    assert bench.of(Launch)[-1].changes == {}


def test_what_is_shown_of_a_change():
    """`before` is what the job file asks for, however many rungs lie between; the cause is told in words."""
    run = a_run(changes=(replace(FEWER, before=4, after=2),), avoided_gpus=("1",))
    (row,) = rungs.changes_view(run)
    assert row == {
        "name": "workers", "before": 8, "after": 2, "cause": "host-oom", "attempt": 1, "at": 1.0,
        "because": "the machine's memory ran out",
    }  # fmt: skip
    assert rungs.words(row) == "workers 2 instead of 8"
    view = views.run_view(run, Bench().world, None, (), now=5.0)
    assert (view["changes"], view["avoid_gpus"]) == ([row], ["1"])


@pytest.mark.parametrize(
    ("after", "before", "text"), [(False, True, "x off instead of on"), (10, None, "x 10 instead of off")]
)
def test_switches_are_told_as_words(after, before, text):
    """Nobody reads False or None as a setting."""
    assert rungs.words({"name": "x", "after": after, "before": before}) == text


# ---- GPUs
def taken(room, run):
    """The indices of the GPUs that a run gets of what is left, and has from then on."""
    gpus = room.choose(run).gpus
    if gpus:
        room.take(run, gpus)
    return [gpu.index for gpu in gpus]


def test_avoided_gpus_are_given_last():
    """A run that failed on GPU 0 gets another one while there is one, in PCI order, and GPU 0 rather than none."""
    room = Room(Bench(gpu_count=3, max_running=9).world, 0.0)
    run = a_run(gpus=1, avoided_gpus=("0",))
    assert [taken(room, run) for _ in range(3)] == [[1], [2], [0]]


@given(st.sets(st.integers(0, 7)), st.lists(st.integers(0, 3), max_size=8))
def test_no_gpu_is_given_twice_whatever_is_avoided(avoided, wanted):
    """Each run gets as many as it wants while there are so many, none of them twice, avoided ones only when it must."""
    room = Room(Bench(gpu_count=8, max_running=99).world, 0.0)
    given_so_far: list[int] = []
    for count in wanted:
        free = [gpu for gpu in range(8) if gpu not in given_so_far]
        given = taken(room, a_run(gpus=count, avoided_gpus=tuple(map(str, avoided))))
        assert len(given) == (count if count <= len(free) else 0)
        assert given == sorted(set(given))
        spared = [gpu for gpu in free if gpu not in avoided]
        assert set(given) & avoided == set() or set(spared) <= set(given)
        given_so_far += given
    assert len(given_so_far) == len(set(given_so_far))


def test_a_run_that_avoids_a_gpu_prepares_with_another():
    """The wish reaches the attempt that is opened."""
    bench = Bench(gpu_count=2)
    bench.submit("a", gpus=1, start_after_at=bench.now + 10)
    changed(bench, avoided_gpus=("0",))
    bench.wait(11)
    assert bench.of(Prepare, "a")
    assert bench.run("a").attempt.gpus == (1,)
