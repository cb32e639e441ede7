"""A training whose losses are no numbers: said once, nothing is ended, and its success is told with it."""

from __future__ import annotations

from bench import Bench

from supervisor.core import actions, events
from supervisor.core.model import Phase


def trains(bench, epoch, since=0):
    """An epoch is over; since then no loss is a number."""
    bench.tell(events.Progressed, "a", epoch=epoch, epochs=10, saved_epoch=epoch, diverged_from=since)


def test_a_diverged_training_is_told_once_and_left_alone():
    """A notice with what to do; the training runs on. Numbers that come back end it, and the next time is told again."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    for epoch, since in ((2, 0), (3, 2), (4, 2), (5, 0), (6, 0)):
        trains(bench, epoch, since)
    [told] = [one for one in bench.of(actions.Announce) if one.what == "diverged"]
    assert (told.severity, told.title) == ("notice", "a has diverged")
    assert told.text.startswith("Since epoch 2 all of its losses are NaN or infinite")
    assert "yolo-supervisor stop a" in told.todo
    assert bench.phase() is Phase.RUNNING
    assert bench.of(actions.Terminate) == []
    trains(bench, 8, 7)
    assert bench.said("a").count("diverged") == 2


def test_a_diverged_training_does_not_succeed_without_a_word():
    """It reached its end; that its losses are no numbers stands beside that."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    trains(bench, 5, 3)
    bench.finish()
    assert bench.phase() is Phase.SUCCEEDED
    assert bench.run().reason == "finished after 10 epochs; its losses are no numbers since epoch 3"
