"""What people are told of GPUs in a moment of trouble: who has them, what the driver says, what is over already."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.core import views as run_views
from supervisor.core import words
from supervisor.core.gpus import notices, views
from supervisor.core.gpus.model import Drain, Driver, GpuWish, Noted, Passport, Quarantine
from supervisor.core.gpus.passport import short
from supervisor.core.gpus.readings import Failed, Reading
from supervisor.core.gpus.standing import standing
from supervisor.core.model import Phase
from tests.core.test_core_gpu_views import NOW, found, gpu, run, world


@pytest.mark.parametrize("kind", ["lost", "unresponsive", "unknown-error"])
def test_a_gpu_that_answers_again_is_not_said_to_need_help(kind):
    """It is held back for a while; what a quarantine needs it goes on to need."""
    one = gpu(findings=found(kind))
    held = msgspec.structs.replace(one, quarantine=Quarantine(reason="Xid 79", since=NOW - 5, needs="reboot"))
    answers = Reading(gpu=one.uuid, at=NOW - 1, values={}, error=None)
    known = world(one, held)
    stands = standing(one, known, NOW, answers)
    assert (stands.why, stands.todo) == (
        "words of the judge; but it answers again, and is given out when it has been well for a while",
        "",
    )
    silent = Failed(code=15, name="GPU_IS_LOST")
    for old in (None, msgspec.structs.replace(answers, at=NOW - 6), msgspec.structs.replace(answers, error=silent)):
        assert standing(one, known, NOW, old) == standing(one, known, NOW)
    if kind != "unknown-error":
        assert standing(held, known, NOW, answers).why.endswith("but it answers again")
        assert standing(held, known, NOW, answers).todo == notices.todo(known, held)


def test_what_the_probe_says_of_the_driver_is_said_once():
    """Its words and its advice stand for ours, in the view, in the summary and in the record."""
    told = "the driver was upgraded, but the old one is still loaded (570 and 580); restart the machine"
    one = gpu()
    known = msgspec.structs.replace(world(one), driver=Driver(state="version-mismatch", text=told))
    seen = views.gpus_view(known, {}, NOW)
    words_told, _, todo = told.partition("; ")
    assert (seen["driver"]["words"], seen["driver"]["text"], seen["driver"]["todo"]) == (words_told, "", todo)
    assert seen["summary"] == f"0 of 1 usable: {words_told}"
    assert words.sentence("GpusSeen", {"state": "version-mismatch", "text": told}) == told


def test_gpus_that_nobody_could_ever_list_are_not_known():
    """That is no server without GPUs."""
    assert views.summary(world(state="version-mismatch"), NOW).startswith("not known (the driver was upgraded")
    assert [views.summary(world(state=state), NOW) for state in ("none", "starting", "ok")] == ["", "", ""]


def test_attempts_that_failed_on_a_gpu_are_not_forgotten():
    """Its passport knows them when the run is long on another GPU, and the Xids are cleared."""
    note = Noted(at=NOW, what="failed attempt", run="truck@1", attempt=1)
    one, other = gpu(passport=Passport(notes=(note,))), gpu(index=5)
    known = world(one, other, runs=(run(on=(other,)),))
    assert [had["attempt"] for had in views.attempts_view(known, one.uuid)] == [1]


def test_why_a_gpu_is_drained_is_told():
    """To people and to programs."""
    one = gpu(drain=Drain(by="bob", since=NOW - 60, reason="a fan is changed"))
    row = views.row(one, world(one), None, NOW)
    assert row["why"] == "by bob, 1 min ago: a fan is changed"
    assert row["drain"]["reason"] == "a fan is changed"


@pytest.mark.parametrize(
    ("named", "wants", "taken", "text"),
    [
        ((), 1, 3, "a free GPU (all 3 GPUs are in use)"),
        ((), 2, 2, "a free GPU (it wants 2, and 1 of 3 are free)"),
        ((), 1, 2, "free GPUs"),
        (("1",), 1, 3, "GPU 1: truck trains there"),
        (("0", "1"), 2, 3, "a free GPU (GPU 0 is in use: truck trains there; GPU 1 is in use: truck trains there)"),
        (("2",), 1, 2, "free GPUs"),
    ],
)
def test_a_run_that_waits_says_who_has_what_it_waits_for(named, wants, taken, text):
    """In the queue, in the list and for one run alike; what the core noted stays as short as it is."""
    gpus = [gpu(index) for index in range(3)]
    waiting = run("bus", phase=Phase.QUEUED, waiting_for="GPU")
    job = msgspec.structs.replace(waiting.job, gpus=wants, gpu=GpuWish(named=named))
    waiting = msgspec.structs.replace(waiting, job=job)
    known = world(*gpus, runs=(run(on=gpus[:taken]), waiting))
    assert views.queue_view(known)[0]["text"] == text
    told = run_views.run_view(waiting, known, None, (), now=NOW)
    assert told["explanation"] == f"waits for {text}"
    [listed] = [one for one in run_views.runs_view(known, {}, NOW)["runs"] if one["name"] == "bus"]
    assert listed["waiting_for"] == told["waiting_for"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (61.0, "61"), (1.23456, "1.23"), (0.00123456, "0.00123"), (12345.678, "12346"), (-2.0, "-2")],
)
def test_numbers_in_messages_are_short(value, text):
    """Three digits tell a person enough, and no number is written with an exponent for its size."""
    assert short(value) == text
