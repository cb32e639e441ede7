"""Orders for all runs at once, and the limits that a job sets for itself: drain, time_limit."""

from __future__ import annotations

import pytest
from bench import Bench, go_on
from gpu_bench import GpuBench

from supervisor.core import actions, events
from supervisor.core.model import Phase

LIVE = [phase for phase in Phase if not phase.terminal]


# ---- drain
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("phase", LIVE)
def test_a_drain_brings_every_run_to_rest_and_back(phase, at_once):
    """`drain` leaves nothing running; what was not held goes on by itself when it is over."""
    bench = Bench()
    bench.bring_to(phase)
    bench.tell(events.DrainAsked, by="ann", at_once=at_once)
    rest = go_on(bench)
    assert rest is (Phase.HELD if phase in {Phase.HELD, Phase.STOPPING} else Phase.QUEUED)
    assert not bench.run().busy
    if rest is Phase.QUEUED and phase is not Phase.QUEUED:
        assert bench.run().waiting_for == "drain"
        bench.tell(events.DrainAsked, by="ann", off=True)
        assert bench.phase() is Phase.PREPARING


def test_a_drain_waits_for_the_saved_epoch():
    """Without --now each training ends at its next saved epoch; with it, it is asked at once."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.tell(events.DrainAsked, by="ann")
    assert bench.of(actions.Terminate) == []
    bench.tell(events.DrainAsked, by="ann", at_once=True)
    assert [one.how for one in bench.of(actions.Terminate)] == ["term"]


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.STARTING, Phase.RUNNING])
def test_a_drain_taken_back_leaves_the_training_alone(phase):
    """`drain --off` before the epoch was saved: the training goes on as if nothing had been said."""
    bench = Bench()
    bench.bring_to(phase)
    bench.tell(events.DrainAsked, by="ann")
    bench.tell(events.DrainAsked, by="ann", off=True)
    assert bench.run().stop is None
    assert go_on(bench, finished=True) is Phase.SUCCEEDED
    assert bench.of(actions.Terminate) == []


@pytest.mark.parametrize("off", [False, True])
def test_a_drain_does_not_undo_a_persons_stop(off):
    """A run that a person stopped or cancelled ends as that person said, drain or not."""
    bench = Bench()
    bench.bring_to(Phase.STARTING, "a")
    bench.bring_to(Phase.STARTING, "b")
    bench.tell(events.StopAsked, "a", by="bob")
    bench.tell(events.CancelAsked, "b", by="bob")
    bench.tell(events.DrainAsked, by="ann")
    if off:
        bench.tell(events.DrainAsked, by="ann", off=True)
    assert go_on(bench, "a") is Phase.HELD
    assert go_on(bench, "b") is Phase.CANCELLED


# ---- time limit
def test_the_time_limit_stops_at_the_next_saved_epoch():
    """The limit is reached: the epoch may be finished, then the run is HELD and a person is paged."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING, time_limit_s=5000.0)
    bench.wait(4999.0)
    assert bench.phase() is Phase.RUNNING
    bench.wait(1.0)
    assert bench.phase() is Phase.STOPPING
    assert bench.of(actions.Terminate) == []
    bench.save(2)
    assert [one.how for one in bench.of(actions.Terminate)] == ["term"]
    assert go_on(bench) is Phase.HELD
    assert bench.of(actions.Announce, "a")[-1].severity == "page"
    assert "time limit of 5000 s" in bench.run().reason


def test_over_the_time_limit_there_is_little_patience():
    """An epoch that takes longer than 5 % of the limit is cut off: first asked, then killed."""
    bench = Bench(stop_grace_s=20.0)
    bench.bring_to(Phase.RUNNING, time_limit_s=5000.0)
    bench.wait(5000.0 + 249.0)
    assert bench.of(actions.Terminate) == []
    bench.wait(1.0)
    assert [one.how for one in bench.of(actions.Terminate)] == ["term"]
    bench.wait(20.0)
    assert [one.how for one in bench.of(actions.Terminate)] == ["term", "kill"]


def test_a_persons_stop_does_not_lengthen_the_time_limit():
    """`stop` while the limit's own stop is under way changes nothing of when it ends."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING, time_limit_s=5000.0)
    bench.wait(5000.0)
    bench.tell(events.StopAsked, "a", by="ann")
    bench.wait(250.0)
    assert [one.how for one in bench.of(actions.Terminate)] == ["term"]


def test_the_time_limit_counts_all_attempts():
    """What earlier attempts used is used; the time between them is not."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING, time_limit_s=1000.0)
    bench.wait(600.0)
    bench.die(code=1)
    bench.wait(0.0)
    bench.launch(start="resume", from_epoch=1)
    bench.wait(399.0)
    assert bench.phase() is Phase.RUNNING
    bench.wait(1.0)
    assert bench.phase() is Phase.STOPPING


def test_a_stop_past_the_time_limit_is_not_reported_as_unseen():
    """Waiting for an epoch after a person's stop, seen alive all the time: nobody is told that it cannot be observed."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING, time_limit_s=1000.0)
    bench.tell(events.StopAsked, "a", by="ann")
    for _ in range(10):
        bench.wait(300.0)
        bench.tell(events.Observed, alive=(("a@1", 1),))
    assert "unseen" not in bench.said("a")


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.STOPPING])
def test_healthy_trainings_are_ended_by_orders_only(phase):
    """Days without an order, a limit or an end: no signal is ever sent."""
    bench = Bench()
    bench.bring_to(phase)
    bench.wait(5 * 86_400.0)
    assert bench.of(actions.Terminate) == []


def test_the_end_of_a_drain_is_not_the_end_of_what_a_dead_gpu_leads_to():
    """A GPU failed while its training was starting; then a drain came and went: the training is ended all the same."""
    bench = GpuBench()
    bench.bring_to(Phase.STARTING, gpus=1)
    bench.lose()
    assert bench.run().stop.of_gpu
    bench.tell(events.DrainAsked, by="ann")
    bench.tell(events.DrainAsked, by="ann", off=True)
    assert bench.run().stop.of_gpu
