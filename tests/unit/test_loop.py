"""The one thread that decides: nothing is done that is not on record, and nothing that was reported is lost."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from supervisor.core import actions, events, step
from supervisor.core.model import Boot, Job, Phase, Policy, World
from supervisor.journal import Journal, replay
from supervisor.loop import BATCH, JOURNAL_RETRY_S, Loop

BOOT = Boot("boot", 1)


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self):
        self.at = 1_000_000.0

    def now(self):
        """See Clock.now."""
        return self.at


class Record:
    """A real journal that can be broken, and that tells in which order things happened."""

    def __init__(self, log):
        self.journal = Journal.open(Path(":memory:"))
        self.error = None
        self.log = log

    def commit(self, entries):
        """See Journal.commit."""
        self.log.append("commit")
        if self.error is not None:
            raise self.error
        self.journal.commit(entries)


class Bench:
    """A loop with everything at hand."""

    def __init__(self):
        self.log = []
        self.clock = Clock()
        self.record = Record(self.log)
        self.done = []
        self.loop = Loop(World(), self.record, self.clock, self.dispatch)
        self.put(events.DaemonStarted, pid=1, version="x", boot=BOOT)
        self.put(events.Configured, policy=Policy(max_running=2, channels=("ops",)))
        self.turn()

    def dispatch(self, batch):
        """What the lanes would get."""
        self.log.append("dispatch")
        self.done += batch

    def put(self, kind, **fields):
        """Report a fact."""
        self.loop.put(kind(at=self.clock.at, **fields))

    def turn(self, seconds=0.0):
        """Let time pass, then let the loop do all that it can; how often it did something."""
        self.clock.at += seconds
        count = 0
        while self.loop.run_once(block=False):
            count += 1
            assert count < 100, "the loop does not come to rest"
        return count

    def submit(self, name="a", **fields):
        """A job file that is accepted."""
        path = f"/jobs/{name}.toml"
        job = Job(name=name, revision=f"{name}-1", file=path, train={"epochs": 3}, **fields)
        self.put(events.JobFileSeen, path=path, data=b"x", revision=job.revision, owner=0)
        self.put(events.JobAccepted, path=path, job=job)

    def phase(self, name="a"):
        """Where the run stands."""
        return self.loop.world.named(name).phase

    def running(self, name="a"):
        """Bring a run to RUNNING."""
        self.submit(name)
        self.put(events.Prepared, run=f"{name}@1", attempt=1, start="fresh")
        self.put(events.Launched, run=f"{name}@1", attempt=1, pid=9, shim_pid=8, boot=BOOT, started_at=self.clock.at)
        self.turn()


@pytest.fixture
def bench():
    """A loop that has started."""
    return Bench()


@pytest.fixture
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# ---- order
def test_actions_start_after_they_are_on_record(bench):
    """Commit first, then dispatch; what is dispatched is what the journal holds as pending."""
    bench.log.clear()
    bench.submit()
    bench.turn()
    assert bench.log == ["commit", "dispatch"]
    assert [one.key for one in bench.done] == [one.key for one in bench.record.journal.pending()]


def test_one_transaction_holds_what_waits(bench):
    """Many waiting events are one commit, up to BATCH."""
    bench.log.clear()
    for number in range(BATCH + 10):
        bench.put(events.JobFileSeen, path=f"/{number}", data=b"x", revision="r", owner=0)
    bench.turn()
    assert bench.log.count("commit") == 2
    assert len(bench.loop.world.files) == BATCH + 10


def test_what_changes_nothing_leaves_no_trace(bench):
    """News of an unknown run is not even written."""
    bench.log.clear()
    bench.put(events.AttemptCleared, run="ghost@1", attempt=1)
    assert bench.turn() == 1
    assert bench.log == []


def test_watchers_see_the_new_world(bench):
    """After each step the watchers are called, with the world swapped."""
    seen = []
    bench.loop.after_step.append(lambda: seen.append(bench.loop.world.named("a")))
    bench.submit()
    bench.turn()
    assert seen[-1] is bench.loop.world.named("a")


# ---- time
def test_deadlines_come_by_themselves(bench):
    """A backoff that is over starts the next attempt without any event from outside."""
    bench.running()
    for kind, fields in (
        (events.AttemptExited, {"code": 1}),
        (events.AttemptCleared, {}),
        (events.Examined, {"finished": False}),
    ):
        bench.put(kind, run="a@1", attempt=1, **fields)
    bench.turn()
    assert bench.phase() is Phase.COOLING
    bench.turn(700.0)
    assert bench.phase() is Phase.PREPARING


def test_a_start_time_comes_by_itself(bench):
    """`start_after` starts its run when the clock says so, and nothing else needs to happen."""
    bench.submit(start_after_at=bench.clock.at + 100.0)
    bench.turn()
    assert bench.turn(99.0) == 0
    assert bench.phase() is Phase.QUEUED
    bench.turn(1.0)
    assert bench.phase() is Phase.PREPARING


def test_a_start_gap_ends_by_itself(bench):
    """The second run starts when the gap is over, and nothing else needs to happen."""
    bench.put(events.Configured, policy=Policy(max_running=2, start_gap_s=7.1))
    bench.submit("a")
    bench.submit("b")
    bench.turn()
    assert bench.phase("b") is Phase.QUEUED
    bench.turn(7.1)
    assert bench.phase("b") is Phase.PREPARING


def test_a_start_time_comes_also_to_a_new_daemon(bench):
    """The time came while no daemon was there: the next one starts the run."""
    bench.submit(start_after_at=bench.clock.at + 100.0)
    bench.turn()
    bench.clock.at += 500.0
    bench.loop = Loop(bench.record.journal.load(), bench.record, bench.clock, bench.dispatch)
    bench.turn()
    assert bench.phase() is Phase.PREPARING


def test_a_start_time_that_came_while_nothing_could_be_written(bench, quiet):
    """A tick that could not be recorded is ticked again."""
    bench.submit(start_after_at=bench.clock.at + 100.0)
    bench.turn()
    bench.record.error = sqlite3.OperationalError("full")
    bench.turn(200.0)
    bench.record.error = None
    bench.turn(JOURNAL_RETRY_S)
    assert bench.phase() is Phase.PREPARING


def test_a_start_time_behind_a_full_house_does_not_spin(bench):
    """The time has come but there is no room: the loop rests until something happens."""
    bench.running("a")
    bench.running("b")
    bench.submit("c", start_after_at=bench.clock.at + 10.0)
    bench.turn()
    assert bench.turn(20.0) <= 2
    for _ in range(5):
        assert bench.turn(0.1) == 0
    assert bench.phase("c") is Phase.QUEUED


def test_it_waits_until_something_is_due(bench):
    """Without anything to do it sleeps, and an event wakes it at once."""
    waker = threading.Timer(
        0.05, bench.put, (events.JobFileSeen,), {"path": "/x", "data": b"", "revision": "r", "owner": 0}
    )
    waker.start()
    began = time.monotonic()
    assert bench.loop.run_once()
    assert time.monotonic() - began < 4.0
    assert "/x" in bench.loop.world.files
    waker.join()


def test_a_wake_up_alone_decides_nothing(bench):
    """`wake` only ends the wait."""
    bench.loop.wake()
    assert not bench.loop.run_once()


# ---- no record, no act
def test_nothing_is_done_while_nothing_can_be_written(bench, quiet):
    """A full disk: the world stands still, no action starts, and the reason is said."""
    before = bench.loop.world
    bench.done.clear()
    bench.record.error = sqlite3.OperationalError("database or disk is full")
    bench.submit()
    bench.turn()
    assert bench.loop.world is before
    assert bench.done == []
    assert "full" in bench.loop.degraded


@pytest.mark.parametrize(
    "error", [sqlite3.OperationalError("full"), sqlite3.DatabaseError("malformed"), OSError(5, "I/O")]
)
def test_nothing_that_was_reported_is_lost(bench, error, quiet):
    """What came in while nothing could be written is decided, in its order, when it works again."""
    bench.record.error = error
    bench.submit()
    bench.turn()
    bench.put(events.Prepared, run="a@1", attempt=1, start="fresh", answers="a@1/1/prepare")
    bench.turn(JOURNAL_RETRY_S)
    bench.put(events.CancelAsked, run="a@1", by="ann")
    bench.turn(1.0)
    assert bench.loop.world.live == {}
    bench.record.error = None
    bench.turn(JOURNAL_RETRY_S)
    assert bench.phase() is Phase.STARTING
    assert bench.loop.world.named("a").stop is not None
    assert bench.loop.degraded == ""
    assert [one.key for one in bench.done if isinstance(one, actions.Launch)] == ["a@1/1/launch-1"]


def test_writing_is_tried_every_few_seconds_only(bench, quiet):
    """With a deadline due all the time, the full disk is asked once per JOURNAL_RETRY_S, not without pause."""
    bench.running()
    bench.put(events.AttemptExited, run="a@1", attempt=1, code=1)
    bench.turn()
    bench.record.error = sqlite3.OperationalError("full")
    bench.log.clear()
    for _ in range(100):
        bench.turn(1.0)
    assert 5 <= bench.log.count("commit") <= 21


def test_an_event_that_no_journal_can_hold_harms_only_its_run(bench, quiet):
    """A name with broken characters cannot be written: its run is held, everything else in the batch happens."""
    bench.running("a")
    bench.running("b")
    bench.put(events.PriorityAsked, run="b@1", by="ann", priority=3)
    bench.put(events.Progressed, run="a@1", attempt=1, epoch=1, epochs=3, saved_epoch=1, losses={"\udcff": 1.0})
    bench.put(events.StopAsked, run="b@1", by="ann")
    bench.turn()
    assert (bench.phase("a"), bench.phase("b")) == (Phase.HELD, Phase.STOPPING)
    assert bench.loop.world.named("b").priority == 3
    assert bench.loop.degraded == ""
    assert bench.record.journal.load() == bench.loop.world


def test_a_file_whose_name_cannot_be_written_is_passed_over(bench, quiet):
    """Bytes that are no UTF-8 in a file name: the daemon goes on with the other files."""
    bench.put(events.JobFileSeen, path="/jobs/\udcff.toml", data=b"x", revision="r", owner=0)
    bench.submit()
    bench.turn()
    assert bench.phase() is Phase.PREPARING


# ---- bugs in deciding
def test_a_bug_holds_the_run_that_it_is_about(bench, monkeypatch, quiet):
    """`step` raises: the run is held, a person is told, the culprit is kept, and the other runs go on."""
    bench.running("a")
    bench.running("b")
    real = step.step

    def broken(world, event, now):
        if isinstance(event, events.Progressed) and event.run == "a@1":
            raise ZeroDivisionError("division by zero")
        return real(world, event, now)

    monkeypatch.setattr("supervisor.loop.step", broken)
    for run in ("a@1", "b@1"):
        bench.put(events.Progressed, run=run, attempt=1, epoch=1, epochs=3, saved_epoch=1)
    bench.turn()
    assert (bench.phase("a"), bench.phase("b")) == (Phase.HELD, Phase.RUNNING)
    assert bench.loop.world.named("b").progress.epoch == 1
    (row,) = [row for row in bench.record.journal.history("a@1") if row.kind == "Poisoned"]
    assert row.body["event"]["kind"] == "Progressed"
    assert "ZeroDivisionError" in bench.loop.world.named("a").reason
    pages = [one for one in bench.done if isinstance(one, actions.Announce) and one.severity == "page"]
    assert [page.run for page in pages] == ["a@1"]


def test_a_bug_about_time_holds_the_runs_that_were_due(bench, monkeypatch, quiet):
    """A deadline whose handling raises does not come again and again: the run is held."""
    bench.running("a")
    bench.put(events.AttemptExited, run="a@1", attempt=1, code=1)
    bench.turn()

    def broken(_turn, _run):
        raise KeyError("x")

    monkeypatch.setitem(step.deadlines.BY_PHASE, Phase.COOLING, broken)
    bench.turn(3600.0)
    assert bench.phase("a") is Phase.HELD


def test_a_bug_even_in_holding_is_survived(bench, monkeypatch, quiet):
    """Should holding fail too, the culprit is recorded, and the loop lives on."""

    def broken(_world, event, _now):
        raise RuntimeError(type(event).__name__)

    bench.running("a")
    with monkeypatch.context() as patch:
        patch.setattr("supervisor.loop.step", broken)
        bench.put(events.StopAsked, run="a@1", by="ann")
        bench.turn()
    assert bench.record.journal.history("a@1")[-1].kind == "Poisoned"
    bench.put(events.StopAsked, run="a@1", by="ann")
    bench.turn()
    assert bench.phase("a") is Phase.STOPPING


def test_the_live_world_is_the_loaded_and_the_replayed_one(bench):
    """After all of this the journal, its replay and the loop agree."""
    bench.running("a")
    bench.put(events.CancelAsked, run="a@1", by="ann", at_once=True)
    bench.turn(100.0)
    journal = bench.record.journal
    assert journal.load() == bench.loop.world == replay(list(journal.events()))


def test_puts_from_many_threads_are_all_taken(bench):
    """`put` never blocks and loses nothing."""

    def report(first):
        for number in range(200):
            bench.put(events.JobFileSeen, path=f"/{first}-{number}", data=b"x", revision="r", owner=0)

    threads = [threading.Thread(target=report, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with contextlib.suppress(AssertionError):
        bench.turn()
    assert len(bench.loop.world.files) == 800
