"""Incidents: opened by a failure, kept up to date, closed when the training got further or the run is over."""

from __future__ import annotations

import pytest
from bench import Bench, edited, go_on
from causes import known, sign, signs

from supervisor.core import events
from supervisor.core.diagnosis.evidence import Evidence, Sign
from supervisor.core.incidents import KEPT
from supervisor.core.job import Restart
from supervisor.core.model import Phase


@pytest.fixture
def bench(monkeypatch):
    """A run that has saved three epochs, and a cause that is tried again, then held."""
    known(monkeypatch, "backoff*3", "hold")
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.save(3)
    return bench


def fails(bench, evidence=None, **found):
    """The attempt dies of the cause of this test."""
    bench.die(code=1, evidence=evidence or signs("of-this-test"), **found)


def again(bench):
    """The next attempt runs."""
    bench.wait(700.0)
    bench.launch(start="resume", from_epoch=bench.run().progress.saved_epoch)


def newest(bench):
    """The newest incident."""
    return bench.run().incidents[-1]


def test_an_incident_says_what_was_seen_what_it_means_and_what_is_done(bench):
    """The line and its place in the log, the words of the cause, the step, where the training stood, what it cost."""
    bench.wait(100.0)
    line = sign(line="RuntimeError: it broke", number=812)
    evidence = Evidence(signs=(line,), epoch=4, batch=17, phase="train")
    fails(bench, evidence, moved_at=bench.now - 40.0, seconds={"training": 60.0, "unsaved": 55.0})
    one = newest(bench)
    assert (one.number, one.attempt, one.cause, one.title) == (1, 1, "of-this-test", "title of of-this-test")
    assert (one.seen, one.line, one.place) == ("RuntimeError: it broke", 812, "epoch 4, batch 17")
    assert (one.means, one.fix, one.step) == ("means", "mend it", "backoff")
    assert (one.epoch, one.lost_s) == (3, 55.0)
    assert one.moved_at == bench.now - 40.0
    assert (one.seen_at, one.relaunched_at, one.closed_at, one.outcome) == (bench.now, None, None, "")
    assert one.done
    assert one.done in bench.run().reason


def test_without_news_of_its_last_move_the_end_counts(bench):
    """Nobody knows when it last moved: then when it ended."""
    ended_at = bench.now
    bench.tell(events.AttemptExited, "a", code=1, ended_at=ended_at)
    bench.wait(50.0)
    bench.tell(events.AttemptCleared, "a")
    bench.tell(events.Examined, "a", finished=False)
    assert (newest(bench).moved_at, newest(bench).seen_at) == (ended_at, ended_at + 50.0)


def test_it_is_told_when_the_next_attempt_runs(bench):
    """The first attempt after it, not a later one."""
    fails(bench)
    again(bench)
    at = bench.now
    assert newest(bench).relaunched_at == at
    fails(bench)
    again(bench)
    assert [one.relaunched_at for one in bench.run().incidents] == [at, bench.now]
    assert [one.number for one in bench.run().incidents] == [1, 2]


def test_verified_progress_closes_it(bench):
    """An epoch beyond the one where it failed is saved: all that were open are over. The same epoch is not enough."""
    fails(bench)
    again(bench)
    fails(bench)
    again(bench)
    bench.save(3)
    assert newest(bench).closed_at is None
    bench.wait(30.0)
    bench.save(4)
    assert {(one.closed_at, one.outcome) for one in bench.run().incidents} == {
        (bench.now, "recovered: epoch 4 is saved")
    }


def test_progress_that_only_the_examination_found_closes_it_too(bench):
    """The next attempt saved an epoch and died before anybody saw that: the first incident is over, the second open."""
    fails(bench)
    again(bench)
    fails(bench, saved_epoch=4)
    first, second = bench.run().incidents
    assert first.outcome == "recovered: epoch 4 is saved"
    assert (second.epoch, second.closed_at) == (4, None)


def test_what_is_over_stays_as_it_is(bench):
    """Later epochs and later ends change nothing of a closed incident."""
    fails(bench)
    again(bench)
    bench.save(4)
    before = newest(bench)
    bench.wait(10.0)
    bench.save(5)
    bench.finish()
    assert newest(bench) == before


@pytest.mark.parametrize(
    ("end", "phase", "outcome"),
    [("finish", Phase.SUCCEEDED, "the run succeeded"), ("cancel", Phase.CANCELLED, "cancelled"),
     ("fail", Phase.FAILED, "the run was given up")],
)  # fmt: skip
def test_the_end_of_the_run_closes_it(bench, end, phase, outcome):
    """Success, a cancel or the run's own end: nothing stays open, and why it was closed is told."""
    fails(bench)
    again(bench)
    if end == "finish":
        bench.finish()
    elif end == "cancel":
        bench.tell(events.CancelAsked, "a", by="ann")
        bench.die(code=75)
    else:
        bench.fail_for_good()
    assert bench.phase() is phase
    assert {one.outcome for one in bench.run().incidents} == {outcome}
    assert all(one.closed_at is not None for one in bench.run().incidents)


def test_a_held_run_keeps_its_incident_open(monkeypatch, bench):
    """Nobody has looked yet; when it was resumed and got further, it is over."""
    known(monkeypatch, "hold")
    fails(bench)
    assert (bench.phase(), newest(bench).closed_at) == (Phase.HELD, None)
    bench.tell(events.ResumeAsked, "a", by="ann")
    bench.launch(start="resume", from_epoch=3)
    bench.save(4)
    assert newest(bench).outcome == "recovered: epoch 4 is saved"


def test_only_so_many_are_kept(monkeypatch):
    """The newest fifty, with numbers that go on; older ones are in the journal."""
    known(monkeypatch, "backoff", "hold")
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    for epoch in range(1, KEPT + 11):
        bench.save(epoch, epochs=1000)
        fails(bench)
        again(bench)
    numbers = [one.number for one in bench.run().incidents]
    assert numbers == list(range(11, KEPT + 11))


@pytest.mark.parametrize("end", ["stop", "interruption"])
def test_what_is_no_failure_is_no_incident(bench, end):
    """A person's stop and a stop from outside."""
    if end == "stop":
        bench.tell(events.StopAsked, "a", by="ann", at_once=True)
        bench.die(signal=9)
    else:
        bench.die(code=75)
    assert bench.run().incidents == ()


def test_a_reboot_is_an_incident_and_no_failure(bench):
    """Work is lost and people want to know; nothing is counted against the training."""
    boot = type(bench.world.boot)("boot-2", 1)
    bench.tell(events.DaemonStarted, pid=2, version="x", boot=boot)
    bench.die()
    assert [(one.cause, one.step) for one in bench.run().incidents] == [("reboot", "retry")]
    assert (bench.run().failures, bench.run().spent) == (0, {})


def test_a_rank_that_dies_is_no_stop_from_outside(bench):
    """Rank 0 is asked to end by the launcher and says so (75): what the other rank died of counts all the same."""
    sign = Sign(rule="cuda-oom", cause="cuda-oom", line="[rank1]: torch.OutOfMemoryError: CUDA out of memory", rank=1)
    bench.die(code=75, evidence=Evidence(signs=(sign,), error="torch.OutOfMemoryError: CUDA out of memory"))
    assert [one.cause for one in bench.run().incidents] == ["cuda-oom"]
    assert bench.run().interruptions == 0


def test_a_failed_launch_is_an_incident(bench):
    """No process was made: that is told like any failure, and closed by what follows."""
    bench.submit("b", restart=Restart(no_progress=2))
    bench.tell(events.Prepared, "b", start="fresh")
    bench.tell(events.LaunchFailed, "b", reason="no such interpreter")
    one = bench.run("b").incidents[-1]
    assert (one.cause, one.seen, one.attempt) == ("not-launched", "no such interpreter", 1)
    bench.wait(700.0)
    go_on(bench, "b", finished=True)
    assert bench.run("b").incidents[-1].closed_at is not None


# ---- taking changes back
@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.terminal])
def test_an_undo_without_changes_changes_nothing(phase):
    """There is nothing to take back, in no phase."""
    bench = Bench()
    bench.bring_to(phase)
    before = bench.world
    bench.tell(events.UndoAsked, "a", by="ann")
    assert bench.world == before


def test_an_undo_works_wherever_the_run_is(monkeypatch):
    """At work, being stopped, held: the present attempt keeps what it has, the next one runs as the job file says."""
    known(monkeypatch, "workers*3", "hold")
    for order in (None, events.StopAsked):
        bench = Bench()
        bench.bring_to(Phase.RUNNING)
        fails(bench)
        again(bench)
        if order is not None:
            bench.tell(order, "a", by="ann", at_once=True)
        phase = bench.phase()
        bench.tell(events.UndoAsked, "a", by="ann")
        assert (bench.phase(), bench.run().changes) == (phase, ())


def test_an_edit_takes_changes_back(monkeypatch):
    """The owner has looked at the job: what it says now counts."""
    known(monkeypatch, "workers*3", "hold")
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    fails(bench)
    assert bench.run().changes
    job = bench.run().job
    new = edited(job, revision="new", train={**job.train, "workers": 6})
    bench.tell(events.JobFileSeen, path=job.file, data=b"y", revision="new", owner=0)
    bench.tell(events.JobAccepted, path=job.file, job=new)
    bench.wait(700.0)
    assert bench.phase() is Phase.PREPARING
    assert bench.run().changes == ()


def test_epochs_that_are_given_up_cost_as_well(bench):
    """The next attempt goes on from an older checkpoint: what lay between is work that is done again."""
    bench.tell(events.Progressed, "a", epoch=5, saved_epoch=5, epochs=10, epoch_s=60.0)
    fails(bench, seconds={"unsaved": 10.0})
    bench.wait(700.0)
    bench.launch(start="resume", from_epoch=3)
    assert newest(bench).lost_s == 10.0 + 2 * 60.0


def test_when_the_next_attempt_trained_is_told(bench):
    """The start is over when it is confirmed, or with the first progress; a later one changes nothing."""
    fails(bench)
    again(bench)
    bench.wait(30.0)
    bench.tell(events.StartConfirmed, "a", from_epoch=3)
    began_at = bench.now
    bench.wait(30.0)
    bench.tell(events.Progressed, "a", epoch=4, epochs=10, saved_epoch=3)
    assert newest(bench).began_at == began_at
