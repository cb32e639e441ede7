"""An attempt is launched at most once, whatever is known about it when, and however often it is ordered."""

from __future__ import annotations

import pytest
from bench import Bench

from supervisor.core import actions, events
from supervisor.core.model import Phase


def test_a_launch_that_is_not_confirmed_is_ordered_again_and_then_a_person_is_asked():
    """Three orders for the same attempt, each under its own key, then HELD: no second attempt is ever opened."""
    bench = Bench()
    bench.bring_to(Phase.STARTING)
    bench.wait(600.0)
    launches = bench.of(actions.Launch)
    assert [one.key for one in launches] == [f"a@1/1/launch-{number}" for number in (1, 2, 3)]
    assert bench.phase() is Phase.HELD
    assert bench.run().busy


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_failed_launch_order_opens_no_new_attempt_while_another_may_start(order):
    """While another order for the same attempt is under way it may still start: two trainings would live."""
    bench = Bench()
    bench.bring_to(Phase.STARTING)
    bench.wait(60.0)
    for _ in range(2):
        bench.tell(events.LaunchFailed, "a", reason="x", answers=f"a@1/1/launch-{order[0]}")
        assert bench.phase() is Phase.STARTING
    bench.tell(events.LaunchFailed, "a", reason="x", answers=f"a@1/1/launch-{order[1]}")
    assert bench.phase() is Phase.COOLING
    assert not bench.run().busy


@pytest.mark.parametrize("resumed", [False, True])
def test_a_launch_that_failed_after_all_frees_the_held_run(resumed):
    """Held because nobody knew whether it started; then it is certain that it did not: nothing waits for it."""
    bench = Bench()
    bench.bring_to(Phase.STARTING)
    bench.wait(600.0)
    if resumed:
        bench.tell(events.ResumeAsked, "a", by="ann")
        assert bench.phase() is Phase.RUNNING
    for count in (1, 2, 3):
        assert bench.run().busy
        bench.tell(events.LaunchFailed, "a", reason="x", answers=f"a@1/1/launch-{count}")
    assert not bench.run().busy
    if not resumed:
        assert bench.phase() is Phase.HELD
        bench.tell(events.ResumeAsked, "a", by="ann")
    bench.wait(700.0)
    assert bench.phase() is Phase.PREPARING
    assert bench.run().attempts == 2


def test_a_start_that_is_learnt_late_is_noted():
    """Held because nobody knew whether it started; it did: `resume` finds it running, with its pid and its time limit."""
    bench = Bench()
    bench.bring_to(Phase.STARTING, time_limit_s=1000.0)
    bench.wait(600.0)
    bench.tell(events.Launched, "a", **bench.launched_facts())
    assert bench.phase() is Phase.HELD
    bench.tell(events.ResumeAsked, "a", by="ann")
    assert bench.phase() is Phase.RUNNING
    assert bench.run().attempt.pid
    assert bench.run().attempt.started_at


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.STOPPING])
def test_a_failed_order_does_not_undo_a_known_start(phase):
    """Once the process is known, a late failure of another order for the same attempt says nothing."""
    bench = Bench()
    bench.bring_to(phase)
    before = bench.world
    bench.tell(events.LaunchFailed, "a", reason="x")
    assert bench.world == before
