"""A person's training that is watched: whatever is ordered, or falls due, never becomes an order to end it."""

from __future__ import annotations

import pytest
from bench import SECOND_BOOT, Bench

from supervisor.core import events
from supervisor.core.actions import Announce, Launch, Prepare, Terminate
from supervisor.core.job import Stage, Watch
from supervisor.core.model import Phase

WATCH = Watch(pid=4242, start_time=99, boot_id="boot-1")


def watching(**job: object) -> Bench:
    """A run whose first attempt watches a person's training."""
    bench = Bench()
    bench.submit(train={"epochs": 10}, adopt="/home/a/runs/train", watch=WATCH, **job)
    bench.launch(start="watch")
    assert bench.run("a").phase is Phase.RUNNING
    return bench


def ended(bench: Bench, *, detached: bool, finished: bool = False) -> None:
    """The watcher has left, or the training has ended; and what it left was read."""
    bench.tell(events.AttemptExited, "a", ended_at=bench.now)
    bench.tell(events.AttemptCleared, "a")
    facts = {"result": "detached" if detached else "", "reason": "the training goes on" if detached else "unseen"}
    bench.tell(events.Examined, "a", finished=finished, saved_epoch=4, **facts)


def test_a_watched_start_is_launched_as_such_and_told() -> None:
    """The launch carries the word, and the message says that nothing was started."""
    bench = watching()
    [launch] = [action for action in bench.ordered if isinstance(action, Launch)]
    assert (launch.start, launch.job.watch) == ("watch", WATCH)
    titles = [action.title for action in bench.ordered if isinstance(action, Announce)]
    assert titles[-1] == "a is watched"


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("verb", [events.StopAsked, events.CancelAsked])
def test_an_order_ends_only_the_watching(verb: type[events.RunEvent], at_once: bool) -> None:
    """At once, with no grace and no wait for a save; the reason says that the training goes on."""
    bench = watching()
    ordered = bench.tell(verb, "a", by="mei", at_once=at_once)
    assert [type(action) for action in ordered] == [Terminate]
    assert "your training goes on; it is only not watched any more" in bench.run("a").reason
    ended(bench, detached=True)
    wanted = Phase.HELD if verb is events.StopAsked else Phase.CANCELLED
    assert bench.run("a").phase is wanted


def test_a_watcher_that_does_not_leave_is_told_again_and_nobody_is_paged() -> None:
    """Ten deadlines later the same order is repeated; no message calls a living training unkillable."""
    bench = watching()
    bench.tell(events.StopAsked, "a", by="mei", at_once=True)
    later = bench.wait(300.0)
    assert {type(action) for action in later} == {Terminate}
    assert bench.run("a").phase is Phase.STOPPING


@pytest.mark.parametrize("at_once", [False, True])
def test_a_drain_leaves_it_and_watches_it_again(at_once: bool) -> None:
    """Back in the queue while the drain lasts; then it is prepared anew, which finds it alive or dead."""
    bench = watching()
    bench.tell(events.DrainAsked, by="mei", at_once=at_once)
    ended(bench, detached=True)
    assert bench.run("a").phase is Phase.QUEUED
    ordered = bench.tell(events.DrainAsked, by="mei", off=True)
    assert [type(action) for action in ordered] == [Prepare]


def test_a_time_limit_holds_the_run_only() -> None:
    """The limit of the job ends the watching, and the run is held."""
    bench = watching(time_limit_s=100.0)
    bench.wait(101.0)
    assert bench.run("a").phase is Phase.STOPPING
    ended(bench, detached=True)
    assert bench.run("a").phase is Phase.HELD


def test_a_planned_stage_does_not_end_it() -> None:
    """A stage begins at the next start of our own; the person's training is not stopped for it."""
    bench = watching(stages=(Stage(from_epoch=3, args={"batch": 4}),))
    assert not [action for action in bench.save(2) if isinstance(action, Terminate)]
    assert bench.run("a").phase is Phase.RUNNING


def test_a_wrong_start_that_is_told_by_mistake_does_not_end_it() -> None:
    """Even the check that ends our own attempts at once only ends the watching."""
    bench = watching()
    bench.tell(events.WrongStart, "a", reason="another folder")
    assert "your training goes on" in bench.run("a").reason


def test_a_stop_that_came_before_the_watch_is_carried_out_as_an_end_of_watching() -> None:
    """Ordered while the watcher was started."""
    bench = Bench()
    bench.submit(train={"epochs": 10}, adopt="/home/a/runs/train", watch=WATCH)
    bench.tell(events.Prepared, "a", start="watch")
    bench.tell(events.StopAsked, "a", by="mei")
    bench.tell(events.Launched, "a", **bench.launched_facts())
    assert "your training goes on" in bench.run("a").reason


def test_a_held_run_that_is_cancelled_leaves_a_living_training_alone() -> None:
    """Held by a bug of ours while it lived: the cancel is no order to kill."""
    bench = watching()
    bench.tell(events.Poisoned, "a", error="bug")
    assert bench.run("a").phase is Phase.HELD
    bench.tell(events.CancelAsked, "a", by="mei")
    assert "your training goes on" in bench.run("a").reason


def test_a_death_that_nobody_saw_is_followed_by_a_resume() -> None:
    """Unfinished by its own files: tried again at once, as it had saved epochs."""
    bench = watching()
    ended(bench, detached=False)
    assert bench.run("a").phase is Phase.COOLING
    assert Prepare in {type(action) for action in bench.wait(1.0)}


def test_its_own_end_state_is_the_end_of_the_run() -> None:
    """Finished by its files: nothing is started after it."""
    bench = watching()
    ended(bench, detached=False, finished=True)
    assert bench.run("a").phase is Phase.SUCCEEDED


def test_a_watcher_that_left_without_an_order_is_no_failure() -> None:
    """Somebody else told it to leave: the run is prepared again, and finds the training alive."""
    bench = watching()
    ended(bench, detached=True)
    assert bench.run("a").failures == 0
    assert bench.run("a").attempts == 2
    assert bench.run("a").phase is Phase.PREPARING


def test_a_stop_that_is_taken_back_too_late_watches_again() -> None:
    """The watcher is gone already when the stop is taken back: that counts as no failure either."""
    bench = watching()
    bench.tell(events.StopAsked, "a", by="mei")
    bench.tell(events.ResumeAsked, "a", by="mei")
    ended(bench, detached=True)
    assert (bench.run("a").failures, bench.run("a").phase) == (0, Phase.PREPARING)


def test_a_reboot_is_followed_by_an_ordinary_start() -> None:
    """The process died with its boot; that is not counted."""
    bench = watching()
    bench.tell(events.DaemonStarted, pid=2, version="test", boot=SECOND_BOOT)
    ended(bench, detached=False)
    assert bench.run("a").failures == 0
    assert bench.run("a").phase in {Phase.QUEUED, Phase.PREPARING}
