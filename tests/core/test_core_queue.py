"""Who starts next, and what each of the others waits for."""

from __future__ import annotations

import pytest
from bench import SECOND_BOOT, Bench
from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.model import Phase, Policy


def running(bench):
    """The names of the runs that got a place, in the order in which they got it."""
    return [action.job.name for action in bench.ordered if type(action).__name__ == "Prepare"]


def free(bench, name):
    """Let a run end for good."""
    bench.launch(name)
    bench.finish(name)


def test_priority_goes_before_age():
    """The highest priority starts first; of equals the one that was accepted first."""
    bench = Bench(max_running=1)
    for name, priority in (("first", 0), ("old", 0), ("young", 0), ("urgent", 5), ("later", -5)):
        bench.submit(name, priority=priority)
        bench.now += 1
    for _ in range(5):
        free(bench, running(bench)[-1])
    assert running(bench) == ["first", "urgent", "old", "young", "later"]


def test_a_new_priority_counts_when_places_are_given():
    """`priority` moves a waiting run ahead; a running one keeps its place."""
    bench = Bench(max_running=1)
    for name in ("one", "two", "three"):
        bench.submit(name)
        bench.now += 1
    bench.tell(events.PriorityAsked, "three", by="ann", priority=9)
    assert bench.phase("one") is Phase.PREPARING
    free(bench, "one")
    assert running(bench) == ["one", "three"]


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_no_more_than_max_running(limit):
    """No more runs than queue.max_running have a place; the others say that they wait for a slot."""
    bench = Bench(max_running=limit)
    for number in range(6):
        bench.submit(f"j{number}")
    assert len(running(bench)) == limit
    waiting = [run for run in bench.world.live.values() if run.phase is Phase.QUEUED]
    assert {run.waiting_for for run in waiting} == {"slot"}


@pytest.mark.parametrize(("gpu_count", "expected"), [(0, 1), (3, 3)])
def test_without_a_limit_the_gpus_are_the_limit(gpu_count, expected):
    """max_running = 0: as many runs as GPUs, and one on a machine without any."""
    bench = Bench(max_running=0, gpu_count=gpu_count)
    for number in range(5):
        bench.submit(f"j{number}")
    assert len(running(bench)) == expected


def test_an_owner_has_its_own_limit():
    """One owner's many jobs do not keep another owner out."""
    bench = Bench(max_running=3, max_running_per_owner=1)
    for name, owner in (("a1", 1), ("a2", 1), ("b1", 2)):
        bench.submit(name, owner=owner)
    assert running(bench) == ["a1", "b1"]
    assert bench.run("a2").waiting_for == "slot"


def test_gpus_are_counted_and_given_back():
    """Two runs never get the same GPU, and one that ends gives its own back."""
    bench = Bench(gpu_count=4)
    bench.submit("two", gpus=2)
    bench.submit("one", gpus=1)
    bench.submit("big", gpus=4)
    assert bench.run("two").attempt.gpus == (0, 1)
    assert bench.run("one").attempt.gpus == (2,)
    assert bench.run("big").waiting_for == "GPU"
    free(bench, "one")
    assert bench.phase("big") is Phase.QUEUED
    free(bench, "two")
    assert bench.run("big").attempt.gpus == (0, 1, 2, 3)


def test_a_run_that_waits_for_gpus_is_not_overtaken_on_gpus():
    """Smaller GPU jobs behind it wait, however many GPUs are free; jobs that need none pass."""
    bench = Bench(gpu_count=4)
    bench.submit("now", gpus=2)
    for name, gpus in (("big", 4), ("small", 1), ("cpu", 0)):
        bench.submit(name, gpus=gpus)
    assert bench.run("small").waiting_for == "GPU"
    assert bench.phase("cpu") is Phase.PREPARING
    free(bench, "now")
    assert bench.phase("big") is Phase.PREPARING
    assert bench.phase("small") is Phase.QUEUED


def test_a_run_that_wants_more_gpus_than_there_are_keeps_nobody_out():
    """A GPU was lost: the run that needs them all waits, and the others go on."""
    bench = Bench(gpu_count=1)
    bench.submit("big", gpus=2)
    bench.submit("small", gpus=1)
    assert bench.run("big").waiting_for == "GPU"
    assert bench.phase("small") is Phase.PREPARING


def test_gpus_of_an_attempt_that_may_live_are_not_given_away():
    """Until nothing of an attempt is left its GPUs are taken, also while the run is held or cools."""
    bench = Bench(gpu_count=1)
    bench.submit("a", gpus=1)
    bench.launch("a")
    bench.tell(events.Poisoned, "a", error="x")
    bench.submit("b", gpus=1)
    assert bench.phase("a") is Phase.HELD
    assert bench.run("b").waiting_for == "GPU"
    bench.tell(events.AttemptExited, "a", code=1)
    assert bench.phase("b") is Phase.QUEUED
    bench.tell(events.AttemptCleared, "a")
    assert bench.run("b").attempt.gpus == (0,)


def test_after_waits_for_success():
    """`after` is fulfilled by SUCCEEDED only, and says which run it waits for and where that stands."""
    bench = Bench()
    bench.submit("next", after=("base", "other"))
    assert bench.run("next").waiting_for == "other run: base (unknown)"
    bench.submit("base")
    bench.launch("base")
    assert bench.run("next").waiting_for == "other run: base (RUNNING)"
    bench.finish("base")
    assert bench.run("next").waiting_for == "other run: other (unknown)"
    bench.submit("other")
    bench.launch("other")
    bench.finish("other")
    assert bench.phase("next") is Phase.PREPARING


def test_after_a_failed_run_waits_for_its_retry():
    """A failed predecessor keeps the run waiting; its successful retry lets it go."""
    bench = Bench()
    bench.submit("next", after=("a",))
    bench.bring_to(Phase.FAILED)
    assert bench.run("next").waiting_for == "other run: a (FAILED)"
    bench.tell(events.RetryAsked, "a", by="ann")
    bench.launch("a", start="resume", from_epoch=1)
    bench.finish("a")
    assert bench.phase("next") is Phase.PREPARING


def test_start_after_waits_for_its_time():
    """`start_after` starts the run when its time has come, not before."""
    bench = Bench()
    bench.submit("a", start_after_at=bench.now + 100)
    assert bench.run("a").waiting_for == "time"
    bench.wait(99.9)
    assert bench.phase("a") is Phase.QUEUED
    bench.wait(0.1)
    assert bench.phase("a") is Phase.PREPARING


def test_start_gap_spreads_starts():
    """Between two starts lie at least queue.start_gap seconds, and each waiting run starts as soon as it may."""
    bench = Bench(start_gap_s=7.3)
    for name in ("a", "b", "c"):
        bench.submit(name)
    assert running(bench) == ["a"]
    assert bench.run("b").waiting_for == "time"
    bench.wait(7.3)
    assert running(bench) == ["a", "b"]
    bench.wait(7.3)
    assert running(bench) == ["a", "b", "c"]


def test_after_a_reboot_starts_are_spread():
    """All want to start after a boot: 30 s lie between two starts for ten minutes, then no longer."""
    bench = Bench()
    bench.tell(events.DaemonStarted, pid=2, version="x", boot=SECOND_BOOT)
    bench.submit("a")
    bench.submit("b")
    assert running(bench) == ["a"]
    bench.wait(30.0)
    assert running(bench) == ["a", "b"]
    bench.wait(600.0)
    bench.submit("c")
    bench.submit("d")
    assert running(bench) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("gap_s", [0.0, 5.0])
def test_a_clock_set_back_stops_no_start(gap_s):
    """The last start seems to lie in the future, because the clock was wrong: waiting runs start all the same."""
    bench = Bench(start_gap_s=gap_s)
    bench.submit("a")
    bench.now -= 7200.0
    bench.submit("b")
    assert bench.phase("b") is Phase.PREPARING


def test_draining_starts_nothing():
    """While draining nothing starts and every waiting run says so; afterwards everything goes on."""
    bench = Bench(max_running=2)
    bench.tell(events.DrainAsked, by="ann")
    for name in ("a", "b", "c"):
        bench.submit(name)
    assert running(bench) == []
    assert {run.waiting_for for run in bench.world.live.values()} == {"drain"}
    bench.tell(events.DrainAsked, by="ann", off=True)
    assert running(bench) == ["a", "b"]
    assert bench.run("c").waiting_for == "slot"


def test_a_drain_is_said_by_all_who_wait():
    """Also runs that waited for a slot before say that they now wait for the drain, and back."""
    bench = Bench(max_running=1)
    for name in ("a", "b", "c"):
        bench.submit(name)
    bench.tell(events.DrainAsked, by="ann")
    assert {bench.run(name).waiting_for for name in ("b", "c")} == {"drain"}


def test_a_new_daemon_is_not_draining():
    """A drain was for the old daemon, for its upgrade: the new one starts what waits."""
    bench = Bench()
    bench.tell(events.DrainAsked, by="ann")
    bench.submit("a")
    bench.tell(events.DaemonStarted, pid=2, version="x", boot=bench.world.boot)
    bench.tell(events.Configured, policy=bench.world.policy)
    assert bench.phase("a") is Phase.PREPARING


def test_more_room_is_used_at_once():
    """A reload that raises max_running starts what waits, in the same step."""
    bench = Bench(max_running=1)
    bench.submit("a")
    bench.submit("b")
    bench.tell(events.Configured, policy=replace(bench.world.policy, max_running=2))
    assert running(bench) == ["a", "b"]


def test_less_room_ends_nothing():
    """A reload that lowers max_running ends no training; it counts for the next starts."""
    bench = Bench(max_running=2)
    bench.submit("a")
    bench.submit("b")
    bench.submit("c")
    bench.tell(events.Configured, policy=Policy(max_running=1))
    free(bench, "a")
    assert bench.phase("b") is Phase.PREPARING
    assert bench.phase("c") is Phase.QUEUED


def test_only_so_many_may_wait():
    """queue.max_queued_per_owner: one job too many is refused with the reason; other owners are not."""
    bench = Bench(max_running=1, max_queued_per_owner=2)
    for name in ("a", "b", "c", "d"):
        bench.submit(name, owner=1)
    bench.submit("e", owner=2)
    assert "max_queued_per_owner = 2" in bench.world.files["/jobs/d.toml"].refused
    assert bench.world.named("d") is None
    assert bench.phase("e") is Phase.QUEUED
