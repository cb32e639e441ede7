"""Verified copies are ordered after each save, one at a time; a resume is compared; a wrong start is ended."""

from __future__ import annotations

import itertools

import pytest
from bench import Bench

from supervisor.core import actions, events
from supervisor.core.job import Restart
from supervisor.core.model import Phase


def keeps(ordered):
    """The copies among some orders."""
    return [action for action in ordered if isinstance(action, actions.Keep)]


def running(**job):
    """A bench with one running training."""
    bench = Bench()
    bench.submit("a", **job)
    bench.launch("a")
    return bench


def test_a_save_is_copied():
    """Each save leads to one order to copy it, with the fence token of the attempt that wrote it."""
    bench = running()
    (order,) = keeps(bench.tell(events.SaveSeen, "a", epoch=1))
    assert (order.attempt, order.token) == (1, bench.run("a").attempt.token)


def test_copies_do_not_pile_up():
    """Saves that come while a copy is under way lead to one more copy when that is done, not to one each."""
    bench = running()
    (first,) = keeps(bench.tell(events.SaveSeen, "a", epoch=1))
    assert [keeps(bench.tell(events.SaveSeen, "a", epoch=epoch)) for epoch in (2, 3, 4)] == [[], [], []]
    (again,) = keeps(bench.tell(events.Kept, "a", attempt=1, epoch=1, file="x", answers=first.key))
    assert again.key != first.key
    assert keeps(bench.tell(events.Kept, "a", attempt=1, epoch=4, file="y", answers=again.key)) == []
    assert bench.run("a").kept_epoch == 4


def test_the_last_save_is_not_waited_for():
    """A copy that the trainer left for us before it stripped the file is taken at once, whatever is under way."""
    bench = running()
    bench.tell(events.SaveSeen, "a", epoch=9)
    (order,) = keeps(bench.tell(events.SaveSeen, "a", epoch=10, path="/runs/a/attempts/1/final.pt"))
    assert order.path == "/runs/a/attempts/1/final.pt"


def test_a_copy_that_failed_is_no_copy():
    """What could not be verified is not counted, and the next save is copied again."""
    bench = running()
    (first,) = keeps(bench.tell(events.SaveSeen, "a", epoch=1))
    bench.tell(events.Kept, "a", attempt=1, answers=first.key, reason="torn")
    assert bench.run("a").kept_epoch == 0
    assert keeps(bench.tell(events.SaveSeen, "a", epoch=2))


def misses(bench, *faults):
    """What people are told while copies fail for these reasons, one after the other; empty means that one was made."""
    number = itertools.count(1)
    told = [
        bench.tell(events.Kept, "a", attempt=1, epoch=0 if fault else next(number), reason=f"is {fault}", fault=fault)
        for fault in faults
    ]
    return [[one.what for one in ordered if isinstance(one, actions.Announce)] for ordered in told]


@pytest.mark.parametrize("fault", ["torn", "no room", "disk"])
def test_copies_that_fail_are_told_once(fault):
    """Three failures in a row are told with the reason, the fourth is not; after a success it counts anew."""
    bench = running()
    assert misses(bench, fault, fault, fault, fault, fault) == [[], [], ["copies"], [], []]
    [told] = [one for one in bench.ordered if isinstance(one, actions.Announce) and one.what == "copies"]
    assert (told.severity, f"is {fault}" in told.text) == ("notice", True)
    assert misses(bench, "", fault, fault, "", fault, fault, fault) == [[], [], [], [], [], [], ["copies"]]


def test_a_poisoned_save_is_told_at_once():
    """NaN or Inf in a checkpoint is news at the first one, also where other failures were told before, and told once."""
    assert misses(running(), "poisoned", "poisoned", "torn", "torn", "poisoned") == [["copies"], [], [], [], []]
    assert misses(running(), "torn", "torn", "torn", "poisoned", "poisoned") == [[], [], ["copies"], ["copies"], []]


def test_what_is_nobodys_fault_is_not_told():
    """A late order, or a stripped file: the answer says why there is no copy, and that is no failure."""
    bench = running()
    for _ in range(5):
        assert bench.tell(events.Kept, "a", attempt=1, reason="belongs to another attempt") == ()


def test_what_an_attempt_left_is_copied_at_its_end():
    """A save that nobody saw before the crash is copied when nothing of the attempt is left."""
    bench = running()
    bench.tell(events.AttemptExited, "a", signal=9, ended_at=bench.now)
    assert keeps(bench.tell(events.AttemptCleared, "a"))


def test_the_first_epoch_after_a_resume_is_compared_once():
    """A fresh start has nothing to be compared with; a resume is compared at its first saved epoch, once."""
    bench = running()
    assert not any(isinstance(one, actions.Compare) for one in bench.save(3))
    bench.die("a", signal=9)
    bench.wait(30)
    bench.launch("a", start="resume", from_epoch=3)
    (order,) = [one for one in bench.save(4) if isinstance(one, actions.Compare)]
    assert (order.attempt, order.from_epoch) == (2, 3)
    assert not any(isinstance(one, actions.Compare) for one in bench.save(5))


def test_the_first_resume_of_an_adopted_run_is_compared_at_its_own_first_epoch():
    """What was saved before the run began is no save of its own: not compared with, not counted as progress."""
    bench = Bench()
    bench.submit("a", adopt="/old/run")
    bench.launch("a", start="resume", from_epoch=38)
    assert not any(isinstance(one, actions.Compare) for one in bench.save(38, epochs=60))
    assert [one for one in bench.save(39, epochs=60) if isinstance(one, actions.Compare)]
    other = Bench()
    other.submit("a", restart=Restart(no_progress=1), adopt="/old/run")
    other.launch("a", start="resume", from_epoch=38)
    other.save(38, epochs=60)
    other.die("a", code=1, saved_epoch=38)
    assert other.run("a").phase is Phase.FAILED


def test_a_resume_that_died_before_its_save_was_seen_is_compared_too():
    """What the examination finds counts as well: no resume that saved something goes without its comparison."""
    bench = running()
    bench.save(3)
    bench.die("a", signal=9)
    bench.wait(30)
    bench.launch("a", start="resume", from_epoch=3)
    bench.die("a", signal=9, saved_epoch=5)
    compares = [one for one in bench.ordered if isinstance(one, actions.Compare)]
    assert [(one.attempt, one.from_epoch) for one in compares] == [(2, 3)]


def test_a_jump_is_told_and_nothing_is_done():
    """A resume that did not go on smoothly is reported to people; the training goes on."""
    bench = running()
    ordered = bench.tell(events.Compared, "a", attempt=1, continuous=False, findings=("the loss tripled",))
    assert [one.what for one in ordered] == ["jump"]
    assert "the loss tripled" in ordered[0].text
    assert bench.run("a").phase is Phase.RUNNING
    assert bench.run("a").findings == ("the loss tripled",)


def test_a_smooth_resume_is_not_told():
    """No news is no message."""
    assert running().tell(events.Compared, "a", attempt=1, continuous=True) == ()


def test_a_wrong_start_is_ended_and_held():
    """A trainer that says itself that it starts from the wrong place is killed, and the run waits for a person."""
    bench = running()
    (order,) = bench.tell(events.WrongStart, "a", reason="it says epoch 0, expected 7")
    assert (order.how, bench.run("a").phase) == ("kill", Phase.STOPPING)
    bench.die("a", signal=9)
    assert bench.run("a").phase is Phase.HELD
    assert "expected 7" in bench.run("a").reason
    page = [one for one in bench.ordered if isinstance(one, actions.Announce) and one.what == "held"]
    assert page[-1].severity == "page"


def test_lost_epochs_are_told():
    """A resume from an older copy says how many saved epochs are lost with it."""
    bench = running()
    bench.save(7)
    bench.die("a", signal=9)
    bench.wait(30)
    bench.tell(
        events.Prepared, "a", start="resume", checkpoint="/runs/last.pt", from_epoch=5, notes=("last.pt is torn",)
    )
    assert "2 saved epochs are lost; last.pt is torn" in bench.run("a").reason
