"""Work on a disk that stops answering is left behind, once, and its place is not touched again until it comes back."""

from __future__ import annotations

import threading

import pytest

from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.backup.targets.watched import Going, watched


def test_an_answer_and_an_error_come_through() -> None:
    """Work that ends is waited for."""
    going = Going(threading.Event())
    assert watched("/a", lambda _: 5, going, 10) == 5
    with pytest.raises(ZeroDivisionError):
        watched("/a", lambda _: 1 // 0, going, 10)


def test_a_dead_place_costs_one_thread_and_then_none() -> None:
    """Whoever comes while it hangs is told at once; whoever was left behind gives up when it can; then all is well."""
    alive, gave_up = threading.Event(), threading.Event()

    def hang(going: Going) -> None:
        alive.wait()
        try:
            going.on()
        except TargetError:
            gave_up.set()
            raise

    with pytest.raises(TargetError, match="did not answer") as late:
        watched("/dead", hang, Going(threading.Event()), 0.1)
    assert late.value.cause == "timeout"
    before = threading.active_count()
    with pytest.raises(TargetError, match="still does not answer") as late:
        watched("/dead", hang, Going(threading.Event()), 0.1)
    assert threading.active_count() == before
    assert watched("/other", lambda _: "well", Going(threading.Event()), 10) == "well"
    alive.set()
    assert gave_up.wait(10)
    for thread in threading.enumerate():
        if thread.name == "backup":
            thread.join(10)
    assert watched("/dead", lambda _: "well", Going(threading.Event()), 10) == "well"


def test_work_that_gets_on_may_take_as_long_as_it_takes() -> None:
    """Only silence counts."""
    stop = threading.Event()

    def work(going: Going) -> int:
        for _ in range(12):
            threading.Event().wait(0.1)
            going.on()
        return 1

    assert watched("/slow", work, Going(stop), 0.6) == 1


def test_a_stop_ends_work_at_its_next_step() -> None:
    """With the cause that is nobody's fault."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(TargetError) as stopped:
        watched("/a", lambda going: going.on(), Going(stop), 10)
    assert stopped.value.cause == "stopped"
